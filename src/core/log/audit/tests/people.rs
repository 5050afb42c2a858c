//! Voices of people.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;

// [clause 8.5.4-a] test
#[test]
fn voices_that_do_not_count_are_found() {
    each_is_found(
        approved,
        &[
            (
                "nobody",
                |l| {
                    l.set("intent", "approved_by", json!([]));
                },
                "approval",
                "nobody did",
            ),
            (
                "others are named",
                |l| {
                    l.set("intent", "approved_by", json!(["alice", "carol"]));
                },
                "approval",
                "no approval of this payload",
            ),
            (
                "one voice is missing",
                |l| {
                    let at = l.at("voice");
                    l.0.remove(at);
                },
                "approval",
                "no approval of this payload",
            ),
            (
                "one is not two",
                |l| {
                    let at = l.at("voice");
                    l.0.remove(at);
                    l.set("intent", "approved_by", json!(["bob"]));
                },
                "approval",
                "needs 2 people",
            ),
            (
                "signed by another",
                |l| {
                    let (text, at) = (text_of(90, 91, 60), l.at("voice"));
                    l.voice(90, ("alice", 2), APPROVE, &text);
                    l.0[at].1 = l.0.pop().unwrap().1;
                },
                "approval",
                "is that of bob",
            ),
            (
                "another text",
                |l| {
                    let at = l.at("voice");
                    l.voice(90, ("alice", 1), APPROVE, &text_of(90, 91, 61));
                    l.0[at].1 = l.0.pop().unwrap().1;
                },
                "approval",
                "approval_wrong",
            ),
            (
                "a no that was counted as a yes",
                |l| {
                    l.set("voice", "signature", json!(Person::new(1).sign(REJECT, &text_of(90, 91, 60))));
                },
                "approval",
                "approval_namespace",
            ),
            (
                "a no before",
                |l| {
                    let at = l.at("intent");
                    l.voice(90, ("bob", 2), REJECT, &text_of(90, 91, 60));
                    let no = l.0.pop().unwrap().1;
                    l.insert(at, no);
                },
                "approval",
                "no approval of this payload",
            ),
            (
                "who asked",
                |l| {
                    let at = l.at("voice");
                    l.voice(90, ("carol", 3), APPROVE, &text_of(90, 91, 60));
                    l.0[at].1 = l.0.pop().unwrap().1;
                },
                "approval",
                "approval_own",
            ),
            (
                "the same person twice",
                |l| {
                    let at = l.at("voice") + 1;
                    l.voice(90, ("alice", 1), APPROVE, &text_of(90, 91, 60));
                    l.0[at].1 = l.0.pop().unwrap().1;
                },
                "approval",
                "twice",
            ),
            (
                "a text of another payment",
                |l| {
                    let text = text_of(90, 91, 55);
                    l.set("waiting", "text", json!(text));
                    for (at, who) in [(l.at("voice"), ("alice", 1)), (l.at("voice") + 1, ("bob", 2))] {
                        l.voice(90, who, APPROVE, &text);
                        l.0[at].1 = l.0.pop().unwrap().1;
                    }
                },
                "approval",
                "not that of this payment",
            ),
            (
                "used twice",
                |l| {
                    l.intent_with(92, json!(payment(91, 60)), &digest(91), true, &["alice", "bob"])
                        .result(92);
                },
                "approval",
                "no approval of this payload",
            ),
            (
                "taken back",
                |l| {
                    let at = l.at("intent");
                    l.insert(at, EntryKind::WaitingEnded { request: id(90), how: "cancelled".into() });
                },
                "approval",
                "no approval of this payload",
            ),
            (
                "after its time",
                |l| {
                    let n = l.0.len();
                    for entry in &mut l.0[n - 2..] {
                        entry.0 += 3_000_000;
                    }
                },
                "approval",
                "after its time",
            ),
            (
                "a voice after its time",
                |l| {
                    let at = l.at("voice");
                    for entry in &mut l.0[at..] {
                        entry.0 += 3_000_000;
                    }
                },
                "approval",
                "after its time",
            ),
            (
                "another authority",
                |l| {
                    let at = l.at("authority");
                    l.0.remove(at);
                },
                "approval",
                "authority in force",
            ),
            (
                "of nobody who waits",
                |l| {
                    let at = l.at("waiting");
                    l.0.remove(at);
                },
                "approval",
                "does not wait",
            ),
        ],
    );
    assert_eq!(approved().report().approvals, 1);
}
