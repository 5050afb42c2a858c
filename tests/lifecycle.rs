//! The lives of keys, on a real daemon: moved, rotated under load, ended by policy, destroyed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{BOB, Client, Daemon, POLICY, cli, cli_ok, code};

fn moved(daemon: &Daemon, to: &str) -> String {
    let mut operator = daemon.operator();
    let mut words = json!({"name": "hot", "to": to, "reason": "a test"});
    if to == "destroyed" {
        words["waiver"] = json!("a test");
    }
    let reply = operator.call("operator_keyMove", &words);
    code(&reply).to_owned()
}

fn pays(daemon: &Daemon, nonce: u64) -> String {
    code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(nonce, 1)]))).to_owned()
}

fn state(daemon: &Daemon, key: &str) -> String {
    cli_ok(&daemon.home, &["key", "show", key])["state"].as_str().unwrap().to_owned()
}

/// All entries of the log.
fn log(daemon: &Daemon) -> Vec<Value> {
    let mut all = Vec::new();
    loop {
        let page =
            cli_ok(&daemon.home, &["log", "show", "--from", &all.len().to_string(), "--count", "1000"]);
        let entries = page.as_array().or_else(|| page["entries"].as_array()).unwrap().clone();
        if entries.is_empty() {
            return all;
        }
        all.extend(entries.into_iter().map(|e| match e {
            Value::String(line) => serde_json::from_str(&line).unwrap(),
            other => other,
        }));
    }
}

// [clause 8.7.1-b] test
#[test]
fn a_key_does_what_its_state_allows_and_goes_one_way() {
    let daemon = Daemon::start();
    assert_eq!(pays(&daemon, 0), "ok");
    assert_eq!(moved(&daemon, "suspended"), "ok");
    assert_eq!(pays(&daemon, 1), "key_state");
    assert_eq!(moved(&daemon, "pre-active"), "key_edge");
    assert_eq!(moved(&daemon, "nowhere"), "invalid_params");
    assert_eq!(moved(&daemon, "active"), "ok");
    assert_eq!(pays(&daemon, 1), "ok");
    let nothing =
        daemon.operator().call("operator_keyMove", &json!({"name": "hot", "to": "suspended", "reason": " "}));
    assert_eq!(code(&nothing), "invalid_params");

    assert_eq!(moved(&daemon, "sweep-only"), "ok");
    assert_eq!(pays(&daemon, 2), "sweep_only");
    let text = daemon.wallet().call("personal_sign", &json!(["0x6869", daemon.address]));
    assert_eq!(code(&text), "key_state", "a key at its end signs no messages");
    daemon.apply(
        &POLICY.replace("[[rule]]\nid = \"pay\"", "[sweep]\nto = [\"@friends\"]\n[[rule]]\nid = \"pay\""),
    );
    assert_eq!(pays(&daemon, 2), "ok");
    assert_eq!(moved(&daemon, "active"), "key_edge");
    assert_eq!(moved(&daemon, "deactivated"), "ok");
    assert_eq!(pays(&daemon, 3), "key_state");
    assert_eq!(moved(&daemon, "compromised"), "ok");
    assert_eq!(moved(&daemon, "deactivated"), "key_edge");

    let (good, _) = cli(&daemon.home, &["key", "destroy", "hot", "--reason", "a test", "--confirm", "cold"]);
    assert!(!good);
    assert_eq!(state(&daemon, "hot"), "compromised");
    cli_ok(
        &daemon.home,
        &["key", "destroy", "hot", "--reason", "a test", "--confirm", "hot", "--waive-balance", "a test"],
    );
    let record = cli_ok(&daemon.home, &["key", "show", "hot"]);
    assert_eq!(record["state"], "destroyed");
    assert!(record["compromised"].is_string() && record["public_key"].is_string(), "{record}");
    assert_eq!(pays(&daemon, 3), "key_state");
    assert_eq!(moved(&daemon, "destroyed"), "key_edge");
    let inventory = cli_ok(&daemon.home, &["token", "inventory"]);
    assert_eq!(inventory["equal"], true, "{inventory}");
    let again = daemon.operator().call("operator_keyCreate", &json!({"name": "hot"}));
    assert_eq!(code(&again), "key_exists", "a name is never used again");
    let of_the_log = daemon
        .operator()
        .call("operator_keyMove", &json!({"name": "claviger-log", "to": "destroyed", "reason": "a test"}));
    assert_eq!(code(&of_the_log), "key_edge");
    daemon.verify_log();
}

