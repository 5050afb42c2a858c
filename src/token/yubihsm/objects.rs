//! Our keys among the device's objects: what they are called, where they live, what they may do.
#![forbid(unsafe_code)]

use yubihsm::object::{self, Info, Label, Origin};
use yubihsm::{Algorithm as Any, Capability, Domain, asymmetric, hmac};

use super::TokenError;
use crate::core::key::{Algorithm, KeyRef, Purpose};

/// With the 32 hex digits of a reference it fills the 40 bytes of a label.
const PREFIX: &str = "claviger";

/// What the daemon's authentication key needs, and no more.
pub(super) const NEEDED: Capability = Capability::GENERATE_ASYMMETRIC_KEY
    .union(Capability::GENERATE_HMAC_KEY)
    .union(Capability::SIGN_ECDSA)
    .union(Capability::SIGN_EDDSA)
    .union(Capability::SIGN_HMAC)
    .union(Capability::DELETE_ASYMMETRIC_KEY)
    .union(Capability::DELETE_HMAC_KEY)
    .union(Capability::PUT_OPAQUE)
    .union(Capability::GET_OPAQUE)
    .union(Capability::DELETE_OPAQUE)
    .union(Capability::GET_PSEUDO_RANDOM)
    .union(Capability::GET_LOG_ENTRIES)
    .union(Capability::GET_OPTION);

/// A key of ours, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) id: object::Id,
    pub(super) kind: object::Type,
    pub(super) algorithm: Algorithm,
    pub(super) sequence: u8,
}

/// A key's label is its reference: the device can be asked for it, and it holds whatever the key is called outside.
pub(super) fn label(reference: KeyRef) -> Label {
    let mut bytes = [0; object::LABEL_SIZE];
    bytes.iter_mut().zip(format!("{PREFIX}{reference}").bytes()).for_each(|(to, from)| *to = from);
    Label(bytes)
}

/// What an inventory names, and how.
pub(super) const KINDS: [(object::Type, &str); 5] = [
    (object::Type::AsymmetricKey, "private"),
    (object::Type::HmacKey, "secret"),
    (object::Type::WrapKey, "wrap key"),
    (object::Type::AuthenticationKey, "authentication key"),
    (object::Type::Opaque, "opaque"),
];

/// The label of data.
pub(super) fn data_label(text: &str) -> Result<Label, TokenError> {
    if text.len() > object::LABEL_SIZE {
        return Err(TokenError::Unsupported(format!(
            "a label in a YubiHSM has {} bytes",
            object::LABEL_SIZE
        )));
    }
    let mut bytes = [0; object::LABEL_SIZE];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    Ok(Label(bytes))
}

/// The inverse of [`label`].
pub(super) fn reference(label: &str) -> Option<KeyRef> {
    label.strip_prefix(PREFIX).and_then(KeyRef::parse).filter(|reference| is_ours(*reference))
}

/// Whether a reference is one of ours: 16 bytes. Others fit no label, and nothing in a YubiHSM is taken over.
pub(super) fn is_ours(reference: KeyRef) -> bool {
    reference.as_bytes().len() == 16
}

/// The object ids to try for a new key. We choose, so that the device's log names the id that we expect there.
pub(super) fn ids(reference: KeyRef) -> impl Iterator<Item = object::Id> {
    let [a, b, c, d] = reference.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
    let (first, step) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]) | 1);
    (0..64u16)
        .map(move |n| first.wrapping_add(n.wrapping_mul(step)))
        .filter(|id| !matches!(id, 0 | 1 | 0xffff))
}

/// Each purpose has a domain of its own.
// [clause 8.7.2-a] the device keeps purposes apart: a session sees the domains of its authentication key alone
pub(super) fn domain(purpose: Purpose) -> Domain {
    match purpose {
        Purpose::Payment => Domain::DOM1,
        Purpose::Authentication => Domain::DOM2,
        Purpose::Encryption => Domain::DOM3,
        Purpose::Integrity => Domain::DOM4,
        Purpose::Transport => Domain::DOM5,
        Purpose::Random => Domain::DOM6,
    }
}

/// All of ours.
pub(super) fn domains() -> Domain {
    Purpose::ALL.into_iter().map(domain).fold(Domain::empty(), Domain::union)
}

/// The one thing that a key may do. None of ours is exportable under wrap.
pub(super) fn capability(algorithm: Algorithm) -> Result<Capability, TokenError> {
    match algorithm {
        Algorithm::Secp256k1 | Algorithm::P256 => Ok(Capability::SIGN_ECDSA),
        Algorithm::Ed25519 => Ok(Capability::SIGN_EDDSA),
        Algorithm::HmacSha256 => Ok(Capability::SIGN_HMAC),
        Algorithm::Aes256Gcm | Algorithm::Aes256Kw => Err(unsupported(algorithm)),
    }
}

