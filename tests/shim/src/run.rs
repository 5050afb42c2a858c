//! One call: the faults before it, the wrapped module, the faults after it.

use std::process;
use std::ptr;
use std::slice;
use std::thread;
use std::time::Duration;

use cryptoki_sys::{CK_ATTRIBUTE_TYPE, CK_RV, CKR_OK};

use crate::calls::{Function, Out};
use crate::counts::note;
use crate::rule::Act;
use crate::state::{self, Plan, Step};

/// How often a hung call looks whether its rule is gone.
const HANG_STEP: Duration = Duration::from_millis(5);

pub fn run(function: Function, on: u64, out: Out, real: &dyn Fn() -> CK_RV) -> CK_RV {
    let (plan, followed, noted) = {
        let current = state::current();
        let followed = followed(function);
        let noted =
            followed || matches!(function, Function::C_Initialize | Function::C_Login | Function::C_Logout);
        if current.is_none() && !noted {
            return real();
        }
        let mut state = current.unwrap_or_else(state::lock);
        let plan = state.plan(function, on, out);
        if function == Function::C_OpenSession {
            state.opening();
        }
        (plan, followed, noted)
    };
    let mut call = Call { function, out, noted, how: "real" };
    let (rv, reached) = call.make(&plan, real);
    if followed {
        state::lock().settle(function, on, out, reached);
    }
    if call.noted {
        note(function, &format!("{rv:#x}"), call.how);
    }
    rv
}

/// The functions that open and close sessions.
fn followed(function: Function) -> bool {
    matches!(
        function,
        Function::C_Finalize
            | Function::C_OpenSession
            | Function::C_CloseSession
            | Function::C_CloseAllSessions
    )
}

struct Call {
    function: Function,
    out: Out,
    noted: bool,
    how: &'static str,
}

impl Call {
    /// What our caller gets, and what the wrapped module said if it was reached.
    fn make(&mut self, plan: &Plan, real: &dyn Fn() -> CK_RV) -> (CK_RV, Option<CK_RV>) {
        for step in &plan.before {
            if let Some(rv) = self.step(step, CKR_OK) {
                self.how = "fault";
                return (rv, None);
            }
        }
        let rv = real();
        for step in &plan.after {
            if let Some(other) = self.step(step, rv) {
                self.how = "late";
                return (other, Some(rv));
            }
        }
        (rv, Some(rv))
    }

    /// One step of a fault; gives the answer if the call ends here.
    fn step(&mut self, step: &Step, rv: CK_RV) -> Option<CK_RV> {
        match step {
            Step::Note => self.noted = true,
            Step::Wait(time) => thread::sleep(*time),
            Step::Hang(text, nth) => {
                note(self.function, "-", "hang");
                while state::current().is_some_and(|state| state.holds(text, *nth)) {
                    thread::sleep(HANG_STEP);
                }
            }
            Step::Act(Act::Return(rv)) => return Some(*rv),
            Step::Act(Act::Crash) => {
                note(self.function, "-", "crash");
                process::abort();
            }
            Step::Act(Act::Die(code)) => {
                note(self.function, "-", "die");
                // SAFETY: takes a number and does not return; no handler and no destructor is to run.
                unsafe { libc::_exit(*code) };
            }
            Step::Act(act) if rv == CKR_OK => {
                if change(self.out, *act) {
                    self.how = "changed";
                }
            }
            Step::Act(_) => {}
        }
        None
    }
}

/// Changes what a successful call gave back; says whether there was something to change.
fn change(out: Out, act: Act) -> bool {
    match (act, out) {
        (Act::Corrupt { at, .. }, Out::Buffer(bytes, len)) if !len.is_null() => {
            // SAFETY: not null, and the call just wrote the length there.
            let len = unsafe { *len };
            // SAFETY: after CKR_OK the buffer, if any, holds that many bytes.
            unsafe { flip(bytes, len, at) }
        }
        (Act::Corrupt { at, .. }, Out::Bytes(bytes, len)) => {
            // SAFETY: after CKR_OK the caller's buffer holds the bytes that it asked for.
            unsafe { flip(bytes, len, at) }
        }
        (Act::Corrupt { at, attribute }, Out::Template(template, count)) => {
            // SAFETY: after CKR_OK the template is an array of that many attributes, each as long as it says.
            unsafe { flip_values(template, count, at, attribute) }
        }
        (Act::Empty, Out::Count(many) | Out::Buffer(_, many)) if !many.is_null() => {
            // SAFETY: not null, and the caller owns it.
            unsafe { *many = 0 };
            true
        }
        (Act::Flags { set, clear }, Out::Flags(flags)) if !flags.is_null() => {
            // SAFETY: the flags field of the caller's struct, which need not be aligned for us.
            unsafe { ptr::write_unaligned(flags, (ptr::read_unaligned(flags) | set) & !clear) };
            true
        }
        _ => false,
    }
}

/// Flips one bit of one byte: that at `at`, else the last.
///
/// # Safety
///
/// `bytes` is null or holds `len` bytes.
unsafe fn flip(bytes: *mut u8, len: u64, at: Option<usize>) -> bool {
    let Some(len) = usize::try_from(len).ok().filter(|_| !bytes.is_null()) else { return false };
    // SAFETY: not null, and by contract that long; nobody else writes it during the call.
    let bytes = unsafe { slice::from_raw_parts_mut(bytes, len) };
    let byte = match at {
        Some(at) => bytes.get_mut(at),
        None => bytes.last_mut(),
    };
    byte.map(|byte| *byte ^= 1).is_some()
}

/// Flips a byte of each value of the given type, else of each that is longer than a number.
///
/// # Safety
///
/// `template` is null or an array of `count` attributes whose values are null or as long as they say.
unsafe fn flip_values(
    template: *mut cryptoki_sys::CK_ATTRIBUTE,
    count: u64,
    at: Option<usize>,
    only: Option<CK_ATTRIBUTE_TYPE>,
) -> bool {
    let Some(count) = usize::try_from(count).ok().filter(|_| !template.is_null()) else { return false };
    // SAFETY: by contract an array of that many; the call that filled it is over.
    let attributes = unsafe { slice::from_raw_parts(template, count) };
    let mut changed = false;
    for attribute in attributes {
        let wanted = only.map_or(attribute.ulValueLen > 8, |only| attribute.type_ == only);
        if wanted && attribute.ulValueLen != u64::MAX {
            // SAFETY: by contract null or that long.
            changed |= unsafe { flip(attribute.pValue.cast(), attribute.ulValueLen, at) };
        }
    }
    changed
}
