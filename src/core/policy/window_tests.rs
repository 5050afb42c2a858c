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
    let whose =
        Whose { key: &key, app: &app, asset: Some((Chain(1), Asset::Native)), to: Some(Address([7; 20])) };
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

// [clause 8.7.1-j] test
#[test]
fn a_window_that_reaches_back_to_what_is_not_known_is_full() {
    let mut w = windows(60_000);
    w.fill(Timestamp(1_000_000));
    assert_eq!(spent(&w, 60_000, 1_000_000), (U256::MAX, u64::MAX));
    assert_eq!(spent(&w, 60_000, 1_059_999), (U256::MAX, u64::MAX));
    assert_eq!(spent(&w, 60_000, 1_062_000), (U256::ZERO, 0));
    assert_eq!(spent(&w, 3_600_000, 1_062_000).0, U256::MAX);
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

#[test]
fn scopes_are_read_as_they_are_written() {
    for text in
        ["all", "key", "app", "asset", "destination", "key+app", "key+destination", "app+asset+destination"]
    {
        assert_eq!(Scope::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(Scope::parse("destination+key").unwrap().to_string(), "key+destination");
    for bad in ["", "key+", "key+key", "all+key", "Key", "payee"] {
        assert_eq!(Scope::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_sum_that_reached_the_top_still_knows_its_parts() {
    let mut w = windows(3_600_000);
    w.add(&Debit { amount: U256::MAX, ..debit(1_000_000_000, 0) });
    w.add(&debit(1_000_000_000 + 1_800_000, 5));
    assert_eq!(spent(&w, 3_600_000, 1_000_000_000 + 1_800_000), (U256::MAX, 2));
    // The huge one has left, the small one has not.
    assert_eq!(spent(&w, 3_600_000, 1_000_000_000 + 3_700_000), (U256::from(5), 1));
    w.add(&debit(1_000_000_000 + 3_700_000, 1));
    assert_eq!(spent(&w, 3_600_000, 1_000_000_000 + 3_700_000), (U256::from(6), 2));
}

const SCOPES: [&str; 8] =
    ["all", "key", "app", "key+app", "destination", "key+destination", "app+destination", "key+asset"];

/// What a window must hold at least: everything of the same scope that is younger than its length, by the clock that never
/// falls.
fn exact(all: &[Debit], scope: Scope, len_ms: i64, whose: &Debit, now: i64) -> (U256, u64) {
    let mut newest = i64::MIN;
    let (mut sum, mut count) = (U256::ZERO, 0);
    for d in all {
        newest = newest.max(d.at.0);
        let same = (!scope.key || d.key == whose.key)
            && (!scope.app || d.app == whose.app)
            && (!scope.asset || d.asset == whose.asset)
            && (!scope.destination || d.to == whose.to);
        if same && newest > now - len_ms {
            count += 1;
            if d.asset == whose.asset {
                sum += d.amount;
            }
        }
    }
    (sum, count)
}

proptest! {
    // [clause 8.7.1-d] test
    #[test]
    fn nothing_is_overspent_in_any_scope_whatever_the_clock_does_and_after_a_crash(
        steps in proptest::collection::vec(
            (-4_000_000i64..4_000_000, 0usize..2, 0usize..2, 0u8..2, 0u8..3, 1u64..50, 0u8..12), 1..120),
        max in 40u64..400, most in 2u64..20)
    {
        let limits: Vec<(Scope, i64)> =
            SCOPES.iter().zip([3_600_000i64, 7_200_000].into_iter().cycle()).map(|(s, l)| (Scope::parse(s).unwrap(), l)).collect();
        let mut w = Windows::of(limits.clone());
        let (mut clock, mut wall) = (1_000_000_000i64, 1_000_000_000i64);
        let mut all: Vec<Debit> = Vec::new();
        for (step, key, app, asset, to, amount, event) in steps {
            wall += step;
            // The store's clock: the wall's, and never less than it was.
            clock = clock.max(wall);
            let one = Debit {
                at: Timestamp(clock),
                key: name(["k", "l"][key]),
                app: name(["a", "b"][app]),
                chain: Some(Chain(1)),
                asset: Some(if asset == 0 { Asset::Native } else { Asset::Erc20(Address([1; 20])) }),
                to: Some(Address([to; 20])),
                amount: U256::from(amount),
            };
            if event == 0 {
                // A crash: everything is counted anew from the rows.
                w.rebuild(&all, &[]);
            }
            let whose = Whose { key: &one.key, app: &one.app, asset: one.chain.zip(one.asset), to: one.to };
            let fits = limits.iter().all(|(scope, len)| {
                let (sum, count) = w.spent(*scope, *len, &whose, Timestamp(clock));
                count < most && sum + one.amount <= U256::from(max)
            });
            for (scope, len) in &limits {
                let (sum, count) = w.spent(*scope, *len, &whose, Timestamp(clock));
                let (least, number) = exact(&all, *scope, *len, &one, clock);
                prop_assert!(sum >= least && count >= number, "{scope}: {sum} {count} < {least} {number}");
            }
            if fits {
                w.add(&one);
                all.push(one.clone());
                for (scope, len) in &limits {
                    let (sum, count) = exact(&all, *scope, *len, &one, clock);
                    prop_assert!(sum <= U256::from(max) && count <= most, "{scope} is overspent: {sum} {count}");
                }
            }
        }
    }
}
