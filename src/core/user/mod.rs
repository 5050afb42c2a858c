//! The user: who holds which keys, what is asked of them for how much, and when they are taken to be gone. [clause 8.2.3]
//!
//! Pure: the time, what was spent and what was typed are arguments.
#![forbid(unsafe_code)]

pub mod document;
pub mod duties;
pub mod fido2;
pub mod session;
pub mod step;
pub mod text;
pub mod throttle;
pub mod verifier;

pub use document::{User, Users, UsersError};
pub use fido2::Credential;
pub use session::Ended;
pub use step::{Claim, Step};
pub use text::{CONFIRM, UserText};
pub use throttle::{Gate, gate};
pub use verifier::{Derived, Verifier};
