//! Checkpoints: C2SP tlog-checkpoint in a signed-note, Ed25519 (type 0x01). Bytes in, bytes out; the key is elsewhere.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, VerifyingKey};

use super::super::units::sha256;

const ED25519: u8 = 1;
/// Timestamped cosignatures by Ed25519.
const COSIGNER: u8 = 4;

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

fn key_id(name: &str, kind: u8, public: &[u8]) -> [u8; 4] {
    let mut text = format!("{name}\n").into_bytes();
    text.push(kind);
    text.extend_from_slice(public);
    *sha256(&text).first_chunk().unwrap_or(&[0; 4])
}

/// The signed note.
#[must_use]
pub fn note(body: &str, name: &str, public: &[u8], signature: &[u8; 64]) -> String {
    let mut blob = key_id(name, ED25519, public).to_vec();
    blob.extend_from_slice(signature);
    format!("{body}\n\u{2014} {name} {}\n", BASE64.encode(blob))
}

/// The line of a cosignature, which is put behind a note.
#[must_use]
pub fn cosignature_line(name: &str, public: &[u8], seconds: u64, signature: &[u8; 64]) -> String {
    let blob = [&key_id(name, COSIGNER, public), seconds.to_be_bytes().as_slice(), signature].concat();
    format!("\u{2014} {name} {}\n", BASE64.encode(blob))
}

fn vkey(name: &str, kind: u8, public: &[u8]) -> String {
    let blob = [&[kind], public].concat();
    format!("{name}+{}+{}", hex::encode(key_id(name, kind, public)), BASE64.encode(blob))
}

/// The verifier key: `name+hash+base64(0x01 || public)`.
#[must_use]
pub fn verifier_key(name: &str, public: &[u8]) -> String {
    vkey(name, ED25519, public)
}

/// The key of a witness: `name+hash+base64(0x04 || public)`.
#[must_use]
pub fn witness_key(name: &str, public: &[u8]) -> String {
    vkey(name, COSIGNER, public)
}

/// The root that a note names, whoever signed it.
#[must_use]
pub fn unverified_root(note: &str) -> Option<[u8; 32]> {
    BASE64.decode(note.lines().nth(2)?).ok()?.try_into().ok()
}

/// A key that verifies notes, or cosigns them.
#[derive(Clone, Debug)]
pub struct NoteKey {
    name: String,
    id: [u8; 4],
    kind: u8,
    key: VerifyingKey,
}

