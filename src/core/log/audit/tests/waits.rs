//! What was waited, acknowledged and looked at before something was done.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;
use crate::core::approval::balance::BALANCE;
use crate::core::log::user::UserEvent;
use crate::core::user::duties;

fn change() -> String {
    format!(
        "clavigerd change v1\ndeployment: d\nchange: {}\nmatter: policy\nasked by: an operator (uid 0)\n\
         authority: sha256:{}\nneeds: 2 of ops\nthen waits: 3600 s\nexpires: x\nnonce: 00\n",
        id(70),
        hash(&authority())
    )
}

fn counted(counted_ms: i64) -> EntryKind {
    EntryKind::Elapsed { counted_ms }
}

/// A change that two people agreed on, and that waited its hour.
fn waited() -> Log {
    let mut log = begun();
    log.push(counted(0));
    log.push(EntryKind::ChangeAsked { change: id(70), matter: "policy".into(), uid: 0, text: change() });
    for who in [("alice", 1), ("bob", 2)] {
        log.voice(70, who, "clavigerd-policy@v1", &change());
        let at = log.0.len() - 1;
        if let EntryKind::Voice { yes, .. } = &mut log.0[at].1 {
            *yes = true;
        }
    }
    log.push(counted(5000)).push(counted(600_000)).push(counted(3_605_000));
    log.push(EntryKind::ChangeEnded { change: id(70), how: "made".into(), why: "agreed".into() });
    log
}

// [clause 8.8-c] test
#[test]
fn what_did_not_wait_is_found_whatever_its_dates_say() {
    each_is_found(
        waited,
        &[
            (
                "made too early, and dated two days later",
                |l| {
                    let last = l.0.iter().rposition(|(_, k)| *k == counted(3_605_000)).unwrap();
                    l.0[last].1 = counted(3_604_999);
                    for (at, _) in &mut l.0[last..] {
                        *at += 2 * 86_400_000;
                    }
                },
                "delay",
                "after 3599999 of 3600000 ms",
            ),
            (
                "nothing was counted behind the last voice",
                |l| l.0.retain(|(_, k)| *k == counted(0) || !matches!(k, EntryKind::Elapsed { .. })),
                "delay",
                "after 0 of",
            ),
            (
                "a count that falls",
                |l| {
                    l.push(counted(3_604_000));
                },
                "delay",
                "backwards",
            ),
        ],
    );
    // An older log counts no time, and says nothing that could be held against it.
    let mut old = waited();
    old.0.retain(|(_, k)| !matches!(k, EntryKind::Elapsed { .. }));
    assert_eq!(old.breaches(), []);
}

const ACCOUNT: &str = "0x0101010101010101010101010101010101010101";

fn statement(observed: &str) -> String {
    format!(
        "clavigerd balance v1\ndeployment: d\nkey: hot\naccount: {ACCOUNT}\nobserved: {observed}\n\
         block: eip155:1 7 0x{}\nbalance: eip155:1 native 0\n",
        "00".repeat(32)
    )
}

fn with_operator() -> String {
    authority()
        + &format!(
            "[[person]]\nid = \"otto\"\nroles = [\"operator\"]\nkeys = [\"{}\"]\n",
            Person::new(4).line()
        )
}

fn destroying() -> EntryKind {
    let (key, actor, reason) = ("hot".into(), "operator 0".into(), "over".into());
    EntryKind::KeyDestroying { key, actor, reason }
}

fn stated() -> Log {
    let mut log = begun();
    for part in EntryKind::documents("authority", &with_operator()) {
        log.push(part);
    }
    log.push(EntryKind::Authority { hash: hash(&with_operator()), people: 4, uid: 0, kept: None });
    log.push(counted(0));
    let text = statement("1970-01-01T00:20:00Z");
    log.push(EntryKind::Balance {
        key: "hot".into(),
        account: ACCOUNT.into(),
        uid: 0,
        by: Some("operator otto".into()),
        signature: Some(Person::new(4).sign(BALANCE, &text)),
        text: Some(text),
        waiver: None,
    });
    log.push(destroying());
    log.moved("hot", State::Active, State::Destroyed);
    log
}

// [clause 8.7.1-t] test
#[test]
fn a_destruction_of_which_nothing_was_known_is_found() {
    each_is_found(
        stated,
        &[
            (
                "neither stated nor waived",
                |l| {
                    let at = l.at("balance");
                    l.0.remove(at);
                },
                "balance",
                "nothing was known",
            ),
            (
                "somebody who is not named",
                |l| {
                    let text = statement("1970-01-01T00:20:00Z");
                    l.set("balance", "signature", json!(Person::new(1).sign(BALANCE, &text)));
                },
                "balance",
                "no observer",
            ),
            (
                "an old statement",
                |l| {
                    let text = statement("1969-12-31T00:00:00Z");
                    l.set("balance", "signature", json!(Person::new(4).sign(BALANCE, &text)));
                    l.set("balance", "text", json!(text));
                },
                "balance",
                "no time like",
            ),
            (
                "stated and waived",
                |l| l.set("balance", "waiver", json!("why not")),
                "balance",
                "neither stated nor waived, or both",
            ),
        ],
    );
    let mut waived = stated();
    for member in ["text", "signature", "by"] {
        waived.set("balance", member, Value::Null);
    }
    waived.set("balance", "waiver", json!("dust"));
    assert_eq!(waived.breaches(), []);
}

const USERS: &str = "schema = 1\n[duties]\ntext = \"Lock the screen.\"\nack = [\"apps\"]\n";

fn acknowledged() -> Log {
    let mut log = begun();
    for part in EntryKind::documents("users", USERS) {
        log.push(part);
    }
    log.push(EntryKind::Users { hash: hash(USERS), users: 0, uid: 0, kept: Some(hash(USERS)) });
    log.push(EntryKind::User(UserEvent::Acknowledged {
        who: duties::app("app", 7),
        uid: 0,
        duties: hash("Lock the screen."),
        policy: hash(POLICY),
    }));
    // What was in force until a moment ago counts for a moment.
    log.push(counted(0));
    log.0.last_mut().unwrap().0 += 10_000;
    log.paid(1, 50);
    log
}

// [clause 8.8-d] test
#[test]
fn uses_by_those_who_acknowledged_nothing_are_found() {
    each_is_found(
        acknowledged,
        &[
            (
                "never",
                |l| {
                    let at = l.at("user");
                    l.0.remove(at);
                },
                "duties",
                "had not acknowledged",
            ),
            ("another text", |l| l.set("user", "duties", json!(hash("x"))), "duties", "had not acknowledged"),
            (
                "another app",
                |l| l.set("user", "who", json!(duties::app("other", 7))),
                "duties",
                "had not acknowledged",
            ),
        ],
    );
}
