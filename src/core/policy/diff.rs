//! What a new policy changes: tightens, loosens, or cannot be compared. Works by set and interval inclusion (`cover`), each
//! rule against all of the other policy; where it cannot prove a direction it says incomparable, never the milder word.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::super::units::Name;
use super::cover::{In, apart, forbids_within, is_dead, permits_within};
use super::rule::{Kind, Policy, Rule};
use crate::core::approval::Needs;

/// The direction of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Nothing that is decided changes.
    Neutral,
    /// Only less is permitted.
    Tightens,
    /// Only more is permitted.
    Loosens,
    /// Neither can be shown.
    Incomparable,
}

impl Class {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Neutral, c) | (c, Self::Neutral) => c,
            (a, b) if a == b => a,
            _ => Self::Incomparable,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Neutral => "neutral",
            Self::Tightens => "tightens",
            Self::Loosens => "loosens",
            Self::Incomparable => "incomparable",
        })
    }
}

/// One rule's change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The rule.
    pub rule: Name,
    /// `added`, `removed` or `changed`.
    pub what: &'static str,
    /// Its direction.
    pub class: Class,
}

/// The whole difference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// By rule id.
    pub changes: Vec<Change>,
}

impl Diff {
    /// The direction of everything together.
    #[must_use]
    pub fn class(&self) -> Class {
        self.changes.iter().fold(Class::Neutral, |all, c| all.and(c.class))
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.changes.is_empty() {
            return f.write_str("no rule changes");
        }
        for (i, c) in self.changes.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{}: {} ({})", c.rule, c.what, c.class)?;
        }
        Ok(())
    }
}

/// One policy, as it is compared with another.
struct Side<'a> {
    policy: &'a Policy,
    /// Permits that let something pass.
    alive: Vec<In<'a>>,
    forbids: Vec<In<'a>>,
}

impl<'a> Side<'a> {
    fn new(policy: &'a Policy) -> Self {
        let of =
            |kind| policy.rules.iter().filter(move |r| r.kind == kind).map(move |rule| In { rule, policy });
        let alive = of(Kind::Permit).filter(|p| !is_dead(*p)).collect();
        Self { policy, alive, forbids: of(Kind::Forbid).collect() }
    }

    /// Whether with this rule the side permits something that the other may not.
    fn permits_more(&self, rule: &Rule, other: &Side<'_>) -> bool {
        let rule = In { rule, policy: self.policy };
        !is_dead(rule) && !other.alive.iter().any(|o| permits_within(rule, *o))
    }

    /// Whether with this rule the side forbids something that the other permits.
    fn forbids_more(&self, rule: &Rule, other: &Side<'_>) -> bool {
        let rule = In { rule, policy: self.policy };
        !other.forbids.iter().any(|o| forbids_within(rule, *o))
            && other.alive.iter().any(|p| !apart(rule, *p))
    }

    fn stricter_by(&self, rule: &Rule, other: &Side<'_>) -> bool {
        rule.kind == Kind::Forbid && self.forbids_more(rule, other)
    }

    fn looser_by(&self, rule: &Rule, other: &Side<'_>) -> bool {
        rule.kind == Kind::Permit && self.permits_more(rule, other)
    }

    /// Permits that ask people, without their names.
    fn asking(&self) -> Vec<Rule> {
        let mut all: Vec<Rule> = Vec::new();
        for permit in self.policy.rules.iter().filter(|r| !r.approvals.is_empty()) {
            let body = nameless(permit);
            if !all.contains(&body) {
                all.push(body);
            }
        }
        all
    }
}

fn nameless(rule: &Rule) -> Rule {
    let mut rule = rule.clone();
    if let Some(name) = Name::parse("rule") {
        rule.id = name;
    }
    rule
}

/// Whether it can be told who asks for more people: everybody asks the same group, or nothing about that changed. Between two
/// groups there is no more and no less.
fn comparable(old: &Side<'_>, new: &Side<'_>) -> bool {
    let groups: BTreeSet<&str> =
        [old, new].iter().flat_map(|s| s.policy.asks()).map(|(_, n)| n.of.as_str()).collect();
    if groups.len() <= 1 {
        return true;
    }
    let (a, b) = (old.asking(), new.asking());
    let same_assets = old.policy.assets.keys().eq(new.policy.assets.keys());
    same_assets && a.len() == b.len() && a.iter().all(|r| b.contains(r))
}

fn class(looser: bool, stricter: bool) -> Class {
    match (looser, stricter) {
        (false, false) => Class::Neutral,
        (true, false) => Class::Loosens,
        (false, true) => Class::Tightens,
        (true, true) => Class::Incomparable,
    }
}

