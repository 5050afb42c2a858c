//! What a token returned is checked in software before anybody sees it. Mints [`CheckedSignature`].
//!
//! ECDSA is brought to low S (EIP-2, BIP-146): about half of what modules return is not. The check also gives the parity of R that
//! Ethereum wants.
#![forbid(unsafe_code)]

use ed25519_dalek::VerifyingKey as EdKey;

use super::key::PublicKey;
use super::multiples::Prepared;
use super::payment::ToSign;
use super::units::Address;

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// r or s is zero or not below the order.
    #[error("r or s is out of range")]
    Range,
    /// It does not verify under the registered key.
    #[error("it does not verify under the registered public key")]
    Mismatch,
    /// A prehash for Ed25519, or a whole message for ECDSA.
    #[error("this algorithm does not sign this kind of input")]
    Kind,
}

/// A signature that verifies under the registered key, low S.
///
/// ```compile_fail
/// let forged = claviger::core::verify::CheckedSignature { rs: [0; 64], y_odd: false, digest: [0; 32] };
/// ```
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct CheckedSignature {
    rs: [u8; 64],
    y_odd: bool,
    digest: [u8; 32],
}

impl CheckedSignature {
    /// `r || s`, s low; RFC 8032's 64 bytes for Ed25519.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 64] {
        &self.rs
    }

    /// First half: r, big-endian; R for Ed25519.
    #[must_use]
    pub fn r(&self) -> [u8; 32] {
        *self.rs.first_chunk().unwrap_or(&[0; 32])
    }

    /// Second half: s, big-endian and low; S for Ed25519.
    #[must_use]
    pub fn s(&self) -> [u8; 32] {
        *self.rs.last_chunk().unwrap_or(&[0; 32])
    }

    /// Parity of R's y coordinate; meaningless for Ed25519.
    #[must_use]
    pub fn y_odd(&self) -> bool {
        self.y_odd
    }

    /// What it signs.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

/// FIPS 186-5, section 6.4.2, on the curve's own arithmetic: R = (z/s)G + (r/s)Q. The library's verifier computes the
/// same point and throws it away; its parity is needed here, and recovering it again would cost half as much once more.
/// R's x coordinate must be r itself, not only r modulo the order: Ethereum's v cannot say otherwise.
macro_rules! ecdsa {
    ($curve:ident, $key:expr, $prepared:expr, $hash:expr, $raw:expr) => {{
        use $curve::elliptic_curve::BatchNormalize;
        use $curve::elliptic_curve::ops::{Invert, MulByGeneratorVartime, Reduce};
        use $curve::elliptic_curve::point::AffineCoordinates;
        use $curve::{FieldBytes, ProjectivePoint, Scalar};
        let signature =
            $curve::ecdsa::Signature::from_slice($raw).map_err(|_| VerifyError::Range)?.normalize_s();
        let (r, s) = signature.split_scalars();
        let z = <Scalar as Reduce<FieldBytes>>::reduce(&FieldBytes::from(*$hash));
        let s_inv = *s.invert_vartime();
        let q = ProjectivePoint::from(*$key.as_affine());
        let (u1, u2) = (z * s_inv, *r * s_inv);
        let point = match $prepared.get(q, |points| ProjectivePoint::batch_normalize(points)) {
            Some(multiples) => {
                multiples.add(ProjectivePoint::mul_by_generator_vartime(&u1), &u2.to_bytes().into())
            }
            None => ProjectivePoint::mul_by_generator_and_mul_add_vartime(&u1, &u2, &q),
        }
        .to_affine();
        let rs: [u8; 64] = signature.to_bytes().into();
        let x: FieldBytes = point.x();
        if x.as_slice() != rs.first_chunk::<32>().unwrap_or(&[0; 32]) {
            return Err(VerifyError::Mismatch);
        }
        (rs, bool::from(point.y_is_odd()))
    }};
}

/// A public key prepared for many checks.
pub struct Verifier(Key);

