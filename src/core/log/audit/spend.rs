//! What was paid: each intent decided again under the policy that was in force, with the windows of that moment.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::Value;

use super::super::super::approval::{Authority, Needs};
use super::super::super::elapsed::Elapsed;
use super::super::super::key::Operation;
use super::super::super::payment::{Chain, Effect, Payment};
use super::super::super::policy::books::{BookFile, Sources};
use super::super::super::policy::history::Mention;
use super::super::super::policy::window::{Debit, LONGEST_MS, Windows};
use super::super::super::policy::{Act, ActFacts, Decision, Facts, Policy, decide};
use super::super::super::proof::Tier;
use super::super::super::units::{Address, Name, Timestamp, U256};
use super::texts::{InForce, Stood, Texts};
use super::{Findings, Place, Rule};

/// How long a request without an outcome may be tried again without a new debit (as the store has it).
const RETRY_MS: i64 = 60_000;
/// A decision stands before its entry: what turned by the clock in between is looked at once more, so much earlier.
const DECIDED_BEFORE_MS: i64 = 1000;

/// A policy with what was spent under it.
pub(super) struct Ruling {
    pub(super) policy: Policy,
    windows: Windows,
}

/// What stands under an account nonce.
struct Slot {
    app: String,
    digest: String,
    effect: Effect,
    /// When its amount was debited.
    at: i64,
    request: String,
    signed: bool,
}

/// What an intent says.
pub(super) struct Intent {
    pub(super) request: String,
    pub(super) app: String,
    pub(super) tier: Tier,
    pub(super) key: String,
    pub(super) digest: String,
    pub(super) policy: String,
    pub(super) debited: bool,
    pub(super) act: Act,
    pub(super) len: usize,
    pub(super) payment: Option<Payment>,
}

/// What is done, as the log says it.
pub(super) fn act_of(value: &Value) -> Option<(Act, usize, Option<Payment>)> {
    if value.get("effect").is_some() {
        let payment: Payment = serde_json::from_value(value.clone()).ok()?;
        return Some((Act::of(&payment.effect), 0, Some(payment)));
    }
    let act: Act = serde_json::from_value(value.get("kind")?.clone()).ok()?;
    let bytes = usize::try_from(value.get("bytes")?.as_u64()?).ok()?;
    (!act.pays()).then_some((act, bytes, None))
}

/// The operation that an act is for a key.
pub(super) fn operation(act: Act) -> Operation {
    match act {
        Act::Transfer | Act::Approve | Act::TransferFrom | Act::Call | Act::Create => Operation::SignPayment,
        Act::Message => Operation::SignMessage,
        Act::Login => Operation::SignLogin,
        Act::Encrypt => Operation::Encrypt,
        Act::Decrypt => Operation::Decrypt,
        Act::Mac => Operation::Mac,
        Act::VerifyMac => Operation::VerifyMac,
        Act::Random => Operation::Random,
    }
}

#[derive(Default)]
pub(super) struct Spend {
    pub(super) rulings: InForce<Ruling>,
    debits: VecDeque<Debit>,
    mentions: Vec<Mention>,
    elapsed: Elapsed,
    nonces: HashMap<(String, Chain, u64), Slot>,
    /// Which nonce a request holds until its outcome.
    holding: HashMap<String, (String, Chain, u64)>,
    pub(super) totals: BTreeMap<String, U256>,
    pub(super) judged: u64,
}

/// What the policy asked of people, if the intent could be decided again.
pub(super) enum Judged {
    /// It could not: its policy is not known, or refuses it, which was said.
    No,
    /// It could.
    Yes {
        /// Whom it asks for.
        needs: Option<Needs>,
        /// The very payload was approved before.
        again: bool,
    },
}

