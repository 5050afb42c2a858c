//! Files, hashes, checkpoints, and the form of entries.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

use super::*;
use crate::core::log::cbor;

// [clause 8.7.1-e] test
#[test]
fn an_honest_log_is_clean_and_a_changed_removed_moved_or_added_entry_is_found() {
    let mut log = begun();
    for n in 0..300 {
        log.paid(n, 0);
    }
    let entries = log.entries();
    let (files, holdings) = signed(&entries);
    let report = check(&files, &holdings);
    assert_eq!((report.breaches, report.unproven), (vec![], vec![]));
    assert_eq!((report.intents, report.results, report.judged), (300, 300, 300));
    let last = entries.len() - 1;
    for at in [0, 5, 255, 256, last] {
        let mut changed = entries.clone();
        let end = changed[at].len() - 3;
        changed[at][end] ^= 1;
        let mut removed = entries.clone();
        removed.remove(at);
        let mut added = entries.clone();
        added.insert(at, entries[at].clone());
        let mut moved = entries.clone();
        moved.swap(at, (at + 1) % entries.len());
        for e in [changed, removed, added, moved] {
            let mut copy: Files = super::files(&e).into_iter().collect();
            copy.insert("checkpoint".into(), files["checkpoint"].clone());
            assert!(rules(&check(&copy, &holdings)).contains(&"tree"), "{at}");
        }
    }
    let mut broken = files.clone();
    broken.get_mut("tile/0/000").unwrap()[3] ^= 1;
    assert_eq!(rules(&check(&broken, &holdings)), ["tree"]);
    let other = SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes();
    let stranger = NoteKey::parse(&checkpoint::verifier_key("log", &other)).unwrap();
    assert_eq!(
        rules(&check(&files, &Holdings { keys: vec![stranger], ..Holdings::default() })),
        ["signature"]
    );
}

// [clause 8.7.1-v] test
#[test]
fn a_rollback_and_a_rewritten_past_are_found_by_a_checkpoint_that_was_kept() {
    let mut log = begun();
    log.paid(1, 1);
    let (yesterday, _) = note(&log.entries());
    let (old_files, _) = signed(&log.entries());
    let mut today = log.clone();
    today.paid(2, 1);
    let (kept, _) = note(&today.entries());
    let since = |note: &str| {
        let (_, holdings) = signed(&[]);
        Holdings { since: vec![("kept".into(), note.into())], ..holdings }
    };
    // The log went on: what was kept yesterday still holds.
    let (files, _) = signed(&today.entries());
    assert_eq!(check(&files, &since(&yesterday)).breaches, vec![]);
    // Yesterday's copy, as it was then: clean by itself, and found by today's checkpoint.
    assert_eq!(check(&old_files, &since(&yesterday)).breaches, vec![]);
    let report = check(&old_files, &since(&kept));
    assert_eq!(rules(&report), ["consistency"]);
    assert!(report.breaches[0].what.contains("rolled back"), "{report:?}");
    // Another past, of the same length and longer, under a good signature.
    let mut other = log.clone();
    other.paid(3, 1).paid(4, 1);
    let (files, _) = signed(&other.entries());
    assert_eq!(rules(&check(&files, &since(&kept))), ["consistency"]);
    // What came with the log speaks against it just as well.
    let mut files = files;
    files.insert(CHECKPOINTS.into(), format!("{yesterday}\n{kept}\n").into_bytes());
    let report = check(&files, &since(&yesterday));
    assert_eq!((rules(&report), report.checkpoints), (vec!["consistency"], 3));
    // A checkpoint of somebody else counts as none, and says so.
    files.insert(CHECKPOINTS.into(), format!("{}\n", yesterday.replace("\nlog\n", "\nlag\n")).into_bytes());
    files.insert("checkpoint".into(), note(&other.entries()).0.into_bytes());
    let forged = kept.replacen("log\n", "lag\n", 1);
    files.insert(CHECKPOINTS.into(), format!("{forged}\n").into_bytes());
    assert_eq!(rules(&check(&files, &since(&yesterday))), ["signature"]);
}

