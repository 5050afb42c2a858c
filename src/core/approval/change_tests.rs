use std::collections::BTreeSet;

use super::*;
use crate::core::approval::sshsig::tests::signed;

/// A person with a key in a file: the seed is the person's.
fn person(id: &str, seed: u8, more: &str) -> String {
    let (line, _) = signed(seed, "x", b"");
    format!("[[person]]\nid = \"{id}\"\ngroups = [\"ops\"]\nkeys = [\"{line}\"]\n{more}\n")
}

fn document(people: &[String], quorum: &str) -> Authority {
    Authority::parse(&text(people, quorum)).unwrap()
}

fn text(people: &[String], quorum: &str) -> String {
    let people = people.concat();
    format!(
        "schema = 1\ndeployment = \"d\"\nfiles_allowed = true\n[quorum.authority]\nquorum = 2\nof = \"ops\"\n{quorum}\n{people}"
    )
}

fn everybody() -> Vec<String> {
    vec![
        person("alice", 1, ""),
        person("bob", 2, ""),
        person("carol", 3, "uid = 7"),
        person("aud", 4, "roles = [\"auditor\"]"),
    ]
}

fn change(authority: &Authority, delay_ms: i64) -> Change {
    Change {
        id: "0".repeat(32),
        matter: Matter::Policy,
        deed: Deed::Document { from: "aa".into(), body: "schema = 1".into() },
        uid: 7,
        person: Some("carol".into()),
        detail: vec!["pay: changed (loosens)".into()],
        authority: hex::encode(authority.hash()),
        quorum: Quorum { needs: Needs { quorum: 2, of: "ops".into() }, delay_ms },
        also: None,
        expires: Timestamp(1_000_000),
        nonce: "00".into(),
    }
}

fn voice(of: &Change, seed: u8, yes: bool, at: i64) -> KeptVoice {
    let namespace = if yes { of.matter.namespace() } else { crate::core::approval::REJECT };
    let (_, signature) = signed(seed, namespace, of.render("d").as_bytes());
    KeptVoice { person: format!("p{seed}"), yes, at: Timestamp(at), signature }
}

// [clause 8.8-b] test
#[test]
fn voices_are_counted_from_their_signatures_and_a_veto_ends_it() {
    let authority = document(&everybody(), "");
    let change = change(&authority, 500);
    let agreed = |voices: &[KeptVoice]| change.is_agreed(&change.tally(&authority, voices));
    let (alice, bob) = (voice(&change, 1, true, 10), voice(&change, 2, true, 20));
    assert!(!agreed(&[]));
    assert!(!agreed(std::slice::from_ref(&alice)));
    assert!(agreed(&[bob.clone(), alice.clone()]));
    assert_eq!(change.over_at(7000), 7500, "the delay is a length of time");
    assert!(!agreed(&[alice.clone(), alice.clone()]), "one person twice");
    assert!(!agreed(&[alice.clone(), voice(&change, 3, true, 20)]), "who asked");
    assert!(!agreed(&[alice.clone(), voice(&change, 4, true, 20)]), "an auditor");
    assert!(!agreed(&[alice.clone(), voice(&change, 9, true, 20)]), "a stranger");
    assert!(!agreed(&[alice.clone(), bob.clone(), voice(&change, 2, false, 30)]), "a veto");
    // A row that was exchanged is no voice, whatever it says of itself.
    let forged = KeptVoice { person: "bob".into(), ..alice.clone() };
    assert!(!agreed(&[alice.clone(), forged]));
    let other = Change { nonce: "01".into(), ..change.clone() };
    assert!(!agreed(&[alice.clone(), voice(&other, 2, true, 20)]), "another text");
    let later = document(&everybody(), "[quorum.policy]\nquorum = 1\nof = \"ops\"");
    assert!(!change.is_agreed(&change.tally(&later, &[alice, bob])), "another document");
}

