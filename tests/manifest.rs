//! Registrations that count up, are signed, narrowed and revoked: the stock ssh-keygen, a real daemon, real executables.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod stage;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stage::{Stage, copy, victim};
use support::{Daemon, cli, cli_ok, code, keygen, own_uid, ssh_keygen_is_here, ssh_sign};

const MANIFEST: &str = "clavigerd-app@v1";

fn pays(daemon: &Daemon, nonce: u64) -> String {
    let words = json!({"transaction": daemon.tx(nonce, 1)});
    code(&daemon.wallet().call("claviger_signPayment", &words)).to_owned()
}

fn reloads(daemon: &Daemon) -> String {
    code(&daemon.operator().call("operator_reload", &json!({}))).to_owned()
}

fn entries(home: &Path, kind: &str) -> Vec<Value> {
    let log = cli_ok(home, &["log", "show", "--from", "0", "--count", "1000"]);
    log["entries"].as_array().unwrap().iter().filter(|e| e["kind"] == kind).cloned().collect()
}

/// The auditor's own program, which needs the export and the log's key alone.
fn audited(daemon: &Daemon) {
    let dir = daemon.home.join(format!("export-{}", std::fs::read_dir(&daemon.home).unwrap().count()));
    cli_ok(&daemon.home, &["log", "export", dir.to_str().unwrap()]);
    let out = Command::new(env!("CARGO_BIN_EXE_claviger-verify"))
        .args(["--json", "log", "--strict", "--key"])
        .args([dir.join("log.vkey"), dir])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
    assert!(out.status.success(), "{told} {}", String::from_utf8_lossy(&out.stderr));
    assert_eq!((&told["breaches"], &told["unproven"]), (&json!([]), &json!([])), "{told}");
}

/// Puts settings before the first table of the configuration.
fn configure(daemon: &mut Daemon, before: &str, after: &str) {
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}{config}\n{after}")).unwrap();
    daemon.restart();
}

