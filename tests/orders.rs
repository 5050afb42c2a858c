//! Orders from afar, with the stock ssh-keygen and a real daemon: what stops, what stays stopped, what starts again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;
#[cfg(feature = "tpm")]
#[allow(dead_code, reason = "its other half is for tests/tpm.rs")]
mod swtpm;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, POLICY, cli, cli_ok, code, keygen, own_uid, ssh_keygen_is_here, ssh_sign};

const ORDER: &str = "clavigerd-order@v1";
const REACTIVATION: &str = "clavigerd-reactivation@v1";

struct Rig {
    daemon: Daemon,
    people: PathBuf,
    device: String,
    next: u32,
}

/// gina and gus may stop; two of alice, bob and carol start again; this user runs the daemon.
fn authority(dir: &Path, more: &str) -> String {
    let more = more.replace("LEASE", &keygen(dir, "lease", "ed25519"));
    let mut text = format!(
        "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[orders]\nrevokers = [\"guards\"]\nreactivate = {{ quorum = 2, of = \"ops\" }}\n{more}\n[quorum.authority]\nquorum = 2\nof = \"ops\"\n"
    );
    for (group, who) in
        [("guards", "gina"), ("guards", "gus"), ("ops", "alice"), ("ops", "bob"), ("ops", "carol")]
    {
        let key = keygen(dir, who, "ed25519");
        text += &format!("[[person]]\nid = \"{who}\"\ngroups = [\"{group}\"]\nkeys = [\"{key}\"]\n");
    }
    text + &format!("[[person]]\nid = \"otto\"\nroles = [\"operator\"]\nuid = {}\n", own_uid())
}

impl Rig {
    fn start(config: &str, more: &str) -> Self {
        let rig = Self::prepared(config, more, Path::new(""));
        cli_ok(&rig.daemon.home, &["status", "--wait", "30"]);
        rig
    }

    /// The same, whether it signs or not; with a copy of the key of leases.
    fn prepared(config: &str, more: &str, lease: &Path) -> Self {
        let mut daemon = Daemon::start();
        let people = daemon.home.join("people");
        std::fs::create_dir(&people).unwrap();
        keygen(&people, "mallory", "ed25519");
        std::fs::write(daemon.home.join("authority.toml"), authority(&people, more)).unwrap();
        let file = daemon.home.join("clavigerd.toml");
        let old = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{old}\n{config}\n")).unwrap();
        if !lease.as_os_str().is_empty() {
            std::fs::copy(people.join("lease"), lease).unwrap();
        }
        daemon.restart_stopped();
        let device = cli_ok(&daemon.home, &["order", "device"])["device"].as_str().unwrap().to_owned();
        Self { daemon, people, device, next: 0 }
    }

    /// Writes an order offline; `words` come after those that every order needs.
    fn text(&mut self, level: &str, words: &[&str]) -> String {
        self.next += 1;
        let out = self.people.join(format!("{}.order", self.next));
        let out = out.to_str().unwrap();
        let device = self.device.clone();
        let mut all = vec![
            "order",
            "new",
            "--deployment",
            "test-1",
            "--level",
            level,
            "--reason",
            "a drill",
            "--out",
            out,
        ];
        if !words.contains(&"--device") {
            all.extend(["--device", &device]);
        }
        all.extend(words);
        cli_ok(&self.daemon.home, &all);
        std::fs::read_to_string(out).unwrap()
    }

    fn sign(&self, who: &str, text: &str) -> String {
        ssh_sign(&self.people.join(who), ORDER, text, &[])
    }

    fn send(&self, text: &str, signatures: &[String]) -> Value {
        self.daemon.operator().call("operator_orderSend", &json!({"text": text, "signatures": signatures}))
    }

    fn orders(&mut self, who: &[&str], level: &str, words: &[&str]) -> Value {
        let text = self.text(level, words);
        let signatures: Vec<String> = who.iter().map(|w| self.sign(w, &text)).collect();
        self.send(&text, &signatures)
    }

    fn challenge(&self, scope: &str) -> String {
        let told = self.daemon.operator().call("operator_orderChallenge", &json!({"scope": scope}));
        told["result"]["text"].as_str().unwrap_or_else(|| panic!("{told}")).to_owned()
    }

    fn reactivates(&self, text: &str, who: &[&str]) -> Value {
        let signatures: Vec<String> =
            who.iter().map(|w| ssh_sign(&self.people.join(w), REACTIVATION, text, &[])).collect();
        let words = json!({"text": text, "signatures": signatures});
        self.daemon.operator().call("operator_orderReactivate", &words)
    }

    fn starts_again(&self, scope: &str) {
        let told = self.reactivates(&self.challenge(scope), &["alice", "bob"]);
        assert_eq!(code(&told), "ok", "{told}");
        cli_ok(&self.daemon.home, &["status", "--wait", "20"]);
    }

    /// What people lift is an older state all the same: the token says so, and an operator settles that.
    fn starts_again_with_an_older_state(&self) {
        let told = self.reactivates(&self.challenge("all"), &["alice", "bob"]);
        assert_eq!(code(&told), "ok", "{told}");
        self.becomes("state_rolled_back", Duration::from_secs(20));
        cli_ok(&self.daemon.home, &["state", "accept", "--reason", "the newest state was lost"]);
        cli_ok(&self.daemon.home, &["status", "--wait", "20"]);
        assert_eq!(self.says(), "ok");
    }

    fn status(&self) -> Value {
        cli_ok(&self.daemon.home, &["order", "status"])
    }

    fn epoch(&self) -> String {
        self.status()["epoch"].to_string()
    }

    fn says(&self) -> String {
        let words = json!(["0x6869", self.daemon.address]);
        code(&self.daemon.wallet().call("personal_sign", &words)).to_owned()
    }

    fn log(&self) -> String {
        cli_ok(&self.daemon.home, &["log", "show", "--from", "0", "--count", "1000"]).to_string()
    }
}

