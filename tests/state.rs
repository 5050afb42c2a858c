//! The state directory changed, cut, rewritten or put back from a copy while the daemon is down: found at the start, and
//! nothing is signed. And killed at any moment: never mistaken for any of that.
//!
//! Each test runs with the embedded token and with SoftHSM, which reads its configuration from the environment: for that
//! the test starts itself again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use claviger::core::log::entry::Entry;
use claviger::core::log::merkle::{Frontier, leaf_hash};
use rusqlite::Connection;
use serde_json::{Value, json};
use support::{Daemon, cli, cli_ok, code};

const PIN: &str = "7351942";

/// With both tokens, one after the other.
fn on_each_token(name: &str, test: impl Fn(&[&str])) {
    if let Some(pin_file) = std::env::var_os("STATE_TEST_PIN") {
        let pin_file = pin_file.to_string_lossy().into_owned();
        test(&["--profile", "softhsm2", "--token-label", "state", "--pin-file", &pin_file]);
        return;
    }
    test(&["--profile", "embedded"]);
    let dir = tempfile::Builder::new().prefix("claviger-state").tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tokens")).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let tokens = dir.path().join("tokens");
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "state", "--so-pin", "12345678", "--pin", PIN])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .expect("softhsm2-util is needed: install the package softhsm2");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pin = dir.path().join("pin");
    std::fs::write(&pin, PIN).unwrap();
    Command::new("chmod").args(["600", pin.to_str().unwrap()]).status().unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env("STATE_TEST_PIN", &pin)
        .status()
        .unwrap();
    assert!(again.success(), "{name} failed with SoftHSM");
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let done =
        Command::new("cp").args(["-a", from.to_str().unwrap(), to.to_str().unwrap()]).status().unwrap();
    assert!(done.success());
}

fn pay(daemon: &Daemon, nonce: u64, value: u64) -> (String, Value) {
    let reply = daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(nonce, value)]));
    (code(&reply).to_owned(), reply)
}

fn configure(daemon: &Daemon, text: &str) {
    let file = daemon.home.join("clavigerd.toml");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, format!("{old}\n{text}\n")).unwrap();
}

fn database(daemon: &Daemon) -> Connection {
    Connection::open(daemon.home.join("state/claviger.db")).unwrap()
}

fn state_dir(daemon: &Daemon) -> PathBuf {
    daemon.home.join("state")
}

// [clause 8.7.1-j] test
#[test]
fn an_older_copy_is_refused_and_after_it_was_accepted_every_window_is_full() {
    on_each_token("an_older_copy_is_refused_and_after_it_was_accepted_every_window_is_full", |token| {
        let mut daemon = Daemon::start_on(token);
        assert_eq!(pay(&daemon, 0, 100).0, "ok");
        daemon.stop();
        let old = daemon.home.join("yesterday");
        copy(&state_dir(&daemon), &old);
        assert_eq!(daemon.begin()["standing"], "confirmed");
        assert_eq!(pay(&daemon, 1, 100).0, "ok");
        daemon.stop();
        copy(&old, &state_dir(&daemon));
        let told = daemon.begin();
        assert_eq!(
            (&told["standing"], &told["code"]),
            (&json!("refused"), &json!("state_rolled_back")),
            "{told}"
        );
        let (refused, reply) = pay(&daemon, 1, 100);
        assert_eq!(refused, "state_rolled_back", "{reply}");
        let (good, text) = cli(&daemon.home, &["key", "create", "more"]);
        assert!(!good && text.contains("state_rolled_back"), "{text}");
        let (good, text) = cli(&daemon.home, &["doctor"]);
        assert!(!good && text.contains("older copy"), "{text}");
        let status = cli_ok(&daemon.home, &["status"]);
        assert_eq!(status["signing"], false);
        assert!(
            status["log"]["checkpointed"].as_u64() < status["log"]["entries"].as_u64(),
            "a checkpoint was signed"
        );
        let log = cli_ok(&daemon.home, &["log", "show", "--count", "50"]).to_string();
        assert!(log.contains("refused") && log.contains("state_rolled_back"));
        // Killed and started again, it is refused again.
        daemon.signal("KILL");
        daemon.wait();
        assert_eq!(daemon.begin()["code"], "state_rolled_back");

        assert!(!cli(&daemon.home, &["state", "accept", "--reason", " "]).0);
        cli_ok(&daemon.home, &["state", "accept-rollback", "--reason", "the disk died"]);
        assert!(
            !cli(&daemon.home, &["state", "accept", "--reason", "again"]).0,
            "there is nothing to accept"
        );
        for _ in 0..2 {
            let (full, reply) = pay(&daemon, 7, 1);
            assert_eq!(full, "window_exceeded", "{reply}");
            assert!(reply.to_string().contains("is not known"), "{reply}");
            let message = daemon.wallet().call("personal_sign", &json!(["0x6869", daemon.address]));
            assert_eq!(code(&message), "ok", "{message}");
            daemon.verify_log();
            daemon.stop();
            let told = daemon.begin();
            assert_eq!(told["standing"], "confirmed", "{told}");
        }
        daemon.stop();
        copy(&old, &state_dir(&daemon));
        assert_eq!(
            daemon.begin()["code"],
            "state_rolled_back",
            "a copy from before the acceptance came back"
        );
    });
}

