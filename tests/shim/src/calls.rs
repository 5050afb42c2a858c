//! Every function of the v2.40 list but `C_GetFunctionList`, in front of the wrapped module's.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use cryptoki_sys::*;

use crate::{C_GetFunctionList, module, run};

/// What a call gives back, for the faults that change it.
#[derive(Clone, Copy)]
pub enum Out {
    Nothing,
    /// Bytes and their length; null bytes ask for the length alone.
    Buffer(*mut CK_BYTE, *mut CK_ULONG),
    Bytes(*mut CK_BYTE, CK_ULONG),
    Count(*mut CK_ULONG),
    Flags(*mut CK_FLAGS),
    Session(*mut CK_SESSION_HANDLE),
    Template(*mut CK_ATTRIBUTE, CK_ULONG),
}

impl Out {
    /// Whether the call asks how long the answer would be, and not for the answer.
    pub fn is_query(self) -> bool {
        match self {
            Self::Buffer(bytes, _) => bytes.is_null(),
            Self::Template(first, count) => {
                // SAFETY: not null and not empty, so by PKCS#11 the first of an array of attributes.
                count > 0 && !first.is_null() && unsafe { (*first).pValue.is_null() }
            }
            _ => false,
        }
    }
}

/// The flags of an info struct, if there is one.
macro_rules! flags_of {
    ($info:ident) => {
        if $info.is_null() {
            Out::Flags(ptr::null_mut())
        } else {
            // SAFETY: not null, so by PKCS#11 a whole struct; only the address of its field is taken.
            Out::Flags(unsafe { &raw mut (*$info).flags })
        }
    };
}

/// `C_Name[slot or session that it is about, what it gives back](arguments);`
macro_rules! forward {
    ($($name:ident[$on:expr, $out:expr]($($arg:ident: $kind:ty),*);)*) => {
        /// A forwarded function.
        #[allow(non_camel_case_types, clippy::enum_variant_names, reason = "the names of PKCS#11")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Function { $($name),* }

        impl Function {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Its entry for `Out`, as text.
            pub fn gives(self) -> &'static str {
                match self { $(Self::$name => stringify!($out)),* }
            }
        }

        $(
            #[allow(non_snake_case, clippy::too_many_arguments, reason = "the name and form of PKCS#11")]
            unsafe extern "C" fn $name($($arg: $kind),*) -> CK_RV {
                let Some(real) = module::real().and_then(|list| list.$name) else {
                    return CKR_FUNCTION_NOT_SUPPORTED;
                };
                // SAFETY: our caller gave these arguments under the contract of the same function.
                guarded(Function::$name, $on, $out, &|| unsafe { real($($arg),*) })
            }
        )*

        /// Our list; what the wrapped module lacks stays absent.
        pub fn list(real: &CK_FUNCTION_LIST) -> CK_FUNCTION_LIST {
            CK_FUNCTION_LIST {
                version: real.version,
                C_GetFunctionList: Some(C_GetFunctionList),
                $($name: real.$name.map(|_| $name as unsafe extern "C" fn($($kind),*) -> CK_RV)),*
            }
        }
    };
}

fn guarded(function: Function, on: CK_ULONG, out: Out, real: &dyn Fn() -> CK_RV) -> CK_RV {
    catch_unwind(AssertUnwindSafe(|| run::run(function, on, out, real))).unwrap_or(CKR_GENERAL_ERROR)
}