impl NoteKey {
    /// Reads `name+hash+base64(kind || public)`; kind 0x01 signs notes, 0x04 cosigns them.
    pub fn parse(vkey: &str) -> Result<Self, CheckpointError> {
        let (name, rest) = vkey.split_once('+').ok_or(CheckpointError::Key("it has no +"))?;
        let (id, blob) = rest.split_once('+').ok_or(CheckpointError::Key("it has one + only"))?;
        let blob = BASE64.decode(blob).map_err(|_| CheckpointError::Key("its last part is no base64"))?;
        let Some((&kind @ (ED25519 | COSIGNER), public)) = blob.split_first() else {
            return Err(CheckpointError::Key("it is no Ed25519 key"));
        };
        let of_key = key_id(name, kind, public);
        if hex::encode(of_key) != id {
            return Err(CheckpointError::Key("its hash does not match"));
        }
        let public: &[u8; 32] = public.try_into().map_err(|_| CheckpointError::Key("it is not 32 bytes"))?;
        let key = VerifyingKey::from_bytes(public).map_err(|_| CheckpointError::Key("it is no point"))?;
        Ok(Self { name: name.to_owned(), id: of_key, kind, key })
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it cosigns what others sign.
    #[must_use]
    pub fn is_witness(&self) -> bool {
        self.kind == COSIGNER
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// Whether this very key made one of the signatures.
    #[must_use]
    pub fn signed(&self, note: &Note<'_>) -> bool {
        self.kind == ED25519
            && note.signatures(self).any(|bytes| {
                <[u8; 64]>::try_from(bytes).is_ok_and(|signature| {
                    let signature = Signature::from_bytes(&signature);
                    self.key.verify_strict(note.text.as_bytes(), &signature).is_ok()
                })
            })
    }

    /// When this key cosigned it (seconds since the epoch), if it did: C2SP tlog-cosignature, Ed25519.
    #[must_use]
    pub fn cosigned(&self, note: &Note<'_>) -> Option<u64> {
        if self.kind != COSIGNER {
            return None;
        }
        note.signatures(self).find_map(|bytes| {
            let (time, signature) = bytes.split_first_chunk::<8>()?;
            let (time, signature) = (u64::from_be_bytes(*time), <[u8; 64]>::try_from(signature).ok()?);
            let message = cosigned_message(time, note.text);
            let signature = Signature::from_bytes(&signature);
            self.key.verify_strict(message.as_bytes(), &signature).is_ok().then_some(time)
        })
    }
}

/// What a cosigner signs of a note's text at a time.
#[must_use]
pub fn cosigned_message(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

/// Names of the witnesses that cosigned a note; a key counts once, whatever its names.
#[must_use]
pub fn cosigners(witnesses: &[NoteKey], note: &Note<'_>) -> Vec<String> {
    let mut found: Vec<([u8; 32], String)> = witnesses
        .iter()
        .filter(|w| w.cosigned(note).is_some())
        .map(|w| (w.public(), w.name.clone()))
        .collect();
    found.sort();
    found.dedup_by_key(|(public, _)| *public);
    found.into_iter().map(|(_, name)| name).collect()
}

/// A note taken apart: text and signatures.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    /// What is signed, with its last newline.
    pub text: &'a str,
    lines: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes it apart. Lines that are no signatures are none.
    pub fn parse(note: &'a str) -> Result<Self, CheckpointError> {
        let at = note.rfind("\n\n").ok_or(CheckpointError::Format("no empty line"))?;
        let text = note.get(..=at).unwrap_or_default();
        let signatures = note.get(at + 2..).unwrap_or_default();
        let lines = signatures.lines().filter_map(|line| {
            let (signer, blob) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
            Some((signer, BASE64.decode(blob).ok()?))
        });
        Ok(Self { text, lines: lines.collect() })
    }

    fn signatures(&self, key: &NoteKey) -> impl Iterator<Item = &[u8]> {
        let (name, id) = (key.name.clone(), key.id);
        self.lines.iter().filter(move |(signer, _)| *signer == name).filter_map(move |(_, blob)| {
            let (line_id, signature) = blob.split_first_chunk::<4>()?;
            (*line_id == id).then_some(signature)
        })
    }

    /// The head that the text names, whoever signed it.
    pub fn head(&self) -> Result<Head, CheckpointError> {
        let mut lines = self.text.lines();
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(CheckpointError::Format("fewer than three lines"));
        };
        if origin.is_empty() || self.text.contains("\n\n") {
            return Err(CheckpointError::Format("it has empty lines"));
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
}

/// Verifies a note under a verifier key.
// [clause 8.7.1-e] the head of the log is believed only under the key that the auditor holds
pub fn verify(note: &str, vkey: &str) -> Result<Head, CheckpointError> {
    let (note, key) = (Note::parse(note)?, NoteKey::parse(vkey)?);
    if !key.signed(&note) {
        return Err(CheckpointError::Signature(key.name));
    }
    let head = note.head()?;
    if head.origin != key.name {
        return Err(CheckpointError::Format("the origin is not the signer's name"));
    }
    Ok(head)
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

    #[test]
    fn a_cosignature_verifies_and_counts_for_its_note_alone() {
        // The shape and the time of the example in C2SP tlog-cosignature, whose public key is not given there.
        let (log, witness) = (SigningKey::from_bytes(&[5; 32]), SigningKey::from_bytes(&[6; 32]));
        let text = body("log.example", 7, &[9; 32]);
        let public = log.verifying_key().to_bytes();
        let signed = note(&text, "log.example", &public, &log.sign(text.as_bytes()).to_bytes());
        let name = "witness.example/w1";
        let theirs = witness.verifying_key().to_bytes();
        let message = "cosignature/v1\ntime 1679315147\n".to_owned() + &text;
        let line =
            cosignature_line(name, &theirs, 1_679_315_147, &witness.sign(message.as_bytes()).to_bytes());
        let key = NoteKey::parse(&witness_key(name, &theirs)).unwrap();
        let both = format!("{signed}{line}");
        assert_eq!(key.cosigned(&Note::parse(&both).unwrap()), Some(1_679_315_147));
        assert!(verify(&both, &verifier_key("log.example", &public)).is_ok(), "the log's own still counts");
        assert_eq!(key.cosigned(&Note::parse(&signed).unwrap()), None);
        let moved = both.replace("\n7\n", "\n8\n");
        assert_eq!(key.cosigned(&Note::parse(&moved).unwrap()), None);
        // A witness's key signs no log, and a log's key cosigns nothing.
        assert!(!key.signed(&Note::parse(&both).unwrap()));
        assert!(verify(&both, &witness_key("log.example", &public)).is_err());
    }
}
