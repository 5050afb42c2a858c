//! Whether the state directory is the one that was left: held against what the token knows, before anything is signed.
//!
//! The token's state key makes a key for each run of a fresh nonce; under it every commit seals the log. A seal that does
//! not verify, or an anchor that is ahead, stops signing until an operator has settled it. [clause 8.7.1]
#![forbid(unsafe_code)]

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::anchor::Compared;
use super::keys::Successor;
use super::lifecycle::checked_reason;
use super::{House, Key, token_refusal};
use crate::core::key::{Algorithm, Purpose};
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;
use crate::store::{EntryKind, RUN_INPUT, SealKey};
use crate::token::TokenError;

/// The name of the key that seals the log.
pub const STATE_KEY: &str = "claviger-state";

/// Whether a key is the daemon's own, which no app uses and no operator moves.
#[must_use]
pub fn is_own(line: &Name) -> bool {
    [super::keys::LOG_KEY, STATE_KEY].contains(&line.as_str())
}

/// How the state directory stands.
#[derive(Clone, Debug, Default)]
pub enum Standing {
    /// It was not compared yet.
    #[default]
    Unconfirmed,
    /// It is the one that was left. Why it is not sealed, when it is not.
    Confirmed(Option<String>),
    /// It is not.
    Refused(Refusal),
}

impl House {
    /// How the state directory stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn stands(&self, standing: Standing) {
        self.confirmed.store(matches!(standing, Standing::Confirmed(_)), Ordering::Release);
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Refuses as long as it is not known that the state directory is the one that was left.
    // [clause 8.7.1-i] nothing is signed, made or approved on a state that the token has not confirmed
    pub fn trusted(&self) -> Result<(), Refusal> {
        if self.confirmed.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.standing() {
            Standing::Confirmed(_) => Ok(()),
            Standing::Refused(refusal) => Err(refusal),
            Standing::Unconfirmed => Err(Refusal::new(
                Code::StateUnconfirmed,
                "the token has not confirmed yet that the state directory is the one that was left",
            )),
        }
    }

    /// Compares the state directory with what the token knows, once it can be asked; does nothing afterwards.
    pub async fn confirm(&self) -> Result<(), Refusal> {
        if self.confirmed.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = self.confirming.lock().await;
        if let Standing::Confirmed(_) | Standing::Refused(_) = self.standing() {
            return self.trusted();
        }
        self.token_answers()?;
        let outcome = self.judge().await;
        if let Err(refusal) = &outcome
            && matches!(refusal.code, Code::StateTampered | Code::StateRolledBack | Code::AnchorMissing)
        {
            tracing::error!("nothing is signed: {refusal}; {}", refusal.code.advice());
            let entry = self.state_entry("refused", refusal.to_string(), None);
            if let Err(e) = self.store.append(entry).await {
                tracing::error!("that the state was refused could not be written down: {e}");
            }
            self.stands(Standing::Refused(refusal.clone()));
        }
        outcome
    }

    fn state_entry(&self, what: &str, why: String, uid: Option<u32>) -> EntryKind {
        EntryKind::State { what: what.into(), why, uid, epoch: self.epoch.load(Ordering::Acquire) }
    }

    async fn judge(&self) -> Result<(), Refusal> {
        let tampered = |why: String| Refusal::new(Code::StateTampered, why);
        let found = self.store.found();
        let known = match &found.seal {
            None => None,
            Some(seal) => {
                let key = self.state_key().ok_or_else(|| {
                    tampered("the log is sealed, and says nothing of the key that sealed it".into())
                })?;
                match self.run_key(&key, seal.nonce).await {
                    Ok(made) => Some(made),
                    Err(e) => {
                        let there =
                            self.keeper.find(key.record.reference).await.map_err(|e| token_refusal(&e))?;
                        if there == Some(key.record.public) {
                            return Err(token_refusal(&e));
                        }
                        // A token that has lost everything else too is another trouble.
                        self.same_token().await?;
                        return Err(tampered("the token does not hold the key that sealed the log".into()));
                    }
                }
            }
        };
        found.judge(known.as_ref()).map_err(tampered)?;
        let compared = self.compare_anchor().await?;
        self.take_over(compared, Vec::new()).await
    }

    /// From here on the log is believed, and every commit seals it anew.
    async fn take_over(&self, compared: Compared, mut entries: Vec<EntryKind>) -> Result<(), Refusal> {
        let (seal, unsealed) = match self.fresh_seal().await {
            Ok(seal) => (Some(seal), None),
            // Said once more at each start, and no reason to stop where it never was otherwise.
            Err(refusal) if !self.store.found().sealed && self.gives_up(&refusal) => {
                tracing::warn!("the log is not sealed: {refusal}");
                (None, Some(refusal.sentence))
            }
            Err(refusal) => return Err(refusal),
        };
        if seal.is_some() && !self.store.found().sealed {
            let why = "from here on the token's state key seals the log in every commit";
            entries.push(self.state_entry("sealed", why.into(), None));
        }
        self.store.settle(seal, entries).await.map_err(|e| self.store_refusal(&e))?;
        self.begin_anchor(compared);
        // The start of this run stands in the token before its first signature: no copy from before it passes for it.
        let told = self.advance_anchor(true).await;
        if let Err(refusal) = told {
            tracing::debug!("the anchor was not written: {refusal}");
        }
        self.stands(Standing::Confirmed(unsealed));
        Ok(())
    }

