//! A PKCS#11 module for tests: forwards every call to the module named by `SHIM_MODULE` and injects the faults that
//! the file named by `SHIM_CONTROL` asks for. The grammar is in README.md.

mod calls;
mod counts;
mod module;
mod names;
mod rule;
mod run;
mod state;

use std::panic::catch_unwind;

use cryptoki_sys::{CK_FUNCTION_LIST, CK_RV, CKR_ARGUMENTS_BAD, CKR_GENERAL_ERROR, CKR_OK};

/// The one symbol of the module; everything else is reached through the list.
///
/// # Safety
///
/// `list` is null or points to writable memory for one pointer, as PKCS#11 demands.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "PKCS#11 names it so")]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    match catch_unwind(module::ours) {
        Ok(Some(ours)) => {
            // SAFETY: not null, and the caller owns it. The list itself is never written after it is made.
            unsafe { *list = std::ptr::from_ref(ours).cast_mut() };
            CKR_OK
        }
        Ok(None) | Err(_) => CKR_GENERAL_ERROR,
    }
}
