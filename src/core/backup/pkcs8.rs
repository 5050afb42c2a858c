//! Keys as tokens wrap them: private ones in PKCS#8 (RFC 5208, RFC 5958), for three curves, and secret ones as they are.
//! [clause 8.2.2]
#![forbid(unsafe_code)]

use aes_gcm::KeyInit;
use aes_kw::KwpAes256;
use zeroize::Zeroizing;

use super::slip39::Wiped;
use crate::core::key::Algorithm;
use crate::secret::SecretBytes;

/// Version 0, the algorithm, and the head of the octets that hold the 32 bytes at the end.
fn template(algorithm: Algorithm) -> Option<(&'static [u8], &'static [u8])> {
    match algorithm {
        // id-ecPublicKey, secp256k1; ECPrivateKey (RFC 5915) of version 1.
        Algorithm::Secp256k1 => Some((
            b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x0a",
            b"\x30\x25\x02\x01\x01\x04\x20",
        )),
        Algorithm::P256 => Some((
            b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
            b"\x30\x25\x02\x01\x01\x04\x20",
        )),
        // RFC 8410: the key is an octet string inside the octets.
        Algorithm::Ed25519 => Some((b"\x30\x05\x06\x03\x2b\x65\x70", b"\x04\x20")),
        Algorithm::Aes256Gcm | Algorithm::HmacSha256 | Algorithm::Aes256Kw => None,
    }
}

/// The shortest encoding. A secret key is its 32 bytes.
#[must_use]
pub fn encode(algorithm: Algorithm, key: &SecretBytes<32>) -> Option<Wiped> {
    let Some((kind, head)) = template(algorithm) else {
        return Some(Zeroizing::new(key.expose().to_vec()));
    };
    let octets = head.len().checked_add(32)?;
    let body = kind.len().checked_add(octets)?.checked_add(5)?;
    let mut der = Zeroizing::new(Vec::with_capacity(body.checked_add(2)?));
    der.extend([0x30, u8::try_from(body).ok()?, 0x02, 0x01, 0x00]);
    der.extend(kind);
    der.extend([0x04, u8::try_from(octets).ok()?]);
    der.extend(head);
    der.extend(key.expose());
    Some(der)
}

/// The value of an element with this tag, and what follows it. Lengths of one byte, or of two with the first 0x81.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match bytes {
        [t, 0x81, n, rest @ ..] if *t == tag && *n >= 0x80 => (*n, rest),
        [t, n, rest @ ..] if *t == tag && *n < 0x80 => (*n, rest),
        _ => return None,
    };
    rest.split_at_checked(usize::from(length))
}

/// Reads what a token wrapped: public halves, attributes and the zeros that some put behind are left aside.
#[must_use]
pub fn decode(algorithm: Algorithm, der: &[u8]) -> Option<SecretBytes<32>> {
    let Some((kind, head)) = template(algorithm) else {
        return der.try_into().ok().map(SecretBytes::copy_of);
    };
    let (body, behind) = element(der, 0x30)?;
    if behind.len() > 7 || behind.iter().any(|b| *b != 0) {
        return None;
    }
    let (version, rest) = element(body, 0x02)?;
    let (octets, _) = element(rest.strip_prefix(kind)?, 0x04)?;
    let key: &[u8] = if head.len() == 2 {
        octets.strip_prefix(head)?
    } else {
        let (inner, _) = element(octets, 0x30)?;
        element(inner.strip_prefix(b"\x02\x01\x01")?, 0x04)?.0
    };
    matches!(version, [0 | 1]).then(|| key.try_into().ok().map(SecretBytes::copy_of)).flatten()
}

/// The longest wrapped key that is read.
pub const LONGEST: usize = 256;

/// Whether a wrapped key of this algorithm can have this length.
#[must_use]
pub fn may_be(algorithm: Algorithm, length: usize) -> bool {
    if algorithm.is_pair() {
        length.is_multiple_of(8) && (56..=LONGEST).contains(&length)
    } else {
        length == 40
    }
}

/// Wraps by RFC 5649.
#[must_use]
pub fn wrap(algorithm: Algorithm, under: &SecretBytes<32>, key: &SecretBytes<32>) -> Option<Vec<u8>> {
    let mut wrapped = [0; LONGEST];
    let plain = encode(algorithm, key)?;
    Some(KwpAes256::new(under.expose().into()).wrap_key(&plain, &mut wrapped).ok()?.to_vec())
}

/// The inverse; `None` for what was not wrapped under this key, or is no such key.
#[must_use]
pub fn unwrap(algorithm: Algorithm, under: &SecretBytes<32>, wrapped: &[u8]) -> Option<SecretBytes<32>> {
    let mut room = Zeroizing::new([0; LONGEST]);
    decode(algorithm, KwpAes256::new(under.expose().into()).unwrap_key(wrapped, room.as_mut_slice()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.2-c] test
    #[test]
    fn keys_come_back_and_nothing_else_passes_for_one() {
        let key = SecretBytes::copy_of(&std::array::from_fn(|n| u8::try_from(n).unwrap() + 1));
        for algorithm in Algorithm::PAIRS {
            let der = encode(algorithm, &key).unwrap();
            assert_eq!(usize::from(der[1]) + 2, der.len());
            assert_eq!(decode(algorithm, &der).unwrap().expose(), key.expose());
            let padded = [&der[..], &[0; 5]].concat();
            assert_eq!(decode(algorithm, &padded).unwrap().expose(), key.expose());
            for other in Algorithm::ALL.into_iter().filter(|a| *a != algorithm) {
                assert!(decode(other, &der).is_none());
            }
            for length in 0..der.len() {
                assert!(decode(algorithm, &der[..length]).is_none());
            }
            assert!(decode(algorithm, &[&der[..], &[1]].concat()).is_none());
            assert!(decode(algorithm, &[&der[..], &[0; 8]].concat()).is_none());
        }
        // A secret key is its bytes, and neither passes for the other.
        for algorithm in Algorithm::ALL.into_iter().filter(|a| !a.is_pair()) {
            let raw = encode(algorithm, &key).unwrap();
            assert_eq!(decode(algorithm, &raw).unwrap().expose(), key.expose());
            assert!(decode(algorithm, &raw[..31]).is_none() && decode(Algorithm::P256, &raw).is_none());
            let wrapped = wrap(algorithm, &key, &key).unwrap();
            assert!(may_be(algorithm, wrapped.len()) && !may_be(Algorithm::P256, wrapped.len()));
        }
        assert!(may_be(Algorithm::P256, wrap(Algorithm::P256, &key, &key).unwrap().len()));
        assert!(!may_be(Algorithm::P256, 57) && !may_be(Algorithm::P256, 264));
    }

    #[test]
    fn what_openssl_writes_is_read() {
        // openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -outform DER: with the public half inside.
        let der = hex::decode(concat!(
            "308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420",
            "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20",
            "a14403420004515c3d6eb9e396b904d3feca7f54fdcd0cc1e997bf375dca515ad0a6c3b4035f",
            "4536be3a50f318fbf9a5475902a221502bef0d57e08c53b2cc0a56f17d9f9354"
        ))
        .unwrap();
        let key = decode(Algorithm::P256, &der).unwrap();
        assert_eq!((key.expose()[0], key.expose()[31]), (1, 32));
        assert!(decode(Algorithm::Secp256k1, &der).is_none());
    }
}
