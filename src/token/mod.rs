//! EDGE. The token: where private keys live and signatures are made.
//!
//! One small object-safe trait; vendor quirks end below it. [clause 8.2.5]
#![forbid(unsafe_code)]

pub mod check;
pub mod embedded;
pub mod keeper;
pub mod pkcs11;
pub mod profile;
pub mod worker;

use serde::{Deserialize, Serialize};

use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;

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
    /// What came back makes no sense: never used.
    #[error("the token answered nonsense: {0}")]
    Corrupt(String),
}

/// One session with a token, owned by one thread. Blocking.
pub trait Token: Send {
    /// Who it is.
    fn describe(&mut self) -> Result<Description, TokenError>;
    /// Makes a pair inside: sensitive, never extractable, unmodifiable, fit for its one purpose.
    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError>;
    /// The public half of a pair that is there with exactly one private and one public object.
    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError>;
    /// Signs. ECDSA takes [`ToSign::Prehash`], Ed25519 takes [`ToSign::Message`]; anything else is `Unsupported`.
    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError>;
    /// Removes both halves; success means that they are gone.
    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError>;
    /// Random bytes of the token's own generator.
    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError>;
    /// Cheap sign of life.
    fn health(&mut self) -> Result<(), TokenError>;
    /// Proves on the device what its profile claims.
    fn check(&mut self) -> Result<Vec<check::CheckRow>, TokenError>;
}
