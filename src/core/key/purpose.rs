//! One key, one purpose: which algorithms serve it, and what may be done with it. [clause 8.7.2]
//!
//! The tables of this file are the whole of it; the test below holds their reviewed text.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a key computes with.
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
    /// AES-256 in Galois/Counter Mode (NIST SP 800-38D), 96-bit nonce, 128-bit tag.
    #[serde(rename = "aes256-gcm")]
    Aes256Gcm,
    /// HMAC with SHA-256 (FIPS 198-1), 256-bit key, whole tag.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// AES-256 key wrap (NIST SP 800-38F; RFC 3394, or 5649 where the token has it).
    #[serde(rename = "aes256-kw")]
    Aes256Kw,
}

impl Algorithm {
    /// All of them, in the order that tables print them.
    pub const ALL: [Self; 6] =
        [Self::Secp256k1, Self::P256, Self::Ed25519, Self::Aes256Gcm, Self::HmacSha256, Self::Aes256Kw];
    /// Those whose keys are pairs.
    pub const PAIRS: [Self; 3] = [Self::Secp256k1, Self::P256, Self::Ed25519];

    /// Whether its keys are pairs: a private half that signs, a public one that verifies.
    #[must_use]
    pub fn is_pair(self) -> bool {
        Self::PAIRS.contains(&self)
    }

