//! How keys leave a token for a backup and come back: wrapped, under one key, and in no other way. [clause 8.2.2]
#![forbid(unsafe_code)]

use aes_gcm::KeyInit;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{CHECK_INPUT, KeySpec, TokenError, check_value};
use crate::core::key::{Algorithm, KeyRef, PublicKey};
use crate::core::units::sha256;

/// What a token is asked.
#[derive(Clone, Serialize, Deserialize)]
pub enum Ask {
    /// To take the key in that backups are wrapped under: 32 bytes for RFC 5649. It wraps, and never leaves.
    /// A key that is there already must be the same.
    Take {
        /// Its id.
        reference: KeyRef,
        /// The key.
        key: Zeroizing<Vec<u8>>,
    },
    /// To make a pair that may leave under that key alone.
    Make {
        /// The pair.
        spec: KeySpec,
        /// The wrapping key.
        by: KeyRef,
    },
    /// To wrap such a pair.
    Wrap {
        /// The pair.
        reference: KeyRef,
        /// The wrapping key.
        by: KeyRef,
    },
    /// To take a wrapped pair in, protected as one that was made there. The quorum brings the key itself along: the one
    /// in the token wraps and does not unwrap, or whoever has the PIN could take keys out and put them back unprotected.
    Unwrap {
        /// What it shall be.
        spec: KeySpec,
        /// The wrapping key under which it may leave again.
        by: KeyRef,
        /// That key's value, 32 bytes; it does not stay.
        under: Zeroizing<Vec<u8>>,
        /// The public half that it must have.
        public: Vec<u8>,
        /// What [`Ask::Wrap`] gave, there or elsewhere.
        wrapped: Vec<u8>,
    },
}

/// What it gives.
#[derive(Serialize, Deserialize)]
pub enum Made {
    /// Algorithm and bytes of the public half, or of what stands for it.
    Public(Algorithm, Vec<u8>),
    /// PKCS#8 under RFC 5649.
    Wrapped(Vec<u8>),
}

impl Made {
    /// Of a key.
    #[must_use]
    pub fn of(public: &PublicKey) -> Self {
        Self::Public(public.algorithm(), public.as_bytes().to_vec())
    }

    /// The public half.
    pub fn public(self) -> Result<PublicKey, TokenError> {
        match self {
            Self::Public(algorithm, bytes) => PublicKey::from_bytes(algorithm, &bytes),
            Self::Wrapped(_) => None,
        }
        .ok_or_else(|| TokenError::Corrupt("it gave no public key".into()))
    }

    /// The wrapped key.
    pub fn wrapped(self) -> Result<Vec<u8>, TokenError> {
        match self {
            Self::Wrapped(bytes) => Ok(bytes),
            Self::Public(..) => Err(TokenError::Corrupt("it gave no wrapped key".into())),
        }
    }
}

/// What a token must find for the wrapping key of this value.
#[must_use]
pub fn check_of(key: &[u8; 32]) -> Option<PublicKey> {
    let mut wrapped = [0; 40];
    aes_kw::KwAes256::new(key.into()).wrap_key(&sha256(CHECK_INPUT), &mut wrapped).ok()?;
    Some(check_value(Algorithm::Aes256Kw, &wrapped))
}
