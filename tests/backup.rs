//! Backups as people make and use them: a ceremony, bundles, a token that is lost, a key that shall stay destroyed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use claviger::core::backup::age::Identity;
use claviger::core::backup::quorum::WRAP_INFO;
use claviger::core::backup::slip39::Share;
use claviger::core::backup::vault::{self, Found, VaultFile};
use claviger::core::backup::{bundle, pkcs8};
use claviger::secret::{Pin, SecretBytes};
use claviger::service::ceremony::identity_of;
use claviger::token::Token;
use claviger::token::embedded::EmbeddedToken;
use claviger::token::profile::Profile;
use serde_json::{Value, json};
use support::rig::{Rig, again_with_softhsm};
use support::{Daemon, cli, cli_ok, code};

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

// [clause 8.2.2-b] test
// [clause 8.2.2-e] test
// [clause 8.2.2-f] test
#[test]
fn a_lost_token_comes_back_from_shares_and_bundles() {
    let rig = Rig::embedded();
    // Without a quorum nobody could open a backup, and so no payment key is made.
    let daemon = Daemon::on(&rig.home);
    let (made, text) = cli(&rig.home, &["key", "create", "hot"]);
    assert!(!made && text.contains("quorum_missing"), "{text}");
    let busy = rig.ceremony(&[], false).unwrap_err();
    assert!(busy.contains("another daemon uses"), "{busy}");
    drop(daemon);
    for (words, why) in
        [(["--group", "1/1"], "one person alone"), (["--group", "6/5"], "at most all of them")]
    {
        let refused = rig.ceremony(&words, false).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let shares = rig.ceremony(&["--group", "2/3"], true).unwrap();
    assert_eq!(shares.len(), 3);
    assert!(rig.ceremony(&[], false).unwrap_err().contains("quorum_exists"));
    // A custodian looks alone whether the sheet is still the one.
    let check = |words: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .args(["--json", "ceremony", "check-share", rig.at("media-a/quorum.json").to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{words}").unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap())
    };
    let (good, told) = check(&shares[1]);
    let value: Value = serde_json::from_str(&told).unwrap();
    assert!(good && value["share"] == 2 && value["epoch"] == 1, "{told}");
    assert!(!told.contains(shares[1].split(' ').nth(9).unwrap()), "{told}");
    let mut wrong: Vec<&str> = shares[1].split(' ').collect();
    wrong.swap(20, 21);
    assert!(check(&wrong.join(" ")).1.contains("share_wrong"));

    let mut daemon = Daemon::on(&rig.home);
    daemon.set_up("hot");
    let more = cli_ok(&rig.home, &["key", "create", "cold", "--algorithm", "ed25519"]);
    assert_eq!(more["state"], "active");
    let signed = daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 100)]));
    assert_eq!(code(&signed), "ok");
    let listed = cli_ok(&rig.home, &["backup", "list"]);
    assert_eq!(
        (listed["keys"][0]["backed_up"].clone(), listed["keys"][1]["backed_up"].clone()),
        (json!(true), json!(true))
    );
    assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    assert_eq!(cli_ok(&rig.home, &["token", "inventory"])["equal"], true);
    daemon.verify_log();
    // A copy that rots is found while the others are whole.
    let copy = rig.at("media-b/hot.e1.bundle");
    let whole = std::fs::read(&copy).unwrap();
    std::fs::write(&copy, &whole[..whole.len() - 1]).unwrap();
    let (good, text) = cli(&rig.home, &["backup", "verify"]);
    assert!(!good && text.contains("media-b/hot.e1.bundle is not the bundle"), "{text}");
    cli_ok(&rig.home, &["backup", "make", "hot"]);
    assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    let address = daemon.address.clone();
    drop(daemon);

    // The machine is gone: register, token, the vault's place there.
    std::fs::remove_dir_all(&rig.home).unwrap();
    let new = rig.at("new");
    rig.init(&new);
    let (good, told) = rig.recover(&new, &[&shares[1]], "media-a");
    assert!(!good && told["data"].is_null(), "{told}");
    let foreign: Vec<&str> = shares[0].split(' ').rev().collect();
    let (good, told) = rig.recover(&new, &[&foreign.join(" ")], "media-a");
    assert!(!good && told["data"]["code"] == "share_wrong", "{told}");
    let (good, told) = rig.recover(&new, &[&shares[2], &shares[0]], "media-a");
    assert!(good, "{told}");
    assert_eq!((&told["restored"], &told["unknown_shares"]), (&json!(2), &json!([])));

    let mut daemon = Daemon::on(&new);
    let shown = cli_ok(&new, &["key", "show", "hot"]);
    assert_eq!((&shown["state"], &shown["address"]), (&json!("suspended"), &json!(address)));
    assert_eq!(shown["origin"]["kind"], "restored");
    daemon.set_up_again(&address);
    let tx = json!([daemon.tx(1, 100)]);
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &tx)), "key_state");
    cli_ok(&new, &["key", "activate", "hot", "--reason", "the rehearsal is over"]);
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &tx)), "ok");
    assert_eq!(cli_ok(&new, &["backup", "verify"])["ok"], true);
    assert_eq!(cli_ok(&new, &["token", "inventory"])["equal"], true);
    daemon.verify_log();
    drop(daemon);
    // Once more: what is there is not brought back over itself.
    let (good, told) = rig.recover(&new, &[&shares[1], &shares[0]], "media-b");
    assert!(good, "{told}");
    assert_eq!((&told["restored"], &told["there"]), (&json!(0), &json!(2)), "{told}");
}

