//! The policy as the store's ledger: decided inside the writer, so that two requests never see the same room.
#![forbid(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use serde_json::Value;

use crate::core::payment::Payment;
use crate::core::policy::window::{Debit, Windows};
use crate::core::policy::{Act, ActFacts, Decision, Facts, Policy, Tripwire, decide};
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};
use crate::store::{Ledger, Verdict};

/// What the decision needs to know about a request.
pub struct SignFacts {
    /// Who asks.
    pub app: Name,
    /// With which key: the name of its line.
    pub key: Name,
    /// Whether it may only sweep, as far as was known when the request was read; the writer knows better.
    pub sweeping: bool,
    /// The payment, if it is one.
    pub payment: Option<Payment>,
    /// Otherwise what it is, and how many bytes of data it has.
    pub other: (Act, usize),
    /// What will be signed.
    pub digest: [u8; 32],
}

impl SignFacts {
    fn facts(&self, sweeping: bool) -> Facts<'_> {
        let act = match &self.payment {
            Some(payment) => ActFacts::Payment(payment),
            None => ActFacts::Other { act: self.other.0, len: self.other.1 },
        };
        Facts { app: &self.app, key: &self.key, act, digest: self.digest, sweeping }
    }
}

fn sweeping(facts: &dyn Any) -> bool {
    facts.downcast_ref::<SignFacts>().is_some_and(|f| f.sweeping)
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

    fn decision(
        &self,
        facts: &dyn Any,
        windows: &Windows,
        now: Timestamp,
        sweeping: bool,
    ) -> Result<Decision, Refusal> {
        let facts = facts
            .downcast_ref::<SignFacts>()
            .ok_or_else(|| Refusal::new(Code::Internal, "a request without facts reached the ledger"))?;
        // A request that was read under an older policy is decided under the one in force.
        Ok(decide(&self.policy, &facts.facts(sweeping), windows, now))
    }
}

impl Ledger for PolicyLedger {
    fn decide(
        &self,
        facts: &dyn Any,
        now: Timestamp,
        debited: bool,
        sweeping: bool,
    ) -> Result<Verdict, Refusal> {
        let empty = Windows::default();
        let windows = if debited { &empty } else { &self.windows };
        match self.decision(facts, windows, now, sweeping)? {
            Decision::Permit(permit) => Ok(Verdict {
                rule: permit.authorized.rule().clone(),
                replacement: permit.replacement,
                needs: permit.needs,
                authorized: permit.authorized,
                policy_hash: self.policy.hash(),
            }),
            Decision::Deny(denial) => Err(denial.refusal),
        }
    }

    fn explain(&self, facts: &dyn Any, now: Timestamp) -> Result<Value, Refusal> {
        let value = |v| serde_json::to_value(v).unwrap_or(Value::Null);
        Ok(match self.decision(facts, &self.windows, now, sweeping(facts))? {
            Decision::Permit(permit) => serde_json::json!({
                "outcome": "permit",
                "rule": permit.authorized.rule(),
                "approvals": permit.needs,
                "explanation": value(&permit.explanation),
                "text": permit.explanation.to_string(),
            }),
            Decision::Deny(denial) => serde_json::json!({
                "outcome": "deny",
                "code": denial.refusal.code.as_str(),
                "rule": denial.refusal.rule,
                "sentence": denial.refusal.sentence,
                "advice": denial.refusal.code.advice(),
                "explanation": value(&denial.explanation),
                "text": denial.explanation.to_string(),
            }),
        })
    }

    fn tripwire(&self) -> Option<Tripwire> {
        self.policy.tripwire()
    }

    fn commit(&mut self, debit: &Debit) {
        self.windows.add(debit);
    }

    fn rebuild(&mut self, rows: &[Debit]) {
        self.windows = Windows::for_policy(&self.policy);
        for row in rows {
            self.windows.add(row);
        }
    }

    fn fill(&mut self, until_now: Timestamp) {
        self.windows.fill(until_now);
    }
}
