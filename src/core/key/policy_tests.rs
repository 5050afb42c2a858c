use super::super::{KeyRef, PublicKey, import};
use super::*;
use crate::core::units::Name;
use proptest::prelude::*;

fn key(purpose: Purpose) -> KeyRecord {
    KeyRecord::new(
        Name::parse("k").unwrap(),
        KeyRef::from([1; 16]),
        purpose,
        PublicKey::Ed25519([1; 32]),
        String::new(),
        Origin::Generated,
        Timestamp(0),
    )
}

fn enter(key: &mut KeyRecord, state: State, now: Timestamp) {
    assert!(key.state.leads_to(state, key.purpose), "{:?} to {state:?}", key.state);
    if state == State::Active && key.activated.is_none() {
        key.activated = Some(now);
    }
    (key.state, key.since) = (state, now);
}

#[test]
fn the_built_in_text_is_a_policy_and_wrong_ones_are_told() {
    let policy = KeyPolicy::parse(BUILT_IN).unwrap();
    assert_eq!(policy.warn_days, [30, 7, 1]);
    for purpose in Purpose::ALL {
        assert!(policy.may_make(purpose, purpose.usual(), Timestamp(0)).is_ok(), "{purpose}");
    }
    for (from, to, why) in [
        ("schema = 1", "schema = 9", "schema 9"),
        ("[30, 7, 1]", "[1, 7, 30]", "warn_days"),
        ("[30, 7, 1]", "[30, 7, 0]", "warn_days"),
        ("protect = \"2y\"", "protect = \"0d\"", "at once"),
        ("protect = \"2y\"", "protect = \"2w\"", "h, d or y"),
        ("protect = \"2y\"", "protect = \"-2y\"", "h, d or y"),
        ("protect = \"2y\"", "protect = \"999999999999999999999y\"", "h, d or y"),
        ("protect = \"2y\"", "protect = \"101y\"", "h, d or y"),
        ("\"aes256-gcm\"", "\"secp256k1\"", "cannot serve"),
        ("purpose = \"random\"", "purpose = \"integrity\"", "stands twice"),
        ("activation = \"at-once\"", "activation = \"never\"", "unknown variant"),
        ("process = ", "procces = ", "unknown field"),
        ("imported = \"90d\"", "imported = \"0d\"", "at once"),
        ("import = \"allow\"", "import = \"perhaps\"", "unknown variant"),
        ("process = \"3y\"", "import = \"allow\"", "only payment and authentication"),
    ] {
        assert!(BUILT_IN.contains(from), "{from}");
        let error = KeyPolicy::parse(&BUILT_IN.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(why), "{from} -> {to}: {error}");
    }
}

// [clause 8.7.1-f] test
#[test]
fn a_key_goes_from_its_making_to_its_end_by_policy_alone() {
    let text = BUILT_IN.replace("destroy = \"alarm\"", "destroy = \"by-itself\"");
    let policy = KeyPolicy::parse(&text).unwrap();
    for purpose in Purpose::ALL {
        let mut key = key(purpose);
        enter(&mut key, State::Active, Timestamp(0));
        let (mut seen, mut warned, mut now) = (vec![State::Active], None, Timestamp(0));
        while key.state != State::Destroyed {
            now = now.plus(DAY / 2);
            assert!(now.0 < 40 * 365 * DAY, "{purpose}: {:?} has no end", key.state);
            match policy.due(&key, warned, now) {
                None => {}
                Some(Due::Warn { days, at, .. }) => {
                    assert!(warned.is_none_or(|w| days < w), "{purpose}: warned of {days} days twice");
                    assert!(at.0 - now.0 <= i64::from(days) * DAY);
                    warned = Some(days);
                }
                Some(Due::Move(to)) => {
                    // Whatever has an end far enough away was announced three times.
                    assert!(warned == Some(1) || policy.end(&key).unwrap().0.0 - key.since.0 < DAY);
                    enter(&mut key, to, now);
                    seen.push(to);
                    warned = None;
                }
                Some(Due::Destroy) => {
                    enter(&mut key, State::Destroyed, now);
                    seen.push(State::Destroyed);
                }
                Some(Due::Overdue(_)) => panic!("{purpose}: nobody is asked to destroy it"),
            }
        }
        let sweeps = purpose == Purpose::Payment;
        assert_eq!(seen.contains(&State::SweepOnly), sweeps, "{purpose}");
        assert!(seen.ends_with(&[State::Deactivated, State::Destroyed]), "{purpose}: {seen:?}");
    }
}