/// Takes the last payment out of a database as somebody would who knows how it is made: entries, rows, checkpoints over
/// them, and the saved edge of the tree.
fn without_the_last_payment(daemon: &Daemon) {
    let db = database(daemon);
    let entries: Vec<Vec<u8>> = db
        .prepare("SELECT data FROM entries ORDER BY seq")
        .unwrap()
        .query_map([], |r| r.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let kind = |data: &Vec<u8>| Entry::members(data).unwrap()["kind"].clone();
    let size = entries.iter().rposition(|e| kind(e) == "intent").unwrap();
    let mut tree = Frontier::default();
    entries[..size].iter().for_each(|e| tree.push(leaf_hash(e)));
    let kept = i64::try_from(size).unwrap();
    db.execute("DELETE FROM entries WHERE seq >= ?1", [kept]).unwrap();
    db.execute("DELETE FROM checkpoints WHERE size > ?1", [kept]).unwrap();
    db.execute("DELETE FROM debits WHERE id = (SELECT max(id) FROM debits)", []).unwrap();
    db.execute("DELETE FROM nonces WHERE nonce = (SELECT max(nonce) FROM nonces)", []).unwrap();
    db.execute("UPDATE meta SET value = ?1 WHERE name = 'frontier'", [tree.to_bytes()]).unwrap();
    db.execute("UPDATE meta SET value = x'' WHERE name = 'open'", []).unwrap();
}

// [clause 8.7.1-i] test
#[test]
fn a_tail_that_was_rewritten_in_step_with_every_table_is_refused() {
    on_each_token("a_tail_that_was_rewritten_in_step_with_every_table_is_refused", |token| {
        let mut daemon = Daemon::start_on(token);
        // The seal alone: the anchor would find it too.
        daemon.stop();
        configure(&daemon, "[anchor]\nmode = \"none\"");
        assert_eq!(daemon.begin()["standing"], "confirmed");
        assert_eq!(pay(&daemon, 0, 100).0, "ok");
        assert_eq!(pay(&daemon, 1, 100).0, "ok");
        daemon.stop();
        let good = daemon.home.join("good");
        copy(&state_dir(&daemon), &good);
        without_the_last_payment(&daemon);
        let told = daemon.begin();
        // Cut below the seal, the store says so itself; nothing starts.
        assert_eq!(told["standing"], "ended", "{told}");
        let log = std::fs::read_to_string(daemon.home.join("daemon.log")).unwrap();
        assert!(log.contains("state_tampered"), "{log}");

        for (gone, words) in [(false, "does not verify"), (true, "seal is gone")] {
            copy(&good, &state_dir(&daemon));
            without_the_last_payment(&daemon);
            let db = database(&daemon);
            if gone {
                db.execute("DELETE FROM meta WHERE name = 'seal'", []).unwrap();
            } else {
                // Moved to the size that is left: only the token can tell that it is none.
                let read = |name: &str| -> Vec<u8> {
                    db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).unwrap()
                };
                let (mut seal, edge) = (read("seal"), read("frontier"));
                seal[32..40].copy_from_slice(&edge[..8]);
                db.execute("UPDATE meta SET value = ?1 WHERE name = 'seal'", [seal]).unwrap();
            }
            drop(db);
            let told = daemon.begin();
            assert_eq!(
                (&told["standing"], &told["code"]),
                (&json!("refused"), &json!("state_tampered")),
                "{told}"
            );
            assert!(told["reason"].as_str().unwrap().contains(words), "{told}");
            assert_eq!(pay(&daemon, 1, 100).0, "state_tampered");
            daemon.stop();
        }
        copy(&good, &state_dir(&daemon));
        let told = daemon.begin();
        assert_eq!(told["standing"], "confirmed", "{told}");
        assert_eq!(pay(&daemon, 2, 50).0, "ok");
    });
}

