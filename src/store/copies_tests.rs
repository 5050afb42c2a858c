use super::tests::{because, key, ready};
use super::*;
use crate::core::key::copies::{CopyKind, KeyCopy, is_certificate};
use crate::core::key::policy::{BUILT_IN, Deadlines, KeyPolicy};
use crate::core::log::copies::CopyEvent;
use crate::core::log::entry::Entry;
use crate::refusal::Code;

fn deadlines() -> Deadlines {
    KeyPolicy::parse(BUILT_IN).unwrap().deadlines
}

fn copy(what: CopyKind, place: &str) -> KeyCopy {
    KeyCopy::new(what, place.into(), "aa".into(), Timestamp(1))
}

async fn kinds(store: &Store) -> Vec<EntryKind> {
    let rows = store.entries(0, 1000).await.unwrap();
    rows.iter().map(|row| Entry::decode(row).unwrap().kind).collect()
}

// [clause 8.7.1-p] test
#[tokio::test]
async fn no_key_is_destroyed_while_a_copy_is_left_whoever_asks() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let name = Name::parse("k").unwrap();
    let gone = async |what, place: &str| {
        let words = ("operator 7".to_owned(), "melted".to_owned());
        store.copy_gone(name.clone(), what, place.into(), words.0, words.1).await.unwrap()
    };
    let known = vec![copy(CopyKind::Token, "s"), copy(CopyKind::Vault, "here")];
    // Nothing goes before the key does.
    store.note_copies(name.clone(), vec![copy(CopyKind::Medium, "plate")], Some(7)).await.unwrap();
    assert_eq!(gone(CopyKind::Medium, "plate").await.unwrap_err().code, Code::KeyEdge);
    let early = store.owe_copies(name.clone(), known.clone(), deadlines()).await.unwrap();
    assert_eq!(early.unwrap_err().code, Code::KeyEdge);
    store.begin_destroying(name.clone(), because()).await.unwrap().unwrap();
    for _ in 0..2 {
        store.owe_copies(name.clone(), known.clone(), deadlines()).await.unwrap().unwrap();
    }
    let copies = store.copies(name.clone()).await.unwrap();
    assert_eq!(copies.len(), 3);
    assert!(copies.iter().all(|c| c.due.is_some() && c.gone.is_none()));
    assert_eq!(store.copies_owed().await.unwrap().len(), 3);
    // By no way is it called destroyed before.
    let moved = store.move_key(name.clone(), State::Destroyed, because()).await.unwrap();
    assert_eq!(moved.unwrap_err().code, Code::CopiesLeft);
    for (what, place) in [(CopyKind::Token, "s"), (CopyKind::Vault, "here")] {
        gone(what, place).await.unwrap();
        assert!(!store.finish_destroying(name.clone(), because(), "o".into()).await.unwrap().unwrap());
    }
    assert_eq!(gone(CopyKind::Medium, "another").await.unwrap_err().code, Code::CopyUnknown);
    // Far behind its time: told once.
    let late = Timestamp(i64::MAX / 2);
    assert_eq!(store.copies_overdue(late).await.unwrap().len(), 1);
    assert!(store.copies_overdue(late).await.unwrap().is_empty());
    for _ in 0..2 {
        gone(CopyKind::Medium, "plate").await.unwrap();
    }
    assert!(store.finish_destroying(name.clone(), because(), "o".into()).await.unwrap().unwrap());
    assert_eq!(store.keys().await.unwrap()[0].state, State::Destroyed);
    let told = kinds(&store).await;
    let at = told.iter().position(|k| matches!(k, EntryKind::KeyCopy(CopyEvent::Certified { .. }))).unwrap();
    let EntryKind::KeyCopy(CopyEvent::Certified { text, .. }) = &told[at] else { panic!("no certificate") };
    assert!(is_certificate(text), "{text}");
    assert!(matches!(&told[at - 1], EntryKind::KeyMoved { to: State::Destroyed, .. }));
    assert!(matches!(&told[at - 2], EntryKind::LockDestroyed { .. }));
    let events = told.iter().filter(|k| matches!(k, EntryKind::KeyCopy(_))).count();
    assert_eq!(events, 3 + 3 + 3 + 1 + 1, "noted, due, gone, one overdue, and all certified");
    // What is over is over.
    assert_eq!(gone(CopyKind::Medium, "plate").await.unwrap_err().code, Code::KeyEdge);
    store.close().await;
    drop(store);
    ready(dir.path(), 100).await.close().await;
}

// [clause 8.7.1-p] test
#[tokio::test]
async fn a_key_that_may_be_in_other_hands_has_no_time_and_a_list_has_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = ready(dir.path(), 100).await;
    let name = Name::parse("k").unwrap();
    store.move_key(name.clone(), State::Compromised, because()).await.unwrap().unwrap();
    store.begin_destroying(name.clone(), because()).await.unwrap().unwrap();
    let token = vec![copy(CopyKind::Token, "s")];
    store.owe_copies(name.clone(), token, deadlines()).await.unwrap().unwrap();
    let now = store.now().await.unwrap();
    assert!(store.copies(name.clone()).await.unwrap()[0].overdue(now));
    store.insert_key(key("more", 9), 0).await.unwrap();
    let many: Vec<_> = (0..49).map(|n| copy(CopyKind::Medium, &format!("plate {n}"))).collect();
    assert!(store.note_copies(Name::parse("more").unwrap(), many, None).await.is_err());
    assert!(store.copies(Name::parse("more").unwrap()).await.unwrap().is_empty(), "all of it or nothing");
}
