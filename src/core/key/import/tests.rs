use super::*;
use proptest::prelude::*;
use std::path::Path;

/// What Hardhat, Anvil and others give to everybody.
const JUNK: &str = "test test test test test test test test test test test junk";
const JUNK_PATH: &str = "m/44'/60'/0'/0/0";
const JUNK_KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const JUNK_ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
/// The order of secp256k1 (SEC 2).
const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

fn file(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/import");
    std::fs::read(dir.join(name)).unwrap()
}

fn code(outcome: Result<Incoming, Refusal>) -> Code {
    outcome.map(drop).unwrap_err().code
}

fn is_junk(key: &Incoming) {
    assert_eq!(hex::encode(key.private().expose()), JUNK_KEY);
    assert_eq!(key.public().evm_address().unwrap().to_string(), JUNK_ADDRESS);
}

// [clause 8.7.1-o] test
#[test]
fn the_words_of_the_published_vectors_give_their_seeds_and_master_keys() {
    let all: serde_json::Value = serde_json::from_slice(&file("bip39.json")).unwrap();
    let cases = all["english"].as_array().unwrap();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let text = |n: usize| case[n].as_str().unwrap();
        let seed = mnemonic::seed(text(1), "TREZOR").unwrap();
        assert_eq!(hex::encode(seed.expose()), text(2));
        let master = bip32::XPrv::new(seed.expose()).unwrap();
        assert_eq!(*master.to_string(bip32::Prefix::XPRV), text(3));
    }
}

#[test]
fn the_list_is_the_one_that_was_published() {
    let said = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda";
    assert_eq!(hex::encode(crate::core::units::sha256(mnemonic::ENGLISH.as_bytes())), said);
}

#[test]
fn the_way_down_is_that_of_bip_32() {
    // BIP-32, test vector 1: m/0'/1/2'/2/1000000000 from a seed of 16 bytes; ours takes 64, so the crate is asked.
    let seed = hex::decode("000102030405060708090a0b0c0d0e0f").unwrap();
    let way = "m/0'/1/2'/2/1000000000".parse().unwrap();
    let key = bip32::XPrv::derive_from_path(&seed, &way).unwrap();
    let said = "xprvA41z7zogVVwxVSgdKUHDy1SKmdb533PjDz7J6N6mV6uS3ze1ai8FHa8kmHScGpWmj4WggLyQjgPie1rFSruoUihUZREPSL39UNdE3BBDu76";
    assert_eq!(*key.to_string(bip32::Prefix::XPRV), said);
}

// [clause 8.7.1-o] test
#[test]
fn one_key_in_each_thing_that_people_keep_keys_in() {
    is_junk(&Incoming::from_mnemonic(JUNK, "", JUNK_PATH).unwrap());
    let spread = format!("  {}\n", JUNK.to_uppercase().replace(' ', "   "));
    is_junk(&Incoming::from_mnemonic(&spread, "", JUNK_PATH).unwrap());
    is_junk(&Incoming::from_hex(Algorithm::Secp256k1, JUNK_KEY).unwrap());
    is_junk(&Incoming::from_hex(Algorithm::Secp256k1, &format!("0x{}\n", JUNK_KEY.to_uppercase())).unwrap());
    for name in ["pkcs8_pbkdf2.pem", "pkcs8_scrypt.der"] {
        is_junk(&Incoming::from_pkcs8(Algorithm::Secp256k1, &file(name), "correct horse").unwrap());
    }
    for name in ["keystore_scrypt.json", "keystore_pbkdf2.json"] {
        is_junk(&Incoming::from_keystore(&file(name), "correct horse").unwrap());
    }
    let ed = Incoming::from_pkcs8(Algorithm::Ed25519, &file("pkcs8_ed25519.pem"), "correct horse").unwrap();
    // What openssl said when it made the file.
    let said = "680a37b4911587dc19648b405d314172b5bf80c8a49194c7be3f0cd21708b8d4";
    assert_eq!(hex::encode(ed.public().as_bytes()), said);
    // A passphrase and a path lead elsewhere, and say nothing.
    let other = Incoming::from_mnemonic(JUNK, "x", JUNK_PATH).unwrap();
    let next = Incoming::from_mnemonic(JUNK, "", "m/44'/60'/0'/0/1").unwrap();
    assert_ne!(hex::encode(other.private().expose()), JUNK_KEY);
    assert_eq!(
        next.public().evm_address().unwrap().to_string(),
        "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
    );
}

// [clause 8.7.1-o] test
#[test]
fn what_is_mistyped_is_told_and_never_guessed_at() {
    let told = |words: &str| Incoming::from_mnemonic(words, "", JUNK_PATH).map(drop).unwrap_err();
    let wrong_word = told(&JUNK.replacen("test", "tset", 3).replacen("tset", "test", 2));
    assert_eq!(wrong_word.code, Code::ImportMnemonic);
    assert!(wrong_word.sentence.starts_with("word 3 of 12"), "{wrong_word}");
    assert!(!wrong_word.sentence.contains("tset"), "a sentence holds no word");
    assert!(told(&JUNK.replace("junk", "zoo")).sentence.contains("checksum"));
    assert!(told("test test").sentence.starts_with("2 words"));
    assert!(told("").sentence.starts_with("0 words"));
    let umlaut = Incoming::from_mnemonic(JUNK, "schlüssel", JUNK_PATH);
    assert_eq!(code(umlaut), Code::ImportMnemonic);
    for path in ["", "m", "m/", "44'/60'", "m/44'/x", "m/2147483648", "m/-1", "m/0/0/0/0/0/0/0/0/0/0/0"] {
        assert_eq!(code(Incoming::from_mnemonic(JUNK, "", path)), Code::ImportPath, "{path}");
    }
}

