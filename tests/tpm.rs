//! A PIN sealed in a TPM, against a software TPM that each test starts for itself: `cargo test --features tpm --test tpm`.
#![cfg(feature = "tpm")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod swtpm;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use claviger::refusal::Refusal;
use claviger::secret::Pin;
use claviger::tpm::{self, TpmError};
use serde_json::{Value, json};
use swtpm::{INDEX, Listener, Swtpm, contains, found_below, missing};

const PIN: &str = "correct-horse-4711";

// [clause 8.2.5-d] test
#[test]
fn a_sealed_pin_opens_in_its_own_machine_and_stands_in_no_file() {
    if missing() {
        return;
    }
    let mut swtpm = Swtpm::start();
    let sealed = tpm::seal(&Pin::new(PIN.into()).unwrap(), &swtpm.address, INDEX, &swtpm.blob()).unwrap();
    assert_eq!(sealed.blank, [7, 11], "nothing was measured in a software TPM");
    assert_eq!(std::fs::metadata(swtpm.blob()).unwrap().permissions().mode() & 0o777, 0o600);
    // More often than a TPM without a resource manager has room for: nothing is left behind.
    for _ in 0..8 {
        assert_eq!(swtpm.unseal().unwrap(), PIN);
    }
    swtpm.reboot();
    assert_eq!(swtpm.unseal().unwrap(), PIN);
    assert_eq!(found_below(swtpm.dir.path(), PIN.as_bytes()), None);
    // A short PIN and the longest one make files of one size.
    let size = |pin: &str| {
        swtpm.seal(pin);
        assert_eq!(swtpm.unseal().unwrap(), pin);
        std::fs::metadata(swtpm.blob()).unwrap().len()
    };
    assert_eq!(size("1"), size(&"x".repeat(tpm::MAX_PIN)));
    let long = Pin::new("x".repeat(tpm::MAX_PIN + 1)).unwrap();
    let refused = tpm::seal(&long, &swtpm.address, INDEX, &swtpm.blob());
    assert!(matches!(refused, Err(TpmError::PinTooLong)));
}

// [clause 8.2.5-d] test
#[test]
fn another_boot_state_gives_no_pin_and_the_right_one_gives_it_again() {
    if missing() {
        return;
    }
    let mut swtpm = Swtpm::start();
    swtpm.extend(7);
    swtpm.extend(11);
    swtpm.seal(PIN);
    assert_eq!(swtpm.unseal().unwrap(), PIN);
    swtpm.extend(11);
    let (code, sentence) = swtpm.refused();
    assert_eq!(code, "tpm_boot_changed");
    assert!(sentence.contains("PCR 11") && !sentence.contains("PCR 7"), "{sentence}");
    swtpm.reboot();
    assert_eq!(swtpm.refused().0, "tpm_boot_changed", "nothing is measured yet");
    swtpm.extend(11);
    let (_, sentence) = swtpm.refused();
    assert!(sentence.contains("PCR 7") && !sentence.contains("PCR 11"), "{sentence}");
    swtpm.extend(7);
    assert_eq!(swtpm.unseal().unwrap(), PIN);
}

// [clause 8.2.5-d] test
#[test]
fn a_raised_counter_closes_every_older_copy_for_good() {
    if missing() {
        return;
    }
    let mut swtpm = Swtpm::start();
    let sealed_at = swtpm.seal(PIN);
    let image = std::fs::read(swtpm.blob()).unwrap();
    assert_eq!(tpm::raise(&swtpm.address, INDEX).unwrap(), sealed_at + 1);
    let (code, sentence) = swtpm.refused();
    assert_eq!(code, "tpm_inactivated");
    assert!(sentence.contains("only a new sealing"), "{sentence}");
    assert_eq!(swtpm.seal("another"), sealed_at + 1, "an operator can seal again");
    assert_eq!(swtpm.unseal().unwrap(), "another");
    // The thief puts the old disk back, and switches the machine off and on.
    std::fs::write(swtpm.blob(), &image).unwrap();
    swtpm.reboot();
    assert_eq!(swtpm.refused().0, "tpm_inactivated");
    // And writes the counter's value of today into the old file: the TPM does not believe files.
    let mut edited: Value = serde_json::from_slice(&image).unwrap();
    edited["counter"] = json!(sealed_at + 1);
    std::fs::write(swtpm.blob(), edited.to_string()).unwrap();
    assert_eq!(swtpm.refused().0, "tpm_blob_damaged");
}