// [clause 8.2.1-a] test
#[test]
fn no_signature_comes_out_once_an_order_is_answered_however_many_ask() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let trials: usize = std::env::var("ORDER_TRIALS").map_or(3, |n| n.parse().unwrap());
    // Odd while an order stands and was answered.
    let (phase, stop, signed, refused) =
        (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let wallets: Vec<support::Client> = (0..64).map(|_| rig.daemon.wallet()).collect();
    let address = rig.daemon.address.clone();
    let (mut took, mut last_words) = (Vec::new(), Vec::new());
    let (clock, last) = (Instant::now(), AtomicU64::new(0));
    let micros = |at: Duration| u64::try_from(at.as_micros()).unwrap();
    std::thread::scope(|scope| {
        for (who, mut wallet) in wallets.into_iter().enumerate() {
            let (phase, stop, signed, refused, address) = (&phase, &stop, &signed, &refused, &address);
            let last = &last;
            scope.spawn(move || {
                for round in 0u64.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let before = phase.load(Ordering::Acquire);
                    let text = format!("0x{who:016x}{round:016x}");
                    let told = wallet.call("personal_sign", &json!([text, address]));
                    let after = phase.load(Ordering::Acquire);
                    if code(&told) == "ok" {
                        assert!(before != after || before % 2 == 0, "signed after the order was answered");
                        signed.fetch_add(1, Ordering::AcqRel);
                        last.fetch_max(micros(clock.elapsed()), Ordering::AcqRel);
                    } else {
                        assert_eq!(code(&told), "suspended", "{told}");
                        refused.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        for trial in 0..trials {
            std::thread::sleep(Duration::from_millis(150));
            let epoch = (trial + 1).to_string();
            let text = rig.text("suspend", &["--epoch", &epoch]);
            let signatures = [rig.sign("gina", &text)];
            let (began, arrived) = (Instant::now(), micros(clock.elapsed()));
            let told = rig.send(&text, &signatures);
            took.push(began.elapsed());
            phase.fetch_add(1, Ordering::AcqRel);
            assert_eq!(code(&told), "ok", "{told}");
            assert_eq!(told["result"]["heard"], "raised", "{told}");
            assert!(told["result"]["receipt"]["receipt"].is_string(), "{told}");
            std::thread::sleep(Duration::from_millis(100));
            last_words.push(Duration::from_micros(last.load(Ordering::Acquire).saturating_sub(arrived)));
            phase.fetch_add(1, Ordering::AcqRel);
            rig.starts_again("all");
        }
        stop.store(true, Ordering::Release);
    });
    for (what, mut all) in [("answered", took), ("the last signature came", last_words)] {
        all.sort();
        let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)];
        let worst = all[all.len() - 1];
        eprintln!(
            "{trials} orders under 64 clients: {what} after p50 {:?}, p99 {:?}, worst {worst:?}",
            at(50),
            at(99)
        );
    }
    eprintln!("{} signed, {} refused", signed.load(Ordering::Acquire), refused.load(Ordering::Acquire));
    assert!(signed.load(Ordering::Acquire) > 64 && refused.load(Ordering::Acquire) > 64);
    // An auditor sees the same: the verifier refuses a log in which a key was used while an order stood.
    rig.daemon.verify_log();
}

// [clause 8.2.1-a] test
#[test]
fn an_inactivated_device_has_no_token_and_stays_so_through_restarts() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let home = rig.daemon.home.clone();
    let mut waiting = rig.daemon.wallet();
    assert_eq!(rig.says(), "ok");
    let text = rig.text("inactivate", &[]);
    let file = rig.people.join("1.order");
    std::fs::write(file.with_extension("order.sig"), rig.sign("gus", &text)).unwrap();
    let receipt = home.join("receipt.json");
    let told =
        cli_ok(&home, &["order", "send", file.to_str().unwrap(), "--receipt", receipt.to_str().unwrap()]);
    assert_eq!(told["level"], "inactivate", "{told}");
    // The receipt is worth something elsewhere.
    let vkey = home.join("vkey");
    std::fs::write(&vkey, told["receipt"]["vkey"].as_str().unwrap()).unwrap();
    let words =
        ["order", "verify-receipt", receipt.to_str().unwrap(), "--key", vkey.to_str().unwrap(), "--order"];
    let right = cli_ok(&home, &[&words[..], &[file.to_str().unwrap()]].concat());
    assert_eq!(
        (right["level"].as_str(), right["order"].as_str()),
        (Some("inactivate"), told["order"].as_str())
    );
    assert!(!cli(&home, &[&words[..], &["/etc/hostname"]].concat()).0, "a receipt for another order");
    let status = rig.status();
    assert_eq!(
        (status["level"].as_str(), status["token_open"].as_bool()),
        (Some("inactivate"), Some(false)),
        "{status}"
    );
    assert_eq!(code(&waiting.call("personal_sign", &json!(["0x00", rig.daemon.address]))), "inactivated");
    // The session of before ends once it was told.
    std::thread::sleep(Duration::from_millis(1500));
    waiting.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(waiting.line(), Value::Null);
    assert_eq!(rig.says(), "inactivated");
    for restart in 0..2 {
        rig.daemon.restart_stopped();
        assert_eq!(rig.says(), "inactivated", "after restart {restart}");
        assert_eq!(rig.status()["token_open"], false);
        // A PIN in hand opens nothing, nor does making another key.
        for (method, words) in
            [("operator_unlock", json!({"pin": "x"})), ("operator_keyCreate", json!({"name": "two"}))]
        {
            assert_eq!(code(&rig.daemon.operator().call(method, &words)), "inactivated", "{method}");
        }
    }
    // The same order once more: the same receipt, and nothing else.
    let again = rig.send(&text, &[rig.sign("gus", &text)]);
    assert_eq!(again["result"]["heard"], "again");
    assert_eq!(again["result"]["receipt"], told["receipt"]);
    rig.starts_again("all");
    assert_eq!(rig.says(), "ok");
    rig.daemon.verify_log();
}

// [clause 8.2.1-b] test
#[test]
fn what_is_not_for_this_device_or_not_by_those_who_may_stops_nothing() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let sent = |rig: &mut Rig, who: &[&str], level: &str, words: &[&str]| {
        code(&rig.orders(who, level, words)).to_owned()
    };
    let other = "0".repeat(64);
    assert_eq!(sent(&mut rig, &["gina"], "suspend", &["--device", &other]), "order_other");
    assert_eq!(sent(&mut rig, &["mallory"], "suspend", &[]), "order_stranger");
    assert_eq!(
        sent(&mut rig, &["alice"], "suspend", &[]),
        "order_stranger",
        "who may start again does not stop"
    );
    assert_eq!(sent(&mut rig, &["gina", "mallory"], "suspend", &[]), "order_stranger");
    assert_eq!(sent(&mut rig, &[], "suspend", &[]), "order_wrong");
    assert_eq!(sent(&mut rig, &["gina"], "wipe", &[]), "order_quorum");
    assert_eq!(sent(&mut rig, &["gina", "gina"], "wipe", &[]), "order_quorum", "one person twice");
    assert_eq!(sent(&mut rig, &["gina"], "suspend", &["--epoch", "4000000000"]), "order_epoch");
    let text = rig.text("suspend", &[]);
    let good = rig.sign("gina", &text);
    let tell = |text: &str, signature: &str| code(&rig.send(text, &[signature.to_owned()])).to_owned();
    assert_eq!(tell(&text.replace("suspend", "inactivate"), &good), "order_wrong");
    assert_eq!(tell(&text.replace("test-1", "test-2"), &good), "order_other");
    assert_eq!(tell(&text.replace("number: 1", "number: 01"), &good), "order_malformed");
    assert_eq!(tell(&format!("{text}\n"), &good), "order_malformed");
    assert_eq!(tell("clavigerd order v1\n", &good), "order_malformed");
    assert_eq!(tell("x", &good), "order_malformed");
    let elsewhere = ssh_sign(&rig.people.join("gina"), REACTIVATION, &text, &[]);
    assert_eq!(code(&rig.send(&text, &[elsewhere])), "order_malformed", "another namespace");
    assert_eq!(rig.says(), "ok");
    assert!(rig.status()["level"].is_null());
    // A number that is far ahead stops all the same, uses up nothing, and stops nothing twice.
    assert_eq!(sent(&mut rig, &["gina"], "suspend", &["--number", "18446744073709551615"]), "ok");
    assert_eq!(rig.says(), "suspended");
    assert_eq!(rig.status()["highest"], 0);
    assert_eq!(sent(&mut rig, &["gina"], "suspend", &["--number", "2000000"]), "order_number");
    rig.starts_again("all");
    assert_eq!(
        sent(&mut rig, &["gina"], "suspend", &["--epoch", "1"]),
        "order_epoch",
        "orders of before are void"
    );
    assert_eq!(rig.says(), "ok");
    // Two stories under one number: everything stops, though each names one key.
    let first = rig.orders(&["gina"], "suspend", &["--epoch", "2", "--scope", "key:other"]);
    assert_eq!(first["result"]["heard"], "raised");
    assert_eq!(rig.says(), "ok");
    let second = rig.orders(&["gus"], "suspend", &["--epoch", "2", "--scope", "key:another"]);
    assert_eq!(second["result"]["heard"], "equivocal", "{second}");
    assert_eq!(rig.says(), "suspended");
    let log = rig.log();
    for word in [
        "order_other",
        "order_stranger",
        "order_wrong",
        "order_malformed",
        "order_quorum",
        "order_number",
        "order_epoch",
        "equivocal",
    ] {
        assert!(log.contains(word), "{word} is not in the log");
    }
    rig.daemon.verify_log();
}

