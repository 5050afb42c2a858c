//! Who may change the rules: roles, quorums, delays, vetoes, with the stock ssh-keygen and a real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    BOB, Daemon, POLICY, cli, cli_ok, code, fake_clock, keygen, own_uid, set_clock, ssh_keygen_is_here,
    ssh_sign,
};

const REJECT: &str = "clavigerd-rejection@v1";

struct Board {
    daemon: Daemon,
    dir: PathBuf,
}

/// alice, bob and carol decide; dora comes with a new document; otto is this user, with these roles.
fn document(dir: &std::path::Path, people: &[&str], quorums: &str, own_roles: &str) -> String {
    let mut text = format!("schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n{quorums}\n");
    for who in people {
        let file = dir.join(who).with_extension("pub");
        let key = std::fs::read_to_string(file)
            .map_or_else(|_| keygen(dir, who, "ed25519"), |t| t.trim().to_owned());
        text += &format!("[[person]]\nid = \"{who}\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n");
    }
    let key = std::fs::read_to_string(dir.join("otto.pub"))
        .map_or_else(|_| keygen(dir, "otto", "ed25519"), |t| t.trim().to_owned());
    text + &format!(
        "[[person]]\nid = \"otto\"\ngroups = [\"ops\"]\nroles = [{own_roles}]\nuid = {}\nkeys = [\"{key}\"]\n",
        own_uid()
    )
}

fn quorum(matter: &str, quorum: u32, delay: &str) -> String {
    format!("[quorum.{matter}]\nquorum = {quorum}\nof = \"ops\"\ndelay = \"{delay}\"\n")
}

fn quorums(delay: &str) -> String {
    ["policy", "authority", "resume", "destroy", "apps", "key-policy", "import"]
        .map(|m| quorum(m, 2, delay))
        .concat()
}

impl Board {
    fn start(quorums: &str, own_roles: &str) -> Self {
        Self::in_house(Daemon::start(), quorums, own_roles)
    }

