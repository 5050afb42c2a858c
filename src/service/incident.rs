//! Incidents: one operator stops everything, and what is known is kept for those who find out. [clause 8.4.4]
//!
//! What stands is a suspension like an order's, lifted in the same way: where the authority document names people who start
//! again, by them and for this incident; else by an operator, who says why.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::House;
use super::keys::now;
use crate::core::log::orders::OrderEvent;
use crate::core::order::{Evidence, Incident, Level, Scope};
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;

/// Refusals that evidence tells in full.
const REFUSALS: usize = 200;
/// Entries that are looked through for them.
const ENTRIES: u64 = 1000;

impl House {
    /// Stops everything: nothing new is let through, what is under way ends without its signature.
    // [clause 8.4.4-a] one person stops, at once, and it survives everything that happens next
    pub async fn open_incident(&self, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let mut drawn = [0u8; 16];
        getrandom::fill(&mut drawn).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let incident =
            Incident::new(uid, now(), drawn, reason).map_err(|why| Refusal::new(Code::InvalidParams, why))?;
        let _one = self.orders.one.lock().await;
        let before = self.orders.gate().standing.clone();
        let mut rising = before.clone();
        rising.freeze(&incident.hash());
        self.orders.set(rising);
        drop(self.switch.write().await);
        let rose = before.level(&Scope::All).is_none();
        let latch = if rose { self.orders.next_mark(Some(Level::Suspend)).await } else { None };
        let written = async {
            if latch.is_some() {
                self.orders.name_latch(&self.store).await?;
            }
            let entry = EntryKind::Order(OrderEvent::Incident { text: incident.render(), latch });
            self.store.note_order(entry).await
        };
        let written = written.await;
        let told = self.orders.move_latch(latch).await;
        let standing = match written {
            Ok(standing) => standing,
            Err(e) => {
                self.orders.doubt(before, "an incident could not be written down".into());
                return Err(self.store_refusal(&e));
            }
        };
        let standing_level = standing.level(&Scope::All);
        self.orders.set(standing);
        tracing::error!(uid, incident = incident.hash(), "an incident was opened: {}", incident.reason);
        Ok(
            json!({"incident": incident.hash(), "text": incident.render(), "level": standing_level, "latch": told}),
        )
    }

    /// What is known now, in one document that the key of the log signs.
    // [clause 8.4.4-b] nothing in it is secret, and nothing of it can be changed afterwards
    pub async fn incident_evidence(&self) -> Result<Value, Refusal> {
        let incident = self.open_now()?;
        self.checkpoint().await?;
        let head = self.log_head_signed().await?;
        let size = head.get("size").and_then(Value::as_u64).unwrap_or(0);
        let from = i64::try_from(size.saturating_sub(ENTRIES)).unwrap_or(0);
        let shown = self.log_show(from, ENTRIES, false).await?;
        let shown = shown.get("entries").and_then(Value::as_array).into_iter().flatten();
        let entries: Vec<Value> = shown.filter_map(|e| serde_json::from_str(e.as_str()?).ok()).collect();
        let is = |entry: &Value, kind: &str| entry.get("kind").and_then(Value::as_str) == Some(kind);
        let told = |kind: &str| {
            let found: Vec<&Value> = entries.iter().rev().filter(|e| is(e, kind)).take(REFUSALS).collect();
            json!(found)
        };
        let document = json!({
            "incident": incident,
            "at": now().to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "status": self.status(),
            "orders": self.order_status(),
            "device": self.device_facts().await,
            "apps": self.app_list(),
            "log": {"size": size, "looked_through_from": from},
            "refusals": told("refusal"),
            "alarms": told("alarm"),
            "strange_operations": told("strange-operation"),
            "intents": told("intent"),
        });
        let document = format!("{document:#}\n");
        let said = Evidence { incident, document: hex::encode(sha256(document.as_bytes())), at: now(), size };
        let key = self.log_key(0).await?;
        let note = self.signed_note(&key, &said.render()).await?;
        let member = |name: &str| head.get(name).cloned().unwrap_or_default();
        Ok(json!({
            "document": document,
            "note": note,
            "checkpoint": member("checkpoint"),
            "vkey": member("vkey"),
            "size": size,
        }))
    }

    /// Ends an incident, where nobody is named who starts again.
    pub async fn close_incident(&self, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let incident = self.open_now()?;
        let rules = self.rules();
        // [clause 8.4.4-a] where people are named for it, no single one starts again
        if rules.authority.as_ref().is_some_and(|a| a.orders().is_some_and(|o| o.reactivate.is_some())) {
            let why =
                "people are named who start again: claviger order challenge gives the text that they sign";
            return Err(Refusal::new(Code::OrderQuorum, why));
        }
        let fits = Incident::new(uid, now(), [0; 16], reason);
        let reason = fits.map_err(|why| Refusal::new(Code::InvalidParams, why))?.reason;
        let _one = self.orders.one.lock().await;
        let entry = EntryKind::Order(OrderEvent::IncidentClosed { incident: incident.clone(), uid, reason });
        let standing = self.store.note_order(entry).await.map_err(|e| self.store_refusal(&e))?;
        let left = standing.level(&Scope::All);
        self.orders.set(standing);
        tracing::warn!(uid, incident, "the incident was closed");
        Ok(json!({"incident": incident, "closed": true, "level": left}))
    }

    fn open_now(&self) -> Result<String, Refusal> {
        let gate = self.orders.gate();
        let open = gate.standing.incident().map(str::to_owned);
        open.ok_or_else(|| Refusal::new(Code::OrderLifts, "no incident is open"))
    }
}