// [clause 8.7.1-s] test
#[test]
fn a_destroyed_key_stays_destroyed_whatever_is_brought_along() {
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "2/2", "--group", "2/2", "--groups-needed", "2"], false).unwrap();
    let daemon = Daemon::on(&rig.home);
    cli_ok(&rig.home, &["key", "create", "hot"]);
    cli_ok(&rig.home, &["key", "create", "stays"]);
    drop(daemon);
    // Everything that a thief or a careful operator could keep: all media, all vaults, with their tokens.
    let kept = rig.at("kept");
    for (from, to) in [("site-b", "kept"), ("media-a", "loot")] {
        let copied = Command::new("cp").arg("-a").arg(rig.at(from)).arg(rig.at(to)).status().unwrap();
        assert!(copied.success());
    }
    let daemon = Daemon::on(&rig.home);
    let words = [
        "key",
        "destroy",
        "hot",
        "--confirm",
        "hot",
        "--reason",
        "it was compromised",
        "--waive-balance",
        "a test",
    ];
    // A place of the vault that is away keeps the key from being called destroyed.
    let file = rig.at("site-b/vault.json");
    let text = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = cli_ok(&rig.home, &words);
    assert_eq!((&told["destroying"], &told["state"]), (&json!(true), &json!("active")), "{told}");
    std::fs::write(&file, text).unwrap();
    cli_ok(&rig.home, &words);
    assert_eq!(cli_ok(&rig.home, &["key", "show", "hot"])["state"], "destroyed");
    daemon.verify_log();
    drop(daemon);
    let all: Vec<&str> = shares.iter().map(String::as_str).collect();
    let codes = |told: &Value| -> Vec<String> {
        let rows = told["data"]["bundles"].as_array().unwrap();
        rows.iter().map(|b| b["code"].as_str().unwrap_or("ok").to_owned()).collect()
    };
    // Into the same register, where the other one is, and into one that knows nothing.
    let (_, told) = rig.recover(&rig.home, &all, "loot");
    assert_eq!(codes(&told), ["key_shredded", "ok"]);
    let new = rig.at("new");
    rig.init(&new);
    let (good, told) = rig.recover(&new, &all, "loot");
    assert!(!good);
    assert_eq!(codes(&told), ["key_shredded", "ok"]);
    // The old table of the vault, put back: its root is gone from the token, so that it opens no more.
    std::fs::copy(kept.join("vault.json"), &file).unwrap();
    let newer = rig.at("newer");
    rig.init(&newer);
    let (good, told) = rig.recover(&newer, &all, "loot");
    assert!(!good && told["data"]["code"] == "vault_failed", "{told}");
    assert!(told["error"].as_str().unwrap().contains("an old copy"), "{told}");
}

