//! Tiers, new destinations, windows of destinations, people, replacements; and what holds for every policy.

use proptest::prelude::*;

use super::tests::{HEAD, NOON, PAY, bob, debit, decision, facts, pay, policy, usdc};
use super::*;
use crate::core::units::{Address, U256};

// [clause 8.7.1-l] test
#[test]
fn an_app_of_which_less_is_known_is_not_covered_and_limits_may_differ() {
    let known = PAY.replace("\"pay\"", "\"known\"").replace("effect", "tier = \"T1\"\neffect");
    let any = PAY.replace("\"5000000\"", "\"10\"");
    let p = policy(&format!("{known}{any}"));
    let at = |tier, amount, policy: &Policy| {
        let (app, key) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap());
        let payment = pay(bob(), amount);
        let facts = Facts { tier, ..facts(&app, &key, ActFacts::Payment(&payment)) };
        match decide(policy, &facts, &Windows::for_policy(policy), Timestamp(NOON)) {
            Decision::Permit(p) => p.authorized.rule().to_string(),
            Decision::Deny(d) => d.refusal.code.as_str().to_owned(),
        }
    };
    for (tier, amount, told) in [
        (Tier::T1, 5_000_000, "known"),
        (Tier::T0, 5_000_000, "over_limit"),
        (Tier::T0, 10, "pay"),
        (Tier::T1, 10, "known"),
    ] {
        assert_eq!(at(tier, amount, &p), told, "{tier:?} {amount}");
    }
    let alone = policy(&known);
    assert_eq!(at(Tier::T0, 10, &alone), "tier_too_low");
    assert_eq!(at(Tier::T1, 10, &alone), "known");
}

// [clause 8.2.4-d] test
#[test]
fn a_rule_whose_tier_none_of_its_apps_can_reach_is_refused_at_load() {
    use crate::core::app::{Apps, facts::Host};
    let apps = |uids: &[u32]| {
        let one = |uid: &u32| {
            let sha = "ab".repeat(32);
            format!("[[app]]\nid = \"a{uid}\"\npath = \"/a\"\nsha256 = \"{sha}\"\nuid = {uid}\n")
        };
        Apps::parse(&uids.iter().map(one).collect::<String>()).unwrap()
    };
    let own = Host { uid: 1, pages: true, ..Host::default() };
    let whole = Host { others: true, ..own.clone() };
    let asks = |tier: &str, who: &str| {
        let apps = format!("apps = [{who}]");
        policy(
            &PAY.replace("apps = [\"app\"]", &apps).replace("effect", &format!("tier = \"{tier}\"\neffect")),
        )
    };
    let (any, two) = ("\"*\"", "\"a2\"");
    let code = |p: Policy, uids: &[u32], host: &Host| p.within(&apps(uids), host).err().map(|r| r.code);
    let no = Some(crate::refusal::Code::TierUnsupported);
    assert_eq!(code(asks("T1", any), &[], &own), None);
    assert_eq!(code(asks("T1", any), &[2], &own), no, "nothing is seen of other users");
    assert_eq!(code(asks("T1", any), &[1, 2], &own), None, "one of them can");
    assert_eq!(code(asks("T1", two), &[1, 2], &own), no, "and it is not the one that is named");
    assert_eq!(code(asks("T2", two), &[], &own), no);
    assert_eq!(code(asks("T2", any), &[1], &own), no);
    assert_eq!(code(asks("T0", two), &[2], &own), None);
    assert_eq!(code(asks("T3", any), &[1, 2], &whole), None);
    assert_eq!(code(asks("T3", two), &[], &whole), None);
}

