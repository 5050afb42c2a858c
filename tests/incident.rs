//! Something has happened: one operator stops everything, keeps what is known, and does not start again alone.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use serde_json::json;
use support::{Daemon, cli, cli_ok, code, keygen, own_uid, ssh_keygen_is_here, ssh_sign};

fn says(daemon: &Daemon) -> String {
    code(&daemon.wallet().call("personal_sign", &json!(["0x6869", daemon.address]))).to_owned()
}

// [clause 8.4.4-a] test
#[test]
fn one_operator_stops_everything_and_says_why_it_goes_on() {
    let mut daemon = Daemon::start();
    assert_eq!(says(&daemon), "ok");
    assert!(!cli(&daemon.home, &["incident", "close", "--reason", "none"]).0);
    assert!(!cli(&daemon.home, &["incident", "open", "--reason", "two\nlines"]).0);
    let opened = cli_ok(&daemon.home, &["incident", "open", "--reason", "a stranger at the desk"]);
    assert_eq!(says(&daemon), "suspended");
    let refused = daemon.operator().call("operator_keyCreate", &json!({"name": "new"}));
    assert_eq!(code(&refused), "suspended", "no key is made meanwhile");
    daemon.signal("KILL");
    daemon.restart_stopped();
    assert_eq!(says(&daemon), "suspended", "it outlives a crash");
    let closed = cli_ok(&daemon.home, &["incident", "close", "--reason", "it was the cleaner"]);
    assert_eq!(closed["incident"], opened["incident"]);
    assert_eq!(says(&daemon), "ok");
    daemon.restart();
    assert_eq!(says(&daemon), "ok");
    daemon.verify_log();
}

// [clause 8.4.4-b] test
#[test]
fn what_is_known_is_kept_and_nothing_of_it_can_be_changed_or_is_secret() {
    let daemon = Daemon::start();
    let words = json!({"transaction": daemon.tx(0, 1_000_000)});
    assert_eq!(code(&daemon.wallet().call("claviger_signPayment", &words)), "over_limit");
    assert_eq!(says(&daemon), "ok");
    let (dir, key) = (daemon.home.join("evidence"), daemon.home.join("trusted.vkey"));
    let text = dir.to_str().unwrap();
    assert!(!cli(&daemon.home, &["incident", "evidence", text]).0, "no incident is open");
    cli_ok(&daemon.home, &["incident", "open", "--reason", "odd refusals"]);
    cli_ok(&daemon.home, &["incident", "evidence", text]);
    std::fs::copy(dir.join("log/log.vkey"), &key).unwrap();
    let verify = || cli(&daemon.home, &["incident", "verify", text, "--key", key.to_str().unwrap()]);
    assert!(verify().0, "{}", verify().1);
    let kept = std::fs::read_to_string(dir.join("evidence.json")).unwrap();
    assert!(kept.contains("over_limit"), "{kept}");
    let config = std::fs::read_to_string(daemon.home.join("clavigerd.toml")).unwrap();
    let pin = config.lines().find_map(|l| l.strip_prefix("pin_file = ")).unwrap().trim_matches('"');
    let pin = std::fs::read_to_string(daemon.home.join(pin)).unwrap();
    assert!(pin.trim().len() >= 4 && !kept.contains(pin.trim()), "the PIN stands in it");
    std::fs::write(dir.join("evidence.json"), kept.replace("over_limit", "over_limiT")).unwrap();
    assert!(!verify().0, "a changed document");
    std::fs::write(dir.join("evidence.json"), &kept).unwrap();
    assert!(verify().0);
    let entries = std::fs::read_dir(dir.join("log")).unwrap().count();
    assert!(entries > 2);
}

// [clause 8.4.4-a] test
#[test]
fn where_people_are_named_they_start_again_and_nobody_else() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut daemon = Daemon::start();
    let people = daemon.home.join("people");
    std::fs::create_dir(&people).unwrap();
    let mut text = "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[orders]\nrevokers = [\"ops\"]\nreactivate = { quorum = 2, of = \"ops\" }\n[quorum.authority]\nquorum = 2\nof = \"ops\"\n".to_owned();
    for who in ["alice", "bob"] {
        text += &format!(
            "[[person]]\nid = \"{who}\"\ngroups = [\"ops\"]\nkeys = [\"{}\"]\n",
            keygen(&people, who, "ed25519")
        );
    }
    text += &format!("[[person]]\nid = \"otto\"\nroles = [\"operator\"]\nuid = {}\n", own_uid());
    std::fs::write(daemon.home.join("authority.toml"), text).unwrap();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
    daemon.restart();
    let opened = cli_ok(&daemon.home, &["incident", "open", "--reason", "odd"]);
    let alone = daemon.operator().call("operator_incidentClose", &json!({"reason": "never mind"}));
    assert_eq!(code(&alone), "order_quorum");
    let told = daemon.operator().call("operator_orderChallenge", &json!({}));
    let challenge = told["result"]["text"].as_str().unwrap();
    assert!(challenge.contains(opened["incident"].as_str().unwrap()), "they lift this incident: {challenge}");
    let lifts = |who: &[&str]| {
        let signed: Vec<String> = who
            .iter()
            .map(|w| ssh_sign(&people.join(w), "clavigerd-reactivation@v1", challenge, &[]))
            .collect();
        let words = json!({"text": challenge, "signatures": signed});
        code(&daemon.operator().call("operator_orderReactivate", &words)).to_owned()
    };
    assert_eq!(lifts(&["alice"]), "order_quorum");
    assert_eq!(says(&daemon), "suspended");
    assert_eq!(lifts(&["alice", "bob"]), "ok");
    assert_eq!(says(&daemon), "ok");
    assert_eq!(code(&daemon.operator().call("operator_incidentEvidence", &json!({}))), "order_lifts");
    daemon.verify_log();
}
