//! The use cases. Composes the edges; each file reads like its paragraph in SECURITY.md.
#![forbid(unsafe_code)]

pub mod adopt;
mod anchor;
mod announce;
pub mod approvals;
pub mod apps;
pub mod backup;
pub mod balance;
mod carriers;
pub mod ceremony;
pub mod changes;
pub mod checkup;
pub mod destroy;
mod detail;
pub mod device;
mod file;
pub mod house;
mod http;
pub mod import;
pub mod inactivate;
mod incident;
pub mod init;
pub mod keys;
mod latch;
mod lease;
pub mod ledger;
pub mod lifecycle;
pub mod metrics;
pub mod operate;
pub mod outbox;
mod path;
pub mod pending;
pub mod pin;
mod reactivate;
pub mod recover;
mod registry;
mod replay;
pub mod report;
pub mod rules;
pub mod seal;
pub mod sign;
mod sink;
pub mod start;
pub mod user;
mod vault;
mod wipe;
mod witness;
pub mod witnessing;

pub use house::{House, Key, Keys, Rules, store_code, token_refusal};

pub use crate::caller::{Eyes, Peer, Tie, executable_digest};
/// What the sockets read, with its sender.
pub use crate::sys::peer::{Chunk, receive, stamp_messages};
/// What listeners and commands need of the host.
pub use crate::sys::{
    adopt_descriptor, change_group, effective_uid, file_system_magic, harden_process, read_hidden_line,
};
