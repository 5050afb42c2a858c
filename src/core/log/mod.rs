//! The audit log as data: RFC 6962 tree, entries, C2SP checkpoints, static export, offline verifier.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod entry;
pub mod export;
pub mod merkle;
pub mod user;
pub mod verify;
