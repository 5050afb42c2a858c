//! Checkpoints: C2SP tlog-checkpoint in a signed-note, Ed25519 (type 0x01). Bytes in, bytes out; the key is elsewhere.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, VerifyingKey};

use super::super::units::sha256;

const ED25519: u8 = 1;

/// Why a checkpoint was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not of the format.
    #[error("it is no signed checkpoint: {0}")]
    Format(&'static str),
    /// The verifier key is not one.
    #[error("the verifier key is wrong: {0}")]
    Key(&'static str),
    /// No signature by the key verifies.
    #[error("no signature by {0} verifies")]
    Signature(String),
}

/// The head of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Names the log.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root.
    pub root: [u8; 32],
}

/// The text that is signed: origin, size, base64 root, a line each.
#[must_use]
pub fn body(origin: &str, size: u64, root: &[u8; 32]) -> String {
    format!("{origin}\n{size}\n{}\n", BASE64.encode(root))
}

fn key_id(name: &str, public: &[u8]) -> [u8; 4] {
    let mut text = format!("{name}\n").into_bytes();
    text.push(ED25519);
    text.extend_from_slice(public);
    *sha256(&text).first_chunk().unwrap_or(&[0; 4])
}

/// The signed note.
#[must_use]
pub fn note(body: &str, name: &str, public: &[u8], signature: &[u8; 64]) -> String {
    let mut blob = key_id(name, public).to_vec();
    blob.extend_from_slice(signature);
    format!("{body}\n\u{2014} {name} {}\n", BASE64.encode(blob))
}

/// The verifier key: `name+hash+base64(0x01 || public)`.
#[must_use]
pub fn verifier_key(name: &str, public: &[u8]) -> String {
    let mut blob = vec![ED25519];
    blob.extend_from_slice(public);
    format!("{name}+{}+{}", hex::encode(key_id(name, public)), BASE64.encode(blob))
}

/// The root that a note names, whoever signed it.
#[must_use]
pub fn unverified_root(note: &str) -> Option<[u8; 32]> {
    BASE64.decode(note.lines().nth(2)?).ok()?.try_into().ok()
}

/// Verifies any note under a verifier key; gives the text that was signed.
pub fn verify_note(note: &str, vkey: &str) -> Result<String, CheckpointError> {
    let (name, rest) = vkey.split_once('+').ok_or(CheckpointError::Key("it has no +"))?;
    let (id, blob) = rest.split_once('+').ok_or(CheckpointError::Key("it has one + only"))?;
    let blob = BASE64.decode(blob).map_err(|_| CheckpointError::Key("its last part is no base64"))?;
    let Some((&ED25519, public)) = blob.split_first() else {
        return Err(CheckpointError::Key("it is no Ed25519 key"));
    };
    let id_bytes = key_id(name, public);
    if hex::encode(id_bytes) != id {
        return Err(CheckpointError::Key("its hash does not match"));
    }
    let public: &[u8; 32] = public.try_into().map_err(|_| CheckpointError::Key("it is not 32 bytes"))?;
    let key = VerifyingKey::from_bytes(public).map_err(|_| CheckpointError::Key("it is no point"))?;

    let (text, signatures) = note.split_once("\n\n").ok_or(CheckpointError::Format("no empty line"))?;
    let text = format!("{text}\n");
    let verified = signatures.lines().any(|line| {
        let Some((signer, blob)) = line.strip_prefix("\u{2014} ").and_then(|l| l.split_once(' ')) else {
            return false;
        };
        let Ok(blob) = BASE64.decode(blob) else { return false };
        let Some((line_id, signature)) = blob.split_first_chunk::<4>() else { return false };
        let Ok(signature) = <&[u8; 64]>::try_from(signature) else { return false };
        signer == name
            && *line_id == id_bytes
            && key.verify_strict(text.as_bytes(), &Signature::from_bytes(signature)).is_ok()
    });
    if !verified {
        return Err(CheckpointError::Signature(name.to_owned()));
    }
    Ok(text)
}

/// Verifies a checkpoint under a verifier key.
// [clause 8.7.1-e] the head of the log is believed only under the key that the auditor holds
pub fn verify(note: &str, vkey: &str) -> Result<Head, CheckpointError> {
    let text = verify_note(note, vkey)?;
    let name = vkey.split_once('+').map_or("", |(name, _)| name);
    let mut lines = text.lines();
    let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(CheckpointError::Format("fewer than three lines"));
    };
    if origin != name {
        return Err(CheckpointError::Format("the origin is not the signer's name"));
    }
    let number: u64 = size.parse().map_err(|_| CheckpointError::Format("the size is no number"))?;
    if number.to_string() != size {
        return Err(CheckpointError::Format("the size has leading zeros"));
    }
    let root = BASE64.decode(root).ok().and_then(|r| r.try_into().ok());
    Ok(Head {
        origin: origin.to_owned(),
        size: number,
        root: root.ok_or(CheckpointError::Format("the root is not 32 bytes of base64"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    // [clause 8.7.1-e] test
    #[test]
    fn a_note_verifies_and_any_change_is_found() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let text = body("log.example", 7, &[9; 32]);
        let signed = note(&text, "log.example", &public, &key.sign(text.as_bytes()).to_bytes());
        let vkey = verifier_key("log.example", &public);
        assert_eq!(
            verify(&signed, &vkey).unwrap(),
            Head { origin: "log.example".into(), size: 7, root: [9; 32] }
        );
        assert!(verify(&signed.replace("\n7\n", "\n8\n"), &vkey).is_err());
        let other = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
        assert!(verify(&signed, &verifier_key("log.example", &other)).is_err());
        assert!(verify(&signed, &vkey.replace("log", "lag")).is_err());
        assert!(verify("", &vkey).is_err());
    }
}