// [clause 8.7.1-o] test
#[test]
fn what_is_no_scalar_is_no_key() {
    let hex = |text: &str| Incoming::from_hex(Algorithm::Secp256k1, text);
    let zero = "0".repeat(64);
    for none in [zero.as_str(), ORDER, &"f".repeat(64)] {
        assert_eq!(code(hex(none)), Code::ImportRange, "{none}");
    }
    assert!(hex(&ORDER.replace("4141", "4140")).is_ok(), "one below the order is a key");
    assert_eq!(code(Incoming::from_hex(Algorithm::Ed25519, &zero)), Code::ImportRange);
    for bad in ["", "0x", &zero[1..], &format!("{zero}00"), &"g".repeat(64)] {
        assert_eq!(code(hex(bad)), Code::ImportMalformed, "{bad}");
    }
    for secret in [Algorithm::Aes256Gcm, Algorithm::HmacSha256, Algorithm::Aes256Kw] {
        assert_eq!(code(Incoming::from_hex(secret, JUNK_KEY)), Code::ImportMalformed);
    }
}

// [clause 8.7.1-o] test
#[test]
fn files_open_with_their_passphrase_only_and_cost_no_more_than_they_should() {
    let pkcs8 = |name: &str, passphrase| Incoming::from_pkcs8(Algorithm::Secp256k1, &file(name), passphrase);
    for name in ["pkcs8_pbkdf2.pem", "pkcs8_scrypt.der"] {
        assert_eq!(code(pkcs8(name, "wrong")), Code::ImportPassphrase, "{name}");
    }
    assert_eq!(
        code(pkcs8("pkcs8_open.pem", "")),
        Code::ImportMalformed,
        "what is not encrypted is not taken"
    );
    assert_eq!(code(pkcs8("pkcs8_ed25519.pem", "correct horse")), Code::ImportMalformed);
    let text = String::from_utf8(file("keystore_scrypt.json")).unwrap();
    let keystore = |text: &str| Incoming::from_keystore(text.as_bytes(), "correct horse");
    assert_eq!(code(Incoming::from_keystore(text.as_bytes(), "wrong")), Code::ImportPassphrase);
    for (from, to, refusal) in [
        ("f39Fd6", "039Fd6", Code::ImportOther),
        ("\"version\": 3", "\"version\": 4", Code::ImportMalformed),
        ("\"n\": 8192", "\"n\": 8191", Code::ImportMalformed),
        ("\"n\": 8192", "\"n\": 18446744073709551615", Code::ImportMalformed),
        ("\"n\": 8192", "\"n\": 9223372036854775808", Code::ImportMalformed),
        ("\"r\": 8", "\"r\": 4294967295", Code::ImportMalformed),
        ("\"p\": 1", "\"p\": 4294967295", Code::ImportMalformed),
        ("\"p\": 1", "\"p\": 0", Code::ImportMalformed),
        ("\"dklen\": 32", "\"dklen\": 16", Code::ImportMalformed),
        ("\"mac\": \"", "\"mac\": \"00", Code::ImportPassphrase),
        ("aes-128-ctr", "aes-256-ctr", Code::ImportMalformed),
    ] {
        assert!(text.contains(from), "{from}");
        assert_eq!(code(keystore(&text.replacen(from, to, 1))), refusal, "{from} -> {to}");
    }
}

proptest! {
    #[test]
    fn garbage_is_refused_and_nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        text in "\\PC{0,120}",
        words in proptest::collection::vec("[a-z]{3,8}", 0..26),
    ) {
        for algorithm in Algorithm::ALL {
            prop_assert!(Incoming::from_pkcs8(algorithm, &bytes, &text).is_err());
            prop_assert!(Incoming::from_hex(algorithm, &text).is_err() || text.trim().len() >= 64);
        }
        prop_assert!(Incoming::from_keystore(&bytes, &text).is_err());
        prop_assert!(Incoming::from_keystore(text.as_bytes(), "").is_err());
        if words.len() % 3 != 0 || words.len() < 12 {
            prop_assert!(Incoming::from_mnemonic(&words.join(" "), "", JUNK_PATH).is_err());
        }
        prop_assert!(Incoming::from_mnemonic(&text, "", &text).is_err());
    }
}

proptest! {
    // Each case stretches a passphrase.
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Files that are nearly right: no byte of them makes the reader panic, or takes it where it should not go.
    #[test]
    fn a_changed_byte_never_gives_another_key(at in 0usize..231, to in any::<u8>()) {
        let mut der = file("pkcs8_scrypt.der");
        // The work that the file asks for stays as it is: it is bounded, and takes long.
        prop_assume!(!(20..70).contains(&at));
        der[at] = to;
        if let Ok(key) = Incoming::from_pkcs8(Algorithm::Secp256k1, &der, "correct horse") {
            // CBC tells nothing of changes in what it hides; the public half beside the key does.
            is_junk(&key);
        }
    }
}