// [clause 8.2.1-b] test
#[test]
fn only_a_quorum_starts_it_again_for_what_stands_and_once() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let none = rig.daemon.operator().call("operator_orderChallenge", &json!({}));
    assert_eq!(code(&none), "order_lifts", "nothing stands");
    assert_eq!(code(&rig.orders(&["gina"], "suspend", &[])), "ok");
    let stale = rig.challenge("all");
    let open = rig.challenge("all");
    assert_eq!(code(&rig.reactivates(&stale, &["alice", "bob"])), "challenge_stale");
    for (who, told) in [
        (&["alice"][..], "order_quorum"),
        (&[], "order_wrong"),
        (&["alice", "alice"], "approval_twice"),
        (&["alice", "gina"], "approval_stranger"),
        (&["alice", "mallory"], "approval_stranger"),
    ] {
        assert_eq!(code(&rig.reactivates(&open, who)), told, "{who:?}");
    }
    let changed = |from: &str, to: &str| rig.reactivates(&open.replace(from, to), &["alice", "bob"]);
    let lifts = open.lines().find_map(|l| l.strip_prefix("lifts: ")).unwrap().to_owned();
    assert_eq!(code(&changed(&lifts, &format!("sha256:{}", "0".repeat(64)))), "order_lifts");
    assert_eq!(code(&changed("scope: all", "scope: key:hot")), "order_lifts");
    assert_eq!(code(&changed("2 of ops", "1 of ops")), "challenge_stale");
    assert_eq!(code(&changed(&rig.device, &"0".repeat(64))), "order_other");
    let wrong: Vec<String> =
        ["alice", "bob"].map(|w| ssh_sign(&rig.people.join(w), "clavigerd-approval@v1", &open, &[])).to_vec();
    let words = json!({"text": open, "signatures": wrong});
    assert_eq!(code(&rig.daemon.operator().call("operator_orderReactivate", &words)), "approval_namespace");
    // It gets worse while people think: they agreed on something else.
    assert_eq!(code(&rig.orders(&["gus"], "inactivate", &["--number", "2"])), "ok");
    assert_eq!(code(&rig.reactivates(&open, &["alice", "bob"])), "order_lifts");
    let open = rig.challenge("all");
    // A challenge outlives a crash.
    rig.daemon.signal("KILL");
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "inactivated");
    let right = rig.reactivates(&open, &["carol", "alice"]);
    assert_eq!(right["result"]["by"], json!(["carol", "alice"]), "{right}");
    cli_ok(&rig.daemon.home, &["status", "--wait", "20"]);
    assert_eq!(rig.says(), "ok");
    assert_eq!(code(&rig.reactivates(&open, &["carol", "alice"])), "order_epoch", "a challenge serves once");
    let log = rig.log();
    assert!(log.contains("\"by\":[\"carol\",\"alice\"]"), "the log names who started again");
    rig.daemon.verify_log();
}