impl Spend {
    /// A policy is announced: it counts what was spent before it, as the daemon does.
    ///
    /// Its hash is that of its text and of the signed books that it names; the text stands in the log under its own.
    pub(super) fn announce(
        &mut self,
        place: Place,
        (hash, text, books): (&str, Option<&str>, &[String]),
        authority: Option<&Authority>,
        texts: &mut Texts,
        found: &mut Findings,
    ) {
        let (debits, mentions, elapsed) = (&self.debits, &self.mentions, &self.elapsed);
        self.rulings.announce(place, hash, || {
            let mut files = BTreeMap::new();
            for book in books {
                let text = texts.find(place, "book", book, found)?;
                let file: BookFile = serde_json::from_str(text).ok()?;
                files.insert(file.file.clone(), Ok(file));
            }
            let text = texts.find(place, "policy", text.unwrap_or(hash), found)?;
            match Policy::read(text, &Sources { files: Some(&files), authority }) {
                Ok(policy) => {
                    let mut windows = Windows::for_policy(&policy);
                    windows.history.elapsed = elapsed.clone();
                    mentions.iter().for_each(|mention| windows.history.mention(mention));
                    debits.iter().for_each(|debit| windows.add(debit));
                    Some(Ruling { policy, windows })
                }
                Err(e) => {
                    let what = format!("this program cannot read the policy {hash}: {e}");
                    found.unproven(Rule::Policy, place.index, what);
                    None
                }
            }
        });
    }

    // [clause 8.7.1-c] every use is decided again, under the text that was in force
    // [clause 8.7.1-d] with windows that are added up from the intents, and from nothing else
    pub(super) fn judge(
        &mut self,
        place: Place,
        intent: &Intent,
        sweeping: bool,
        found: &mut Findings,
    ) -> Judged {
        let earlier = self.nonce(place, intent, found);
        let (Some(app), Some(key)) = (Name::parse(&intent.app), Name::parse(&intent.key)) else {
            found.breach(Rule::Form, place.index, "the name of its app or key is none");
            return Judged::No;
        };
        let line = key.line();
        let outcome = match self.rulings.at(place, &intent.policy) {
            Stood::Not => {
                let what =
                    format!("it was decided under the policy {}, which was not in force", intent.policy);
                found.breach(Rule::Policy, place.index, what);
                Judged::No
            }
            Stood::Unread => Judged::No,
            Stood::Known(ruling) => {
                self.judged = self.judged.saturating_add(1);
                let act = match &intent.payment {
                    Some(payment) => ActFacts::Payment(payment),
                    None => ActFacts::Other { act: intent.act, len: intent.len },
                };
                let facts = Facts {
                    app: &app,
                    key: &line,
                    act,
                    digest: [0; 32],
                    tier: intent.tier,
                    sweeping,
                    // What was debited before is not asked of the windows again.
                    settled: !intent.debited,
                    replacing: earlier == Earlier::Replaced,
                };
                let (windows, now) = (&ruling.windows, Timestamp(place.ms));
                let decision = match decide(&ruling.policy, &facts, windows, now) {
                    Decision::Deny(_) => {
                        decide(&ruling.policy, &facts, windows, now.minus(DECIDED_BEFORE_MS))
                    }
                    permitted @ Decision::Permit(_) => permitted,
                };
                match decision {
                    Decision::Deny(denial) => {
                        let what = format!("the policy in force refuses it: {}", denial.refusal);
                        found.breach(Rule::Policy, place.index, what);
                        Judged::No
                    }
                    Decision::Permit(permit) => {
                        let again = earlier == Earlier::Same && !intent.debited;
                        Judged::Yes { needs: permit.needs, again }
                    }
                }
            }
        };
        if intent.debited {
            self.debit(place, app, line, intent.payment.as_ref(), found);
        }
        outcome
    }

    /// The log counts so much; `false` when that is less than it did.
    pub(super) fn counted(&mut self, place: Place, counted_ms: i64) -> bool {
        let at = Timestamp(place.ms);
        for ruling in self.rulings.each() {
            ruling.windows.history.elapsed.told(at, counted_ms);
        }
        self.elapsed.told(at, counted_ms)
    }

