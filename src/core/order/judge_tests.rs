use super::super::document::tests::order as an_order;
use super::super::{Level, Scope, Standing};
use super::*;
use crate::core::approval::sshsig::tests::fido_over;
use crate::core::units::Timestamp;

/// A document; person N has the authenticator made from seed N.
fn document(head: &str, people: &[(u8, &str, &str)]) -> String {
    let mut text = format!("schema = 1\ndeployment = \"d\"\n{head}\n");
    for (seed, groups, roles) in people {
        let key = fido_over(*seed, (5, 1), ORDER, b"").0;
        text += &format!(
            "[[person]]\nid = \"p{seed}\"\ngroups = [{groups}]\nroles = [{roles}]\nkeys = [\"{key}\"]\n"
        );
    }
    text
}

const HEAD: &str = "[orders]\nrevokers = [\"guards\"]\nreactivate = { quorum = 2, of = \"ops\" }\n[quorum.authority]\nquorum = 1\nof = \"ops\"";
const PEOPLE: &[(u8, &str, &str)] = &[
    (1, "\"guards\"", "\"approver\""),
    (2, "\"guards\"", "\"operator\""),
    (3, "\"guards\"", "\"custodian\""),
    (4, "\"ops\"", "\"approver\""),
    (5, "\"ops\"", "\"approver\""),
];

fn by(seed: u8, says: (u8, u32), namespace: &str, text: &str) -> String {
    fido_over(seed, says, namespace, text.as_bytes()).1
}

