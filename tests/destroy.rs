//! The end of a key: with every copy, in time, with receipts and a certificate; and whatever is kept from before, it stays
//! gone.

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

use claviger::core::backup::bundle;
use claviger::core::backup::slip39::Share;
use claviger::core::backup::vault::{Found, LockId, VaultFile, bound};
use claviger::secret::{Pin, SecretBytes};
use claviger::service::ceremony::identity_of;
use claviger::token::Token;
use claviger::token::embedded::EmbeddedToken;
use claviger::token::profile::Profile;
use serde_json::{Value, json};
use support::rig::Rig;
use support::{Daemon, cli, cli_ok, code};

fn destroy(home: &Path, key: &str) -> Value {
    cli_ok(
        home,
        &["key", "destroy", key, "--confirm", key, "--reason", "it is over", "--waive-balance", "a test"],
    )
}

fn copies(home: &Path, key: &str) -> Value {
    cli_ok(home, &["key", "copies", key])
}

/// Kind and place of what is left.
fn left(told: &Value) -> Vec<String> {
    let all = told["copies"].as_array().unwrap().iter().filter(|c| c["gone"].is_null());
    all.map(|c| format!("{} {}", c["what"].as_str().unwrap(), c["place"].as_str().unwrap())).collect()
}

fn codes(told: &Value) -> Vec<String> {
    let rows = if told["data"].is_null() { &told["bundles"] } else { &told["data"]["bundles"] };
    let said = |b: &Value| match (b["there"] == true, b["code"].as_str()) {
        (true, _) => "there".to_owned(),
        (_, Some(code)) => code.to_owned(),
        _ => "ok".to_owned(),
    };
    rows.as_array().unwrap().iter().map(said).collect()
}