    fn in_house(mut daemon: Daemon, quorums: &str, own_roles: &str) -> Self {
        let dir = daemon.home.join("people");
        std::fs::create_dir(&dir).unwrap();
        let text = document(&dir, &["alice", "bob", "carol"], quorums, own_roles);
        std::fs::write(daemon.home.join("authority.toml"), text).unwrap();
        let file = daemon.home.join("clavigerd.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
        daemon.restart();
        Self { daemon, dir }
    }

    /// Asks through the operator's socket; the change's id when people must agree.
    fn asks(&self, method: &str, params: &Value) -> Result<Value, String> {
        let reply = self.daemon.operator().call(method, params);
        match code(&reply) {
            "ok" => Ok(reply["result"].clone()),
            "change_needed" => Err(reply["error"]["data"]["facts"]["request"].as_str().unwrap().to_owned()),
            other => panic!("{other}: {reply}"),
        }
    }

    fn applies(&self, policy: &str) -> Result<Value, String> {
        self.asks("operator_policyApply", &json!({"text": policy}))
    }

    fn shown(&self, change: &str) -> Value {
        cli_ok(&self.daemon.home, &["approval", "show", change])
    }

    fn says(&self, who: &str, change: &str, namespace: Option<&str>) -> String {
        let shown = self.shown(change);
        let usual = shown["namespaces"]["approve"].as_str().unwrap();
        let signature =
            ssh_sign(&self.dir.join(who), namespace.unwrap_or(usual), shown["text"].as_str().unwrap(), &[]);
        let words = json!({"request": change, "signature": signature});
        code(&self.daemon.operator().call("operator_approve", &words)).to_owned()
    }

    fn status(&self, change: &str) -> String {
        self.shown(change)["status"].as_str().unwrap().to_owned()
    }

    fn waits_for(&self, change: &str, status: &str) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.status(change) != status {
            assert!(Instant::now() < until, "{change} is {} and not {status}", self.status(change));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn pays(&self, nonce: u64, value: u64) -> String {
        let words = json!({"transaction": self.daemon.tx(nonce, value)});
        code(&self.daemon.wallet().call("claviger_signPayment", &words)).to_owned()
    }
}

fn looser() -> String {
    POLICY.replace("per_tx.max = \"100\"", "per_tx.max = \"120\"")
}

// [clause 8.8-b] test
#[test]
fn a_looser_policy_takes_people_and_time_and_a_stricter_one_is_in_force_at_once() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut board = Board::start(&quorums("2s"), "\"operator\"");
    assert_eq!(board.pays(0, 110), "over_limit");
    let change = board.applies(&looser()).unwrap_err();
    assert_eq!(board.applies(&looser()).unwrap_err(), change, "asked twice, it waits once");
    let text = board.shown(&change)["text"].as_str().unwrap().to_owned();
    for line in
        ["matter: policy", "asked by: otto", "all together: loosens", "needs: 2 of ops", "then waits: 2 s"]
    {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    // Apps hear of it before it is in force.
    let told =
        board.daemon.wallet().call("claviger_waitGovernance", &json!({"since": 0, "timeout_ms": 1000}));
    assert!(told["result"]["news"].to_string().contains("change-asked"), "{told}");
    let seen = board.daemon.wallet().call("claviger_governance", &json!({}));
    assert_eq!(seen["result"]["pending"][0]["request"], change.as_str(), "{seen}");
    assert_eq!(board.says("alice", &change, None), "ok");
    assert_eq!(board.says("alice", &change, None), "approval_twice");
    assert_eq!(board.says("otto", &change, None), "role_forbids", "who asks does not approve");
    assert_eq!(board.says("bob", &change, Some("clavigerd-approval@v1")), "approval_namespace");
    assert_eq!(board.says("bob", &change, Some("clavigerd-key@v1")), "approval_namespace");
    // It survives a crash.
    board.daemon.signal("KILL");
    board.daemon.restart();
    assert_eq!(board.says("bob", &change, None), "ok");
    assert_eq!(board.status(&change), "agreed");
    assert_eq!(board.pays(0, 110), "over_limit", "its delay runs");
    board.waits_for(&change, "made");
    assert_eq!(board.pays(0, 110), "ok");
    // Tightening is for one operator, and at once.
    board.applies(POLICY).unwrap();
    assert_eq!(board.pays(1, 110), "over_limit");
    // What was agreed on from another policy is not carried out.
    let stale = board.applies(&looser()).unwrap_err();
    board.applies(&POLICY.replace("\"250\"", "\"240\"")).unwrap();
    board.waits_for(&stale, "stale");
    // A veto ends it, also after enough have agreed.
    let vetoed = board.applies(&looser()).unwrap_err();
    assert_eq!(board.says("alice", &vetoed, None), "ok");
    assert_eq!(board.says("bob", &vetoed, None), "ok");
    assert_eq!(board.says("carol", &vetoed, Some(REJECT)), "ok");
    assert_eq!(board.status(&vetoed), "vetoed");
    std::thread::sleep(Duration::from_millis(2600));
    assert_eq!(board.pays(1, 110), "over_limit");
    // Who asked may take it back.
    let back = board.applies(&looser()).unwrap_err();
    cli_ok(&board.daemon.home, &["approval", "withdraw", &back]);
    assert_eq!(board.says("alice", &back, None), "approval_stale");
    board.daemon.verify_log();
}

// [clause 8.8-b] test
#[test]
fn files_alone_do_not_change_what_people_decide_on() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut board = Board::start(&quorums("0s"), "\"operator\"");
    let home = board.daemon.home.clone();
    let policy = home.join("policy.toml");
    let authority = std::fs::read_to_string(home.join("authority.toml")).unwrap();
    // Whoever can write the files puts nothing in force with them.
    std::fs::write(&policy, looser()).unwrap();
    std::fs::write(home.join("authority.toml"), authority.replace("quorum = 2", "quorum = 1")).unwrap();
    board.daemon.restart();
    assert_eq!(board.pays(0, 110), "over_limit");
    let status = cli_ok(&home, &["status"]);
    assert_eq!(status["not_in_force"].as_array().unwrap().len(), 2, "{status}");
    // Nor does leaving the document out of the configuration.
    let config = std::fs::read_to_string(home.join("clavigerd.toml")).unwrap();
    std::fs::write(home.join("clavigerd.toml"), config.replace("authority_file = \"authority.toml\"\n", ""))
        .unwrap();
    board.daemon.restart();
    assert_eq!(board.pays(0, 110), "over_limit");
    std::fs::write(home.join("clavigerd.toml"), config).unwrap();
    board.daemon.restart();
    // A reload asks the people for what the files want.
    let asked = cli_ok(&home, &["reload"])["asked"].as_array().unwrap().clone();
    assert_eq!(asked.len(), 2, "{asked:?}");
    let loosens = asked.iter().find(|a| a["matter"] == "policy").unwrap()["change"]["request"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(board.says("alice", &loosens, None), "ok");
    assert_eq!(board.says("bob", &loosens, None), "ok");
    assert_eq!(board.status(&loosens), "made");
    assert_eq!(board.pays(0, 110), "ok");
    // Apps and the key policy are documents of the same kind.
    let apps = std::fs::read_to_string(home.join("apps.toml")).unwrap();
    std::fs::write(home.join("apps.toml"), format!("# changed\n{apps}")).unwrap();
    let asked = cli_ok(&home, &["reload"])["asked"].to_string();
    assert!(asked.contains("\"apps\""), "{asked}");
    assert_eq!(board.pays(1, 100), "ok", "the apps in force go on");
    board.daemon.restart();
    assert_eq!(board.pays(2, 10), "ok", "after a restart too");
    board.daemon.verify_log();
}

// [clause 8.8-b] test
#[test]
fn a_new_authority_takes_the_old_people_and_the_new() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start(&quorums("0s"), "\"operator\"");
    let new = document(&board.dir, &["carol", "dora", "emil"], &quorums("0s"), "\"operator\"");
    let change = board.asks("operator_authorityApply", &json!({"text": new})).unwrap_err();
    let text = board.shown(&change)["text"].as_str().unwrap().to_owned();
    for line in ["- person alice", "+ person dora", "needs also: 2 of ops of the new document"] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    assert_eq!(board.says("dora", &change, None), "ok");
    assert_eq!(board.says("emil", &change, None), "ok");
    assert_eq!(board.status(&change), "waiting", "the new people alone");
    assert_eq!(board.says("alice", &change, None), "ok");
    assert_eq!(board.status(&change), "waiting", "one of the old");
    assert_eq!(board.says("bob", &change, None), "ok");
    assert_eq!(board.status(&change), "made");
    // From here on the old people are strangers.
    let looser = board.applies(&looser()).unwrap_err();
    assert_eq!(board.says("alice", &looser, None), "approval_stranger");
    assert_eq!(board.says("dora", &looser, None), "ok");
    // A document that gives governance up is none.
    let bare = document(&board.dir, &["carol", "dora"], "", "\"operator\"");
    let reply = board.daemon.operator().call("operator_authorityApply", &json!({"text": bare}));
    assert_eq!(code(&reply), "policy_invalid", "{reply}");
    board.daemon.verify_log();
}

// [clause 8.8-b] test
#[test]
fn stopping_a_key_is_cheap_and_starting_and_destroying_it_takes_people() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start(&quorums("0s"), "\"operator\"");
    let go = |to: &str| {
        let mut words = json!({"name": "hot", "to": to, "reason": "a drill"});
        if to == "destroyed" {
            words["waiver"] = json!("a drill");
        }
        board.asks("operator_keyMove", &words)
    };
    assert_eq!(go("suspended").unwrap()["state"], "suspended");
    assert_eq!(board.pays(0, 1), "key_state");
    let resume = go("active").unwrap_err();
    assert_eq!(board.says("alice", &resume, None), "ok");
    assert_eq!(board.pays(0, 1), "key_state");
    assert_eq!(board.says("bob", &resume, None), "ok");
    assert_eq!(board.status(&resume), "made");
    assert_eq!(board.pays(0, 1), "ok");
    let bare = json!({"name": "hot", "to": "destroyed", "reason": "a drill"});
    let reply = board.daemon.operator().call("operator_keyMove", &bare);
    assert_eq!(code(&reply), "balance_unproven", "{reply}");
    let destroy = go("destroyed").unwrap_err();
    let text = board.shown(&destroy)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("detail: balance: NOT LOOKED AT, waived by uid"), "{text}");
    assert_eq!(board.says("carol", &destroy, Some(REJECT)), "ok");
    assert_eq!(board.pays(1, 1), "ok");
    go("compromised").unwrap();
    let destroy = go("destroyed").unwrap_err();
    for who in ["alice", "bob"] {
        assert_eq!(board.says(who, &destroy, None), "ok");
    }
    let key = cli_ok(&board.daemon.home, &["key", "show", "hot"]);
    assert_eq!(key["state"], "destroyed");
    let log = cli_ok(&board.daemon.home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    assert!(log.contains("otto with alice, bob"), "the log names who asked and who agreed");
    board.daemon.verify_log();
}

