use proptest::prelude::*;

use super::age::{AgeError, Identity, RANDOM, seal as envelope};
use super::bundle::{BundleError, Head, Wrapping, lock_mark, open, read_back, seal};
use super::vault::{Found, LockId, Table, VaultError, VaultFile};
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::units::{Name, Timestamp};
use crate::secret::SecretBytes;

fn identity(byte: u8) -> Identity {
    Identity::new(SecretBytes::copy_of(&[byte; 32]))
}

fn secret(byte: u8) -> SecretBytes<32> {
    SecretBytes::copy_of(&[byte; 32])
}

fn head(of: &Identity) -> Head {
    Head {
        key: Name::parse("hot-1").unwrap(),
        line: Name::parse("hot-1").unwrap(),
        generation: 1,
        purpose: Purpose::Payment,
        algorithm: Algorithm::Ed25519,
        public: hex::encode([5; 32]),
        created_ms: 1_700_000_000_000,
        token_serial: "serial".into(),
        epoch: 1,
        quorum: hex::encode(of.recipient().id()),
        wrapping: Wrapping::Pkcs8Kwp,
        made_ms: 1_700_000_000_001,
    }
}

const COINS: [u8; RANDOM] = [3; RANDOM];

fn made(of: &Identity) -> Vec<u8> {
    seal(&of.recipient(), &head(of), b"wrapped by the token", &secret(9), [1; 12], &COINS).unwrap()
}

// [clause 8.2.2-c] test
#[test]
fn a_bundle_needs_both_locks() {
    let ours = identity(1);
    let file = made(&ours);
    let opened = open(&ours, &file).unwrap();
    assert_eq!(opened.head, head(&ours));
    assert_eq!(opened.unlock(&secret(9)).unwrap().as_slice(), b"wrapped by the token");
    assert_eq!(opened.unlock(&secret(8)).err(), Some(BundleError::Locked));
    assert_eq!(open(&identity(2), &file).err(), Some(BundleError::Envelope(AgeError::NoMatch)));
    assert_eq!(read_back(&file, &COINS).unwrap().head, head(&ours));
    assert_eq!(opened.head.lock(), Some(LockId::of(&PublicKey::Ed25519([5; 32]))));
    assert_eq!(open(&ours, &vec![0; 70_000]).err(), Some(BundleError::TooLong));
    assert_ne!(lock_mark(&secret(1)), lock_mark(&secret(2)));
    // Any change of this file is a change of the format: bump its version.
    assert_eq!(hex::encode(crate::core::units::sha256(&file)), VECTOR);
}

/// SHA-256 of the bundle above.
const VECTOR: &str = "7aba23561adb0750e93edfe0148dfeaf40013ce2f3073b27a05d54f0dbafd15d";

// [clause 8.2.2-c] test
#[test]
fn what_the_quorum_itself_puts_together_wrongly_is_refused_too() {
    let ours = identity(1);
    let content = |text: &str| open(&ours, &envelope(&ours.recipient(), text.as_bytes(), &COINS).unwrap());
    let good = {
        let opened = super::age::open_alone(&ours, &made(&ours)).unwrap();
        String::from_utf8(opened.to_vec()).unwrap()
    };
    assert!(content(&good).is_ok());
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let cases = [
        (good.replace("bundle/1", "bundle/0"), BundleError::Version),
        (good.replace("bundle/1", "bundle/2"), BundleError::Version),
        (good.replace("bundle/1", "bundle/11"), BundleError::Version),
        (String::new(), BundleError::Version),
        (lines[..2].concat(), BundleError::Content("it has three lines")),
        ([&good, "\n"].concat(), BundleError::Content("it has three lines")),
        (good.trim_end().to_owned(), BundleError::Content("its last line is cut off")),
        (good.replace("pkcs8-aes256-kwp", "none"), BundleError::Content("its head")),
        (good.replace("\"epoch\":1", "\"epoch\":1,\"more\":1"), BundleError::Content("its head")),
        (good.replace("0505050505", "05"), BundleError::Content("its public key")),
        (good.replace(&hex::encode(ours.recipient().id()), &"00".repeat(32)), BundleError::OtherQuorum),
        ([lines[0], lines[2], lines[1]].concat(), BundleError::Content("its head")),
    ];
    for (text, why) in cases {
        assert_eq!(content(&text).err(), Some(why), "{text}");
    }
    // A head that reads well and is not the one that was locked.
    for changed in [good.replace("hot-1", "hot-2"), good.replace("\"generation\":1", "\"generation\":2")] {
        let opened = content(&changed).unwrap();
        assert_eq!(opened.unlock(&secret(9)).err(), Some(BundleError::Locked));
    }
}