// [clause 8.7.1-w] test
#[test]
fn enough_witnesses_must_have_cosigned() {
    let entries = begun().entries();
    let (mut files, mut holdings) = signed(&entries);
    let note = String::from_utf8(files["checkpoint"].clone()).unwrap();
    let text = checkpoint::Note::parse(&note).unwrap().text.to_owned();
    let mut lines = String::new();
    for n in [21, 22] {
        let key = SigningKey::from_bytes(&[n; 32]);
        let (name, public) = (format!("w{n}"), key.verifying_key().to_bytes());
        let message = checkpoint::cosigned_message(9, &text);
        lines += &checkpoint::cosignature_line(&name, &public, 9, &key.sign(message.as_bytes()).to_bytes());
        holdings.witnesses.push(NoteKey::parse(&checkpoint::witness_key(&name, &public)).unwrap());
    }
    // The same key under another name is no second witness.
    let public = SigningKey::from_bytes(&[21; 32]).verifying_key().to_bytes();
    holdings.witnesses.push(NoteKey::parse(&checkpoint::witness_key("w23", &public)).unwrap());
    for (quorum, with, good) in [(2, &lines, true), (3, &lines, false), (1, &String::new(), false)] {
        holdings.quorum = quorum;
        files.insert("checkpoint".into(), format!("{note}{with}").into_bytes());
        let report = check(&files, &holdings);
        assert_eq!(report.breaches.is_empty(), good, "{quorum}: {report:?}");
        assert!(good || rules(&report) == ["witnesses"]);
    }
}

// [clause 8.7.1-e] test
#[test]
fn an_entry_that_says_more_than_its_kind_is_found() {
    let log = paying();
    let entries = log.entries();
    let at = log.at("intent");
    for (member, value, says) in [
        ("note", json!("hi"), "members"),
        ("kind", json!("intend"), "cannot be read"),
        ("v", json!(1), "format"),
        ("seq", json!(1), "says that it is entry"),
        ("at", json!("1971-01-01T00:00:00.000Z"), "time is written"),
    ] {
        let mut changed = entries.clone();
        let mut members = Entry::members(&changed[at]).unwrap();
        members[member] = value;
        changed[at] = cbor::encode(&members).unwrap();
        let (files, holdings) = signed(&changed);
        let report = check(&files, &holdings);
        let found = report.breaches.iter().any(|f| f.rule == "form" && f.what.contains(says));
        assert!(found, "{says}: {report:?}");
    }
}

#[test]
fn what_a_log_without_texts_cannot_show_is_listed_apart_and_shown_by_the_texts() {
    let mut log = paying();
    log.0.retain(|(_, kind)| !matches!(kind, EntryKind::Document { .. }));
    let report = log.report();
    assert_eq!(report.breaches, vec![]);
    assert_eq!((report.unproven.len(), report.judged), (4, 0));
    let (files, mut holdings) = signed(&log.entries());
    holdings.texts = vec![POLICY.into(), KEYS.into(), authority(), APPS.into()];
    let report = check(&files, &holdings);
    assert_eq!((report.unproven, report.breaches, report.judged), (vec![], vec![], 2));
}

#[test]
fn a_missing_file_is_wrong_and_a_missing_checkpoint_unreadable() {
    let (files, holdings) = signed(&paying().entries());
    let name = files.keys().find(|n| n.starts_with("tile/entries")).unwrap().clone();
    let mut without = files.clone();
    without.remove(&name);
    assert_eq!(rules(&check(&without, &holdings)), ["tree"]);
    let mut cut = files.clone();
    cut.get_mut(&name).unwrap().pop();
    assert_eq!(rules(&check(&cut, &holdings)), ["tree"]);
    let mut none = files;
    none.remove("checkpoint");
    assert!(audit(&|name| Ok(none.get(name).cloned()), &holdings).is_err());
}

#[test]
fn names_of_rules_stand_once() {
    let mut names: Vec<_> = Rule::ALL.iter().map(|r| r.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Rule::ALL.len());
}

#[test]
fn a_log_that_begins_in_the_older_format_and_goes_on_in_the_new_one_verifies() {
    let mut entries = paying().entries();
    for entry in entries.iter_mut().take(12) {
        let mut members = Entry::members(entry).unwrap();
        members["v"] = json!(Entry::JSON);
        *entry = members.to_string().into_bytes();
    }
    let (files, holdings) = signed(&entries);
    let report = check(&files, &holdings);
    assert_eq!((report.breaches, report.judged), (vec![], 2));
}
