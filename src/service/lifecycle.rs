//! The lives of keys: moved by operators and by the key policy, rotated, destroyed, each time written down. [clause 8.7.1]
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::balance::Left;
use super::keys::{Successor, describe, now};
use super::seal::is_own;
use super::{House, token_refusal};
use crate::core::approval::Matter;
use crate::core::key::policy::{Activation, Due, KeyPolicy};
use crate::core::key::{KeyRecord, Purpose, State};
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};
use crate::store::Because;

/// How often lives are looked after, when nothing ends sooner.
const EVERY: Duration = Duration::from_secs(60);
const SOONEST: Duration = Duration::from_millis(500);
/// Longest reason that an operator gives, bytes.
const LONGEST_REASON: usize = 512;

impl House {
    /// The key policy in force.
    #[must_use]
    pub fn key_policy(&self) -> Arc<KeyPolicy> {
        Arc::clone(&self.key_policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The clock of lives: never behind the wall clock, and never set back with it.
    // [clause 8.7.1-f] a clock that is set back lengthens no life
    #[must_use]
    pub fn life_now(&self) -> Timestamp {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let (clock, read) = &mut *life;
        let elapsed = read.elapsed();
        *read = Instant::now();
        clock.advance(now(), i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
    }

    pub(super) fn because(&self, actor: String, reason: &str) -> Because {
        Because { actor, reason: reason.to_owned(), policy: self.key_policy().hash() }
    }

    pub(super) fn named(&self, name: &str) -> Result<KeyRecord, Refusal> {
        Name::parse(name).and_then(|n| self.keys().exact(&n)).map(|k| k.record.clone()).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Refusal::new(Code::KeyUnknown, format!("there is no key named {shown:?}"))
        })
    }

    async fn go(&self, key: &KeyRecord, to: State, because: Because) -> Result<KeyRecord, Refusal> {
        let actor = because.actor.clone();
        self.store.move_key(key.name.clone(), to, because).await.map_err(|e| self.store_refusal(&e))??;
        self.load_keys().await?;
        tracing::info!(key = %key.name, from = key.state.as_str(), to = to.as_str(), actor, "key moved");
        self.named(key.name.as_str())
    }

    /// A new key proves that it is there; where the key policy leaves that to the daemon, it becomes active then.
    pub(super) async fn activate_if_wanted(&self, key: &KeyRecord) -> Result<KeyRecord, Refusal> {
        match self.key_policy().rule(key.purpose).map(|r| r.activation) {
            Some(Activation::AtOnce) => {
                self.activate(key, self.because("key policy".into(), "it has proved that it is there")).await
            }
            _ => Ok(key.clone()),
        }
    }

    // [clause 8.7.1-b] before it is active a key does this proof, and nothing else
    async fn activate(&self, key: &KeyRecord, because: Because) -> Result<KeyRecord, Refusal> {
        if key.purpose == Purpose::Payment {
            self.keeper.fit_for_payments().map_err(|e| token_refusal(&e))?;
        }
        let found = self.keeper.find(key.reference).await.map_err(|e| token_refusal(&e))?;
        if found != Some(key.public) {
            let why = format!("the token does not hold key {} as it was registered", key.name);
            return Err(Refusal::new(Code::TokenGone, why));
        }
        self.keeper.prove_possession(key.reference, key.public).await.map_err(|e| token_refusal(&e))?;
        self.ensure_backed_up(key).await?;
        self.go(key, State::Active, because).await
    }

    /// Moves a key because an operator says so.
    pub async fn move_key(
        &self,
        name: &str,
        to: State,
        reason: &str,
        left: Left,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let reason = checked_reason(reason)?;
        let key = self.named(name)?;
        if is_own(&key.line) {
            let why = "the keys that sign and seal the log stay as they are: without them nothing can be shown any more";
            return Err(Refusal::new(Code::KeyEdge, why));
        }
        if to == State::Active {
            self.trusted()?;
        }
        // [clause 8.8-b] stopping is cheap; starting again and destroying are for several people, where they say so
        match to {
            State::Active if key.state == State::Suspended => {
                self.ask_for_key(Matter::Resume, &key, to, reason, Vec::new(), uid).await?;
            }
            State::Destroyed => {
                let known = self.balance_known(&key, left, uid).await?;
                self.ask_for_key(Matter::Destroy, &key, to, reason, known, uid).await?;
            }
            // What came back where it may be in other hands starts again for nothing, and sweeps by leave of those people.
            State::SweepOnly if key.state == State::Suspended && key.compromised.is_some() => {
                self.ask_for_key(Matter::Resume, &key, to, reason, Vec::new(), uid).await?;
            }
            _ => {}
        }
        self.take(&key, to, self.because(format!("operator {uid}"), reason)).await
    }

    async fn take(&self, key: &KeyRecord, to: State, because: Because) -> Result<KeyRecord, Refusal> {
        match to {
            State::Active if key.state == State::PreActive => self.activate(key, because).await,
            State::Destroyed => {
                let outcome = self.destroy(key, because).await;
                self.look_after_copies().await;
                outcome
            }
            _ => self.go(key, to, because).await,
        }
    }

    /// Stops every generation of a line that does something, at once and without asking anybody.
    pub(super) async fn stop_line(&self, line: &Name, actor: &str, reason: &str) -> Result<(), Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        for key in self.keys().generations(line) {
            if key.record.state == State::Active {
                self.go(&key.record, State::Suspended, self.because(actor.to_owned(), reason)).await?;
            }
        }
        Ok(())
    }