    /// How much time went by between the dates of the log.
    pub(super) fn elapsed(&self) -> &Elapsed {
        &self.elapsed
    }

    /// A destination was asked for, and refused for that alone.
    pub(super) fn mention(&mut self, place: Place, key: Name, to: Address) {
        let mention = Mention { key, to, at: Timestamp(place.ms) };
        self.rulings.each().for_each(|ruling| ruling.windows.history.mention(&mention));
        self.mentions.push(mention);
    }

    fn debit(&mut self, place: Place, app: Name, key: Name, payment: Option<&Payment>, found: &mut Findings) {
        let spent = payment.and_then(|p| p.effect.debit());
        let debit = Debit {
            at: Timestamp(place.ms),
            key,
            app,
            chain: payment.map(|p| p.chain),
            asset: spent.map(|(asset, _)| asset),
            to: payment.and_then(|p| p.effect.counterparty()),
            amount: spent.map(|(_, amount)| amount).unwrap_or_default(),
        };
        if let Some((chain, asset)) = debit.chain.zip(debit.asset) {
            let total = self.totals.entry(format!("{} {chain} {asset}", debit.key)).or_default();
            match total.checked_add(debit.amount) {
                Some(sum) => *total = sum,
                None => found.breach(Rule::Policy, place.index, "the sum of amounts is past 2^256"),
            }
        }
        self.rulings.each().for_each(|ruling| ruling.windows.add(&debit));
        if let Some(to) = debit.to {
            self.mentions.push(Mention { key: debit.key.clone(), to, at: debit.at });
        }
        self.debits.push_back(debit);
        while self.debits.front().is_some_and(|d| place.ms.saturating_sub(d.at.0) > LONGEST_MS * 2) {
            self.debits.pop_front();
        }
    }

    /// What stood under this nonce before; from here on this request holds it.
    // [clause 8.4.3-b] another payment under a used nonce is found, and so is one that was not counted
    fn nonce(&mut self, place: Place, intent: &Intent, found: &mut Findings) -> Earlier {
        let mut wrong = |what: &str| found.breach(Rule::Nonce, place.index, what);
        let Some(payment) = &intent.payment else {
            if !intent.debited {
                wrong("it was not counted, and nothing like it was before");
            }
            return Earlier::None;
        };
        let at = (intent.key.clone(), payment.chain, payment.nonce);
        let mut slot = Slot {
            app: intent.app.clone(),
            digest: intent.digest.clone(),
            effect: payment.effect.clone(),
            at: place.ms,
            request: intent.request.clone(),
            signed: false,
        };
        let before = self.nonces.remove(&at);
        let earlier = match &before {
            None => {
                if !intent.debited {
                    wrong("it was not counted, and nothing was reserved under its account nonce before");
                }
                Earlier::None
            }
            Some(before) => {
                let same = before.digest == intent.digest;
                if before.app != intent.app {
                    wrong("another app used its account nonce before");
                }
                if !same && before.effect != payment.effect {
                    wrong("another payment was reserved under its account nonce before");
                }
                if same && before.signed {
                    wrong("this very payload was signed before");
                }
                let stands =
                    before.signed || place.ms.saturating_sub(before.at) < RETRY_MS + DECIDED_BEFORE_MS;
                if !intent.debited {
                    if !stands {
                        wrong("it was not counted, and what was counted before is over");
                    }
                    slot.at = before.at;
                }
                self.holding.remove(&before.request);
                if same { Earlier::Same } else { Earlier::Replaced }
            }
        };
        self.holding.insert(intent.request.clone(), at.clone());
        self.nonces.insert(at, slot);
        earlier
    }

    /// A request has its outcome.
    pub(super) fn outcome(&mut self, request: &str, signed: bool) {
        let slot = self.holding.remove(request).and_then(|at| self.nonces.get_mut(&at));
        if let Some(slot) = slot {
            slot.signed = signed;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    None,
    Same,
    Replaced,
}
