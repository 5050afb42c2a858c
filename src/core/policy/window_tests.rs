use super::*;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn windows(len_ms: i64) -> Windows {
    Windows::of([(Scope::KEY, len_ms)])
}

fn debit(at: i64, amount: u64) -> Debit {
    Debit {
        at: Timestamp(at),
        key: name("k"),
        app: name("a"),
        chain: Some(Chain(1)),
        asset: Some(Asset::Native),
        to: Some(Address([7; 20])),
        amount: U256::from(amount),
    }
}

fn spent(w: &Windows, len_ms: i64, now: i64) -> (U256, u64) {
    let (key, app) = (name("k"), name("a"));
    let whose = Whose { key: &key, app: &app, asset: Some((Chain(1), Asset::Native)), to: Some(Address([7; 20])) };
    w.spent(Scope::KEY, len_ms, &whose, Timestamp(now))
}

#[test]
fn a_clock_set_back_frees_nothing_and_another_key_sees_nothing() {
    let mut w = windows(60_000);
    w.add(&debit(1_000_000, 5));
    assert_eq!(spent(&w, 60_000, 0), (U256::from(5), 1));
    assert_eq!(spent(&w, 60_000, 1_059_999), (U256::from(5), 1));
    assert_eq!(spent(&w, 60_000, 1_062_000), (U256::ZERO, 0));
    assert_eq!(
        w.spent(
            Scope::KEY,
            60_000,
            &Whose { key: &name("other"), app: &name("a"), asset: None, to: None },
            Timestamp(1_000_000)
        ),
        (U256::ZERO, 0)
    );
}

proptest! {
    #[test]
    fn never_under_counts_and_over_counts_by_one_bucket_at_most(
        steps in proptest::collection::vec((0i64..5000, 1u64..100), 1..200), len_s in 60i64..600, look in 0i64..700_000)
    {
        let len = len_s * 1000;
        let mut w = windows(len);
        let mut now = 1_000_000_000;
        let mut all = Vec::new();
        for (wait, amount) in steps {
            now += wait;
            w.add(&debit(now, amount));
            all.push((now, amount));
            let exact: u64 = all.iter().filter(|(t, _)| *t > now - len).map(|(_, a)| a).sum();
            prop_assert!(spent(&w, len, now).0 >= U256::from(exact));
        }
        let at = now + look;
        let exact: u64 = all.iter().filter(|(t, _)| *t > at - len).map(|(_, a)| a).sum();
        let loose: u64 = all.iter().filter(|(t, _)| *t > at - len - len / 60 - 1).map(|(_, a)| a).sum();
        let (sum, _) = spent(&w, len, at);
        prop_assert!(sum >= U256::from(exact) && sum <= U256::from(loose), "{sum} {exact} {loose}");
    }
}