// [clause 8.7.1-f] test
#[test]
fn an_algorithms_day_ends_keys_before_their_age_does() {
    let text = BUILT_IN.replacen(
        "activation = ",
        "until = { secp256k1 = \"1970-01-11\", ed25519 = \"1970-02-01\" }\nactivation = ",
        1,
    );
    let policy = KeyPolicy::parse(&text).unwrap();
    let ten_days = Timestamp(10 * DAY);
    assert!(policy.may_make(Purpose::Payment, Algorithm::Secp256k1, ten_days.minus(1)).is_ok());
    assert!(policy.may_make(Purpose::Payment, Algorithm::Secp256k1, ten_days).is_err());
    assert!(policy.may_make(Purpose::Payment, Algorithm::HmacSha256, Timestamp(0)).is_err());
    let mut key = key(Purpose::Payment);
    enter(&mut key, State::Active, Timestamp(0));
    assert_eq!(policy.end(&key), Some((Timestamp(31 * DAY), State::SweepOnly)));
    // What is suspended ends all the same.
    enter(&mut key, State::Suspended, Timestamp(DAY));
    assert_eq!(policy.due(&key, None, Timestamp(31 * DAY)), Some(Due::Move(State::SweepOnly)));
}

// [clause 8.7.1-o] test
#[test]
fn a_key_from_outside_comes_in_where_the_policy_says_so_and_ends_sooner() {
    let policy = KeyPolicy::parse(BUILT_IN).unwrap();
    let silent = KeyPolicy::parse(&BUILT_IN.replace("import = \"allow\"", "")).unwrap();
    let may = |p: &KeyPolicy, purpose: Purpose| p.may_import(purpose, Algorithm::Secp256k1, Timestamp(0));
    assert!(may(&policy, Purpose::Payment).is_ok());
    assert!(may(&policy, Purpose::Authentication).is_err(), "what is not said is refused");
    assert!(may(&silent, Purpose::Payment).is_err());
    let imported = Origin::Imported { source: import::Source::Mnemonic, unproven: Vec::new() };
    let mut from_outside = KeyRecord { origin: imported, ..key(Purpose::Payment) };
    let mut made_here = key(Purpose::Payment);
    enter(&mut from_outside, State::Active, Timestamp(0));
    enter(&mut made_here, State::Active, Timestamp(0));
    assert_eq!(policy.end(&from_outside), Some((Timestamp(90 * DAY), State::SweepOnly)));
    assert_eq!(policy.end(&made_here), Some((Timestamp(730 * DAY), State::SweepOnly)));
    // A longer cap lengthens nothing.
    let longer = KeyPolicy::parse(&BUILT_IN.replace("\"90d\"                   #", "\"9y\" #")).unwrap();
    assert_eq!(longer.end(&from_outside), Some((Timestamp(730 * DAY), State::SweepOnly)));
}

#[test]
fn what_nobody_destroyed_is_overdue() {
    let policy = KeyPolicy::parse(BUILT_IN).unwrap();
    let mut key = key(Purpose::Payment);
    enter(&mut key, State::Active, Timestamp(0));
    enter(&mut key, State::Compromised, Timestamp(DAY));
    let (at, _) = policy.end(&key).unwrap();
    assert_eq!(policy.due(&key, Some(1), at.minus(1)), None);
    assert_eq!(policy.due(&key, Some(1), at), Some(Due::Overdue(at)));
}

proptest! {
    // [clause 8.7.1-f] test
    #[test]
    fn a_clock_that_is_set_back_never_makes_a_life_longer(
        steps in proptest::collection::vec((-5_000_000_000i64..5_000_000_000, 0i64..1_000_000_000), 1..30),
    ) {
        let mut clock = LifeClock::new(Timestamp(1_000));
        let (mut before, mut elapsed_in_all) = (Timestamp(1_000), 0);
        for (wall, elapsed) in steps {
            let now = clock.advance(Timestamp(wall), elapsed);
            elapsed_in_all += elapsed;
            prop_assert!(now >= before.plus(elapsed), "it went by less than time did");
            prop_assert!(now.0 >= 1_000 + elapsed_in_all);
            prop_assert!(now >= Timestamp(wall));
            before = now;
        }
    }
}