// [clause 8.2.1-a] test
#[test]
fn one_revoker_stops_with_a_touch_and_two_wipe_with_their_pins() {
    let authority = Authority::parse(&document(HEAD, PEOPLE)).unwrap();
    let judged = |level, voices: &[(u8, u8)]| {
        let told = an_order(1, level, Scope::All);
        let text = told.render();
        let signatures: Vec<String> =
            voices.iter().map(|(seed, flags)| by(*seed, (*flags, 1), ORDER, &text)).collect();
        order(&authority, &told, &signatures).map_err(|r| r.code)
    };
    let people = |names: &[&str]| Ok(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    assert_eq!(judged(Level::Suspend, &[(1, 1)]), people(&["p1"]));
    assert_eq!(judged(Level::Inactivate, &[(2, 1)]), people(&["p2"]), "an operator may stop");
    assert_eq!(judged(Level::Suspend, &[(1, 0)]), Err(Code::ApprovalPresence), "no touch");
    assert_eq!(judged(Level::Suspend, &[(3, 5)]), Err(Code::OrderStranger), "a custodian stops nothing");
    assert_eq!(judged(Level::Suspend, &[(4, 5)]), Err(Code::OrderStranger), "of another group");
    assert_eq!(judged(Level::Suspend, &[(9, 5)]), Err(Code::OrderStranger), "nobody's key");
    assert_eq!(judged(Level::Wipe, &[(1, 5)]), Err(Code::OrderQuorum));
    assert_eq!(judged(Level::Wipe, &[(1, 5), (1, 5)]), Err(Code::OrderQuorum), "one person twice");
    assert_eq!(judged(Level::Wipe, &[(1, 5), (2, 1)]), Err(Code::ApprovalPresence), "a wipe takes the PIN");
    assert_eq!(judged(Level::Wipe, &[(1, 5), (2, 5)]), people(&["p1", "p2"]));
    assert_eq!(judged(Level::Suspend, &[(1, 1); 9]), Err(Code::OrderMalformed), "too many");
    // A key that is revoked, and a document without [orders].
    let fingerprint = SshKey::parse(&fido_over(1, (5, 1), ORDER, b"").0).unwrap().fingerprint();
    let revoked = document(&format!("revoked = [\"{fingerprint}\"]\n{HEAD}"), PEOPLE);
    let told = an_order(1, Level::Suspend, Scope::All);
    let signatures = [by(1, (5, 1), ORDER, &told.render())];
    for text in [revoked, document("", PEOPLE)] {
        let authority = Authority::parse(&text).unwrap();
        assert_eq!(order(&authority, &told, &signatures).unwrap_err().code, Code::OrderStranger);
    }
}

// [clause 8.2.1-b] test
#[test]
fn starting_again_takes_distinct_people_their_pins_and_counters_that_rise() {
    let authority = Authority::parse(&document(HEAD, PEOPLE)).unwrap();
    let mut standing = Standing::default();
    standing.hear(&an_order(1, Level::Inactivate, Scope::All)).unwrap();
    let asked = Reactivation {
        deployment: "d".into(),
        device: "a".repeat(64),
        epoch: 1,
        scope: Scope::All,
        level: Level::Inactivate,
        lifts: standing.held()[&Scope::All].order.clone(),
        challenge: "c".repeat(64),
        uid: 7,
        needs: Needs { quorum: 2, of: "ops".into() },
        expires: Timestamp(1_900_000_000_000),
    };
    assert_eq!(Reactivation::parse(&asked.render()), Ok(asked.clone()));
    let judged = |voices: &[(u8, u8, u32)], seen: Option<u32>| {
        let text = asked.render();
        let signatures: Vec<String> =
            voices.iter().map(|(seed, flags, n)| by(*seed, (*flags, *n), REACTIVATION, &text)).collect();
        reactivation(&authority, &asked, &signatures, |_| seen).map(|v| v.len()).map_err(|r| r.code)
    };
    assert_eq!(judged(&[(4, 5, 9), (5, 5, 9)], Some(8)), Ok(2));
    assert_eq!(judged(&[(4, 5, 9), (5, 5, 9)], Some(9)), Err(Code::ApprovalCounter));
    assert_eq!(judged(&[(4, 5, 9), (5, 1, 9)], None), Err(Code::ApprovalPresence), "without its PIN");
    assert_eq!(judged(&[(4, 5, 9)], None), Err(Code::OrderQuorum));
    assert_eq!(judged(&[(4, 5, 9), (4, 5, 10)], None), Err(Code::ApprovalTwice));
    assert_eq!(
        judged(&[(4, 5, 9), (1, 5, 9)], None),
        Err(Code::ApprovalStranger),
        "who stops does not start"
    );
    let fewer = Reactivation { needs: Needs { quorum: 1, of: "ops".into() }, ..asked.clone() };
    let signatures = [by(4, (5, 1), REACTIVATION, &fewer.render())];
    let told = reactivation(&authority, &fewer, &signatures, |_| None);
    assert_eq!(told.unwrap_err().code, Code::ChallengeStale, "the document says how many");
}

#[test]
fn a_document_that_cannot_stop_or_start_again_as_it_says_is_refused() {
    let refused = |head: &str| Authority::parse(&document(head, PEOPLE)).unwrap_err().to_string();
    let lease = |key: &str, more: &str| format!("[orders.lease]\nkey = \"{key}\"\n{more}\n{HEAD}");
    let person = fido_over(1, (5, 1), ORDER, b"").0;
    let own = fido_over(99, (5, 1), ORDER, b"").0;
    assert!(Authority::parse(&document(&lease(&own, "max_ttl = \"4h\""), PEOPLE)).is_ok());
    for (head, why) in [
        (HEAD.split("[quorum").next().unwrap().to_owned(), "without [quorum.authority]"),
        (HEAD.replace("guards", "nobody"), "nobody of revokers"),
        (HEAD.replace("reactivate", "wipe = 1\nreactivate"), "2 is the least"),
        (HEAD.replace("quorum = 2,", "quorum = 3,"), "asks for 3 of ops"),
        (HEAD.replace("quorum = 2,", "quorum = 0,"), "asks for 0 of ops"),
        (lease(&person, ""), "belongs to a person"),
        (lease(&own, "max_ttl = \"8d\""), "a week at most"),
        (lease(&own, "max_ttl = \"0s\""), "not nothing"),
        (lease("x", ""), "[orders.lease] key"),
    ] {
        let told = refused(&head);
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[test]
fn a_heartbeat_is_by_somebody_who_may_stop_with_a_touch() {
    let authority = Authority::parse(&document(HEAD, PEOPLE)).unwrap();
    let beat = Heartbeat { deployment: "d".into(), issued: Timestamp(1_700_000_000_000) };
    let told = |beat: &Heartbeat, seed, flags, namespace| {
        heartbeat(&authority, beat, &by(seed, (flags, 1), namespace, &beat.render())).map_err(|r| r.code)
    };
    assert_eq!(told(&beat, 2, 1, HEARTBEAT), Ok("p2".into()));
    assert_eq!(told(&beat, 2, 0, HEARTBEAT), Err(Code::ApprovalPresence), "no touch");
    assert_eq!(told(&beat, 3, 1, HEARTBEAT), Err(Code::OrderStranger), "a custodian stops nothing");
    assert_eq!(told(&beat, 9, 1, HEARTBEAT), Err(Code::OrderStranger));
    assert_eq!(told(&beat, 2, 1, ORDER), Err(Code::OrderMalformed), "signed as something else");
    let other = Heartbeat { deployment: "e".into(), ..beat };
    assert_eq!(told(&other, 2, 1, HEARTBEAT), Err(Code::OrderOther));
}