fn rewrite_key_policy(daemon: &Daemon, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/keys.toml")).unwrap();
    std::fs::write(daemon.home.join("keys.toml"), change(text)).unwrap();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    if !config.contains("keys_file") {
        std::fs::write(&file, format!("keys_file = \"keys.toml\"\n{config}")).unwrap();
    }
}

// [clause 8.7.1-b] test
#[test]
fn a_key_that_is_not_active_yet_does_nothing() {
    let mut daemon = Daemon::start();
    rewrite_key_policy(&daemon, |t| t.replace("at-once", "by-hand"));
    daemon.restart();
    let made = cli_ok(&daemon.home, &["key", "create", "next"]);
    assert_eq!(made["state"], "pre-active");
    daemon.apply(&POLICY.replace("\"hot\"", "\"next\""));
    daemon.address = made["address"].as_str().unwrap().to_owned();
    assert_eq!(pays(&daemon, 0), "key_state");
    cli_ok(&daemon.home, &["key", "activate", "next", "--reason", "a test"]);
    assert_eq!(pays(&daemon, 0), "ok");
    daemon.verify_log();
}

// [clause 8.7.1-f] test
#[test]
fn a_key_lives_and_dies_by_policy_alone() {
    let mut daemon = Daemon::start();
    rewrite_key_policy(&daemon, |t| {
        t.replacen("protect = \"2y\"", "protect = \"3s\"", 1)
            .replacen("sweep = \"90d\"", "sweep = \"2s\"", 1)
            .replacen("destroy_within = \"30d\"", "destroy_within = \"1s\"", 1)
            .replacen("destroy = \"alarm\"", "destroy = \"by-itself\"", 1)
            .replacen("algorithms = [\"secp256k1\", \"p256\", \"ed25519\"]", "algorithms = [\"p256\"]", 1)
    });
    daemon.restart();
    let refused = daemon.operator().call("operator_keyCreate", &json!({"name": "k1"}));
    assert_eq!(code(&refused), "key_policy_forbids");
    cli_ok(&daemon.home, &["key", "create", "brief", "--algorithm", "p256"]);
    assert_eq!(state(&daemon, "brief"), "active");
    let due = cli_ok(&daemon.home, &["key", "due"]);
    assert!(due.as_array().unwrap().iter().any(|k| k["name"] == "brief" && k["to"] == "sweep-only"), "{due}");
    let began = Instant::now();
    while state(&daemon, "brief") != "destroyed" {
        assert!(began.elapsed() < Duration::from_secs(15), "{}", state(&daemon, "brief"));
        std::thread::sleep(Duration::from_millis(200));
    }
    // The key that was there before the policy fell under it as well.
    assert_eq!(state(&daemon, "hot"), "destroyed");
    assert_eq!(state(&daemon, "claviger-log"), "active");
    let moves: Vec<(String, String)> = log(&daemon)
        .iter()
        .filter(|e| e["kind"] == "key-moved" && e["key"] == "brief")
        .map(|e| (e["to"].as_str().unwrap().to_owned(), e["actor"].as_str().unwrap().to_owned()))
        .collect();
    let states: Vec<&str> = moves.iter().map(|(to, _)| to.as_str()).collect();
    assert_eq!(states, ["active", "sweep-only", "deactivated", "destroyed"]);
    assert!(moves.iter().all(|(_, actor)| actor == "key policy"), "{moves:?}");
    assert_eq!(cli_ok(&daemon.home, &["token", "inventory"])["equal"], true);
    daemon.verify_log();
}

// [clause 8.7.1-h] test
#[test]
fn a_destruction_that_was_begun_is_finished() {
    let mut daemon = Daemon::start();
    let token = std::fs::read_dir(&daemon.home)
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|p| p.join("token.json").exists())
        .or_else(|| Some(daemon.home.join("state/token")).filter(|p| p.exists()))
        .unwrap();
    let away = token.with_extension("away");
    std::fs::rename(&token, &away).unwrap();
    assert_ne!(moved(&daemon, "destroyed"), "ok");
    let record = cli_ok(&daemon.home, &["key", "show", "hot"]);
    assert_eq!((record["destroying"].clone(), record["state"].clone()), (json!(true), json!("active")));
    std::fs::rename(&away, &token).unwrap();
    // It does nothing any more, even before it is gone, and nothing brings it back.
    daemon.restart();
    assert_eq!(pays(&daemon, 0), "key_state");
    assert_eq!(moved(&daemon, "suspended"), "key_edge");
    let began = Instant::now();
    while state(&daemon, "hot") != "destroyed" {
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(cli_ok(&daemon.home, &["token", "inventory"])["equal"], true);
    daemon.verify_log();
}

