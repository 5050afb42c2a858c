//! Changes that one person cannot make alone: what is asked, the text that people sign, and how voices are counted.
//!
//! Everything is counted again from the signatures when a change is made, so that nothing between the voice and the deed
//! has to be believed.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::text::ascii;
use super::{Authority, Needs, Shown, judge};
use crate::core::key::State;
use crate::core::proof::RequestId;
use crate::core::units::{Name, Timestamp, sha256};

/// Most lines of detail in a text; the hashes bind all of it.
const MOST_DETAIL: usize = 200;

/// What a quorum may be asked for. Each is a table `[quorum.NAME]` of the authority document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matter {
    /// A spending policy that permits more, or cannot be compared.
    Policy,
    /// The authority document itself: of the old people and of the new.
    Authority,
    /// The security policy of keys.
    KeyPolicy,
    /// The registered apps.
    Apps,
    /// The users document; a user who is suspended, or enrols anew.
    Users,
    /// A suspended key becomes active again.
    Resume,
    /// A key is destroyed.
    Destroy,
    /// A key comes in from elsewhere.
    Import,
}

impl Matter {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Policy,
        Self::Authority,
        Self::KeyPolicy,
        Self::Apps,
        Self::Users,
        Self::Resume,
        Self::Destroy,
        Self::Import,
    ];

    /// The word in documents and texts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Authority => "authority",
            Self::KeyPolicy => "key-policy",
            Self::Apps => "apps",
            Self::Users => "users",
            Self::Resume => "resume",
            Self::Destroy => "destroy",
            Self::Import => "import",
        }
    }

    /// SSHSIG namespace of a yes: a signature for one class of act is none for another.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Policy | Self::KeyPolicy | Self::Apps | Self::Users => "clavigerd-policy@v1",
            Self::Authority => "clavigerd-authority@v1",
            Self::Resume | Self::Destroy | Self::Import => "clavigerd-key@v1",
        }
    }
}

/// A quorum, and how long its decision rests before it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// How many of whom.
    pub needs: Needs,
    /// Milliseconds between the last voice and the deed: time for a veto.
    pub delay_ms: i64,
}

/// What would be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Deed {
    /// A document takes another's place.
    Document {
        /// SHA-256 of the one in force when it was asked.
        from: String,
        /// The new text.
        body: String,
    },
    /// A key moves along an edge of its life.
    Key {
        /// Which.
        key: Name,
        /// Where it was when it was asked.
        from: State,
        /// Where it goes.
        to: State,
        /// Why.
        reason: String,
    },
    /// A user enrols anew.
    User {
        /// Which.
        user: Name,
        /// Why.
        reason: String,
    },
    /// A key is taken over, or typed in.
    Import {
        /// The name it gets.
        key: Name,
        /// Its public half, hex: what comes in must be this very key.
        public: String,
        /// Why.
        reason: String,
    },
}

/// A change that waits for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its id.
    pub id: String,
    /// What it is about.
    pub matter: Matter,
    /// What would be done.
    pub deed: Deed,
    /// The user who asked, as the kernel reported it.
    pub uid: u32,
    /// Who that is, where the document knows.
    pub person: Option<String>,
    /// One fact a line, for those who decide.
    pub detail: Vec<String>,
    /// SHA-256 of the authority document that counts.
    pub authority: String,
    /// Whose voices.
    pub quorum: Quorum,
    /// Whose voices too, as the new authority document names them.
    pub also: Option<Needs>,
    /// Until when a voice counts.
    pub expires: Timestamp,
    /// Drawn for this text, hex.
    pub nonce: String,
}

/// A voice as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptVoice {
    /// Who.
    pub person: String,
    /// A yes.
    pub yes: bool,
    /// When.
    pub at: Timestamp,
    /// SSHSIG, armoured.
    pub signature: String,
}

/// How the voices stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// People of the quorum who said yes.
    pub yes: BTreeSet<String>,
    /// People of the new document who said yes, where they count.
    pub also: BTreeSet<String>,
    /// Who said no.
    pub no: BTreeSet<String>,
    /// Whether that is enough.
    pub enough: bool,
}

impl Change {
    /// Its id, as it stands in tables.
    #[must_use]
    pub fn request(&self) -> Option<RequestId> {
        RequestId::parse(&self.id)
    }