    /// Some tokens refuse a kind of key in so many words, some break off each time.
    fn gives_up(&self, refusal: &Refusal) -> bool {
        match refusal.code {
            Code::TokenRefused | Code::KeyPolicyForbids | Code::KeyPurpose => true,
            Code::TokenGone | Code::TokenTimeout | Code::SignatureInvalid => {
                self.unsealed_tries.fetch_add(1, Ordering::AcqRel) > 0
            }
            _ => false,
        }
    }

    fn state_key(&self) -> Option<std::sync::Arc<Key>> {
        let key = Name::parse(STATE_KEY).and_then(|name| self.keys().by_name(&name))?;
        let (purpose, algorithm) = (key.record.purpose, key.record.public.algorithm());
        (purpose == Purpose::Integrity && algorithm == Algorithm::HmacSha256).then_some(key)
    }

    async fn run_key(&self, key: &Key, nonce: [u8; 32]) -> Result<SealKey, TokenError> {
        let input = [RUN_INPUT, key.record.reference.as_bytes(), &nonce].concat();
        let made: SecretBytes<32> = self.keeper.run_key(&key.record, input).await?;
        Ok(SealKey::new(nonce, made))
    }

    /// The key of this run; makes the token's state key when there is none.
    async fn fresh_seal(&self) -> Result<SealKey, Refusal> {
        let key = match self.state_key() {
            Some(key) => key,
            None => self.make_state_key(1).await?,
        };
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)
            .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
        self.run_key(&key, nonce).await.map_err(|e| token_refusal(&e))
    }

    async fn make_state_key(&self, generation: u32) -> Result<std::sync::Arc<Key>, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let broken = || Refusal::new(Code::Internal, "the state key cannot be named");
        let line = Name::parse(STATE_KEY).ok_or_else(broken)?;
        let name = match generation {
            1 => line.clone(),
            n => Name::of_generation(&line, n).ok_or_else(broken)?,
        };
        if !self.keeper.profile().algorithms.contains(&Algorithm::HmacSha256) {
            let why = "the token makes no MACs of the kind that seals the log (hmac-sha256)";
            return Err(Refusal::new(Code::TokenRefused, why));
        }
        let successor = Successor { name, line, generation };
        let made = self.make_silent(successor, Algorithm::HmacSha256, Purpose::Integrity, 0).await?;
        self.keys().exact(&made.name).ok_or_else(broken)
    }

    /// An operator goes on with what is there: every window counts as full until it has passed, approvals are void.
    ///
    /// The one place where a refused state comes back into use.
    // [clause 8.7.1-j] going on with an older state gives nobody a second allowance
    pub async fn accept_state(&self, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.confirming.lock().await;
        let reason = checked_reason(reason)?;
        let Standing::Refused(refused) = self.standing() else {
            let why = "the state directory was not refused: there is nothing to accept";
            return Err(Refusal::new(Code::InvalidRequest, why));
        };
        self.token_answers()?;
        // The token's own count goes on from whatever it was: a copy from before this never passes again.
        let (epoch, compared) = self.next_epoch().await?;
        self.epoch.store(epoch, Ordering::Release);
        self.seal_can_be_made_again().await?;
        let entry = self.state_entry("accepted", format!("{reason} ({refused})"), Some(uid));
        self.store.accept(entry).await.map_err(|e| self.store_refusal(&e))?;
        self.take_over(compared, Vec::new()).await?;
        tracing::warn!(uid, "a state directory that was refused is in use again: {reason}");
        Ok(json!({"accepted": refused.code.as_str(), "was": refused.sentence, "epoch": epoch}))
    }

    /// A state key that the token has lost gets a successor.
    async fn seal_can_be_made_again(&self) -> Result<(), Refusal> {
        let Some(key) = self.state_key() else { return Ok(()) };
        let there = self.keeper.find(key.record.reference).await.map_err(|e| token_refusal(&e))?;
        if there != Some(key.record.public) {
            self.store.settle(None, Vec::new()).await.map_err(|e| self.store_refusal(&e))?;
            self.make_state_key(key.record.generation.saturating_add(1)).await?;
        }
        Ok(())
    }

    /// What status, doctor and the metrics say of it.
    #[must_use]
    pub fn state_told(&self) -> Value {
        let (word, code, reason, advice, unsealed) = match self.standing() {
            Standing::Unconfirmed => ("unconfirmed", None, None, None, None),
            Standing::Confirmed(unsealed) => ("confirmed", None, None, None, unsealed),
            Standing::Refused(r) => {
                ("refused", Some(r.code.as_str()), Some(r.sentence), Some(r.code.advice()), None)
            }
        };
        json!({
            "standing": word,
            "code": code,
            "reason": reason,
            "advice": advice,
            "sealed": word == "confirmed" && unsealed.is_none(),
            "unsealed_because": unsealed,
            "anchor": self.anchor_told(),
        })
    }
}
