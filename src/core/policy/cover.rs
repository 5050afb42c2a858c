//! Whether what one rule covers lies wholly within what another does. By sets and intervals, for every request, every
//! moment and whatever was spent; where that cannot be shown, the answer is no.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, U256};
use super::rule::{Act, Hours, Kind, Policy, Rule, Set, WindowLimit};
use crate::core::approval::Needs;

/// A rule within its policy: what `"*"` means for assets depends on those that the policy names.
#[derive(Clone, Copy)]
pub(super) struct In<'a> {
    pub(super) rule: &'a Rule,
    pub(super) policy: &'a Policy,
}

fn is_move(act: Act) -> bool {
    matches!(act, Act::Transfer | Act::Approve | Act::TransferFrom)
}

impl In<'_> {
    fn is_permit(&self) -> bool {
        self.rule.kind == Kind::Permit
    }

    fn covers_asset(&self, asset: &(Chain, Asset)) -> bool {
        self.rule.assets.has(asset) && (!self.is_permit() || self.policy.assets.contains_key(asset))
    }

    /// Assets that it covers; `None` for all there are.
    fn assets(&self) -> Option<Vec<&(Chain, Asset)>> {
        match (&self.rule.assets, self.is_permit()) {
            (Set::Only(only), _) => Some(only.iter().collect()),
            (Set::Any, true) => Some(self.policy.assets.keys().collect()),
            (Set::Any, false) => None,
        }
    }

    /// Acts that it covers.
    fn acts(&self) -> impl Iterator<Item = Act> + '_ {
        let payments_only = !self.is_permit() && self.rule.is_about_payments();
        self.rule.acts.iter().copied().filter(move |a| a.pays() || !payments_only)
    }

    /// Whether a permit lets coin be sent along with a call.
    fn sends_along(&self) -> bool {
        let native = |asset: &&(Chain, Asset)| asset.1 == Asset::Native;
        let acts = &self.rule.acts;
        acts.contains(&Act::Call)
            && (!self.is_permit() || self.rule.bounds_amounts())
            && self.assets().is_none_or(|all| all.iter().any(native))
    }
}

/// Destinations: those of a set, without some.
struct Places<'a> {
    to: Option<BTreeSet<Address>>,
    without: &'a BTreeSet<Address>,
}

impl Places<'_> {
    fn has(&self, address: &Address) -> bool {
        self.to.as_ref().is_none_or(|to| to.contains(address)) && !self.without.contains(address)
    }

    fn within(&self, other: &Self) -> bool {
        match &self.to {
            Some(to) => to.iter().filter(|a| self.has(a)).all(|a| other.has(a)),
            None => other.to.is_none() && other.without.is_subset(self.without),
        }
    }

    fn apart(&self, other: &Self) -> bool {
        match (&self.to, &other.to) {
            (Some(to), _) => !to.iter().any(|a| self.has(a) && other.has(a)),
            (None, Some(to)) => !to.iter().any(|a| self.has(a) && other.has(a)),
            (None, None) => false,
        }
    }
}

fn listed(rule: &Rule) -> Places<'_> {
    let to = match &rule.to {
        Set::Any => None,
        Set::Only(to) => Some(to.clone()),
    };
    Places { to, without: &rule.to_deny }
}

/// Contracts that its calls reach. What a permitted call may reach is named by its calls.
fn called(rule: &Rule) -> Places<'_> {
    if rule.kind == Kind::Permit {
        return Places {
            to: Some(rule.calls.iter().map(|(contract, _)| *contract).collect()),
            without: &rule.to_deny,
        };
    }
    let mut places = listed(rule);
    if !rule.calls.is_empty() {
        let contracts = rule.calls.iter().map(|(contract, _)| *contract);
        places.to = Some(contracts.filter(|c| rule.to.has(c)).collect());
    }
    places
}

/// Whether the scope of `a`, its limits aside, lies within the scope of `b`.
pub(super) fn scope_within(a: In<'_>, b: In<'_>) -> bool {
    let (ra, rb) = (a.rule, b.rule);
    let acts: BTreeSet<Act> = a.acts().collect();
    let others: BTreeSet<Act> = b.acts().collect();
    if !acts.is_subset(&others) || !ra.keys.within(&rb.keys) || !ra.apps.within(&rb.apps) {
        return false;
    }
    let moves = acts.iter().any(|act| is_move(*act));
    let calls = acts.contains(&Act::Call);
    if moves || calls {
        let assets = match a.assets() {
            Some(all) => all.into_iter().all(|asset| b.covers_asset(asset)),
            None => b.assets().is_none(),
        };
        if !ra.chains.within(&rb.chains) || !assets {
            return false;
        }
    }
    if moves {
        // A token that may be moved may be any of those: destinations are the same for all of them.
        let within = match (&ra.to, &rb.to) {
            (Set::Any, Set::Any) => rb.to_deny.is_subset(&ra.to_deny),
            (Set::Any, Set::Only(_)) => false,
            (Set::Only(to), _) => {
                to.iter().filter(|x| !ra.to_deny.contains(x)).all(|x| rb.to.has(x) && !rb.to_deny.contains(x))
            }
        };
        if !within {
            return false;
        }
    }
    if calls {
        let all_of_b = rb.kind == Kind::Forbid && rb.calls.is_empty();
        let all_of_a = ra.kind == Kind::Forbid && ra.calls.is_empty();
        let named = all_of_b || (!all_of_a && ra.calls.is_subset(&rb.calls));
        let along = !a.sends_along() || b.sends_along();
        let (from, into) = (called(ra), called(rb));
        // Where only selectors differ, contracts alone decide whether `to` and `deny` let them pass.
        if !named || !along || !from.within(&if all_of_b { listed(rb) } else { into }) {
            return false;
        }
    }
    hours_within(ra.hours.as_ref(), rb.hours.as_ref())
}