// [clause 8.2.1-b] test
#[test]
fn what_people_agreed_on_is_not_carried_out_while_an_order_stands() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "[quorum.policy]\nquorum = 2\nof = \"ops\"\ndelay = \"1s\"\n");
    let operator = || rig.daemon.operator();
    let before = operator().call("operator_policyShow", &json!({}))["result"]["hash"].clone();
    let looser = POLICY.replace("per_tx.max = \"100\"", "per_tx.max = \"120\"");
    let asked = operator().call("operator_policyApply", &json!({"text": looser}));
    assert_eq!(code(&asked), "change_needed", "{asked}");
    let change = asked["error"]["data"]["facts"]["request"].as_str().unwrap().to_owned();
    assert_eq!(code(&rig.orders(&["gina"], "suspend", &[])), "ok");
    for who in ["alice", "bob"] {
        let shown = cli_ok(&rig.daemon.home, &["approval", "show", &change]);
        let (text, namespace) =
            (shown["text"].as_str().unwrap(), shown["namespaces"]["approve"].as_str().unwrap());
        let words =
            json!({"request": change, "signature": ssh_sign(&rig.people.join(who), namespace, text, &[])});
        let said = rig.daemon.operator().call("operator_approve", &words);
        assert_eq!(code(&said), "ok", "{said}");
    }
    std::thread::sleep(Duration::from_secs(3));
    let in_force = || rig.daemon.operator().call("operator_policyShow", &json!({}))["result"]["hash"].clone();
    assert_eq!(in_force(), before, "nothing gets looser on a device that was stopped");
    rig.starts_again("all");
    let until = Instant::now() + Duration::from_secs(10);
    while in_force() == before {
        assert!(Instant::now() < until, "what people agreed on is done when the device works again");
        std::thread::sleep(Duration::from_millis(50));
    }
    rig.daemon.verify_log();
}

// [clause 8.2.1-a] test
#[test]
fn an_order_for_one_app_or_one_key_stops_no_other() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    for (scope, other) in [("app:test", "app:web"), ("key:hot", "key:cold")] {
        let epoch = rig.epoch();
        assert_eq!(code(&rig.orders(&["gina"], "inactivate", &["--scope", other, "--epoch", &epoch])), "ok");
        assert_eq!(rig.says(), "ok");
        let words = ["--scope", scope, "--number", "2", "--epoch", &epoch];
        assert_eq!(code(&rig.orders(&["gina"], "inactivate", &words)), "ok");
        assert_eq!(rig.says(), "inactivated");
        let pays =
            rig.daemon.wallet().call("claviger_signPayment", &json!({"transaction": rig.daemon.tx(0, 1)}));
        assert_eq!(code(&pays), "inactivated");
        assert_eq!(rig.status()["token_open"], true, "others go on");
        rig.daemon.restart_stopped();
        assert_eq!(rig.says(), "inactivated");
        rig.starts_again(scope);
        assert_eq!(rig.says(), "ok", "what stands against {other} is none of its business");
    }
    // What was signed before an order and waits to be fetched is not given out after it.
    let begun = rig
        .daemon
        .wallet()
        .call("claviger_signPayment", &json!({"transaction": rig.daemon.tx(7, 1), "wait": false}));
    let request = begun["result"]["request"].as_str().unwrap().to_owned();
    let waits = |rig: &Rig| {
        rig.daemon.wallet().call("claviger_waitRequest", &json!({"request": request, "timeout_ms": 5000}))
    };
    assert_eq!(waits(&rig)["result"]["status"], "signed");
    let epoch = rig.epoch();
    assert_eq!(code(&rig.orders(&["gina"], "suspend", &["--epoch", &epoch])), "ok");
    assert_eq!(code(&waits(&rig)), "suspended");
    let told = rig.daemon.wallet().call("claviger_waitGovernance", &json!({"since": 0, "timeout_ms": 100}));
    assert!(told["result"]["news"].to_string().contains("a drill"), "apps hear why");
    rig.daemon.verify_log();
}

