//! Keys as data: algorithm, purpose, state, public half, record. [clause 8.7.2]
//!
//! A key has one purpose, set when it is made and never changed.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::units::{Address, Name, Timestamp, keccak256};
use crate::refusal::{Code, Refusal};

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA over secp256k1 (SEC 2), 32-byte prehash.
    #[serde(rename = "secp256k1")]
    Secp256k1,
    /// ECDSA over NIST P-256 (FIPS 186-5), 32-byte prehash.
    #[serde(rename = "p256")]
    P256,
    /// Pure Ed25519 (RFC 8032) over the whole message.
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl Algorithm {
    /// All of them, in the order that tables print them.
    pub const ALL: [Self; 3] = [Self::Secp256k1, Self::P256, Self::Ed25519];

    /// The name used in configuration, JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secp256k1 => "secp256k1",
            Self::P256 => "p256",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key is for. One purpose per key, for its whole life (X.1405 8.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Signs payments that the daemon decoded, and messages with the EIP-191 prefix where the policy says so.
    Payment,
    /// Signs the checkpoints of the log, and nothing else.
    Integrity,
}

impl Purpose {
    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Payment, Self::Integrity].into_iter().find(|p| p.as_str() == text)
    }

    /// The name used in configuration, JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Integrity => "integrity",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The states of NIST SP 800-57 Part 1, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made, not yet usable.
    PreActive,
    /// Usable.
    Active,
    /// Stopped for now.
    Suspended,
    /// At the end of its cryptoperiod.
    Deactivated,
    /// Known or suspected to be in other hands.
    Compromised,
    /// Gone; the record stays.
    Destroyed,
}

impl State {
    /// All of them, in the order of a key's life.
    pub const ALL: [Self; 6] = [
        Self::PreActive,
        Self::Active,
        Self::Suspended,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
    ];

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// The name used in JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }
}

/// The public half of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// SEC 1 uncompressed point, 65 bytes, first byte 0x04.
    Secp256k1([u8; 65]),
    /// SEC 1 uncompressed point, 65 bytes, first byte 0x04.
    P256([u8; 65]),
    /// RFC 8032 encoding, 32 bytes.
    Ed25519([u8; 32]),
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
        }
    }

    /// The raw bytes (see the variants).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Secp256k1(b) | Self::P256(b) => b,
            Self::Ed25519(b) => b,
        }
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secp256k1(_) => Algorithm::Secp256k1,
            Self::P256(_) => Algorithm::P256,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }

    /// The account address on EVM chains: last 20 bytes of Keccak-256 of the point (yellow paper, appendix F).
    /// P-256 keys have one on permissioned chains that run `ecCurve: secp256r1`. Ed25519 has none.
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

/// Where a key stands in its token: `CKA_ID` of the pair, 16 random bytes chosen by us. Handles are never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyRef(pub [u8; 16]);

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
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
    /// When it was made.
    pub created: Timestamp,
}

impl KeyRecord {
    /// Whether it may sign payments and messages at all.
    pub fn may_pay(&self) -> Result<(), Refusal> {
        // [clause 8.7.2-a] a payment is signed by a payment key and by no other
        if self.purpose != Purpose::Payment {
            let why = format!("the purpose of key {} is {}, not payment", self.name, self.purpose);
            return Err(Refusal::new(Code::KeyPurpose, why));
        }
        // [clause 8.7.1-b] only an active key signs
        if self.state != State::Active {
            return Err(Refusal::new(
                Code::KeyState,
                format!("key {} is {}", self.name, self.state.as_str()),
            ));
        }
        Ok(())
    }

    /// The account that it controls, as apps name it: EVM address, or base-58 of an Ed25519 key.
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
    fn only_active_payment_keys_pay() {
        for purpose in [Purpose::Payment, Purpose::Integrity] {
            for state in State::ALL {
                assert_eq!(State::parse(state.as_str()), Some(state));
                let record = KeyRecord {
                    name: Name::parse("k").unwrap(),
                    reference: KeyRef([0; 16]),
                    purpose,
                    state,
                    public: PublicKey::Ed25519([0; 32]),
                    token_serial: String::new(),
                    created: Timestamp(0),
                };
                let code = record.may_pay().map_err(|r| r.code);
                match (purpose, state) {
                    (Purpose::Payment, State::Active) => assert_eq!(code, Ok(())),
                    (Purpose::Payment, _) => assert_eq!(code, Err(Code::KeyState)),
                    (Purpose::Integrity, _) => assert_eq!(code, Err(Code::KeyPurpose)),
                }
            }
        }
    }
}
