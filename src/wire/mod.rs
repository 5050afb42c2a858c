//! PURE. Frames and JSON-RPC 2.0: bytes of strangers in, typed requests out.
//!
//! Decides where one message ends and the next begins, and what a request is. Limits hold before anything is
//! allocated for a message. Never executes anything.
#![forbid(unsafe_code)]

pub mod frame;
pub mod rpc;