// [clause 8.7.1-g] test
#[test]
fn a_rotation_under_load_loses_no_request_and_the_old_key_signs_nothing_after_it() {
    let daemon = Daemon::start();
    daemon.apply(&POLICY.replace("\"250\"", "\"1000000\""));
    let (stop, nonces) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..16)
        .map(|_| {
            let (stop, nonces, socket) = (stop.clone(), nonces.clone(), daemon.home.join("wallet.sock"));
            std::thread::spawn(move || {
                let mut wallet = Client::open(&socket);
                let mut signed = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let nonce = nonces.fetch_add(1, Ordering::Relaxed);
                    let tx = json!({"to": BOB, "value": "0x1", "gas": "0x5208", "maxFeePerGas": "0x3b9aca00",
                        "maxPriorityFeePerGas": "0x1", "nonce": format!("{nonce:#x}"), "chainId": "0x1"});
                    let reply =
                        wallet.call("claviger_signPayment", &json!({"key": "hot", "transaction": tx}));
                    assert_eq!(code(&reply), "ok", "{reply}");
                    signed += 1;
                }
                signed
            })
        })
        .collect();
    for generation in 2..5 {
        std::thread::sleep(Duration::from_millis(400));
        let told = cli_ok(&daemon.home, &["key", "rotate", "hot", "--reason", "a test"]);
        assert_eq!(told["successor"]["name"], format!("hot@{generation}"));
        assert_eq!(told["predecessor"]["state"], "sweep-only");
    }
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let signed: u64 = clients.into_iter().map(|c| c.join().unwrap()).sum();
    assert!(signed > 100, "{signed}");
    let (mut current, mut owner, mut per_key) =
        ("hot".to_owned(), std::collections::HashMap::new(), std::collections::BTreeMap::new());
    for entry in log(&daemon) {
        match entry["kind"].as_str().unwrap() {
            "key-rotated" => current = entry["to"].as_str().unwrap().to_owned(),
            "intent" => {
                assert_eq!(entry["key"], current, "an intent for a key that was rotated away");
                owner.insert(entry["request"].to_string(), current.clone());
            }
            "result" => {
                let key = &owner[&entry["request"].to_string()];
                assert_eq!(*key, current, "a signature by a key that was rotated away");
                *per_key.entry(key.clone()).or_insert(0u64) += 1;
            }
            _ => {}
        }
    }
    assert_eq!(per_key.len(), 4, "{per_key:?}");
    assert_eq!(per_key.values().sum::<u64>(), signed);
    // The account of the first generation is another one, and over.
    assert_eq!(pays(&daemon, 1_000_000), "sweep_only");
    // Limits go on: the successor has what its predecessors left, not a window of its own.
    daemon.apply(&POLICY.replace("\"250\"", &format!("\"{signed}\"")));
    let tx = json!({"to": BOB, "value": "0x1", "gas": "0x5208", "maxFeePerGas": "0x3b9aca00",
        "maxPriorityFeePerGas": "0x1", "nonce": "0xffffff", "chainId": "0x1"});
    let reply = daemon.wallet().call("claviger_signPayment", &json!({"key": "hot", "transaction": tx}));
    assert_eq!(code(&reply), "window_exceeded");
    daemon.verify_log();
}

