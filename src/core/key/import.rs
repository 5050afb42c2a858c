//! Keys that were outside of a token: read from what people keep them in, and never printed. [clause 8.7.1]
//!
//! Pure: texts in, a scalar and its public half out. The arithmetic is that of the crates named in each place; what is
//! our own is the reading, the bounds, and the sentences. No sentence holds a word, a digit or a passphrase.
#![forbid(unsafe_code)]

mod file;
mod mnemonic;

use serde::{Deserialize, Serialize};

use super::{Algorithm, PublicKey};
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;

/// What a key was kept in, as the operator said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// BIP-39 words.
    Mnemonic,
    /// The private key itself.
    PrivateKey,
    /// An encrypted PKCS#8 file.
    Pkcs8,
    /// An Ethereum keystore, version 3.
    Keystore,
}

impl Source {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mnemonic => "a mnemonic",
            Self::PrivateKey => "a private key",
            Self::Pkcs8 => "a PKCS#8 file",
            Self::Keystore => "a keystore file",
        }
    }
}

/// A private key on its way into a token, with its public half.
pub struct Incoming {
    algorithm: Algorithm,
    private: SecretBytes<32>,
    public: PublicKey,
}

/// The public half of a private key: a scalar of the curve, big-endian, or an Ed25519 seed (RFC 8032).
fn public_of(algorithm: Algorithm, private: &[u8; 32]) -> Option<PublicKey> {
    let point = |bytes: &[u8]| PublicKey::from_bytes(algorithm, bytes);
    match algorithm {
        Algorithm::Secp256k1 => {
            let key = k256::ecdsa::SigningKey::from_slice(private).ok()?;
            point(key.verifying_key().to_sec1_point(false).as_bytes())
        }
        Algorithm::P256 => {
            let key = p256::ecdsa::SigningKey::from_slice(private).ok()?;
            point(key.verifying_key().to_sec1_point(false).as_bytes())
        }
        Algorithm::Ed25519 => {
            point(&ed25519_dalek::SigningKey::from_bytes(private).verifying_key().to_bytes())
        }
        Algorithm::Aes256Gcm | Algorithm::HmacSha256 | Algorithm::Aes256Kw => None,
    }
}

impl Incoming {
    /// Takes a private key; refuses what is none of its curve.
    // [clause 8.7.1-o] zero and what is not below the order of the curve is no key
    pub fn new(algorithm: Algorithm, private: SecretBytes<32>) -> Result<Self, Refusal> {
        if !algorithm.is_pair() {
            let why = format!("{algorithm} keys have no public half to recognise them by: make a new one");
            return Err(Refusal::new(Code::ImportMalformed, why));
        }
        // Ed25519 takes any seed; this one is that of a file that was never filled.
        let empty = private.expose().iter().fold(0, |all, byte| all | byte) == 0;
        let public = public_of(algorithm, private.expose()).filter(|_| !empty).ok_or_else(|| {
            let why = format!("this is no private key of {algorithm}: it is zero, or not below the order");
            Refusal::new(Code::ImportRange, why)
        })?;
        Ok(Self { algorithm, private, public })
    }

    /// Takes 64 hex digits, with or without `0x`.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, Refusal> {
        let digits = text.trim();
        let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(digits);
        let private = SecretBytes::fill(|out| hex::decode_to_slice(digits, out)).map_err(|_| {
            Refusal::new(Code::ImportMalformed, "a private key is 32 bytes in hex: 64 digits")
        })?;
        Self::new(algorithm, private)
    }

    /// Takes BIP-39 words in English with their passphrase, and goes down a BIP-32 path.
    pub fn from_mnemonic(words: &str, passphrase: &str, path: &str) -> Result<Self, Refusal> {
        let seed = mnemonic::seed(words, passphrase)?;
        Self::new(Algorithm::Secp256k1, mnemonic::derive(&seed, path)?)
    }

    /// Takes an encrypted PKCS#8 file (RFC 5958, PBES2), PEM or DER.
    pub fn from_pkcs8(algorithm: Algorithm, file: &[u8], passphrase: &str) -> Result<Self, Refusal> {
        Self::new(algorithm, file::pkcs8(algorithm, file, passphrase)?)
    }

    /// Takes an Ethereum keystore, version 3.
    pub fn from_keystore(file: &[u8], passphrase: &str) -> Result<Self, Refusal> {
        let (private, said) = file::keystore(file, passphrase)?;
        let key = Self::new(Algorithm::Secp256k1, private)?;
        match (said, key.public.evm_address()) {
            (Some(said), Some(address)) if said != address => {
                let why = format!("the file says that it holds {said}, and holds {address}");
                Err(Refusal::new(Code::ImportOther, why))
            }
            _ => Ok(key),
        }
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The private half, for the one call that hands it on.
    #[must_use]
    pub fn private(&self) -> &SecretBytes<32> {
        &self.private
    }

    /// The private half, to be handed on for good.
    #[must_use]
    pub fn into_private(self) -> SecretBytes<32> {
        self.private
    }
}

#[cfg(test)]
#[path = "import/tests.rs"]
mod tests;