/// Whether the hours of `a` lie within those of `b`, minute by minute of a week.
fn hours_within(a: Option<&Hours>, b: Option<&Hours>) -> bool {
    let Some(b) = b else { return true };
    if a == Some(b) {
        return true;
    }
    (0..7 * 1440).all(|minute| a.is_some_and(|a| !a.has(minute * 60)) || b.has(minute * 60))
}

fn below(a: Option<U256>, b: Option<U256>) -> bool {
    match (a, b) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}

/// Whether the window of `a` adds up at least what that of `b` does: of everybody whom `b` counts, and as long. A window that
/// is but little longer may have let go of a bucket that the shorter one still holds.
fn counts_all_of(a: &WindowLimit, b: &WindowLimit) -> bool {
    let longer = a.len_ms.saturating_mul(60) > b.len_ms.saturating_mul(61).saturating_add(60);
    (a.len_ms == b.len_ms || longer) && a.scope.holds_all_of(b.scope)
}

/// Whether one of the windows stops all that this one stops.
fn stops_as_much(windows: &[WindowLimit], limit: &WindowLimit) -> bool {
    let amount = limit.max.is_none()
        || windows.iter().any(|w| w.max.is_some() && below(w.max, limit.max) && counts_all_of(w, limit));
    let number = limit.count.is_none()
        || windows
            .iter()
            .any(|w| w.count.is_some_and(|n| limit.count.is_some_and(|m| n <= m)) && counts_all_of(w, limit));
    amount && number
}

/// The most that one payment can be: no window lets more through than its maximum.
fn most(rule: &Rule) -> Option<U256> {
    rule.per_tx.into_iter().chain(rule.windows.iter().filter_map(|w| w.max)).min()
}

/// Whether one asks for no more people than the other.
fn asks_less(a: Option<&Needs>, b: Option<&Needs>) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => a.of == b.of && a.quorum <= b.quorum,
    }
}

/// Whether every payment that the permit `a` lets pass, the permit `b` lets pass, asking for no more people.
pub(super) fn permits_within(a: In<'_>, b: In<'_>) -> bool {
    let (ra, rb) = (a.rule, b.rule);
    if ra == rb && a.assets() == b.assets() {
        return true;
    }
    if (ra.replacement && !rb.replacement) || ra.tier < rb.tier || !ra.keys.within(&rb.keys) {
        return false;
    }
    let pays = ra.acts.iter().any(|act| act.pays());
    if pays {
        if !below(ra.fee, rb.fee) || !below(most(ra), rb.per_tx) {
            return false;
        }
        let new = match (&ra.new_destination, &rb.new_destination) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(a), Some(b)) => {
                a.delay_ms >= b.delay_ms && (a.max.is_none() || (b.max.is_some() && below(a.max, b.max)))
            }
        };
        let lines = ra.approvals.iter().chain(&rb.approvals).map(|l| l.above);
        let at = lines.map(|above| above.saturating_add(U256::ONE)).chain([U256::ZERO]);
        let amounts = at.map(Some).chain([None]);
        if !new || !amounts.into_iter().all(|amount| asks_less(rb.needs(amount), ra.needs(amount))) {
            return false;
        }
    }
    rb.windows.iter().all(|limit| stops_as_much(&ra.windows, limit)) && scope_within(a, b)
}

/// Whether the forbid `b` forbids whatever the forbid `a` forbids.
pub(super) fn forbids_within(a: In<'_>, b: In<'_>) -> bool {
    let (ra, rb) = (a.rule, b.rule);
    if ra == rb {
        return true;
    }
    let limits = !rb.is_limited()
        || (ra.is_limited()
            && (ra.fee.is_none() || (rb.fee.is_some() && below(rb.fee, ra.fee)))
            && (ra.per_tx.is_none() || (most(rb).is_some() && below(most(rb), ra.per_tx)))
            && ra.windows.iter().all(|limit| stops_as_much(&rb.windows, limit)));
    limits && scope_within(a, b)
}

/// Whether a forbid without limits takes back all that the permit lets pass.
pub(super) fn is_dead(permit: In<'_>) -> bool {
    permit
        .policy
        .rules
        .iter()
        .filter(|r| r.kind == Kind::Forbid && !r.is_limited())
        .any(|rule| scope_within(permit, In { rule, policy: permit.policy }))
}

/// Whether no request is covered by both.
pub(super) fn apart(forbid: In<'_>, permit: In<'_>) -> bool {
    let (f, p) = (forbid.rule, permit.rule);
    let disjoint =
        |a: &Set<_>, b: &Set<_>| matches!((a, b), (Set::Only(a), Set::Only(b)) if a.is_disjoint(b));
    if disjoint(&f.keys, &p.keys) || disjoint(&f.apps, &p.apps) {
        return true;
    }
    let common: Vec<Act> = forbid.acts().filter(|act| p.acts.contains(act)).collect();
    if common.iter().any(|act| !act.pays()) {
        return false;
    }
    let elsewhere = matches!((&f.chains, &p.chains), (Set::Only(a), Set::Only(b)) if a.is_disjoint(b));
    elsewhere
        || common
            .iter()
            .all(|act| if is_move(*act) { listed(f).apart(&listed(p)) } else { called(f).apart(&called(p)) })
}
