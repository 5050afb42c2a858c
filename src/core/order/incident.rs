//! An incident: an operator stops everything at once, and what was known then is kept, signed by the key of the log.
//! [clause 8.4.4]
#![forbid(unsafe_code)]

use super::text::{digest, fields, moment, number, render, words};
use crate::core::log::checkpoint::{Head, verify, verify_note};
use crate::core::units::{Timestamp, sha256};

/// The first line of one.
pub const TITLE: &str = "clavigerd incident v1";
const FIELDS: [&str; 4] = ["opened by uid", "time", "drawn", "reason"];
/// The first line of evidence.
const EVIDENCE: &str = "clavigerd evidence v1";
const EVIDENCE_FIELDS: [&str; 4] = ["incident", "document", "time", "log size"];

/// That somebody stopped everything, and why. Its hash is what those name who start again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Who opened it.
    pub uid: u32,
    /// When, by the device's clock.
    pub at: Timestamp,
    /// Drawn here, so that no two are alike.
    pub drawn: String,
    /// One line, for those who come after.
    pub reason: String,
}

impl Incident {
    /// Takes a reason that fits into one line.
    pub fn new(uid: u32, at: Timestamp, drawn: [u8; 16], reason: &str) -> Result<Self, String> {
        Ok(Self { uid, at, drawn: hex::encode(drawn), reason: words(reason)? })
    }

    /// The text, as it stands in the log.
    #[must_use]
    pub fn render(&self) -> String {
        let values = [self.uid.to_string(), self.at.to_string(), self.drawn.clone(), self.reason.clone()];
        let named: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
        render(TITLE, &named)
    }

    /// Reads what [`Self::render`] wrote.
    pub fn parse(text: &str) -> Result<Self, String> {
        let [uid, at, drawn, reason] = fields(text, TITLE, FIELDS)?;
        let is_drawn = drawn.len() == 32 && drawn.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        Ok(Self {
            uid: number(uid).and_then(|n| u32::try_from(n).ok()).ok_or("its user is no number")?,
            at: moment(at).ok_or("its time is none")?,
            drawn: is_drawn.then(|| drawn.to_owned()).ok_or("what it drew is no 32 hex digits")?,
            reason: words(reason)?,
        })
    }

    /// SHA-256 of the text, hex.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(sha256(self.render().as_bytes()))
    }
}

/// What is said of a document of evidence: which incident it is of, and how far the log went when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// SHA-256 of the incident, hex.
    pub incident: String,
    /// SHA-256 of the document, hex.
    pub document: String,
    /// When, by the device's clock.
    pub at: Timestamp,
    /// Entries of the log then.
    pub size: u64,
}

impl Evidence {
    /// The text that is signed.
    #[must_use]
    pub fn render(&self) -> String {
        let values = [
            format!("sha256:{}", self.incident),
            format!("sha256:{}", self.document),
            self.at.to_string(),
            self.size.to_string(),
        ];
        let named: Vec<(&str, String)> = EVIDENCE_FIELDS.into_iter().zip(values).collect();
        render(EVIDENCE, &named)
    }

    /// Verifies the note over a document, and the checkpoint that came with it, under the key that is trusted for this
    /// log; without the device.
    pub fn verify(note: &str, document: &[u8], head: &str, vkey: &str) -> Result<(Self, Head), String> {
        let text = verify_note(note, vkey).map_err(|e| e.to_string())?;
        let [incident, hash, at, size] = fields(&text, EVIDENCE, EVIDENCE_FIELDS)?;
        let said = Self {
            incident: digest(incident).ok_or("its incident is no sha256:HASH")?,
            document: digest(hash).ok_or("its document is no sha256:HASH")?,
            at: moment(at).ok_or("its time is none")?,
            size: number(size).ok_or("its log size is no number")?,
        };
        if hex::encode(sha256(document)) != said.document {
            return Err("the document is not the one that was signed".into());
        }
        let head = verify(head, vkey).map_err(|e| e.to_string())?;
        if head.size < said.size {
            return Err(format!("the checkpoint covers {} entries of {}", head.size, said.size));
        }
        Ok((said, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::log::checkpoint;
    use ed25519_dalek::{Signer, SigningKey};
    use proptest::prelude::*;

    // [clause 8.4.4-a] test
    #[test]
    fn an_incident_is_its_text_and_a_reason_is_one_line() {
        let incident =
            Incident::new(7, Timestamp(1_700_000_000_000), [9; 16], "screen open, nobody there").unwrap();
        assert_eq!(Incident::parse(&incident.render()), Ok(incident.clone()));
        assert!(Incident::parse(&incident.render().replace("uid: 7", "uid: 07")).is_err());
        for reason in ["", " x", "two\nlines", "ü", &"x".repeat(201)] {
            assert!(Incident::new(7, Timestamp(0), [0; 16], reason).is_err(), "{reason:?}");
        }
    }

    // [clause 8.4.4-b] test
    #[test]
    fn evidence_verifies_offline_and_any_change_is_found() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let vkey = checkpoint::verifier_key("log.example", &public);
        let note = |text: &str| {
            checkpoint::note(text, "log.example", &public, &key.sign(text.as_bytes()).to_bytes())
        };
        let document = b"{\"what\": \"is known\"}";
        let said = Evidence {
            incident: "a".repeat(64),
            document: hex::encode(sha256(document)),
            at: Timestamp(1_700_000_000_000),
            size: 8,
        };
        let (signed, head) = (note(&said.render()), note(&checkpoint::body("log.example", 8, &[9; 32])));
        assert_eq!(Evidence::verify(&signed, document, &head, &vkey).unwrap().0, said);
        assert!(Evidence::verify(&signed, b"{}", &head, &vkey).is_err(), "another document");
        let old = note(&checkpoint::body("log.example", 7, &[9; 32]));
        assert!(Evidence::verify(&signed, document, &old, &vkey).is_err(), "a head from before");
        assert!(Evidence::verify(&head, document, &head, &vkey).is_err(), "a checkpoint is no evidence");
        assert!(Evidence::verify(&signed.replace("size: 8", "size: 7"), document, &head, &vkey).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
            if let Ok(incident) = Incident::parse(&text) {
                prop_assert_eq!(incident.render(), text);
            }
        }
    }
}