/// Runs `claviger-verify`.
fn verify(words: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_claviger-verify")).args(words).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

fn copy(from: PathBuf, to: PathBuf) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

/// The table of the vault at site B, as the owner of that place opens it.
fn opened(rig: &Rig, file: &Path) -> Result<claviger::core::backup::vault::Table, String> {
    let pin = Pin::new(std::fs::read_to_string(rig.at("site-b/pin")).unwrap()).unwrap();
    let mut token =
        EmbeddedToken::open(&rig.at("site-b/token"), &pin, Profile::load("embedded").unwrap()).unwrap();
    let file = VaultFile::parse(&std::fs::read(file).unwrap(), "site-b").unwrap();
    let key = token
        .decrypt(file.root, file.key_nonce, &bound("site-b", file.root), &file.key)
        .map_err(|e| e.to_string())?;
    file.open(&key).map_err(|e| e.to_string())
}

// [clause 8.7.1-p] test
// [clause 8.7.1-s] test
// [clause 8.7.1-x] test
#[test]
fn with_everything_that_was_kept_a_destroyed_key_does_not_come_back_and_its_neighbours_do() {
    let rig = Rig::embedded();
    let shares = rig.ceremony(&["--group", "3/5"], false).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    daemon.set_up("hot");
    cli_ok(&rig.home, &["key", "create", "stays"]);
    cli_ok(&rig.home, &["backup", "note", "hot", "--place", "steel plate 7, safe B"]);
    assert_eq!(left(&copies(&rig.home, "hot")).len(), 6, "token, two vaults, two bundles, the plate");
    // What a thief, or a careful operator, has from before: every bundle, every file of the vault, all shares.
    for name in ["hot", "stays"] {
        let file = format!("{name}.e1.bundle");
        copy(rig.at(&format!("media-a/{file}")), rig.at(&format!("loot/{file}")));
    }
    copy(rig.at("media-a/quorum.json"), rig.at("loot/quorum.json"));
    copy(rig.at("site-b/vault.json"), rig.at("loot/site-b.json"));
    copy(rig.home.join("vault.json"), rig.at("loot/here.json"));
    let before = opened(&rig, &rig.at("loot/site-b.json")).unwrap();

    let told = destroy(&rig.home, "hot");
    assert_eq!((told["destroying"].clone(), told["state"].clone()), (json!(true), json!("active")), "{told}");
    assert_eq!(left(&told), ["medium steel plate 7, safe B"]);
    // Already it does nothing, nothing starts it, and nothing certifies that it is gone.
    assert_eq!(code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 1)]))), "key_state");
    let (good, text) = cli(&rig.home, &["key", "activate", "hot", "--reason", "x"]);
    assert!(!good && text.contains("key_edge"), "{text}");
    assert!(!cli(&rig.home, &["key", "certificate", "hot"]).0);
    for medium in ["media-a", "media-b"] {
        assert!(!rig.at(medium).join("hot.e1.bundle").exists());
        assert!(rig.at(medium).join("stays.e1.bundle").exists());
    }
    let receipt = |what: &str, place: &str| {
        let words = [
            "key",
            "destroy-receipt",
            "hot",
            "--what",
            what,
            "--place",
            place,
            "--how",
            "melted, two saw it",
        ];
        let (good, text) = cli(&rig.home, &words);
        let told: Value = serde_json::from_str(&text).unwrap_or_default();
        if good { "ok".to_owned() } else { told["data"]["code"].as_str().unwrap().to_owned() }
    };
    assert_eq!(receipt("medium", "steel plate 8"), "copy_unknown");
    assert_eq!(receipt("vault", "site-b"), "copy_reachable");
    daemon.restart();
    let began = std::time::Instant::now();
    while cli_ok(&rig.home, &["status"])["copies_to_destroy"].as_array().unwrap().len() != 1 {
        assert!(began.elapsed().as_secs() < 20, "what is left is not told after a start");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(receipt("medium", "steel plate 7, safe B"), "ok");
    let told = copies(&rig.home, "hot");
    assert_eq!((told["state"].clone(), left(&told).len()), (json!("destroyed"), 0), "{told}");
    assert_eq!(cli_ok(&rig.home, &["token", "inventory"])["equal"], true);
    assert_eq!(cli_ok(&rig.home, &["backup", "verify"])["ok"], true);
    daemon.verify_log();

    // The certificate is worth what the log's key is worth, and no byte of it can be another.
    let export = rig.at("export");
    cli_ok(&rig.home, &["log", "export", export.to_str().unwrap()]);
    let (vkey, file) = (export.join("log.vkey"), rig.at("hot.certificate"));
    let text = cli_ok(&rig.home, &["key", "certificate", "hot"])["certificate"].as_str().unwrap().to_owned();
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        verify(&["certificate", file.to_str().unwrap(), "--key", vkey.to_str().unwrap()])
    };
    let (good, said) = check(&text);
    assert!(good && said.contains("the certificate verifies"), "{said}");
    for part in
        ["- medium steel plate 7, safe B", "operator", "melted, two saw it", "- vault site-b", "- token "]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    for (from, to) in
        [("key: hot", "key: hut"), ("steel plate 7", "steel plate 9"), ("copies: 6", "copies: 5")]
    {
        assert!(!check(&text.replacen(from, to, 1)).0, "{to}");
    }
    let checkpoint = std::fs::read_to_string(export.join("checkpoint")).unwrap();
    assert!(!check(&checkpoint).0, "another note by the same key is no certificate");
    drop(daemon);

    // Layer by layer. The envelope opens under the shares, and nothing under it does.
    let parsed: Vec<_> = shares.iter().map(|s| Share::parse(s).unwrap()).collect();
    let identity = identity_of(&parsed[..3]).unwrap();
    let bundle = bundle::open(&identity, &std::fs::read(rig.at("loot/hot.e1.bundle")).unwrap()).unwrap();
    let public = bundle.head.public().unwrap();
    assert!(opened(&rig, &rig.at("loot/site-b.json")).is_err(), "its root is gone from the token");
    let now = opened(&rig, &rig.at("site-b/vault.json")).unwrap();
    assert!(matches!(now.find(LockId::of(&public)), Found::Gone(_)));
    let Found::Lock(lock) = before.find(LockId::of(&public)) else { panic!("it had a lock") };
    assert!(bundle.unlock(lock).is_ok(), "only who wrote the lock itself down before could go on");
    let neighbour = bundle::open(&identity, &std::fs::read(rig.at("loot/stays.e1.bundle")).unwrap()).unwrap();
    let Found::Lock(other) = now.find(LockId::of(&neighbour.head.public().unwrap())) else {
        panic!("no lock")
    };
    assert!(bundle.unlock(other).is_err() && bundle.unlock(&SecretBytes::copy_of(&[0; 32])).is_err());

    // With the register and the token as they are now; with a fresh register; with the old vault beside the new token.
    let three: Vec<&str> = shares[1..4].iter().map(String::as_str).collect();
    let (_, told) = rig.recover(&rig.home, &three, "loot");
    assert_eq!(codes(&told), ["key_shredded", "there"]);
    let new = rig.at("new");
    rig.init(&new);
    let (_, told) = rig.recover(&new, &three, "loot");
    assert_eq!(codes(&told), ["key_shredded", "ok"]);
    let newer = rig.at("newer");
    rig.init(&newer);
    std::fs::copy(rig.at("loot/site-b.json"), rig.at("site-b/vault.json")).unwrap();
    let (good, told) = rig.recover(&newer, &three, "loot");
    assert!(!good && told["data"]["code"] == "vault_failed", "{told}");
}

