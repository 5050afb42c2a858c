//! Orders as the log tells them: what its entries come to, for the daemon at its start and for an auditor.
#![forbid(unsafe_code)]

use super::entry::EntryKind;
use crate::core::order::{Order, Reactivation, Scope, Standing};

fn shows(standing: &mut Standing, latch: Option<u64>) {
    let place = standing.latch().map(|(place, _)| place.to_owned());
    if let (Some(value), Some(place)) = (latch, place) {
        standing.latched(&place, value);
    }
}

/// Follows an entry: at the start of the daemon, and when one is written. There is no other way to change what stands.
pub fn follow(standing: &mut Standing, kind: &EntryKind) {
    match kind {
        EntryKind::Order { text, latch, .. } => {
            if let Ok(order) = Order::parse(text) {
                // It was heard when it was written; a refusal here would mean that it was not.
                drop(standing.hear(&order));
            }
            shows(standing, *latch);
        }
        EntryKind::OrderChallenge { text, .. } => standing.ask(text.clone()),
        EntryKind::Reactivated { text, latch, .. } => {
            if let Ok(asked) = Reactivation::parse(text) {
                drop(standing.lift(&asked));
            }
            shows(standing, *latch);
        }
        EntryKind::Latch { place, shows, older: None } => standing.latched(place, *shows),
        EntryKind::Latch { place, shows, older: Some(finding) } => {
            standing.found_older(place, *shows, finding);
        }
        EntryKind::Wiped { scope, done: true, .. } => {
            if let Some(scope) = Scope::parse(scope) {
                standing.wiped(&scope);
            }
        }
        _ => {}
    }
}
