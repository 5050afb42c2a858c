//! Starting again: a challenge of this device, and a quorum's signatures over it. [clause 8.2.1]
#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::{Value, json};

use super::House;
use super::inactivate::not_heard;
use crate::core::approval::sshsig::verify;
use crate::core::log::orders::OrderEvent;
use crate::core::order::{Level, REACTIVATION, Reactivation, Scope, judge};
use crate::refusal::{Code, Refusal};
use crate::store::{EntryKind, Lifted};

/// How long people have, milliseconds.
const PATIENCE_MS: i64 = 7 * 86_400_000;

impl House {
    /// Makes the text that people sign to start a scope again. It takes the place of one that was made before.
    // [clause 8.2.1-b] drawn here and kept durably: what was signed before, or for another device, is worth nothing
    pub async fn order_challenge(&self, scope: &str, uid: u32) -> Result<Value, Refusal> {
        let scope = Scope::parse(scope)
            .ok_or_else(|| Refusal::new(Code::InvalidParams, "a scope is all, app:NAME or key:NAME"))?;
        let (deployment, device) = self.device_id()?;
        let rules = self.rules();
        let needs =
            rules.authority.as_ref().and_then(|a| a.orders()?.reactivate.clone()).ok_or_else(|| {
                Refusal::new(
                    Code::OrderStranger,
                    "[orders] of the authority document names nobody who may start again",
                )
            })?;
        let _one = self.orders.one.lock().await;
        let standing = self.orders.gate().standing.clone();
        let Some(held) = standing.held().get(&scope) else {
            return Err(Refusal::new(Code::OrderLifts, format!("nothing stands against {scope}")));
        };
        if held.level == Level::Wipe {
            return Err(not_heard(&crate::core::order::NotHeard::Wiped));
        }
        let mut drawn = [0u8; 32];
        getrandom::fill(&mut drawn).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let asked = Reactivation {
            deployment,
            device,
            epoch: standing.epoch(),
            level: held.level,
            lifts: held.order.clone(),
            scope,
            challenge: hex::encode(drawn),
            uid,
            needs,
            expires: self.life_now().plus(PATIENCE_MS),
        };
        let entry = EntryKind::Order(OrderEvent::Challenge { text: asked.render(), uid });
        let standing = self.store.note_order(entry).await.map_err(|e| self.store_refusal(&e))?;
        self.orders.set(standing);
        Ok(json!({
            "text": asked.render(),
            "namespace": REACTIVATION,
            "lifts": asked.lifts,
            "quorum": asked.needs.quorum,
            "of": asked.needs.of,
            "expires": asked.expires.to_string(),
        }))
    }

    /// Starts a scope again, when a quorum signed the challenge that is open.
    pub async fn order_reactivate(&self, text: &str, signatures: &[String]) -> Result<Value, Refusal> {
        let malformed = |why| Refusal::new(Code::OrderMalformed, format!("it is no reactivation: {why}"));
        let asked = Reactivation::parse(text).map_err(malformed)?;
        let (deployment, device) = self.device_id()?;
        judge::addressed(&asked.deployment, &asked.device, (&deployment, &device))?;
        let _one = self.orders.one.lock().await;
        let before = self.orders.gate().standing.clone();
        before.may_lift(&asked).map_err(|why| not_heard(&why))?;
        if self.life_now() >= asked.expires {
            return Err(Refusal::new(
                Code::ChallengeStale,
                format!("its time was over at {}", asked.expires),
            ));
        }
        let rules = self.rules();
        let authority = rules
            .authority
            .as_ref()
            .ok_or_else(|| Refusal::new(Code::OrderStranger, "no authority document is in force"))?;
        let mut counters = HashMap::new();
        for armoured in signatures.iter().take(judge::MOST_SIGNATURES) {
            if let Ok(signature) = verify(armoured, REACTIVATION, text.as_bytes()) {
                let key = signature.key.fingerprint();
                let seen = self.store.counter_of(key.clone()).await.map_err(|e| self.store_refusal(&e))?;
                counters.extend(seen.map(|counter| (key, counter)));
            }
        }
        let voices = judge::reactivation(authority, &asked, signatures, |key| counters.get(key).copied())?;
        let people: Vec<String> = voices.iter().map(|v| v.person.clone()).collect();
        let latch = self.orders.next_mark(None).await;
        if latch.is_some() {
            self.orders.name_latch(&self.store).await.map_err(|e| self.store_refusal(&e))?;
        }
        let signatures = signatures.iter().map(|s| s.trim().to_owned()).collect();
        let lifted = Lifted { asked: asked.clone(), signatures, voices, latch };
        let standing = self
            .store
            .lift_order(lifted)
            .await
            .map_err(|e| self.store_refusal(&e))?
            .map_err(|why| not_heard(&why))?;
        // The latch first: a crash in between leaves a state that knows more than its latch, which is in order.
        let told = self.orders.move_latch(latch).await;
        self.orders.set(standing.clone());
        tracing::warn!(scope = %asked.scope, by = people.join(" "), "started again: {told}");
        self.orders.woken.notify_one();
        let token = self.open_again();
        Ok(json!({
            "scope": asked.scope,
            "by": people,
            "epoch": standing.epoch(),
            "level": standing.level(&Scope::All),
            "token": token,
        }))
    }

    /// Lets the token be opened again, with the PIN from where the configuration says.
    fn open_again(&self) -> String {
        if self.orders.closed().is_some() {
            return "it stays closed".into();
        }
        self.keeper.unbar();
        if self.keeper.connected() {
            return "it was open all the time".into();
        }
        match super::pin::fetch(&self.config.token.pin) {
            Ok(Some(pin)) => {
                self.keeper.unlock(pin);
                "it is being opened".into()
            }
            Ok(None) => "run claviger unlock".into(),
            Err(refusal) => format!("run claviger unlock: {}", refusal.sentence),
        }
    }
}
