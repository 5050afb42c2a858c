//! The decision: a pure function of policy, request, what was spent, and the time. Mints [`Authorized`].
//!
//! Default deny; forbid wins; of several permits any one that passes suffices, and the first by id is named.
#![forbid(unsafe_code)]

use super::super::payment::{Effect, Payment};
use super::super::proof::{Authorized, Tier};
use super::super::units::{Name, Timestamp};
use super::check::{At, Sums, limits, scope, told};
use super::explain::{Explanation, RuleVerdict};
use super::index::Places;
use super::rule::{Act, Kind, Policy, Rule};
use super::window::Windows;
use crate::core::approval::Needs;
use crate::refusal::{Code, Refusal};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum ActFacts<'a> {
    /// A decoded payment.
    Payment(&'a Payment),
    /// Anything that moves no money.
    Other {
        /// What.
        act: Act,
        /// Length of the data, bytes.
        len: usize,
    },
}

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The vouched app.
    pub app: &'a Name,
    /// The key.
    pub key: &'a Name,
    /// The act.
    pub act: ActFacts<'a>,
    /// Digest of what will be signed.
    pub digest: [u8; 32],
    /// What is known of the app.
    pub tier: Tier,
    /// The key is at its end: it pays to the destinations of `[sweep]` only, and only what a rule permits.
    pub sweeping: bool,
    /// This very payment stands in the windows already: they, and how new its destination is, are not asked again.
    pub settled: bool,
    /// It replaces a payment with another fee: only permits with `replacement` cover that.
    pub replacing: bool,
}

impl<'a> Facts<'a> {
    /// The payment, if it is one.
    pub(super) fn payment(&self) -> Option<&'a Payment> {
        match self.act {
            ActFacts::Payment(payment) => Some(payment),
            ActFacts::Other { .. } => None,
        }
    }

    /// What it is.
    pub(super) fn act(&self) -> Act {
        match self.act {
            ActFacts::Payment(payment) => Act::of(&payment.effect),
            ActFacts::Other { act, .. } => act,
        }
    }
}

/// Permitted or denied.
#[must_use]
pub enum Decision {
    /// Permitted, by a rule.
    Permit(Permit),
    /// Denied, for a reason.
    Deny(Denial),
}

/// A permit.
pub struct Permit {
    /// The proof.
    pub authorized: Authorized,
    /// Who must approve it before it is signed.
    pub needs: Option<Needs>,
}

/// A denial.
pub struct Denial {
    /// The refusal for the caller.
    pub refusal: Refusal,
}

/// Why a forbid forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ban {
    /// It covers the request, and has no limits.
    Whole,
    /// One of its limits does not hold.
    Limit(At),
}