// [clause 8.7.1-i] test
#[test]
fn a_daemon_that_is_killed_at_any_moment_is_never_taken_for_a_changed_one() {
    on_each_token("a_daemon_that_is_killed_at_any_moment_is_never_taken_for_a_changed_one", |token| {
        let rounds: u64 = std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
        let mut daemon = Daemon::start_on(token);
        // The token is written to as often as can be, so that many kills fall into it.
        configure(&daemon, "[anchor]\nentries = 1");
        daemon.apply(&support::POLICY.replace("\"250\"", "\"100000\""));
        daemon.signal("KILL");
        daemon.wait();
        let mut nonce = 0;
        for round in 0..rounds {
            let told = daemon.begin();
            assert_eq!(told["standing"], "confirmed", "round {round}: {told}");
            let mut wallet = daemon.wallet();
            let seed = u64::from(std::process::id()).wrapping_mul(6_364_136_223_846_793_005)
                ^ (round * 2_654_435_761);
            let until = std::time::Instant::now() + Duration::from_millis(seed % 400);
            while std::time::Instant::now() < until {
                nonce += 1;
                assert_eq!(code(&wallet.call("eth_signTransaction", &json!([daemon.tx(nonce, 1)]))), "ok");
            }
            // One more is under way when it dies.
            wallet.send(json!({"jsonrpc": "2.0", "id": 9, "method": "eth_signTransaction", "params": [daemon.tx(nonce + 1, 1)]}).to_string().as_bytes());
            nonce += 1;
            std::thread::sleep(Duration::from_micros(seed % 3000));
            daemon.signal("KILL");
            daemon.wait();
        }
        // Killed while it starts, too: before and after the token was asked.
        for round in 0..rounds {
            daemon.restart_without_waiting();
            std::thread::sleep(Duration::from_millis(round * 37 % 600));
            daemon.signal("KILL");
            daemon.wait();
        }
        let told = daemon.begin();
        assert_eq!(told["standing"], "confirmed", "{told}");
        assert!(nonce > rounds, "{nonce} payments in {rounds} rounds");
        daemon.verify_log();
    });
}

