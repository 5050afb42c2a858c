//! Recovery at scale: many keys of every purpose, a run that is cut off and begun again, another token, and what becomes
//! of keys that may be in other hands.
//!
//! `cargo test --test recovery -- --ignored --nocapture` measures it with 1,000 keys (`KEYS=5000` for another number).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use claviger::core::payment::evm::UnsignedTx;
use claviger::core::units::keccak256;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::{Value, json};
use support::rig::{Rig, again_with_softhsm};
use support::{BOB, Client, Daemon, POLICY, cli, cli_ok, code};

/// The account that signed a payment of EIP-1559: parsed and recovered here, from the bytes that go to the chain.
fn payer(asked: &Value, raw: &str) -> String {
    let bytes = hex::decode(raw.trim_start_matches("0x")).unwrap();
    let mut rest = alloy_rlp::Header::decode_bytes(&mut &bytes[1..], true).unwrap();
    let mut items: Vec<&[u8]> = Vec::new();
    while !rest.is_empty() {
        let length = alloy_rlp::Header::decode(&mut rest).unwrap().payload_length;
        let (item, tail) = rest.split_at(length);
        items.push(item);
        rest = tail;
    }
    let mut halves = [0; 64];
    halves[32 - items[10].len()..32].copy_from_slice(items[10]);
    halves[64 - items[11].len()..].copy_from_slice(items[11]);
    let (tx, _) = UnsignedTx::from_args(asked).unwrap();
    let id = RecoveryId::new(items[9] == [1], false);
    let half = Signature::from_slice(&halves).unwrap();
    let key = VerifyingKey::recover_from_prehash(&tx.signing_hash(), &half, id).unwrap();
    let hash = keccak256(&key.to_sec1_point(false).as_bytes()[1..]);
    format!("0x{}", hex::encode(&hash[12..]))
}

/// One client for many calls: a start of the command line for each of a thousand keys would measure that.
fn ask(client: &mut Client, method: &str, params: &Value) -> Value {
    let reply = client.call(method, params);
    assert_eq!(code(&reply), "ok", "{method} {params}: {reply}");
    reply["result"].clone()
}

fn start_recover(rig: &Rig, home: &Path, shares: &[&str], more: &[&str]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .args(["--json", "--config", home.join("clavigerd.toml").to_str().unwrap(), "recover"])
        .arg(rig.at("media-a"))
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all((shares.join("\n") + "\n").as_bytes()).unwrap();
    child
}

/// Peak memory of a process and its children, kB.
fn peak(pid: u32) -> u64 {
    let of = |pid: u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("0");
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    of(pid) + children.split_whitespace().map(|c| of(c.parse().unwrap())).sum::<u64>()
}

