//! The audit log as data: RFC 6962 tree, entries, C2SP checkpoints, static export, offline auditor.
#![forbid(unsafe_code)]

pub mod audit;
pub mod cbor;
pub mod checkpoint;
pub mod copies;
pub mod entry;
pub mod export;
pub mod format;
mod make;
pub mod mention;
pub mod merkle;
pub mod orders;
pub mod proof;
pub mod user;
pub mod witness;