/// Writes another text of the registrations.
fn edit(daemon: &Daemon, from: &str, to: &str) {
    let file = daemon.home.join("apps.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).unwrap();
}

// [clause 8.2.4-n] test
#[test]
fn a_serial_that_was_in_force_counts_after_a_restart_and_after_the_app_was_gone() {
    let mut daemon = Daemon::start();
    let file = daemon.home.join("apps.toml");
    edit(&daemon, "serial = 1", "serial = 5");
    assert_eq!(reloads(&daemon), "ok");
    let five = std::fs::read_to_string(&file).unwrap();
    for (from, to, wanted) in [
        ("serial = 5", "serial = 4", "app_serial"),
        ("serial = 5", "", "app_serial"),
        ("serial = 5", "serial = 5\ntier = \"T0\"", "app_serial_reused"),
    ] {
        std::fs::write(&file, five.replace(from, to)).unwrap();
        assert_eq!(reloads(&daemon), wanted, "{to}");
        daemon.restart();
        // Nobody is asked when it starts: what was in force goes on, and what is not is told.
        assert_eq!(pays(&daemon, 0), "ok", "{to}");
        assert_eq!(cli_ok(&daemon.home, &["app", "show", "test"])["serial"], 5);
        let status = cli_ok(&daemon.home, &["status"]);
        assert!(status["not_in_force"][0].as_str().unwrap().contains(wanted), "{status}");
        let refused = entries(&daemon.home, "registration");
        assert_eq!(refused.last().unwrap()["code"], wanted, "{refused:?}");
        assert_eq!(reloads(&daemon), wanted, "after a restart too: {to}");
    }
    std::fs::write(&file, "").unwrap();
    assert_eq!(reloads(&daemon), "ok");
    assert_eq!(pays(&daemon, 1), "app_unknown");
    daemon.restart();
    for (serial, wanted) in [("serial = 4", "app_serial"), ("serial = 5", "ok")] {
        std::fs::write(&file, five.replace("serial = 5", serial)).unwrap();
        assert_eq!(reloads(&daemon), wanted, "{serial}");
    }
    assert_eq!(pays(&daemon, 1), "ok");
    // Removed and enrolled anew, it goes on counting by itself.
    std::fs::write(&file, "").unwrap();
    assert_eq!(reloads(&daemon), "ok");
    assert_eq!(cli_ok(&daemon.home, &["app", "show", "test"])["highest_serial"], 5);
    let me = std::env::current_exe().unwrap();
    assert_eq!(cli_ok(&daemon.home, &["app", "enrol", "test", "--path", me.to_str().unwrap()])["serial"], 6);
    assert_eq!(pays(&daemon, 2), "ok");
    audited(&daemon);
}

/// The registration of this very program, with a release key, in a daemon of its own.
struct Desk {
    daemon: Daemon,
    keys: PathBuf,
    sha256: String,
}

impl Desk {
    fn start() -> Self {
        let daemon = Daemon::start();
        let keys = daemon.home.join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::create_dir(daemon.home.join("apps.d")).unwrap();
        let vendor = keygen(&keys, "vendor", "ed25519");
        edit(&daemon, "serial = 1", &format!("serial = 2\nrelease_keys = [\"{vendor}\"]"));
        assert_eq!(reloads(&daemon), "ok");
        let me = claviger::service::executable_digest(&std::env::current_exe().unwrap()).unwrap();
        Self { daemon, keys, sha256: hex::encode(me) }
    }

    /// alice, bob and carol decide two by two; otto is this user.
    fn governed() -> Self {
        let mut desk = Self::start();
        let mut text = String::from("schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n");
        for matter in ["authority", "apps"] {
            text += &format!("[quorum.{matter}]\nquorum = 2\nof = \"ops\"\n");
        }
        for who in ["alice", "bob", "carol"] {
            let key = keygen(&desk.keys, who, "ed25519");
            text += &format!("[[person]]\nid = \"{who}\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n");
        }
        text += &format!("[[person]]\nid = \"otto\"\nroles = [\"operator\"]\nuid = {}\n", own_uid());
        std::fs::write(desk.daemon.home.join("authority.toml"), text).unwrap();
        configure(&mut desk.daemon, "authority_file = \"authority.toml\"\n", "");
        desk
    }

    fn update(&self, serial: u64, more: &str) -> String {
        format!("schema = 1\n[app]\nid = \"test\"\nserial = {serial}\nsha256 = \"{}\"\n{more}", self.sha256)
    }

    fn whole(&self, serial: u64, more: &str) -> String {
        let me = std::env::current_exe().unwrap();
        let text = self.update(serial, &format!("path = \"{}\"\nuid = {}\n{more}", me.display(), own_uid()));
        text.replace("[app]", "deployment = \"test-1\"\n[app]")
    }

    fn signatures(&self, text: &str, people: &[&str]) -> String {
        people.iter().map(|who| ssh_sign(&self.keys.join(who), MANIFEST, text, &[])).collect()
    }

    fn put(&self, name: &str, text: &str, signatures: &str) {
        let file = self.daemon.home.join("apps.d").join(name);
        std::fs::write(&file, text).unwrap();
        let beside = file.with_file_name(format!("{name}.sig"));
        std::fs::remove_file(&beside).ok();
        if !signatures.is_empty() {
            std::fs::write(beside, signatures).unwrap();
        }
    }

    /// What a reload says of the only manifest.
    fn said(&self) -> Value {
        let reply = self.daemon.operator().call("operator_reload", &json!({}));
        assert_eq!(code(&reply), "ok", "{reply}");
        reply["result"]["manifests"][0].clone()
    }

    fn signs(&self, text: &str, people: &[&str]) -> Value {
        self.put("test.toml", text, &self.signatures(text, people));
        self.said()
    }

    fn listed(&self) -> Value {
        let list = cli_ok(&self.daemon.home, &["app", "list"]);
        list.as_array().unwrap().iter().find(|a| a["id"] == "test").unwrap().clone()
    }

    fn shown(&self) -> Value {
        cli_ok(&self.daemon.home, &["app", "show", "test"])
    }
}

// [clause 8.2.4-m] test
#[test]
fn what_is_wrong_with_a_manifest_is_named_written_down_and_changes_nothing() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut desk = Desk::start();
    keygen(&desk.keys, "mallory", "ed25519");
    let good = desk.update(4, "not_after = \"2040-01-01\"\n");
    let signed = desk.signatures(&good, &["vendor"]);
    let other = good.replace("id = \"test\"", "id = \"other\"");
    let late = desk.update(4, "not_after = \"2020-01-01\"\n");
    let (low, same, tier) =
        (desk.update(1, ""), desk.update(2, "revoked = true\n"), desk.update(4, "tier = \"T0\"\n"));
    let crlf = good.replace('\n', "\r\n");
    let by = |text: &str, who: &str| desk.signatures(text, &[who]);
    let cases = [
        ("manifest_unsigned", good.clone(), String::new()),
        ("manifest_signer", good.clone(), by(&good, "mallory")),
        ("manifest_signature", good.replace("2040", "2041"), signed.clone()),
        ("manifest_signature", good.clone(), ssh_sign(&desk.keys.join("vendor"), "file", &good, &[])),
        ("manifest_lines", crlf.clone(), by(&crlf, "vendor")),
        ("manifest_other", other.clone(), by(&other, "vendor")),
        ("manifest_expired", late.clone(), by(&late, "vendor")),
        ("app_serial", low.clone(), by(&low, "vendor")),
        ("app_serial_reused", same.clone(), by(&same, "vendor")),
        ("manifest_beyond", tier.clone(), by(&tier, "vendor")),
        ("manifest_form", "schema = 1\n".into(), signed.clone()),
    ];
    for (nonce, (wanted, text, signatures)) in (0..).zip(&cases) {
        desk.put("test.toml", text, signatures);
        let said = desk.said();
        assert_eq!(said["code"], *wanted, "{said}");
        assert_eq!(said["in_force"], false);
        let told = entries(&desk.daemon.home, "registration");
        assert_eq!(told.last().unwrap()["code"], *wanted, "{told:?}");
        assert_eq!(desk.shown()["serial"], 2, "{wanted}");
        assert_eq!(pays(&desk.daemon, nonce), "ok", "{wanted}: what was in force goes on");
    }
    // What is no file is not waited for, and keeps nobody else out.
    let beside = desk.daemon.home.join("apps.d");
    std::fs::create_dir(beside.join("a.toml")).unwrap();
    assert!(Command::new("mkfifo").arg(beside.join("b.toml")).status().unwrap().success());
    std::fs::write(beside.join("c.toml"), [0xff, 0xfe]).unwrap();
    std::fs::write(beside.join("README"), "nothing of ours").unwrap();
    let reply = desk.daemon.operator().call("operator_reload", &json!({}));
    let said = reply["result"]["manifests"].as_array().unwrap();
    assert_eq!(said.iter().filter(|m| m["code"] == "manifest_form").count(), 4, "{reply}");
    std::fs::remove_dir_all(&beside).unwrap();
    std::fs::create_dir(&beside).unwrap();
    desk.put("test.toml", &good, &signed);
    let said = desk.said();
    assert_eq!((&said["in_force"], &said["serial"]), (&json!(true), &json!(4)), "{said}");
    assert!(said["signer"].as_str().unwrap().starts_with("release key SHA256:"), "{said}");
    // It stays without its file, over a restart, and what was before it does not come back.
    std::fs::remove_dir_all(desk.daemon.home.join("apps.d")).unwrap();
    desk.daemon.restart();
    let shown = desk.shown();
    assert_eq!((&shown["serial"], &shown["state"]), (&json!(4), &json!("in force")), "{shown}");
    assert!(shown["not_after"].as_str().unwrap().starts_with("2040-01-01"), "{shown}");
    assert!(desk.listed()["signer"].as_str().unwrap().starts_with("release key"));
    std::fs::create_dir(desk.daemon.home.join("apps.d")).unwrap();
    let older = desk.update(3, "");
    assert_eq!(desk.signs(&older, &["vendor"])["code"], "app_serial");
    desk.daemon.restart();
    assert_eq!(desk.shown()["serial"], 4);
    assert_eq!(pays(&desk.daemon, 50), "ok");
    // Where a signature is wanted, what a file alone says is not enough, nor an update of that.
    configure(&mut desk.daemon, "", "[apps]\nsigned = \"required\"\n");
    assert_eq!(pays(&desk.daemon, 51), "app_unsigned");
    assert_eq!(desk.shown()["state"], "unsigned");
    audited(&desk.daemon);
}

