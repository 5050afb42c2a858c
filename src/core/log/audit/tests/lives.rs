//! Lives of keys, and the tokens that they live in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;

// [clause 8.7.1-b] test
// [clause 8.7.1-a] test
// [clause 8.7.1-g] test
// [clause 8.7.1-h] test
#[test]
fn lives_that_cannot_be_are_found() {
    each_is_found(
        paying,
        &[
            (
                "no such edge",
                |l| {
                    l.moved("hot", State::Active, State::PreActive);
                },
                "key-edge",
                "no edge",
            ),
            (
                "from elsewhere",
                |l| {
                    l.moved("hot", State::Suspended, State::Active);
                },
                "key-edge",
                "it was active",
            ),
            (
                "another key policy",
                |l| {
                    l.set("key-moved", "key_policy", json!(hash("x")));
                },
                "key-edge",
                "not in force",
            ),
            (
                "never made",
                |l| {
                    l.moved("cold", State::PreActive, State::Active);
                },
                "key-edge",
                "never made",
            ),
            (
                "suspended",
                |l| {
                    l.moved("hot", State::Active, State::Suspended).paid(3, 1);
                },
                "key-use",
                "suspended",
            ),
            (
                "not yet active",
                |l| {
                    let at = l.at("key-moved");
                    l.0.remove(at);
                },
                "key-use",
                "pre-active",
            ),
            (
                "unknown",
                |l| {
                    let at = l.at("key-created");
                    l.0.remove(at);
                },
                "key-use",
                "never made",
            ),
            (
                "a message by a key at its end",
                |l| {
                    l.moved("hot", State::Active, State::SweepOnly);
                    l.intent_with(3, json!({"kind": "message", "bytes": 2}), &digest(3), true, &[]).result(3);
                },
                "key-use",
                "sweep-only",
            ),
            (
                "active from the start",
                |l| {
                    l.set("key-created", "state", json!("active"));
                },
                "key-birth",
                "begins active",
            ),
            (
                "the name again",
                |l| {
                    l.key("hot");
                },
                "key-birth",
                "used before",
            ),
            (
                "the very key again",
                |l| {
                    l.key("cold");
                    let at = l.0.len() - 1;
                    let mut entry = json!(l.0[at].1);
                    entry["public"] = json!(hash("hot"));
                    l.0[at].1 = serde_json::from_value(entry).unwrap();
                },
                "key-birth",
                "very key",
            ),
            (
                "two purposes",
                |l| {
                    l.set("key-created", "purpose", json!("random"));
                },
                "key-birth",
                "random key",
            ),
            (
                "another purpose",
                |l| {
                    l.set("key-created", "purpose", json!("authentication"));
                },
                "key-purpose",
                "not for signing payments",
            ),
            (
                "a generation without a first",
                |l| {
                    l.key("cold@2");
                },
                "key-birth",
                "no predecessor",
            ),
            (
                "destroyed at once",
                |l| {
                    l.moved("hot", State::Active, State::Destroyed);
                },
                "key-destroyed",
                "nothing says",
            ),
            (
                "used in its destruction",
                |l| {
                    destroying(l);
                    l.paid(3, 1);
                },
                "key-use",
                "being destroyed",
            ),
            (
                "used after it",
                |l| {
                    destroyed(l);
                    l.paid(3, 1);
                },
                "key-destroyed",
                "after it was destroyed",
            ),
            (
                "back from it",
                |l| {
                    destroyed(l);
                    l.moved("hot", State::Destroyed, State::Active);
                },
                "key-destroyed",
                "after it was destroyed",
            ),
            (
                "made again after it",
                |l| {
                    destroyed(l);
                    l.key("hot").paid(3, 1);
                },
                "key-destroyed",
                "used after",
            ),
            (
                "due after it",
                |l| {
                    destroyed(l);
                    l.push(EntryKind::KeyDue {
                        key: "hot".into(),
                        to: State::Destroyed,
                        due: String::new(),
                        overdue: true,
                    });
                },
                "key-destroyed",
                "no such key",
            ),
            (
                "a link without its moves",
                |l| {
                    l.key("hot@2");
                    rotated(l, "hot", "hot@2");
                },
                "key-rotation",
                "did not take over",
            ),
            (
                "a link backwards",
                |l| {
                    l.key("hot@2").moved("hot@2", State::PreActive, State::Active);
                    l.moved("hot", State::Active, State::SweepOnly);
                    rotated(l, "hot@2", "hot");
                },
                "key-rotation",
                "no later generation",
            ),
            (
                "a token that was not tried",
                |l| {
                    let at = l.at("self-test");
                    l.0.remove(at);
                },
                "self-test",
                "never tried",
            ),
            (
                "a token that is unfit",
                |l| {
                    l.tried(Some("no")).paid(3, 1);
                },
                "self-test",
                "unfit",
            ),
            (
                "after a strange operation",
                |l| {
                    l.push(EntryKind::StrangeOperation { what: "x".into(), device: Value::Null }).paid(3, 1);
                },
                "strange",
                "after the strange operation",
            ),
        ],
    );
    // A rotation as it is done, a sweep by what it ends, and an operator who looked, are clean.
    let mut log = paying();
    log.key("hot@2").moved("hot@2", State::PreActive, State::Active);
    log.moved("hot", State::Active, State::SweepOnly);
    rotated(&mut log, "hot", "hot@2");
    log.push(EntryKind::StrangeOperation { what: "x".into(), device: Value::Null });
    log.push(EntryKind::operator(0, "token-check", Value::Null)).paid(3, 1);
    assert_eq!(log.breaches(), []);
}

fn destroying(log: &mut Log) {
    log.push(EntryKind::KeyDestroying { key: "hot".into(), actor: "a".into(), reason: "r".into() });
}

fn destroyed(log: &mut Log) {
    destroying(log);
    log.moved("hot", State::Active, State::Destroyed);
}

fn rotated(log: &mut Log, from: &str, to: &str) {
    let (line, from, to) = ("hot".into(), from.into(), to.into());
    log.push(EntryKind::KeyRotated { line, from, to, actor: "a".into() });
}