/// Compares two policies. A rule that is new, or other than it was, gives more when no rule of the old policy let all of it
/// pass, and takes less when a rule of the new one still does: a rule that was only renamed changes nothing.
// [clause 8.7.1-n] a change is said to tighten only when nothing can be permitted that was not
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Diff {
    let mut changes = Vec::new();
    let (before, after) = (Side::new(old), Side::new(new));
    let comparable = comparable(&before, &after);
    let ids: BTreeSet<&Name> = old.rules.iter().chain(&new.rules).map(|r| &r.id).collect();
    let (mut looser_assets, mut stricter_assets) = (false, false);
    let same_assets = old.assets.keys().eq(new.assets.keys());
    for id in ids {
        let (a, b) = (old.rule(id), new.rule(id));
        let same = a == b;
        if same && same_assets {
            continue;
        }
        let asks = [a, b].iter().flatten().any(|r| !r.approvals.is_empty());
        let blurred = asks && !comparable;
        let gives = blurred
            || b.is_some_and(|b| after.looser_by(b, &before))
            || a.is_some_and(|a| before.stricter_by(a, &after));
        let takes = blurred
            || a.is_some_and(|a| before.looser_by(a, &after))
            || b.is_some_and(|b| after.stricter_by(b, &before));
        if same {
            looser_assets |= gives;
            stricter_assets |= takes;
            continue;
        }
        let what = match (a, b) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        changes.push(Change { rule: id.clone(), what, class: class(gives, takes) });
    }
    let mut changed = |name: &str, looser: bool, stricter: bool| {
        if let Some(rule) = Name::parse(name) {
            changes.push(Change { rule, what: "changed", class: class(looser, stricter) });
        }
    };
    if old.sweep != new.sweep {
        changed("sweep", !new.sweep.is_subset(&old.sweep), !old.sweep.is_subset(&new.sweep));
    }
    if old.tripwire != new.tripwire {
        changed("tripwire", !trips_as_soon(new, old), !trips_as_soon(old, new));
    }
    // Naming an asset lets "*" cover it.
    let other = old.assets.iter().any(|(asset, info)| new.assets.get(asset).is_some_and(|now| now != info));
    if !same_assets || other {
        changed("assets", looser_assets || other, stricter_assets || other);
    }
    let (looser, stricter) = names(old, new);
    if looser || stricter {
        changed("names", looser, stricter);
    }
    let (looser, stricter) = signers(old, new);
    if looser || stricter {
        changed("books", looser, stricter);
    }
    Diff { changes }
}

/// Whether people are told more names of addresses than they were, or fewer; both, where one has another name. They approve
/// by what they read: who renames an address, or a token's decimals, decides what they believe that they pay.
// [clause 8.7.1-n] what approvers are shown is part of what a policy lets pass
fn names(old: &Policy, new: &Policy) -> (bool, bool) {
    let other = old.names.iter().any(|(a, name)| new.names.get(a).is_some_and(|now| now != name));
    let without = |a: &Policy, b: &Policy| b.names.keys().any(|address| !a.names.contains_key(address));
    (other || without(old, new), other || without(new, old))
}

/// Whether fewer people sign an address book than did, or more; both, where other people do.
fn signers(old: &Policy, new: &Policy) -> (bool, bool) {
    let of = |policy: &'_ Policy| -> BTreeMap<Name, Needs> {
        policy.signed.iter().map(|book| (book.name.clone(), book.needs.clone())).collect()
    };
    let (before, after) = (of(old), of(new));
    let all: BTreeSet<&Name> = before.keys().chain(after.keys()).collect();
    all.into_iter().fold((false, false), |(looser, stricter), name| {
        match (before.get(name), after.get(name)) {
            (Some(a), Some(b)) if a.of == b.of => {
                (looser || b.quorum < a.quorum, stricter || b.quorum > a.quorum)
            }
            _ => (true, true),
        }
    })
}

/// Whether the tripwire of `a` trips whenever that of `b` does: one that trips earlier, and remembers longer, stops more.
fn trips_as_soon(a: &Policy, b: &Policy) -> bool {
    let Some(b) = b.tripwire else { return true };
    let a = a.tripwire.unwrap_or_default();
    let as_few = |a: Option<u32>, b: Option<u32>| b.is_none_or(|b| a.is_some_and(|a| a <= b));
    let counts = b.refusals.is_some() || b.new_destinations.is_some();
    as_few(a.refusals, b.refusals)
        && as_few(a.new_destinations, b.new_destinations)
        && as_few(a.amount_factor, b.amount_factor)
        && (!counts || a.within_ms >= b.within_ms)
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
