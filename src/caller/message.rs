//! What passes between the daemon and its attestor: one packet each way, JSON, with descriptors beside it.
//!
//! Both ends are the same executable, so that the form may change with any release.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::app::facts::{Facts, FileFacts, Host, PinFacts, Seen};
use crate::sys::peer;

/// Longest packet, below what the kernel takes: some five hundred mapped files.
const LONGEST: usize = 192 << 10;

#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    /// Whoever is on the other end of the socket beside this.
    Pin,
    /// The executable of a pinned process, read.
    Executable(u64),
    /// Everything, for an app that is registered at this path.
    Check { process: u64, path: PathBuf, unit: bool },
    /// A connection ended. Has no answer.
    Forget(u64),
}

#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    /// The first words, unasked.
    Host(Host),
    /// The number that it is held under, and beside it its pidfd and, where there is one, its memory map.
    Pinned(Option<u64>, PinFacts),
    Executable(Seen<FileFacts>),
    Facts(Box<Facts>),
    /// It could not be done.
    Failed(String),
}

/// Sends a packet.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    beside: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    if bytes.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the packet is too long"));
    }
    peer::send(socket, &bytes, beside)
}

/// Waits for a packet; `None` when the other side has gone.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    buffer.resize(LONGEST, 0);
    let chunk = peer::receive_waiting(socket, buffer)?;
    if chunk.length == 0 {
        return Ok(None);
    }
    if chunk.truncated {
        return Err(io::Error::other("a packet was cut"));
    }
    let message = serde_json::from_slice(buffer.get(..chunk.length).unwrap_or_default());
    Ok(Some((message.map_err(io::Error::other)?, chunk.descriptors)))
}
