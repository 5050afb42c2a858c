//! Requests, and what they spend.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;

// [clause 8.7.1-d] test
#[test]
fn impossible_stories_are_found_even_when_they_are_signed() {
    each_is_found(
        paying,
        &[
            (
                "no intent",
                |l| {
                    l.result(7);
                },
                "outcome",
                "without an intent",
            ),
            (
                "two results",
                |l| {
                    l.result(1);
                },
                "outcome",
                "already",
            ),
            (
                "a failure after all",
                |l| {
                    l.push(EntryKind::failed(id(1), "x", ""));
                },
                "outcome",
                "already",
            ),
            (
                "the request twice",
                |l| {
                    l.intent(1, 1);
                },
                "outcome",
                "before",
            ),
            (
                "never settled",
                |l| {
                    l.intent(3, 1).push(EntryKind::start("0", "b", 2)).announce();
                },
                "outcome",
                "started again",
            ),
            (
                "left alone",
                |l| {
                    l.intent(3, 1);
                    let at = l.0.last().unwrap().0 + 4_000_000;
                    l.0.push((at, EntryKind::stop()));
                },
                "outcome",
                "an hour",
            ),
            (
                "the clock back",
                |l| {
                    let n = l.0.len() - 1;
                    l.0[n].0 -= 5000;
                },
                "form",
                "before that of",
            ),
            (
                "no policy announced",
                |l| {
                    let at = l.at("policy");
                    l.0.remove(at);
                },
                "policy",
                "not in force",
            ),
            (
                "another policy announced",
                |l| {
                    l.set("policy", "hash", json!(hash("x")));
                },
                "text",
                "does not stand in the log",
            ),
            (
                "a policy of before",
                |l| {
                    for part in EntryKind::documents("policy", "schema = 1\n") {
                        l.push(part);
                    }
                    l.push(EntryKind::policy(sha256(b"schema = 1\n"), 11, 0, "tightens".into()));
                    let at = l.0.last().unwrap().0 + 6000;
                    l.0.push((at, EntryKind::stop()));
                    l.paid(5, 1);
                },
                "policy",
                "not in force",
            ),
            (
                "another text",
                |l| {
                    l.set("document", "text", json!(POLICY.replace("200", "2000")));
                },
                "text",
                "another hash",
            ),
            (
                "a part is missing",
                |l| {
                    l.set("document", "parts", json!(2));
                },
                "text",
                "no next part",
            ),
        ],
    );
}

// [clause 8.7.1-c] test
#[test]
fn payments_beyond_the_policy_in_force_are_found() {
    each_is_found(
        paying,
        &[
            (
                "the window",
                |l| {
                    l.paid(3, 50).paid(4, 50).paid(5, 1);
                },
                "policy",
                "window_exceeded",
            ),
            (
                "the maximum",
                |l| {
                    l.paid(3, 101);
                },
                "policy",
                "over_limit",
            ),
            (
                "another destination",
                |l| {
                    let mut p = payment(3, 1);
                    p.effect =
                        Effect::Transfer { asset: Asset::Native, to: Address([9; 20]), amount: U256::ONE };
                    l.intent_with(3, json!(p), &digest(3), true, &[]).result(3);
                },
                "policy",
                "destination_not_listed",
            ),
            (
                "an app that is none",
                |l| {
                    l.set("intent", "app", json!("other"));
                },
                "app",
                "no registered app",
            ),
            (
                "another app",
                |l| {
                    l.set("intent", "app", json!("other"));
                },
                "policy",
                "key_not_allowed",
            ),
            (
                "nonsense",
                |l| {
                    l.set("intent", "act", json!({"effect": 7}));
                },
                "form",
                "not written",
            ),
            (
                "not counted",
                |l| {
                    l.intent_with(3, json!(payment(3, 1)), &digest(3), false, &[]).result(3);
                },
                "nonce",
                "nothing was reserved",
            ),
            (
                "counted too long ago",
                |l| {
                    l.intent(3, 1).push(EntryKind::InDoubt { request: id(3) });
                    let at = l.0.last().unwrap().0 + 70_000;
                    l.0.push((at, EntryKind::stop()));
                    l.intent_with(4, json!(payment(3, 1)), &digest(3), false, &[]).result(4);
                },
                "nonce",
                "is over",
            ),
            (
                "the nonce again",
                |l| {
                    l.intent_with(9, json!(payment(1, 49)), &digest(9), true, &[]).result(9);
                },
                "nonce",
                "another payment",
            ),
            (
                "a fee bump that no rule allows",
                |l| {
                    let bumped = Payment { max_fee: U256::from(20), ..payment(1, 50) };
                    l.intent_with(9, json!(bumped), &digest(9), false, &[]).result(9);
                },
                "policy",
                "lets no payment replace another",
            ),
            (
                "signed again",
                |l| {
                    l.intent_with(9, json!(payment(1, 50)), &digest(1), false, &[]).result(9);
                },
                "nonce",
                "was signed before",
            ),
        ],
    );
    // What left the window makes room, a payload without an outcome is tried again without a debit, and both are clean.
    let mut log = paying();
    log.paid(3, 50).paid(4, 50);
    let at = log.0.last().unwrap().0 + 3_700_000;
    log.0.push((at, EntryKind::stop()));
    log.paid(5, 50).intent(6, 1).push(EntryKind::failed(id(6), "token_gone", "it went"));
    log.intent_with(7, json!(payment(6, 1)), &digest(6), false, &[]).result(7);
    assert_eq!(log.breaches(), []);
    assert_eq!(log.report().totals["hot eip155:1 native"], "251");
}