// [clause 8.2.1-c] test
#[test]
fn an_old_copy_of_the_state_starts_nothing_as_far_as_the_latch_is_elsewhere() {
    if !ssh_keygen_is_here() {
        return;
    }
    let copied = |rig: &Rig, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(rig.daemon.home.join("state")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    for elsewhere in [true, false] {
        let latch = if elsewhere { "[orders]\nlatch = \"file:elsewhere/latch\"" } else { "" };
        let mut rig = Rig::start(latch, "");
        let home = rig.daemon.home.clone();
        std::fs::create_dir(home.join("elsewhere")).unwrap();
        assert_eq!(rig.says(), "ok");
        rig.daemon.signal("TERM");
        rig.daemon.wait();
        let before = home.join("before");
        copied(&rig, &before);
        rig.daemon.restart();
        assert_eq!(code(&rig.orders(&["gina"], "inactivate", &[])), "ok");
        rig.daemon.signal("KILL");
        rig.daemon.wait();
        // The thief puts the state directory back as it was.
        std::fs::remove_dir_all(home.join("state")).unwrap();
        copied_back(&before, &home.join("state"));
        rig.daemon.restart_stopped();
        if !elsewhere {
            // With all of the disk in his hands, the latch comes back too: the token's anchor alone still tells.
            rig.becomes("state_rolled_back", Duration::from_secs(20));
            continue;
        }
        assert_eq!(rig.says(), "inactivated");
        let status = rig.status();
        assert_eq!(
            (status["level"].as_str(), status["token_open"].as_bool()),
            (Some("inactivate"), Some(false)),
            "{status}"
        );
        // Nor does taking the whole state away.
        rig.daemon.signal("KILL");
        rig.daemon.wait();
        std::fs::remove_file(home.join("state/claviger.db")).unwrap();
        for more in ["claviger.db-wal", "claviger.db-shm"] {
            std::fs::remove_file(home.join("state").join(more)).ok();
        }
        rig.daemon.restart_stopped();
        assert_eq!(rig.status()["level"], "inactivate");
        // A damaged latch is not taken for none.
        rig.daemon.signal("KILL");
        rig.daemon.wait();
        std::fs::remove_dir_all(home.join("state")).unwrap();
        copied_back(&before, &home.join("state"));
        std::fs::write(home.join("elsewhere/latch"), "clavigerd latch v1\nshows: 0").unwrap();
        rig.daemon.restart_stopped();
        assert_eq!(rig.says(), "inactivated");
        // The people start it again when the latch is mended, over what was found.
        std::fs::write(home.join("elsewhere/latch"), "clavigerd latch v1\nshows: 7\n").unwrap();
        rig.daemon.restart_stopped();
        assert_eq!(rig.says(), "inactivated");
        rig.starts_again_with_an_older_state();
        rig.daemon.restart();
        assert_eq!(rig.says(), "ok");
        rig.daemon.verify_log();
    }
    // A row that was lowered behind the daemon's back is found at the start: see the story of the store.
}

fn copied_back(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

// [clause 8.2.1-a] test
#[test]
fn a_crash_at_any_moment_of_an_order_leaves_what_was_answered() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("[orders]\nlatch = \"file:latch\"", "");
    let kills: u64 = std::env::var("ORDER_KILLS").map_or(6, |n| n.parse().unwrap());
    let (mut answered, mut standing) = (0, 0);
    for round in 0..kills {
        let epoch = rig.epoch();
        let text = rig.text("inactivate", &["--epoch", &epoch]);
        let signature = rig.sign("gina", &text);
        let socket = rig.daemon.home.join("operator.sock");
        let words = json!({"jsonrpc": "2.0", "id": 7, "method": "operator_orderSend", "params": {"text": text, "signatures": [signature]}});
        let sender = std::thread::spawn(move || {
            use std::io::{BufRead, Write};
            let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            stream.write_all(words.to_string().as_bytes()).ok();
            let mut line = String::new();
            std::io::BufReader::new(stream).read_line(&mut line).ok();
            line.contains("\"result\"")
        });
        std::thread::sleep(Duration::from_micros(round * 7919 % 40_000));
        rig.daemon.signal("KILL");
        let told = sender.join().unwrap();
        rig.daemon.restart_stopped();
        let stands = rig.status()["level"] == "inactivate";
        assert!(stands || !told, "an order that was answered is forgotten");
        assert_eq!(rig.says(), if stands { "inactivated" } else { "ok" });
        answered += u32::from(told);
        standing += u32::from(stands);
        // Sent once more, it is obeyed whatever became of the first time.
        let again = rig.send(&text, &[rig.sign("gina", &text)]);
        assert_eq!(code(&again), "ok", "{again}");
        assert_eq!(rig.says(), "inactivated");
        assert_eq!(rig.status()["token_open"], false);
        rig.starts_again("all");
    }
    eprintln!("{kills} kills: {answered} orders were answered, {standing} stood after the restart");
    assert_eq!(rig.says(), "ok");
    rig.daemon.verify_log();
}

// [clause 8.2.1-b] test
#[test]
fn a_crash_before_the_token_is_open_again_is_not_taken_for_tampering() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let home = rig.daemon.home.clone();
    assert_eq!(rig.says(), "ok");
    assert_eq!(code(&rig.orders(&["gina"], "inactivate", &[])), "ok");
    rig.daemon.restart_stopped();
    let config = std::fs::read_to_string(home.join("clavigerd.toml")).unwrap();
    let pin =
        config.lines().find_map(|l| l.strip_prefix("pin_file = ")).unwrap().trim_matches('"').to_owned();
    let kept = home.join("pin-elsewhere");
    std::fs::rename(home.join(&pin), &kept).unwrap();
    // The token stays closed: what people lifted stands behind the seal, and nothing seals it.
    let told = rig.reactivates(&rig.challenge("all"), &["alice", "bob"]);
    assert_eq!(code(&told), "ok", "{told}");
    rig.daemon.signal("KILL");
    rig.daemon.wait();
    std::fs::rename(&kept, home.join(&pin)).unwrap();
    rig.daemon.restart();
    assert_eq!(rig.says(), "ok");
    rig.daemon.verify_log();
}