enum Key {
    Secp256k1(Box<k256::ecdsa::VerifyingKey>, Prepared<k256::AffinePoint>),
    P256(Box<p256::ecdsa::VerifyingKey>, Prepared<p256::AffinePoint>),
    Ed25519(Box<EdKey>),
}

impl Verifier {
    /// `None` when the bytes are no point of the curve.
    #[must_use]
    pub fn new(public: &PublicKey) -> Option<Self> {
        Some(Self(match public {
            PublicKey::Secp256k1(b) => {
                let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(b).ok()?;
                Key::Secp256k1(Box::new(key), Prepared::new())
            }
            PublicKey::P256(b) => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(b).ok()?;
                Key::P256(Box::new(key), Prepared::new())
            }
            PublicKey::Ed25519(b) => Key::Ed25519(Box::new(EdKey::from_bytes(b).ok()?)),
            PublicKey::Secret(..) => return None,
        }))
    }

    /// Checks what the token returned for `to_sign`.
    // [clause 8.2.5-b] a token is an untrusted peer: nothing it returns is released unverified
    pub fn check(&self, to_sign: &ToSign, raw: &[u8; 64]) -> Result<CheckedSignature, VerifyError> {
        let digest = to_sign.digest();
        let (rs, y_odd) = match (&self.0, to_sign) {
            (Key::Secp256k1(key, prepared), ToSign::Prehash(hash)) => ecdsa!(k256, key, prepared, hash, raw),
            (Key::P256(key, prepared), ToSign::Prehash(hash)) => ecdsa!(p256, key, prepared, hash, raw),
            (Key::Ed25519(key), ToSign::Message(message)) => {
                let signature = ed25519_dalek::Signature::from_bytes(raw);
                key.verify_strict(message, &signature).map_err(|_| VerifyError::Mismatch)?;
                (*raw, false)
            }
            _ => return Err(VerifyError::Kind),
        };
        Ok(CheckedSignature { rs, y_odd, digest })
    }
}

