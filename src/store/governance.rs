//! The newest entries about who decides what, kept at hand for those who wait for them.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use serde_json::Value;

use super::EntryKind;
use crate::core::log::orders::OrderEvent;
use crate::core::units::Timestamp;

/// Most entries about who decides what that are kept at hand.
const MOST_GOVERNANCE: usize = 200;

/// An entry about who decides what: policy, key policy, people, apps.
pub(super) fn governs(kind: &EntryKind) -> bool {
    matches!(
        kind,
        EntryKind::Policy { .. }
            | EntryKind::KeyPolicy { .. }
            | EntryKind::Authority { .. }
            | EntryKind::Apps { .. }
            | EntryKind::Registration { .. }
            | EntryKind::Users { .. }
            | EntryKind::ChangeAsked { .. }
            | EntryKind::ChangeEnded { .. }
            | EntryKind::Order(
                OrderEvent::Heard { .. }
                    | OrderEvent::Reactivated { .. }
                    | OrderEvent::Incident { .. }
                    | OrderEvent::IncidentClosed { .. }
            )
    )
}

/// Keeps one more of them.
pub(super) fn keep(kept: &mut VecDeque<Value>, seq: u64, at: Timestamp, kind: &EntryKind) {
    let mut value = serde_json::to_value(kind).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("entry".into(), seq.into());
        map.insert("at".into(), at.to_string().into());
    }
    kept.push_back(value);
    if kept.len() > MOST_GOVERNANCE {
        kept.pop_front();
    }
}
