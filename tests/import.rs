//! Keys that come in from elsewhere, through the real command line and a real daemon, on the embedded token and on SoftHSM.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use claviger::core::payment::evm::UnsignedTx;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use serde_json::{Value, json};
use sha3::{Digest, Keccak256};
use support::{Daemon, POLICY, cli_ok, code};

/// What Hardhat, Anvil and others give to everybody: the first three accounts.
const JUNK: &str = "test test test test test test test test test test test junk";
const ACCOUNTS: [(&str, &str); 3] = [
    (
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    ),
    (
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    ),
    (
        "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC",
        "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    ),
];
const PASSPHRASE: &str = "correct horse";

/// Runs `claviger key import` with lines on its standard input; its answer, or the code of its refusal and all it said.
fn import(home: &Path, words: &[&str], input: &str) -> Result<Value, (String, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .arg("--json")
        .arg("--config")
        .arg(home.join("clavigerd.toml"))
        .args(["key", "import"])
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its words does not read what comes after.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let value: Value = serde_json::from_str(&said).unwrap_or_default();
    if out.status.success() {
        return Ok(value);
    }
    let told = said + &String::from_utf8_lossy(&out.stderr);
    Err((value["data"]["code"].as_str().unwrap_or("usage").to_owned(), told))
}

fn refused(home: &Path, words: &[&str], input: &str) -> (String, String) {
    import(home, words, input).map(|v| panic!("{words:?}: {v}")).unwrap_err()
}

fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/import").join(name)
}

/// Keys of two purposes may come in; everything else is as it stands in the built-in text.
fn let_logins_in(daemon: &mut Daemon, change: impl Fn(String) -> String) {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/keys.toml")).unwrap();
    let logins = "purpose = \"authentication\"\n";
    let text = text.replace(logins, &format!("{logins}import = \"allow\"\n"));
    std::fs::write(daemon.home.join("keys.toml"), change(text)).unwrap();
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    if !config.contains("keys_file") {
        std::fs::write(&file, format!("keys_file = \"keys.toml\"\n{config}")).unwrap();
    }
    daemon.restart();
}

/// The account that signed a text of EIP-191: nothing of the daemon is asked.
fn signer(text: &str, signature: &str) -> String {
    let bytes = hex::decode(signature.trim_start_matches("0x")).unwrap();
    let asked = format!("\x19Ethereum Signed Message:\n{}{text}", text.len());
    let hash = Keccak256::digest(asked.as_bytes());
    let half = Signature::from_slice(&bytes[..64]).unwrap();
    let id = RecoveryId::from_byte(bytes[64] - 27).unwrap();
    address(&VerifyingKey::recover_from_prehash(&hash, &half, id).unwrap())
}

/// The account that signed a payment of EIP-1559: parsed and recovered here, from the bytes that go to the chain.
fn payer(asked: &Value, raw: &str) -> String {
    let bytes = hex::decode(raw.trim_start_matches("0x")).unwrap();
    let mut rest = alloy_rlp::Header::decode_bytes(&mut &bytes[1..], true).unwrap();
    let mut items: Vec<&[u8]> = Vec::new();
    while !rest.is_empty() {
        let length = alloy_rlp::Header::decode(&mut rest).unwrap().payload_length;
        let (item, tail) = rest.split_at(length);
        items.push(item);
        rest = tail;
    }
    let mut halves = [0; 64];
    halves[32 - items[10].len()..32].copy_from_slice(items[10]);
    halves[64 - items[11].len()..].copy_from_slice(items[11]);
    let (tx, _) = UnsignedTx::from_args(asked).unwrap();
    let id = RecoveryId::new(items[9] == [1], false);
    let half = Signature::from_slice(&halves).unwrap();
    address(&VerifyingKey::recover_from_prehash(&tx.signing_hash(), &half, id).unwrap())
}

fn address(key: &VerifyingKey) -> String {
    let point = key.to_sec1_point(false);
    format!("0x{}", hex::encode(&Keccak256::digest(&point.as_bytes()[1..])[12..]))
}

/// Every file below a directory, and where one of the needles stands in it.
fn search(dir: &Path, needles: &[(String, Vec<u8>)], found: &mut Vec<String>) -> usize {
    let mut read = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            read += search(&path, needles, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            read += 1;
            for (what, needle) in needles {
                if bytes.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle)) {
                    found.push(format!("{what} in {}", path.display()));
                }
            }
        }
    }
    read
}