// [clause 8.7.1-g] test
#[test]
fn what_was_protected_before_a_rotation_is_processed_after_it_by_the_same_name() {
    let daemon = Daemon::start();
    for (name, words) in [
        ("vault", &["--purpose", "encryption"][..]),
        ("stamp", &["--purpose", "integrity", "--algorithm", "hmac-sha256"]),
    ] {
        cli_ok(&daemon.home, &[&["key", "create", name], words].concat());
    }
    daemon.apply(&format!(
        "{POLICY}\n[[rule]]\nid = \"data\"\neffect = \"permit\"\nkeys = [\"vault\", \"stamp\"]\napps = [\"test\"]\n\
         acts = [\"encrypt\", \"decrypt\", \"mac\", \"verify-mac\"]\n"
    ));
    let mut wallet = daemon.wallet();
    let mut ask = |method: &str, params: Value| wallet.call(method, &params);
    let (plain, aad) = ("0x00112233445566778899aabbccddeeff", "0x01");
    let mut kept = Vec::new();
    for generation in 1..=3 {
        let sealed = ask("claviger_encrypt", json!({"key": "vault", "plaintext": plain, "aad": aad}));
        let mac = ask("claviger_mac", json!({"key": "stamp", "data": plain}));
        let name =
            |line: &str| if generation == 1 { line.to_owned() } else { format!("{line}@{generation}") };
        assert_eq!(sealed["result"]["key"], name("vault"), "{sealed}");
        assert_eq!(mac["result"]["key"], name("stamp"), "{mac}");
        kept.push((sealed["result"]["ciphertext"].clone(), mac["result"]["mac"].clone()));
        for (ciphertext, mac) in &kept {
            let opened =
                ask("claviger_decrypt", json!({"key": "vault", "ciphertext": ciphertext, "aad": aad}));
            assert_eq!(opened["result"]["plaintext"], plain, "{opened}");
            let verified = ask("claviger_verifyMac", json!({"key": "stamp", "data": plain, "mac": mac}));
            assert_eq!(verified["result"]["valid"], true, "{verified}");
        }
        for line in ["vault", "stamp"] {
            let told = cli_ok(&daemon.home, &["key", "rotate", line, "--reason", "a test"]);
            assert_eq!(told["predecessor"]["state"], "deactivated");
        }
    }
    // What no generation made is no data, and a generation that is compromised processes nothing any more.
    let wrong = ask("claviger_decrypt", json!({"key": "vault", "ciphertext": kept[0].0, "aad": "0x02"}));
    assert_eq!(code(&wrong), "data_invalid");
    let wrong = ask("claviger_verifyMac", json!({"key": "stamp", "data": "0x00", "mac": kept[0].1}));
    assert_eq!(wrong["result"]["valid"], false);
    cli_ok(&daemon.home, &["key", "compromise", "vault@2", "--reason", "a test"]);
    for (at, expected) in [(0, "ok"), (1, "data_invalid"), (2, "ok")] {
        let opened = ask("claviger_decrypt", json!({"key": "vault", "ciphertext": kept[at].0, "aad": aad}));
        assert_eq!(code(&opened), expected, "generation {}: {opened}", at + 1);
    }
    daemon.verify_log();
}

// [clause 8.4.3-c] test
#[test]
fn who_tries_the_limits_of_a_key_loses_it() {
    let daemon = Daemon::start();
    let wired = |refusals: u32| {
        POLICY.replace(
            "[[rule]]\nid = \"pay\"",
            &format!("[tripwire]\nrefusals = {refusals}\nwithin = \"10m\"\n[[rule]]\nid = \"pay\""),
        )
    };
    let tries = |value: u64| {
        code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(9, value)]))).to_owned()
    };
    daemon.apply(&wired(4));
    for _ in 0..3 {
        assert_eq!(tries(101), "over_limit");
    }
    // An app that may not use the key cannot stop it.
    daemon.apply(&wired(4).replace("apps = [\"test\"]", "apps = [\"claviger-cli\"]"));
    for _ in 0..8 {
        assert_eq!(tries(1), "key_not_allowed");
    }
    daemon.apply(&wired(4));
    assert_eq!(state(&daemon, "hot"), "active");
    assert_eq!(pays(&daemon, 0), "ok");
    assert_eq!(tries(101), "over_limit");
    assert_eq!(state(&daemon, "hot"), "suspended");
    assert_eq!(pays(&daemon, 1), "key_state");
    let moved = log(&daemon).into_iter().rfind(|e| e["kind"] == "key-moved").unwrap();
    assert_eq!(
        (moved["actor"].as_str(), moved["to"].as_str()),
        (Some("tripwire"), Some("suspended")),
        "{moved}"
    );
    cli_ok(&daemon.home, &["key", "activate", "hot", "--reason", "looked into it"]);
    assert_eq!(pays(&daemon, 1), "ok");
    daemon.verify_log();
}