// [clause 8.4.3-d] test
// [clause 8.8-c] test
#[test]
fn a_new_destination_waits_and_a_clock_set_back_makes_it_wait_longer() {
    let hour = 3_600_000;
    let rules = format!("{PAY}new_destination = {{ delay = \"2h\", max = \"10\" }}\n");
    let p = policy(&rules);
    let known_at = |first: i64| {
        let mut w = Windows::for_policy(&p);
        let mention = crate::core::policy::history::Mention {
            key: Name::parse("hot").unwrap(),
            to: bob(),
            at: Timestamp(first),
        };
        w.rebuild(&[], &[mention]);
        w
    };
    let told = |w: &Windows, amount, now| {
        decision(&p, "app", "hot", &pay(bob(), amount), w, now).map_err(|r| r.code.as_str())
    };
    let fresh = Windows::for_policy(&p);
    assert_eq!(told(&fresh, 11, NOON), Err("destination_new"));
    assert_eq!(told(&fresh, 10, NOON), Ok("pay".into()), "a little may go there meanwhile");
    let w = known_at(NOON - 2 * hour);
    assert_eq!(told(&w, 11, NOON), Ok("pay".into()));
    assert_eq!(told(&w, 11, NOON - 1), Err("destination_new"), "not a moment earlier");
    assert_eq!(told(&known_at(NOON + hour), 11, NOON), Err("destination_new"), "a mention of the future");
    // Where the log counts time, its dates alone say nothing: two hours by the clock, and one that went by.
    let counted = |ms: i64| {
        let mut w = known_at(NOON - 2 * hour);
        assert!(w.history.elapsed.told(Timestamp(NOON - 3 * hour), 0));
        assert!(w.history.elapsed.told(Timestamp(NOON - 2 * hour + 1), 500));
        assert!(w.history.elapsed.told(Timestamp(NOON), 500 + ms));
        w
    };
    assert_eq!(told(&counted(hour), 11, NOON), Err("destination_new"));
    assert_eq!(told(&counted(2 * hour - 1), 11, NOON), Err("destination_new"));
    assert_eq!(told(&counted(2 * hour), 11, NOON), Ok("pay".into()));
    let refusal = decision(&p, "app", "hot", &pay(bob(), 11), &counted(hour), NOON).unwrap_err();
    assert_eq!(refusal.facts["from"], Timestamp(NOON + hour).to_string());
    let refusal = decision(&p, "app", "hot", &pay(bob(), 11), &known_at(NOON - hour), NOON).unwrap_err();
    assert_eq!(refusal.facts["from"], Timestamp(NOON + hour).to_string());
    // Of another key it says nothing, and without max nothing goes there.
    let strict = policy(&rules.replace(", max = \"10\"", ""));
    let w = Windows::for_policy(&strict);
    let refusal = decision(&strict, "app", "hot", &pay(bob(), 1), &w, NOON).unwrap_err();
    assert_eq!(refusal.code, Code::DestinationNew);
    // What stands in the windows already is not asked again.
    let (app, key, payment) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap(), pay(bob(), 1));
    let settled = Facts { settled: true, ..facts(&app, &key, ActFacts::Payment(&payment)) };
    assert!(matches!(decide(&strict, &settled, &w, Timestamp(NOON)), Decision::Permit(_)));
}

#[test]
fn a_window_of_a_destination_leaves_room_for_another() {
    let p = policy(&PAY.replace("scope = \"key\"", "scope = \"key+destination\""));
    let mut w = Windows::for_policy(&p);
    w.add(&debit(NOON, 5_000_000));
    w.add(&debit(NOON, 5_000_000));
    assert_eq!(
        decision(&p, "app", "hot", &pay(bob(), 3_000_000), &w, NOON).unwrap_err().facts["scope"],
        "key+destination"
    );
    let friends = HEAD
        .replace("[books.banned]", "dan = \"0x4444444444444444444444444444444444444444\"\n[books.banned]");
    let text = PAY.replace("scope = \"key\"", "scope = \"key+destination\"");
    let p = Policy::parse(&format!("{friends}{text}")).unwrap();
    assert!(decision(&p, "app", "hot", &pay(Address([0x44; 20]), 3_000_000), &w, NOON).is_ok());
}

#[test]
fn of_several_permits_the_one_that_asks_the_fewest_people_counts() {
    let asks = |id: &str, line: &str| format!("{}approve = [{line}]\n", PAY.replace("\"pay\"", id));
    let two = asks("\"a\"", "{ quorum = 2, of = \"ops\" }");
    let one = asks("\"b\"", "{ quorum = 1, of = \"ops\" }");
    let needs = |rules: &str| {
        let p = policy(rules);
        let (app, key, payment) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap(), pay(bob(), 5));
        let facts = facts(&app, &key, ActFacts::Payment(&payment));
        match decide(&p, &facts, &Windows::for_policy(&p), Timestamp(NOON)) {
            Decision::Permit(permit) => permit.needs.map(|n| n.quorum),
            Decision::Deny(denial) => panic!("{}", denial.refusal),
        }
    };
    assert_eq!(needs(&two), Some(2));
    assert_eq!(needs(&format!("{two}{one}")), Some(1), "a permit that is added asks for no more");
    assert_eq!(needs(&format!("{two}{one}{PAY}")), None);
    assert_eq!(needs(&format!("{one}{two}")), Some(1));
}