// [clause 8.2.2-a] test
#[test]
fn shares_below_the_threshold_with_all_media_and_the_disk_hold_no_key() {
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "3/4"], false).unwrap();
    let daemon = Daemon::on(&rig.home);
    cli_ok(&rig.home, &["key", "create", "hot", "--algorithm", "ed25519"]);
    drop(daemon);
    // What the thief has not: the third share. What the owner can make of all of it, as canaries.
    let parsed: Vec<_> = shares.iter().map(|s| Share::parse(s).unwrap()).collect();
    let identity = identity_of(&parsed[..3]).unwrap();
    let file = std::fs::read(rig.at("media-a/hot.e1.bundle")).unwrap();
    let opened = bundle::open(&identity, &file).unwrap();
    assert_eq!(opened.head.key.as_str(), "hot");
    let wrapping = identity.derive(WRAP_INFO).unwrap();
    let lock = lock_from(&rig, &opened.head);
    let key = pkcs8::unwrap(opened.head.algorithm, &wrapping, &opened.unlock(&lock).unwrap()).unwrap();
    let made = ed25519_dalek::SigningKey::from_bytes(key.expose()).verifying_key();
    assert_eq!(hex::encode(made.to_bytes()), opened.head.public);
    let secret = identity.text().unwrap();
    let mut canaries: Vec<Vec<u8>> = vec![secret.as_bytes().to_vec(), secret.to_lowercase().into_bytes()];
    for bytes in [wrapping.expose(), lock.expose(), key.expose()] {
        canaries.extend([
            bytes.to_vec(),
            hex::encode(bytes).into_bytes(),
            STANDARD.encode(bytes).into_bytes(),
        ]);
        canaries.push(bytes[8..24].to_vec());
    }
    canaries.extend(shares.iter().map(|s| s.clone().into_bytes()));
    for share in &shares {
        // Any six words in a row.
        let words: Vec<&str> = share.split(' ').collect();
        canaries.push(words[10..16].join(" ").into_bytes());
    }
    let files = rig.files();
    assert!(files.len() > 15, "{files:?}");
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        for canary in &canaries {
            assert!(!contains(&bytes, canary), "{}", file.display());
        }
        // The search sees what is there.
        if file.ends_with("media-a/hot.e1.bundle") {
            assert!(contains(&bytes, b"mlkem768x25519"));
        }
    }
    for pair in [[0, 1], [2, 3], [1, 3]] {
        let two: Vec<_> = pair.iter().map(|n| Share::parse(&shares[*n]).unwrap()).collect();
        assert_eq!(identity_of(&two).err().unwrap().code.as_str(), "shares_lacking");
    }
    let other = Identity::new(SecretBytes::copy_of(&[1; 32]));
    assert!(bundle::open(&other, &file).is_err());
}

/// The lock of a key, as the owner of a place of the vault gets it.
fn lock_from(rig: &Rig, head: &bundle::Head) -> SecretBytes<32> {
    let pin = Pin::new(std::fs::read_to_string(rig.at("site-b/pin")).unwrap()).unwrap();
    let mut token =
        EmbeddedToken::open(&rig.at("site-b/token"), &pin, Profile::load("embedded").unwrap()).unwrap();
    let file = VaultFile::parse(&std::fs::read(rig.at("site-b/vault.json")).unwrap(), "site-b").unwrap();
    let bound = vault::bound("site-b", file.root);
    let key = token.decrypt(file.root, file.key_nonce, &bound, &file.key).unwrap();
    let table = file.open(&key).unwrap();
    let Found::Lock(lock) = table.find(head.lock().unwrap()) else { panic!("the vault has no lock of it") };
    SecretBytes::copy_of(lock.expose())
}

