//! PURE. The client's half of the protocol as values: requests, the nonce, replies, errors. No socket, no clock.
#![forbid(unsafe_code)]

pub mod ask;
pub mod error;
pub mod payment;
pub mod replies;
pub mod session;
