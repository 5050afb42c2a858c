//! Payments that people must approve, with the stock ssh-keygen and a real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, POLICY, cli_ok, code, keygen, own_uid, ssh_keygen_is_here, ssh_sign};

const NAMESPACE: &str = "clavigerd-approval@v1";
const REJECT: &str = "clavigerd-rejection@v1";

struct Board {
    daemon: Daemon,
    dir: PathBuf,
}

impl Board {
    /// alice, bob and carol are of `ops`; dave is of nothing, erin's key is revoked, frank is the user of the app.
    fn start() -> Self {
        let mut daemon = Daemon::start();
        let dir = daemon.home.join("people");
        std::fs::create_dir(&dir).unwrap();
        let uid = own_uid();
        let mut text = String::from("schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n");
        let mut people = String::new();
        for (who, kind, groups, extra) in [
            ("alice", "ed25519", "\"ops\"", String::new()),
            ("bob", "ecdsa", "\"ops\", \"risk\"", String::new()),
            ("carol", "ed25519", "\"ops\"", String::new()),
            ("dave", "ed25519", "", String::new()),
            ("erin", "ed25519", "\"ops\"", String::new()),
            ("frank", "ed25519", "\"ops\"", format!("uid = {uid}\n")),
        ] {
            let key = keygen(&dir, who, kind);
            people +=
                &format!("[[person]]\nid = \"{who}\"\ngroups = [{groups}]\nkeys = [\"{key}\"]\n{extra}");
        }
        let erin = Command::new("ssh-keygen").args(["-l", "-f"]).arg(dir.join("erin.pub")).output().unwrap();
        let erin = String::from_utf8(erin.stdout).unwrap();
        text += &format!("revoked = [\"{}\"]\n{people}", erin.split_whitespace().nth(1).unwrap());
        std::fs::write(daemon.home.join("authority.toml"), text).unwrap();
        let file = daemon.home.join("clavigerd.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("authority_file = \"authority.toml\"\n{config}")).unwrap();
        daemon.restart();
        daemon.apply(&policy(2));
        Self { daemon, dir }
    }

    fn asks(&self, nonce: u64, value: u64) -> Value {
        self.daemon
            .wallet()
            .call("claviger_signPayment", &json!({"transaction": self.daemon.tx(nonce, value)}))
    }

    /// A payment above the line; its request id.
    fn waits(&self, nonce: u64) -> String {
        let reply = self.asks(nonce, 90);
        assert_eq!(code(&reply), "approval_needed", "{reply}");
        reply["error"]["data"]["facts"]["request"].as_str().unwrap().to_owned()
    }

    fn text(&self, request: &str) -> String {
        let shown = cli_ok(&self.daemon.home, &["approval", "show", request]);
        shown["text"].as_str().unwrap().to_owned()
    }

    fn sign(&self, who: &str, namespace: &str, text: &str, more: &[&str]) -> String {
        ssh_sign(&self.dir.join(who), namespace, text, more)
    }

    fn hands_in(&self, request: &str, signature: &str) -> String {
        let words = json!({"request": request, "signature": signature});
        code(&self.daemon.operator().call("operator_approve", &words)).to_owned()
    }

    fn approves(&self, who: &str, request: &str) -> String {
        self.hands_in(request, &self.sign(who, NAMESPACE, &self.text(request), &[]))
    }
}

/// Above 50 so many of `ops` must approve.
fn policy(quorum: u32) -> String {
    POLICY.replace(
        "per_tx.max = \"100\"",
        &format!("per_tx.max = \"100\"\napprove = [{{ above = \"50\", quorum = {quorum}, of = \"ops\" }}]"),
    )
}

