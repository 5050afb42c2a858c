//! Entries that make a destination known.
#![forbid(unsafe_code)]

use super::super::payment::Payment;
use super::super::units::{Address, Name};
use super::entry::EntryKind;
use crate::refusal::Code;

/// Refusals that make a destination known: it alone stood in the way, or the key was stopped for it.
pub const MAKE_KNOWN: [Code; 2] = [Code::DestinationNew, Code::Tripped];

/// The line of a key, and whom it was asked to pay, where the entry makes that known.
#[must_use]
pub fn mentioned(kind: &EntryKind) -> Option<(Name, Address)> {
    let (key, act) = match kind {
        EntryKind::Intent { key, act, .. } => (key, act),
        EntryKind::Refusal { account: Some(key), act: Some(act), code, .. }
            if MAKE_KNOWN.iter().any(|c| c.as_str() == code) =>
        {
            (key, act)
        }
        _ => return None,
    };
    let payment: Payment = serde_json::from_value(act.clone()).ok()?;
    Some((Name::parse(key)?.line(), payment.effect.counterparty()?))
}
