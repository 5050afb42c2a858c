//! The vault of locks: what it holds can be thrown away, and with it every old copy of a key. [clause 8.7.1]
//!
//! A table of one lock for each key, kept in several places. In each it is encrypted under a fresh key, and that one under
//! a root which lives in a token and nowhere else. To destroy a lock, the table is written anew under a new root without
//! it, and the old root is destroyed in the token: older copies of the table, wherever they are, then open no more.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::slip39::Wiped;
use crate::core::key::{KeyRef, PublicKey};
use crate::core::units::{Timestamp, sha256};
use crate::secret::SecretBytes;

const FORMAT: &str = "claviger-vault/1";
/// Longest file of a vault, bytes: about 200,000 keys.
pub const LONGEST: u64 = 64 << 20;

/// Names a lock: by the key's public half, which no restored database and no new name changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockId([u8; 32]);

impl LockId {
    /// Of a key.
    #[must_use]
    pub fn of(public: &PublicKey) -> Self {
        let algorithm = public.algorithm();
        Self(sha256(&[b"claviger/key/v1 ", algorithm.as_str().as_bytes(), b" ", public.as_bytes()].concat()))
    }
}

impl std::fmt::Display for LockId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

enum Entry {
    Lock(SecretBytes<32>),
    /// Destroyed, then.
    Gone(Timestamp),
}

/// What the vault knows of a key.
pub enum Found<'a> {
    /// Its lock.
    Lock(&'a SecretBytes<32>),
    /// It was destroyed, then.
    Gone(Timestamp),
    /// Nothing.
    Nothing,
}

/// Why a vault does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Another version, or no vault.
    #[error("it is no vault of a version that is known here")]
    Version,
    /// It belongs to another place.
    #[error("it is the vault of another place")]
    Place,
    /// It was changed.
    #[error("it was changed, or its parts belong to different vaults")]
    Changed,
    /// What it holds makes no sense.
    #[error("its table makes no sense")]
    Content,
}

/// The table.
#[derive(Default)]
pub struct Table(BTreeMap<LockId, Entry>);

impl Table {
    /// What is known of a key.
    #[must_use]
    pub fn find(&self, id: LockId) -> Found<'_> {
        match self.0.get(&id) {
            Some(Entry::Lock(lock)) => Found::Lock(lock),
            Some(Entry::Gone(at)) => Found::Gone(*at),
            None => Found::Nothing,
        }
    }

    /// Puts a lock in, where none is and none was.
    // [clause 8.7.1-s] what was destroyed gets no second lock
    pub fn put(&mut self, id: LockId, lock: SecretBytes<32>) {
        self.0.entry(id).or_insert(Entry::Lock(lock));
    }

    /// Throws a lock away; that it was is kept for good.
    pub fn destroy(&mut self, id: LockId, at: Timestamp) {
        if !matches!(self.0.get(&id), Some(Entry::Gone(_))) {
            self.0.insert(id, Entry::Gone(at));
        }
    }

    /// Takes over what another place knows: locks that are missing here, and above all what was destroyed there.
    pub fn learn(&mut self, other: &Self) {
        for (id, entry) in &other.0 {
            match entry {
                Entry::Lock(lock) => self.put(*id, SecretBytes::copy_of(lock.expose())),
                Entry::Gone(at) => self.destroy(*id, *at),
            }
        }
    }

    /// Whether something that this one still opens is gone in the other: then a root has to go.
    #[must_use]
    pub fn loses_to(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|(id, e)| matches!(e, Entry::Lock(_)) && matches!(other.0.get(id), Some(Entry::Gone(_))))
    }

    /// Whether both say the same.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len()
            && pairs.all(|(a, b)| {
                a.0 == b.0
                    && match (a.1, b.1) {
                        (Entry::Lock(one), Entry::Lock(two)) => one.expose() == two.expose(),
                        (Entry::Gone(_), Entry::Gone(_)) => true,
                        _ => false,
                    }
            })
    }

    /// Locks, and keys that were destroyed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let locks = self.0.values().filter(|e| matches!(e, Entry::Lock(_))).count();
        (locks, self.0.len().saturating_sub(locks))
    }

    /// One line each: `ID lock HEX` or `ID gone MILLISECONDS`.
    fn encode(&self) -> Wiped {
        let mut text = Zeroizing::new(Vec::with_capacity(self.0.len().saturating_mul(136)));
        for (id, entry) in &self.0 {
            text.extend(id.to_string().into_bytes());
            match entry {
                Entry::Lock(lock) => {
                    let mut digits = Zeroizing::new([0; 64]);
                    // 32 bytes are 64 digits: they always fit.
                    if hex::encode_to_slice(lock.expose(), digits.as_mut_slice()).is_ok() {
                        text.extend(b" lock ");
                        text.extend(digits.as_slice());
                    }
                }
                Entry::Gone(at) => text.extend(format!(" gone {}", at.0).into_bytes()),
            }
            text.push(b'\n');
        }
        text
    }

    fn decode(text: &[u8]) -> Option<Self> {
        let mut table = Self::default();
        for line in std::str::from_utf8(text).ok()?.lines() {
            let mut words = line.split(' ');
            let (id, kind, value) = (words.next()?, words.next()?, words.next()?);
            let id = LockId(hex::decode(id).ok()?.try_into().ok()?);
            let entry = match kind {
                "lock" => Entry::Lock(SecretBytes::fill(|out| hex::decode_to_slice(value, out)).ok()?),
                "gone" => Entry::Gone(Timestamp(value.parse().ok()?)),
                _ => return None,
            };
            if words.next().is_some() || table.0.insert(id, entry).is_some() {
                return None;
            }
        }
        Some(table)
    }
}

