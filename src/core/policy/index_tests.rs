//! The decision by sets of rules against a look at every rule in turn.

use proptest::prelude::*;

use super::*;
use crate::core::policy::testing::{NOW, body, head, past, request, rules, text};

/// Every rule, one after the other: what the index must not change.
fn one_by_one<'a>(policy: &'a Policy, facts: &Facts<'_>, spent: &Windows, now: Timestamp) -> Said<'a> {
    let mut said = Said { forbid: None, permit: None, nearest: None };
    let mut sums = Sums::new(spent, facts, now);
    for rule in &policy.rules {
        let outcome = scope(policy, rule, facts).and_then(|()| limits(rule, facts, &mut sums));
        match (rule.kind, outcome) {
            (Kind::Forbid, outcome) => {
                said.forbid = said.forbid.or(forbids(rule, outcome).map(|at| (rule, at)));
            }
            (Kind::Permit, Ok(())) => {
                if before(rule, said.permit, facts) {
                    said.permit = Some(rule);
                }
            }
            (Kind::Permit, Err(at)) => {
                if said.nearest.is_none_or(|(_, best)| at.depth() > best.depth()) {
                    said.nearest = Some((rule, at));
                }
            }
        }
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    // [clause 8.7.1-c] test
    #[test]
    fn the_index_changes_no_decision(
        bodies in proptest::collection::vec(body(), 1..90), head in head(), past in past(),
        asked in proptest::collection::vec(request(), 40))
    {
        let policy = Policy::parse(&text(&rules(&bodies, &head), &head)).unwrap();
        let spent = past.windows(&policy);
        for request in &asked {
            let facts = request.facts();
            let now = Timestamp(NOW);
            let (slow, fast) = (one_by_one(&policy, &facts, &spent, now), indexed(&policy, &facts, &spent, now));
            prop_assert_eq!(slow.forbid, fast.forbid);
            prop_assert_eq!(slow.permit, fast.permit);
            // Who came nearest is told only when nobody forbids or permits.
            if slow.forbid.is_none() && slow.permit.is_none() {
                prop_assert_eq!(slow.nearest, fast.nearest);
            }
            let (decision, told) = explain(&policy, &facts, &spent, now);
            let permits = told.rules.iter().any(|r| r.effect == Kind::Permit && r.applies);
            let forbids = told.rules.iter().any(|r| r.effect == Kind::Forbid && r.applies);
            prop_assert_eq!(matches!(decision, Decision::Permit(_)), permits && !forbids, "{}", told);
        }
    }
}
