//! EDGE. The token: where private keys live and signatures are made.
//!
//! One small object-safe trait; vendor quirks end below it. [clause 8.2.5]
#![forbid(unsafe_code)]

pub mod audit;
pub mod backup;
pub mod check;
pub mod embedded;
pub mod keeper;
pub mod pkcs11;
pub mod profile;
pub mod worker;
#[cfg(feature = "yubihsm")]
pub mod yubihsm;
#[cfg(not(feature = "yubihsm"))]
#[path = "no_yubihsm.rs"]
pub mod yubihsm;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::core::units::sha256;
use crate::secret::SecretBytes;

/// What a token says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Profile that drives it.
    pub profile: String,
    /// Maker.
    pub manufacturer: String,
    /// Model.
    pub model: String,
    /// Serial number; keys are bound to it.
    pub serial: String,
    /// Token label.
    pub label: String,
    /// Firmware version.
    pub firmware: String,
}

/// What a new key shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeySpec {
    /// `CKA_ID` to give to both halves.
    pub reference: KeyRef,
    /// `CKA_LABEL`: the key's name.
    pub label: String,
    /// Curve.
    pub algorithm: Algorithm,
    /// The one purpose.
    pub purpose: Purpose,
}

/// A signature as the token gives it: `r || s`, 32 bytes each big-endian, for ECDSA (any `s`); RFC 8032 for Ed25519.
pub type RawSignature = [u8; 64];

/// Why a token did not do what it was asked. Each class has one way on (design, section 4).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TokenError {
    /// All sessions are taken or the queue is full: ask again later.
    #[error("the token is busy")]
    Busy,
    /// Unplugged, vanished, restarted or silent: the keeper reconnects.
    #[error("the token is not there: {0}")]
    Gone(String),
    /// PIN missing, rejected or locked: an operator must act. Never retried.
    #[error("the token is locked: {0}")]
    Locked(String),
    /// The token refuses this by its own rules.
    #[error("the token refuses: {0}")]
    Refused(String),
    /// The token cannot do this.
    #[error("the token cannot do this: {0}")]
    Unsupported(String),
    /// No answer in time: whether it happened is not known.
    #[error("the token did not answer within {0} ms")]
    Timeout(u64),
    /// It does not enforce what payment keys need.
    #[error("{0}")]
    Unfit(String),
    /// What it was given does not verify under the key.
    #[error("the data is not what this key protected: {0}")]
    Invalid(String),
    /// What came back makes no sense: never used.
    #[error("the token answered nonsense: {0}")]
    Corrupt(String),
}

/// An object in a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `private`, `public`, `secret`, or what else it is.
    pub kind: String,
    /// `CKA_ID`, hex; empty when it has none.
    pub id: String,
    /// `CKA_LABEL`.
    pub label: String,
}

/// What a token says of a key that it did not make for us. What it does not say is not so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its value cannot be read.
    pub sensitive: bool,
    /// It cannot leave the token.
    pub kept: bool,
    /// Its value could never be read.
    pub always_sensitive: bool,
    /// It never could leave the token.
    pub never_extractable: bool,
    /// It was made in the token.
    pub local: bool,
    /// Its attributes cannot be changed.
    pub fixed: bool,
    /// What it may do besides its one use, and the token did not let go of.
    pub other_uses: Vec<String>,
    /// What it could do besides until just now.
    pub narrowed: Vec<String>,
}

/// Most objects that an inventory reads.
pub const MOST_OBJECTS: usize = 4096;

impl TokenError {
    /// Whether this says something about the moment, and nothing about the token.
    #[must_use]
    pub fn is_no_verdict(&self) -> bool {
        matches!(self, Self::Busy | Self::Gone(_) | Self::Timeout(_) | Self::Locked(_))
    }
}

/// Nonce of AES-GCM. Never twice with one key: the caller draws it at random, and a key serves 2^32 times at most.
pub type Nonce = [u8; 12];

/// The nonce under which a key's check value is made; no caller draws it.
pub const CHECK_NONCE: Nonce = [0xff; 12];
/// The input of a check value. MACs of anything that begins with it are refused.
pub const CHECK_INPUT: &[u8] = b"claviger key check value, version 1";

/// What a key is made for, in the terms of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `CKA_SIGN` of a pair.
    Sign,
    /// `CKA_ENCRYPT` and `CKA_DECRYPT`.
    Encrypt,
    /// `CKA_SIGN` and `CKA_VERIFY` of a secret key.
    Mac,
    /// `CKA_WRAP` and `CKA_UNWRAP`.
    Wrap,
}