/// Waits for a recovery; what it said, its lines of progress, and its peak memory.
fn finished(mut child: Child) -> (Value, String, u64) {
    let mut most = 0;
    let pid = child.id();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let said = std::thread::spawn(move || std::io::read_to_string(&mut out).unwrap());
    let told = std::thread::spawn(move || std::io::read_to_string(&mut err).unwrap());
    while child.try_wait().unwrap().is_none() {
        most = most.max(peak(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
    let value = serde_json::from_str(&said.join().unwrap()).unwrap_or_default();
    (value, told.join().unwrap(), most)
}

const MORE: &str = "\n[[rule]]\nid = \"all\"\neffect = \"permit\"\nkeys = [\"*\"]\napps = [\"test\"]\nchains = [\"eip155:1\"]\n\
                    assets = [\"ETH\"]\nto.allow = [\"@friends\"]\nper_tx.max = \"100\"\nfee.max = \"1000000000000000\"\n\
                    [[rule]]\nid = \"data\"\neffect = \"permit\"\nkeys = [\"*\"]\napps = [\"test\"]\n\
                    acts = [\"login\", \"encrypt\", \"decrypt\", \"mac\", \"verify-mac\"]\n";

/// Keys on SoftHSM; token, disk and two of five shares are lost; all of them come back in an embedded token, and in another
/// SoftHSM, and pay as who they were.
fn lose_all_and_come_back(count: usize) {
    let rig = Rig::new();
    let (pin, officer) = (rig.at("pin"), rig.at("so-pin"));
    for (file, text) in [(&pin, "1234"), (&officer, "12345678")] {
        std::fs::write(file, text).unwrap();
        assert!(Command::new("chmod").arg("600").arg(file).status().unwrap().success());
    }
    let (pin, officer) = (pin.to_str().unwrap(), officer.to_str().unwrap());
    let on = |label: &'static str| ["--profile", "softhsm2", "--token-label", label, "--pin-file", pin];
    rig.init_on(&rig.home, &on("one"));
    let shares = rig.ceremony(&["--group", "3/5", "--so-pin-file", officer], false).unwrap();
    let daemon = Daemon::on(&rig.home);
    let mut operator = daemon.operator();
    let began = Instant::now();
    let mut accounts = BTreeMap::new();
    for n in 0..count {
        let name = format!("k{n}");
        let made = ask(&mut operator, "operator_keyCreate", &json!({"name": name}));
        assert_eq!(made["state"], "active");
        accounts.insert(name, made["address"].as_str().unwrap().to_owned());
    }
    println!("{count} keys made and backed up in {:.1} s", began.elapsed().as_secs_f64());
    // One of each other purpose, with what it protected.
    for (name, purpose, algorithm) in [
        ("login", "authentication", "p256"),
        ("vault", "encryption", "aes256-gcm"),
        ("stamp", "integrity", "hmac-sha256"),
        ("wrap", "transport", "aes256-kw"),
    ] {
        let words = json!({"name": name, "purpose": purpose, "algorithm": algorithm});
        assert_eq!(ask(&mut operator, "operator_keyCreate", &words)["state"], "active");
    }
    let me = std::env::current_exe().unwrap();
    let set_up = |daemon: &Daemon| {
        cli_ok(&daemon.home, &["app", "add", "test", "--path", me.to_str().unwrap()]);
        daemon.apply(&format!("{POLICY}{MORE}"));
    };
    set_up(&daemon);
    let publics: BTreeMap<String, String> = ask(&mut operator, "operator_keyList", &Value::Null)
        .as_array()
        .unwrap()
        .iter()
        .map(|k| (k["name"].as_str().unwrap().to_owned(), k["public_key"].as_str().unwrap().to_owned()))
        .collect();
    let mut wallet = daemon.wallet();
    let plain = "0x00112233";
    let sealed = ask(&mut wallet, "claviger_encrypt", &json!({"key": "vault", "plaintext": plain}));
    let mac = ask(&mut wallet, "claviger_mac", &json!({"key": "stamp", "data": plain}));
    assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    drop((wallet, operator));
    drop(daemon);
    // Token, disk, and the shares of two custodians.
    std::fs::remove_dir_all(&rig.home).unwrap();
    let wiped = Command::new("softhsm2-util").args(["--delete-token", "--token", "one"]).output().unwrap();
    assert!(wiped.status.success());
    let three: Vec<&str> = [0, 2, 4].iter().map(|n| shares[*n].as_str()).collect();
    let places: [(&str, Vec<&str>, Vec<&str>); 2] = [
        ("embedded", vec!["--profile", "embedded"], vec![]),
        ("softhsm", on("two").to_vec(), vec!["--so-pin-file", officer]),
    ];
    for (name, token, more) in places {
        let home = rig.at(name);
        rig.init_on(&home, &token);
        let began = Instant::now();
        let (told, progress, most) = finished(start_recover(&rig, &home, &three, &more));
        let took = began.elapsed();
        println!("{name}: {} bundles in {:.2} s, {} kB at most", told["of"], took.as_secs_f64(), most);
        assert_eq!((&told["restored"], &told["there"]), (&json!(count + 4), &json!(0)), "{told}");
        assert_eq!(told["unknown_shares"], json!([]));
        let (last, all) = (progress.lines().last().unwrap_or_default(), count + 4);
        assert!(last.contains(&format!("{all} of {all} bundles, {all} restored")), "{progress}");
        assert!(!progress.contains('\r') && progress.contains("/s"), "{progress}");
        let daemon = Daemon::on(&home);
        set_up(&daemon);
        let mut operator = daemon.operator();
        let mut wallet = daemon.wallet();
        for key in ask(&mut operator, "operator_keyList", &Value::Null).as_array().unwrap() {
            let key_name = key["name"].as_str().unwrap();
            if key_name.starts_with("claviger-") {
                continue;
            }
            assert_eq!(
                (&key["state"], key["public_key"].as_str()),
                (&json!("suspended"), publics.get(key_name).map(String::as_str))
            );
            let go = json!({"name": key_name, "to": "active", "reason": "the recovery is over"});
            ask(&mut operator, "operator_keyMove", &go);
        }
        for (at, (_, address)) in (1_u64..).zip(&accounts) {
            let tx = json!({"from": address, "to": BOB, "value": "0x1", "gas": "0x5208", "nonce": format!("{at:#x}"),
                "maxFeePerGas": "0x3b9aca00", "maxPriorityFeePerGas": "0x1", "chainId": "0x1"});
            let signed = ask(&mut wallet, "claviger_signPayment", &json!({"transaction": tx}));
            assert_eq!(payer(&tx, signed["raw"].as_str().unwrap()), address.to_lowercase());
        }
        let opened = ask(
            &mut wallet,
            "claviger_decrypt",
            &json!({"key": "vault", "ciphertext": sealed["ciphertext"]}),
        );
        assert_eq!(opened["plaintext"], plain);
        let verified = ask(
            &mut wallet,
            "claviger_verifyMac",
            &json!({"key": "stamp", "data": plain, "mac": mac["mac"]}),
        );
        assert_eq!(verified["valid"], true);
        let login =
            json!({"key": "login", "audience": "example.org", "challenge": format!("0x{}", "07".repeat(32))});
        ask(&mut wallet, "claviger_signLogin", &login);
        assert_eq!(cli_ok(&home, &["token", "inventory"])["equal"], true);
        // What came back can be backed up where it is.
        cli_ok(&home, &["backup", "make", "vault"]);
        cli_ok(&home, &["backup", "make", "k0"]);
        assert_eq!(cli_ok(&home, &["backup", "verify"])["ok"], true);
        daemon.verify_log();
    }
}

// [clause 8.2.2-g] test
// [clause 8.2.2-f] test
#[test]
fn fifty_keys_of_a_lost_token_come_back_here_and_elsewhere() {
    if !again_with_softhsm("fifty_keys_of_a_lost_token_come_back_here_and_elsewhere") {
        lose_all_and_come_back(50);
    }
}

#[test]
#[ignore = "it measures, and takes minutes"]
fn measured_with_a_thousand_keys() {
    if !again_with_softhsm("measured_with_a_thousand_keys") {
        let count = std::env::var("KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
        lose_all_and_come_back(count);
    }
}

// [clause 8.2.2-g] test
#[test]
fn a_recovery_that_is_killed_goes_on_where_it_was_and_leaves_no_second_copy() {
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "2/2"], false).unwrap();
    let daemon = Daemon::on(&rig.home);
    let mut operator = daemon.operator();
    for n in 0..12 {
        ask(&mut operator, "operator_keyCreate", &json!({"name": format!("k{n}")}));
    }
    drop(operator);
    drop(daemon);
    std::fs::remove_dir_all(&rig.home).unwrap();
    let new = rig.at("new");
    rig.init(&new);
    let both: Vec<&str> = shares.iter().map(String::as_str).collect();
    let (mut killed, mut before) = (0, 0);
    for round in 0..60_u64 {
        let mut child = start_recover(&rig, &new, &both, &[]);
        // Later each time, so that every step is met by somebody: opening, the vault, each key.
        std::thread::sleep(Duration::from_millis(300 + round * 35));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        killed += 1;
    }
    let (told, said, _) = finished(start_recover(&rig, &new, &both, &[]));
    assert!(told["restored"].is_u64(), "{told}\n{said}");
    let (restored, there) = (told["restored"].as_u64().unwrap(), told["there"].as_u64().unwrap());
    assert_eq!(restored + there, 12, "{told}");
    before += there;
    println!("killed {killed} times; {before} keys had come back before the last run");
    assert!(killed > 0);
    let daemon = Daemon::on(&new);
    // Each key once in the token, and each with the bundle that it came from. (Trial keys of the token's own test, which
    // was killed as well, are not counted.)
    let publics: Vec<String> = cli_ok(&new, &["key", "list"])
        .as_array()
        .unwrap()
        .iter()
        .filter(|k| k["name"].as_str().unwrap().starts_with('k'))
        .map(|k| k["public_key"].as_str().unwrap().to_owned())
        .collect();
    let held = || -> Vec<String> {
        let texts = rig
            .files()
            .into_iter()
            .filter(|f| f.starts_with(&new) && f.extension().is_some_and(|e| e == "key"));
        texts.map(|f| std::fs::read_to_string(f).unwrap()).collect()
    };
    for public in &publics {
        assert_eq!(held().iter().filter(|text| text.contains(public.as_str())).count(), 1, "{public}");
    }
    assert_eq!(cli_ok(&new, &["backup", "verify"])["ok"], true);
    daemon.verify_log();
    // What came back in pieces ends as a whole, too: where the old token is, nobody knows.
    let told = cli_ok(
        &new,
        &["key", "destroy", "k3", "--confirm", "k3", "--reason", "a test", "--waive-balance", "a test"],
    );
    let open: Vec<&Value> =
        told["copies"].as_array().unwrap().iter().filter(|c| c["gone"].is_null()).collect();
    assert_eq!((open.len(), &open[0]["what"]), (1, &json!("token")), "{told}");
    let place = open[0]["place"].as_str().unwrap();
    let words = [
        "key",
        "destroy-receipt",
        "k3",
        "--what",
        "token",
        "--place",
        place,
        "--how",
        "burnt with the machine",
    ];
    assert_eq!(cli_ok(&new, &words)["state"], "destroyed");
    let left = publics.iter().filter(|p| held().iter().any(|text| text.contains(p.as_str()))).count();
    assert_eq!(left, 11);
    daemon.verify_log();
}

// [clause 8.2.2-g] test
#[test]
fn what_may_be_in_other_hands_comes_back_to_sweep_and_for_nothing_else() {
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "2/2"], false).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    daemon.set_up("hot");
    let address = daemon.address.clone();
    drop(daemon);
    std::fs::remove_dir_all(&rig.home).unwrap();
    let new = rig.at("new");
    rig.init(&new);
    let both: Vec<&str> = shares.iter().map(String::as_str).collect();
    let (told, _, _) = finished(start_recover(&rig, &new, &both, &["--sweep-only"]));
    assert_eq!((&told["restored"], &told["sweep_only"]), (&json!(1), &json!(true)), "{told}");
    let mut daemon = Daemon::on(&new);
    daemon.set_up_again(&address);
    daemon.apply(
        &POLICY.replace("[[rule]]\nid = \"pay\"", "[sweep]\nto = [\"@friends\"]\n[[rule]]\nid = \"pay\""),
    );
    let pays = |daemon: &Daemon, nonce| {
        code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(nonce, 1)]))).to_owned()
    };
    assert_eq!(pays(&daemon, 0), "key_state");
    let (good, text) = cli(&new, &["key", "activate", "hot", "--reason", "please"]);
    assert!(!good && text.contains("key_edge"), "{text}");
    let shown = cli_ok(&new, &["key", "sweep-only", "hot", "--reason", "get the money out"]);
    assert_eq!(shown["state"], "sweep-only");
    assert_eq!(pays(&daemon, 0), "ok");
    daemon.apply(&POLICY.replace(
        "[[rule]]\nid = \"pay\"",
        "[books.others]\nx = \"0x3333333333333333333333333333333333333333\"\n[sweep]\nto = [\"@others\"]\n[[rule]]\nid = \"pay\"",
    ));
    assert_eq!(pays(&daemon, 1), "sweep_only");
    daemon.verify_log();
}

