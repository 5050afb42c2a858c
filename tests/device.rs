//! The machine under the daemon: what is required of it, while it runs.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Daemon, cli, cli_ok, code};

fn pays(daemon: &Daemon, nonce: u64) -> String {
    let words = json!({"transaction": daemon.tx(nonce, 1)});
    code(&daemon.wallet().call("claviger_signPayment", &words)).to_owned()
}

// [clause 8.2.4-f] test
#[test]
fn a_required_fact_that_turns_bad_stops_signing_within_its_period_and_says_which() {
    let mut daemon = Daemon::start();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let config = format!("{config}\n[device]\nevery_seconds = 1\nrequire = [\"own-config\"]\n");
    std::fs::write(&file, &config).unwrap();
    daemon.restart();
    assert_eq!(pays(&daemon, 0), "ok");
    std::fs::write(&file, format!("{config}# somebody was here\n")).unwrap();
    let changed = Instant::now();
    while pays(&daemon, 0) == "ok" {
        assert!(changed.elapsed() < Duration::from_millis(1500), "still signing");
        std::thread::sleep(Duration::from_millis(20));
    }
    let reply = daemon.wallet().call("claviger_signPayment", &json!({"transaction": daemon.tx(1, 1)}));
    assert_eq!(code(&reply), "device_unfit");
    assert!(reply["error"]["message"].as_str().unwrap().contains("own-config"), "{reply}");
    assert_eq!(daemon.wallet().call("claviger_status", &json!({}))["result"]["signing"], false);
    let (good, _) = cli(&daemon.home, &["device", "facts"]);
    assert!(!good, "the command says so with its exit code");
    // When it is as it was, signing goes on by itself.
    std::fs::write(&file, &config).unwrap();
    let mended = Instant::now();
    while pays(&daemon, 1) != "ok" {
        assert!(mended.elapsed() < Duration::from_secs(3), "not signing again");
        std::thread::sleep(Duration::from_millis(50));
    }
    let facts = cli_ok(&daemon.home, &["device", "facts"]);
    assert_eq!(facts["fit"], true);
    // Each intent names what the machine was, and the log says what that means.
    let log = cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
    let entries = log["entries"].as_array().unwrap();
    let told: Vec<&str> =
        entries.iter().filter(|e| e["kind"] == "device").map(|e| e["digest"].as_str().unwrap()).collect();
    assert!(told.len() >= 3, "at the start, when it changed, and when it changed back: {told:?}");
    for intent in entries.iter().filter(|e| {
        e["kind"] == "intent"
            && e["seq"].as_u64() > entries.iter().find(|e| e["kind"] == "device").unwrap()["seq"].as_u64()
    }) {
        assert!(told.contains(&intent["device"].as_str().unwrap()), "{intent}");
    }
    daemon.verify_log();
}

// [clause 8.2.4-f] test
#[test]
fn a_demand_that_this_machine_cannot_answer_is_refused_at_the_start_with_advice() {
    let daemon = Daemon::start();
    daemon.signal("TERM");
    let mut daemon = daemon;
    daemon.wait();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}\n[device]\nrequire = [\"measured-boot\"]\n")).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_clavigerd")).arg("--config").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(!out.status.success() && said.contains("device.measured-boot is required"), "{said}");
    assert!(said.contains("device.pcrs"), "with advice: {said}");
}
