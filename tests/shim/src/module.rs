//! The wrapped module: loaded once, never unloaded.

use std::env;
use std::ffi::{CStr, CString};
use std::mem::transmute;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::OnceLock;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_OK};

use crate::calls;

type GetFunctionList = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;

static REAL: OnceLock<Option<CK_FUNCTION_LIST>> = OnceLock::new();
static OURS: OnceLock<Option<CK_FUNCTION_LIST>> = OnceLock::new();

/// The wrapped module's functions.
pub fn real() -> Option<&'static CK_FUNCTION_LIST> {
    let load = || load().inspect_err(|why| eprintln!("fault-shim: SHIM_MODULE: {why}")).ok();
    REAL.get_or_init(load).as_ref()
}

/// Our functions, in front of those.
pub fn ours() -> Option<&'static CK_FUNCTION_LIST> {
    OURS.get_or_init(|| real().map(calls::list)).as_ref()
}

fn load() -> Result<CK_FUNCTION_LIST, String> {
    let path = env::var_os("SHIM_MODULE").ok_or("not set")?;
    let path = CString::new(path.as_bytes()).map_err(|why| why.to_string())?;
    // SAFETY: the path is a C string; the module's own initialisers are what the test asked for.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(dl_error());
    }
    // SAFETY: the handle came from dlopen and is never closed.
    let symbol = unsafe { libc::dlsym(handle, c"C_GetFunctionList".as_ptr()) };
    if symbol.is_null() {
        return Err(dl_error());
    }
    // SAFETY: PKCS#11 fixes the type of the function with this name.
    let get = unsafe { transmute::<*mut libc::c_void, GetFunctionList>(symbol) };
    let mut list = ptr::null_mut();
    // SAFETY: `list` is writable for one pointer.
    let rv = unsafe { get(&raw mut list) };
    if rv != CKR_OK || list.is_null() {
        return Err(format!("C_GetFunctionList: {rv:#x}"));
    }
    // SAFETY: the module answered CKR_OK and so gave a list that lives as long as the module.
    Ok(unsafe { *list })
}

fn dl_error() -> String {
    // SAFETY: takes nothing; the text is valid until the next dl call of this thread.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "cannot be loaded".to_owned();
    }
    // SAFETY: not null, so a C string by dlerror's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