// [clause 8.8-b] test
#[test]
fn a_new_authority_document_takes_the_old_people_and_the_new() {
    let authority = document(&everybody(), "");
    let body = text(&[person("bob", 2, ""), person("dora", 5, ""), person("erik", 6, "")], "");
    let mut change = change(&authority, 0);
    change.matter = Matter::Authority;
    change.deed = Deed::Document { from: "aa".into(), body };
    change.also = Some(Needs { quorum: 2, of: "ops".into() });
    let agreed = |seeds: &[u8]| {
        let voices: Vec<KeptVoice> = seeds.iter().map(|s| voice(&change, *s, true, 10)).collect();
        change.is_agreed(&change.tally(&authority, &voices))
    };
    assert!(!agreed(&[1, 2]), "the old people alone");
    assert!(!agreed(&[5, 6]), "the new people alone");
    assert!(!agreed(&[1, 5, 6]), "one of the old");
    assert!(agreed(&[1, 2, 5]), "who stands in both speaks for both");
}

#[test]
fn the_text_is_one_fact_a_line_and_cannot_be_broken() {
    let authority = document(&everybody(), "");
    let mut change = change(&authority, 500);
    change.detail = vec!["a\nneeds: 0 of ops".into(), "\u{202e}x".into()];
    let text = change.render("d");
    assert!(text.is_ascii() && text.ends_with('\n') && !text.contains('\r'));
    assert!(!text.lines().any(|l| l == "needs: 0 of ops"), "{text}");
    assert!(change.is_shown_by(&text));
    assert!(!change.is_shown_by(&text.replace("loosens", "tightens")) || !text.contains("loosens"));
    assert!(!change.is_shown_by(&text.replace("uid 7", "uid 8")));
    assert!(!change.is_shown_by(""));
    let many = Change { detail: vec!["x".into(); 500], ..change };
    assert!(many.render("d").contains("300 lines more"));
}

#[test]
fn documents_that_cannot_govern_are_refused() {
    let people = everybody();
    for (quorum, why) in [
        ("[quorum.policy]\nquorum = 0\nof = \"ops\"", "nobody"),
        ("[quorum.policy]\nquorum = 4\nof = \"ops\"", "only 3"),
        ("[quorum.policy]\nquorum = 1\nof = \"board\"", "only 0"),
        ("[quorum.policy]\nquorum = 1\nof = \"ops\"\ndelay = \"31d\"", "30d"),
        ("[quorum.policy]\nquorum = 1\nof = \"ops\"\ndelay = \"-1h\"", "delay"),
        ("[quorum.everything]\nquorum = 1\nof = \"ops\"", "unknown variant"),
        ("[quorum.policy]\nquorum = 1\nof = \"ops\"\nweight = 2", "unknown field"),
    ] {
        let error = Authority::parse(&text(&people, quorum)).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    let lone = text(&people, "").replace("[quorum.authority]", "[quorum.policy]");
    assert!(Authority::parse(&lone).unwrap_err().to_string().contains("[quorum.authority]"));
    let twice = text(&[person("a", 1, "uid = 7"), person("b", 2, "uid = 7")], "");
    assert!(Authority::parse(&twice).unwrap_err().to_string().contains("one user is one person"));
    let both = text(&[person("a", 1, "roles = [\"auditor\", \"operator\"]"), person("b", 2, "")], "");
    assert!(Authority::parse(&both).unwrap_err().to_string().contains("nothing else"));
    // Whoever loosens waits a day, unless the document says otherwise.
    let usual = document(&people, "[quorum.policy]\nquorum = 2\nof = \"ops\"");
    assert_eq!(usual.quorum(Matter::Policy).unwrap().delay_ms, 86_400_000);
    assert_eq!(usual.quorum(Matter::Authority).unwrap().delay_ms, 0);
    assert_eq!(usual.strength("ops"), 3, "an auditor is no voice");
    let names: BTreeSet<&str> = Matter::ALL.iter().map(|m| m.namespace()).collect();
    assert_eq!(names.len(), 3, "one namespace for each class of act");
}
