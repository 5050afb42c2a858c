//! Answers, read into types. Members that a newer daemon adds are let be.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::Value;

use crate::core::key::{Algorithm, Purpose, State};
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name};

/// A key that this app may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Key {
    /// Its name; a later generation has its number behind it.
    pub name: Name,
    /// The name that all its generations share.
    pub line: Name,
    /// Which generation it is.
    pub generation: u32,
    /// What it computes with.
    pub algorithm: Algorithm,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it is in its life.
    pub state: State,
    /// Its account on EVM chains, where it has one.
    pub address: Option<Address>,
    /// Its public half, hex digits; empty for a secret key.
    #[serde(default)]
    pub public_key: String,
}

/// Whether payments can be signed now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Whether it signs.
    pub signing: bool,
    /// Why it does not.
    pub reason: Option<String>,
}

/// The rules in force, and how they came about.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Governance {
    /// SHA-256 of the policy in force, hex digits.
    pub policy: String,
    /// SHA-256 of the key policy in force, hex digits.
    pub key_policy: String,
    /// The people who decide, where there are some.
    pub authority: Option<Value>,
    /// Rules of the policy that ask people.
    #[serde(default)]
    pub approvals: Value,
    /// What was changed, oldest first.
    #[serde(default)]
    pub history: Value,
}

/// What was written about who decides what.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct News {
    /// The entries, oldest first; none when the time was over.
    pub news: Vec<Value>,
    /// The last index that is known now: to wait from the next time.
    pub since: u64,
}

/// What would be decided of a payment, and why.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Simulation {
    /// The payment, as the daemon decoded it.
    pub payment: Value,
    /// The decision, with the rules that were looked at.
    pub decision: Value,
}

/// A code to show to the user, who runs `claviger user unlock CODE`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UserCode {
    /// The code.
    pub code: String,
    /// How long it can be used.
    pub expires_seconds: u64,
}

/// A signed login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSignature {
    /// `r || s` with s low, or `R || S`.
    pub signature: [u8; 64],
    /// What is signed: made of the audience and the challenge that were asked for, and compared.
    pub message: Vec<u8>,
    /// With which algorithm.
    pub algorithm: Algorithm,
    /// Under which public key the signature verifies; whether it is the right one knows who registered it.
    pub public_key: Vec<u8>,
}

#[derive(Deserialize)]
pub(super) struct RawLogin {
    pub(super) signature: Hex,
    pub(super) message: Hex,
    pub(super) algorithm: Algorithm,
    pub(super) public_key: Hex,
}

#[derive(Deserialize)]
pub(super) struct Cancelled {
    pub(super) cancelled: bool,
}

#[derive(Deserialize)]
pub(super) struct Pending {
    pub(super) request: RequestText,
    pub(super) status: String,
}

/// The text of a request id.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RequestText(pub(super) RequestId);

impl TryFrom<String> for RequestText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        RequestId::parse(&text).map(Self).ok_or("a request id has 32 lower-case hex digits")
    }
}

/// `0x` bytes.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Hex(pub(super) Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.strip_prefix("0x").ok_or("bytes start with 0x")?;
        hex::decode(digits).map(Self).map_err(|_| "bytes are an even number of hex digits")
    }
}
