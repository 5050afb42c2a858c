//! The authority document: the people, their groups, their keys.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::sshsig::SshKey;
use crate::core::units::sha256;

/// Why a document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthorityError(String);

/// Somebody who may approve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// A name.
    pub id: String,
    /// Groups that approvals are asked of.
    pub groups: BTreeSet<String>,
    /// The user on this machine, if there is one: nobody approves what an app of theirs asked for.
    pub uid: Option<u32>,
}

/// The whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    hash: [u8; 32],
    text: String,
    /// Names this deployment in every text that is signed: a signature for another one is worth nothing here.
    pub deployment: String,
    /// Whether keys in files approve, or authenticators only.
    pub files_allowed: bool,
    people: Vec<Person>,
    keys: BTreeMap<String, (SshKey, usize)>,
    revoked: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    deployment: String,
    #[serde(default)]
    files_allowed: bool,
    #[serde(default)]
    revoked: Vec<String>,
    #[serde(default)]
    person: Vec<RawPerson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    id: String,
    groups: Vec<String>,
    keys: Vec<String>,
    uid: Option<u32>,
}

fn is_word(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !text.is_empty() && text.len() <= 64 && text.bytes().all(good)
}

impl Authority {
    /// Reads a document.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let raw: Raw = toml::from_str(text).map_err(|e| AuthorityError(e.to_string()))?;
        let error = |why: String| Err(AuthorityError(why));
        if raw.schema != 1 {
            return error(format!("schema {} is not known here; this program reads schema 1", raw.schema));
        }
        if !is_word(&raw.deployment) {
            return error("deployment is 1 to 64 of A-Z a-z 0-9 . _ -".into());
        }
        let (mut people, mut keys): (Vec<Person>, BTreeMap<String, (SshKey, usize)>) =
            (Vec::new(), BTreeMap::new());
        for person in raw.person {
            let id = person.id;
            if !is_word(&id) || !person.groups.iter().all(|g| is_word(g)) {
                return error(format!("person {id:?}: names are 1 to 64 of A-Z a-z 0-9 . _ -"));
            }
            if people.iter().any(|p| p.id == id) {
                return error(format!("person {id} stands twice"));
            }
            if person.keys.is_empty() {
                return error(format!("person {id} has no key"));
            }
            for line in person.keys {
                let key = SshKey::parse(&line).map_err(|e| AuthorityError(format!("person {id}: {e}")))?;
                // One key in two hands is one voice counted twice.
                if keys.insert(key.fingerprint(), (key, people.len())).is_some() {
                    return error(format!("person {id} has a key that stands elsewhere too"));
                }
            }
            people.push(Person { id, groups: person.groups.into_iter().collect(), uid: person.uid });
        }
        for fingerprint in &raw.revoked {
            if !fingerprint.starts_with("SHA256:") {
                return error(format!(
                    "revoked {fingerprint:?} is no fingerprint as ssh-keygen -l prints it"
                ));
            }
        }
        Ok(Self {
            hash: sha256(text.as_bytes()),
            text: text.to_owned(),
            deployment: raw.deployment,
            files_allowed: raw.files_allowed,
            people,
            keys,
            revoked: raw.revoked.into_iter().collect(),
        })
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whose key it is.
    #[must_use]
    pub fn person_of(&self, key: &SshKey) -> Option<&Person> {
        let (known, at) = self.keys.get(&key.fingerprint())?;
        if known == key { self.people.get(*at) } else { None }
    }

    /// Whether the key does not count any more.
    #[must_use]
    pub fn is_revoked(&self, fingerprint: &str) -> bool {
        self.revoked.contains(fingerprint)
    }

    /// How many people of a group have a key that counts: a quorum above it cannot be reached.
    #[must_use]
    pub fn strength(&self, group: &str) -> usize {
        let able = |at: usize| self.keys.iter().any(|(f, (_, owner))| *owner == at && !self.is_revoked(f));
        self.people.iter().enumerate().filter(|(at, p)| p.groups.contains(group) && able(*at)).count()
    }

    /// All people, for those who ask who decides.
    #[must_use]
    pub fn people(&self) -> &[Person] {
        &self.people
    }
}
