//! Purposes and curves in the terms of PKCS#11: attributes of new keys, encodings of points.
#![forbid(unsafe_code)]

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass};

use super::super::profile::{Omit, Profile};
use super::super::{KeySpec, Use};
use crate::core::key::{Algorithm, PublicKey};

/// DER object identifiers for `CKA_EC_PARAMS`, or the curve's name as a `PrintableString` (PKCS#11 3.0, 6.3.5).
pub(super) fn curve(algorithm: Algorithm, by_name: bool) -> Vec<u8> {
    match algorithm {
        // 1.3.132.0.10
        Algorithm::Secp256k1 => vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
        // 1.2.840.10045.3.1.7
        Algorithm::P256 => vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        Algorithm::Ed25519 if by_name => [&[0x13, 12][..], b"edwards25519"].concat(),
        // 1.3.101.112
        Algorithm::Ed25519 => vec![0x06, 0x03, 0x2b, 0x65, 0x70],
        Algorithm::Aes256Gcm | Algorithm::HmacSha256 | Algorithm::Aes256Kw => Vec::new(),
    }
}

/// The curve of a `CKA_EC_PARAMS`.
pub(super) fn curve_of(params: &[u8]) -> Option<Algorithm> {
    Algorithm::PAIRS.into_iter().find(|a| curve(*a, false) == params || curve(*a, true) == params)
}

/// `CKA_EC_POINT`: DER OCTET STRING, DER BIT STRING, or raw.
pub(super) fn raw_point(algorithm: Algorithm, bytes: &[u8]) -> Option<&[u8]> {
    let length = if algorithm == Algorithm::Ed25519 { 32 } else { 65 };
    match bytes {
        [0x04, n, raw @ ..] if raw.len() == length && usize::from(*n) == length => Some(raw),
        [0x03, n, 0, raw @ ..] if raw.len() == length && usize::from(*n) == length + 1 => Some(raw),
        raw if raw.len() == length => Some(raw),
        _ => None,
    }
}

/// The one use of a key, spelled out: what it is for is true, everything else is false.
// [clause 8.7.2-b] the token itself refuses a key for what it is not for
fn uses(wanted: Option<Use>, pair: bool) -> Vec<Attribute> {
    let is = |which| wanted == Some(which);
    let mut all = vec![
        Attribute::Sign(is(Use::Sign) || is(Use::Mac)),
        Attribute::Decrypt(is(Use::Encrypt)),
        Attribute::Unwrap(is(Use::Wrap)),
        Attribute::Derive(false),
    ];
    if !pair {
        all.extend([
            Attribute::Verify(is(Use::Mac)),
            Attribute::Encrypt(is(Use::Encrypt)),
            Attribute::Wrap(is(Use::Wrap)),
        ]);
    }
    all
}

// [clause 8.2.5-a] made inside, never readable, never extractable, and nothing of this can be changed
fn private(spec: &KeySpec, profile: &Profile, wanted: Option<Use>, pair: bool) -> Vec<Attribute> {
    let omit = |what| profile.template.omit.contains(&what);
    let mut all = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Id(spec.reference.as_bytes().to_vec()),
        Attribute::Label(spec.label.clone().into_bytes()),
    ];
    all.extend(uses(wanted, pair).into_iter().filter(|a| match a {
        Attribute::Derive(_) => !omit(Omit::Derive),
        Attribute::Decrypt(false) | Attribute::Unwrap(false) => !omit(Omit::Decrypt),
        _ => true,
    }));
    if !omit(Omit::Modifiable) {
        all.push(Attribute::Modifiable(false));
    }
    if !omit(Omit::Copyable) {
        all.push(Attribute::Copyable(false));
    }
    if profile.template.wrap_with_trusted {
        all.push(Attribute::WrapWithTrusted(true));
    }
    if profile.template.allowed_mechanisms
        && let Some(only) = mechanism_of(spec.algorithm)
    {
        all.push(Attribute::AllowedMechanisms(vec![only]));
    }
    all
}

/// The one mechanism of a key, where there is one.
fn mechanism_of(algorithm: Algorithm) -> Option<MechanismType> {
    match algorithm {
        Algorithm::Secp256k1 | Algorithm::P256 => Some(MechanismType::ECDSA),
        Algorithm::Ed25519 => Some(MechanismType::EDDSA),
        Algorithm::Aes256Gcm => Some(MechanismType::AES_GCM),
        Algorithm::HmacSha256 => Some(MechanismType::SHA256_HMAC),
        // Tokens differ in the wrapping that they know: RFC 3394, RFC 5649 under two numbers.
        Algorithm::Aes256Kw => None,
    }
}

/// A secret key, or the private half of a pair, that may leave under a trusted wrapping key, and under no other.
// [clause 8.2.2-d] the token itself refuses every other wrapping key, and nobody takes that back
pub(super) fn may_leave(spec: &KeySpec, profile: &Profile) -> Vec<Attribute> {
    let mut all = private(spec, profile, Some(Use::of(spec.algorithm)), spec.algorithm.is_pair());
    all.retain(|a| !matches!(a, Attribute::Extractable(_) | Attribute::WrapWithTrusted(_)));
    all.extend([Attribute::Extractable(true), Attribute::WrapWithTrusted(true)]);
    all
}

