//! What is asked of the writer, what it asks of the policy, and what it answers.
#![forbid(unsafe_code)]

use std::any::Any;

use serde_json::Value;

use crate::core::approval::Needs;
use crate::core::elapsed::Elapsed;
use crate::core::key::Operation;
use crate::core::payment::Chain;
use crate::core::policy::Tripwire;
use crate::core::policy::history::Mention;
use crate::core::policy::window::Debit;
use crate::core::proof::{Authorized, Present, RequestId, Reserved, Start, Tier};
use crate::core::units::{Name, Timestamp};
use crate::core::user::Step;
use crate::refusal::Refusal;

/// The rule's yes.
pub struct Verdict {
    /// The proof.
    pub authorized: Authorized,
    /// The rule.
    pub rule: Name,
    /// Who must approve it first.
    pub needs: Option<Needs>,
    /// The policy that was decided under.
    pub policy_hash: [u8; 32],
}

/// How a request stands to what was asked before.
#[derive(Clone, Copy, Debug, Default)]
pub struct How {
    /// This very payment stands in the windows already: they are not asked again.
    pub debited: bool,
    /// The key may pay to listed destinations only.
    pub sweeping: bool,
    /// It replaces the same payment with another fee.
    pub replacing: bool,
}

/// What decides, inside the writer.
pub trait Ledger: Send + 'static {
    /// Decides.
    fn decide(&self, facts: &dyn Any, now: Timestamp, how: How) -> Result<Verdict, Refusal>;
    /// The same decision in words.
    fn explain(&self, facts: &dyn Any, now: Timestamp) -> Result<Value, Refusal>;
    /// What suspends a key by itself.
    fn tripwire(&self) -> Option<Tripwire> {
        None
    }
    /// Why a request is so unlike what its key does that the key shall stop; `refused` when it was refused anyway.
    fn strange(&self, _facts: &dyn Any, _now: Timestamp, _refused: bool) -> Option<String> {
        None
    }
    /// Counts what was reserved.
    fn commit(&mut self, debit: &Debit);
    /// A destination was asked for.
    fn mention(&mut self, _mention: &Mention) {}
    /// How much time went by between the dates of the log.
    fn elapsed(&mut self, _elapsed: &Elapsed) {}
    /// The log counted so much up to this date.
    fn counted(&mut self, _at: Timestamp, _counted_ms: i64) {}
    /// Starts over from these rows.
    fn rebuild(&mut self, rows: &[Debit], seen: &[Mention]);
    /// What was spent before this is not known: every window counts as full until it has passed by.
    fn fill(&mut self, until_now: Timestamp);
}

/// The account nonce that a payment uses.
pub struct NonceClaim {
    /// Chain.
    pub chain: Chain,
    /// Nonce.
    pub nonce: u64,
    /// Identifies the payment, fees aside.
    pub payment_fingerprint: [u8; 32],
}

/// A request to reserve.
pub struct Ask {
    /// Its id.
    pub request: RequestId,
    /// Vouched app.
    pub app: Name,
    /// Tier of the caller.
    pub tier: Tier,
    /// The user whose key it is, where it has one.
    pub present: Present,
    /// Key.
    pub key: Name,
    /// What is done with it.
    pub operation: Operation,
    /// For the log: what was decoded.
    pub act: Value,
    /// SHA-256 of what will be signed.
    pub digest: [u8; 32],
    /// SHA-256 of the authority document in force.
    pub authority: Option<[u8; 32]>,
    /// SHA-256 of the facts about the machine.
    pub device: [u8; 32],
    /// What to count; the writer sets its time.
    pub debit: Debit,
    /// The nonce, for transactions.
    pub nonce: Option<NonceClaim>,
    /// For the ledger.
    pub facts: Box<dyn Any + Send>,
    /// Called when it is decided, before the commit: lets the token work meanwhile.
    pub start: Start,
}

/// A signature as it is kept: `r || s`, `s` low, or RFC 8032's 64 bytes.
pub type Kept = [u8; 64];

/// The answer to [`Ask`].
pub enum ReserveReply {
    /// Reserved and written down.
    New(Reserved),
    /// The same payload was reserved before and has no outcome: it may be signed again, without a new debit.
    Again(Reserved),
    /// The same payload was signed before: this is what was released.
    Already {
        /// The signature that was released.
        signature: Kept,
        /// The request that made it.
        request: RequestId,
    },
    /// Refused, and written down.
    Refused {
        /// Why.
        refusal: Refusal,
        /// It was one too many: the key is suspended.
        tripped: bool,
    },
    /// Permitted when people approve it. Nothing was reserved or written.
    Needs {
        /// Who.
        needs: Needs,
        /// The policy that asks.
        policy: [u8; 32],
    },
    /// Permitted when the user takes this step for it. Nothing was reserved or written.
    Step(Step),
}