    /// Moves a key because people agreed on it.
    pub(super) async fn move_agreed(
        &self,
        name: &Name,
        to: State,
        reason: &str,
        actor: String,
    ) -> Result<(), Refusal> {
        let key = self.named(name.as_str())?;
        self.take(&key, to, self.because(actor, reason)).await.map(drop)
    }

    /// Makes a successor and puts it in the place of the key that is in use, between two requests.
    // [clause 8.7.1-g] apps go on by the same name, limits go on where they were, and the old key ends
    pub async fn rotate_key(&self, name: &str, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let reason = checked_reason(reason)?;
        let old = Name::parse(name)
            .and_then(|n| self.keys().by_name(&n))
            .map(|k| k.record.clone())
            .ok_or_else(|| Refusal::new(Code::KeyUnknown, "there is no such key to rotate"))?;
        self.trusted()?;
        if is_own(&old.line) || old.state != State::Active {
            let why = format!(
                "key {} is {}, and only an active wallet key is rotated",
                old.name,
                old.state.as_str()
            );
            return Err(Refusal::new(Code::KeyEdge, why));
        }
        let generation = self
            .keys()
            .all()
            .iter()
            .filter(|k| k.record.line == old.line)
            .map(|k| k.record.generation)
            .max()
            .unwrap_or(old.generation)
            .saturating_add(1);
        let name = Name::of_generation(&old.line, generation)
            .ok_or_else(|| Refusal::new(Code::Internal, "the successor's name cannot be written"))?;
        let successor = Successor { name, line: old.line.clone(), generation };
        let made = self.make_waiting(successor, &old, uid).await?;
        let sweeps = self.key_policy().rule(old.purpose).is_some_and(|r| r.sweep > 0);
        let end = if sweeps { State::SweepOnly } else { State::Deactivated };
        let because = self.because(format!("operator {uid}"), reason);
        {
            // Waits until every request that is under way has its answer; the next ones get the successor.
            let _pause = self.switch.write().await;
            self.store
                .rotate_key(old.name.clone(), made.name.clone(), end, because)
                .await
                .map_err(|e| self.store_refusal(&e))??;
            self.load_keys().await?;
        }
        tracing::info!(line = %old.line, from = %old.name, to = %made.name, uid, "key rotated");
        let (new, old) = (self.named(made.name.as_str())?, self.named(old.name.as_str())?);
        Ok(json!({"line": new.line, "successor": describe(&new), "predecessor": describe(&old)}))
    }

    /// A successor that is there and has proved it, and waits to be switched to.
    async fn make_waiting(
        &self,
        successor: Successor,
        old: &KeyRecord,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let made = self.make_silent(successor, old.public.algorithm(), old.purpose, uid).await?;
        self.keeper.prove_possession(made.reference, made.public).await.map_err(|e| token_refusal(&e))?;
        self.ensure_backed_up(&made).await?;
        Ok(made)
    }