/// How a key is made.
pub(super) enum Making {
    /// `C_GenerateKeyPair`.
    Pair(Mechanism<'static>, Vec<Attribute>, Vec<Attribute>),
    /// `C_GenerateKey`.
    Secret(Mechanism<'static>, Vec<Attribute>),
}

/// The template of a new key. `wanted` is its use; none at all is for proving that the token minds it.
pub(super) fn making(spec: &KeySpec, profile: &Profile, wanted: Option<Use>) -> Making {
    let pair = spec.algorithm.is_pair();
    let mut private = private(spec, profile, wanted, pair);
    if !pair {
        private.push(Attribute::ValueLen(32.into()));
    }
    let mechanism = match spec.algorithm {
        Algorithm::Secp256k1 | Algorithm::P256 => Mechanism::EccKeyPairGen,
        Algorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        Algorithm::Aes256Gcm | Algorithm::Aes256Kw => Mechanism::AesKeyGen,
        Algorithm::HmacSha256 => Mechanism::GenericSecretKeyGen,
    };
    if !pair {
        return Making::Secret(mechanism, private);
    }
    Making::Pair(mechanism, public(spec, profile), private)
}

/// The public half.
pub(super) fn public(spec: &KeySpec, profile: &Profile) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve(spec.algorithm, profile.template.ed25519_by_name)),
        Attribute::Id(spec.reference.as_bytes().to_vec()),
        Attribute::Label(spec.label.clone().into_bytes()),
    ]
}

/// How a pair from outside is put in: the private half, then the public one. The caller wipes the value.
// [clause 8.7.1-o] from now on it is as protected as a key that was made in the token
pub(super) fn putting(
    spec: &KeySpec,
    profile: &Profile,
    value: Vec<u8>,
    public: &PublicKey,
) -> (Vec<Attribute>, Vec<Attribute>) {
    let kind = if spec.algorithm == Algorithm::Ed25519 { KeyType::EC_EDWARDS } else { KeyType::EC };
    let curve = curve(spec.algorithm, profile.template.ed25519_by_name);
    let mut hidden = private(spec, profile, Some(Use::Sign), true);
    hidden.extend([
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(kind),
        Attribute::EcParams(curve.clone()),
        Attribute::Value(value),
    ]);
    // DER OCTET STRING.
    let raw = public.as_bytes();
    let mut point = vec![0x04, u8::try_from(raw.len()).unwrap_or(u8::MAX)];
    point.extend(raw);
    let open = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(kind),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve),
        Attribute::EcPoint(point),
        Attribute::Id(spec.reference.as_bytes().to_vec()),
        Attribute::Label(spec.label.clone().into_bytes()),
    ];
    (hidden, open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::{KeyRef, Purpose};

    #[test]
    fn points_are_read_in_each_vendors_encoding() {
        let raw = [7u8; 32];
        let octets = [&[0x04, 32][..], &raw].concat();
        let bits = [&[0x03, 33, 0][..], &raw].concat();
        for bytes in [&raw[..], &octets, &bits] {
            assert_eq!(raw_point(Algorithm::Ed25519, bytes), Some(&raw[..]));
        }
        assert_eq!(raw_point(Algorithm::Ed25519, &raw[1..]), None);
        let mut point = [9u8; 65];
        point[0] = 4;
        assert_eq!(raw_point(Algorithm::P256, &[&[0x04, 65][..], &point].concat()), Some(&point[..]));
        assert_eq!(raw_point(Algorithm::P256, &point), Some(&point[..]));
    }

    // [clause 8.7.2-b] test
    #[test]
    fn each_algorithm_is_made_for_one_use() {
        let profile = Profile::load("softhsm2").unwrap();
        for algorithm in Algorithm::ALL {
            let spec = KeySpec {
                reference: KeyRef::from([1; 16]),
                label: "k".into(),
                algorithm,
                purpose: Purpose::Payment,
            };
            let (Making::Pair(_, _, private) | Making::Secret(_, private)) =
                making(&spec, &profile, Some(Use::of(algorithm)));
            for fixed in
                [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Modifiable(false)]
            {
                assert!(private.contains(&fixed), "{algorithm}: {fixed:?}");
            }
            let on = [
                (Use::Sign, Attribute::Sign(true)),
                (Use::Encrypt, Attribute::Decrypt(true)),
                (Use::Wrap, Attribute::Unwrap(true)),
            ];
            for (which, attribute) in on {
                let wanted =
                    Use::of(algorithm) == which || (which == Use::Sign && Use::of(algorithm) == Use::Mac);
                assert_eq!(private.contains(&attribute), wanted, "{algorithm}: {attribute:?}");
            }
            assert!(!private.contains(&Attribute::Derive(true)));
        }
    }
}