// [clause 8.2.1-e] test
#[test]
fn a_wipe_destroys_what_the_token_holds_and_is_gone_on_with_after_a_crash() {
    if !ssh_keygen_is_here() {
        return;
    }
    for crash in [None, Some(20), Some(45), Some(70)] {
        let mut rig = Rig::start("", "");
        let home = rig.daemon.home.clone();
        for n in 0..6 {
            cli_ok(&home, &["key", "create", &format!("more-{n}")]);
        }
        let config = std::fs::read_to_string(home.join("clavigerd.toml")).unwrap();
        let pin =
            config.lines().find_map(|l| l.strip_prefix("pin_file = ")).unwrap().trim_matches('"').to_owned();
        assert!(home.join(&pin).exists());
        let text = rig.text("wipe", &[]);
        let signatures = [rig.sign("gina", &text), rig.sign("gus", &text)];
        if let Some(ms) = crash {
            let (socket, words) = (
                home.join("operator.sock"),
                json!({"jsonrpc": "2.0", "id": 7, "method": "operator_orderSend", "params": {"text": text, "signatures": signatures}}),
            );
            std::thread::spawn(move || {
                use std::io::Write;
                let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
                stream.write_all(words.to_string().as_bytes()).ok();
                std::thread::sleep(Duration::from_secs(1));
            });
            std::thread::sleep(Duration::from_millis(ms));
            rig.daemon.signal("KILL");
            rig.daemon.wait();
            rig.daemon.restart_stopped();
        }
        let told = rig.send(&text, &signatures);
        assert_eq!(code(&told), "ok", "{told}");
        let until = Instant::now() + Duration::from_secs(20);
        while rig.status()["token_open"] == true || rig.status()["to_wipe"] != json!([]) {
            assert!(Instant::now() < until, "{}", rig.status());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(rig.says(), "wiped");
        assert!(!home.join(&pin).exists(), "the PIN is still on the disk");
        let keys = cli_ok(&home, &["key", "list"]);
        for key in keys.as_array().unwrap() {
            let stays = key["name"] == "claviger-log" || key["name"] == "claviger-state";
            assert_eq!(key["state"] == "destroyed", !stays, "{key}");
            assert!(!key["public_key"].as_str().unwrap().is_empty(), "its public half stays");
        }
        assert!(rig.log().contains("\"event\":\"wiped\""));
        // There is no way back, with or without people.
        let none = rig.daemon.operator().call("operator_orderChallenge", &json!({}));
        assert_eq!(code(&none), "wiped");
        rig.daemon.restart_stopped();
        assert_eq!(rig.says(), "wiped");
        if crash.is_none() {
            assert!(told["result"]["receipt"].is_object(), "{told}");
            let done = told["result"]["done"].to_string();
            assert!(done.contains("7 keys destroyed, 0 things not reached"), "{done}");
            rig.daemon.verify_log();
        }
    }
}

// [clause 8.2.1-e] test
#[test]
fn a_wipe_says_what_it_could_not_reach_and_of_one_key_leaves_the_others() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    cli_ok(&rig.daemon.home, &["key", "create", "cold"]);
    let told = rig.orders(&["gina", "gus"], "wipe", &["--scope", "key:cold"]);
    assert!(told["result"]["done"].to_string().contains("1 keys destroyed"), "{told}");
    assert_eq!(rig.says(), "ok");
    // The token was closed before, and its PIN is gone: nothing is claimed.
    assert_eq!(code(&rig.orders(&["gina"], "inactivate", &["--number", "2"])), "ok");
    let config = std::fs::read_to_string(rig.daemon.home.join("clavigerd.toml")).unwrap();
    let pin =
        config.lines().find_map(|l| l.strip_prefix("pin_file = ")).unwrap().trim_matches('"').to_owned();
    std::fs::remove_file(rig.daemon.home.join(pin)).unwrap();
    let told = rig.orders(&["gina", "gus"], "wipe", &["--number", "3"]);
    let done = told["result"]["done"].to_string();
    assert!(done.contains("0 keys destroyed, 1 things not reached"), "{told}");
    assert!(told["result"]["no_receipt"].is_string(), "{told}");
    assert_eq!(rig.status()["to_wipe"], json!(["all"]));
    assert!(rig.log().contains("key hot:"), "what was not reached stands in the log");
    assert_eq!(rig.says(), "wiped");
}

/// A beacon of a test's own: gives the orders that it has, and leases as long as it wants.
#[derive(Default)]
struct Says {
    orders: Vec<Value>,
    leases: bool,
    latest: Option<String>,
    /// How long an answer with nothing in it is held.
    hold: Duration,
    /// It takes connections and answers nothing.
    down: bool,
    asked: Vec<Value>,
}

impl Says {
    /// The orders that are not known where it is asked from.
    fn orders_for(&self, body: &Value) -> Vec<Value> {
        let hash = |paper: &Value| {
            claviger::core::order::Order::parse(paper["text"].as_str().unwrap()).unwrap().hash()
        };
        let known = body["known"].to_string();
        self.orders.iter().filter(|paper| !known.contains(&hash(paper))).cloned().collect()
    }
}

fn beacon(lease_key: PathBuf) -> (u16, std::sync::Arc<std::sync::Mutex<Says>>) {
    use std::io::{Read, Write};
    let says = std::sync::Arc::new(std::sync::Mutex::new(Says::default()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, theirs) = (listener.local_addr().unwrap().port(), std::sync::Arc::clone(&says));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
            let body = loop {
                let read = stream.read(&mut chunk).unwrap_or(0);
                bytes.extend_from_slice(&chunk[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                if let Some((_, body)) = text.split_once("\r\n\r\n")
                    && let Ok(value) = serde_json::from_str::<Value>(body)
                {
                    break value;
                }
                if read == 0 {
                    break Value::Null;
                }
            };
            let began = Instant::now();
            let mut says = theirs.lock().unwrap();
            while !says.down && says.orders_for(&body).is_empty() && began.elapsed() < says.hold {
                drop(says);
                std::thread::sleep(Duration::from_millis(10));
                says = theirs.lock().unwrap();
            }
            if says.down {
                says.asked.push(body);
                continue;
            }
            let asked = &body["lease"];
            let lease = (says.leases && asked.is_object()).then(|| {
                let lease = claviger::core::order::Lease {
                    deployment: asked["deployment"].as_str().unwrap().into(),
                    device: asked["device"].as_str().unwrap().into(),
                    epoch: u32::try_from(asked["epoch"].as_u64().unwrap()).unwrap(),
                    boot: asked["boot"].as_str().unwrap().into(),
                    nonce: asked["nonce"].as_str().unwrap().into(),
                    seconds: 6,
                    latest: says.latest.clone(),
                    issued: claviger::service::keys::now(),
                };
                let text = lease.render();
                json!({"text": text, "signatures": [ssh_sign(&lease_key, "clavigerd-lease@v1", &text, &[])]})
            });
            let answer = json!({"orders": says.orders_for(&body), "lease": lease}).to_string();
            says.asked.push(body);
            drop(says);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
                answer.len()
            )
            .ok();
        }
    });
    (port, says)
}