// [clause 8.2.4-o] test
// [clause 8.2.4-r] test
#[test]
fn people_sign_what_an_app_may_ask_for_and_one_operator_ends_it() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut desk = Desk::governed();
    cli_ok(&desk.daemon.home, &["key", "create", "login", "--purpose", "authentication"]);
    let scope = |serial, keys: &str| desk.whole(serial, &format!("[app.scope]\n{keys}\n"));
    let wide = scope(3, "keys = [\"hot\"]\npurposes = [\"payment\"]");
    assert_eq!(desk.signs(&wide, &["alice"])["code"], "manifest_signer", "one of two");
    assert_eq!(desk.signs(&wide, &["vendor"])["code"], "manifest_beyond", "a release key gives no scope");
    let said = desk.signs(&wide, &["alice", "carol"]);
    assert_eq!((&said["in_force"], &said["signer"]), (&json!(true), &json!("alice, carol")), "{said}");
    assert_eq!(pays(&desk.daemon, 0), "ok");
    let accounts = desk.daemon.wallet().call("eth_accounts", &json!([]));
    assert_eq!(accounts["result"].as_array().unwrap().len(), 1, "{accounts}");
    let narrow = scope(4, "keys = [\"login\"]");
    assert_eq!(desk.signs(&narrow, &["bob", "carol"])["in_force"], true);
    assert_eq!(pays(&desk.daemon, 1), "app_scope");
    let accounts = desk.daemon.wallet().call("eth_accounts", &json!([]));
    assert_eq!(accounts["result"], json!([]), "it does not see what it cannot use");
    let purposes = scope(5, "purposes = [\"authentication\"]");
    assert_eq!(desk.signs(&purposes, &["alice", "bob"])["in_force"], true);
    assert_eq!(pays(&desk.daemon, 1), "app_scope");
    let refused = entries(&desk.daemon.home, "refusal");
    assert!(refused.iter().any(|e| e["code"] == "app_scope" && e["app"] == "test"), "{refused:?}");
    let key = std::fs::read_to_string(desk.keys.join("vendor.pub")).unwrap();
    let open = desk.whole(6, &format!("release_keys = [\"{}\"]\n", key.trim()));
    assert_eq!(desk.signs(&open, &["alice", "bob"])["in_force"], true);
    assert_eq!(pays(&desk.daemon, 1), "ok");
    // One operator ends it at once, and nothing but people and a higher serial bring it back.
    let told = cli_ok(&desk.daemon.home, &["app", "revoke", "test", "--reason", "its machine was lost"]);
    assert_eq!(told["serial"], 6);
    assert_eq!(pays(&desk.daemon, 2), "app_revoked");
    assert_eq!(desk.signs(&desk.update(7, ""), &["vendor"])["code"], "app_revoked");
    desk.daemon.restart();
    assert_eq!(pays(&desk.daemon, 2), "app_revoked");
    assert_eq!(desk.listed()["state"], "revoked");
    assert_eq!(desk.signs(&desk.whole(7, ""), &["alice", "bob"])["in_force"], true);
    assert_eq!(pays(&desk.daemon, 2), "ok");
    let told = entries(&desk.daemon.home, "registration");
    assert!(
        told.iter().any(|e| e["how"] == "revoked" && e["sentence"] == "its machine was lost"),
        "{told:?}"
    );
    let (good, said) = cli(&desk.daemon.home, &["app", "revoke", "nobody", "--reason", "x"]);
    assert!(!good && said.contains("app_unknown"), "{said}");
    audited(&desk.daemon);
}

