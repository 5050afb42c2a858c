use super::slip39::{Scheme, Share, ShareError, combine, split};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/slip39/vectors.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn random(count: usize, seed: u64) -> Vec<u8> {
    // Splitmix64: numbers for tests.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    };
    (0..count.div_ceil(8)).flat_map(|_| next()).take(count).collect()
}

fn made(scheme: &Scheme, secret: &[u8], seed: u64) -> Vec<Vec<Share>> {
    split(scheme, secret, b"", true, &random(scheme.random_bytes(secret.len()), seed)).unwrap()
}

fn again(share: &Share) -> Share {
    Share::parse(&share.words()).unwrap()
}

/// What a failure is, without its details.
fn class(error: ShareError) -> &'static str {
    match error {
        ShareError::Word { .. } => "word",
        ShareError::Length(_) => "length",
        ShareError::Checksum { .. } => "checksum",
        ShareError::Nonsense(_) => "nonsense",
        ShareError::Exponent(_) => "exponent",
        ShareError::Stranger { .. } => "stranger",
        ShareError::Twice { .. } => "twice",
        ShareError::Few { .. } => "few",
        ShareError::FewGroups { .. } => "few groups",
        ShareError::Digest => "digest",
        ShareError::Scheme(_) => "scheme",
    }
}

// [clause 8.2.2-a] test
#[test]
fn all_official_vectors_are_answered_as_the_reference_answers_them() {
    let reasons = [
        (2, "checksum"),
        (3, "nonsense"),
        (5, "few"),
        (6, "stranger"),
        (7, "stranger"),
        (8, "stranger"),
        (9, "stranger"),
        (10, "nonsense"),
        (11, "twice"),
        (12, "stranger"),
        (13, "digest"),
        (14, "few groups"),
        (15, "few groups"),
        (16, "few"),
        (21, "checksum"),
        (22, "nonsense"),
        (24, "few"),
        (25, "stranger"),
        (26, "stranger"),
        (27, "stranger"),
        (28, "stranger"),
        (29, "nonsense"),
        (30, "twice"),
        (31, "stranger"),
        (32, "digest"),
        (33, "few groups"),
        (34, "few groups"),
        (35, "few"),
        (39, "length"),
        (40, "length"),
    ];
    let vectors = vectors();
    assert_eq!(vectors.len(), 45);
    for (number, vector) in (1..).zip(&vectors) {
        let shares: Result<Vec<Share>, _> =
            vector[1].as_array().unwrap().iter().map(|w| Share::parse(w.as_str().unwrap())).collect();
        let outcome = shares.and_then(|shares| combine(&shares, b"TREZOR"));
        let wanted = vector[2].as_str().unwrap();
        let reason = reasons.iter().find(|(n, _)| *n == number).map(|(_, r)| *r);
        match outcome {
            Ok(secret) => {
                assert_eq!((hex::encode(&*secret).as_str(), None), (wanted, reason), "{}", vector[0]);
            }
            Err(e) => assert_eq!((Some(class(e)), wanted), (reason, ""), "{}", vector[0]),
        }
    }
}

// [clause 8.2.2-b] test
#[test]
fn the_wrong_word_is_pointed_at() {
    let share = &made(&Scheme::simple(3, 5), &[7; 32], 1)[0][1];
    let words: Vec<String> = share.words().split(' ').map(str::to_owned).collect();
    assert_eq!(words.len(), 33);
    for at in 0..33 {
        let mut typed = words.clone();
        typed[at] = if typed[at] == "academic" { "acid".into() } else { "academic".into() };
        let error = Share::parse(&typed.join(" ")).err();
        // Another first word may turn the kind of checksum around; every other one is found exactly.
        match error {
            Some(ShareError::Checksum { at: Some(found) }) => assert_eq!(found, at + 1),
            other => assert!(at < 2 && matches!(other, Some(ShareError::Checksum { .. })), "{at}: {other:?}"),
        }
        typed[at] = "acadmeic".into();
        assert_eq!(
            Share::parse(&typed.join("  ")).err(),
            Some(ShareError::Word { at: at + 1, near: Some("academic") })
        );
    }
    let upper = words.join("\n").to_uppercase();
    assert_eq!(*Share::parse(&upper).unwrap().words(), words.join(" "));
    let mut swapped = words.clone();
    swapped.swap(9, 20);
    assert_eq!(Share::parse(&swapped.join(" ")).err(), Some(ShareError::Checksum { at: None }));
    assert_eq!(Share::parse(&words[..32].join(" ")).err().map(class), Some("length"));
    assert_eq!(Share::parse(&"academic ".repeat(100_000)).err(), Some(ShareError::Length(100_000)));
    for word in &words {
        // No word stands in what may be written down.
        assert!(!Share::parse(&swapped.join(" ")).err().unwrap().to_string().split(' ').any(|w| w == word));
    }
}