/// What the rules say, before anything else is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said<'a> {
    /// The first forbid that forbids; what stood against it, when it has limits.
    pub(super) forbid: Option<(&'a Rule, Ban)>,
    /// Of the permits that let pass, the one that asks the fewest people, and then the first.
    pub(super) permit: Option<&'a Rule>,
    /// Without one: the permit that came nearest, and where it stopped.
    pub(super) nearest: Option<(&'a Rule, At)>,
}

/// Decides.
// [clause 8.7.1-c] what no rule permits is refused, and a forbid always wins
pub fn decide(policy: &Policy, facts: &Facts<'_>, spent: &Windows, now: Timestamp) -> Decision {
    let refusal =
        if let ActFacts::Payment(Payment { effect: Effect::ContractCreation { .. }, .. }) = facts.act {
            Refusal::new(Code::ContractCreation, "this creates a contract, which is no payment")
        } else if let Some(why) = facts.sweeping.then(|| not_a_sweep(policy, facts.act)).flatten() {
            Refusal::new(Code::SweepOnly, why)
        } else {
            let said = indexed(policy, facts, spent, now);
            if let Some((rule, at)) = said.forbid {
                let why = why_forbidden(policy, rule, facts, now, at);
                Refusal::new(Code::Forbidden, format!("rule {} forbids it: {why}", rule.id))
                    .by_rule(rule.id.as_str())
            } else if let Some(rule) = said.permit {
                return Decision::Permit(Permit {
                    authorized: Authorized::assertion(facts.digest, rule.id.clone()),
                    needs: rule.needs(amount(facts)).cloned(),
                });
            } else if let Some((rule, at)) = said.nearest {
                let stop = told(policy, rule, facts, now, at);
                let refusal = Refusal::new(stop.code, stop.sentence).with(stop.facts);
                // A rule that is about other apps or keys did not decide anything: it is not named.
                if at == At::Who { refusal } else { refusal.by_rule(rule.id.as_str()) }
            } else {
                Refusal::new(Code::NoRule, "the policy has no permit rule at all")
            }
        };
    Decision::Deny(Denial { refusal })
}

/// The same, with what each rule says of it.
pub fn explain(
    policy: &Policy,
    facts: &Facts<'_>,
    spent: &Windows,
    now: Timestamp,
) -> (Decision, Explanation) {
    let decision = decide(policy, facts, spent, now);
    let outcome = match &decision {
        Decision::Deny(denial) => format!("refused, {}", denial.refusal),
        Decision::Permit(Permit { authorized, needs: None, .. }) => {
            format!("permitted by rule {}", authorized.rule())
        }
        Decision::Permit(Permit { authorized, needs: Some(n), .. }) => {
            format!("permitted by rule {} when {} of {} approve", authorized.rule(), n.quorum, n.of)
        }
    };
    let mut sums = Sums::new(spent, facts, now);
    let verdict = |rule: &Rule| {
        let at = scope(policy, rule, facts).and_then(|()| limits(rule, facts, &mut sums));
        let (applies, stopped_at, sentence) = match (rule.kind, at) {
            (Kind::Permit, Ok(())) => {
                let asks = rule
                    .needs(amount(facts))
                    .map_or(String::new(), |n| format!("; {} of {} must approve it", n.quorum, n.of));
                (true, None, format!("covers this request, and every limit holds{asks}"))
            }
            (Kind::Permit, Err(at)) => (false, Some(at.word()), told(policy, rule, facts, now, at).sentence),
            (Kind::Forbid, at) => match forbids(rule, at) {
                Some(at) => (true, None, why_forbidden(policy, rule, facts, now, at)),
                None => (false, Some("scope"), "does not concern this request".to_owned()),
            },
        };
        RuleVerdict { rule: rule.id.clone(), effect: rule.kind, applies, stopped_at, sentence }
    };
    let rules = policy.rules.iter().map(verdict).collect();
    (decision, Explanation { request: describe(policy, facts), rules, outcome })
}

fn amount(facts: &Facts<'_>) -> Option<super::super::units::U256> {
    facts.payment().and_then(|p| p.effect.debit()).map(|(_, amount)| amount)
}

/// Whether a forbid rule forbids, given how the request stands against its scope and limits; and what stood against it.
fn forbids(rule: &Rule, outcome: Result<(), At>) -> Option<Ban> {
    match outcome {
        Ok(()) if rule.is_limited() => None,
        Ok(()) => Some(Ban::Whole),
        Err(at) if rule.is_limited() && at.is_limit() => Some(Ban::Limit(at)),
        Err(_) => None,
    }
}

fn why_forbidden(policy: &Policy, rule: &Rule, facts: &Facts<'_>, now: Timestamp, ban: Ban) -> String {
    match ban {
        Ban::Whole => "it covers this request".to_owned(),
        Ban::Limit(at) => told(policy, rule, facts, now, at).sentence,
    }
}

/// Whether a permit goes before another: one that asks nobody, then one that asks fewer. So no new permit asks for more
/// people than there were.
fn before(rule: &Rule, other: Option<&Rule>, facts: &Facts<'_>) -> bool {
    other.is_none_or(|other| rule.needs(amount(facts)) < other.needs(amount(facts)))
}

/// Looks at the rules that concern the request.
fn indexed<'a>(policy: &'a Policy, facts: &Facts<'_>, spent: &Windows, now: Timestamp) -> Said<'a> {
    let mut nearest: Option<(u8, usize, At)> = None;
    let near = |nearest: &mut Option<(u8, usize, At)>, place: usize, at: At| {
        let deeper = nearest
            .is_none_or(|(depth, first, _)| at.depth() > depth || (at.depth() == depth && place < first));
        if deeper {
            *nearest = Some((at.depth(), place, at));
        }
    };
    let index = &policy.index;
    let mut left = index.of_key_and_app(facts.key, facts.app);
    if let Some(place) = index.permits.clone().without(&left).first_of(&index.permits) {
        near(&mut nearest, place, At::Who);
    }
    let mut narrow = |covering: &Places, at: At| {
        let next = left.clone().and(covering);
        if let Some(place) = left.clone().without(covering).first_of(&index.permits) {
            near(&mut nearest, place, at);
        }
        left = next;
    };
    narrow(&index.of_act(facts.act()), At::Acts);
    if facts.replacing {
        narrow(&index.bumps, At::Bump);
    }
    if let Some(payment) = facts.payment() {
        narrow(&index.of_chain(payment.chain), At::Chain);
        let called = match payment.effect {
            Effect::ContractCall { contract, selector, .. } => {
                narrow(&index.of_call(contract, selector), At::Calls);
                true
            }
            _ => false,
        };
        if let Some((asset, _)) = payment.effect.debit() {
            let asset = (payment.chain, asset);
            let covering = index.of_asset(asset);
            let named = policy.assets.contains_key(&asset);
            narrow(&if named { covering } else { covering.and(&index.forbids) }, At::Asset);
        }
        if let Some(to) = payment.effect.counterparty() {
            narrow(&index.of_destination(to, called), At::Destination);
        }
    } else {
        left = left.without(&index.of_payments);
    }
    let mut said = Said { forbid: None, permit: None, nearest: None };
    let mut sums = Sums::new(spent, facts, now);
    for place in left.iter() {
        let Some(rule) = policy.rules.get(place) else { continue };
        let asked = match rule.kind {
            Kind::Forbid => said.forbid.is_none(),
            // Nothing goes before a permit that asks nobody.
            Kind::Permit => said.permit.is_none_or(|p| p.needs(amount(facts)).is_some()),
        };
        if !asked {
            continue;
        }
        match (rule.kind, limits(rule, facts, &mut sums)) {
            (Kind::Forbid, outcome) => said.forbid = forbids(rule, outcome).map(|at| (rule, at)),
            (Kind::Permit, Ok(())) => {
                if before(rule, said.permit, facts) {
                    said.permit = Some(rule);
                }
            }
            (Kind::Permit, Err(at)) => near(&mut nearest, place, at),
        }
    }
    said.nearest = nearest.and_then(|(_, place, at)| policy.rules.get(place).map(|r| (r, at)));
    said
}

/// Why this is no payment to a listed destination.
// [clause 8.7.1-b] at its end a payment key empties its account to listed destinations, and does nothing else
fn not_a_sweep(policy: &Policy, act: ActFacts<'_>) -> Option<String> {
    let ActFacts::Payment(Payment { effect: Effect::Transfer { to, .. }, .. }) = act else {
        return Some("the key is at its end: it makes plain transfers to listed destinations only".into());
    };
    let listed = policy.sweep.contains(to);
    (!listed).then(|| {
        format!("the key is at its end, and {} is not listed under [sweep]", policy.format_address(*to))
    })
}

/// The request in words.
pub(super) fn describe(policy: &Policy, facts: &Facts<'_>) -> String {
    let (app, key) = (facts.app, facts.key);
    let what = match facts.act {
        ActFacts::Other { act, len } => format!("{}, {len} bytes", act.noun()),
        ActFacts::Payment(payment) => {
            let show = |asset, amount| policy.format_amount(payment.chain, asset, amount);
            let who = |address| policy.format_address(address);
            let act = match payment.effect {
                Effect::Transfer { asset, to, amount } => {
                    format!("pay {} to {}", show(asset, amount), who(to))
                }
                Effect::Approve { asset, spender, amount } => {
                    format!("let {} take up to {}", who(spender), show(asset, amount))
                }
                Effect::TransferFrom { asset, owner, to, amount } => {
                    format!("move {} from {} to {}", show(asset, amount), who(owner), who(to))
                }
                Effect::ContractCall { contract, .. } => format!("call contract {}", who(contract)),
                Effect::ContractCreation { .. } => "create a contract".to_owned(),
            };
            format!(
                "{act} on {}, nonce {}, fee at most {} wei",
                payment.chain, payment.nonce, payment.max_fee
            )
        }
    };
    format!("app {app} with key {key}: {what}")
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "index_tests.rs"]
mod index_tests;

#[cfg(test)]
#[path = "limit_tests.rs"]
mod limit_tests;