fn nothing_was_kept(daemon: &Daemon, also: &[PathBuf]) {
    let mut needles = vec![
        ("the words".to_owned(), b"test test test".to_vec()),
        ("a word".to_owned(), b"test junk".to_vec()),
        ("the passphrase".to_owned(), PASSPHRASE.into()),
    ];
    for (account, key) in ACCOUNTS {
        needles.push((format!("the digits of {account}"), key.into()));
        needles.push((format!("the bytes of {account}"), hex::decode(key).unwrap()));
    }
    // The search itself finds what is there.
    let control = daemon.home.join("control");
    std::fs::create_dir_all(&control).unwrap();
    std::fs::write(control.join("digits"), format!("x{}x", ACCOUNTS[0].1)).unwrap();
    let mut found = Vec::new();
    search(&control, &needles, &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    std::fs::remove_dir_all(&control).unwrap();
    found.clear();
    let mut read = search(&daemon.home, &needles, &mut found);
    for dir in also {
        read += search(dir, &needles, &mut found);
    }
    assert!(read > 8, "{read} files were looked through");
    assert!(found.is_empty(), "{found:#?}");
}

fn inventory_is_equal(daemon: &Daemon) {
    let inventory = cli_ok(&daemon.home, &["token", "inventory"]);
    assert_eq!(inventory["equal"], true, "{inventory}");
}

/// A wallet moves in, pays, and is ended for good.
fn a_wallet_moves_in(daemon: &mut Daemon, elsewhere: &[PathBuf]) {
    let_logins_in(daemon, |t| t);
    let home = daemon.home.clone();
    let (account, digits) = ACCOUNTS[0];
    let go = &["old", "--mnemonic", "--yes", "--address", account];
    let key = import(&home, go, &format!("{JUNK}\n")).unwrap();
    assert_eq!(key["address"], account, "{key}");
    assert_eq!((&key["state"], &key["origin"]["kind"]), (&json!("active"), &json!("imported")), "{key}");
    assert!(key["origin"]["unproven"][0].as_str().unwrap().contains("copies"), "{key}");
    assert_eq!(cli_ok(&home, &["key", "show", "old"])["origin"]["source"], "mnemonic");
    inventory_is_equal(daemon);

    // It pays, and the signature is that of the account.
    daemon.apply(&POLICY.replace("keys = [\"hot\"]", "keys = [\"hot\", \"old\"]"));
    account.clone_into(&mut daemon.address);
    let paid = daemon.wallet().call("claviger_signPayment", &json!({"transaction": daemon.tx(0, 1)}));
    assert_eq!(code(&paid), "ok", "{paid}");
    assert_eq!(payer(&daemon.tx(0, 1), paid["result"]["raw"].as_str().unwrap()), account.to_lowercase());
    let said = daemon.wallet().call("personal_sign", &json!(["0x6869", account]));
    let signature = said["result"].as_str().unwrap_or_else(|| panic!("{said}"));
    assert_eq!(signer("hi", signature), account.to_lowercase());
    daemon.restart();
    let paid = daemon.wallet().call("claviger_signPayment", &json!({"transaction": daemon.tx(1, 1)}));
    assert_eq!(code(&paid), "ok", "after a restart too: {paid}");

    // One key, one purpose, one life.
    let again = |name: &str, more: &[&str]| {
        refused(&home, &[&[name, "--private-key", "--yes"], more].concat(), &format!("{digits}\n"))
    };
    assert_eq!(again("twin", &[]).0, "key_exists");
    let (word, told) = again("login", &["--purpose", "authentication"]);
    assert_eq!(word, "key_exists", "{told}");
    assert!(told.contains("registered as old for payment"), "{told}");
    cli_ok(
        &home,
        &[
            "key",
            "destroy",
            "old",
            "--reason",
            "the funds have moved",
            "--confirm",
            "old",
            "--waive-balance",
            "a test",
        ],
    );
    for purpose in ["payment", "authentication"] {
        let (word, told) = again("back", &["--purpose", purpose]);
        assert_eq!(word, "key_tombstone", "{told}");
    }
    assert_eq!(
        refused(&home, &["old", "--private-key", "--yes"], &format!("{}\n", ACCOUNTS[1].1)).0,
        "key_exists"
    );
    daemon.restart();
    assert_eq!(again("back", &[]).0, "key_tombstone", "after a restart too");
    inventory_is_equal(daemon);

    // The other things that people keep keys in, and another curve.
    let file = vector("pkcs8_ed25519.pem");
    let words =
        ["ed", "--pkcs8", file.to_str().unwrap(), "--algorithm", "ed25519", "--purpose", "authentication"];
    let key = import(&home, &[&words[..], &["--yes"]].concat(), &format!("{PASSPHRASE}\n")).unwrap();
    assert_eq!(key["public_key"], "680a37b4911587dc19648b405d314172b5bf80c8a49194c7be3f0cd21708b8d4");
    let key =
        import(&home, &["second", "--private-key", "--yes"], &format!("0x{}\n", ACCOUNTS[1].1)).unwrap();
    assert_eq!(key["address"], ACCOUNTS[1].0);
    let third = ["third", "--mnemonic", "--yes", "--path", "m/44'/60'/0'/0/2"];
    assert_eq!(import(&home, &third, JUNK).unwrap()["address"], ACCOUNTS[2].0);
    let key = import(&home, &["p", "--private-key", "--algorithm", "p256", "--yes"], ACCOUNTS[2].1).unwrap();
    assert_eq!((&key["algorithm"], &key["state"]), (&json!("p256"), &json!("active")));
    inventory_is_equal(daemon);

    let log = cli_ok(&home, &["log", "show", "--from", "0", "--count", "1000"]).to_string();
    assert!(log.contains("\"kind\":\"imported\"") && log.contains("key_tombstone"), "{log}");
    daemon.verify_log();
    nothing_was_kept(daemon, elsewhere);
}

// [clause 8.7.1-o] test
// [clause 8.7.1-h] test
#[test]
fn a_wallet_moves_into_the_embedded_token() {
    let mut daemon = Daemon::start();
    a_wallet_moves_in(&mut daemon, &[]);
}

/// SoftHSM reads its configuration from the environment: the test starts itself again with it.
fn under_softhsm(name: &str) -> Option<PathBuf> {
    let ours = |c: &std::ffi::OsString| c.to_string_lossy().contains("claviger-import");
    if let Some(conf) = std::env::var_os("SOFTHSM2_CONF").filter(ours) {
        return Path::new(&conf).parent().map(Path::to_path_buf);
    }
    let dir = tempfile::Builder::new().prefix("claviger-import").tempdir().unwrap();
    let (tokens, conf) = (dir.path().join("tokens"), dir.path().join("softhsm2.conf"));
    std::fs::create_dir(&tokens).unwrap();
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "test", "--so-pin", "12345678", "--pin", "1234"])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .expect("softhsm2-util is needed: install the package softhsm2");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let pin = dir.path().join("pin");
    std::fs::write(&pin, "1234").unwrap();
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .status()
        .unwrap();
    assert!(again.success(), "{name} failed under SoftHSM");
    None
}

