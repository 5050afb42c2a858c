//! What may stand behind the newest seal: entries that are written before the token is there.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::changes::kept_document;
use super::{EntryKind, rows};
use crate::core::approval::Authority;
use crate::core::key::State;
use crate::core::log::orders::OrderEvent;
use crate::core::log::user::UserEvent;
use crate::core::order::{Reactivation, judge};
use crate::core::units::sha256;

/// The entries behind a seal, as far as they were read.
pub(super) struct Behind {
    /// The people, by the document that was in force under the seal.
    authority: Option<Authority>,
    /// Counters of those who signed a reactivation, until the log tells of their rows.
    counters: BTreeSet<String>,
}

impl Behind {
    /// Behind a seal under which the authority document of this hash was in force.
    pub(super) fn seal(db: &Connection, authority: Option<&String>) -> Self {
        let text = kept_document(db, "authority").ok().flatten();
        let text = text.filter(|t| authority.is_some_and(|hash| hex::encode(sha256(t.as_bytes())) == *hash));
        Self { authority: text.and_then(|t| Authority::parse(&t).ok()), counters: BTreeSet::new() }
    }

    /// Whether the next entry may stand here.
    pub(super) fn permits(&mut self, kind: &EntryKind) -> bool {
        match kind {
            EntryKind::Order(OrderEvent::Reactivated { text, signatures, .. }) => {
                self.lifts(text, signatures)
            }
            EntryKind::Rows { rows } => {
                let counters = std::mem::take(&mut self.counters);
                rows.keys().all(|name| told_early(name) || counters.contains(name))
            }
            _ => before_the_token(kind),
        }
    }

    /// What an order closed is started again before the token is there, and people signed that.
    // [clause 8.2.1-b] who can write the file starts nothing again: the signatures are verified once more
    fn lifts(&mut self, text: &str, signatures: &[String]) -> bool {
        let judged = self.authority.as_ref().zip(Reactivation::parse(text).ok());
        let judged = judged.map(|(people, asked)| judge::reactivation(people, &asked, signatures, |_| None));
        let Some(Ok(voices)) = judged else { return false };
        self.counters.extend(voices.iter().map(|v| rows::counter(&v.key)));
        true
    }
}

/// Rows that change without the token.
fn told_early(name: &str) -> bool {
    ["keys/", "receipts/"].iter().any(|table| name.starts_with(table))
}

/// What is written down before the token is there. What follows a seal and is none of these has another author, or
/// none: a signature, an approval and a key that comes back to life need the token first.
fn before_the_token(kind: &EntryKind) -> bool {
    use EntryKind as E;
    match kind {
        E::Start { .. }
        | E::Stop {}
        | E::InDoubt { .. }
        | E::Failed { .. }
        | E::Refusal { .. }
        | E::Token { .. }
        | E::SelfTest { .. }
        | E::StrangeOperation { .. }
        | E::Operator { .. }
        | E::Policy { .. }
        | E::KeyPolicy { .. }
        | E::Apps { .. }
        | E::Registration { .. }
        | E::Authority { .. }
        | E::Users { .. }
        | E::User(UserEvent::Suspended { .. } | UserEvent::Closed { .. })
        | E::Document { .. }
        | E::Alarm { .. }
        | E::Device { .. }
        | E::KeyDue { .. }
        // Who stops does not wait for a token, and what was stopped stays so without one.
        | E::Order(
            OrderEvent::Heard { .. }
            | OrderEvent::Challenge { .. }
            | OrderEvent::Latch { .. }
            | OrderEvent::Wiped { .. }
            | OrderEvent::Incident { .. }
            | OrderEvent::Leased { .. },
        )
        | E::KeyDestroying { .. } => true,
        E::KeyMoved { to, .. } => !matches!(to, State::Active | State::PreActive),
        E::State { what, .. } => what == "refused",
        _ => false,
    }
}