    /// When keys end, what happens then, and what is overdue.
    #[must_use]
    pub fn keys_due(&self) -> Value {
        let (policy, now) = (self.key_policy(), self.life_now());
        let mut due: Vec<(Timestamp, Value)> = self
            .keys()
            .all()
            .iter()
            .filter_map(|key| {
                let (at, to) = policy.end(&key.record)?;
                let row = json!({
                    "name": key.record.name,
                    "state": key.record.state,
                    "to": to,
                    "at": at.to_string(),
                    "days": at.0.saturating_sub(now.0).div_euclid(86_400_000),
                    "overdue": now >= at,
                });
                Some((at, row))
            })
            .collect();
        due.sort_by_key(|(at, _)| *at);
        json!(due.into_iter().map(|(_, row)| row).collect::<Vec<_>>())
    }

    /// Does what the key policy wants done now; tells how long nothing will be due.
    // [clause 8.7.1-f] the policy is enforced on time, by nobody's leave
    pub async fn look_after_lives(&self) -> Duration {
        let _one_at_a_time = self.changes.lock().await;
        let (policy, now) = (self.key_policy(), self.life_now());
        for key in self.keys().all() {
            let key = key.record.clone();
            let because = self.because("key policy".into(), "its time is over");
            let outcome = if key.destroying {
                self.destroy(&key, because).await.map(drop)
            } else {
                match policy.due(&key, key.warned, now) {
                    None => Ok(()),
                    Some(Due::Warn { days, to, at }) => self.warn(&key, days, to, at).await,
                    Some(Due::Overdue(at)) => self.warn(&key, 0, State::Destroyed, at).await,
                    Some(Due::Move(to)) if is_own(&key.line) => self.warn(&key, 0, to, now).await,
                    Some(Due::Move(to)) => self.go(&key, to, because).await.map(drop),
                    Some(Due::Destroy) => match self.has_rested(&key, &policy).await {
                        Ok(true) => self.destroy(&key, because).await.map(drop),
                        other => other.map(drop),
                    },
                }
            };
            if let Err(refusal) = outcome {
                tracing::error!(key = %key.name, "what the key policy wants could not be done: {refusal}");
            }
        }
        self.look_after_copies().await;
        let next = self.keys().all().iter().filter_map(|k| policy.end(&k.record)).map(|(at, _)| at.0).min();
        let until = next.map_or(i64::MAX, |at| at.saturating_sub(self.life_now().0));
        Duration::from_millis(u64::try_from(until).unwrap_or(0)).clamp(SOONEST, EVERY)
    }

    /// Whether a key was at its end for as long as the policy leaves it there, by time that really went by.
    // [clause 8.8-c] a clock that was set ahead destroys nothing
    async fn has_rested(&self, key: &KeyRecord, policy: &KeyPolicy) -> Result<bool, Refusal> {
        let Some((at, _)) = policy.end(key) else { return Ok(false) };
        let need = at.0.saturating_sub(key.since.0);
        self.store.has_waited(key.since, need).await.map_err(|e| self.store_refusal(&e))
    }

    async fn warn(&self, key: &KeyRecord, days: u32, to: State, at: Timestamp) -> Result<(), Refusal> {
        if key.warned == Some(days) {
            return Ok(());
        }
        if days == 0 {
            tracing::error!(key = %key.name, to = to.as_str(), "overdue since {at}");
        } else {
            tracing::warn!(key = %key.name, to = to.as_str(), "in {days} days or less: {at}");
        }
        self.store.warn_of_key(key.name.clone(), days, to, at).await.map_err(|e| self.store_refusal(&e))?;
        self.load_keys().await
    }

    /// Looks after lives until the daemon stops.
    pub async fn keep_lives(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        loop {
            self.settle_vault().await;
            self.look_after_backups().await;
            let rest = self.look_after_lives().await;
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }
}

/// A reason is for those who read the log in years.
pub(super) fn checked_reason(text: &str) -> Result<&str, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_REASON || text.chars().any(char::is_control) {
        let why =
            format!("say why: one line of 1 to {LONGEST_REASON} bytes, for those who read the log in years");
        return Err(Refusal::new(Code::InvalidParams, why));
    }
    Ok(text)
}
