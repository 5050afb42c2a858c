//! One rule and one request: whether the rule covers it, and where not. Words are made only for what is told.
#![forbid(unsafe_code)]

use serde_json::json;

use super::super::payment::{Effect, Payment};
use super::super::units::{Timestamp, U256};
use super::decide::{ActFacts, Facts};
use super::rule::{Act, Kind, Policy, Rule, WindowLimit};
use super::window::{Scope, Whose, Windows};
use crate::refusal::Code;

/// Where a rule stopped to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Who,
    Acts,
    Bump,
    Payments,
    Chain,
    Asset,
    Calls,
    Destination,
    Tier,
    Hours,
    Fee,
    Value,
    PerTx,
    Count { limit: usize, count: u64 },
    Amount { limit: usize, used: U256 },
    New { first: Option<Timestamp>, from: Option<Timestamp> },
}

impl At {
    /// How near the rule came to apply: of several permits the nearest one is told.
    pub(super) fn depth(self) -> u8 {
        match self {
            Self::Who => 0,
            Self::Acts | Self::Bump => 1,
            Self::Payments | Self::Chain => 2,
            Self::Asset => 3,
            Self::Calls | Self::Destination => 5,
            Self::Tier => 6,
            Self::Hours => 7,
            Self::Fee => 8,
            Self::Value | Self::PerTx => 9,
            Self::Count { .. } => 10,
            Self::Amount { .. } => 11,
            Self::New { .. } => 12,
        }
    }

    /// It covers the request, and one of its limits does not hold.
    pub(super) fn is_limit(self) -> bool {
        self.depth() >= Self::Fee.depth()
    }

    /// The word for it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Who => "app and key",
            Self::Acts => "acts",
            Self::Bump => "replacement",
            Self::Payments => "scope",
            Self::Chain => "chains",
            Self::Asset => "assets",
            Self::Calls => "calls",
            Self::Destination => "destination",
            Self::Tier => "tier",
            Self::Hours => "time",
            Self::Fee => "fee",
            Self::Value | Self::PerTx => "per_tx",
            Self::Count { .. } | Self::Amount { .. } => "window",
            Self::New { .. } => "new_destination",
        }
    }
}

/// What was spent, as one request sees it: a window is added up once, however many rules name it.
pub(super) struct Sums<'a> {
    spent: &'a Windows,
    facts: &'a Facts<'a>,
    now: Timestamp,
    kept: Vec<((Scope, i64), (U256, u64))>,
}

/// Windows that are kept; a policy hardly names more different ones.
const KEPT: usize = 32;

impl<'a> Sums<'a> {
    pub(super) fn new(spent: &'a Windows, facts: &'a Facts<'a>, now: Timestamp) -> Self {
        Self { spent, facts, now, kept: Vec::new() }
    }

    fn of(&mut self, limit: &WindowLimit) -> (U256, u64) {
        // What stands in the windows already is not asked again.
        if self.facts.settled {
            return (U256::ZERO, 0);
        }
        let window = (limit.scope, limit.len_ms);
        if let Some((_, sum)) = self.kept.iter().find(|(w, _)| *w == window) {
            return *sum;
        }
        let payment = self.facts.payment();
        let whose = Whose {
            key: self.facts.key,
            app: self.facts.app,
            asset: payment.and_then(|p| p.effect.debit().map(|(asset, _)| (p.chain, asset))),
            to: payment.and_then(|p| p.effect.counterparty()),
        };
        let sum = self.spent.spent(limit.scope, limit.len_ms, &whose, self.now);
        if self.kept.len() < KEPT {
            self.kept.push((window, sum));
        }
        sum
    }
}

/// Whether the rule covers the request, its limits aside.
pub(super) fn scope(policy: &Policy, rule: &Rule, facts: &Facts<'_>) -> Result<(), At> {
    if !rule.keys.has(facts.key) || !rule.apps.has(facts.app) {
        return Err(At::Who);
    }
    if !rule.acts.contains(&facts.act()) {
        return Err(At::Acts);
    }
    if facts.replacing && rule.kind == Kind::Permit && !rule.replacement {
        return Err(At::Bump);
    }
    match facts.act {
        ActFacts::Payment(payment) => scope_of_payment(policy, rule, payment),
        // What has no destination, chain or asset is not what such a rule speaks of.
        ActFacts::Other { .. } if rule.kind == Kind::Forbid && rule.is_about_payments() => Err(At::Payments),
        ActFacts::Other { .. } => Ok(()),
    }
}