// [clause 8.2.5-d] test
#[test]
fn a_counter_that_was_deleted_and_made_anew_never_shows_an_old_value() {
    if missing() {
        return;
    }
    let swtpm = Swtpm::start();
    assert!(matches!(tpm::raise(&swtpm.address, INDEX), Err(TpmError::CounterMissing(INDEX))));
    let sealed_at = swtpm.seal(PIN);
    let image = std::fs::read(swtpm.blob()).unwrap();
    tpm::raise(&swtpm.address, INDEX).unwrap();
    swtpm.delete_counter();
    let (code, sentence) = swtpm.refused();
    assert_eq!(code, "tpm_inactivated");
    assert!(sentence.contains("deleted"), "{sentence}");
    assert!(swtpm.seal("another") > sealed_at + 1);
    std::fs::write(swtpm.blob(), &image).unwrap();
    assert_eq!(swtpm.refused().0, "tpm_inactivated");
    // What is no counter cannot stand in for it.
    swtpm.delete_counter();
    swtpm.define_ordinary();
    assert_eq!(swtpm.refused().0, "tpm_refused");
    let pin = Pin::new(PIN.into()).unwrap();
    let refused = tpm::seal(&pin, &swtpm.address, INDEX, &swtpm.blob());
    assert!(matches!(refused, Err(TpmError::CounterForeign(INDEX))));
    let refused = tpm::seal(&pin, &swtpm.address, 0x01c1_0c1a, &swtpm.blob());
    assert!(matches!(refused, Err(TpmError::Index(_))));
}

// [clause 8.2.5-d] test
#[test]
fn another_tpm_and_none_give_no_pin() {
    if missing() {
        return;
    }
    let (swtpm, other) = (Swtpm::start(), Swtpm::start());
    swtpm.seal(PIN);
    std::fs::copy(swtpm.blob(), other.blob()).unwrap();
    assert_eq!(other.refused().0, "tpm_other");
    // Even when the file is made to say that it belongs there.
    other.seal("another");
    let root = serde_json::from_slice::<Value>(&std::fs::read(other.blob()).unwrap()).unwrap();
    let mut edited: Value = serde_json::from_slice(&std::fs::read(swtpm.blob()).unwrap()).unwrap();
    edited["storage_root"] = root["storage_root"].clone();
    std::fs::write(other.blob(), edited.to_string()).unwrap();
    assert_eq!(other.refused().0, "tpm_blob_damaged");
    for address in ["device:/nonexistent/tpmrm0", "swtpm:path=/nonexistent/tpm"] {
        let refusal: Refusal = tpm::unseal(&swtpm.blob(), address).map(drop).unwrap_err().into();
        assert_eq!(refusal.code.as_str(), "tpm_absent");
    }
}

