//! Copies of keys: what is called destroyed, and what certifies it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;
use crate::core::key::copies::{CERTIFICATE, CopyKind};
use crate::core::log::copies::CopyEvent;

fn event(make: impl Fn(String, CopyKind, String) -> CopyEvent, place: &str) -> EntryKind {
    let what = if place == "s1" { CopyKind::Token } else { CopyKind::Medium };
    EntryKind::KeyCopy(make("hot".into(), what, place.into()))
}

fn noted(place: &str) -> EntryKind {
    event(|key, what, place| CopyEvent::Noted { key, what, place, mark: "aa".into(), uid: Some(7) }, place)
}

fn due(place: &str) -> EntryKind {
    event(|key, what, place| CopyEvent::Due { key, what, place, due: "2026".into() }, place)
}

fn gone(place: &str) -> EntryKind {
    event(
        |key, what, place| CopyEvent::Gone { key, what, place, by: "daemon".into(), how: "so".into() },
        place,
    )
}

fn overdue(place: &str) -> EntryKind {
    event(|key, what, place| CopyEvent::Overdue { key, what, place, due: "2026".into() }, place)
}

fn text() -> String {
    format!(
        "{CERTIFICATE}\nlog: log\nkey: hot\ngeneration: 1 of hot\npurpose: payment (secp256k1)\npublic: {}\nmade: x\n\
         compromised: no\ndestroyed: y\ncopies: 2\n- token s1 (01): z, daemon: so\n- medium plate (aa): z, daemon: so\n",
        hash("hot")
    )
}

/// A key that goes with two copies, one of them late.
fn ended() -> Log {
    let mut log = paying();
    log.push(EntryKind::BackupMade {
        key: "hot".into(),
        epoch: 1,
        bundle: "b".into(),
        lock: "l".into(),
        vaults: vec!["here".into()],
        copies: 1,
    });
    log.push(noted("plate")).push(noted("s1"));
    log.push(EntryKind::KeyDestroying { key: "hot".into(), actor: "a".into(), reason: "r".into() });
    log.push(due("plate")).push(due("s1")).push(gone("s1")).push(overdue("plate")).push(gone("plate"));
    log.push(EntryKind::LockDestroyed { key: "hot".into(), vaults: vec!["here".into()] });
    log.moved("hot", State::Active, State::Destroyed);
    log.push(EntryKind::KeyCopy(CopyEvent::Certified { key: "hot".into(), text: text() }));
    log
}

fn take(log: &mut Log, kind: &EntryKind) {
    let at = log.0.iter().position(|(_, k)| k == kind).unwrap();
    log.0.remove(at);
}

// [clause 8.7.1-p] test
#[test]
fn a_copy_that_was_forgotten_and_a_certificate_that_says_otherwise_are_found() {
    assert_eq!(ended().report().alarms, 1);
    each_is_found(
        ended,
        &[
            ("left", |l| take(l, &gone("plate")), "key-destroyed", "its copy was not: medium plate"),
            ("never due", |l| take(l, &due("plate")), "key-destroyed", "nothing was to go"),
            (
                "not noted",
                |l| {
                    l.push(noted("other"));
                },
                "key-destroyed",
                "noted after it was destroyed",
            ),
            (
                "gone twice",
                |l| {
                    let at = l.at("lock-destroyed");
                    l.insert(at, gone("s1"));
                },
                "key-destroyed",
                "nothing was to go",
            ),
            (
                "gone before",
                |l| {
                    let at = l.at("key-destroying");
                    l.insert(at, gone("s1"));
                },
                "key-destroyed",
                "and the key was not",
            ),
            (
                "a stranger's",
                |l| {
                    l.set("key-copy", "key", json!("cold"));
                },
                "key-destroyed",
                "never made",
            ),
            (
                "the lock stays",
                |l| {
                    let at = l.at("lock-destroyed");
                    l.0.remove(at);
                },
                "key-destroyed",
                "its lock was not",
            ),
            (
                "uncertified",
                |l| {
                    let at = l.at("certified");
                    l.0.remove(at);
                },
                "key-destroyed",
                "nothing certifies",
            ),
            (
                "certified early",
                |l| {
                    let at = l.at("key-destroying");
                    l.insert(
                        at,
                        EntryKind::KeyCopy(CopyEvent::Certified { key: "hot".into(), text: text() }),
                    );
                },
                "key-destroyed",
                "does not say",
            ),
            (
                "another key",
                |l| l.set("certified", "text", json!(text().replace("key: hot", "key: hut"))),
                "key-destroyed",
                "does not say",
            ),
            (
                "another public half",
                |l| l.set("certified", "text", json!(text().replace(&hash("hot"), &hash("x")))),
                "key-destroyed",
                "does not say",
            ),
            (
                "a copy less",
                |l| {
                    l.set(
                        "certified",
                        "text",
                        json!(
                            text()
                                .replace("copies: 2", "copies: 1")
                                .replace("- medium plate (aa): z, daemon: so\n", "")
                        ),
                    );
                },
                "key-destroyed",
                "does not say",
            ),
            (
                "another word",
                |l| {
                    l.set(
                        "certified",
                        "text",
                        json!(text().replace("plate (aa): z, daemon: so", "plate (aa): z, daemon: no")),
                    );
                },
                "key-destroyed",
                "does not say",
            ),
            (
                "late for nothing",
                |l| {
                    let at = l.at("lock-destroyed");
                    l.insert(at, overdue("s1"));
                },
                "key-destroyed",
                "is overdue",
            ),
        ],
    );
}

// [clause 8.2.2-g] test
#[test]
fn a_key_that_came_back_to_sweep_and_became_active_is_found() {
    let back = |sweep_only| {
        let mut log = paying();
        log.moved("hot", State::Active, State::Suspended);
        log.push(EntryKind::KeyRestored {
            key: "hot".into(),
            public: hash("hot"),
            from_serial: "s1".into(),
            token_serial: "s1".into(),
            reference: "01".into(),
            bundle: "b".into(),
            uid: 0,
            sweep_only,
        });
        log.moved("hot", State::Suspended, State::Active);
        log.breaches()
    };
    assert_eq!(back(false), []);
    let found = back(true);
    assert!(found.iter().any(|(rule, what)| *rule == "key-edge" && what.contains("to sweep")), "{found:?}");
}
