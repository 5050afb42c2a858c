//! Orders as the log tells them: what its entries come to, for the daemon at its start and for an auditor.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::entry::EntryKind;
use crate::core::order::{Incident, Order, Reactivation, Scope, Standing};

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum OrderEvent {
    /// An order to stop was heard.
    Heard {
        /// SHA-256 of its text.
        order: String,
        /// The text.
        text: String,
        /// SSHSIG over it, armoured.
        signatures: Vec<String>,
        /// Who signed.
        by: Vec<String>,
        /// raised, noted or equivocal.
        heard: String,
        /// How it came: operator, directory, pull.
        carrier: String,
        /// What the latch outside the disk shows from now on, where it was moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latch: Option<u64>,
    },
    /// Somebody asked for the text that people sign to start again.
    Challenge {
        /// The text.
        text: String,
        /// Who asked.
        uid: u32,
    },
    /// People started again what an order had stopped.
    Reactivated {
        /// The text that they signed.
        text: String,
        /// SSHSIG over it, armoured.
        signatures: Vec<String>,
        /// Who signed.
        by: Vec<String>,
        /// What the latch shows from now on, where it was moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latch: Option<u64>,
    },
    /// The latch outside the disk was read at the start.
    Latch {
        /// Where it is.
        place: String,
        /// What it shows.
        shows: u64,
        /// It shows more than this log knows: the state is an old copy, and inactivated. SHA-256 of the finding.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older: Option<String>,
    },
    /// A wipe was done as far as it goes.
    Wiped {
        /// Of what.
        scope: String,
        /// Keys that the token does not find any more.
        destroyed: Vec<String>,
        /// What could not be reached, and why.
        unreached: Vec<String>,
        /// The token finds none of the keys any more.
        done: bool,
    },
    /// An operator stopped everything.
    Incident {
        /// The text; its hash is what is lifted.
        text: String,
        /// What the latch outside the disk shows from now on, where it was moved.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        latch: Option<u64>,
    },
    /// It is over, where the authority document names nobody who starts again.
    IncidentClosed {
        /// SHA-256 of the incident.
        incident: String,
        /// Who said so.
        uid: u32,
        /// Why.
        reason: String,
    },
    /// A lease was taken.
    Leased {
        /// How many seconds it runs from now on.
        seconds: u64,
        /// SHA-256 of its text.
        lease: String,
    },
}

fn shows(standing: &mut Standing, latch: Option<u64>) {
    let place = standing.latch().map(|(place, _)| place.to_owned());
    if let (Some(value), Some(place)) = (latch, place) {
        standing.latched(&place, value);
    }
}

/// Follows an entry: at the start of the daemon, and when one is written. There is no other way to change what stands.
pub fn follow(standing: &mut Standing, kind: &EntryKind) {
    let EntryKind::Order(event) = kind else { return };
    match event {
        OrderEvent::Heard { text, latch, .. } => {
            if let Ok(order) = Order::parse(text) {
                // It was heard when it was written; a refusal here would mean that it was not.
                drop(standing.hear(&order));
            }
            shows(standing, *latch);
        }
        OrderEvent::Challenge { text, .. } => standing.ask(text.clone()),
        OrderEvent::Reactivated { text, latch, .. } => {
            if let Ok(asked) = Reactivation::parse(text) {
                drop(standing.lift(&asked));
            }
            shows(standing, *latch);
        }
        OrderEvent::Latch { place, shows, older: None } => standing.latched(place, *shows),
        OrderEvent::Latch { place, shows, older: Some(finding) } => {
            standing.found_older(place, *shows, finding);
        }
        OrderEvent::Wiped { scope, done: true, .. } => {
            if let Some(scope) = Scope::parse(scope) {
                standing.wiped(&scope);
            }
        }
        OrderEvent::Incident { text, latch } => {
            if let Ok(incident) = Incident::parse(text) {
                standing.freeze(&incident.hash());
            }
            shows(standing, *latch);
        }
        OrderEvent::IncidentClosed { incident, .. } => standing.thaw(incident),
        OrderEvent::Wiped { .. } | OrderEvent::Leased { .. } => {}
    }
}