// [clause 8.2.5-d] test
#[test]
fn a_damaged_file_gives_no_pin_wherever_it_is_damaged() {
    if missing() {
        return;
    }
    let swtpm = Swtpm::start();
    swtpm.extend(7);
    swtpm.seal(PIN);
    let good: Value = serde_json::from_slice(&std::fs::read(swtpm.blob()).unwrap()).unwrap();
    let refused_with = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        std::fs::write(swtpm.blob(), bad.to_string()).unwrap();
        swtpm.refused().0
    };
    let private = good["private"].as_str().unwrap();
    for at in [0, 10, 60, 120, private.len() - 8] {
        let other = if private.as_bytes()[at] == b'A' { "B" } else { "A" };
        let bent = format!("{}{other}{}", &private[..at], &private[at + 1..]);
        assert_eq!(refused_with("private", json!(bent)), "tpm_blob_damaged", "at {at}");
    }
    assert_eq!(refused_with("private", json!("")), "tpm_blob_damaged");
    assert_eq!(refused_with("public", json!("AAAA")), "tpm_blob_damaged");
    assert_eq!(refused_with("counter", json!(0)), "tpm_inactivated");
    assert_eq!(refused_with("nv_index", json!(INDEX + 1)), "tpm_inactivated");
    assert_eq!(refused_with("version", json!(2)), "tpm_blob_damaged");
    // The PCRs in the file are for people alone.
    let zeros = "00".repeat(32);
    let mut said = good.clone();
    said["pcrs"] = json!({"7": zeros, "11": zeros});
    std::fs::write(swtpm.blob(), said.to_string()).unwrap();
    assert_eq!(swtpm.unseal().unwrap(), PIN);
    std::fs::write(swtpm.blob(), good.to_string()).unwrap();
    assert_eq!(swtpm.unseal().unwrap(), PIN);
    std::fs::remove_file(swtpm.blob()).unwrap();
    assert_eq!(swtpm.refused().0, "tpm_blob_damaged");
}

// [clause 8.2.5-d] test
#[test]
fn a_listener_on_the_bus_hears_no_pin_and_cannot_bend_it() {
    if missing() {
        return;
    }
    let swtpm = Swtpm::start();
    let bus = Listener::between(&swtpm);
    tpm::seal(&Pin::new(PIN.into()).unwrap(), &bus.address, INDEX, &swtpm.blob()).unwrap();
    assert_eq!(tpm::unseal(&swtpm.blob(), &bus.address).unwrap().expose(), PIN.as_bytes());
    let heard = bus.heard();
    assert!(heard.len() > 3000 && contains(&heard, &[0, 0, 1, 0x5e]), "the listener heard the talk");
    assert!(!contains(&heard, PIN.as_bytes()));
    bus.bend();
    let bent = tpm::unseal(&swtpm.blob(), &bus.address).map(drop);
    assert!(matches!(bent, Err(TpmError::Tampered(_))), "{bent:?}");
}

// [clause 8.2.5-d] test
#[test]
fn wrong_guesses_of_strangers_stop_nothing() {
    if missing() {
        return;
    }
    let swtpm = Swtpm::start();
    swtpm.seal(PIN);
    swtpm.lock_out();
    assert_eq!(swtpm.unseal().unwrap(), PIN);
    tpm::raise(&swtpm.address, INDEX).unwrap();
    assert_eq!(swtpm.refused().0, "tpm_inactivated");
    swtpm.own();
    let (code, sentence) = swtpm.refused();
    assert_eq!(code, "tpm_refused");
    assert!(sentence.contains("owner has set a password"), "{sentence}");
}

