//! PURE. Values in, values out: no clock, file, socket, thread, async, randomness or log.
//!
//! Time and random bytes are arguments. `tests/tidy.rs` holds this.
#![forbid(unsafe_code)]

pub mod app;
pub mod approval;
pub mod backup;
pub mod device;
pub mod elapsed;
pub mod key;
pub mod log;
pub mod login;
mod multiples;
pub mod order;
pub mod payment;
pub mod policy;
pub mod proof;
pub mod random;
pub mod units;
pub mod user;
pub mod verify;