/// The file of one place. Everything in it may be seen by everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultFile {
    format: String,
    place: String,
    /// The root: an AES-256-GCM key of the place's token.
    pub root: KeyRef,
    /// Under which the root wrapped the table's key.
    #[serde(with = "hex::serde")]
    pub key_nonce: [u8; 12],
    /// The table's key, under the root: ciphertext and tag.
    #[serde(with = "hex::serde")]
    pub key: Vec<u8>,
    #[serde(with = "hex::serde")]
    nonce: [u8; 12],
    #[serde(with = "hex::serde")]
    table: Vec<u8>,
}

/// What both ciphertexts of a place are bound to.
#[must_use]
pub fn bound(place: &str, root: KeyRef) -> Vec<u8> {
    format!("{FORMAT} {place} {root}").into_bytes()
}

impl VaultFile {
    /// Encrypts a table. `key` is fresh, and `wrapped` is what the root made of it under `key_nonce`.
    pub fn close(
        table: &Table,
        place: &str,
        root: KeyRef,
        key: &SecretBytes<32>,
        (key_nonce, wrapped): ([u8; 12], Vec<u8>),
        nonce: [u8; 12],
    ) -> Result<Self, VaultError> {
        let plain = table.encode();
        let sealed = Aes256Gcm::new(key.expose().into())
            .encrypt(&Nonce::from(nonce), Payload { msg: &plain, aad: &bound(place, root) })
            .map_err(|_| VaultError::Changed)?;
        let (format, place) = (FORMAT.to_owned(), place.to_owned());
        Ok(Self { format, place, root, key_nonce, key: wrapped, nonce, table: sealed })
    }

    /// Reads the file of a place, still closed.
    pub fn parse(text: &[u8], place: &str) -> Result<Self, VaultError> {
        let file: Self = serde_json::from_slice(text).map_err(|_| VaultError::Version)?;
        if file.format != FORMAT {
            return Err(VaultError::Version);
        }
        if file.place == place { Ok(file) } else { Err(VaultError::Place) }
    }

    /// Opens it with the key that the root gave back.
    pub fn open(&self, key: &[u8]) -> Result<Table, VaultError> {
        let key = Aes256Gcm::new_from_slice(key).map_err(|_| VaultError::Changed)?;
        let plain = key
            .decrypt(
                &Nonce::from(self.nonce),
                Payload { msg: &self.table, aad: &bound(&self.place, self.root) },
            )
            .map(Zeroizing::new)
            .map_err(|_| VaultError::Changed)?;
        Table::decode(&plain).ok_or(VaultError::Content)
    }
}