fn claviger(home: &Path, words: &[&str]) -> Output {
    let config = home.join("clavigerd.toml");
    Command::new(env!("CARGO_BIN_EXE_claviger")).arg("--config").arg(config).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

// [clause 8.2.5-d] test
// [clause 8.2.5-c] test
#[test]
fn the_daemon_starts_with_a_sealed_pin_until_the_counter_is_raised() {
    if missing() {
        return;
    }
    let swtpm = Swtpm::start();
    let home = swtpm.dir.path().join("home");
    let init =
        ["init", "--dir", home.to_str().unwrap(), "--profile", "embedded", "--allow-volatile", "--yes"];
    let made = claviger(&home, &init);
    assert!(made.status.success(), "{}", said(&made));
    let pin_file = home.join("token.pin");
    let pin = std::fs::read(&pin_file).unwrap();
    let blob = home.join("pin.sealed");
    let (blob, tcti) = (blob.to_str().unwrap(), swtpm.address.as_str());
    let mut told = Vec::new();
    let mut run = |words: &[&str], good: bool| {
        let output = claviger(&home, words);
        assert_eq!(output.status.success(), good, "{words:?}: {}", said(&output));
        told.push(said(&output));
        said(&output)
    };
    let seal = ["tpm", "seal", "--out", blob, "--tcti", tcti, "--pin-file", pin_file.to_str().unwrap()];
    assert!(run(&seal, true).contains("nothing was measured into PCR 7 and 11"));
    run(&["tpm", "check", blob, "--tcti", tcti], true);
    std::fs::remove_file(&pin_file).unwrap();
    let config = home.join("clavigerd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let line = text.lines().find(|line| line.starts_with("pin_file")).unwrap();
    let sealed = format!("pin_tpm = {{ file = \"pin.sealed\", tcti = {tcti:?} }}");
    std::fs::write(&config, text.replace(line, &sealed)).unwrap();

    let daemon = |log: &str| {
        let log = std::fs::File::create(home.join(log)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
        command.arg("--config").arg(&config).arg("--allow-volatile");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    let mut first = daemon("first.log");
    run(&["status", "--wait", "30"], true);
    let process = Path::new("/proc").join(first.id().to_string());
    for of in ["cmdline", "environ"] {
        assert!(!contains(&std::fs::read(process.join(of)).unwrap_or_default(), &pin));
    }
    // What else it finds is about this machine.
    let found = said(&claviger(&home, &["doctor"]));
    assert!(found.contains("the TPM would open it"), "{found}");
    first.kill().unwrap();
    first.wait().unwrap();

    run(&["tpm", "raise", "--nv-index", "0x01810c1a", "--tcti", tcti], true);
    let refused = run(&["tpm", "check", blob, "--tcti", tcti], false);
    assert!(refused.contains("tpm_inactivated") && refused.contains("seal the PIN again"), "{refused}");
    assert!(!daemon("second.log").wait().unwrap().success());
    let log = std::fs::read_to_string(home.join("second.log")).unwrap();
    assert!(log.contains("tpm_inactivated"), "{log}");
    assert!(!told.iter().any(|text| contains(text.as_bytes(), &pin)));
    assert_eq!(found_below(swtpm.dir.path(), &pin), None);
}

// [clause 8.2.4-g] test
#[test]
fn a_quote_is_signed_in_the_tpm_and_convinces_who_sent_the_nonce() {
    use claviger::core::device::quote::{
        FORMAT, PCRS, Quote, QuoteError, qualifying, raw_signature, selection,
    };
    use claviger::core::device::{Fact, Name, Verdict};
    if missing() {
        return;
    }
    let mut swtpm = Swtpm::start();
    swtpm.extend(7);
    let facts = vec![Fact { name: Name::Swap, verdict: Verdict::Pass, found: "none".into() }];
    let quote = |swtpm: &Swtpm, nonce: &[u8]| {
        let made = tpm::quote(&swtpm.address, &qualifying(nonce, &facts), &selection(), 5).unwrap();
        Quote {
            format: FORMAT.into(),
            nonce: hex::encode(nonce),
            facts: facts.clone(),
            pcrs: made.pcrs.iter().map(hex::encode).collect(),
            key: hex::encode(&made.key),
            attest: hex::encode(&made.attest),
            signature: hex::encode(raw_signature(&made.signature).unwrap()),
        }
    };
    let nonce = [9; 32];
    let first = quote(&swtpm, &nonce);
    let judged = first.judge(&nonce, None).unwrap();
    assert_eq!(first.pcrs.len(), PCRS.len());
    assert_ne!(first.pcrs[3], "00".repeat(32), "PCR 7 was extended");
    assert_eq!(first.judge(&[8; 32], None), Err(QuoteError::Other), "an old quote for a new nonce");
    // After another boot it is the same key, and the TPM says that it was started again.
    swtpm.reboot();
    let second = quote(&swtpm, &nonce);
    let again = second.judge(&nonce, Some(&first.key)).unwrap();
    assert!(again.resets > judged.resets, "{again:?}");
    assert_eq!(second.pcrs[3], "00".repeat(32));
    // Another machine's quote has another key.
    let other = Swtpm::start();
    assert!(matches!(quote(&other, &nonce).judge(&nonce, Some(&first.key)), Err(QuoteError::Key(_))));
    for _ in 0..6 {
        // More often than a TPM without a resource manager has room for.
        quote(&other, &nonce).judge(&nonce, None).unwrap();
    }
}