fn daemon_on(dir: &Path, profile: &str) -> Daemon {
    let pin = dir.join("pin");
    Daemon::start_on(&["--profile", profile, "--token-label", "test", "--pin-file", pin.to_str().unwrap()])
}

// [clause 8.7.1-o] test
#[test]
fn a_wallet_moves_into_a_pkcs11_token() {
    let Some(dir) = under_softhsm("a_wallet_moves_into_a_pkcs11_token") else { return };
    let mut daemon = daemon_on(&dir, "softhsm2");
    a_wallet_moves_in(&mut daemon, &[dir.join("tokens")]);
}

// [clause 8.7.1-o] test
#[test]
fn what_a_token_does_not_protect_is_taken_out_again() {
    let Some(dir) = under_softhsm("what_a_token_does_not_protect_is_taken_out_again") else { return };
    // Where the template does not forbid it, SoftHSM lets a key that comes in decrypt and unwrap too.
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/hsm-profiles/softhsm2.toml")).unwrap();
    let loose = dir.join("loose.toml");
    std::fs::write(&loose, text.replace("[template]\n", "[template]\nomit = [\"decrypt\"]\n")).unwrap();
    let daemon = daemon_on(&dir, loose.to_str().unwrap());
    let before = cli_ok(&daemon.home, &["token", "inventory"])["objects"].clone();
    let (word, told) = refused(&daemon.home, &["old", "--mnemonic", "--yes"], JUNK);
    assert_eq!(word, "key_unprotected", "{told}");
    assert!(told.contains("decrypts"), "{told}");
    assert_eq!(cli_ok(&daemon.home, &["token", "inventory"])["objects"], before);
    inventory_is_equal(&daemon);
    let keys = cli_ok(&daemon.home, &["key", "list"]).to_string();
    assert!(!keys.contains("\"old\"") && !keys.contains(ACCOUNTS[0].0), "{keys}");
    nothing_was_kept(&daemon, &[dir.join("tokens")]);
}