/// Whether `r`, `s` (low, as EIP-2 wants it) and the parity of R are a signature of this hash by the key of this account,
/// on either curve that accounts are on.
#[must_use]
pub fn is_of_account(account: Address, hash: &[u8; 32], (r, s): (&[u8; 32], &[u8; 32]), y_odd: bool) -> bool {
    macro_rules! recovers {
        ($curve:ident, $kind:path) => {{
            use $curve::ecdsa::{RecoveryId, Signature, VerifyingKey};
            Signature::from_scalars(*r, *s)
                .ok()
                .filter(|signature| signature.normalize_s() == *signature)
                .and_then(|signature| {
                    let id = RecoveryId::new(y_odd, false);
                    VerifyingKey::recover_from_prehash(hash, &signature, id).ok()
                })
                .and_then(|key| key.to_sec1_point(false).as_bytes().try_into().ok())
                .and_then(|point| $kind(point).evm_address())
                == Some(account)
        }};
    }
    recovers!(k256, PublicKey::Secp256k1) || recovers!(p256, PublicKey::P256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::signature::hazmat::PrehashSigner;

    // [clause 8.2.5-b] test
    #[test]
    fn high_s_is_brought_low_and_a_wrong_signature_is_refused() {
        let key = k256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey::Secp256k1(point.as_bytes().try_into().unwrap());
        let verifier = Verifier::new(&public).unwrap();
        for n in 0..32u8 {
            let hash = [n; 32];
            let signature: k256::ecdsa::Signature = key.sign_prehash(&hash).unwrap();
            let low = signature.normalize_s();
            let high =
                k256::ecdsa::Signature::from_scalars(low.r().to_bytes(), (-*low.s()).to_bytes()).unwrap();
            let a = verifier.check(&ToSign::Prehash(hash), &low.to_bytes().into()).unwrap();
            let b = verifier.check(&ToSign::Prehash(hash), &high.to_bytes().into()).unwrap();
            assert_eq!(a, b);
            let mut broken: [u8; 64] = low.to_bytes().into();
            broken[40] ^= 1;
            assert_eq!(verifier.check(&ToSign::Prehash(hash), &broken), Err(VerifyError::Mismatch));
            assert_eq!(
                verifier.check(&ToSign::Prehash([n ^ 1; 32]), &low.to_bytes().into()),
                Err(VerifyError::Mismatch)
            );
        }
        assert_eq!(verifier.check(&ToSign::Prehash([0; 32]), &[0; 64]), Err(VerifyError::Range));
        assert_eq!(verifier.check(&ToSign::Message(vec![1]), &[1; 64]), Err(VerifyError::Kind));
    }

    impl Verifier {
        /// As after many checks.
        fn prepared(self) -> Self {
            match &self.0 {
                Key::Secp256k1(key, prepared) => prepared.now(
                    k256::ProjectivePoint::from(*key.as_affine()),
                    <k256::ProjectivePoint as k256::elliptic_curve::BatchNormalize<[_]>>::batch_normalize,
                ),
                Key::P256(key, prepared) => prepared.now(
                    p256::ProjectivePoint::from(*key.as_affine()),
                    <p256::ProjectivePoint as p256::elliptic_curve::BatchNormalize<[_]>>::batch_normalize,
                ),
                Key::Ed25519(_) => {}
            }
            self
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn it_agrees_with_the_librarys_verifier_and_recovery(seed in proptest::prelude::any::<[u8; 32]>(), hash in proptest::prelude::any::<[u8; 32]>(), flip in 0usize..1024) {
            macro_rules! agree {
                ($curve:ident, $kind:ident) => {
                    let Ok(key) = $curve::ecdsa::SigningKey::from_slice(&seed) else { return Ok(()) };
                    let point = key.verifying_key().to_sec1_point(false);
                    let public = PublicKey::$kind(point.as_bytes().try_into().unwrap());
                    let verifier = Verifier::new(&public).unwrap();
                    let prepared = Verifier::new(&public).unwrap().prepared();
                    let signature: $curve::ecdsa::Signature = key.sign_prehash(&hash).unwrap();
                    let checked = verifier.check(&ToSign::Prehash(hash), &signature.to_bytes().into()).unwrap();
                    proptest::prop_assert_eq!(&prepared.check(&ToSign::Prehash(hash), &signature.to_bytes().into()), &Ok(checked));
                    let checked = verifier.check(&ToSign::Prehash(hash), &signature.to_bytes().into()).unwrap();
                    let low = $curve::ecdsa::Signature::from_slice(&checked.rs).unwrap();
                    let id = $curve::ecdsa::RecoveryId::new(checked.y_odd(), false);
                    let found = $curve::ecdsa::VerifyingKey::recover_from_prehash(&hash, &low, id).unwrap();
                    proptest::prop_assert_eq!(&found, key.verifying_key());
                    if flip < 512 {
                        let mut broken = checked.rs;
                        broken[flip / 8] ^= 1 << (flip % 8);
                        let ours = verifier.check(&ToSign::Prehash(hash), &broken).is_ok();
                        proptest::prop_assert_eq!(prepared.check(&ToSign::Prehash(hash), &broken).is_ok(), ours);
                        let theirs = $curve::ecdsa::Signature::from_slice(&broken).is_ok_and(|s| {
                            use $curve::ecdsa::signature::hazmat::PrehashVerifier;
                            key.verifying_key().verify_prehash(&hash, &s.normalize_s()).is_ok()
                        });
                        proptest::prop_assert_eq!(ours, theirs);
                    }
                };
            }
            agree!(k256, Secp256k1);
            agree!(p256, P256);
        }
    }

    #[test]
    fn points_off_the_curve_are_refused() {
        let mut point = [4u8; 65];
        assert!(Verifier::new(&PublicKey::Secp256k1(point)).is_none());
        point[64] = 5;
        assert!(Verifier::new(&PublicKey::P256(point)).is_none());
    }
}
