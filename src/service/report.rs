//! What operators and apps are told: status, entries of the log, the token's check.
#![forbid(unsafe_code)]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{House, token_refusal};
use crate::core::log::checkpoint::{CheckpointError, Head, Note};
use crate::core::log::entry::Entry;
use crate::core::log::merkle::{Tail, leaf_hash};
use crate::core::log::proof::{Bundle, inclusion};
use crate::core::order::Scope;
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use crate::store::EntryKind;
use crate::token::check::CheckRow;
use crate::token::keeper::{Event, Fitness, Keeper, KeeperState};

/// Entries that are read at once to make a proof.
const PAGE: u64 = 4096;
/// How often, and how many times, a checkpoint is looked at that witnesses may still cosign.
const LOOK: Duration = Duration::from_millis(100);
/// Three seconds in all.
const LOOKS: u32 = 30;
/// The most entries of one answer.
const MOST_ENTRIES: u64 = 1000;

fn state_word(state: &KeeperState) -> (&'static str, Option<&str>) {
    match state {
        KeeperState::Probing => ("probing", None),
        KeeperState::Usable => ("usable", None),
        KeeperState::Degraded(why) => ("degraded", Some(why)),
        KeeperState::Unusable(why) => ("unusable", Some(why)),
        KeeperState::Locked(why) => ("locked", Some(why)),
    }
}

/// What the keeper noticed, as the log says it.
pub(super) fn entry(event: Event) -> EntryKind {
    match event {
        Event::Tried { token, unfit, rows } => EntryKind::SelfTest {
            profile: token.profile,
            token: format!("{} {} {}", token.manufacturer, token.model, token.firmware),
            serial: token.serial,
            unfit,
            proofs: rows
                .iter()
                .map(|r| json!({"check": r.check, "claimed": r.claimed, "found": r.found, "note": r.note}))
                .collect(),
        },
        Event::Changed(state) => {
            let (word, why) = state_word(&state);
            EntryKind::Token { state: word.to_owned(), why: why.map(str::to_owned) }
        }
        Event::Strange(strange) => EntryKind::StrangeOperation {
            what: strange.what,
            device: strange.entry.map_or(Value::Null, |entry| json!(entry)),
        },
    }
}

/// What a trial came to.
fn verdict(fitness: Fitness, rows: &[CheckRow]) -> Value {
    let (fit, why) = match fitness {
        Fitness::Fit => (true, None),
        Fitness::Unfit(why) => (false, Some(why)),
        Fitness::Untried => (false, Some("the token was not tried".to_owned())),
    };
    json!({"payment": fit, "reason": why, "proofs": rows})
}