// [clause 8.5.4-a] test
#[test]
fn a_payment_above_the_line_is_signed_when_two_people_have_signed_its_text() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start();
    assert_eq!(code(&board.asks(0, 50)), "ok", "what is not above the line needs nobody");
    let request = board.waits(1);
    assert_eq!(board.waits(1), request, "the same payload waits once");
    let text = board.text(&request);
    for line in ["deployment: test-1", "pay: ", "key: hot", "needs: 2 of ops", "account nonce: 1"] {
        assert!(text.contains(line), "{line} is missing:\n{text}");
    }
    // What a person saves from the terminal is what is signed, byte for byte.
    let printed = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .arg("--config")
        .arg(board.daemon.home.join("clavigerd.toml"))
        .args(["approval", "show", &request])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), text);
    assert!(text.is_ascii() && text.ends_with('\n') && !text.contains('\r'));
    // It survives a restart, and so does a voice.
    assert_eq!(board.approves("alice", &request), "ok");
    let mut board = board;
    board.daemon.signal("KILL");
    board.daemon.restart();
    assert_eq!(code(&board.asks(1, 90)), "approval_needed");
    // An app that waits gets its signature as soon as the second voice is there.
    let (socket, id) = (board.daemon.home.join("wallet.sock"), request.clone());
    let waiting = std::thread::spawn(move || {
        support::Client::open(&socket)
            .call("claviger_waitRequest", &json!({"request": id, "timeout_ms": 20_000}))
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(board.approves("bob", &request), "ok");
    let began = Instant::now();
    let signed = waiting.join().unwrap();
    assert_eq!(signed["result"]["status"], "signed", "{signed}");
    assert!(began.elapsed() < Duration::from_secs(2));
    // Asked again, it is the same signature; nobody is asked twice.
    let again = board.asks(1, 90);
    assert_eq!(again["result"]["raw"], signed["result"]["raw"], "{again}");
    assert_eq!(board.approves("carol", &request), "approval_stale");
    // An approval is for one payload: the next nonce waits anew.
    let next = board.waits(2);
    assert_ne!(next, request);
    assert_eq!(cli_ok(&board.daemon.home, &["approval", "list"]).as_array().unwrap().len(), 1);
    let log = cli_ok(&board.daemon.home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    for word in ["approved_by", "alice", "bob", "SSH SIGNATURE"] {
        assert!(log.contains(word), "the log does not say {word}");
    }
    board.daemon.verify_log();
}

// [clause 8.5.4-a] test
#[test]
fn what_is_no_voice_is_refused_each_with_its_code() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start();
    let request = board.waits(0);
    let text = board.text(&request);
    let by = |who: &str, text: &str| board.sign(who, NAMESPACE, text, &[]);
    let expect = |signature: &str, wanted: &str, what: &str| {
        assert_eq!(board.hands_in(&request, signature), wanted, "{what}");
    };
    expect("", "approval_malformed", "nothing");
    expect(
        "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----",
        "approval_malformed",
        "nonsense",
    );
    expect(&by("alice", &text.replace('\n', "\r\n")), "approval_wrong", "line ends of another system");
    expect(&by("alice", text.trim_end()), "approval_wrong", "the last newline is missing");
    expect(&by("alice", &text.replace("test-1", "prod-1")), "approval_wrong", "another deployment");
    expect(&by("alice", &text.replace("2 of ops", "1 of ops")), "approval_wrong", "fewer people");
    let other = board.text(&board.waits(1));
    expect(&by("alice", &other), "approval_wrong", "another payment's text");
    expect(&board.sign("alice", "file", &text, &[]), "approval_namespace", "another namespace");
    let weak = board.sign("alice", NAMESPACE, &text, &["-O", "hashalg=sha256"]);
    expect(&weak, "approval_malformed", "another hash");
    expect(&by("dave", &text), "approval_stranger", "somebody of no group");
    expect(&by("erin", &text), "approval_revoked", "a revoked key");
    expect(&by("frank", &text), "approval_own", "who asked");
    keygen(&board.dir, "mallory", "ed25519");
    expect(&by("mallory", &text), "approval_stranger", "a stranger");
    expect(&by("alice", &text), "ok", "a voice at last");
    expect(&by("alice", &text), "approval_twice", "the same person again");
    assert_eq!(code(&board.asks(0, 90)), "approval_needed", "one is not two");
    let nothing = json!({"request": "00000000000000000000000000000001", "signature": by("alice", &text)});
    assert_eq!(code(&board.daemon.operator().call("operator_approve", &nothing)), "request_unknown");
    // What was shown under one policy is worth nothing under another.
    board.daemon.apply(&policy(2).replace("\"250\"", "\"251\""));
    expect(&by("bob", &text), "approval_stale", "the policy changed");
    assert_eq!(code(&board.asks(0, 90)), "approval_needed");
    assert_ne!(board.waits(0), request, "a new text under the new policy");
    board.daemon.verify_log();
}

// [clause 8.5.4-a] test
#[test]
fn one_no_ends_it_and_an_app_may_take_it_back() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start();
    let request = board.waits(0);
    assert_eq!(board.approves("alice", &request), "ok");
    let no = board.sign("carol", REJECT, &board.text(&request), &[]);
    assert_eq!(board.hands_in(&request, &no), "ok");
    assert_eq!(board.approves("bob", &request), "approval_stale");
    let waited = board.daemon.wallet().call("claviger_waitRequest", &json!({"request": request}));
    assert_eq!(code(&waited), "approval_rejected");
    let taken_back = board.waits(0);
    assert_ne!(taken_back, request);
    let cancelled = board.daemon.wallet().call("claviger_cancelRequest", &json!({"request": taken_back}));
    assert_eq!(cancelled["result"]["cancelled"], true, "{cancelled}");
    assert_eq!(board.approves("alice", &taken_back), "approval_stale");
    // Who approved may still say no before it is signed.
    let third = board.waits(0);
    assert_eq!(board.approves("alice", &third), "ok");
    assert_eq!(board.approves("bob", &third), "ok");
    let no = board.sign("bob", REJECT, &board.text(&third), &[]);
    assert_eq!(board.hands_in(&third, &no), "ok");
    assert_eq!(code(&board.asks(0, 90)), "approval_needed", "an approval that was taken back is none");
    // A key can sign through the command line as well.
    let fourth = board.waits(0);
    let key = board.dir.join("carol");
    cli_ok(&board.daemon.home, &["approval", "approve", &fourth, "--key", key.to_str().unwrap()]);
    assert_eq!(board.approves("alice", &fourth), "ok");
    assert_eq!(code(&board.asks(0, 90)), "ok");
    board.daemon.verify_log();
}

#[test]
fn quorums_that_nobody_can_make_are_refused_before_they_are_in_force() {
    if !ssh_keygen_is_here() {
        return;
    }
    let board = Board::start();
    for (text, why) in [
        (policy(2).replace("of = \"ops\"", "of = \"nobody\""), "names 0"),
        (policy(5), "names 4"),
        (policy(0), "quorum"),
        (policy(2).replace("above = \"50\"", "above = \"-1\""), "decimal"),
    ] {
        let file = board.daemon.home.join("bad.toml");
        std::fs::write(&file, text).unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .arg("--config")
            .arg(board.daemon.home.join("clavigerd.toml"))
            .args(["policy", "apply", file.to_str().unwrap()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains(why), "{why}: {said}");
    }
}