/// Asks for an import without the private half, or with it: it is all fours, or all sevens.
fn comes_in(board: &Board, name: &str, digit: &str, whole: bool) -> Result<Value, String> {
    let digits = digit.repeat(64);
    let key = k256::ecdsa::SigningKey::from_slice(&hex::decode(&digits).unwrap()).unwrap();
    let public = hex::encode(key.verifying_key().to_sec1_point(false).as_bytes());
    let mut words = json!({"name": name, "purpose": "payment", "algorithm": "secp256k1", "public": public,
        "source": "private-key"});
    if whole {
        words["private"] = json!(digits);
    }
    board.asks("operator_keyImport", &words)
}

// [clause 8.7.1-o] test
#[test]
fn a_key_from_outside_takes_people_and_is_the_one_that_they_agreed_on() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start(&quorums("0s"), "\"operator\"");
    let change = comes_in(&board, "old", "4", false).unwrap_err();
    assert_eq!(comes_in(&board, "old", "4", true).unwrap_err(), change, "asked twice, it waits once");
    let text = board.shown(&change)["text"].as_str().unwrap().to_owned();
    for line in ["matter: import", "key: old", "public: 04", "a private key comes in for payment, account 0x"]
    {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    assert_eq!(board.says("alice", &change, None), "ok");
    assert_eq!(comes_in(&board, "old", "4", true).unwrap_err(), change, "one is not enough");
    assert_eq!(board.says("bob", &change, None), "ok");
    assert_ne!(comes_in(&board, "old", "7", true).unwrap_err(), change, "another key is another question");
    assert_ne!(comes_in(&board, "other", "4", true).unwrap_err(), change, "and so is another name");
    assert_eq!(comes_in(&board, "old", "4", false).unwrap()["ready"], true);
    let key = comes_in(&board, "old", "4", true).unwrap();
    assert_eq!(key["origin"]["kind"], "imported", "{key}");
    assert_eq!(board.status(&change), "made");
    let again = comes_in(&board, "third", "7", true).unwrap_err();
    assert_ne!(again, change, "an agreement is used once");
    board.daemon.verify_log();
}