pub(super) fn unsupported(algorithm: Algorithm) -> TokenError {
    TokenError::Unsupported(format!(
        "a YubiHSM 2 has no {algorithm}: it encrypts and wraps with AES-CCM, under nonces of its own"
    ))
}

/// The curve of a pair; `None` for an HMAC key.
pub(super) fn curve(algorithm: Algorithm) -> Option<asymmetric::Algorithm> {
    match algorithm {
        Algorithm::Secp256k1 => Some(asymmetric::Algorithm::EcK256),
        Algorithm::P256 => Some(asymmetric::Algorithm::EcP256),
        Algorithm::Ed25519 => Some(asymmetric::Algorithm::Ed25519),
        Algorithm::HmacSha256 | Algorithm::Aes256Gcm | Algorithm::Aes256Kw => None,
    }
}

fn algorithm(info: &Info) -> Option<Algorithm> {
    match info.algorithm {
        Any::Asymmetric(found) => Algorithm::PAIRS.into_iter().find(|a| curve(*a) == Some(found)),
        Any::Hmac(hmac::Algorithm::Sha256) => Some(Algorithm::HmacSha256),
        _ => None,
    }
}

/// Takes an object for one of ours only when everything about it is as we make keys.
pub(super) fn recognise(info: &Info, reference: KeyRef) -> Result<Known, TokenError> {
    let wrong = |what: &str| {
        Err(TokenError::Corrupt(format!(
            "object {:#06x}, labelled as key {reference}, {what}",
            info.object_id
        )))
    };
    if info.label != label(reference) {
        return wrong("is labelled otherwise in its own words");
    }
    let Some(algorithm) = algorithm(info) else {
        return wrong("is no key of a kind that we make");
    };
    let kind = if algorithm.is_pair() { object::Type::AsymmetricKey } else { object::Type::HmacKey };
    if info.object_type != kind {
        return wrong("is of another type than its algorithm");
    }
    // [clause 8.2.5-a] a key that came from outside, or may leave, is not taken for one of ours
    if info.origin != Origin::Generated {
        return wrong("was not generated in this device");
    }
    if info.capabilities != capability(algorithm)? || !info.delegated_capabilities.is_empty() {
        return wrong("may do something else than its one thing");
    }
    if !Purpose::ALL.into_iter().any(|p| domain(p) == info.domains) {
        return wrong("is not in exactly one of our domains");
    }
    Ok(Known { id: info.object_id, kind, algorithm, sequence: info.sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(reference: KeyRef) -> Info {
        Info {
            capabilities: Capability::SIGN_ECDSA,
            object_id: 7,
            length: 96,
            domains: Domain::DOM1,
            object_type: object::Type::AsymmetricKey,
            algorithm: Any::Asymmetric(asymmetric::Algorithm::EcK256),
            sequence: 3,
            origin: Origin::Generated,
            label: label(reference),
            delegated_capabilities: Capability::empty(),
        }
    }

    // [clause 8.2.5-a] test
    #[test]
    fn only_what_is_wholly_ours_is_ours() {
        let reference = KeyRef::from([0xab; 16]);
        assert_eq!(label(reference).try_as_str().unwrap(), format!("claviger{}", "ab".repeat(16)));
        let known = recognise(&info(reference), reference).unwrap();
        assert_eq!((known.algorithm, known.sequence), (Algorithm::Secp256k1, 3));
        let changes: [fn(&mut Info); 8] = [
            |i| i.capabilities |= Capability::EXPORTABLE_UNDER_WRAP,
            |i| i.capabilities = Capability::SIGN_EDDSA,
            |i| i.origin = Origin::Imported,
            |i| i.origin = Origin::WrappedGenerated,
            |i| i.domains = Domain::DOM1 | Domain::DOM2,
            |i| i.domains = Domain::DOM7,
            |i| i.object_type = object::Type::HmacKey,
            |i| i.label = label(KeyRef::from([1; 16])),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut other = info(reference);
            change(&mut other);
            assert!(matches!(recognise(&other, reference), Err(TokenError::Corrupt(_))), "change {n}");
        }
    }

    #[test]
    fn no_new_key_takes_a_reserved_place() {
        for reference in [KeyRef::from([0; 16]), KeyRef::from([0xff; 16]), KeyRef::from([1; 16])] {
            let tried: Vec<u16> = ids(reference).collect();
            assert!(tried.len() > 32 && !tried.iter().any(|id| matches!(id, 0 | 1 | 0xffff)));
        }
    }
}