// [clause 8.2.2-d] test
// [clause 8.2.2-f] test
#[test]
fn keys_of_a_pkcs11_token_leave_under_a_trusted_key_and_come_back_there_and_elsewhere() {
    if again_with_softhsm(
        "keys_of_a_pkcs11_token_leave_under_a_trusted_key_and_come_back_there_and_elsewhere",
    ) {
        return;
    }
    let rig = Rig::new();
    let (pin, officer) = (rig.at("pin"), rig.at("so-pin"));
    for (file, text) in [(&pin, "1234"), (&officer, "12345678")] {
        std::fs::write(file, text).unwrap();
        assert!(Command::new("chmod").arg("600").arg(file).status().unwrap().success());
    }
    let (pin, officer) = (pin.to_str().unwrap(), officer.to_str().unwrap());
    let on = |label: &'static str| ["--profile", "softhsm2", "--token-label", label, "--pin-file", pin];
    rig.init_on(&rig.home, &on("one"));
    let refused = rig.ceremony(&["--group", "2/3"], false).unwrap_err();
    assert!(refused.contains("--so-pin-file"), "{refused}");
    let shares = rig.ceremony(&["--group", "2/3", "--so-pin-file", officer], false).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    daemon.set_up("hot");
    cli_ok(&rig.home, &["key", "create", "other", "--algorithm", "p256"]);
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 100)]))), "ok");
    assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    assert_eq!(cli_ok(&rig.home, &["token", "inventory"])["equal"], true);
    // What SoftHSM does not wrap gets no bundle, and without one it is not active.
    let (made, told) = cli(&rig.home, &["key", "create", "ed", "--algorithm", "ed25519"]);
    assert!(!made && told.contains("backup_missing"), "{told}");
    assert_eq!(cli_ok(&rig.home, &["key", "show", "ed"])["state"], "pre-active");
    daemon.verify_log();
    let address = daemon.address.clone();
    drop(daemon);

    let places: [(&str, Vec<&str>); 2] =
        [("second", on("two").to_vec()), ("third", vec!["--profile", "embedded"])];
    for (name, token) in places {
        let home = rig.at(name);
        rig.init_on(&home, &token);
        let (good, told) =
            rig.recover_with(&home, &[&shares[2], &shares[1]], "media-b", &["--so-pin-file", officer]);
        assert!(good && told["restored"] == 2, "{told}");
        let mut daemon = Daemon::on(&home);
        daemon.set_up_again(&address);
        cli_ok(&home, &["key", "activate", "hot", "--reason", "it is needed"]);
        let signed = daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(1, 50)]));
        assert_eq!(code(&signed), "ok", "{signed}");
        // A key that came back can be backed up where it is now.
        cli_ok(&home, &["backup", "make", "hot"]);
        assert_eq!(cli_ok(&home, &["backup", "verify"])["ok"], true);
        drop(daemon);
    }
}

/// A Python with the packages of `tests/clients/requirements-backup.txt`.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("CLAVIGER_BACKUP_PYTHON").map(PathBuf::from);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/backup/bin/python");
    let found = named.into_iter().chain([made]).find(|python| {
        let words = ["-c", "import argon2, bech32, cryptography, Crypto, shamir_mnemonic"];
        Command::new(python).args(words).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    });
    if found.is_none() {
        println!("skipped: no Python with shamir-mnemonic (./test makes one in .venv/backup)");
    }
    found
}