impl Use {
    /// The one use of keys of an algorithm.
    #[must_use]
    pub fn of(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Secp256k1 | Algorithm::P256 | Algorithm::Ed25519 => Self::Sign,
            Algorithm::Aes256Gcm => Self::Encrypt,
            Algorithm::HmacSha256 => Self::Mac,
            Algorithm::Aes256Kw => Self::Wrap,
        }
    }
}

/// What stands for a secret key outside: SHA-256 of what it makes of [`CHECK_INPUT`].
#[must_use]
pub fn check_value(algorithm: Algorithm, made: &[u8]) -> PublicKey {
    PublicKey::Secret(algorithm, sha256(made))
}

/// One session with a token, owned by one thread. Blocking.
pub trait Token: Send {
    /// Who it is.
    fn describe(&mut self) -> Result<Description, TokenError>;
    /// Makes a key inside: sensitive, never extractable, unmodifiable, fit for its one purpose.
    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError>;
    /// What is known of a key: of a pair with exactly one private and one public object the public half, of a secret key
    /// its check value.
    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError>;
    /// Signs. ECDSA takes [`ToSign::Prehash`], Ed25519 takes [`ToSign::Message`]; anything else is `Unsupported`.
    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError>;
    /// AES-256-GCM: ciphertext, then the 16-byte tag.
    fn encrypt(
        &mut self,
        _reference: KeyRef,
        _nonce: Nonce,
        _aad: &[u8],
        _plain: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        Err(TokenError::Unsupported("this token does not encrypt".into()))
    }
    /// The inverse of [`Self::encrypt`]; [`TokenError::Invalid`] when the tag does not verify.
    fn decrypt(
        &mut self,
        _reference: KeyRef,
        _nonce: Nonce,
        _aad: &[u8],
        _sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        Err(TokenError::Unsupported("this token does not decrypt".into()))
    }
    /// HMAC-SHA256.
    fn mac(&mut self, _reference: KeyRef, _data: &[u8]) -> Result<[u8; 32], TokenError> {
        Err(TokenError::Unsupported("this token makes no MACs".into()))
    }
    /// All that is kept under a label; a token that was cut off while it wrote may hold something broken beside it.
    fn data(&mut self, _label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
        Err(TokenError::Unsupported("this token keeps no data".into()))
    }
    /// Keeps a few bytes under a label. What was kept there is removed afterwards, save what equals `beside`: a token
    /// that loses its last write still has the one before.
    fn keep_data(&mut self, _label: &str, _bytes: &[u8], _beside: &[u8]) -> Result<(), TokenError> {
        Err(TokenError::Unsupported("this token keeps no data".into()))
    }
    /// Removes both halves; success means that they are gone.
    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError>;
    /// Random bytes of the token's own generator.
    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError>;
    /// All objects of the token, at most [`MOST_OBJECTS`]. With a label, others may be left out.
    fn inventory(&mut self, _only: Option<&str>) -> Result<Vec<Object>, TokenError> {
        Err(TokenError::Unsupported("this token gives no inventory".into()))
    }
    /// What it says of a key, before that is taken over. Other uses than its one are taken away where the token allows.
    fn past(&mut self, _reference: KeyRef) -> Result<Past, TokenError> {
        Err(TokenError::Unsupported("keys of this token cannot be taken over".into()))
    }
    /// Puts a key in that was outside: as protected from now on as one that was made here. Tells its public half, and what
    /// the token says of it. On an error nothing of it is left.
    fn import(
        &mut self,
        _spec: &KeySpec,
        _private: &SecretBytes<32>,
    ) -> Result<(PublicKey, Past), TokenError> {
        Err(TokenError::Unsupported("this token takes no keys in".into()))
    }
    /// Makes keys that may leave for a backup, lets them leave under one wrapping key, and takes them back.
    fn backup(&mut self, _ask: &backup::Ask) -> Result<backup::Made, TokenError> {
        Err(TokenError::Unsupported("keys of this token cannot be backed up".into()))
    }
    /// Cheap sign of life.
    fn health(&mut self) -> Result<(), TokenError>;
    /// What a token with a log of its own wrote down since the last time that is not our doing.
    fn audit(&mut self) -> Result<audit::Audit, TokenError> {
        Ok(audit::Audit::default())
    }
    /// Proves on the device what its profile claims.
    fn check(&mut self) -> Result<Vec<check::CheckRow>, TokenError>;
}