// [clause 8.7.1-o] test
#[test]
fn what_is_wrong_is_told_and_nothing_comes_in() {
    let mut daemon = Daemon::start();
    let home = daemon.home.clone();
    let keys = cli_ok(&home, &["key", "list"]);
    let words = &["old", "--mnemonic", "--yes"][..];
    let with = |more: &[&'static str]| [words, more].concat();
    let raw = &["old", "--private-key", "--yes"][..];
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    let zero = "0".repeat(64);
    for (words, input, expected, sentence) in [
        (words.to_vec(), JUNK.replace("junk", "zoo"), "import_mnemonic", "checksum"),
        (words.to_vec(), JUNK.replace("junk", "junkk"), "import_mnemonic", "word 12 of 12"),
        (words.to_vec(), String::new(), "import_mnemonic", "0 words"),
        (with(&["--path", "m/44'/sixty'"]), JUNK.into(), "import_path", "no path"),
        (with(&["--address", ACCOUNTS[1].0]), JUNK.into(), "import_other", ACCOUNTS[0].0),
        (
            with(&["--passphrase", "--address", ACCOUNTS[0].0]),
            format!("{JUNK}\nx\n"),
            "import_other",
            "and not",
        ),
        (raw.to_vec(), zero.clone(), "import_range", "zero"),
        (raw.to_vec(), order.into(), "import_range", "order"),
        (raw.to_vec(), zero[2..].into(), "import_malformed", "64 digits"),
    ] {
        let (word, told) = refused(&home, &words, &input);
        assert_eq!(word, expected, "{told}");
        assert!(told.contains(sentence), "{told}");
        assert!(!told.contains("junk") && !told.contains(&zero), "{told}");
    }
    for (kind, name) in [("--pkcs8", "pkcs8_pbkdf2.pem"), ("--keystore", "keystore_scrypt.json")] {
        let file = vector(name);
        let words = ["old", kind, file.to_str().unwrap(), "--yes"];
        assert_eq!(refused(&home, &words, "wrong\n").0, "import_passphrase");
    }
    // Who cannot be asked says so beforehand.
    assert_eq!(refused(&home, &["old", "--mnemonic"], JUNK).0, "usage");
    assert_eq!(refused(&home, &["old", "--yes"], JUNK).0, "usage", "the kind of source is named");
    // Whoever speaks to the socket gets no further.
    let ask = |words: Value| {
        let reply = daemon.operator().call("operator_keyImport", &words);
        assert!(!reply.to_string().contains(ACCOUNTS[1].1), "a refusal repeats the key: {reply}");
        code(&reply).to_owned()
    };
    let seen = hex::encode(
        k256::ecdsa::SigningKey::from_slice(&hex::decode(ACCOUNTS[0].1).unwrap())
            .unwrap()
            .verifying_key()
            .to_sec1_point(false)
            .as_bytes(),
    );
    let asked = |private: &Value| {
        json!({"name": "old", "purpose": "payment", "algorithm": "secp256k1",
        "public": seen, "source": "private-key", "private": private})
    };
    assert_eq!(ask(asked(&json!(ACCOUNTS[1].1))), "import_other", "another key than the one that was shown");
    assert_eq!(ask(asked(&json!(zero))), "import_range");
    assert_eq!(ask(asked(&json!([ACCOUNTS[1].1]))), "invalid_params");
    assert_eq!(ask(json!([ACCOUNTS[1].1])), "invalid_params");
    assert_eq!(ask(asked(&json!(format!("{}00", ACCOUNTS[1].1)))), "invalid_params");
    let ready = daemon.operator().call("operator_keyImport", &asked(&Value::Null));
    assert_eq!(ready["result"]["ready"], true, "{ready}");
    assert_eq!(cli_ok(&home, &["key", "list"]), keys, "nothing came in");
    inventory_is_equal(&daemon);
    // A policy that says nothing about it takes nothing in.
    let_logins_in(&mut daemon, |t| t.replace("import = \"allow\"", ""));
    assert_eq!(refused(&home, words, JUNK).0, "key_policy_forbids");
    nothing_was_kept(&daemon, &[]);
}