impl Rig {
    fn becomes(&self, told: &str, within: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let says = self.says();
            if says == told {
                return began.elapsed();
            }
            assert!(began.elapsed() < within, "it says {says}, and not {told}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

// [clause 8.2.1-a] test
#[test]
fn an_order_at_the_beacon_is_here_at_once_and_no_beacon_is_asked_in_a_tight_loop() {
    if !ssh_keygen_is_here() {
        return;
    }
    let (port, beacon) = beacon(PathBuf::new());
    let says = |change: &dyn Fn(&mut Says)| change(&mut beacon.lock().unwrap());
    let asked_in = |time: Duration| {
        let before = beacon.lock().unwrap().asked.len();
        std::thread::sleep(time);
        beacon.lock().unwrap().asked.len() - before
    };
    says(&|s| s.hold = Duration::from_secs(60));
    let mut rig = Rig::start(&format!("[orders]\nurl = \"http://127.0.0.1:{port}\""), "");
    assert_eq!(rig.says(), "ok");
    // The question is open: the order is here as soon as it is there, and so is the answer to it.
    let text = rig.text("suspend", &[]);
    let paper = json!({"text": text, "signatures": [rig.sign("gina", &text)]});
    says(&|s| s.orders = vec![paper.clone()]);
    let took = rig.becomes("suspended", Duration::from_secs(2));
    says(&|s| s.hold = Duration::ZERO);
    std::thread::sleep(Duration::from_secs(1));
    let told = beacon
        .lock()
        .unwrap()
        .asked
        .iter()
        .any(|a| a["receipts"].to_string().contains("clavigerd receipt v1"));
    assert!(told, "the receipt goes back at once");
    eprintln!("an order at a beacon that holds its answers stopped signing after {took:?}");
    // One that holds nothing and has nothing is left alone for a minute.
    assert!(asked_in(Duration::from_secs(3)) <= 1);
    let facts = beacon.lock().unwrap().asked.last().unwrap()["facts"].clone();
    assert!(facts["fit"].is_boolean() && facts["digest"].as_str().unwrap().len() == 64, "{facts}");
    // An order that does not count is not fetched again and again, and holds up no other.
    let bad = rig.text("wipe", &["--number", "2"]);
    let strange = json!({"text": bad, "signatures": [rig.sign("mallory", &bad)]});
    says(&|s| (s.orders, s.hold) = (vec![strange.clone()], Duration::from_secs(60)));
    let told = rig.reactivates(&rig.challenge("all"), &["alice", "bob"]);
    assert_eq!(code(&told), "ok", "{told}");
    rig.becomes("ok", Duration::from_secs(9));
    assert!(asked_in(Duration::from_secs(3)) <= 2);
    // Away, it is tried again within seconds, and not without a rest; back, it is heard.
    says(&|s| (s.orders, s.down) = (Vec::new(), true));
    let tries = asked_in(Duration::from_secs(8));
    assert!((1..=16).contains(&tries), "{tries} tries in 8 s");
    let text = rig.text("inactivate", &["--number", "3", "--epoch", "2"]);
    let paper = json!({"text": text, "signatures": [rig.sign("gus", &text)]});
    says(&|s| (s.orders, s.down) = (vec![paper.clone()], false));
    let took = rig.becomes("inactivated", Duration::from_secs(8));
    eprintln!("a beacon that came back was heard after {took:?}");
}

const LEASED: &str = "[orders.lease]\nkey = \"LEASE\"\nmax_ttl = \"6s\"\nrequired = true";

// [clause 8.2.1-d] test
#[test]
fn a_device_that_is_cut_off_stops_by_itself_and_an_order_outlasts_every_lease() {
    if !ssh_keygen_is_here() {
        return;
    }
    // The key is made with the people, before anybody asks.
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("lease");
    let (port, beacon) = beacon(key.clone());
    let says = |change: &dyn Fn(&mut Says)| change(&mut beacon.lock().unwrap());
    says(&|s| s.leases = true);
    let url = format!("[orders]\nurl = \"http://127.0.0.1:{port}\"\nevery_seconds = 1");
    let mut rig = Rig::prepared(&url, LEASED, &key);
    rig.becomes("ok", Duration::from_secs(20));
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(9) {
        assert_eq!(rig.says(), "ok", "it is renewed before it ends");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Cut off: it ends by itself, and not later than the lease.
    says(&|s| s.leases = false);
    let took = rig.becomes("lease_missing", Duration::from_secs(9));
    eprintln!("cut off, signing ended after {took:?} of a lease of 6 s");
    let status = cli_ok(&rig.daemon.home, &["status"]);
    assert_eq!(status["signing"], false, "{status}");
    // The cut is over, and nobody had to do anything.
    says(&|s| s.leases = true);
    rig.becomes("ok", Duration::from_secs(9));
    // The issuer knows an order that has not arrived: no lease goes past it.
    says(&|s| s.latest = Some("e".repeat(64)));
    rig.becomes("lease_missing", Duration::from_secs(12));
    assert!(rig.log().contains("lease_refused"));
    // The order comes the same way, and no lease lifts it.
    let text = rig.text("suspend", &[]);
    let hash =
        cli_ok(&rig.daemon.home, &["order", "show", rig.people.join("1.order").to_str().unwrap()])["hash"]
            .clone();
    let paper = json!({"text": text, "signatures": [rig.sign("gina", &text)]});
    says(&|s| {
        s.orders = vec![paper.clone()];
        s.latest = Some(hash.as_str().unwrap().to_owned());
    });
    rig.becomes("suspended", Duration::from_secs(9));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(rig.says(), "suspended");
    let answered = beacon
        .lock()
        .unwrap()
        .asked
        .iter()
        .any(|a| a["receipts"].to_string().contains("clavigerd receipt v1"));
    assert!(answered, "the beacon has the receipt");
    says(&|s| (s.orders, s.latest) = (Vec::new(), None));
    let told = rig.reactivates(&rig.challenge("all"), &["alice", "bob"]);
    assert_eq!(code(&told), "ok", "{told}");
    rig.becomes("ok", Duration::from_secs(9));
    rig.daemon.verify_log();
}

// [clause 8.2.1-d] test
#[test]
fn a_lease_is_good_for_one_request_of_one_run_and_by_one_key() {
    if !ssh_keygen_is_here() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("lease");
    let mut rig = Rig::prepared("", &LEASED.replace("6s", "1h"), &key);
    let home = rig.daemon.home.clone();
    assert_eq!(rig.says(), "lease_missing");
    let out = home.join("by-hand.lease");
    let write = |seconds: &str| {
        cli_ok(&home, &["order", "lease", "--out", out.to_str().unwrap(), "--seconds", seconds]);
        std::fs::read_to_string(&out).unwrap()
    };
    let sent = |rig: &Rig, text: &str, key: &Path| {
        code(&rig.send(text, &[ssh_sign(key, "clavigerd-lease@v1", text, &[])])).to_owned()
    };
    let first = write("60");
    assert_eq!(sent(&rig, &first, &rig.people.join("gina")), "order_stranger", "a person is no issuer");
    assert_eq!(sent(&rig, &first.replace("seconds: 60", "seconds: 4000"), &key), "lease_refused");
    let second = write("60");
    assert_eq!(sent(&rig, &first, &key), "lease_refused", "another request was made since");
    assert_eq!(sent(&rig, &second, &key), "ok");
    assert_eq!(rig.says(), "ok");
    assert_eq!(sent(&rig, &second, &key), "lease_refused", "twice");
    assert_eq!(rig.says(), "ok");
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "lease_missing");
    assert_eq!(sent(&rig, &second, &key), "lease_refused", "of an earlier run");
    // Neither a lease nor its end says anything about orders.
    let third = write("60");
    assert_eq!(code(&rig.orders(&["gus"], "inactivate", &[])), "ok");
    assert_eq!(sent(&rig, &third, &key), "ok");
    assert_eq!(rig.says(), "inactivated");
}

// [clause 8.2.1-a] test
#[test]
fn an_order_that_is_dropped_into_the_directory_is_heard() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("[orders]\ndirectory = \"drop\"", "");
    let drop_in = rig.daemon.home.join("drop");
    std::fs::create_dir(&drop_in).unwrap();
    let text = rig.text("suspend", &[]);
    std::fs::write(drop_in.join("stop.order.sig"), rig.sign("mallory", &text)).unwrap();
    std::fs::write(drop_in.join("stop.order"), &text).unwrap();
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(rig.says(), "ok");
    assert_eq!(rig.log().matches("order_stranger").count(), 1, "said once, however often it is looked at");
    std::fs::write(drop_in.join("stop.order.sig"), rig.sign("gina", &text)).unwrap();
    rig.becomes("suspended", Duration::from_secs(5));
    let receipt = drop_in.join("stop.order.receipt");
    let until = Instant::now() + Duration::from_secs(5);
    while !receipt.exists() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(std::fs::read_to_string(receipt).unwrap().contains("clavigerd receipt v1"));
}

// [clause 8.2.1-a] test
#[test]
fn an_order_that_cannot_be_written_down_stops_everything_all_the_same() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut rig = Rig::start("", "");
    let file = rig.daemon.home.join("state/claviger.db");
    let text = rig.text("suspend", &["--scope", "key:other"]);
    let signatures = [rig.sign("gina", &text)];
    let disk = rusqlite::Connection::open(&file).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    let told = rig.send(&text, &signatures);
    assert_eq!(code(&told), "store_failed", "{told}");
    drop(disk);
    assert_eq!(rig.says(), "inactivated", "in doubt, everything stands");
    // It comes again when the disk is back, and is written down then.
    assert_eq!(rig.send(&text, &signatures)["result"]["heard"], "raised");
    assert_eq!(rig.says(), "inactivated");
    rig.daemon.restart_stopped();
    rig.becomes("ok", Duration::from_secs(20));
    assert_eq!(rig.status()["held"][0]["scope"], "key:other");
    // When it does not, the latch says at the next start that something was.
    let text = rig.text("suspend", &["--number", "2"]);
    let disk = rusqlite::Connection::open(&file).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(code(&rig.send(&text, &[rig.sign("gina", &text)])), "store_failed");
    drop(disk);
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "inactivated");
    assert_eq!(rig.status()["level"], "inactivate");
    rig.daemon.verify_log();
}

