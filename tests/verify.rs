//! The auditor's own program, on what a real daemon exported.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, cli_ok, code};

/// Exit code, and what it says.
fn verify(words: &[&str]) -> (i32, Value) {
    let out = Command::new(env!("CARGO_BIN_EXE_claviger-verify")).arg("--json").args(words).output().unwrap();
    (out.status.code().unwrap(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn rules(told: &Value) -> Vec<String> {
    let all = told["breaches"].as_array().unwrap().iter();
    let mut rules: Vec<String> = all.map(|b| b["rule"].as_str().unwrap().to_owned()).collect();
    rules.sort();
    rules.dedup();
    rules
}

fn export(daemon: &Daemon, name: &str) -> PathBuf {
    let dir = daemon.home.join(name);
    cli_ok(&daemon.home, &["log", "export", dir.to_str().unwrap()]);
    dir
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

fn pays(daemon: &Daemon, nonce: u64, value: u64) -> String {
    code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(nonce, value)]))).to_owned()
}

/// The only bundle of entries of a small log.
fn bundle(dir: &Path) -> PathBuf {
    let parts = dir.join("tile/entries/000.p");
    std::fs::read_dir(parts).unwrap().next().unwrap().unwrap().path()
}

/// Entries, each behind its length.
fn entries(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = at + 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        all.push(bytes[at..end].to_vec());
        at = end;
    }
    all
}

// [clause 8.7.1-v] test
#[test]
fn a_whole_life_verifies_and_everything_that_is_done_to_its_log_is_found() {
    let mut daemon = Daemon::start();
    // A key that is made, pays, and goes from its creation to its destruction by policy alone.
    let keys = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/keys.toml")).unwrap();
    let brief = keys
        .replacen("protect = \"2y\"", "protect = \"3s\"", 1)
        .replacen("sweep = \"90d\"", "sweep = \"1s\"", 1)
        .replacen("destroy_within = \"30d\"", "destroy_within = \"1s\"", 1)
        .replacen("destroy = \"alarm\"", "destroy = \"by-itself\"", 1);
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("keys_file = \"keys.toml\"\n{config}")).unwrap();
    std::fs::write(daemon.home.join("keys.toml"), &keys).unwrap();
    daemon.restart();
    for nonce in 0..5 {
        assert_eq!(pays(&daemon, nonce, 40), "ok");
    }
    assert_eq!(pays(&daemon, 9, 101), "over_limit");
    let early = export(&daemon, "early");
    daemon.signal("KILL");
    daemon.restart();
    assert_eq!(pays(&daemon, 5, 50), "ok");
    assert_eq!(pays(&daemon, 6, 1), "window_exceeded");
    std::fs::write(daemon.home.join("keys.toml"), brief).unwrap();
    daemon.restart();
    let began = Instant::now();
    while cli_ok(&daemon.home, &["key", "show", "hot"])["state"] != "destroyed" {
        assert!(began.elapsed() < Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(200));
    }
    let late = export(&daemon, "late");
    // The key is kept elsewhere, as an auditor does.
    let key = daemon.home.join("kept.vkey");
    std::fs::copy(early.join("log.vkey"), &key).unwrap();
    let kept = daemon.home.join("kept.checkpoint");
    std::fs::copy(early.join("checkpoint"), &kept).unwrap();
    let newest = late.join("checkpoint");
    let key = key.to_str().unwrap();
    let check = |dir: &Path, since: Option<&Path>| {
        let mut words = vec!["log", dir.to_str().unwrap(), "--key", key, "--strict"];
        if let Some(note) = since {
            words.extend(["--since", note.to_str().unwrap()]);
        }
        verify(&words)
    };
    let (exit, told) = check(&late, Some(&kept));
    assert_eq!((exit, &told["breaches"], &told["unproven"]), (0, &json!([]), &json!([])), "{told}");
    assert_eq!((told["intents"].as_u64(), told["judged"].as_u64()), (Some(6), Some(6)), "{told}");
    assert!(told["checkpoints"].as_u64().unwrap() > 1, "{told}");
    assert_eq!(told["totals"]["hot eip155:1 native"], "250");

    // Yesterday's copy is in order by itself; a checkpoint of today finds it.
    assert_eq!(check(&early, None).0, 0);
    let (exit, told) = check(&early, Some(&newest));
    assert_eq!((exit, rules(&told)), (1, vec!["consistency".to_owned()]));

    let whole = std::fs::read(bundle(&late)).unwrap();
    let parts = entries(&whole);
    let tampered = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let dir = daemon.home.join("tampered");
        std::fs::remove_dir_all(&dir).ok();
        copy(&late, &dir);
        let mut parts = parts.clone();
        change(&mut parts);
        std::fs::write(bundle(&dir), parts.concat()).unwrap();
        check(&dir, None)
    };
    let middle = parts.len() / 2;
    for (what, (exit, told)) in [
        ("flip", tampered(&|p| *p[middle].last_mut().unwrap() ^= 1)),
        ("drop", tampered(&|p| drop(p.remove(middle)))),
        ("swap", tampered(&|p| p.swap(middle, middle + 1))),
        ("again", tampered(&|p| p.insert(middle, p[middle].clone()))),
        ("cut", tampered(&|p| p.truncate(middle))),
    ] {
        assert_eq!(exit, 1, "{what}: {told}");
        assert!(rules(&told).contains(&"tree".to_owned()), "{what}: {told}");
    }
    // A checkpoint over fewer entries cannot be made up: its signature is that of a larger tree.
    let dir = daemon.home.join("tampered");
    copy(&early, &dir);
    let note = std::fs::read_to_string(&newest).unwrap();
    let size = note.lines().nth(1).unwrap().to_owned();
    std::fs::write(
        dir.join("checkpoint"),
        note.replacen(&size, &parts.len().saturating_sub(1).to_string(), 1),
    )
    .unwrap();
    let (exit, told) = check(&dir, None);
    assert_eq!(exit, 1);
    assert!(rules(&told).contains(&"signature".to_owned()), "{told}");
    // What cannot be read is neither right nor wrong.
    std::fs::remove_file(dir.join("checkpoint")).unwrap();
    assert_eq!(check(&dir, None).0, 2);
    assert_eq!(verify(&["log", late.to_str().unwrap(), "--key", "/nowhere"]).0, 2);
}