// [clause 8.2.2-h] test
#[test]
fn backups_are_looked_at_on_a_schedule_and_what_is_wrong_raises_an_alarm() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/2"], false).unwrap();
    let config = rig.home.join("clavigerd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen("enabled = true", "enabled = true\nverify = \"1s\"", 1)).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    cli_ok(&rig.home, &["key", "create", "hot"]);
    let copy = rig.at("media-a/hot.e1.bundle");
    let whole = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let seen = |wrong: usize| {
        let began = Instant::now();
        loop {
            let told = cli_ok(&rig.home, &["status"])["backups"].clone();
            if !told["looked"].is_null() && told["wrong"].as_array().unwrap().len() == wrong {
                return told;
            }
            assert!(began.elapsed().as_secs() < 30, "{told}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    daemon.restart();
    let told = seen(1);
    assert!(told["wrong"][0]["what"].as_str().unwrap().contains("media-a/hot.e1.bundle"), "{told}");
    // Once, as long as nothing changes; and it is over when the copy is there again.
    std::thread::sleep(Duration::from_millis(1500));
    std::fs::write(&copy, whole).unwrap();
    daemon.restart();
    seen(0);
    assert_eq!(daemon.verify_log()["alarms"], 1);
}

// [clause 8.2.2-e] test
#[test]
fn a_daemon_that_is_killed_while_it_backs_up_leaves_no_active_key_without_a_bundle() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/2"], false).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    for (n, after) in [0_u64, 10, 20, 35, 50, 80, 120, 180].into_iter().enumerate() {
        let name = format!("k{n}");
        let mut asking = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .args(["--config", rig.home.join("clavigerd.toml").to_str().unwrap(), "key", "create", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after));
        daemon.restart();
        asking.wait().unwrap();
        for key in cli_ok(&rig.home, &["key", "list"]).as_array().unwrap() {
            let name = key["name"].as_str().unwrap();
            if name.starts_with("claviger-") {
                continue;
            }
            if key["state"] == "pre-active" {
                // Cut off before its bundle was known: it is made now, and the key goes on.
                cli_ok(&rig.home, &["key", "activate", name, "--reason", "it was cut off"]);
            }
            let copies = cli_ok(&rig.home, &["key", "copies", name]);
            assert_eq!(copies["copies"].as_array().unwrap().len(), 5, "{copies}");
        }
        assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    }
    daemon.verify_log();
}
