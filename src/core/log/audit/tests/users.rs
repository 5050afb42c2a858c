//! Keys that have a user.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;
use crate::core::log::user::UserEvent;

const USERS: &str = "schema = 1\n[[user]]\nname = \"anna\"\nuid = 7\nkeys = [\"hot\"]\n";

fn opened(user: &str) -> EntryKind {
    let caller = "pid 1, uid 7".to_owned();
    EntryKind::User(UserEvent::Opened { user: user.into(), app: "app".into(), caller })
}

fn closed() -> EntryKind {
    EntryKind::User(UserEvent::Closed { user: "anna".into(), app: "app".into(), why: "left".into() })
}

fn announced(log: &mut Log, text: &str) {
    for part in EntryKind::documents("users", text) {
        log.push(part);
    }
    log.push(EntryKind::Users { hash: hash(text), users: 1, uid: 0, kept: Some(hash(text)) });
}

/// Anna came, her key paid, and she left.
fn here() -> Log {
    let mut log = begun();
    announced(&mut log, USERS);
    log.push(opened("anna")).paid(1, 50);
    log.set("intent", "user", json!("anna"));
    log.push(closed());
    log
}

// [clause 8.2.3-d] test
#[test]
fn uses_without_their_user_are_found() {
    each_is_found(
        here,
        &[
            ("nobody is named", |l| l.set("intent", "user", Value::Null), "user", "has a user"),
            ("somebody else", |l| l.set("intent", "user", json!("ben")), "user", "no key of ben"),
            (
                "never there",
                |l| {
                    let at = l.0.iter().position(|(_, k)| *k == opened("anna")).unwrap();
                    l.0.remove(at);
                },
                "user",
                "while anna was not here",
            ),
            (
                "gone before",
                |l| {
                    let at = l.at("intent");
                    l.insert(at, closed());
                },
                "user",
                "while anna was not here",
            ),
            (
                "somebody else was there",
                |l| {
                    let at = l.0.iter().position(|(_, k)| *k == opened("anna")).unwrap();
                    l.0[at].1 = opened("ben");
                },
                "user",
                "while anna was not here",
            ),
            (
                "no document",
                |l| {
                    let at = l.at("users");
                    l.0.remove(at);
                },
                "user",
                "no key of anna",
            ),
            (
                "another text",
                |l| l.set("users", "hash", json!(hash("x"))),
                "text",
                "does not stand in the log",
            ),
        ],
    );
}

// [clause 8.2.3-d] test
#[test]
fn what_was_reserved_while_they_left_and_came_to_nothing_is_no_breach() {
    let mut log = here();
    log.intent(2, 50);
    let at = log.0.len() - 1;
    if let EntryKind::Intent { user, .. } = &mut log.0[at].1 {
        *user = Some("anna".into());
    }
    log.push(EntryKind::failed(id(2), "user_locked", "the session ended"));
    // The document is taken away: the key has no user any more.
    announced(&mut log, "");
    log.0.last_mut().unwrap().0 += 1;
    log.push(EntryKind::stop());
    log.0.last_mut().unwrap().0 += 10_000;
    log.paid(3, 1);
    assert_eq!(log.breaches(), []);
}
