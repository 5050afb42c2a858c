//! FIDO2 assertions over a payment, as `fido2-assert -G` of libfido2 prints them, checked strictly (CTAP 2.1; WebAuthn
//! level 2, sections 6.1 and 6.5).
//!
//! What is signed is `authenticatorData || clientDataHash`, and the client data hash is made here from the payment and the
//! request: an assertion for another one is worth nothing.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Verifier as _;

use crate::core::proof::{Digest, RequestId};
use crate::core::units::sha256;

/// Longest text of an assertion, bytes.
const MOST: usize = 8192;
/// Separates these hashes from all others.
const CONTEXT: &[u8] = b"claviger-tx-v1";
/// COSE keys in CTAP2's canonical CBOR have one form each: (-1 curve, -2 x, -3 y) behind (1 kty, 3 alg).
const ES256: &[u8] = &[0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20];
const ES256_Y: &[u8] = &[0x22, 0x58, 0x20];
const EDDSA: &[u8] = &[0xa4, 0x01, 0x01, 0x03, 0x27, 0x20, 0x06, 0x21, 0x58, 0x20];

/// Why an assertion is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// Not what `fido2-assert -G` prints.
    #[error("it is no assertion as fido2-assert -G prints them: {0}")]
    Malformed(&'static str),
    /// Of something else.
    #[error("it was made for another payment or request")]
    Other,
    /// Nobody was there.
    #[error("the authenticator {0}")]
    Presence(&'static str),
    /// It does not verify under any credential of the user.
    #[error("it does not verify under a credential that is enrolled")]
    Wrong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Es256(Vec<u8>),
    EdDsa([u8; 32]),
}

/// A credential that was enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Relying party id.
    pub rp: String,
    /// The authenticator's model, as it was at enrolment.
    pub aaguid: String,
    key: Key,
    cose: Vec<u8>,
}

/// An assertion that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asserted {
    /// Names the credential.
    pub fingerprint: String,
    /// Rises with each assertion, on most.
    pub counter: u32,
}

impl Credential {
    /// Reads one: relying party, COSE key in hex, AAGUID.
    pub fn read(rp: &str, public: &str, aaguid: &str) -> Result<Self, String> {
        let named = !rp.is_empty() && rp.len() <= 253 && rp.bytes().all(|b| b.is_ascii_graphic());
        if !named {
            return Err(format!("rp = {rp:?} is no relying party id such as claviger.example"));
        }
        let plain: String = aaguid.chars().filter(|c| *c != '-').collect();
        if plain.len() != 32 || hex::decode(&plain).is_err() {
            return Err(format!("aaguid = {aaguid:?} is 32 hex digits, with or without dashes"));
        }
        let cose = hex::decode(public).map_err(|e| format!("public is the COSE key in hex: {e}"))?;
        let es256 = || {
            let (x, rest) = cose.strip_prefix(ES256)?.split_first_chunk::<32>()?;
            let y: &[u8; 32] = rest.strip_prefix(ES256_Y)?.try_into().ok()?;
            let point = [&[4], x.as_slice(), y].concat();
            p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok().map(|_| Key::Es256(point))
        };
        let eddsa = || {
            let raw: [u8; 32] = cose.strip_prefix(EDDSA)?.try_into().ok()?;
            ed25519_dalek::VerifyingKey::from_bytes(&raw)
                .ok()
                .filter(|k| !k.is_weak())
                .map(|_| Key::EdDsa(raw))
        };
        let key =
            es256().or_else(eddsa).ok_or("public is no canonical COSE key of ES256 or EdDSA (Ed25519)")?;
        Ok(Self { rp: rp.to_owned(), aaguid: plain.to_lowercase(), key, cose })
    }

    /// Names it in counters and in the log.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("fido2:{}", hex::encode(sha256(&[self.rp.as_bytes(), b"\0", &self.cose].concat())))
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Es256(point) => {
                let signature = p256::ecdsa::Signature::from_der(signature);
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point);
                signature.is_ok_and(|s| key.is_ok_and(|k| k.verify(signed, &s.normalize_s()).is_ok()))
            }
            Key::EdDsa(raw) => <[u8; 64]>::try_from(signature).is_ok_and(|s| {
                ed25519_dalek::VerifyingKey::from_bytes(raw)
                    .is_ok_and(|k| !k.is_weak() && k.verify_strict(signed, &s.into()).is_ok())
            }),
        }
    }
}

/// What the authenticator is handed in place of a hash of client data.
#[must_use]
pub fn client_data_hash(digest: &Digest, request: RequestId) -> [u8; 32] {
    sha256(&[CONTEXT, digest, &request.0.to_be_bytes()].concat())
}

/// A CBOR byte string, whole.
fn byte_string(cbor: &[u8]) -> Option<&[u8]> {
    let (head, rest) = cbor.split_first()?;
    let (length, body) = match head {
        0x40..=0x57 => (usize::from(head & 0x1f), rest),
        0x58 => rest.split_first().map(|(n, body)| (usize::from(*n), body))?,
        0x59 => rest.split_first_chunk::<2>().map(|(n, body)| (usize::from(u16::from_be_bytes(*n)), body))?,
        _ => return None,
    };
    (body.len() == length).then_some(body)
}

/// Checks an assertion against a payment, a request and the credentials of a user.
// [clause 8.2.3-h] made for this very payment, by an authenticator that was touched and asked who touched it
pub fn verify(
    text: &str,
    digest: &Digest,
    request: RequestId,
    credentials: &[Credential],
) -> Result<Asserted, AssertionError> {
    use AssertionError::{Malformed, Other, Presence, Wrong};
    if text.len() > MOST {
        return Err(Malformed("it is too long"));
    }
    let mut lines = text.lines().map(str::trim);
    let mut line = || lines.next().filter(|l| !l.is_empty()).ok_or(Malformed("a line is missing"));
    let (hash, rp, data, signature) = (line()?, line()?, line()?, line()?);
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| Malformed("it is no base64"));
    let expected = client_data_hash(digest, request);
    if bytes(hash)? != expected {
        return Err(Other);
    }
    let (data, signature) = (bytes(data)?, bytes(signature)?);
    let data = byte_string(&data).ok_or(Malformed("the authenticator's data are no CBOR byte string"))?;
    let (named, rest) =
        data.split_first_chunk::<32>().ok_or(Malformed("the authenticator's data are cut"))?;
    let (flags, rest) = rest.split_first().ok_or(Malformed("the authenticator's data are cut"))?;
    let (counter, _extensions) =
        rest.split_first_chunk::<4>().ok_or(Malformed("the authenticator's data are cut"))?;
    let signed = [data, &expected].concat();
    let credential = credentials
        .iter()
        .filter(|c| c.rp == rp && sha256(c.rp.as_bytes()) == *named)
        .find(|c| c.verifies(&signed, &signature))
        .ok_or(Wrong)?;
    if flags & 0x01 == 0 {
        return Err(Presence("was not touched"));
    }
    if flags & 0x04 == 0 {
        return Err(Presence("did not ask for its PIN or a finger: use fido2-assert -G -v"));
    }
    Ok(Asserted { fingerprint: credential.fingerprint(), counter: u32::from_be_bytes(*counter) })
}

/// Whether a counter may follow the last one that was seen. Some authenticators never count and say 0 for ever; from one
/// that does, a number that does not rise comes from a copy.
#[must_use]
pub fn rises(last: Option<u32>, counter: u32) -> bool {
    match last {
        None | Some(0) => true,
        Some(last) => counter > last,
    }
}

#[cfg(test)]
#[path = "fido2_tests.rs"]
mod tests;