impl House {
    /// For apps: whether payments can be signed now.
    #[must_use]
    pub fn wallet_status(&self) -> Value {
        let open = self.open_for_signing().and_then(|()| self.device_is_fit());
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "signing": open.is_ok(),
            "reason": open.err().map(|r| r.sentence),
        })
    }

    /// For operators: the state of everything.
    pub fn status(&self) -> Value {
        let state = self.keeper.state();
        let (word, why) = state_word(&state);
        let (token, store, head) = (self.keeper.stats(), self.store.stats(), self.store.log_head());
        let rules = self.rules();
        let (payment, refused) = match self.keeper.fitness() {
            Fitness::Fit => (true, None),
            Fitness::Unfit(why) => (false, Some(why)),
            Fitness::Untried => (false, Some("it has not been tried yet".to_owned())),
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "signing": self.open_for_signing().and_then(|()| self.device_is_fit()).is_ok(),
            "token": {
                "state": word,
                "reason": why,
                "device": self.keeper.describe(),
                "queued": token.queued,
                "signatures": token.ops,
                "errors": token.errors,
                "reinitialisations": token.reinits,
                "worker": token.worker,
                "payment": payment,
                "payment_refused": refused,
                "profile_tested": self.keeper.profile().tested,
            },
            "log": {
                "origin": self.config.log.origin,
                "entries": head.size,
                "root": hex::encode(head.root),
                "checkpointed": self.store.checkpointed_size(),
                "database_bytes": store.db_bytes,
            },
            "state": self.state_told(),
            "outside": self.outside.status(head.size),
            "policy": hex::encode(rules.policy.hash()),
            "not_in_force": self.differing(),
            "orders": self.order_status(),
            "device_unfit": self.device_is_fit().err().map(|r| r.sentence),
            "apps": rules.apps.all().len(),
            "attestation": super::apps::attestation(self.eyes.host()),
            "keys": self.keys().all().len(),
            "copies_to_destroy": self.copies_left().0,
            "backups": self.backups_told(),
        })
    }

    /// 0 when nothing stands against the device, up to 3 for a wipe.
    pub(super) fn level_number(&self) -> i64 {
        match self.not_stopped().err().map(|r| r.code) {
            None => 0,
            Some(Code::Suspended) => 1,
            Some(Code::Wiped) => 3,
            Some(_) => 2,
        }
    }

    /// What stands, and who is named to change it.
    pub fn order_status(&self) -> Value {
        let gate = self.orders.gate();
        let standing = &gate.standing;
        let held: Vec<Value> = standing
            .held()
            .iter()
            .map(|(scope, h)| json!({"scope": scope, "level": h.level, "order": h.order}))
            .collect();
        let device = self.device_id();
        let rules = self.rules();
        let terms = rules.authority.as_ref().and_then(|a| a.orders());
        json!({
            "device": device.as_ref().ok().map(|d| &d.1),
            "deployment": device.as_ref().ok().map(|d| &d.0),
            "unavailable": device.as_ref().err().map(|r| &r.sentence).or(gate.in_doubt.as_ref()),
            "level": standing.level(&Scope::All),
            "held": held,
            "epoch": standing.epoch(),
            "highest": standing.highest(),
            "last": standing.last(),
            "challenge": standing.challenge().map(|t| hex::encode(sha256(t.as_bytes()))),
            "latch": {
                "place": self.orders.place,
                "known": standing.latch().map(|(_, value)| value),
            },
            "revokers": terms.map(|t| &t.revokers),
            "wipe": terms.map(|t| t.wipe),
            "reactivate": terms.and_then(|t| t.reactivate.as_ref()),
            "to_wipe": standing.to_wipe(),
            "token_open": self.keeper.connected(),
            "lease": self.lease_status(),
        })
    }

    /// Entries of the log, as JSON or, `raw`, as they are, in base64; a negative `from` counts from the end.
    pub async fn log_show(&self, from: i64, count: u64, raw: bool) -> Result<Value, Refusal> {
        let size = self.store.log_head().size;
        let start = match u64::try_from(from) {
            Ok(n) => n,
            Err(_) => size.saturating_sub(from.unsigned_abs()),
        };
        let rows =
            self.store.entries(start, count.min(MOST_ENTRIES)).await.map_err(|e| self.store_refusal(&e))?;
        let entry = |bytes: &Vec<u8>| {
            if raw {
                Ok(Value::String(BASE64.encode(bytes)))
            } else {
                Entry::members(bytes).map(|members| Value::String(members.to_string()))
            }
        };
        let entries: Vec<Value> = rows
            .iter()
            .map(entry)
            .collect::<Result<_, _>>()
            .map_err(|e| Refusal::new(Code::StoreFailed, format!("an entry cannot be read: {e}")))?;
        Ok(json!({"size": size, "from": start, "entries": entries}))
    }

    /// Signed checkpoints over so many entries and more, oldest first.
    pub async fn log_checkpoints(&self, from: u64) -> Result<Value, Refusal> {
        let rows = self.store.checkpoints(from, MOST_ENTRIES).await.map_err(|e| self.store_refusal(&e))?;
        let rows: Vec<Value> =
            rows.into_iter().map(|(size, note)| json!({"size": size, "note": note})).collect();
        Ok(json!({"from": from, "checkpoints": rows}))
    }

    /// A checkpoint over everything so far, with the cosignatures of all witnesses when they answer in time.
    async fn newest_checkpoint(&self) -> Result<(String, Head), Refusal> {
        match self.checkpoint().await {
            // What was signed before the token was closed by an order can still be shown.
            Err(_) if self.orders.closed().is_some() => {}
            other => drop(other?),
        }
        let wanted = self.store.checkpointed_size();
        let witnesses = &self.config.outside.witnesses;
        let internal = |e: CheckpointError| Refusal::new(Code::Internal, e.to_string());
        let mut looks = 0;
        loop {
            let rows = self.store.checkpoints(wanted, MOST_ENTRIES).await;
            let rows = rows.map_err(|e| self.store_refusal(&e))?;
            let whole = |note: &str| {
                Note::parse(note).is_ok_and(|n| witnesses.iter().all(|w| w.key.cosigned(&n).is_some()))
            };
            let found = rows.iter().rev().find(|(_, note)| whole(note));
            let last = if looks == LOOKS { rows.last() } else { None };
            if let Some((_, note)) = found.or(last) {
                let head = Note::parse(note).and_then(|n| n.head()).map_err(internal)?;
                return Ok((note.clone(), head));
            }
            if looks == LOOKS {
                return Err(Refusal::new(Code::StoreFailed, "the log has no checkpoint"));
            }
            looks += 1;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The newest checkpoint over everything so far, and the key that verifies it.
    pub async fn log_head_signed(&self) -> Result<Value, Refusal> {
        let (note, head) = self.newest_checkpoint().await?;
        Ok(json!({"checkpoint": note, "vkey": self.log_verifier_key().await?, "size": head.size}))
    }

    /// An entry with all that shows that it is in the log, for somebody who sees nothing else of it.
    pub async fn log_prove(&self, index: u64) -> Result<Value, Refusal> {
        let internal = |why: String| Refusal::new(Code::Internal, why);
        let (checkpoint, head) = self.newest_checkpoint().await?;
        if index >= head.size {
            let why = format!("the log has {} entries, from 0 on", head.size);
            return Err(Refusal::new(Code::InvalidParams, why));
        }
        let (mut tail, mut entry) = (Tail::default(), Vec::new());
        while tail.size() < head.size {
            let count = PAGE.min(head.size - tail.size());
            let rows = self.store.entries(tail.size(), count).await.map_err(|e| self.store_refusal(&e))?;
            if rows.is_empty() {
                return Err(internal("the log is shorter than its checkpoint".into()));
            }
            for row in rows {
                let is_it = tail.size() == index;
                tail.push(leaf_hash(&row));
                if is_it {
                    entry = row;
                }
            }
        }
        let path = inclusion(index, head.size, &mut |from, to| tail.hash(from, to).ok_or(()))
            .map_err(|()| internal("the path to the root cannot be made".into()))?;
        let bundle = Bundle { index, entry, path, checkpoint };
        // Nobody is handed a proof that shows nothing.
        bundle.verify().map_err(|e| internal(e.to_string()))?;
        Ok(json!({"index": index, "size": head.size, "proof": bundle.encode()}))
    }

    /// Proves on the device what its profile claims; the outcome is in the log.
    pub async fn token_check(&self, uid: u32) -> Result<Value, Refusal> {
        // Written down before it may lift anything, so that what is signed after it stands after it.
        let entry = EntryKind::operator(uid, "token-check", Value::Null);
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        let rows = self.keeper.check().await.map_err(|e| token_refusal(&e))?;
        self.write_events().await;
        Ok(verdict(self.keeper.fitness(), &rows))
    }

    /// Hands the PIN to the keeper and tells what came of it. The PIN itself is written nowhere.
    // [clause 8.2.5-c] only an operator lifts the latch of a rejected PIN
    pub async fn unlock(&self, pin: Pin, uid: u32) -> Result<Value, Refusal> {
        // [clause 8.2.1-b] a PIN alone opens nothing that an order closed
        if let Some(refusal) = self.orders.closed() {
            return Err(refusal);
        }
        let entry = EntryKind::operator(uid, "unlock", Value::Null);
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        if let Err(refusal) = self.look_at_device().await {
            tracing::warn!("{refusal}");
        }
        self.keeper.unlock(pin);
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if !matches!(self.keeper.state(), KeeperState::Probing) {
                break;
            }
        }
        if let Err(refusal) = self.confirm().await {
            tracing::debug!("after unlocking: {refusal}");
        }
        let state = self.keeper.state();
        let (word, why) = state_word(&state);
        Ok(json!({"state": word, "reason": why}))
    }
}

/// Checks a token that no daemon uses: `claviger token check PROFILE`.
pub async fn check_profile(config: &crate::config::TokenConfig, pin: Pin) -> Result<Value, Refusal> {
    let (backend, bounds) = super::start::backend(config)?;
    let keeper = Keeper::start(backend, Some(pin), bounds);
    let rows = keeper.check().await;
    let fitness = keeper.fitness();
    keeper.stop();
    let rows = rows.map_err(|e| token_refusal(&e))?;
    Ok(verdict(fitness, &rows))
}
