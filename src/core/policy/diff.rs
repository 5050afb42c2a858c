//! What a new policy changes: tightens, loosens, or cannot be compared. Works by set and interval inclusion, rule by
//! rule; where it cannot prove a direction it says incomparable, never the milder word.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

use super::super::units::{Name, U256};
use super::rule::{Kind, Policy, Rule, Tripwire, WindowLimit};

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

/// Compares two policies.
#[must_use]
pub fn diff(old: &Policy, new: &Policy) -> Diff {
    let mut changes = Vec::new();
    let mut ids: Vec<&Name> = old.rules.keys().chain(new.rules.keys()).collect();
    ids.sort();
    ids.dedup();
    for id in ids {
        let (what, class) = match (old.rules.get(id), new.rules.get(id)) {
            (None, Some(rule)) => {
                ("added", if rule.kind == Kind::Permit { Class::Loosens } else { Class::Tightens })
            }
            (Some(rule), None) => {
                ("removed", if rule.kind == Kind::Permit { Class::Tightens } else { Class::Loosens })
            }
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => ("changed", direction(a, b)),
            (None, None) => continue,
        };
        changes.push(Change { rule: id.clone(), what, class });
    }
    if old.sweep != new.sweep
        && let Some(rule) = Name::parse("sweep")
    {
        let class = match (new.sweep.is_subset(&old.sweep), old.sweep.is_subset(&new.sweep)) {
            (true, _) => Class::Tightens,
            (_, true) => Class::Loosens,
            _ => Class::Incomparable,
        };
        changes.push(Change { rule, what: "changed", class });
    }
    if old.tripwire != new.tripwire
        && let Some(rule) = Name::parse("tripwire")
    {
        // One that trips earlier, and remembers longer, stops more.
        let stricter = |a: &Option<Tripwire>, b: &Option<Tripwire>| match (a, b) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => a.refusals <= b.refusals && a.within_ms >= b.within_ms,
        };
        let class = match (stricter(&new.tripwire, &old.tripwire), stricter(&old.tripwire, &new.tripwire)) {
            (true, _) => Class::Tightens,
            (_, true) => Class::Loosens,
            _ => Class::Incomparable,
        };
        changes.push(Change { rule, what: "changed", class });
    }
    // Naming an asset lets "*" cover it; names of addresses are for people only.
    if old.assets.keys().collect::<Vec<_>>() != new.assets.keys().collect::<Vec<_>>()
        && let Some(rule) = Name::parse("assets")
    {
        changes.push(Change { rule, what: "changed", class: Class::Incomparable });
    }
    Diff { changes }
}

fn direction(old: &Rule, new: &Rule) -> Class {
    if old.kind != new.kind {
        return if new.kind == Kind::Permit { Class::Loosens } else { Class::Tightens };
    }
    let (narrower, wider) = (within(new, old), within(old, new));
    let class = match (narrower, wider) {
        (true, true) => Class::Neutral,
        (true, false) => Class::Tightens,
        (false, true) => Class::Loosens,
        (false, false) => Class::Incomparable,
    };
    match (old.kind, class) {
        (Kind::Permit, class) => class,
        // Limits turn a forbid around: only pure scopes are compared.
        (Kind::Forbid, _) if limited(old) || limited(new) => Class::Incomparable,
        (Kind::Forbid, Class::Tightens) => Class::Loosens,
        (Kind::Forbid, Class::Loosens) => Class::Tightens,
        (Kind::Forbid, class) => class,
    }
}

fn limited(rule: &Rule) -> bool {
    rule.per_tx.is_some() || rule.fee.is_some() || !rule.windows.is_empty()
}

/// Whether everything that `a` covers, `b` covers.
fn within(a: &Rule, b: &Rule) -> bool {
    a.acts.is_subset(&b.acts)
        && a.keys.within(&b.keys)
        && a.apps.within(&b.apps)
        && a.chains.within(&b.chains)
        && a.assets.within(&b.assets)
        && a.to.within(&b.to)
        && b.to_deny.is_subset(&a.to_deny)
        && a.calls.is_subset(&b.calls)
        && below(a.per_tx, b.per_tx)
        && below(a.fee, b.fee)
        && b.windows.iter().all(|limit| a.windows.iter().any(|w| stricter(w, limit)))
        && (b.hours.is_none() || a.hours == b.hours)
        && (b.replacement || !a.replacement)
        && b.approvals.iter().all(|line| {
            a.approvals.iter().any(|t| {
                t.above <= line.above && t.needs.quorum >= line.needs.quorum && t.needs.of == line.needs.of
            })
        })
}

fn below(a: Option<U256>, b: Option<U256>) -> bool {
    match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}

/// Whether `a` holds whenever it must for `b` to hold: same scope, at least as long, at most as much.
fn stricter(a: &WindowLimit, b: &WindowLimit) -> bool {
    let count = match (a.count, b.count) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    };
    a.scope == b.scope && a.len_ms == b.len_ms && below(a.max, b.max) && count
}
