//! Where a key is: its token, the places of the vault, bundles, media; by when each copy has to be gone, and what says so.
//! [clause 8.7.1]
//!
//! A key is destroyed when every copy is. What is left behind for others to see is a text, signed by the key of the log.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::KeyRecord;
use crate::core::approval::text::ascii;
use crate::core::units::Timestamp;

/// The first line of a certificate.
pub const CERTIFICATE: &str = "claviger certificate of destruction v1";
/// Most copies of one key: with the longest words the certificate still fits an entry of the log.
pub const MOST: usize = 48;
/// Longest name of a place, bytes.
pub const LONGEST_PLACE: usize = 255;

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyKind {
    /// The key itself, in a token; its place is the token's serial.
    Token,
    /// Its lock, in a place of the vault.
    Vault,
    /// A bundle in a directory that the daemon writes to; its place is the file.
    Bundle,
    /// A bundle on something that an operator has told of.
    Medium,
}

impl CopyKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Token, Self::Vault, Self::Bundle, Self::Medium];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Vault => "vault",
            Self::Bundle => "bundle",
            Self::Medium => "medium",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

impl fmt::Display for CopyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What says that a copy is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// When that was.
    pub at: Timestamp,
    /// `daemon`, or the operator whose word it is.
    pub by: String,
    /// How.
    pub how: String,
}

/// One copy of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCopy {
    /// What it is.
    pub what: CopyKind,
    /// Where it is.
    pub place: String,
    /// What it is known again by: SHA-256 of a bundle, the mark of a lock, the id in a token.
    pub mark: String,
    /// Since when it is known.
    pub noted: Timestamp,
    /// By when it has to be gone, once its key is being destroyed.
    pub due: Option<Timestamp>,
    /// What says that it is.
    pub gone: Option<Receipt>,
    /// It was overdue, and that was told.
    pub told: bool,
}

impl KeyCopy {
    /// A copy that nothing was decided about.
    #[must_use]
    pub fn new(what: CopyKind, place: String, mark: String, noted: Timestamp) -> Self {
        Self { what, place, mark, noted, due: None, gone: None, told: false }
    }

    /// It should have been gone by then.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> bool {
        self.gone.is_none() && self.due.is_some_and(|due| now >= due)
    }

    /// What a certificate says of it.
    fn line(&self) -> Option<String> {
        let Receipt { at, by, how } = self.gone.as_ref()?;
        let (place, mark) = (ascii(&self.place), ascii(&self.mark));
        Some(format!("- {} {place} ({mark}): {at}, {}: {}", self.what, ascii(by), ascii(how)))
    }
}

/// A place is one line that people can read.
#[must_use]
pub fn is_place(text: &str) -> bool {
    !text.trim().is_empty()
        && text.trim() == text
        && text.len() <= LONGEST_PLACE
        && !text.chars().any(char::is_control)
}

/// The certificate of a key that is gone, with all its copies: always the same bytes. `None` while something is left.
// [clause 8.7.1-p] nothing is certified that is not gone, and nothing that is known of is left out
#[must_use]
pub fn certificate(origin: &str, key: &KeyRecord, copies: &[KeyCopy]) -> Option<String> {
    if key.state != super::State::Destroyed || copies.is_empty() {
        return None;
    }
    let mut lines = vec![
        CERTIFICATE.to_owned(),
        format!("log: {}", ascii(origin)),
        format!("key: {}", key.name),
        format!("generation: {} of {}", key.generation, key.line),
        format!("purpose: {} ({})", key.purpose, key.public.algorithm()),
        format!("public: {}", hex::encode(key.public.as_bytes())),
        format!("made: {}", key.created),
        format!("compromised: {}", key.compromised.map_or("no".to_owned(), |at| at.to_string())),
        format!("destroyed: {}", key.since),
        format!("copies: {}", copies.len()),
    ];
    for copy in copies {
        lines.push(copy.line()?);
    }
    lines.push(String::new());
    Some(lines.join("\n"))
}

/// One member of a certificate's head.
#[must_use]
pub fn told<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().take_while(|l| !l.starts_with("- ")).find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
}

/// Whether a text is a certificate: its head, and as many copies as it says.
#[must_use]
pub fn is_certificate(text: &str) -> bool {
    let head =
        ["log", "key", "generation", "purpose", "public", "made", "compromised", "destroyed", "copies"];
    let copies = text.lines().skip(head.len().saturating_add(1));
    text.lines().next() == Some(CERTIFICATE)
        && text.ends_with('\n')
        && head.iter().zip(text.lines().skip(1)).all(|(name, l)| l.starts_with(&format!("{name}: ")))
        && copies.clone().all(|l| l.starts_with("- "))
        && told(text, "copies").is_some_and(|n| n == copies.count().to_string() && n != "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::{KeyRef, Origin, PublicKey, Purpose, State};
    use crate::core::units::Name;

    fn key(state: State) -> KeyRecord {
        let (name, public) = (Name::parse("hot").unwrap(), PublicKey::Ed25519([7; 32]));
        let (purpose, origin) = (Purpose::Payment, Origin::Generated);
        KeyRecord {
            state,
            ..KeyRecord::new(name, KeyRef::from([1; 16]), purpose, public, "1".into(), origin, Timestamp(0))
        }
    }

    // [clause 8.7.1-p] test
    #[test]
    fn a_certificate_says_all_of_it_and_is_given_only_when_nothing_is_left() {
        let gone = |what, place: &str| KeyCopy {
            gone: Some(Receipt { at: Timestamp(1), by: "daemon".into(), how: "it was\nremoved".into() }),
            ..KeyCopy::new(what, place.into(), "aa".into(), Timestamp(0))
        };
        let copies = [gone(CopyKind::Token, "77"), gone(CopyKind::Medium, "steel\u{2028}plate")];
        let text = certificate("log.example", &key(State::Destroyed), &copies).unwrap();
        assert!(is_certificate(&text), "{text}");
        assert_eq!((told(&text, "key"), told(&text, "copies")), (Some("hot"), Some("2")));
        assert!(
            text.contains("- token 77 (aa): 1970-01-01T00:00:00.001Z, daemon: it was?removed\n"),
            "{text}"
        );
        assert!(text.contains("- medium steel?plate (aa)"), "{text}");
        // No text within can make another line, and none can be taken out.
        assert_eq!(text.lines().count(), 12);
        let (short, _) = text.rsplit_once("- ").unwrap();
        assert!(!is_certificate(short) && !is_certificate(&text.replacen("log: ", "", 1)));
        for state in State::ALL.into_iter().filter(|s| *s != State::Destroyed) {
            assert!(certificate("o", &key(state), &copies).is_none());
        }
        let left = [copies[0].clone(), KeyCopy { gone: None, ..copies[1].clone() }];
        assert!(certificate("o", &key(State::Destroyed), &left).is_none());
        assert!(certificate("o", &key(State::Destroyed), &[]).is_none());
        let due = KeyCopy { due: Some(Timestamp(5)), ..left[1].clone() };
        assert!(due.overdue(Timestamp(5)) && !due.overdue(Timestamp(4)) && !copies[0].overdue(Timestamp(9)));
        assert!(is_place("bag 7, safe B") && !is_place(" x") && !is_place("") && !is_place("a\nb"));
    }
}