// [clause 8.7.1-e] test
#[test]
fn one_entry_is_shown_to_somebody_who_sees_nothing_else() {
    let daemon = Daemon::start();
    for nonce in 0..3 {
        assert_eq!(pays(&daemon, nonce, 1), "ok");
    }
    let dir = export(&daemon, "export");
    let key = dir.join("log.vkey");
    let entries = cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
    let all = entries["entries"].as_array().unwrap();
    let bundle = daemon.home.join("proof");
    let check = |text: &str| {
        std::fs::write(&bundle, text).unwrap();
        verify(&["proof", bundle.to_str().unwrap(), "--key", key.to_str().unwrap()])
    };
    for entry in [all.first().unwrap(), &all[all.len() / 2], all.last().unwrap()] {
        let index = entry["seq"].to_string();
        let proof = cli_ok(&daemon.home, &["log", "prove", &index])["proof"].as_str().unwrap().to_owned();
        let (exit, told) = check(&proof);
        assert_eq!((exit, &told["entry"]), (0, entry), "{told}");
        let next = proof.replacen(&format!("index {index}\n"), &format!("index {}\n", all.len() + 1), 1);
        assert_eq!(check(&next).0, 1);
        // Another entry in its place.
        let other = all.iter().find(|e| e["seq"] != entry["seq"]).unwrap()["seq"].to_string();
        let other = cli_ok(&daemon.home, &["log", "prove", &other])["proof"].as_str().unwrap().to_owned();
        let (mine, theirs) = (proof.lines().nth(1).unwrap(), other.lines().nth(1).unwrap());
        assert_eq!(check(&proof.replacen(mine, theirs, 1)).0, 1);
        assert_eq!(check(&proof.replacen("index", "indices", 1)).0, 2);
    }
    let beyond = daemon.operator().call("operator_logProve", &json!({"index": 1_000_000}));
    assert_eq!(code(&beyond), "invalid_params");
    // The key of another log shows nothing.
    let other = Daemon::start();
    let key = export(&other, "export").join("log.vkey");
    let words = ["proof", bundle.to_str().unwrap(), "--key", key.to_str().unwrap()];
    std::fs::write(&bundle, cli_ok(&daemon.home, &["log", "prove", "0"])["proof"].as_str().unwrap()).unwrap();
    assert_eq!(verify(&words).0, 1);
}