proptest! {
    // [clause 8.2.2-c] test
    #[test]
    fn a_bundle_that_was_cut_changed_or_lengthened_is_refused(at: prop::sample::Index, bit in 0u8..8, how in 0u8..3) {
        let ours = identity(4);
        let mut file = made(&ours);
        let at = at.index(file.len());
        match how {
            0 => file.truncate(at),
            1 => file[at] ^= 1 << bit,
            _ => file.insert(at, bit),
        }
        let outcome = open(&ours, &file);
        prop_assert!(matches!(outcome, Err(BundleError::Envelope(_))));
    }
}

fn closed(table: &Table, place: &str, root: KeyRef, key: u8) -> VaultFile {
    VaultFile::close(table, place, root, &secret(key), ([2; 12], vec![0; 48]), [3; 12]).unwrap()
}

// [clause 8.7.1-s] test
#[test]
fn what_the_vault_threw_away_is_learnt_by_every_place_and_never_comes_back() {
    let id = |n: u8| LockId::of(&PublicKey::Ed25519([n; 32]));
    let (mut one, mut two) = (Table::default(), Table::default());
    one.put(id(1), secret(1));
    one.put(id(2), secret(2));
    two.put(id(1), secret(1));
    two.destroy(id(1), Timestamp(7));
    assert!(one.loses_to(&two) && !two.loses_to(&one) && !one.same(&two));
    two.learn(&one);
    one.learn(&two);
    assert!(one.same(&two) && !one.loses_to(&two));
    assert!(matches!(one.find(id(1)), Found::Gone(Timestamp(7))));
    one.put(id(1), secret(1));
    assert!(matches!(one.find(id(1)), Found::Gone(_)));
    assert!(matches!(one.find(id(2)), Found::Lock(lock) if lock.expose() == &[2; 32]));
    assert!(matches!(one.find(id(3)), Found::Nothing));
    assert_eq!(one.counts(), (1, 1));

    let root = KeyRef::from([1; 16]);
    let file = closed(&one, "a", root, 5);
    let text = serde_json::to_vec(&file).unwrap();
    assert!(!String::from_utf8_lossy(&text).contains(&hex::encode([2; 32])));
    let read = VaultFile::parse(&text, "a").unwrap();
    assert_eq!(read, file);
    assert!(read.open(&[5; 32]).unwrap().same(&one));
    assert_eq!(read.open(&[6; 32]).err(), Some(VaultError::Changed));
    assert_eq!(VaultFile::parse(&text, "b").err(), Some(VaultError::Place));
    assert_eq!(VaultFile::parse(b"{}", "a").err(), Some(VaultError::Version));
    let other = String::from_utf8(text).unwrap().replace("vault/1", "vault/2");
    assert_eq!(VaultFile::parse(other.as_bytes(), "a").err(), Some(VaultError::Version));
    // A table under the name of another place, or of another root.
    let moved = String::from_utf8(serde_json::to_vec(&file).unwrap())
        .unwrap()
        .replace("\"place\":\"a\"", "\"place\":\"b\"");
    assert_eq!(
        VaultFile::parse(moved.as_bytes(), "b").unwrap().open(&[5; 32]).err(),
        Some(VaultError::Changed)
    );
}
