//! Keys as data: algorithm, purpose, state, public half, record. [clause 8.7.2]
//!
//! A key has one purpose, set when it is made and never changed.
#![forbid(unsafe_code)]

pub mod copies;
pub mod import;
mod lifecycle;
pub mod policy;
mod purpose;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::{Address, Name, Timestamp, keccak256};
use crate::refusal::{Code, Refusal};
pub use lifecycle::State;
pub use purpose::{Algorithm, Operation, Purpose};

/// What is known outside of a key, and by what it is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// SEC 1 uncompressed point, 65 bytes, first byte 0x04.
    Secp256k1([u8; 65]),
    /// SEC 1 uncompressed point, 65 bytes, first byte 0x04.
    P256([u8; 65]),
    /// RFC 8032 encoding, 32 bytes.
    Ed25519([u8; 32]),
    /// A secret key has no public half: what it makes of a fixed input stands for it (see `token::check_value`).
    Secret(Algorithm, [u8; 32]),
}

impl PublicKey {
    /// Takes raw bytes of the right length for the algorithm; `None` otherwise. The point is checked by `verify`.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let sec1 = |b: &[u8]| <[u8; 65]>::try_from(b).ok().filter(|p| p[0] == 4);
        match algorithm {
            Algorithm::Secp256k1 => sec1(bytes).map(Self::Secp256k1),
            Algorithm::P256 => sec1(bytes).map(Self::P256),
            Algorithm::Ed25519 => bytes.try_into().ok().map(Self::Ed25519),
            secret => bytes.try_into().ok().map(|check| Self::Secret(secret, check)),
        }
    }

    /// The raw bytes (see the variants).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Secp256k1(b) | Self::P256(b) => b,
            Self::Ed25519(b) | Self::Secret(_, b) => b,
        }
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secp256k1(_) => Algorithm::Secp256k1,
            Self::P256(_) => Algorithm::P256,
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::Secret(algorithm, _) => *algorithm,
        }
    }

    /// The account address on EVM chains: last 20 bytes of Keccak-256 of the point (yellow paper, appendix F).
    /// P-256 keys have one on permissioned chains that run `ecCurve: secp256r1`. Others have none.
    #[must_use]
    pub fn evm_address(&self) -> Option<Address> {
        let (Self::Secp256k1(point) | Self::P256(point)) = self else { return None };
        let hash = keccak256(point.get(1..)?);
        Some(Address(hash.get(12..)?.try_into().ok()?))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), hex::encode(self.as_bytes()))
    }
}

/// Where a key stands in its token: `CKA_ID`. Ours are 16 random bytes; adopted ones have what they had, up to 32.
/// Handles are never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyRef {
    bytes: [u8; 32],
    length: u8,
}

impl KeyRef {
    /// Takes 1 to 32 bytes.
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let mut bytes = [0; 32];
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        (!id.is_empty()).then_some(Self { bytes, length: u8::try_from(id.len()).ok()? })
    }

    /// The inverse of its text: hex.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::new(&hex::decode(text).ok()?)
    }

    /// The id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl From<[u8; 16]> for KeyRef {
    fn from(id: [u8; 16]) -> Self {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(id).for_each(|(to, from)| *to = from);
        Self { bytes, length: 16 }
    }
}

impl TryFrom<String> for KeyRef {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a key's id is 1 to 32 bytes in hex")
    }
}

impl From<KeyRef> for String {
    fn from(reference: KeyRef) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a key comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// Made in the token for this daemon.
    Generated,
    /// Was in the token before; what the token cannot say about its past stands beside it, for good.
    Adopted {
        /// In words: `it may have been outside of a token`.
        unproven: Vec<String>,
    },
    /// Was outside, and was put into the token by an operator; it never counts as one that was made there.
    Imported {
        /// What it was kept in, as the operator said.
        source: import::Source,
        /// In words: `copies of it may be elsewhere`.
        unproven: Vec<String>,
    },
    /// Came back from a backup, into a register that did not know it.
    Restored {
        /// Serial of the token that it was made in.
        from_serial: String,
    },
}