// [clause 8.7.1-j] test
#[test]
fn an_anchor_that_is_gone_is_told_and_the_whole_disk_put_back_is_not_found() {
    let mut daemon = Daemon::start();
    assert_eq!(pay(&daemon, 0, 100).0, "ok");
    daemon.stop();
    let anchor = std::fs::read_dir(daemon.home.join("token"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "data"))
        .expect("the embedded token holds the anchor in a file");
    // What was the embedded token's own file is the weak place: state and token from one copy agree.
    let (state, token) = (daemon.home.join("state.old"), daemon.home.join("token.old"));
    copy(&state_dir(&daemon), &state);
    copy(&daemon.home.join("token"), &token);
    assert_eq!(daemon.begin()["standing"], "confirmed");
    assert_eq!(pay(&daemon, 1, 100).0, "ok");
    daemon.stop();
    copy(&state, &state_dir(&daemon));
    copy(&token, &daemon.home.join("token"));
    assert_eq!(daemon.begin()["standing"], "confirmed", "docs/state.md says that this is not found");
    daemon.stop();
    std::fs::remove_file(&anchor).unwrap();
    let told = daemon.begin();
    assert_eq!(
        (&told["standing"], &told["code"]),
        (&json!("refused"), &json!("state_rolled_back")),
        "{told}"
    );
    assert!(told["reason"].as_str().unwrap().contains("gone"), "{told}");
    cli_ok(&daemon.home, &["state", "accept", "--reason", "the anchor was removed by mistake"]);
    assert!(anchor.exists());
}

// [clause 8.7.1-i] test
#[test]
fn a_token_that_makes_no_macs_says_that_the_log_is_not_sealed() {
    let mut daemon = Daemon::start();
    daemon.stop();
    // Another log, on a token that is the same but for what it knows.
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-profiles/embedded.toml"));
    let profile = daemon.home.join("plain.toml");
    std::fs::write(&profile, text.unwrap().replace("\"hmac-sha256\", ", "")).unwrap();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        config.replace("\"embedded\"", "\"./plain.toml\"").replace("claviger.local", "other.local"),
    )
    .unwrap();
    std::fs::remove_dir_all(state_dir(&daemon)).unwrap();
    daemon.begin();
    let told = cli_ok(&daemon.home, &["state", "show"]);
    assert_eq!((&told["standing"], &told["sealed"]), (&json!("confirmed"), &json!(false)), "{told}");
    let (good, text) = cli(&daemon.home, &["doctor"]);
    assert!(!good && text.contains("can rewrite what no checkpoint signs yet"), "{text}");
    // The anchor is another thing, and it is there.
    daemon.stop();
    copy(&state_dir(&daemon), &daemon.home.join("old"));
    assert_eq!(daemon.begin()["standing"], "confirmed");
    daemon.stop();
    copy(&daemon.home.join("old"), &state_dir(&daemon));
    assert_eq!(daemon.begin()["code"], "state_rolled_back");
}

// [clause 8.7.1-i] test
#[test]
fn no_app_gets_a_mac_that_could_seal_a_log() {
    let daemon = Daemon::start();
    cli_ok(&daemon.home, &["key", "create", "sums", "--purpose", "integrity"]);
    let rule = "[[rule]]\nid = \"sums\"\neffect = \"permit\"\nacts = [\"mac\"]\nkeys = [\"sums\", \"claviger-state\"]\napps = [\"test\"]\n";
    daemon.apply(&format!("{}{rule}", support::POLICY));
    let mut wallet = daemon.wallet();
    let mut mac = |key: &str, data: &[u8]| {
        let params = json!({"key": key, "data": format!("0x{}", hex::encode(data))});
        code(&wallet.call("claviger_mac", &params)).to_owned()
    };
    assert_eq!(mac("sums", b"anything"), "ok");
    assert_eq!(mac("sums", &[claviger::store::RUN_INPUT, &[0; 48]].concat()), "invalid_params");
    assert_eq!(mac("claviger-state", b"anything"), "key_purpose");
    for words in [
        &["key", "suspend", "claviger-state", "--reason", "x"][..],
        &["key", "rotate", "claviger-state", "--reason", "x"],
        &["key", "create", "claviger-state"],
    ] {
        assert!(!cli(&daemon.home, words).0, "{words:?}");
    }
}