#[test]
fn only_a_permit_with_replacement_covers_another_fee() {
    let bump = PAY.replace("\"pay\"", "\"bump\"").replace("\"5000000\"", "\"9\"");
    let p = policy(&format!("{PAY}{bump}replacement = true\n"));
    let (app, key) = (Name::parse("app").unwrap(), Name::parse("hot").unwrap());
    for (amount, told) in [(9, Ok("bump".to_owned())), (10, Err(Code::OverLimit))] {
        let payment = pay(bob(), amount);
        let facts = Facts { replacing: true, ..facts(&app, &key, ActFacts::Payment(&payment)) };
        let found = match decide(&p, &facts, &Windows::for_policy(&p), Timestamp(NOON)) {
            Decision::Permit(permit) => Ok(permit.authorized.rule().to_string()),
            Decision::Deny(denial) => Err(denial.refusal.code),
        };
        assert_eq!(found, told);
    }
}

#[test]
fn a_permit_of_calls_may_bound_the_coin_that_is_sent_along() {
    let call = "[[rule]]\nid = \"call\"\neffect = \"permit\"\nacts = [\"call\"]\nkeys = [\"hot\"]\napps = [\"app\"]\nchains = [\"eip155:1\"]\nassets = [\"ETH\"]\nper_tx.max = \"7\"\nfee.max = \"1000\"\ncalls = [{ contract = \"0x2222222222222222222222222222222222222222\", selector = \"0x01010101\" }]\n";
    let p = policy(call);
    for (value, permitted) in [(0u64, true), (7, true), (8, false)] {
        let effect =
            Effect::ContractCall { contract: bob(), selector: Some([1; 4]), value: U256::from(value) };
        let payment = Payment { effect, ..pay(bob(), 1) };
        let outcome = decision(&p, "app", "hot", &payment, &Windows::for_policy(&p), NOON);
        assert_eq!(outcome.is_ok(), permitted, "{value}: {outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    // [clause 8.7.1-c] test
    #[test]
    fn a_smaller_amount_is_never_refused_where_a_larger_one_is_permitted(
        bodies in proptest::collection::vec(crate::core::policy::testing::body(), 1..8),
        extra in crate::core::policy::testing::body(), head in crate::core::policy::testing::head(),
        past in crate::core::policy::testing::past(),
        asked in proptest::collection::vec(crate::core::policy::testing::request(), 30))
    {
        use crate::core::policy::testing::{NOW, rules, text};
        let one = rules(&bodies, &head);
        let mut two = one.clone();
        two.extend(rules(&[extra], &head).into_iter().map(|(_, body)| ("extra".to_owned(), body)));
        let p = Policy::parse(&text(&one, &head)).unwrap();
        let more = Policy::parse(&text(&two, &head)).unwrap();
        let added = more.rules.iter().find(|r| r.id.as_str() == "extra").map(|r| r.kind);
        for request in asked {
            let permits = |policy: &Policy, payment: &Payment| {
                let facts = Facts { act: ActFacts::Payment(payment), ..request.facts() };
                matches!(decide(policy, &facts, &past.windows(policy), Timestamp(NOW)), Decision::Permit(_))
            };
            let Some(payment) = &request.payment else { continue };
            let now = permits(&p, payment);
            match added {
                Some(Kind::Permit) => prop_assert!(!now || permits(&more, payment), "a permit took away"),
                Some(Kind::Forbid) => prop_assert!(now || !permits(&more, payment), "a forbid gave"),
                None => {}
            }
            let mut less = payment.clone();
            match &mut less.effect {
                Effect::Transfer { amount, .. } | Effect::Approve { amount, .. } | Effect::TransferFrom { amount, .. } => {
                    *amount = amount.saturating_sub(U256::ONE);
                }
                _ => continue,
            }
            prop_assert!(!now || permits(&p, &less), "{less:?} is refused");
            // What cannot be added up is not permitted, wherever a window has a say.
            let huge = Payment {
                effect: Effect::Transfer { asset: usdc(), to: bob(), amount: U256::MAX },
                ..payment.clone()
            };
            let bounded = p.rules.iter().all(|r| r.kind == Kind::Forbid || r.bounds_amounts());
            prop_assert!(!bounded || !permits(&p, &huge), "an amount without bounds");
        }
    }
}
