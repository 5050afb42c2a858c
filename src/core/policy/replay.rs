//! The recorded past under a new policy: which payments would have ended otherwise.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::decide::{ActFacts, Decision, Facts, decide, describe};
use super::history::Mention;
use super::rule::Policy;
use super::window::{Debit, Windows};
use crate::core::payment::Payment;
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp};
use crate::refusal::Code;

/// A payment of the past, as the log tells it.
pub struct Past {
    /// Index of its entry.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Who asked.
    pub app: Name,
    /// With which line of keys.
    pub key: Name,
    /// What was known of who asked.
    pub tier: Tier,
    /// What.
    pub payment: Payment,
    /// How it ended: `permit`, or the code of its refusal.
    pub was: String,
}

/// One that would end otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Index of its entry.
    pub seq: u64,
    /// When.
    pub at: String,
    /// Who asked.
    pub app: Name,
    /// With which line of keys.
    pub key: Name,
    /// What, in words.
    pub request: String,
    /// How it ended.
    pub was: String,
    /// How it would end: `permit`, `approval_needed`, or the code of a refusal.
    pub now: String,
}

/// Decides the past again, one payment after the other, with windows of its own: what would be permitted counts.
pub struct Replay<'a> {
    policy: &'a Policy,
    windows: Windows,
    /// How many payments were decided again.
    pub judged: u64,
    /// Those that would end otherwise.
    pub changed: Vec<Changed>,
}

impl<'a> Replay<'a> {
    /// Begins with nothing spent.
    #[must_use]
    pub fn new(policy: &'a Policy) -> Self {
        Self { policy, windows: Windows::for_policy(policy), judged: 0, changed: Vec::new() }
    }

    /// The log counted so much up to this date.
    pub fn counted(&mut self, at: Timestamp, counted_ms: i64) {
        self.windows.history.elapsed.told(at, counted_ms);
    }

    /// The next payment, in the order of the log.
    pub fn next(&mut self, past: Past) {
        let facts = Facts {
            app: &past.app,
            key: &past.key,
            act: ActFacts::Payment(&past.payment),
            digest: [0; 32],
            tier: past.tier,
            sweeping: false,
            settled: false,
            replacing: false,
        };
        let now = match decide(self.policy, &facts, &self.windows, past.at) {
            Decision::Permit(permit) => {
                let spent = past.payment.effect.debit();
                self.windows.add(&Debit {
                    at: past.at,
                    key: past.key.clone(),
                    app: past.app.clone(),
                    chain: Some(past.payment.chain),
                    asset: spent.map(|(asset, _)| asset),
                    to: past.payment.effect.counterparty(),
                    amount: spent.map(|(_, amount)| amount).unwrap_or_default(),
                });
                let word = if permit.needs.is_some() { "approval_needed" } else { "permit" };
                word.to_owned()
            }
            Decision::Deny(denial) => {
                // As the store does: a destination that was asked for is known from then on.
                if let (Code::DestinationNew, Some(to)) =
                    (denial.refusal.code, past.payment.effect.counterparty())
                {
                    self.windows.history.mention(&Mention { key: past.key.clone(), to, at: past.at });
                }
                denial.refusal.code.as_str().to_owned()
            }
        };
        let request = describe(self.policy, &facts);
        self.judged += 1;
        // What tripped a wire was permitted by the rules; a wire is no rule, and is not replayed.
        let past =
            if past.was == Code::Tripped.as_str() { Past { was: "permit".into(), ..past } } else { past };
        // What people approved was permitted too; whether they would again is theirs to say.
        let same = now == past.was || (now == "approval_needed" && past.was == "approved");
        if !same {
            self.changed.push(Changed {
                seq: past.seq,
                at: past.at.to_string(),
                app: past.app,
                key: past.key,
                request,
                was: past.was,
                now,
            });
        }
    }
}
