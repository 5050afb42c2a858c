//! The seal: a tag under a key that only the token can make again, over the log as it stands, renewed in every commit.
//! What the tables hold follows from the log, so that a tag over size and root is one over all of it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{EntryKind, LogHead};
use crate::core::key::State;
use crate::core::log::user::UserEvent;
use crate::secret::SecretBytes;

/// In front of what the token makes a run's key of; nobody else's MAC begins so.
pub const RUN_INPUT: &[u8] = b"claviger state run key, version 1";
const TAG_INPUT: &[u8] = b"claviger state tag, version 1";

/// The key of one run of the daemon: what the token's state key makes of a fresh nonce. Wiped with the store.
pub struct SealKey {
    key: SecretBytes<32>,
    nonce: [u8; 32],
}

impl SealKey {
    /// Of a nonce, and what the token made of it.
    #[must_use]
    pub fn new(nonce: [u8; 32], key: SecretBytes<32>) -> Self {
        Self { key, nonce }
    }

    fn mac(&self, head: &LogHead) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key.expose()).ok()?;
        mac.update(TAG_INPUT);
        mac.update(&head.size.to_be_bytes());
        mac.update(&head.root);
        Some(mac)
    }

    /// What is kept beside the log: nonce, size, tag.
    pub(super) fn seal(&self, head: &LogHead) -> Option<Vec<u8>> {
        let tag: [u8; 32] = self.mac(head)?.finalize().into_bytes().into();
        Some([&self.nonce[..], &head.size.to_be_bytes(), &tag].concat())
    }

    /// Whether a log as it was found is the one that was sealed.
    #[must_use]
    pub fn agrees(&self, seal: &Seal) -> bool {
        self.nonce == seal.nonce && self.mac(&seal.head).is_some_and(|m| m.verify_slice(&seal.tag).is_ok())
    }
}

/// A seal that was found, with the root that the log has at its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// What the run's key was made of.
    pub nonce: [u8; 32],
    /// The log as it was found, at the size that was sealed.
    pub head: LogHead,
    tag: [u8; 32],
}

/// The size that a seal names, its nonce and its tag; `None` when it is no seal.
pub(super) fn parse(bytes: &[u8]) -> Option<(u64, [u8; 32], [u8; 32])> {
    let (nonce, rest) = bytes.split_first_chunk::<32>()?;
    let (size, tag) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*size), *nonce, tag.try_into().ok()?))
}

/// How the log was found when the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries.
    pub size: u64,
    /// The seal, where there is one.
    pub seal: Option<Seal>,
    /// The log says that it is sealed.
    pub sealed: bool,
    /// The log says that the token holds its anchor.
    pub anchored: bool,
    /// The first entry behind the seal that is none of those that are written before the token is there.
    pub loose: Option<u64>,
    /// Times that an operator accepted a log that had been found changed.
    pub epoch: u64,
    /// Roots at sizes that are asked for; the others are found by reading the log again.
    pub(super) roots: BTreeMap<u64, [u8; 32]>,
}

impl Found {
    /// Whether the log is the one that was sealed. `key` is of the nonce in the seal.
    // [clause 8.7.1-i] who can write the file cannot make the tag, and the log itself says that there must be one
    pub fn judge(&self, key: Option<&SealKey>) -> Result<(), String> {
        match (self.sealed, &self.seal) {
            (false, None) => Ok(()),
            (true, None) => Err("the log says that it is sealed, and the seal is gone".into()),
            (false, Some(_)) => Err("there is a seal, and the log does not say that it is sealed".into()),
            (true, Some(seal)) => {
                if !key.is_some_and(|key| key.agrees(seal)) {
                    return Err(format!(
                        "the seal over {} entries of the log does not verify: entries were changed, added or removed",
                        seal.head.size
                    ));
                }
                match self.loose {
                    None => Ok(()),
                    Some(seq) => Err(format!(
                        "entry {seq} of the log is not sealed, and is none of those that are written before the token is there"
                    )),
                }
            }
        }
    }

    /// Puts the seal beside the root that it is about.
    pub(super) fn with_seal(mut self, seal: Option<(u64, [u8; 32], [u8; 32])>) -> Option<Self> {
        if let Some((size, nonce, tag)) = seal {
            let head = LogHead { size, root: *self.roots.get(&size)? };
            self.seal = Some(Seal { nonce, head, tag });
        }
        Some(self)
    }
}

/// What is written down before the token is there. What follows a seal and is none of these has another author, or
/// none: a signature, an approval and a key that comes back to life need the token first.
pub(super) fn before_the_token(kind: &EntryKind) -> bool {
    use EntryKind as E;
    match kind {
        E::Start { .. }
        | E::Stop {}
        | E::InDoubt { .. }
        | E::Failed { .. }
        | E::Refusal { .. }
        | E::Token { .. }
        | E::SelfTest { .. }
        | E::StrangeOperation { .. }
        | E::Operator { .. }
        | E::Policy { .. }
        | E::KeyPolicy { .. }
        | E::Apps { .. }
        | E::Registration { .. }
        | E::Authority { .. }
        | E::Users { .. }
        | E::Document { .. }
        | E::Alarm { .. }
        | E::Device { .. }
        | E::KeyDue { .. }
        | E::KeyDestroying { .. }
        | E::User(UserEvent::Suspended { .. } | UserEvent::Closed { .. }) => true,
        E::KeyMoved { to, .. } => !matches!(to, State::Active | State::PreActive),
        E::Rows { rows } => rows.keys().all(|name| name.starts_with("keys/")),
        E::State { what, .. } => what == "refused",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.7.1-i] test
    #[test]
    fn a_seal_is_of_one_key_one_nonce_and_one_log() {
        let key = |byte| SealKey::new([1; 32], SecretBytes::copy_of(&[byte; 32]));
        let head = LogHead { size: 7, root: [3; 32] };
        let (size, nonce, tag) = parse(&key(2).seal(&head).unwrap()).unwrap();
        let seal = Seal { nonce, head: LogHead { size, ..head }, tag };
        assert!(key(2).agrees(&seal));
        assert!(!key(3).agrees(&seal));
        for wrong in [
            Seal { head: LogHead { size: 8, ..head }, ..seal },
            Seal { head: LogHead { root: [4; 32], ..head }, ..seal },
            Seal { nonce: [9; 32], ..seal },
            Seal { tag: [0; 32], ..seal },
        ] {
            assert!(!key(2).agrees(&wrong));
        }
        assert!(parse(&[0; 71]).is_none() && parse(&[0; 73]).is_none());
    }
}