// [clause 8.2.2-f] test
#[test]
fn the_way_without_this_program_is_walked_word_by_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("tests/clients/node_modules");
    let Some(python) = python() else { return };
    if !modules.join("age-encryption").exists() {
        println!("skipped: npm ci has not been run in tests/clients (./test does it)");
        return;
    }
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "2/2", "--group", "2/3", "--groups-needed", "2"], false).unwrap();
    let daemon = Daemon::on(&rig.home);
    let made: Vec<Value> = ["secp256k1", "p256", "ed25519"]
        .into_iter()
        .map(|algorithm| cli_ok(&rig.home, &["key", "create", algorithm, "--algorithm", algorithm]))
        .collect();
    drop(daemon);
    let bench = rig.at("bench");
    std::fs::create_dir(&bench).unwrap();
    let text = std::fs::read_to_string(root.join("docs/recovery-without-claviger.md")).unwrap();
    let mut files = 0;
    for block in text.split("\n```").skip(1).step_by(2) {
        let (first, body) = block.split_once('\n').unwrap();
        let (_, name) = first.split_once(' ').unwrap();
        std::fs::write(bench.join(name), body.to_owned() + "\n").unwrap();
        files += 1;
    }
    assert_eq!(files, 5);
    let four = [&shares[0], &shares[1], &shares[2], &shares[4]].map(String::as_str).join("\n");
    std::fs::write(bench.join("shares.txt"), four).unwrap();
    std::os::unix::fs::symlink(&modules, bench.join("node_modules")).unwrap();
    std::fs::copy(rig.at("site-b/vault.json"), bench.join("vault.json")).unwrap();
    std::fs::copy(rig.at("site-b/pin"), bench.join("pin")).unwrap();
    std::os::unix::fs::symlink(rig.at("site-b/token"), bench.join("token")).unwrap();
    let path = format!("{}:{}", python.parent().unwrap().display(), std::env::var("PATH").unwrap());
    for key in made {
        let name = key["name"].as_str().unwrap();
        std::fs::copy(rig.at(&format!("media-a/{name}.e1.bundle")), bench.join("hot.e1.bundle")).unwrap();
        let done =
            Command::new("sh").arg("recover.sh").current_dir(&bench).env("PATH", &path).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
        let told: String =
            String::from_utf8_lossy(&done.stdout).chars().filter(char::is_ascii_hexdigit).collect();
        assert!(told.contains(key["public_key"].as_str().unwrap()), "{name}: {told}");
    }
}

const SPLITTER: &str = "
import json, random, sys
from shamir_mnemonic import combine_mnemonics, generate_mnemonics
rng = random.Random(int(sys.argv[1]))
ours = json.load(sys.stdin)
for one in ours:
    assert combine_mnemonics(one['shares'], one['passphrase'].encode()).hex() == one['secret'], one
sets = []
for _ in range(40):
    groups = []
    for _ in range(rng.randint(1, 4)):
        threshold = rng.randint(1, 5)
        groups.append((threshold, 1 if threshold == 1 else rng.randint(threshold, 7)))
    needed = rng.randint(1, len(groups))
    secret = rng.randbytes(rng.choice([16, 20, 24, 32, 32, 32, 64]))
    passphrase = ''.join(chr(rng.randint(32, 126)) for _ in range(rng.randint(0, 12)))
    extendable, exponent = rng.random() < 0.5, rng.randint(0, 1)
    made = generate_mnemonics(needed, groups, secret, passphrase.encode(), extendable, exponent)
    picked = [w for g in rng.sample(range(len(groups)), needed) for w in rng.sample(made[g], groups[g][0])]
    sets.append({'shares': picked, 'passphrase': passphrase, 'secret': secret.hex()})
print(json.dumps(sets))
";