#[test]
fn schemes_that_protect_nothing_are_refused() {
    for (needed, groups) in [
        (0, vec![(1, 1)]),
        (2, vec![(1, 1)]),
        (1, vec![]),
        (1, vec![(0, 1)]),
        (1, vec![(3, 2)]),
        (1, vec![(1, 2)]),
        (1, vec![(2, 17)]),
        (1, vec![(1, 1); 17]),
    ] {
        let scheme = Scheme { groups_needed: needed, groups };
        assert_eq!(scheme.check().err().map(class), Some("scheme"), "{scheme:?}");
    }
    let scheme = Scheme::simple(2, 3);
    let random = random(100, 1);
    for (secret, passphrase) in
        [(&[1; 15][..], &b""[..]), (&[1; 17], b""), (&[1; 66], b""), (&[1; 32], b"\x07")]
    {
        assert_eq!(split(&scheme, secret, passphrase, true, &random).err().map(class), Some("scheme"));
    }
    assert_eq!(split(&scheme, &[1; 32], b"", true, &random[..20]).err().map(class), Some("scheme"));
    // A share that would take minutes to open is put aside: 15 is the highest that can be written.
    let words = made(&Scheme::simple(1, 1), &[1; 32], 3).remove(0).remove(0).words();
    let text = words.as_str();
    let share = Share::parse(text).unwrap();
    assert_eq!((share.groups(), share.threshold, share.identifier() < 1 << 15), ((1, 1), 1, true));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    // [clause 8.2.2-a] test
    #[test]
    fn any_threshold_of_shares_gives_the_secret_and_fewer_do_not(
        seed: u64, secret: [u8; 32], threshold in 1u8..=5, more in 0u8..=3, extendable: bool, passphrase in "[ -~]{0,8}",
    ) {
        let count = if threshold == 1 { 1 } else { threshold + more };
        let scheme = Scheme::simple(threshold, count);
        let drawn = random(scheme.random_bytes(32), seed);
        let shares = split(&scheme, &secret, passphrase.as_bytes(), extendable, &drawn).unwrap().remove(0);
        prop_assert_eq!(shares.len(), usize::from(count));
        let start = usize::from(seed.to_le_bytes()[7] % count);
        let some = |n: u8| -> Vec<Share> {
            shares.iter().cycle().skip(start).take(usize::from(n)).map(again).collect()
        };
        prop_assert!(combine(&some(threshold), passphrase.as_bytes()).unwrap().as_slice() == secret);
        prop_assert!(combine(&some(count), passphrase.as_bytes()).unwrap().as_slice() == secret);
        let few = combine(&some(threshold - 1), passphrase.as_bytes()).err();
        prop_assert!(["few", "few groups"].contains(&few.map_or("", class)));
        let other = combine(&some(threshold), b"another passphrase").unwrap();
        prop_assert!(other.as_slice() != secret);
    }

    // [clause 8.2.2-a] test
    #[test]
    fn groups_stand_beside_each_other(seed: u64, secret: [u8; 32]) {
        let scheme = Scheme { groups_needed: 2, groups: vec![(3, 5), (2, 3), (1, 1)] };
        let all = made(&scheme, &secret, seed);
        let pick = |groups: &[(usize, usize)]| -> Vec<Share> {
            groups.iter().flat_map(|(g, n)| all[*g].iter().take(*n).map(again)).collect()
        };
        for enough in [&[(0, 3), (1, 2)][..], &[(0, 5), (2, 1)], &[(2, 1), (1, 3)], &[(0, 3), (1, 2), (2, 1)], &[(0, 3), (1, 1), (2, 1)]] {
            prop_assert!(combine(&pick(enough), b"").unwrap().as_slice() == secret);
        }
        for few in [&[(0, 5)][..], &[(0, 2), (1, 2)], &[(2, 1)], &[(0, 2), (1, 1), (2, 1)]] {
            prop_assert!(combine(&pick(few), b"").is_err());
        }
    }

    // [clause 8.2.2-b] test
    #[test]
    fn no_text_panics_or_passes_for_a_share(text in "\\PC{0,300}", at in 0usize..33, word in 0usize..1024, seed: u64) {
        prop_assert!(Share::parse(&text).is_err());
        let words = made(&Scheme::simple(2, 2), &[9; 32], seed).remove(0).remove(0).words();
        let list: Vec<&str> = include_str!("wordlist.txt").lines().collect();
        let mut typed: Vec<&str> = words.split(' ').collect();
        let was = typed[at];
        typed[at] = list[word];
        prop_assert_eq!(Share::parse(&typed.join(" ")).is_ok(), was == list[word]);
    }
}
