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

// [clause 8.2.4-q] test
#[test]
fn a_payment_that_is_not_small_is_not_signed_by_an_old_look_at_the_machine() {
    let mut daemon = Daemon::start();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    let line = "fresh_from = [{ chain = \"eip155:1\", asset = \"native\", amount = \"50\" }]";
    let device = format!("[device]\nevery_seconds = 600\nrequire = [\"own-config\"]\n{line}\n");
    let config = format!("{config}\n{device}");
    std::fs::write(&file, &config).unwrap();
    daemon.restart();
    let asks = |nonce, value| {
        let words = json!({"transaction": daemon.tx(nonce, value)});
        daemon.wallet().call("claviger_signPayment", &words)
    };
    assert_eq!(code(&asks(0, 50)), "ok");
    std::fs::write(&file, format!("{config}# somebody was here\n")).unwrap();
    assert_eq!(
        code(&asks(1, 49)),
        "ok",
        "the newest sample is minutes old, and good enough for what is small"
    );
    let refused = asks(2, 50);
    assert_eq!(code(&refused), "device_unfit", "this very payment");
    assert!(refused["error"]["message"].as_str().unwrap().contains("own-config"), "{refused}");
    assert_eq!(code(&asks(3, 1)), "device_unfit", "what was found counts for all that follow");
    // It stands in the log, with what was found on the disk and what is in force.
    let log = cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
    let mut looks = log["entries"].as_array().unwrap().iter().filter(|e| e["kind"] == "device");
    let facts = looks.next_back().unwrap()["facts"].as_array().unwrap().clone();
    let own = facts.iter().find(|f| f["name"] == "own-config").unwrap();
    let digest = |text: &str| hex::encode(claviger::core::units::sha256(text.as_bytes()));
    let found = own["found"].as_str().unwrap();
    let changed = digest(&format!("{config}# somebody was here\n"));
    assert!(found.contains(&digest(&config)) && found.contains(&changed), "{found}");
    std::fs::write(&file, &config).unwrap();
    cli_ok(&daemon.home, &["device", "facts"]);
    assert_eq!(code(&asks(2, 50)), "ok");
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