    /// The text that people sign: always the same bytes for the same change.
    // [clause 8.8-b] it says who asked, what becomes of what, by whose leave, and when
    #[must_use]
    pub fn render(&self, deployment: &str) -> String {
        let mut lines = vec![
            "clavigerd change v1".to_owned(),
            format!("deployment: {deployment}"),
            format!("change: {}", self.id),
            format!("matter: {}", self.matter.as_str()),
            format!("asked by: {} (uid {})", self.person.as_deref().unwrap_or("an operator"), self.uid),
        ];
        match &self.deed {
            Deed::Document { from, body } => {
                lines.push(format!("from: sha256:{from}"));
                lines.push(format!("to: sha256:{}", hex::encode(sha256(body.as_bytes()))));
            }
            Deed::Key { key, from, to, reason } => {
                lines.push(format!("key: {key}"));
                lines.push(format!("from: {}", from.as_str()));
                lines.push(format!("to: {}", to.as_str()));
                lines.push(format!("reason: {reason}"));
            }
            Deed::User { user, reason } => {
                lines.push(format!("user: {user}"));
                lines.push("becomes: unknown until enrolled anew".to_owned());
                lines.push(format!("reason: {reason}"));
            }
            Deed::Import { key, public, reason } => {
                lines.push(format!("key: {key}"));
                lines.push(format!("public: {public}"));
                lines.push(format!("reason: {reason}"));
            }
        }
        lines.extend(self.detail.iter().take(MOST_DETAIL).map(|d| format!("detail: {d}")));
        if let Some(more) = self.detail.len().checked_sub(MOST_DETAIL).filter(|n| *n > 0) {
            lines.push(format!("detail: and {more} lines more"));
        }
        lines.push(format!("authority: sha256:{}", self.authority));
        lines.push(format!("needs: {} of {}", self.quorum.needs.quorum, self.quorum.needs.of));
        if let Some(also) = &self.also {
            lines.push(format!("needs also: {} of {} of the new document", also.quorum, also.of));
        }
        lines.push(format!("then waits: {} s", self.quorum.delay_ms / 1000));
        lines.push(format!("expires: {}", self.expires));
        lines.push(format!("nonce: {}", self.nonce));
        lines.iter().map(|line| ascii(line) + "\n").collect()
    }

    /// Whether a text is this change's, whatever deployment it names.
    #[must_use]
    pub fn is_shown_by(&self, text: &str) -> bool {
        let deployment = text.lines().nth(1).and_then(|l| l.strip_prefix("deployment: "));
        deployment.is_some_and(|d| self.render(d) == text)
    }

    /// The text, and whose voice over it counts in the document in force.
    #[must_use]
    pub fn shown(&self, deployment: &str) -> Shown {
        Shown { text: self.render(deployment), needs: self.quorum.needs.clone() }
    }

    /// The document that it would put in the authority's place.
    #[must_use]
    pub fn new_authority(&self) -> Option<Authority> {
        match (&self.matter, &self.deed) {
            (Matter::Authority, Deed::Document { body, .. }) => Authority::parse(body).ok(),
            _ => None,
        }
    }

    /// Counts voices from their signatures. A voice that does not verify, or whose person does not count, is none.
    // [clause 8.8-b] counted again from what was signed, at the moment of the deed
    #[must_use]
    pub fn tally(&self, authority: &Authority, voices: &[KeptVoice]) -> Tally {
        let mut tally =
            Tally { yes: BTreeSet::new(), also: BTreeSet::new(), no: BTreeSet::new(), enough: false };
        if hex::encode(authority.hash()) != self.authority {
            return tally;
        }
        let text = self.render(&authority.deployment);
        let new = self.new_authority();
        let mut ordered: Vec<&KeptVoice> = voices.iter().collect();
        ordered.sort_by_key(|v| v.at);
        for voice in ordered {
            let namespace = if voice.yes { self.matter.namespace() } else { super::REJECT };
            // The counter of an authenticator was looked at when the voice came; everything else is looked at again.
            let counts = |document: &Authority, needs: &Needs| {
                let shown = Shown { text: text.clone(), needs: needs.clone() };
                judge(document, &shown, self.uid, namespace, &voice.signature, |_| None)
                    .ok()
                    .map(|v| v.person)
            };
            let old = counts(authority, &self.quorum.needs);
            let young = new.as_ref().zip(self.also.as_ref()).and_then(|(d, n)| counts(d, n));
            if voice.yes {
                tally.yes.extend(old);
                tally.also.extend(young);
            } else {
                tally.no.extend(old.or(young));
            }
        }
        let reached = |have: &BTreeSet<String>, needs: &Needs| {
            u32::try_from(have.len()).is_ok_and(|n| n >= needs.quorum)
        };
        tally.enough = reached(&tally.yes, &self.quorum.needs)
            && self.also.as_ref().is_none_or(|n| reached(&tally.also, n));
        tally
    }

    /// Whether nothing but its delay stands before it: enough voices, and no veto.
    #[must_use]
    pub fn is_agreed(&self, tally: &Tally) -> bool {
        tally.enough && tally.no.is_empty()
    }

    /// When its delay is over, if enough agree when so much was counted ([`crate::core::elapsed`]).
    // [clause 8.8-c] the delay is a length of time that is counted, not a date
    #[must_use]
    pub fn over_at(&self, counted_ms: i64) -> i64 {
        counted_ms.saturating_add(self.quorum.delay_ms)
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