forward! {
    C_Initialize[0, Out::Nothing](args: *mut c_void);
    C_Finalize[0, Out::Nothing](reserved: *mut c_void);
    C_GetInfo[0, Out::Nothing](info: *mut CK_INFO);
    C_GetSlotList[0, Out::Count(count)](present: CK_BBOOL, slots: *mut CK_SLOT_ID,
        count: *mut CK_ULONG);
    C_GetSlotInfo[slot, flags_of!(info)](slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo[slot, flags_of!(info)](slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList[slot, Out::Count(count)](slot: CK_SLOT_ID,
        mechanisms: *mut CK_MECHANISM_TYPE, count: *mut CK_ULONG);
    C_GetMechanismInfo[slot, flags_of!(info)](slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE,
        info: *mut CK_MECHANISM_INFO);
    C_InitToken[slot, Out::Nothing](slot: CK_SLOT_ID, pin: *mut CK_BYTE, pin_len: CK_ULONG,
        label: *mut CK_BYTE);
    C_InitPIN[session, Out::Nothing](session: CK_SESSION_HANDLE, pin: *mut CK_BYTE,
        pin_len: CK_ULONG);
    C_SetPIN[session, Out::Nothing](session: CK_SESSION_HANDLE, old: *mut CK_BYTE,
        old_len: CK_ULONG, new: *mut CK_BYTE, new_len: CK_ULONG);
    C_OpenSession[slot, Out::Session(session)](slot: CK_SLOT_ID, flags: CK_FLAGS,
        application: *mut c_void, notify: CK_NOTIFY, session: *mut CK_SESSION_HANDLE);
    C_CloseSession[session, Out::Nothing](session: CK_SESSION_HANDLE);
    C_CloseAllSessions[slot, Out::Nothing](slot: CK_SLOT_ID);
    C_GetSessionInfo[session, flags_of!(info)](session: CK_SESSION_HANDLE,
        info: *mut CK_SESSION_INFO);
    C_GetOperationState[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_SetOperationState[session, Out::Nothing](session: CK_SESSION_HANDLE, state: *mut CK_BYTE,
        state_len: CK_ULONG, encryption: CK_OBJECT_HANDLE, authentication: CK_OBJECT_HANDLE);
    C_Login[session, Out::Nothing](session: CK_SESSION_HANDLE, user: CK_USER_TYPE,
        pin: *mut CK_BYTE, pin_len: CK_ULONG);
    C_Logout[session, Out::Nothing](session: CK_SESSION_HANDLE);
    C_CreateObject[session, Out::Nothing](session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE,
        count: CK_ULONG, object: *mut CK_OBJECT_HANDLE);
    C_CopyObject[session, Out::Nothing](session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, copy: *mut CK_OBJECT_HANDLE);
    C_DestroyObject[session, Out::Nothing](session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE);
    C_GetObjectSize[session, Out::Nothing](session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
        size: *mut CK_ULONG);
    C_GetAttributeValue[session, Out::Template(template, count)](session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_SetAttributeValue[session, Out::Nothing](session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit[session, Out::Nothing](session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects[session, Out::Count(count)](session: CK_SESSION_HANDLE,
        objects: *mut CK_OBJECT_HANDLE, max: CK_ULONG, count: *mut CK_ULONG);
    C_FindObjectsFinal[session, Out::Nothing](session: CK_SESSION_HANDLE);
    C_EncryptInit[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE);
    C_Encrypt[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, data: *mut CK_BYTE,
        data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_EncryptUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_EncryptFinal[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptInit[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE);
    C_Decrypt[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, data: *mut CK_BYTE,
        data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptFinal[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DigestInit[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM);
    C_Digest[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, data: *mut CK_BYTE,
        data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DigestUpdate[session, Out::Nothing](session: CK_SESSION_HANDLE, part: *mut CK_BYTE,
        part_len: CK_ULONG);
    C_DigestKey[session, Out::Nothing](session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE);
    C_DigestFinal[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_SignInit[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE);
    C_Sign[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, data: *mut CK_BYTE,
        data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_SignUpdate[session, Out::Nothing](session: CK_SESSION_HANDLE, part: *mut CK_BYTE,
        part_len: CK_ULONG);
    C_SignFinal[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_SignRecoverInit[session, Out::Nothing](session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_SignRecover[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        data: *mut CK_BYTE, data_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_VerifyInit[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        key: CK_OBJECT_HANDLE);
    C_Verify[session, Out::Nothing](session: CK_SESSION_HANDLE, data: *mut CK_BYTE,
        data_len: CK_ULONG, signature: *mut CK_BYTE, signature_len: CK_ULONG);
    C_VerifyUpdate[session, Out::Nothing](session: CK_SESSION_HANDLE, part: *mut CK_BYTE,
        part_len: CK_ULONG);
    C_VerifyFinal[session, Out::Nothing](session: CK_SESSION_HANDLE, signature: *mut CK_BYTE,
        signature_len: CK_ULONG);
    C_VerifyRecoverInit[session, Out::Nothing](session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM, key: CK_OBJECT_HANDLE);
    C_VerifyRecover[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        signature: *mut CK_BYTE, signature_len: CK_ULONG, out: *mut CK_BYTE,
        out_len: *mut CK_ULONG);
    C_DigestEncryptUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptDigestUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_SignEncryptUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_DecryptVerifyUpdate[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        part: *mut CK_BYTE, part_len: CK_ULONG, out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_GenerateKey[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_GenerateKeyPair[session, Out::Nothing](session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_len: CK_ULONG,
        private: *mut CK_ATTRIBUTE, private_len: CK_ULONG, public_key: *mut CK_OBJECT_HANDLE,
        private_key: *mut CK_OBJECT_HANDLE);
    C_WrapKey[session, Out::Buffer(out, out_len)](session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM, wrapping: CK_OBJECT_HANDLE, key: CK_OBJECT_HANDLE,
        out: *mut CK_BYTE, out_len: *mut CK_ULONG);
    C_UnwrapKey[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        unwrapping: CK_OBJECT_HANDLE, wrapped: *mut CK_BYTE, wrapped_len: CK_ULONG,
        template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut CK_OBJECT_HANDLE);
    C_DeriveKey[session, Out::Nothing](session: CK_SESSION_HANDLE, mechanism: *mut CK_MECHANISM,
        base: CK_OBJECT_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG,
        key: *mut CK_OBJECT_HANDLE);
    C_SeedRandom[session, Out::Nothing](session: CK_SESSION_HANDLE, seed: *mut CK_BYTE,
        seed_len: CK_ULONG);
    C_GenerateRandom[session, Out::Bytes(random, random_len)](session: CK_SESSION_HANDLE,
        random: *mut CK_BYTE, random_len: CK_ULONG);
    C_GetFunctionStatus[session, Out::Nothing](session: CK_SESSION_HANDLE);
    C_CancelFunction[session, Out::Nothing](session: CK_SESSION_HANDLE);
    C_WaitForSlotEvent[0, Out::Nothing](flags: CK_FLAGS, slot: *mut CK_SLOT_ID,
        reserved: *mut c_void);
}
