//! What the embedded token computes with: one key in memory, wiped when it is dropped.
#![forbid(unsafe_code)]

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce as GcmNonce};
use hmac::{Hmac, Mac};
use k256::ecdsa::signature::hazmat::PrehashSigner;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::super::backup::check_of;
use super::super::{CHECK_INPUT, CHECK_NONCE, Nonce, RawSignature, TokenError, check_value};
use super::corrupt;
use crate::core::key::{Algorithm, PublicKey};
use crate::core::payment::ToSign;
use crate::secret::SecretBytes;

pub(super) enum Private {
    Secp256k1(Box<k256::ecdsa::SigningKey>),
    P256(Box<p256::ecdsa::SigningKey>),
    Ed25519(Box<ed25519_dalek::SigningKey>),
    Secret(Algorithm, SecretBytes<32>),
}

fn wrong<T>(what: &str) -> Result<T, TokenError> {
    Err(TokenError::Refused(format!("this key is not for {what}")))
}

impl Private {
    pub(super) fn from_bytes(algorithm: Algorithm, bytes: &[u8; 32]) -> Option<Self> {
        Some(match algorithm {
            Algorithm::Secp256k1 => {
                Self::Secp256k1(Box::new(k256::ecdsa::SigningKey::from_slice(bytes).ok()?))
            }
            Algorithm::P256 => Self::P256(Box::new(p256::ecdsa::SigningKey::from_slice(bytes).ok()?)),
            Algorithm::Ed25519 => Self::Ed25519(Box::new(ed25519_dalek::SigningKey::from_bytes(bytes))),
            Algorithm::Aes256Gcm | Algorithm::HmacSha256 | Algorithm::Aes256Kw => {
                Self::Secret(algorithm, SecretBytes::copy_of(bytes))
            }
        })
    }

    /// The 32 bytes that it is made of.
    pub(super) fn expose(&self) -> SecretBytes<32> {
        let copy = |bytes: [u8; 32]| SecretBytes::copy_of(&Zeroizing::new(bytes));
        match self {
            Self::Secp256k1(key) => copy(key.to_bytes().into()),
            Self::P256(key) => copy(key.to_bytes().into()),
            Self::Ed25519(key) => copy(key.to_bytes()),
            Self::Secret(_, key) => SecretBytes::copy_of(key.expose()),
        }
    }

    /// The public half, or what stands for it.
    pub(super) fn public(&self) -> Option<PublicKey> {
        match self {
            Self::Secp256k1(key) => PublicKey::from_bytes(
                Algorithm::Secp256k1,
                key.verifying_key().to_sec1_point(false).as_bytes(),
            ),
            Self::P256(key) => {
                PublicKey::from_bytes(Algorithm::P256, key.verifying_key().to_sec1_point(false).as_bytes())
            }
            Self::Ed25519(key) => Some(PublicKey::Ed25519(key.verifying_key().to_bytes())),
            Self::Secret(algorithm @ Algorithm::Aes256Gcm, _) => {
                Some(check_value(*algorithm, &self.encrypt(CHECK_NONCE, CHECK_INPUT, &[]).ok()?))
            }
            Self::Secret(Algorithm::Aes256Kw, key) => check_of(key.expose()),
            Self::Secret(algorithm, _) => Some(check_value(*algorithm, &self.mac(CHECK_INPUT).ok()?)),
        }
    }

    pub(super) fn sign(&self, algorithm: Algorithm, to_sign: &ToSign) -> Result<RawSignature, TokenError> {
        let failed = |_| corrupt("the key did not sign");
        match (self, to_sign) {
            (Self::Secp256k1(key), ToSign::Prehash(hash)) if algorithm == Algorithm::Secp256k1 => {
                let signature: k256::ecdsa::Signature = key.sign_prehash(hash).map_err(failed)?;
                Ok(signature.to_bytes().into())
            }
            (Self::P256(key), ToSign::Prehash(hash)) if algorithm == Algorithm::P256 => {
                let signature: p256::ecdsa::Signature = key.sign_prehash(hash).map_err(failed)?;
                Ok(signature.to_bytes().into())
            }
            (Self::Ed25519(key), ToSign::Message(message)) if algorithm == Algorithm::Ed25519 => {
                Ok(ed25519_dalek::Signer::sign(key.as_ref(), message).to_bytes())
            }
            _ => Err(TokenError::Unsupported("this key does not sign this kind of input".into())),
        }
    }

    fn gcm(&self) -> Result<Aes256Gcm, TokenError> {
        match self {
            Self::Secret(Algorithm::Aes256Gcm, key) => Ok(Aes256Gcm::new(key.expose().into())),
            _ => wrong("encrypting"),
        }
    }