    /// The name used in configuration, JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secp256k1 => "secp256k1",
            Self::P256 => "p256",
            Self::Ed25519 => "ed25519",
            Self::Aes256Gcm => "aes256-gcm",
            Self::HmacSha256 => "hmac-sha256",
            Self::Aes256Kw => "aes256-kw",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.as_str() == text)
    }

    /// Whether its mathematics serve the operation.
    #[must_use]
    pub fn does(self, operation: Operation) -> bool {
        match operation {
            Operation::SignPayment | Operation::SignLogin => self.is_pair(),
            // EIP-191 is of EVM chains.
            Operation::SignMessage => matches!(self, Self::Secp256k1 | Self::P256),
            // C2SP signed notes know Ed25519.
            Operation::SignCheckpoint => self == Self::Ed25519,
            Operation::Encrypt | Operation::Decrypt => self == Self::Aes256Gcm,
            Operation::Mac | Operation::VerifyMac | Operation::Random => self == Self::HmacSha256,
            Operation::Wrap | Operation::Unwrap => self == Self::Aes256Kw,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key is for. One purpose per key, for its whole life (X.1405 8.7.2, NIST SP 800-57 Part 1, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Signs payments that the daemon decoded, and messages with the EIP-191 prefix where the policy says so.
    Payment,
    /// Signs login challenges, which can never be payments.
    Authentication,
    /// Encrypts and decrypts data.
    Encryption,
    /// Shows that something was not changed: the log's checkpoints, or data under a MAC.
    Integrity,
    /// Wraps other keys.
    Transport,
    /// Conditions random bits.
    Random,
}

impl Purpose {
    /// All of them, in the order that tables print them.
    pub const ALL: [Self; 6] = [
        Self::Payment,
        Self::Authentication,
        Self::Encryption,
        Self::Integrity,
        Self::Transport,
        Self::Random,
    ];

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }

    /// The name used in configuration, JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Payment => "payment",
            Self::Authentication => "authentication",
            Self::Encryption => "encryption",
            Self::Integrity => "integrity",
            Self::Transport => "transport",
            Self::Random => "random",
        }
    }

    /// What may be done with keys of this purpose. No operation belongs to two purposes.
    #[must_use]
    pub fn may(self, operation: Operation) -> bool {
        use Operation as O;
        match self {
            Self::Payment => matches!(operation, O::SignPayment | O::SignMessage),
            Self::Authentication => operation == O::SignLogin,
            Self::Encryption => matches!(operation, O::Encrypt | O::Decrypt),
            Self::Integrity => matches!(operation, O::SignCheckpoint | O::Mac | O::VerifyMac),
            Self::Transport => matches!(operation, O::Wrap | O::Unwrap),
            Self::Random => operation == O::Random,
        }
    }

    /// Whether a key of this algorithm can be made for it.
    #[must_use]
    pub fn takes(self, algorithm: Algorithm) -> bool {
        Operation::ALL.into_iter().any(|o| self.may(o) && algorithm.does(o))
    }

    /// The algorithm that a new key gets when none is named.
    #[must_use]
    pub fn usual(self) -> Algorithm {
        match self {
            Self::Payment => Algorithm::Secp256k1,
            Self::Authentication => Algorithm::Ed25519,
            Self::Encryption => Algorithm::Aes256Gcm,
            Self::Integrity | Self::Random => Algorithm::HmacSha256,
            Self::Transport => Algorithm::Aes256Kw,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Signs a payment that was decoded.
    SignPayment,
    /// Signs an EIP-191 message.
    SignMessage,
    /// Signs a login challenge.
    SignLogin,
    /// Signs a checkpoint of the log.
    SignCheckpoint,
    /// Encrypts data.
    Encrypt,
    /// Decrypts data.
    Decrypt,
    /// Makes a MAC.
    Mac,
    /// Verifies a MAC.
    VerifyMac,
    /// Wraps a key.
    Wrap,
    /// Unwraps a key.
    Unwrap,
    /// Makes random bits.
    Random,
}

impl Operation {
    /// All of them, in the order that tables print them.
    pub const ALL: [Self; 11] = [
        Self::SignPayment,
        Self::SignMessage,
        Self::SignLogin,
        Self::SignCheckpoint,
        Self::Encrypt,
        Self::Decrypt,
        Self::Mac,
        Self::VerifyMac,
        Self::Wrap,
        Self::Unwrap,
        Self::Random,
    ];

    /// As sentences and tables write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignPayment => "signing payments",
            Self::SignMessage => "signing messages",
            Self::SignLogin => "signing logins",
            Self::SignCheckpoint => "signing checkpoints",
            Self::Encrypt => "encrypting",
            Self::Decrypt => "decrypting",
            Self::Mac => "making MACs",
            Self::VerifyMac => "verifying MACs",
            Self::Wrap => "wrapping keys",
            Self::Unwrap => "unwrapping keys",
            Self::Random => "random bits",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Purpose by operation, and the algorithms of each purpose: changes of it are to be read.
    const MATRIX: &str = "\
payment: signing payments, signing messages | secp256k1 p256 ed25519
authentication: signing logins | secp256k1 p256 ed25519
encryption: encrypting, decrypting | aes256-gcm
integrity: signing checkpoints, making MACs, verifying MACs | ed25519 hmac-sha256
transport: wrapping keys, unwrapping keys | aes256-kw
random: random bits | hmac-sha256
";

    // [clause 8.7.2-a] test
    #[test]
    fn the_matrix_is_what_was_reviewed_and_no_operation_has_two_purposes() {
        let mut text = String::new();
        for purpose in Purpose::ALL {
            assert_eq!(Purpose::parse(purpose.as_str()), Some(purpose));
            assert!(purpose.takes(purpose.usual()));
            let may: Vec<_> =
                Operation::ALL.into_iter().filter(|o| purpose.may(*o)).map(Operation::as_str).collect();
            let with: Vec<_> =
                Algorithm::ALL.into_iter().filter(|a| purpose.takes(*a)).map(Algorithm::as_str).collect();
            text += &format!("{purpose}: {} | {}\n", may.join(", "), with.join(" "));
        }
        assert_eq!(text, MATRIX);
        for operation in Operation::ALL {
            assert_eq!(Purpose::ALL.into_iter().filter(|p| p.may(operation)).count(), 1, "{operation}");
            assert!(Algorithm::ALL.into_iter().any(|a| a.does(operation)), "{operation}");
        }
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.as_str()), Some(algorithm));
        }
    }
}
