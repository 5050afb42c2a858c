//! A new policy over the payments that the log remembers.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::House;
use crate::core::log::entry::{Entry, EntryKind};
use crate::core::payment::Payment;
use crate::core::policy::replay::{Past, Replay};
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// Entries that are read at once.
const PAGE: u64 = 1000;
/// Refusals that came after the decision, or before there was one: no policy changes them.
const NOT_BY_POLICY: [&str; 4] = ["nonce_conflict", "clock_stepped", "key_state", "key_unknown"];

/// A payment that was decided by a policy, if the entry is one.
fn past(entry: Entry) -> Option<Past> {
    let (app, key, act, was, tier) = match entry.kind {
        EntryKind::Intent { app, key, act, approved_by, debited: true, tier, .. } => {
            let was = if approved_by.is_empty() { "permit" } else { "approved" };
            (app, key, act, was.to_owned(), Some(tier))
        }
        EntryKind::Refusal { app: Some(app), account: Some(key), act: Some(act), code, tier, .. }
            if !NOT_BY_POLICY.contains(&code.as_str()) =>
        {
            (app, key, act, code, tier)
        }
        _ => return None,
    };
    let payment: Payment = serde_json::from_value(act).ok()?;
    let key = Name::parse(&key)?.line();
    // Older entries of refusals do not say the tier: they are taken at what every app had then.
    let tier = tier.and_then(|t| serde_json::from_value(json!(t)).ok()).unwrap_or(Tier::T1);
    Some(Past {
        seq: entry.seq,
        at: Timestamp(entry.at_ms),
        app: Name::parse(&app)?,
        key,
        tier,
        payment,
        was,
    })
}

impl House {
    /// Which payments of the past would end otherwise under this text. Nothing is changed.
    pub async fn replay_policy(&self, text: &str) -> Result<Value, Refusal> {
        let policy = self.read_policy(text)?;
        let mut replay = Replay::new(&policy);
        let size = self.store.log_head().size;
        let mut from = 0;
        while from < size {
            let page =
                self.store.entries(from, PAGE.min(size - from)).await.map_err(|e| self.store_refusal(&e))?;
            if page.is_empty() {
                break;
            }
            from += page.len() as u64;
            for bytes in page {
                let entry = Entry::decode(&bytes)
                    .map_err(|e| Refusal::new(Code::StoreFailed, format!("an entry cannot be read: {e}")))?;
                if let EntryKind::Elapsed { counted_ms } = entry.kind {
                    replay.counted(Timestamp(entry.at_ms), counted_ms);
                } else if let Some(past) = past(entry) {
                    replay.next(past);
                }
            }
        }
        Ok(json!({"judged": replay.judged, "entries": size, "changed": replay.changed}))
    }
}