    pub(super) fn encrypt(&self, nonce: Nonce, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, TokenError> {
        self.gcm()?.encrypt(&GcmNonce::from(nonce), Payload { msg: plain, aad }).map_err(corrupt)
    }

    pub(super) fn decrypt(
        &self,
        nonce: Nonce,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.gcm()?
            .decrypt(&GcmNonce::from(nonce), Payload { msg: sealed, aad })
            .map(Zeroizing::new)
            .map_err(|_| TokenError::Invalid("its tag does not verify".into()))
    }

    pub(super) fn mac(&self, data: &[u8]) -> Result<[u8; 32], TokenError> {
        let Self::Secret(Algorithm::HmacSha256, key) = self else { return wrong("making MACs") };
        let mut hmac = Hmac::<Sha256>::new_from_slice(key.expose()).map_err(corrupt)?;
        hmac.update(data);
        Ok(hmac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;

    /// The tests of a Wycheproof file under 256-bit keys, with their group.
    fn cases(file: &str) -> Vec<(Value, Value)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let groups = all["testGroups"].as_array().unwrap();
        let of_256 = groups.iter().filter(|g| g["keySize"] == 256);
        of_256.flat_map(|g| g["tests"].as_array().unwrap().iter().map(|t| (g.clone(), t.clone()))).collect()
    }

    fn bytes(value: &Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap()).unwrap()
    }

    fn key(algorithm: Algorithm, case: &Value) -> Private {
        let raw: [u8; 32] = bytes(&case["key"]).try_into().unwrap();
        Private::from_bytes(algorithm, &raw).unwrap()
    }

    // [clause 8.7.2-b] test
    #[test]
    fn encryption_is_what_wycheproof_says() {
        let (mut good, mut bad) = (0, 0);
        for (group, case) in cases("aes_gcm_test.json") {
            // Other nonces and tags do not fit the call.
            if group["ivSize"] != 96 || group["tagSize"] != 128 {
                continue;
            }
            let key = key(Algorithm::Aes256Gcm, &case);
            let nonce: Nonce = bytes(&case["iv"]).try_into().unwrap();
            let (aad, plain) = (bytes(&case["aad"]), bytes(&case["msg"]));
            let sealed = [bytes(&case["ct"]), bytes(&case["tag"])].concat();
            let opened = key.decrypt(nonce, &aad, &sealed);
            if case["result"] == "valid" {
                assert_eq!(key.encrypt(nonce, &aad, &plain).unwrap(), sealed, "{case}");
                assert_eq!(*opened.unwrap(), plain, "{case}");
                good += 1;
            } else {
                assert!(matches!(opened, Err(TokenError::Invalid(_))), "{case}");
                bad += 1;
            }
        }
        assert!(good > 30 && bad > 20, "{good} {bad}");
    }

    // [clause 8.7.2-b] test
    #[test]
    fn macs_are_what_wycheproof_says() {
        let (mut good, mut bad) = (0, 0);
        for (group, case) in cases("hmac_sha256_test.json") {
            // Cut tags are not taken.
            if group["tagSize"] != 256 {
                continue;
            }
            let tag = key(Algorithm::HmacSha256, &case).mac(&bytes(&case["msg"])).unwrap();
            if case["result"] == "valid" {
                assert_eq!(tag.as_slice(), bytes(&case["tag"]), "{case}");
                good += 1;
            } else {
                assert_ne!(tag.as_slice(), bytes(&case["tag"]), "{case}");
                bad += 1;
            }
        }
        assert!(good > 20 && bad > 20, "{good} {bad}");
    }

    #[test]
    fn a_secret_key_does_one_thing_and_its_check_value_tells_it_from_others() {
        let mut seen = Vec::new();
        for algorithm in [Algorithm::Aes256Gcm, Algorithm::HmacSha256, Algorithm::Aes256Kw] {
            for byte in [1, 2] {
                let key = Private::from_bytes(algorithm, &[byte; 32]).unwrap();
                assert_eq!(key.encrypt([0; 12], b"", b"x").is_ok(), algorithm == Algorithm::Aes256Gcm);
                assert_eq!(key.mac(b"x").is_ok(), algorithm == Algorithm::HmacSha256);
                assert!(key.sign(algorithm, &ToSign::Prehash([0; 32])).is_err());
                let check = key.public().unwrap();
                assert_eq!(check.algorithm(), algorithm);
                assert!(!seen.contains(&check));
                seen.push(check);
            }
        }
    }
}
