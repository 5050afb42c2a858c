//! Requests that were permitted and have no outcome yet. The log says which they are; this is the same, in memory.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::EntryKind;
use crate::core::proof::RequestId;
use crate::core::units::Name;

/// The row of `nonces` that waits for a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) key: Name,
    pub(super) chain: i64,
    pub(super) nonce: i64,
}

/// No such request is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotOpen;

enum Change {
    Began(RequestId),
    Ended(RequestId, Option<Slot>),
}

/// Open requests, and what the running transaction changed in them.
#[derive(Default)]
pub(super) struct OpenRequests {
    open: HashMap<RequestId, Option<Slot>>,
    changes: Vec<Change>,
}

impl OpenRequests {
    /// A request was permitted.
    pub(super) fn begin(&mut self, request: RequestId, slot: Option<Slot>) {
        self.open.insert(request, slot);
        self.changes.push(Change::Began(request));
    }

    /// A request has its outcome.
    pub(super) fn end(&mut self, request: RequestId) -> Result<Option<Slot>, NotOpen> {
        let slot = self.open.remove(&request).ok_or(NotOpen)?;
        self.changes.push(Change::Ended(request, slot.clone()));
        Ok(slot)
    }

    /// The transaction was committed.
    pub(super) fn keep(&mut self) {
        self.changes.clear();
    }

    /// The transaction did not happen.
    pub(super) fn undo(&mut self) {
        while let Some(change) = self.changes.pop() {
            match change {
                Change::Began(request) => {
                    self.open.remove(&request);
                }
                Change::Ended(request, slot) => {
                    self.open.insert(request, slot);
                }
            }
        }
    }

    /// Follows an entry of the log that is read again at the start.
    pub(super) fn replay(&mut self, entry: &EntryKind) {
        match entry {
            EntryKind::Intent { request, .. } => {
                if let Some(request) = RequestId::parse(request) {
                    self.open.insert(request, None);
                }
            }
            EntryKind::Result { request, .. }
            | EntryKind::Failed { request, .. }
            | EntryKind::InDoubt { request } => {
                if let Some(request) = RequestId::parse(request) {
                    self.open.remove(&request);
                }
            }
            _ => {}
        }
    }

    /// All that are open, in order.
    pub(super) fn all(&self) -> Vec<RequestId> {
        let mut all: Vec<RequestId> = self.open.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// What [`Self::from_bytes`] reads.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.all().iter().flat_map(|r| r.0.to_be_bytes()).collect()
    }

    /// `None` when they are no list of requests.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let chunks = bytes.chunks_exact(16);
        if !chunks.remainder().is_empty() {
            return None;
        }
        let open = chunks
            .filter_map(|c| c.try_into().ok())
            .map(|c| (RequestId(u128::from_be_bytes(c)), None))
            .collect();
        Some(Self { open, changes: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_commit_changed_is_put_back() {
        let slot = Slot { key: Name::parse("k").unwrap(), chain: 1, nonce: 2 };
        let mut open = OpenRequests::default();
        open.begin(RequestId(1), Some(slot.clone()));
        open.keep();
        assert_eq!(open.end(RequestId(1)), Ok(Some(slot.clone())));
        open.begin(RequestId(2), None);
        assert_eq!(open.end(RequestId(2)), Ok(None));
        open.undo();
        assert_eq!(open.all(), [RequestId(1)]);
        assert_eq!(open.end(RequestId(1)), Ok(Some(slot)));
        assert_eq!(open.end(RequestId(1)), Err(NotOpen));
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let mut open = OpenRequests::default();
        open.begin(RequestId(u128::MAX), None);
        open.begin(RequestId(7), None);
        let back = OpenRequests::from_bytes(&open.to_bytes()).unwrap();
        assert_eq!(back.all(), [RequestId(7), RequestId(u128::MAX)]);
        assert!(OpenRequests::from_bytes(&[1; 17]).is_none());
    }
}