// [clause 8.7.1-p] test
#[test]
fn what_is_away_has_a_time_raises_an_alarm_and_goes_when_it_comes_back() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/3"], false).unwrap();
    let keys =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/keys.toml")).unwrap();
    std::fs::write(rig.home.join("keys.toml"), keys.replace("\"72h\"", "\"1s\"")).unwrap();
    let config = rig.home.join("clavigerd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("keys_file = \"keys.toml\"\n{text}")).unwrap();
    let mut daemon = Daemon::on(&rig.home);
    cli_ok(&rig.home, &["key", "create", "hot"]);
    cli_ok(&rig.home, &["key", "create", "known"]);
    // A medium that is not mounted: the directory is there, and empty. A place of the vault that is not there.
    std::fs::rename(rig.at("media-b"), rig.at("away")).unwrap();
    std::fs::create_dir(rig.at("media-b")).unwrap();
    std::fs::rename(rig.at("site-b/vault.json"), rig.at("vault.away")).unwrap();
    let told = destroy(&rig.home, "hot");
    let bundle = format!("bundle {}", rig.at("media-b/hot.e1.bundle").display());
    assert_eq!(left(&told), [bundle.clone(), "vault site-b".to_owned()], "{told}");
    assert_eq!(told["destroying"], true);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    destroy(&rig.home, "hot");
    let status = cli_ok(&rig.home, &["status"]);
    let late = status["copies_to_destroy"].as_array().unwrap();
    assert!(late.len() == 2 && late.iter().all(|c| c["overdue"] == true && c["key"] == "hot"), "{status}");
    assert!(late.iter().all(|c| c["why"].as_str().unwrap().len() > 10), "{status}");
    // Told once, and not again: it is counted below.
    destroy(&rig.home, "hot");
    // Nobody's word counts for the place that the configuration names; the medium's owner may speak for it.
    daemon.restart();
    let receipt =
        ["key", "destroy-receipt", "hot", "--what", "vault", "--place", "site-b", "--how", "trust me"];
    assert!(cli(&rig.home, &receipt).1.contains("copy_reachable"));
    std::fs::rename(rig.at("vault.away"), rig.at("site-b/vault.json")).unwrap();
    assert_eq!(left(&destroy(&rig.home, "hot")), [bundle]);
    std::fs::remove_dir(rig.at("media-b")).unwrap();
    std::fs::rename(rig.at("away"), rig.at("media-b")).unwrap();
    let told = destroy(&rig.home, "hot");
    assert_eq!((told["state"].clone(), left(&told).len()), (json!("destroyed"), 0), "{told}");
    assert!(!rig.at("media-b/hot.e1.bundle").exists() && rig.at("media-b/known.e1.bundle").exists());
    let log = cli_ok(&rig.home, &["log", "show", "--from", "0", "--count", "500"]).to_string();
    assert_eq!(log.matches("\"event\":\"overdue\"").count(), 2, "{log}");
    daemon.verify_log();
    // What may be in other hands has no time left.
    cli_ok(&rig.home, &["backup", "note", "known", "--place", "a disk"]);
    cli_ok(&rig.home, &["key", "compromise", "known", "--reason", "a test"]);
    let told = destroy(&rig.home, "known");
    let disk = told["copies"].as_array().unwrap().iter().find(|c| c["place"] == "a disk").unwrap();
    assert_eq!(disk["overdue"], true, "{disk}");
    daemon.verify_log();
}

fn import(home: &Path, name: &str, digits: &str) -> (bool, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .args(["--json", "--config", home.join("clavigerd.toml").to_str().unwrap(), "key", "import", name])
        .args(["--private-key", "--yes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(digits.as_bytes()).ok();
    let out = child.wait_with_output().unwrap();
    (out.status.success(), serde_json::from_slice(&out.stdout).unwrap_or_default())
}

// [clause 8.7.1-x] test
#[test]
fn a_tombstone_in_the_vault_keeps_a_key_from_every_way_in_when_the_register_is_lost() {
    let rig = Rig::embedded();
    rig.ceremony(&["--group", "2/2"], false).unwrap();
    let digits = "11".repeat(32);
    let daemon = Daemon::on(&rig.home);
    // What was outside gets no bundle, and so it is registered and never active here.
    let (good, told) = import(&rig.home, "old", &digits);
    assert!(!good && told["data"]["code"] == "backup_missing", "{told}");
    assert_eq!(destroy(&rig.home, "old")["state"], "destroyed");
    assert_eq!(import(&rig.home, "again", &digits).1["data"]["code"], "key_tombstone");
    drop(daemon);
    std::fs::remove_dir_all(&rig.home).unwrap();
    let new = rig.at("new");
    rig.init(&new);
    let _daemon = Daemon::on(&new);
    let (good, told) = import(&new, "again", &digits);
    assert!(!good && told["data"]["code"] == "key_tombstone", "{told}");
    assert_eq!(cli_ok(&new, &["token", "inventory"])["equal"], true);
    // Another key is another key: it is refused for its bundle, and not for a tombstone.
    assert_eq!(import(&new, "other", &"22".repeat(32)).1["data"]["code"], "quorum_missing");
}
