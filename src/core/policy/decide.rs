//! The decision: a pure function of policy, request, what was spent, and the time. Mints [`Authorized`].
//!
//! Default deny; forbid wins; of several permits any one that passes suffices, and the first by id is named.
#![forbid(unsafe_code)]

use serde_json::json;

use super::super::payment::{Effect, Payment};
use super::super::proof::Authorized;
use super::super::units::{Name, Timestamp, U256};
use super::explain::{Explanation, RuleVerdict};
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
    /// The key is at its end: it pays to the destinations of `[sweep]` only, and only what a rule permits.
    pub sweeping: bool,
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
    /// Why.
    pub explanation: Explanation,
    /// Whether the rule lets a fee bump replace the same payment.
    pub replacement: bool,
    /// Who must approve it before it is signed.
    pub needs: Option<Needs>,
}

/// A denial.
pub struct Denial {
    /// The refusal for the caller.
    pub refusal: Refusal,
    /// Why, rule by rule.
    pub explanation: Explanation,
}

/// How far a permit rule got before it stopped.
struct Stop {
    depth: u8,
    code: Code,
    at: &'static str,
    sentence: String,
    facts: serde_json::Value,
}

impl Stop {
    fn new(depth: u8, code: Code, at: &'static str, sentence: String) -> Self {
        Self { depth, code, at, sentence, facts: serde_json::Value::Null }
    }
}