/// What the daemon knows about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The name that policies and people use; unique.
    pub name: Name,
    /// The pair in the token.
    pub reference: KeyRef,
    /// One purpose, for good.
    pub purpose: Purpose,
    /// SP 800-57 state.
    pub state: State,
    /// The public half as it was registered; each signature is verified under it.
    pub public: PublicKey,
    /// Serial of the token that holds it.
    pub token_serial: String,
    /// When it was made, or taken over.
    pub created: Timestamp,
    /// Where it comes from.
    pub origin: Origin,
    /// The name that policies and apps use: the key's own, or that of its first predecessor.
    pub line: Name,
    /// 1, and one more with each rotation.
    pub generation: u32,
    /// Since when it is in its state.
    pub since: Timestamp,
    /// When it became active for the first time: its cryptoperiod begins there.
    pub activated: Option<Timestamp>,
    /// When it was found to be compromised; kept after it is destroyed.
    pub compromised: Option<Timestamp>,
    /// The shortest warning, in days, that was given about the end of this state.
    pub warned: Option<u32>,
    /// Its destruction was begun, and is not finished before the token says so.
    pub destroying: bool,
}

/// What a new record says besides the key itself.
impl KeyRecord {
    /// A key of its own line, made now and not yet active.
    #[must_use]
    pub fn new(
        name: Name,
        reference: KeyRef,
        purpose: Purpose,
        public: PublicKey,
        token_serial: String,
        origin: Origin,
        now: Timestamp,
    ) -> Self {
        Self {
            line: name.clone(),
            name,
            reference,
            purpose,
            state: State::PreActive,
            public,
            token_serial,
            created: now,
            origin,
            generation: 1,
            since: now,
            activated: None,
            compromised: None,
            warned: None,
            destroying: false,
        }
    }
}

impl KeyRecord {
    /// Whether it may be used for this now: its purpose allows it, and it is active.
    pub fn may(&self, operation: Operation) -> Result<(), Refusal> {
        // [clause 8.7.2-a] a key does what its one purpose is, and nothing else
        if !self.purpose.may(operation) || !self.public.algorithm().does(operation) {
            return Err(Refusal::new(
                Code::KeyPurpose,
                format!(
                    "key {} is a {} key ({}): it is not for {operation}",
                    self.name,
                    self.purpose,
                    self.public.algorithm()
                ),
            ));
        }
        // [clause 8.7.1-b] a key does what its state allows, and nothing else
        if !self.state.may(operation) || self.destroying {
            let state = if self.destroying { "being destroyed" } else { self.state.as_str() };
            let why = format!("key {} is {state}: {operation} is over, or has not begun", self.name);
            return Err(Refusal::new(Code::KeyState, why));
        }
        Ok(())
    }

    /// The account that it controls, as apps name it: EVM address, else the hex digits of its public half.
    #[must_use]
    pub fn account(&self) -> String {
        match self.public.evm_address() {
            Some(address) => address.to_string(),
            None => hex::encode(self.public.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.7.1-b] test
    #[test]
    fn keys_are_used_as_state_and_purpose_allow() {
        for purpose in Purpose::ALL {
            for state in State::ALL {
                assert_eq!(State::parse(state.as_str()), Some(state));
                let record = KeyRecord {
                    state,
                    ..KeyRecord::new(
                        Name::parse("k").unwrap(),
                        KeyRef::from([0; 16]),
                        purpose,
                        PublicKey::Ed25519([0; 32]),
                        String::new(),
                        Origin::Generated,
                        Timestamp(0),
                    )
                };
                let code = record.may(Operation::SignPayment).map_err(|r| r.code);
                match (purpose, state) {
                    (Purpose::Payment, State::Active | State::SweepOnly) => assert_eq!(code, Ok(())),
                    (Purpose::Payment, _) => assert_eq!(code, Err(Code::KeyState)),
                    _ => assert_eq!(code, Err(Code::KeyPurpose)),
                }
            }
        }
    }
}
