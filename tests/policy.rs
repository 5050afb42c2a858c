//! Policies as operators meet them: the command line, books that people sign with the stock ssh-keygen, a real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{BOB, Daemon, POLICY, cli, cli_ok, code};

fn ssh_keygen_is_here() -> bool {
    let there =
        Command::new("ssh-keygen").arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: ssh-keygen is not installed");
    }
    there
}

/// A directory with a policy, a book, and people: alice and bob are of `ops`, dave is of nothing.
struct Desk {
    _dir: tempfile::TempDir,
    home: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned();
        people(&home);
        Self { _dir: dir, home }
    }

    fn check(&self) -> (bool, Value) {
        let file = self.home.join("policy.toml");
        std::fs::write(&file, with_book(POLICY)).unwrap();
        let authority = self.home.join("authority.toml");
        let words = ["policy", "check", file.to_str().unwrap(), "--authority", authority.to_str().unwrap()];
        let (good, text) = cli(&self.home, &words);
        (good, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}")))
    }

    /// What the check says is wrong.
    fn wrong(&self) -> String {
        let (good, told) = self.check();
        assert!(!good, "{told}");
        told["data"]["findings"].to_string()
    }
}

fn people(home: &Path) {
    let mut text = String::from("schema = 1\ndeployment = \"desk\"\nfiles_allowed = true\n");
    for (who, groups) in [("alice", "\"ops\""), ("bob", "\"ops\""), ("dave", "")] {
        let file = home.join(who);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", who, "-f", file.to_str().unwrap()])
            .status()
            .unwrap();
        assert!(made.success());
        let key = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        text += &format!("[[person]]\nid = \"{who}\"\ngroups = [{groups}]\nkeys = [\"{}\"]\n", key.trim());
    }
    std::fs::write(home.join("authority.toml"), text).unwrap();
}

fn with_book(policy: &str) -> String {
    let inline = "[books.friends]\nbob = \"0x2222222222222222222222222222222222222222\"\n";
    assert!(policy.contains(inline));
    let signed = "[books.friends]\nfile = \"friends.book\"\nsigned_by = { quorum = 2, of = \"ops\" }\nleast_version = 2\n";
    policy.replace(inline, signed)
}

fn book(name: &str, deployment: &str, version: u32, more: &str) -> String {
    format!(
        "schema = 1\nbook = \"{name}\"\ndeployment = \"{deployment}\"\nversion = {version}\n[entries]\nbob = \"{BOB}\"\n{more}"
    )
}

/// Writes a book, and what the people sign of it.
fn publish(home: &Path, text: &str, namespace: &str, signers: &[&str]) {
    std::fs::write(home.join("friends.book"), text).unwrap();
    let mut all = String::new();
    for who in signers {
        let one = home.join("one");
        std::fs::write(&one, text).unwrap();
        drop(std::fs::remove_file(home.join("one.sig")));
        let signed = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .args([home.join(who), one])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(signed.success());
        all += &std::fs::read_to_string(home.join("one.sig")).unwrap();
    }
    std::fs::write(home.join("friends.book.sig"), all).unwrap();
}

const NAMESPACE: &str = "clavigerd-book@v1";

// [clause 8.7.1-m] test
#[test]
fn a_book_counts_with_the_signatures_of_its_quorum_and_not_otherwise() {
    if !ssh_keygen_is_here() {
        return;
    }
    let desk = Desk::new();
    let good = book("friends", "desk", 2, "");
    assert!(desk.wrong().contains("cannot be read"));
    std::fs::write(desk.home.join("friends.book"), &good).unwrap();
    assert!(desk.wrong().contains("nobody signed it"), "{}", desk.wrong());
    for (text, namespace, signers, why) in [
        (good.clone(), NAMESPACE, vec!["alice"], "alice signed it"),
        (good.clone(), NAMESPACE, vec!["alice", "alice"], "alice signed it"),
        (good.clone(), NAMESPACE, vec!["alice", "dave"], "does not belong to ops"),
        (good.clone(), "file", vec!["alice", "bob"], "namespace"),
        (book("others", "desk", 2, ""), NAMESPACE, vec!["alice", "bob"], "is the book others"),
        (book("friends", "shop", 2, ""), NAMESPACE, vec!["alice", "bob"], "for deployment"),
        (book("friends", "desk", 1, ""), NAMESPACE, vec!["alice", "bob"], "2 is the least"),
        (book("friends", "desk", 2, "bob = 1\n"), NAMESPACE, vec!["alice", "bob"], "duplicate key"),
    ] {
        publish(&desk.home, &text, namespace, &signers);
        let told = desk.wrong();
        assert!(told.contains(why) && told.contains("\"line\":9"), "{why}: {told}");
    }
    publish(&desk.home, &good, NAMESPACE, &["alice", "bob"]);
    let (fine, told) = desk.check();
    assert!(fine, "{told}");
    assert_eq!(told["books"][0]["signed_by"], json!(["alice", "bob"]));
    let before = told["hash"].clone();
    // One that was changed after it was signed is no book, and one that was signed anew is another policy.
    std::fs::write(desk.home.join("friends.book"), good.replace("version = 2", "version = 3")).unwrap();
    assert!(desk.wrong().contains("does not verify"));
    publish(&desk.home, &good.replace("version = 2", "version = 3"), NAMESPACE, &["bob", "alice"]);
    let (fine, told) = desk.check();
    assert!(fine && told["hash"] != before, "{told}");
}