// [clause 8.2.1-c] test
#[cfg(feature = "tpm")]
#[test]
fn a_tpm_latch_closes_sealed_pins_and_tells_an_old_copy_of_the_whole_disk() {
    if !ssh_keygen_is_here() || swtpm::missing() {
        return;
    }
    let tpm = swtpm::Swtpm::start();
    tpm.seal("correct-horse-4711");
    let latch = format!("[orders]\nlatch = \"tpm:{:#010x}\"\ntcti = {:?}", swtpm::INDEX, tpm.address);
    let mut rig = Rig::start(&latch, "");
    let home = rig.daemon.home.clone();
    assert_eq!(rig.says(), "ok");
    rig.daemon.signal("TERM");
    rig.daemon.wait();
    let (state, before) = (home.join("state"), home.join("before"));
    copied_back(&state, &before);
    rig.daemon.restart();
    // A suspension wears no counter out, and closes no PIN for good.
    assert_eq!(code(&rig.orders(&["gina"], "suspend", &[])), "ok");
    assert_eq!(tpm.unseal().unwrap(), "correct-horse-4711");
    assert_eq!(code(&rig.orders(&["gina"], "inactivate", &["--number", "2"])), "ok");
    assert_eq!(tpm.refused().0, "tpm_inactivated");
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "inactivated");
    // All of the disk as it was before: the TPM knows better.
    rig.daemon.signal("KILL");
    rig.daemon.wait();
    std::fs::remove_dir_all(&state).unwrap();
    copied_back(&before, &state);
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "inactivated");
    assert!(rig.log().contains("\"event\":\"latch\""));
    rig.starts_again_with_an_older_state();
    // A counter that is gone is no counter that shows nothing.
    tpm.delete_counter();
    rig.daemon.restart_stopped();
    assert_eq!(rig.says(), "inactivated");
}
