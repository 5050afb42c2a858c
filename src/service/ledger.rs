//! The policy as the store's ledger: decided inside the writer, so that two requests never see the same room.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use serde_json::Value;

use crate::core::elapsed::Elapsed;
use crate::core::payment::Payment;
use crate::core::policy::history::Mention;
use crate::core::policy::window::{Debit, Windows};
use crate::core::policy::{Act, ActFacts, Decision, Facts, Policy, Tripwire, decide, explain};
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp, U256};
use crate::refusal::{Code, Refusal};
use crate::store::{How, Ledger, Verdict};

/// What the decision needs to know about a request.
pub struct SignFacts {
    /// Who asks.
    pub app: Name,
    /// What is known of it.
    pub tier: Tier,
    /// With which key: the name of its line.
    pub key: Name,
    /// Whether it may only sweep, as far as was known when the request was read; the writer knows better.
    pub sweeping: bool,
    /// When an operator activated the key again after it had been stopped.
    pub looked_at: Option<Timestamp>,
    /// The payment, if it is one.
    pub payment: Option<Payment>,
    /// Otherwise what it is, and how many bytes of data it has.
    pub other: (Act, usize),
    /// What will be signed.
    pub digest: [u8; 32],
}

impl SignFacts {
    fn facts(&self, how: How) -> Facts<'_> {
        let act = match &self.payment {
            Some(payment) => ActFacts::Payment(payment),
            None => ActFacts::Other { act: self.other.0, len: self.other.1 },
        };
        Facts {
            app: &self.app,
            key: &self.key,
            act,
            digest: self.digest,
            tier: self.tier,
            sweeping: how.sweeping,
            settled: how.debited,
            replacing: how.replacing,
        }
    }
}

fn read(facts: &dyn Any) -> Result<&SignFacts, Refusal> {
    facts
        .downcast_ref::<SignFacts>()
        .ok_or_else(|| Refusal::new(Code::Internal, "a request without facts reached the ledger"))
}

/// The ledger in force: one policy and the counters of its windows.
pub struct PolicyLedger {
    policy: Arc<Policy>,
    windows: Windows,
}

impl PolicyLedger {
    /// Counters start empty; the store fills them from its rows.
    #[must_use]
    pub fn new(policy: Arc<Policy>) -> Self {
        let windows = Windows::for_policy(&policy);
        Self { policy, windows }
    }

    /// Why a payment is unlike what its key does.
    fn unlike(&self, facts: &SignFacts, now: Timestamp, refused: bool) -> Option<String> {
        let wire = self.policy.tripwire()?;
        let payment = facts.payment.as_ref().filter(|_| !facts.sweeping)?;
        let history = &self.windows.history;
        // What an operator has looked at does not count any more.
        let looked = facts.looked_at.unwrap_or(Timestamp(i64::MIN));
        if let (Some(most), Some(to)) = (wire.new_destinations, payment.effect.counterparty())
            && history.first(&facts.key, to).is_none()
        {
            let since = now.minus(wire.within_ms).max(looked);
            let count = history.new_since(&facts.key, since).saturating_add(1);
            if count >= usize::try_from(most).unwrap_or(usize::MAX) {
                return Some(format!(
                    "{count} destinations in {} minutes that the key was never asked to pay before, the last {}",
                    wire.within_ms / 60_000,
                    self.policy.format_address(to)
                ));
            }
        }
        let (Some(factor), Some((asset, amount)), false) =
            (wire.amount_factor, payment.effect.debit(), refused)
        else {
            return None;
        };
        let largest = history.largest(&facts.key, (payment.chain, asset), looked)?;
        let show = |amount| self.policy.format_amount(payment.chain, asset, amount);
        (amount > largest.saturating_mul(U256::from(factor))).then(|| {
            format!(
                "{} is more than {factor} times the largest of the key's last payments, {}",
                show(amount),
                show(largest)
            )
        })
    }
}

impl Ledger for PolicyLedger {
    fn decide(&self, facts: &dyn Any, now: Timestamp, how: How) -> Result<Verdict, Refusal> {
        // A request that was read under an older policy is decided under the one in force.
        match decide(&self.policy, &read(facts)?.facts(how), &self.windows, now) {
            Decision::Permit(permit) => Ok(Verdict {
                rule: permit.authorized.rule().clone(),
                needs: permit.needs,
                authorized: permit.authorized,
                policy_hash: self.policy.hash(),
            }),
            Decision::Deny(denial) => Err(denial.refusal),
        }
    }

    fn explain(&self, facts: &dyn Any, now: Timestamp) -> Result<Value, Refusal> {
        let facts = read(facts)?;
        let how = How { sweeping: facts.sweeping, ..How::default() };
        let (decision, mut told) = explain(&self.policy, &facts.facts(how), &self.windows, now);
        let denied = |refusal: &Refusal| {
            serde_json::json!({
                "outcome": "deny",
                "code": refusal.code.as_str(),
                "rule": refusal.rule,
                "sentence": refusal.sentence,
                "facts": refusal.facts,
                "advice": refusal.code.advice(),
            })
        };
        let mut value = match decision {
            Decision::Deny(denial) => denied(&denial.refusal),
            Decision::Permit(permit) => {
                let strange = if permit.needs.is_none() { self.unlike(facts, now, false) } else { None };
                match strange {
                    Some(why) => {
                        told.outcome = format!("{}, but it would trip a wire: {why}", told.outcome);
                        denied(&Refusal::new(Code::Tripped, why))
                    }
                    None => serde_json::json!({
                        "outcome": "permit",
                        "rule": permit.authorized.rule(),
                        "approvals": permit.needs,
                    }),
                }
            }
        };
        if let Some(map) = value.as_object_mut() {
            map.insert("text".into(), told.to_string().into());
            map.insert("explanation".into(), serde_json::to_value(told).unwrap_or(Value::Null));
        }
        Ok(value)
    }

    fn strange(&self, facts: &dyn Any, now: Timestamp, refused: bool) -> Option<String> {
        self.unlike(read(facts).ok()?, now, refused)
    }

    fn tripwire(&self) -> Option<Tripwire> {
        self.policy.tripwire()
    }

    fn commit(&mut self, debit: &Debit) {
        self.windows.add(debit);
    }

    fn mention(&mut self, mention: &Mention) {
        self.windows.history.mention(mention);
    }

    fn elapsed(&mut self, elapsed: &Elapsed) {
        self.windows.history.elapsed = elapsed.clone();
    }

    fn counted(&mut self, at: Timestamp, counted_ms: i64) {
        self.windows.history.elapsed.told(at, counted_ms);
    }

    fn rebuild(&mut self, rows: &[Debit], seen: &[Mention]) {
        self.windows.rebuild(rows, seen);
    }

    fn fill(&mut self, until_now: Timestamp) {
        self.windows.fill(until_now);
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