// [clause 8.2.3-c] test
#[test]
fn each_role_does_its_part_and_root_is_no_role() {
    if !ssh_keygen_is_here() {
        return;
    }
    for (role, able) in [
        ("auditor", &["look"][..]),
        ("custodian", &["look"]),
        ("approver", &["look", "stop", "speak"]),
        ("owner", &["look", "stop", "ask", "speak"]),
        ("operator", &["look", "stop", "make", "run", "ask", "speak"]),
    ] {
        // Somebody else runs the daemon: from here on the document alone counts.
        let elsewhere = "[[person]]\nid = \"zoe\"\nroles = [\"operator\"]\nuid = 4000000000\n";
        let board = Board::start("", &format!("\"{role}\""));
        let text = std::fs::read_to_string(board.daemon.home.join("authority.toml")).unwrap();
        std::fs::write(board.daemon.home.join("authority.toml"), text + elsewhere).unwrap();
        let mut board = board;
        if role == "auditor" {
            // An auditor cannot even have the files read again.
            assert_eq!(code(&board.daemon.operator().call("operator_reload", &json!({}))), "role_forbids");
        }
        board.daemon.signal("TERM");
        board.daemon.wait();
        board.daemon.restart();
        for (act, method, params) in [
            ("look", "operator_status", json!({})),
            ("look", "operator_logShow", json!({})),
            ("stop", "operator_keyMove", json!({"name": "hot", "to": "suspended", "reason": "x"})),
            ("make", "operator_keyCreate", json!({"name": "other"})),
            ("run", "operator_reload", json!({})),
            ("ask", "operator_policyApply", json!({"text": "schema = 1"})),
            ("speak", "operator_approve", json!({"request": "0".repeat(32), "signature": "x"})),
        ] {
            let reply = board.daemon.operator().call(method, &params);
            let forbidden = matches!(code(&reply), "role_forbids" | "operator_unknown");
            // An owner asks, and what needs nobody's leave is for those who run the daemon.
            let expected = !able.contains(&act) || (role == "owner" && act == "ask");
            assert_eq!(forbidden, expected, "{role} {act}: {reply}");
        }
        let (_, log) = cli(&board.daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
        assert_eq!(log.contains("role_forbids"), role != "operator", "a refusal of {role} is in the log");
    }
}

const TWO_DAYS: i64 = 2 * 86_400;

// [clause 8.8-c] test
#[test]
fn a_clock_that_is_set_ahead_shortens_no_delay() {
    let daemon = Daemon::start();
    if !ssh_keygen_is_here() || !fake_clock(&daemon.home) {
        return;
    }
    let home = daemon.home.clone();
    set_clock(&home, 0);
    let named = [quorum("authority", 2, "0s"), quorum("policy", 2, "1h"), quorum("resume", 2, "3s")].concat();
    let mut board = Board::in_house(daemon, &named, "\"operator\"");
    let agreed = |board: &Board, change: &str| {
        for who in ["alice", "bob"] {
            assert_eq!(board.says(who, change, None), "ok");
        }
    };
    let change = board.applies(&looser()).unwrap_err();
    agreed(&board, &change);
    let still_waits = |board: &Board| {
        let shown = board.shown(&change);
        assert_eq!(shown["status"], "agreed", "{shown}");
        // However slow this machine is, no quarter of an hour went by.
        assert!((2700..=3600).contains(&shown["waits_seconds"].as_i64().unwrap()), "{shown}");
        assert_eq!(board.pays(0, 110), "over_limit");
    };
    still_waits(&board);
    // Root sets the clock two days ahead: the delay is what it was.
    set_clock(&home, TWO_DAYS);
    std::thread::sleep(Duration::from_millis(1500));
    still_waits(&board);
    // Nor does a stop in order, and a start under such a clock.
    board.daemon.stop();
    set_clock(&home, 2 * TWO_DAYS);
    board.daemon.restart();
    still_waits(&board);
    // Set back it stops payments, and lengthens nothing.
    let go = |to: &str| board.asks("operator_keyMove", &json!({"name": "hot", "to": to, "reason": "x"}));
    go("suspended").unwrap();
    let resume = go("active").unwrap_err();
    agreed(&board, &resume);
    set_clock(&home, 0);
    board.waits_for(&resume, "made");
    assert_eq!(board.pays(0, 1), "clock_stepped");
    set_clock(&home, 2 * TWO_DAYS);
    assert_eq!(board.pays(0, 1), "ok");
    let log = cli_ok(&home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    assert!(log.contains("\"elapsed\"") && log.contains("counted_ms"), "the log counts the time");
    board.daemon.verify_log();
}

// [clause 8.8-c] test
#[test]
fn a_clock_that_is_set_ahead_makes_no_destination_known() {
    let mut daemon = Daemon::start();
    if !fake_clock(&daemon.home) {
        return;
    }
    let home = daemon.home.clone();
    set_clock(&home, 0);
    daemon.restart();
    let waits = |delay: &str| {
        POLICY.replace("window =", &format!("new_destination = {{ delay = \"{delay}\" }}\nwindow ="))
    };
    let pays = |daemon: &Daemon| {
        let words = json!({"transaction": daemon.tx(0, 1)});
        code(&daemon.wallet().call("claviger_signPayment", &words)).to_owned()
    };
    daemon.apply(&waits("1h"));
    assert_eq!(pays(&daemon), "destination_new", "{BOB} was never asked for");
    set_clock(&home, TWO_DAYS);
    assert_eq!(pays(&daemon), "destination_new", "two days by the clock, and hardly a second");
    daemon.restart();
    assert_eq!(pays(&daemon), "destination_new", "nor after a restart");
    daemon.verify_log();
}

// [clause 8.8-c] test
#[test]
fn a_clock_that_is_set_ahead_destroys_no_key() {
    let mut daemon = Daemon::start();
    if !fake_clock(&daemon.home) {
        return;
    }
    let home = daemon.home.clone();
    cli_ok(&home, &["key", "deactivate", "hot", "--reason", "a drill"]);
    set_clock(&home, TWO_DAYS);
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/keys.toml")).unwrap();
    let text = text.replacen("destroy_within = \"30d\"", "destroy_within = \"1h\"", 1).replacen(
        "destroy = \"alarm\"",
        "destroy = \"by-itself\"",
        1,
    );
    std::fs::write(home.join("keys.toml"), text).unwrap();
    let config = std::fs::read_to_string(home.join("clavigerd.toml")).unwrap();
    std::fs::write(home.join("clavigerd.toml"), format!("keys_file = \"keys.toml\"\n{config}")).unwrap();
    // By the clock its time is over as soon as the daemon is there.
    daemon.restart();
    let state = || cli_ok(&home, &["key", "show", "hot"])["state"].as_str().unwrap().to_owned();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(state(), "deactivated");
    daemon.verify_log();
}

// [clause 8.7.1-t] test
#[test]
fn a_payment_key_is_destroyed_when_somebody_who_is_named_found_nothing_in_its_account() {
    if !ssh_keygen_is_here() {
        return;
    }
    let daemon = Daemon::start();
    let observer = keygen(&daemon.home, "node", "ed25519");
    let stranger = keygen(&daemon.home, "stranger", "ed25519");
    assert_ne!(observer, stranger);
    let named = format!("{}[[observer]]\nid = \"node\"\nkeys = [\"{observer}\"]\n", quorums("0s"));
    let board = Board::in_house(daemon, &named, "\"operator\"");
    let home = &board.daemon.home;
    let observed = |minutes: u64| {
        let out = std::process::Command::new("date")
            .args(["-u", "-d", &format!("-{minutes} minutes"), "+%Y-%m-%dT%H:%M:%SZ"])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let statement = |minutes: u64, wei: &str| {
        format!(
            "clavigerd balance v1\ndeployment: test-1\nkey: hot\naccount: {}\nobserved: {}\nblock: eip155:1 21234567 0x{}\nbalance: eip155:1 native {wei}\n",
            board.daemon.address,
            observed(minutes),
            "ab".repeat(32)
        )
    };
    let destroys = |text: &str, who: &str, namespace: &str| -> (bool, String) {
        std::fs::write(home.join("balance.txt"), text).unwrap();
        let signature = ssh_sign(&home.join(who), namespace, text, &[]);
        std::fs::write(home.join("balance.sig"), signature).unwrap();
        let file = |name: &str| home.join(name).to_str().unwrap().to_owned();
        let (text, signature) = (file("balance.txt"), file("balance.sig"));
        let words = ["key", "destroy", "hot", "--confirm", "hot", "--reason", "a drill"];
        cli(home, &[&words[..], &["--evidence", &text, "--signature", &signature]].concat())
    };
    let balance = "clavigerd-balance@v1";
    for (text, who, namespace, says) in [
        (statement(0, "1"), "node", balance, "1 base units of native"),
        (statement(90, "0"), "node", balance, "counts for 60 minutes"),
        (statement(0, "0").replace("key: hot", "key: cold"), "node", balance, "and not"),
        (statement(0, "0"), "stranger", balance, "no observer"),
        (statement(0, "0"), "people/alice", balance, "no observer"),
        (statement(0, "0"), "node", "clavigerd-key@v1", "clavigerd-balance@v1"),
    ] {
        let (good, told) = destroys(&text, who, namespace);
        assert!(!good && told.contains("balance_evidence") && told.contains(says), "{says}: {told}");
    }
    let (good, told) = destroys(&statement(0, "0"), "node", balance);
    assert!(!good && told.contains("change_needed"), "{told}");
    let told: Value = serde_json::from_str(&told).unwrap();
    let change = told["data"]["facts"]["request"].as_str().unwrap().to_owned();
    let text = board.shown(&change)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("detail: balance: nothing is left, says observer node"), "{text}");
    assert!(text.contains("detail: balance: block 21234567 of eip155:1, 0xabab"), "{text}");
    for who in ["alice", "bob"] {
        assert_eq!(board.says(who, &change, None), "ok");
    }
    board.waits_for(&change, "made");
    assert_eq!(cli_ok(home, &["key", "show", "hot"])["state"], "destroyed");
    let log = cli_ok(home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    assert!(log.contains("\"balance\"") && log.contains("observer node"), "the statement is in the log");
    board.daemon.verify_log();
}
