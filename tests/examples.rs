//! The examples as they stand, each by its own program, against the real daemon on the embedded token.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests stop where they cannot go on")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use claviger::client::{Address, Payment};
use serde_json::Value;
use support::{BOB, Daemon, POLICY, cli_ok, own_uid, rust_example};

/// What really runs when this program is called: a name may lead to a script that starts another.
fn really(program: &str, words: [&str; 2]) -> PathBuf {
    let out = Command::new(program).args(words).output().unwrap();
    assert!(out.status.success(), "{program} is needed, as ./test says");
    PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
}

/// Exit code and what it printed.
fn pay(program: &Path, script: Option<&str>, daemon: &Daemon, nonce: u64, value: u64) -> (i32, String) {
    let script = script.map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name));
    let out = Command::new(program)
        .args(script)
        .args(["--socket", daemon.home.join("wallet.sock").to_str().unwrap()])
        .args(["--daemon-uid", &own_uid().to_string(), "--to", BOB])
        .args(["--nonce", &nonce.to_string(), "--value", &value.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr);
    (out.status.code().unwrap(), said)
}

#[test]
fn each_example_pays_once_and_says_why_the_second_payment_is_refused() {
    let daemon = Daemon::start();
    let python = really("python3", ["-c", "import os; print(os.path.realpath('/proc/self/exe'))"]);
    let node = really("node", ["-p", "fs.realpathSync('/proc/self/exe')"]);
    let rust = rust_example();
    for (app, path, more) in
        [("rust", &rust, None), ("python", &python, None), ("node", &node, Some("--allow-jit"))]
    {
        let words = ["app", "add", app, "--path", path.to_str().unwrap()];
        cli_ok(&daemon.home, &words.into_iter().chain(more).collect::<Vec<_>>());
    }
    daemon.apply(&POLICY.replace("[\"test\"]", "[\"rust\", \"python\", \"node\"]"));
    let account = Address::parse(&daemon.address).unwrap();
    for (nonce, (program, script)) in
        [(&rust, None), (&python, Some("python/pay.py")), (&node, Some("node/pay.mjs"))]
            .into_iter()
            .enumerate()
    {
        let nonce = u64::try_from(nonce).unwrap();
        let (code, said) = pay(program, script, &daemon, nonce, 10 + nonce);
        assert_eq!(code, 0, "{said}");
        let line = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let raw = hex::decode(line("raw 0x")).unwrap();
        // Recovered from the signature, over the very transaction that was to be signed.
        let asked = Payment::from_json(&daemon.tx(nonce, 10 + nonce)).unwrap();
        let signed = asked.transaction().signed_by(account, &raw).unwrap();
        assert_eq!(line("signed "), format!("0x{}", hex::encode(signed.hash)));

        let (code, said) = pay(program, script, &daemon, nonce + 100, 101);
        assert_eq!(code, 1, "{said}");
        assert!(
            said.starts_with("refused over_limit: ") && said.contains("\nadvice: the amount is above"),
            "{said}"
        );

        // Run again with the same words: the same payment, not another one.
        assert_eq!(
            pay(program, script, &daemon, nonce, 10 + nonce).1.lines().nth(1),
            Some(format!("raw 0x{}", hex::encode(&raw)).as_str())
        );
    }
    let told: Value = daemon.verify_log();
    assert_eq!(told["results"], 3, "{told}");
}

#[test]
fn the_examples_do_not_talk_with_whoever_opened_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("wallet.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    if own_uid() == 0 {
        // Root is always taken: a listener of another user is needed, and its file alone tells Node of it.
        std::os::unix::fs::chown(&socket, Some(12_345), None).unwrap();
    }
    let node = really("node", ["-p", "fs.realpathSync('/proc/self/exe')"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/node/pay.mjs");
    let out = Command::new(node)
        .arg(script)
        .args(["--to", BOB, "--nonce", "0", "--value", "1", "--daemon-uid", "4242", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.code() == Some(75) && said.contains("not to the daemon's"), "{said}");
}
