use std::collections::HashMap;
use std::path::Path;

use proptest::prelude::*;

use super::age::{
    AgeError, Identity, RANDOM, Recipient, open, open_alone, open_by_file_key, read_back, seal,
};
use crate::core::units::sha256;
use crate::secret::SecretBytes;

/// The head of each vector, and the file.
fn vectors() -> Vec<(String, HashMap<String, String>, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/age");
    let mut all = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let end = bytes.windows(2).position(|w| w == b"\n\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let head =
            head.lines().filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.into(), v.into())).collect();
        all.push((path.file_name().unwrap().to_string_lossy().into_owned(), head, bytes[end + 2..].to_vec()));
    }
    assert!(all.len() > 45, "{} vectors", all.len());
    all
}

// [clause 8.2.2-c] test
#[test]
fn the_vectors_of_the_format_are_answered_as_it_says() {
    let mut opened = 0;
    for (name, head, file) in vectors() {
        let by_identity = name.starts_with("hybrid");
        let outcome = if by_identity {
            open(&Identity::parse(&head["identity"]).unwrap(), &file)
        } else {
            open_by_file_key(&file, &hex::decode(&head["file key"]).unwrap())
        };
        let wanted = head["expect"].as_str();
        match outcome {
            Ok(plain) => {
                assert_eq!(
                    (wanted, hex::encode(sha256(&plain))),
                    ("success", head["payload"].clone()),
                    "{name}"
                );
                opened += 1;
            }
            // Of recipients of another kind nothing is known here but that they are others.
            Err(AgeError::NoMatch) if name == "hybrid_x25519_arg" => {}
            Err(AgeError::NoMatch) => assert_eq!(wanted, "no match", "{name}"),
            Err(AgeError::Mac) => assert_eq!(wanted, "HMAC failure", "{name}"),
            Err(AgeError::Payload(_)) => assert_eq!(wanted, "payload failure", "{name}"),
            Err(e) => assert_eq!(wanted, "header failure", "{name}: {e:?}"),
        }
    }
    assert!(opened >= 8, "{opened}");
}

fn identity(byte: u8) -> Identity {
    Identity::new(SecretBytes::copy_of(&[byte; 32]))
}

fn random(byte: u8) -> [u8; RANDOM] {
    std::array::from_fn(|at| byte.wrapping_mul(31).wrapping_add(u8::try_from(at).unwrap()))
}

#[test]
fn both_halves_read_as_they_are_written() {
    // From the text of the format.
    let text = "AGE-SECRET-KEY-PQ-1XX76JRALNLXDMEW0CRK45QMCCH4X06SE84UN3VPM33W6HWDX0H3SK3ZQFR";
    let identity = Identity::parse(text).unwrap();
    assert_eq!(identity.text().unwrap().as_str(), text);
    let public = identity.recipient().text().unwrap();
    assert!(public.starts_with(
        "age1pq1x34nzsvr0rxjsgdn8zgyhfe8j7ceq5r9rdelkjuh3y235jzxshfg87pzf5zrqtzdxz95paef6caq5aapdmwjjqpjf"
    ));
    assert!(public.ends_with("d3fzv49zc0k"));
    assert_eq!(Recipient::parse(&public).unwrap().id(), identity.recipient().id());
    for wrong in [&public[..1958], &text.to_lowercase()[1..], "age1pq1", ""] {
        assert!(Recipient::parse(wrong).is_none() && Identity::parse(wrong).is_none());
    }
    assert_ne!(identity.derive(b"one").unwrap().expose(), identity.derive(b"two").unwrap().expose());
}

// [clause 8.2.2-c] test
#[test]
fn a_file_of_ours_is_for_the_quorum_alone() {
    let (ours, other) = (identity(1), identity(2));
    let file = seal(&ours.recipient(), b"the content", &random(1)).unwrap();
    assert_eq!(open_alone(&ours, &file).unwrap().as_slice(), b"the content");
    assert_eq!(read_back(&file, &random(1)).unwrap().as_slice(), b"the content");
    assert_eq!(read_back(&file, &random(2)).err(), Some(AgeError::Mac));
    assert_eq!(open_alone(&other, &file).err(), Some(AgeError::NoMatch));
    let second = seal(&other.recipient(), b"the content", &random(2)).unwrap();
    let end = |f: &[u8]| f.windows(4).position(|w| w == b"\n---").unwrap() + 1;
    // Another's stanza in front of ours, and ours under another name.
    let both = [&second[..end(&second)], &file[22..]].concat();
    assert!(matches!(open_alone(&ours, &both).err(), Some(AgeError::Recipients(_))));
    assert_eq!(open(&ours, &both).err(), Some(AgeError::Mac));
    let text = String::from_utf8_lossy(&file[..end(&file)]).replacen("mlkem768x25519", "X25519", 1);
    let weaker = [text.as_bytes(), &file[end(&file)..]].concat();
    assert!(matches!(open_alone(&ours, &weaker).err(), Some(AgeError::Recipients(_))));
    let older = [&b"age-encryption.org/v0"[..], &file[21..]].concat();
    assert_eq!(open_alone(&ours, &older).err(), Some(AgeError::Version));
}

#[test]
fn contents_of_every_length_come_back() {
    let ours = identity(3);
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000] {
        let plain: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
        let file = seal(&ours.recipient(), &plain, &random(9)).unwrap();
        assert_eq!(*open_alone(&ours, &file).unwrap(), plain, "{length}");
        if length > 65_536 {
            // Two parts change places.
            let start = file.windows(4).position(|w| w == b"\n---").unwrap() + 1 + 4 + 43 + 1 + 16;
            let (head, parts) = file.split_at(start);
            let mut parts: Vec<&[u8]> = parts.chunks(65_552).collect();
            parts.swap(0, 1);
            assert_eq!(
                open_alone(&ours, &[head, &parts.concat()].concat()).err(),
                Some(AgeError::Payload(0))
            );
            assert!(open_alone(&ours, &[head, parts[1]].concat()).is_err());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // [clause 8.2.2-c] test
    #[test]
    fn no_changed_or_cut_file_opens(at: prop::sample::Index, bit in 0u8..8, cut: bool) {
        let ours = identity(5);
        let mut file = seal(&ours.recipient(), b"some content", &random(7)).unwrap();
        let at = at.index(file.len());
        if cut { file.truncate(at) } else { file[at] ^= 1 << bit }
        prop_assert!(open_alone(&ours, &file).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, text in "(age-encryption.org/v1\n)?(-> [ -~]{0,40}\n[A-Za-z0-9+/]{0,64}\n){0,3}(--- [A-Za-z]{43}\n)?") {
        let ours = identity(6);
        prop_assert!(open(&ours, &bytes).is_err() && open_alone(&ours, text.as_bytes()).is_err());
    }
}