// [clause 8.2.2-a] test
#[test]
fn shares_are_those_of_the_reference_in_both_directions() {
    use claviger::core::backup::slip39::{Scheme, Share, combine, split};
    let Some(python) = python() else { return };
    let mut seed = [0; 4];
    getrandom::fill(&mut seed).unwrap();
    let seed = u32::from_be_bytes(seed);
    println!("seed {seed}");
    let mut ours = Vec::new();
    for at in 0..40_u8 {
        let scheme =
            Scheme { groups_needed: 1 + at % 2, groups: vec![(2 + at % 3, 4 + at % 5), (1, 1), (3, 3)] };
        let length = [16, 32, 32, 64][usize::from(at % 4)];
        let (mut secret, mut random) = (vec![0; length], vec![0; scheme.random_bytes(length)]);
        getrandom::fill(&mut secret).unwrap();
        getrandom::fill(&mut random).unwrap();
        let passphrase = "correct horse".get(..usize::from(at % 13)).unwrap();
        let made = split(&scheme, &secret, passphrase.as_bytes(), at % 2 == 0, &random).unwrap();
        let mut picked: Vec<String> =
            made[0].iter().rev().take(usize::from(2 + at % 3)).map(|s| s.words().to_string()).collect();
        if at % 2 == 1 {
            picked.push(made[1][0].words().to_string());
        }
        ours.push(json!({"shares": picked, "passphrase": passphrase, "secret": hex::encode(&secret)}));
    }
    let mut child = Command::new(python)
        .args(["-c", SPLITTER, &seed.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(json!(ours).to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "the reference does not read our shares (seed {seed})");
    let theirs: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(theirs.len(), 40);
    for one in theirs {
        let shares: Vec<Share> = one["shares"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| Share::parse(w.as_str().unwrap()).unwrap())
            .collect();
        let secret = combine(&shares, one["passphrase"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(hex::encode(&*secret), one["secret"].as_str().unwrap(), "seed {seed}");
    }
}

// [clause 8.7.1-s] test
#[test]
fn a_daemon_that_dies_while_it_destroys_finishes_afterwards() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/2"], false).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    cli_ok(&rig.home, &["key", "create", "stays"]);
    for (n, after) in [0, 5, 15, 30, 45, 60, 90, 130].into_iter().enumerate() {
        let name = format!("goes-{n}");
        cli_ok(&rig.home, &["key", "create", &name]);
        let mut asking = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .args(["--config", rig.home.join("clavigerd.toml").to_str().unwrap(), "key", "destroy", &name])
            .args(["--confirm", &name, "--reason", "it is over", "--waive-balance", "a test"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(after));
        daemon.restart();
        asking.wait().unwrap();
        // Begun or not: asked again, or by itself, it comes to its end.
        for _ in 0..50 {
            let (_, shown) = cli(&rig.home, &["key", "show", &name]);
            if shown.contains("\"destroyed\"") {
                break;
            }
            let words = ["--confirm", &name, "--reason", "it is over", "--waive-balance", "a test"];
            cli(&rig.home, &[&["key", "destroy", &name], &words[..]].concat());
        }
        assert_eq!(cli_ok(&rig.home, &["key", "show", &name])["state"], "destroyed");
        assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
        assert_eq!(cli_ok(&rig.home, &["token", "inventory"])["equal"], true);
    }
    daemon.verify_log();
}

// [clause 8.2.2-c] test
#[test]
fn a_quorum_that_was_exchanged_on_the_disk_gets_no_bundle() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/2"], false).unwrap();
    drop(Daemon::on(&rig.home));
    let db = rusqlite::Connection::open(rig.home.join("state/claviger.db")).unwrap();
    let other = Identity::new(SecretBytes::copy_of(&[9; 32])).recipient().text().unwrap();
    let name = "document:backup-quorum";
    let text: Vec<u8> = db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).unwrap();
    let mut quorum: Value = serde_json::from_slice(&text).unwrap();
    quorum["recipient"] = json!(other);
    db.execute(
        "UPDATE meta SET value = ?2 WHERE name = ?1",
        rusqlite::params![name, quorum.to_string().into_bytes()],
    )
    .unwrap();
    drop(db);
    let refused = rig.ceremony(&[], false).unwrap_err();
    assert!(refused.contains("the backup-quorum in force"), "{refused}");
}