fn scope_of_payment(policy: &Policy, rule: &Rule, payment: &Payment) -> Result<(), At> {
    if !rule.chains.has(&payment.chain) {
        return Err(At::Chain);
    }
    if let Effect::ContractCall { contract, selector, .. } = payment.effect {
        let named = selector.is_some_and(|s| rule.calls.contains(&(contract, s)));
        // A forbid without calls covers all of them.
        if !named && (rule.kind == Kind::Permit || !rule.calls.is_empty()) {
            return Err(At::Calls);
        }
    }
    if let Some((asset, _)) = payment.effect.debit() {
        let named = policy.assets.contains_key(&(payment.chain, asset));
        // An asset without a name is covered by no permit; a forbid with "*" covers it all the same.
        if !rule.assets.has(&(payment.chain, asset)) || (!named && rule.kind == Kind::Permit) {
            return Err(At::Asset);
        }
    }
    let Some(to) = payment.effect.counterparty() else { return Ok(()) };
    // What a permitted call may reach is named by its calls.
    let by_calls = rule.kind == Kind::Permit && matches!(payment.effect, Effect::ContractCall { .. });
    if !(by_calls || rule.to.has(&to)) || rule.to_deny.contains(&to) {
        return Err(At::Destination);
    }
    Ok(())
}

/// Whether the limits of a rule hold that covers the request.
pub(super) fn limits(rule: &Rule, facts: &Facts<'_>, sums: &mut Sums<'_>) -> Result<(), At> {
    // [clause 8.7.1-l] an app of which less is known than the rule asks for is not covered by it
    if facts.tier < rule.tier {
        return Err(At::Tier);
    }
    if let Some(hours) = &rule.hours
        && !hours.has(sums.now.seconds())
    {
        return Err(At::Hours);
    }
    let payment = facts.payment();
    let debit = payment.and_then(|p| p.effect.debit());
    if let Some(payment) = payment {
        if rule.fee.is_some_and(|max| payment.max_fee > max) {
            return Err(At::Fee);
        }
        if let Effect::ContractCall { value, .. } = payment.effect
            && rule.kind == Kind::Permit
            && !value.is_zero()
            && !rule.bounds_amounts()
        {
            return Err(At::Value);
        }
        if let (Some(max), Some((_, amount))) = (rule.per_tx, debit)
            && amount > max
        {
            return Err(At::PerTx);
        }
    }
    for (at, limit) in rule.windows.iter().enumerate() {
        let (used, count) = sums.of(limit);
        if limit.count.is_some_and(|max| count >= max) {
            return Err(At::Count { limit: at, count });
        }
        if let (Some(max), Some((_, amount))) = (limit.max, debit)
            // An overflow denies.
            && used.checked_add(amount).is_none_or(|sum| sum > max)
        {
            return Err(At::Amount { limit: at, used });
        }
    }
    new_destination(rule, facts, sums)
}

/// Asked last: a destination is written down as asked for when it alone stands in the way.
// [clause 8.4.3-d] nothing, or little, goes to a destination that the key was asked for only just now
fn new_destination(rule: &Rule, facts: &Facts<'_>, sums: &Sums<'_>) -> Result<(), At> {
    let (Some(new), Some(payment), false) = (&rule.new_destination, facts.payment(), facts.settled) else {
        return Ok(());
    };
    let Some(to) = payment.effect.counterparty() else { return Ok(()) };
    let history = &sums.spent.history;
    let first = history.first(facts.key, to);
    // [clause 8.8-c] a clock that was set ahead makes no destination known
    let waited = first.map(|first| history.elapsed.since(first, sums.now));
    if waited.is_some_and(|ms| ms >= new.delay_ms) {
        return Ok(());
    }
    // A call that carries no amount may do anything: it is not small.
    let small = new.max.zip(payment.effect.debit()).is_some_and(|(max, (_, amount))| amount <= max);
    let from = waited.map(|ms| sums.now.plus(new.delay_ms.saturating_sub(ms)));
    if small { Ok(()) } else { Err(At::New { first, from }) }
}

/// How far a permit rule got before it stopped, in words.
pub(super) struct Stop {
    pub(super) code: Code,
    pub(super) sentence: String,
    pub(super) facts: serde_json::Value,
}

/// Tells where a rule stopped.
pub(super) fn told(policy: &Policy, rule: &Rule, facts: &Facts<'_>, now: Timestamp, at: At) -> Stop {
    let id = &rule.id;
    let plain = |code, sentence| Stop { code, sentence, facts: serde_json::Value::Null };
    match (at, facts.payment()) {
        (At::Who, _) => {
            plain(Code::KeyNotAllowed, format!("no rule lets app {} use key {}", facts.app, facts.key))
        }
        (At::Acts, _) => {
            let code = match facts.act() {
                Act::Message => Code::MessageNotAllowed,
                Act::Call => Code::ContractCallUnknown,
                Act::Create => Code::ContractCreation,
                Act::Approve | Act::TransferFrom => Code::GrantNotAllowed,
                Act::Transfer => Code::NoRule,
                Act::Login | Act::Encrypt | Act::Decrypt | Act::Mac | Act::VerifyMac | Act::Random => {
                    Code::OperationNotAllowed
                }
            };
            plain(code, format!("rule {id} does not speak of {}", facts.act().noun()))
        }
        (At::Bump, _) => plain(Code::NonceConflict, format!("rule {id} lets no payment replace another")),
        (At::Payments, _) => plain(Code::NoRule, format!("rule {id} speaks of payments")),
        (At::Tier, _) => {
            let why = format!(
                "of app {} is known {:?}, and rule {id} asks for {:?}",
                facts.app, facts.tier, rule.tier
            );
            Stop { facts: json!({"tier": facts.tier, "least": rule.tier}), ..plain(Code::TierTooLow, why) }
        }
        (At::Hours, _) => {
            let hours = rule.hours.as_ref().map_or("", |h| h.text.as_str());
            plain(Code::OutsideHours, format!("{now} is outside the hours of rule {id}: {hours}"))
        }
        (At::Count { limit, count }, _) => {
            let Some(limit) = rule.windows.get(limit) else { return no_words() };
            let (len, scope, max) = (&limit.len_text, limit.scope, limit.count.unwrap_or_default());
            let why =
                format!("{count} of {max} requests in {len} (scope {scope}) are used up under rule {id}");
            let facts = json!({"window": len, "scope": scope.to_string(), "count": count, "max_count": max});
            Stop { facts, ..plain(Code::WindowExceeded, why) }
        }
        (_, Some(payment)) => told_of_payment(policy, rule, payment, at),
        _ => no_words(),
    }
}