/// What a change's voters do.
fn agree(home: &Path, keys: &Path, change: &str, who: &[&str]) {
    for who in who {
        let shown = cli_ok(home, &["approval", "show", change]);
        let namespace = shown["namespaces"]["approve"].as_str().unwrap();
        let file = keys.join(format!("{who}.vote"));
        std::fs::write(&file, ssh_sign(&keys.join(who), namespace, shown["text"].as_str().unwrap(), &[]))
            .unwrap();
        cli_ok(home, &["approval", "approve", change, "--signature", file.to_str().unwrap()]);
    }
}

// [clause 8.2.4-m] test
#[test]
fn an_upgrade_is_refused_explained_and_let_in_by_people_or_by_the_release_key() {
    let Some(mut stage) = Stage::set() else { return };
    if !ssh_keygen_is_here() {
        return;
    }
    let home = stage.daemon.home.clone();
    let keys = home.join("keys");
    std::fs::create_dir(&keys).unwrap();
    let vendor = keygen(&keys, "vendor", "ed25519");
    edit(
        &stage.daemon,
        "id = \"victim\"\n",
        &format!("id = \"victim\"\nserial = 1\nrelease_keys = [\"{vendor}\"]\n"),
    );
    let mut text = String::from("schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n");
    for matter in ["authority", "apps"] {
        text += &format!("[quorum.{matter}]\nquorum = 2\nof = \"ops\"\n");
    }
    for who in ["alice", "bob", "carol"] {
        let key = keygen(&keys, who, "ed25519");
        text += &format!("[[person]]\nid = \"{who}\"\ngroups = [\"ops\"]\nkeys = [\"{key}\"]\n");
    }
    std::fs::write(home.join("authority.toml"), text).unwrap();
    let file = home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap().replace("mode = \"0660\"", "mode = \"0666\"");
    std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
    stage.daemon.restart();
    assert_eq!(stage.working().asks(&stage.payment()), "ok");
    // The package brings another file.
    let upgrade = |more: &[u8]| {
        let fresh = stage.apps.join("fresh");
        let mut bytes = std::fs::read(stage.apps.join("victim")).unwrap();
        bytes.extend_from_slice(more);
        std::fs::write(stage.lair.join("package"), bytes).unwrap();
        copy(&stage.lair.join("package"), &fresh, 0o755, 0, 0);
        std::fs::rename(fresh, stage.apps.join("victim")).unwrap();
    };
    upgrade(b"the second version");
    let mut second = stage.app("victim", &[]);
    assert_eq!(second.asks(&stage.payment()), "app_replaced");
    let (accepted, said) = cli(&home, &["app", "verify", &second.pid()]);
    assert!(!accepted && said.contains("app_replaced"), "{said}");
    let told = cli_ok(&home, &["app", "update", "victim"]);
    let differences = told["differences"].to_string();
    assert!(differences.contains("- sha256") && differences.contains("+ sha256"), "{told}");
    assert_eq!(told["written"], false);
    // People let it in.
    cli_ok(&home, &["app", "update", "victim", "--yes"]);
    assert_eq!(second.asks(&stage.payment()), "app_replaced", "asked for is not agreed on");
    let waiting = cli_ok(&home, &["approval", "list"]);
    let change = waiting.as_array().unwrap().iter().find(|c| c["matter"] == "apps").unwrap();
    let change = change["request"].as_str().unwrap().to_owned();
    let text = cli_ok(&home, &["approval", "show", &change])["text"].as_str().unwrap().to_owned();
    assert!(text.contains("+ sha256") && text.contains("+ serial = 2"), "{text}");
    agree(&home, &keys, &change, &["alice"]);
    assert_eq!(second.asks(&stage.payment()), "app_replaced", "one of two");
    agree(&home, &keys, &change, &["carol"]);
    assert_eq!(stage.app("victim", &[]).asks(&stage.payment()), "ok");
    assert_eq!(cli_ok(&home, &["app", "show", "victim"])["signer"], "change agreed on by alice, carol");
    // The next one comes with the vendor's manifest.
    upgrade(b", and the third");
    let mut third = stage.app("victim", &[]);
    assert_eq!(third.asks(&stage.payment()), "app_replaced");
    let digest = hex::encode(claviger::service::executable_digest(&stage.apps.join("victim")).unwrap());
    let manifest = format!("schema = 1\n[app]\nid = \"victim\"\nserial = 3\nsha256 = \"{digest}\"\n");
    let dir = home.join("apps.d");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("victim.toml"), &manifest).unwrap();
    let signature = ssh_sign(&keys.join("vendor"), MANIFEST, &manifest, &[]);
    std::fs::write(dir.join("victim.toml.sig"), signature).unwrap();
    let told = cli_ok(&home, &["reload"]);
    assert_eq!(told["manifests"][0]["in_force"], true, "{told}");
    assert_eq!(told["asked"], json!([]), "nobody is asked");
    assert_eq!(stage.app("victim", &[]).asks(&stage.payment()), "ok");
    let shown = cli_ok(&home, &["app", "update", "victim"]);
    assert_eq!(shown["changed"], false, "what is on the disk is what is in force: {shown}");
    assert!(cli_ok(&home, &["app", "verify", &stage.app("victim", &[]).pid()])["accepted"] == json!(true));
    assert!(victim(&stage).ends_with("victim"));
    // Each step stands in the log, and the auditor finds nothing wrong with it.
    let refused = entries(&home, "refusal");
    let replaced = refused.iter().filter(|e| e["code"] == "app_replaced").count();
    assert!(replaced >= 3, "{refused:?}");
    let made = entries(&home, "change-ended");
    assert!(made.iter().any(|e| e["how"] == "made" && e["why"] == "agreed by alice, carol"), "{made:?}");
    let taken = entries(&home, "registration");
    assert!(taken.iter().any(|e| e["how"] == "in-force" && e["serial"] == 3), "{taken:?}");
    audited(&stage.daemon);
    stage.signed(4);
}