// [clause 8.7.1-m] test
#[test]
fn a_changed_book_comes_into_force_as_a_changed_policy() {
    if !ssh_keygen_is_here() {
        return;
    }
    let mut daemon = Daemon::start();
    let home = daemon.home.clone();
    people(&home);
    let file = home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
    daemon.restart();
    publish(&home, &book("friends", "desk", 2, ""), NAMESPACE, &["alice", "bob"]);
    daemon.apply(&with_book(POLICY));
    let mut wallet = daemon.wallet();
    let sign = |wallet: &mut support::Client, nonce: u64, to: &str| {
        let mut tx = daemon.tx(nonce, 5);
        tx["to"] = json!(to);
        wallet.call("claviger_signPayment", &json!({"transaction": tx}))
    };
    let eve = "0x3333333333333333333333333333333333333333";
    assert!(sign(&mut wallet, 0, BOB)["result"].is_object());
    assert_eq!(code(&sign(&mut wallet, 1, eve)), "destination_not_listed");
    // What nobody signed stops no daemon: the rules in force stay.
    let more = book("friends", "desk", 3, &format!("eve = \"{eve}\"\n"));
    std::fs::write(home.join("friends.book"), &more).unwrap();
    let (good, told) = cli(&home, &["reload"]);
    assert!(!good && told.contains("does not verify"), "{told}");
    assert!(sign(&mut wallet, 2, BOB)["result"].is_object());
    publish(&home, &more, NAMESPACE, &["alice", "bob"]);
    let told = cli_ok(&home, &["reload"]);
    assert_eq!((&told["changed"], &told["class"]), (&json!(true), &json!("loosens")), "{told}");
    assert!(sign(&mut wallet, 1, eve)["result"].is_object());
    let shown = cli_ok(&home, &["policy", "show"]);
    assert_eq!(shown["books"][0]["version"], 3);
    daemon.verify_log();
}

#[test]
fn check_diff_explain_and_replay_say_what_they_found() {
    let daemon = Daemon::start();
    let home = daemon.home.clone();
    let write = |name: &str, text: &str| {
        let file = home.join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let plain = |words: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .arg("--config")
            .arg(home.join("clavigerd.toml"))
            .args(words)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap() + &String::from_utf8(out.stderr).unwrap()
    };
    let old = write("old.toml", POLICY);
    let bad = write("bad.toml", &POLICY.replace("\"24h\"", "\"0h\""));
    let told = plain(&["policy", "check", &bad]);
    assert!(told.contains(&format!("{bad}:19: error: rule pay: ")) && told.contains("\"31d\""), "{told}");
    let twice = write(
        "twice.toml",
        &format!("{POLICY}[[rule]]\nid = \"no\"\neffect = \"forbid\"\nkeys = [\"hot\"]\n"),
    );
    let (good, told) = cli(&home, &["policy", "check", &twice]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(!good && told["data"]["valid"] == true, "{told}");
    assert_eq!(told["data"]["findings"][0]["weight"], "doubt");
    let tighter = write("tighter.toml", &POLICY.replace("\"250\"", "\"200\""));
    for words in [vec!["policy", "diff", &tighter], vec!["policy", "diff", &tighter, "--against", &old]] {
        assert_eq!(cli_ok(&home, &words)["class"], "tightens");
        assert!(plain(&words).contains("less is permitted, and nothing more"));
    }
    let mut wallet = daemon.wallet();
    for nonce in 0..2 {
        assert!(
            wallet.call("claviger_signPayment", &json!({"transaction": daemon.tx(nonce, 100)}))["result"]
                .is_object()
        );
    }
    let waits =
        write("waits.toml", &POLICY.replace("window =", "new_destination = { delay = \"1h\" }\nwindow ="));
    let told = cli_ok(&home, &["policy", "replay", &waits]);
    assert_eq!(told["changed"][0]["now"], "destination_new", "{told}");
    assert!(plain(&["policy", "replay", &old]).contains("all 2 payments would end as they did"));
    // A payment to somebody whom the key was never asked to pay is refused, and known from then on.
    let dan = "0x4444444444444444444444444444444444444444";
    daemon.apply(
        &std::fs::read_to_string(&waits)
            .unwrap()
            .replace("[books.friends]", &format!("[books.friends]\ndan = \"{dan}\"")),
    );
    let mut tx = daemon.tx(2, 5);
    tx["to"] = json!(dan);
    let refusal = wallet.call("claviger_signPayment", &json!({"transaction": tx}));
    assert_eq!(code(&refusal), "destination_new", "{refusal}");
    let words = [
        "policy",
        "explain",
        "--app",
        "test",
        "--key",
        "hot",
        "--chain",
        "eip155:1",
        "--to",
        dan,
        "--amount",
        "5",
        "--nonce",
        "2",
        "--max-fee",
        "1",
    ];
    let told = plain(&words);
    assert!(told.contains("allowed from ") && told.contains("destination_new"), "{told}");
    daemon.verify_log();
}