fn no_words() -> Stop {
    Stop {
        code: Code::NoRule,
        sentence: "the rule does not concern this request".into(),
        facts: serde_json::Value::Null,
    }
}

fn told_of_payment(policy: &Policy, rule: &Rule, payment: &Payment, at: At) -> Stop {
    let id = &rule.id;
    let plain = |code, sentence| Stop { code, sentence, facts: serde_json::Value::Null };
    let debit = payment.effect.debit();
    let show = |amount: U256| match debit {
        Some((asset, _)) => policy.format_amount(payment.chain, asset, amount),
        None => amount.to_string(),
    };
    let amount = debit.map(|(_, amount)| amount).unwrap_or_default();
    let to = || payment.effect.counterparty().map_or(String::new(), |to| policy.format_address(to));
    match at {
        At::Chain => plain(Code::ChainUnknown, format!("rule {id} does not name chain {}", payment.chain)),
        At::Asset => {
            let asset = debit.map_or(String::new(), |(asset, _)| asset.to_string());
            let why = format!("rule {id} does not name the asset {asset} on {}", payment.chain);
            plain(Code::AssetNotAllowed, why)
        }
        At::Calls => {
            let Effect::ContractCall { selector, .. } = payment.effect else { return no_words() };
            let shown = selector.map_or("none".to_owned(), |s| format!("0x{}", hex::encode(s)));
            let why =
                format!("this calls selector {shown} of contract {}, which rule {id} does not name", to());
            plain(Code::ContractCallUnknown, why)
        }
        At::Destination => {
            let why = format!("destination {} is not listed in rule {id}", to());
            plain(Code::DestinationNotListed, why)
        }
        At::Fee => {
            let max = rule.fee.unwrap_or_default();
            let why = format!(
                "the highest possible fee {} wei is above the {max} wei of rule {id}",
                payment.max_fee
            );
            let facts = json!({"fee": payment.max_fee.to_string(), "max": max.to_string()});
            Stop { facts, ..plain(Code::FeeTooHigh, why) }
        }
        At::Value => {
            let why = format!("{amount} wei are sent along, and rule {id} names no maximum for them");
            plain(Code::OverLimit, why)
        }
        At::PerTx => {
            let max = rule.per_tx.unwrap_or_default();
            let why = format!("{} is above the {} per transaction of rule {id}", show(amount), show(max));
            let facts = json!({"amount": amount.to_string(), "max": max.to_string()});
            Stop { facts, ..plain(Code::OverLimit, why) }
        }
        At::Amount { limit, used } => {
            let Some(limit) = rule.windows.get(limit) else { return no_words() };
            let (len, scope, max) = (&limit.len_text, limit.scope, limit.max.unwrap_or_default());
            let left = max.saturating_sub(used);
            let why = format!(
                "{} does not fit: {} of {} in {len} (scope {scope}) are spent under rule {id}, {} are left",
                show(amount),
                show(used),
                show(max),
                show(left)
            );
            let facts = json!({
                "window": len, "scope": scope.to_string(), "amount": amount.to_string(),
                "used": used.to_string(), "max": max.to_string(), "left": left.to_string(),
            });
            Stop { facts, ..plain(Code::WindowExceeded, why) }
        }
        At::New { first, from } => {
            let Some(new) = &rule.new_destination else { return no_words() };
            let delay = &new.delay_text;
            let when = match from {
                Some(from) => format!("allowed from {from}"),
                None => format!("allowed {delay} after this request"),
            };
            let meanwhile = new
                .max
                .map_or(String::new(), |max| format!(", and until then up to {} each time", show(max)));
            let why = format!("{} is new to this key: under rule {id} it is {when}{meanwhile}", to());
            let facts = json!({
                "delay": delay, "first": first.map(|t| t.to_string()),
                "from": from.map(|t| t.to_string()),
                "max": new.max.map(|m| m.to_string()),
            });
            Stop { facts, ..plain(Code::DestinationNew, why) }
        }
        At::Who | At::Acts | At::Bump | At::Payments | At::Tier | At::Hours | At::Count { .. } => no_words(),
    }
}