/// Decides.
// [clause 8.7.1-c] what no rule permits is refused, and a forbid always wins
pub fn decide(policy: &Policy, facts: &Facts<'_>, spent: &Windows, now: Timestamp) -> Decision {
    let mut explanation = Explanation { request: describe(policy, facts), ..Explanation::default() };
    let amount = match facts.act {
        ActFacts::Payment(payment) => payment.effect.debit().map(|(_, amount)| amount),
        ActFacts::Other { .. } => None,
    };
    let mut forbidden: Option<(Name, String)> = None;
    let mut permit: Option<&Rule> = None;
    let mut nearest: Option<(Name, Stop)> = None;
    for rule in policy.rules.values() {
        let outcome = evaluate(policy, rule, facts, spent, now);
        let (applies, stopped_at, sentence) = match (rule.kind, outcome) {
            (Kind::Permit, Ok(())) => {
                // The first by id; one that asks nobody, or allows replacement, goes before: a new permit takes none away.
                let rank = |r: &Rule| (r.needs(amount).is_none(), r.replacement);
                if permit.is_none_or(|p| rank(p) < rank(rule)) {
                    permit = Some(rule);
                }
                let asks = rule
                    .needs(amount)
                    .map_or(String::new(), |n| format!("; {} of {} must approve it", n.quorum, n.of));
                (true, None, format!("covers this request, and every limit holds{asks}"))
            }
            (Kind::Permit, Err(stop)) => {
                let told = (false, Some(stop.at), stop.sentence.clone());
                if nearest.as_ref().is_none_or(|(_, best)| stop.depth > best.depth) {
                    nearest = Some((rule.id.clone(), stop));
                }
                told
            }
            (Kind::Forbid, outcome) => match forbids(rule, outcome) {
                Some(why) => {
                    forbidden.get_or_insert((rule.id.clone(), why.clone()));
                    (true, None, why)
                }
                None => (false, Some("scope"), "does not concern this request".to_owned()),
            },
        };
        explanation.rules.push(RuleVerdict {
            rule: rule.id.clone(),
            effect: rule.kind,
            applies,
            stopped_at,
            sentence,
        });
    }
    let refusal =
        if let ActFacts::Payment(Payment { effect: Effect::ContractCreation { .. }, .. }) = facts.act {
            Refusal::new(Code::ContractCreation, "this creates a contract, which is no payment")
        } else if let Some(why) = facts.sweeping.then(|| not_a_sweep(policy, facts.act)).flatten() {
            Refusal::new(Code::SweepOnly, why)
        } else if let Some((rule, why)) = forbidden {
            Refusal::new(Code::Forbidden, format!("rule {rule} forbids it: {why}")).by_rule(rule.as_str())
        } else if let Some(rule) = permit {
            explanation.outcome = match rule.needs(amount) {
                None => format!("permitted by rule {}", rule.id),
                Some(n) => format!("permitted by rule {} when {} of {} approve", rule.id, n.quorum, n.of),
            };
            return Decision::Permit(Permit {
                authorized: Authorized::assertion(facts.digest, rule.id.clone()),
                replacement: rule.replacement,
                needs: rule.needs(amount).cloned(),
                explanation,
            });
        } else if let Some((rule, stop)) = nearest {
            let refusal = Refusal::new(stop.code, stop.sentence).with(stop.facts);
            // A rule that is about other apps or keys did not decide anything: it is not named.
            if stop.depth == 0 { refusal } else { refusal.by_rule(rule.as_str()) }
        } else {
            Refusal::new(Code::NoRule, "the policy has no permit rule at all")
        };
    explanation.outcome = format!("refused, {refusal}");
    Decision::Deny(Denial { refusal, explanation })
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

/// Whether a forbid rule forbids, given how the request stands against its scope and limits.
fn forbids(rule: &Rule, outcome: Result<(), Stop>) -> Option<String> {
    let has_limits = rule.per_tx.is_some() || rule.fee.is_some() || !rule.windows.is_empty();
    match outcome {
        Ok(()) if has_limits => None,
        Ok(()) => Some("it covers this request".to_owned()),
        Err(stop) if has_limits && stop.depth >= LIMITS => Some(stop.sentence),
        Err(_) => None,
    }
}

/// From this depth on a rule stopped at a limit, not at its scope.
const LIMITS: u8 = 7;

fn evaluate(
    policy: &Policy,
    rule: &Rule,
    facts: &Facts<'_>,
    spent: &Windows,
    now: Timestamp,
) -> Result<(), Stop> {
    let id = &rule.id;
    if !rule.keys.has(facts.key) || !rule.apps.has(facts.app) {
        let why = format!("no rule lets app {} use key {}", facts.app, facts.key);
        return Err(Stop::new(0, Code::KeyNotAllowed, "app and key", why));
    }
    let payment = match facts.act {
        ActFacts::Payment(payment) => Some(payment),
        ActFacts::Other { .. } => None,
    };
    let act = match facts.act {
        ActFacts::Payment(payment) => Act::of(&payment.effect),
        ActFacts::Other { act, .. } => act,
    };
    if !rule.acts.contains(&act) {
        let code = match act {
            Act::Message => Code::MessageNotAllowed,
            Act::Call => Code::ContractCallUnknown,
            Act::Create => Code::ContractCreation,
            Act::Approve | Act::TransferFrom => Code::GrantNotAllowed,
            Act::Transfer => Code::NoRule,
            Act::Login | Act::Encrypt | Act::Decrypt | Act::Mac | Act::VerifyMac | Act::Random => {
                Code::OperationNotAllowed
            }
        };
        let what = act.noun();
        return Err(Stop::new(1, code, "acts", format!("rule {id} does not speak of {what}")));
    }
    if let Some(payment) = payment {
        scope_of_payment(policy, rule, payment)?;
    } else if rule.kind == Kind::Forbid && rule.is_about_payments() {
        // What has no destination, chain or asset is not what such a rule speaks of, unless it says so.
        return Err(Stop::new(2, Code::NoRule, "scope", format!("rule {id} speaks of payments")));
    }
    if let Some(hours) = &rule.hours
        && !hours.has(now.seconds())
    {
        let why = format!("{now} is outside the hours of rule {id}: {}", hours.text);
        return Err(Stop::new(6, Code::OutsideHours, "time", why));
    }
    if let Some(payment) = payment {
        limits_of_payment(policy, rule, payment)?;
    }
    windows(policy, rule, facts, payment, spent, now)
}

fn scope_of_payment(policy: &Policy, rule: &Rule, payment: &Payment) -> Result<(), Stop> {
    let id = &rule.id;
    if !rule.chains.has(&payment.chain) {
        let why = format!("rule {id} does not name chain {}", payment.chain);
        return Err(Stop::new(2, Code::ChainUnknown, "chains", why));
    }
    if let Effect::ContractCall { contract, selector, .. } = payment.effect {
        let shown = selector.map_or("none".to_owned(), |s| format!("0x{}", hex::encode(s)));
        let named = selector.is_some_and(|s| rule.calls.contains(&(contract, s)));
        // A forbid without calls covers all of them.
        if !named && (rule.kind == Kind::Permit || !rule.calls.is_empty()) {
            let why = format!(
                "this calls selector {shown} of contract {}, which rule {id} does not name",
                policy.format_address(contract)
            );
            return Err(Stop::new(5, Code::ContractCallUnknown, "calls", why));
        }
    }
    if let Some((asset, _)) = payment.effect.debit() {
        let named = policy.assets.contains_key(&(payment.chain, asset));
        // An asset without a name is covered by no permit; a forbid with "*" covers it all the same.
        if !rule.assets.has(&(payment.chain, asset)) || (!named && rule.kind == Kind::Permit) {
            let why = format!("rule {id} does not name the asset {asset} on {}", payment.chain);
            return Err(Stop::new(3, Code::AssetNotAllowed, "assets", why));
        }
    }
    let Some(to) = payment.effect.counterparty() else { return Ok(()) };
    // What a permitted call may reach is named by its calls.
    let by_calls = rule.kind == Kind::Permit && matches!(payment.effect, Effect::ContractCall { .. });
    if !(by_calls || rule.to.has(&to)) || rule.to_deny.contains(&to) {
        let why = format!("destination {} is not listed in rule {id}", policy.format_address(to));
        return Err(Stop::new(5, Code::DestinationNotListed, "destination", why));
    }
    Ok(())
}

fn limits_of_payment(policy: &Policy, rule: &Rule, payment: &Payment) -> Result<(), Stop> {
    let id = &rule.id;
    if let Some(max) = rule.fee
        && payment.max_fee > max
    {
        let why =
            format!("the highest possible fee {} wei is above the {max} wei of rule {id}", payment.max_fee);
        let facts = json!({"fee": payment.max_fee.to_string(), "max": max.to_string()});
        return Err(Stop { facts, ..Stop::new(7, Code::FeeTooHigh, "fee", why) });
    }
    if let Effect::ContractCall { value, .. } = payment.effect
        && rule.kind == Kind::Permit
        && !value.is_zero()
        && rule.per_tx.is_none()
        && rule.windows.iter().all(|w| w.max.is_none())
    {
        let why = format!("{value} wei are sent along, and rule {id} names no maximum for them");
        return Err(Stop::new(8, Code::OverLimit, "per_tx", why));
    }
    let (Some(max), Some((asset, amount))) = (rule.per_tx, payment.effect.debit()) else { return Ok(()) };
    if amount > max {
        let show = |a| policy.format_amount(payment.chain, asset, a);
        let why = format!("{} is above the {} per transaction of rule {id}", show(amount), show(max));
        let facts = json!({"amount": amount.to_string(), "max": max.to_string()});
        return Err(Stop { facts, ..Stop::new(8, Code::OverLimit, "per_tx", why) });
    }
    Ok(())
}

fn windows(
    policy: &Policy,
    rule: &Rule,
    facts: &Facts<'_>,
    payment: Option<&Payment>,
    spent: &Windows,
    now: Timestamp,
) -> Result<(), Stop> {
    let debit = payment.and_then(|p| p.effect.debit().map(|(asset, amount)| (p.chain, asset, amount)));
    for limit in &rule.windows {
        let asset = debit.map(|(chain, asset, _)| (chain, asset));
        let (used, count) = spent.spent(limit.scope, limit.len_ms, facts.key, facts.app, asset, now);
        let (len, scope) = (&limit.len_text, limit.scope.as_str());
        if let Some(max) = limit.count
            && count >= max
        {
            let why = format!(
                "{count} of {max} requests in {len} (scope {scope}) are used up under rule {}",
                rule.id
            );
            let facts = json!({"window": len, "scope": scope, "count": count, "max_count": max});
            return Err(Stop { facts, ..Stop::new(9, Code::WindowExceeded, "window", why) });
        }
        if let (Some(max), Some((chain, asset, amount))) = (limit.max, debit)
            // An overflow denies.
            && used.checked_add(amount).is_none_or(|sum| sum > max)
        {
            let show = |a: U256| policy.format_amount(chain, asset, a);
            let left = max.saturating_sub(used);
            let why = format!(
                "{} does not fit: {} of {} in {len} (scope {scope}) are spent under rule {}, {} are left",
                show(amount),
                show(used),
                show(max),
                rule.id,
                show(left)
            );
            let facts = json!({
                "window": len, "scope": scope, "amount": amount.to_string(), "used": used.to_string(),
                "max": max.to_string(), "left": left.to_string(),
            });
            return Err(Stop { facts, ..Stop::new(10, Code::WindowExceeded, "window", why) });
        }
    }
    Ok(())
}

fn describe(policy: &Policy, facts: &Facts<'_>) -> String {
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
