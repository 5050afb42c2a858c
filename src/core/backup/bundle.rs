//! A bundle: one key under two locks, in a file that may lie anywhere for ever. [clause 8.2.2]
//!
//! Inside out: the token wraps the key (RFC 5649); AES-256-GCM under the key's own lock, which can be thrown away; an age
//! file for the quorum. The content of that file is three lines: `claviger-bundle/1`, the head as JSON, and base64 of
//! nonce, ciphertext and tag, whose associated data are the first two lines with their ends.
#![forbid(unsafe_code)]

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::age::{self, AgeError, Identity, Recipient};
use super::slip39::Wiped;
use super::vault::LockId;
use crate::core::key::{Algorithm, PublicKey, Purpose};
use crate::core::units::{Name, sha256};
use crate::secret::SecretBytes;

const FORMAT: &str = "claviger-bundle/1";
/// Longest bundle that is read, bytes. One of ours has about 2,500.
pub const LONGEST: usize = 64 << 10;

/// What the token made of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrapping {
    /// PKCS#8, zeros up to a multiple of eight where the token adds them, wrapped by RFC 5649 under 256 bits.
    #[serde(rename = "pkcs8-aes256-kwp")]
    Pkcs8Kwp,
    /// The 32 bytes of a secret key, wrapped in the same way.
    #[serde(rename = "raw-aes256-kwp")]
    RawKwp,
}

impl Wrapping {
    /// Of keys of this algorithm.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        if algorithm.is_pair() { Self::Pkcs8Kwp } else { Self::RawKwp }
    }
}

/// What stands in a bundle about its key. Members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Name of the key.
    pub key: Name,
    /// Its line.
    pub line: Name,
    /// Its generation.
    pub generation: u32,
    /// Its one purpose.
    pub purpose: Purpose,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Public half, hex.
    pub public: String,
    /// When the key was made, milliseconds since the epoch.
    pub created_ms: i64,
    /// Serial of the token that it was made in.
    pub token_serial: String,
    /// Which ceremony, from 1.
    pub epoch: u32,
    /// SHA-256 of the quorum's public half, hex.
    pub quorum: String,
    /// What the token made.
    pub wrapping: Wrapping,
    /// When the bundle was made, milliseconds since the epoch.
    pub made_ms: i64,
}

impl Head {
    /// The public half.
    #[must_use]
    pub fn public(&self) -> Option<PublicKey> {
        PublicKey::from_bytes(self.algorithm, &hex::decode(&self.public).ok()?)
    }

    /// Which lock of the vault it is under.
    #[must_use]
    pub fn lock(&self) -> Option<LockId> {
        Some(LockId::of(&self.public()?))
    }
}

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The envelope does not open.
    #[error("{0}")]
    Envelope(#[from] AgeError),
    /// It is too long.
    #[error("it has more than {LONGEST} bytes")]
    TooLong,
    /// Another version.
    #[error("it is of a version that is not known here")]
    Version,
    /// Its content breaks the format.
    #[error("its content makes no sense: {0}")]
    Content(&'static str),
    /// Its head names another quorum than the one that it was sealed for.
    #[error("it says of itself that it was made for another quorum")]
    OtherQuorum,
    /// The lock does not fit, or head or content were changed.
    #[error("its lock does not fit: it was changed, or exchanged for another one")]
    Locked,
}

/// A bundle out of its envelope, still under its lock.
pub struct Opened {
    /// What it says of its key.
    pub head: Head,
    bound: Vec<u8>,
    locked: Vec<u8>,
}

fn cipher(lock: &SecretBytes<32>) -> Aes256Gcm {
    Aes256Gcm::new(lock.expose().into())
}

/// Makes a bundle. `nonce` is drawn for it; `random` as [`age::seal`] wants it.
pub fn seal(
    recipient: &Recipient,
    head: &Head,
    wrapped: &[u8],
    lock: &SecretBytes<32>,
    nonce: [u8; 12],
    random: &[u8; age::RANDOM],
) -> Result<Vec<u8>, BundleError> {
    let line = serde_json::to_string(head).map_err(|_| BundleError::Content("its head"))?;
    let mut content = format!("{FORMAT}\n{line}\n").into_bytes();
    let locked = cipher(lock)
        .encrypt(&Nonce::from(nonce), Payload { msg: wrapped, aad: &content })
        .map_err(|_| BundleError::Locked)?;
    content.extend(STANDARD.encode([&nonce[..], &locked].concat()).into_bytes());
    content.push(b'\n');
    Ok(age::seal(recipient, &content, random)?)
}

fn read(content: &Wiped) -> Result<Opened, BundleError> {
    let text = std::str::from_utf8(content).map_err(|_| BundleError::Content("it is no text"))?;
    let mut lines = text.split_inclusive('\n');
    let (Some(format), Some(head), Some(locked), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(if text.starts_with(FORMAT) {
            BundleError::Content("it has three lines")
        } else {
            BundleError::Version
        });
    };
    // [clause 8.2.2-c] an older or newer form is refused, never guessed at
    if format.strip_suffix('\n') != Some(FORMAT) {
        return Err(BundleError::Version);
    }
    let bound = [format, head].concat().into_bytes();
    let head: Head = serde_json::from_str(head).map_err(|_| BundleError::Content("its head"))?;
    let locked = locked.strip_suffix('\n').ok_or(BundleError::Content("its last line is cut off"))?;
    let locked = STANDARD.decode(locked).map_err(|_| BundleError::Content("its last line"))?;
    if head.public().is_none() {
        return Err(BundleError::Content("its public key"));
    }
    if head.wrapping != Wrapping::of(head.algorithm) {
        return Err(BundleError::Content("its wrapping"));
    }
    Ok(Opened { head, bound, locked })
}

/// Takes a bundle out of its envelope.
pub fn open(identity: &Identity, file: &[u8]) -> Result<Opened, BundleError> {
    if file.len() > LONGEST {
        return Err(BundleError::TooLong);
    }
    let opened = read(&age::open_alone(identity, file)?)?;
    if opened.head.quorum != hex::encode(identity.recipient().id()) {
        return Err(BundleError::OtherQuorum);
    }
    Ok(opened)
}

/// Reads back what was just made, without the quorum.
pub fn read_back(file: &[u8], random: &[u8; age::RANDOM]) -> Result<Opened, BundleError> {
    read(&age::read_back(file, random)?)
}

impl Opened {
    /// Takes the lock off; what is left only the token's wrapping key opens.
    pub fn unlock(&self, lock: &SecretBytes<32>) -> Result<Wiped, BundleError> {
        let (nonce, locked) = self.locked.split_first_chunk::<12>().ok_or(BundleError::Locked)?;
        cipher(lock)
            .decrypt(&Nonce::from(*nonce), Payload { msg: locked, aad: &self.bound })
            .map(Zeroizing::new)
            .map_err(|_| BundleError::Locked)
    }
}

/// What the log and the records keep of a lock: enough to know it again, and nothing to open with.
#[must_use]
pub fn lock_mark(lock: &SecretBytes<32>) -> String {
    let mut bound = Zeroizing::new(b"claviger/lock/v1".to_vec());
    bound.extend_from_slice(lock.expose());
    hex::encode(sha256(&bound))
}
