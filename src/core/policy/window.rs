//! Sliding windows: what was spent, by whom, in the last hours. Counters belong to scopes, not to rules, so that
//! editing a rule never resets what was spent.
//!
//! A window is 60 buckets; a bucket counts until it has wholly left the window: never under-counted, over-counted
//! by at most one bucket. Time that goes back frees nothing.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::super::payment::{Asset, Chain};
use super::super::units::{Name, Timestamp, U256};
use super::rule::Policy;

const BUCKETS: i64 = 60;
/// Longest window, milliseconds: 31 days.
pub const LONGEST_MS: i64 = 31 * 86_400_000;

/// One signed request, as it is kept for the windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debit {
    /// When it was reserved.
    pub at: Timestamp,
    /// With which key.
    pub key: Name,
    /// By which app.
    pub app: Name,
    /// Where; `None` for a message.
    pub chain: Option<Chain>,
    /// What; `None` when no money moves.
    pub asset: Option<Asset>,
    /// How much, base units.
    pub amount: U256,
}

/// Whose requests a window adds up. Amounts are always kept by asset as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Of one key.
    Key,
    /// Of one app.
    App,
    /// Of one app with one key.
    KeyAndApp,
    /// Of everybody.
    All,
}

impl Scope {
    /// As the policy writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::App => "app",
            Self::KeyAndApp => "key+app",
            Self::All => "all",
        }
    }

    /// The inverse.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Key, Self::App, Self::KeyAndApp, Self::All].into_iter().find(|s| s.as_str() == text)
    }
}

/// One counter: scope with its values, asset or all requests, length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Counter {
    scope: Scope,
    key: Option<Name>,
    app: Option<Name>,
    asset: Option<(Chain, Asset)>,
    len_ms: i64,
}

#[derive(Clone, Debug, Default)]
struct Buckets {
    /// Bucket number, amount, count; oldest first.
    queue: VecDeque<(i64, U256, u64)>,
    amount: U256,
    count: u64,
}

impl Buckets {
    fn expire(&mut self, oldest: i64) {
        while let Some((number, amount, count)) = self.queue.front().copied() {
            if number >= oldest {
                return;
            }
            self.queue.pop_front();
            self.amount = self.amount.saturating_sub(amount);
            self.count = self.count.saturating_sub(count);
        }
    }

    fn add(&mut self, number: i64, amount: U256) {
        // A debit that comes late counts from the newest bucket: longer than it must, never shorter.
        let number = self.queue.back().map_or(number, |(n, ..)| number.max(*n));
        match self.queue.back_mut() {
            Some((n, a, c)) if *n == number => {
                *a = a.saturating_add(amount);
                *c = c.saturating_add(1);
            }
            _ => self.queue.push_back((number, amount, 1)),
        }
        self.amount = self.amount.saturating_add(amount);
        self.count = self.count.saturating_add(1);
    }

    fn sum_since(&self, oldest: i64) -> (U256, u64) {
        // Expired buckets may still stand here between two debits: take them off.
        let mut sum = (self.amount, self.count);
        for (number, amount, count) in &self.queue {
            if *number >= oldest {
                break;
            }
            sum = (sum.0.saturating_sub(*amount), sum.1.saturating_sub(*count));
        }
        sum
    }
}

/// What was spent. Saturates at the top, where every limit denies.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    wanted: BTreeSet<(Scope, i64)>,
    counters: HashMap<Counter, Buckets>,
    newest: i64,
    adds: u64,
    /// What was spent until then is not known.
    unknown_until: Option<i64>,
}

fn bucket_ms(len_ms: i64) -> i64 {
    (len_ms / BUCKETS).max(1)
}

/// The oldest bucket that still counts at `now`: one that holds any moment later than `now - len`.
fn oldest(len_ms: i64, now: i64) -> i64 {
    now.saturating_sub(len_ms).div_euclid(bucket_ms(len_ms))
}

impl Windows {
    /// Empty counters for every window that the policy names.
    #[must_use]
    pub fn for_policy(policy: &Policy) -> Self {
        let wanted = policy.rules.values().flat_map(|r| &r.windows).map(|w| (w.scope, w.len_ms)).collect();
        Self { wanted, ..Self::default() }
    }

    /// Adds a request to every counter that it belongs to.
    pub fn add(&mut self, debit: &Debit) {
        self.newest = self.newest.max(debit.at.0);
        let asset = debit.chain.zip(debit.asset);
        for (scope, len_ms) in self.wanted.clone() {
            for asset in [None, asset] {
                let counter = counter(scope, len_ms, &debit.key, &debit.app, asset);
                let buckets = self.counters.entry(counter).or_default();
                buckets.expire(oldest(len_ms, self.newest));
                buckets.add(debit.at.0.div_euclid(bucket_ms(len_ms)), debit.amount);
                if asset.is_none() && debit.chain.zip(debit.asset).is_none() {
                    break;
                }
            }
        }
        self.adds = self.adds.wrapping_add(1);
        if self.adds.is_multiple_of(4096) {
            let newest = self.newest;
            self.counters.retain(|c, b| {
                b.expire(oldest(c.len_ms, newest));
                !b.queue.is_empty()
            });
        }
    }

    /// What was spent until `at` is not known: a window counts as full for as long as it reaches back to it.
    pub fn fill(&mut self, at: Timestamp) {
        self.unknown_until = Some(at.0);
    }

    /// Amount and number of requests in the window. The amount is that of `asset`; the number is of all requests.
    #[must_use]
    pub fn spent(
        &self,
        scope: Scope,
        len_ms: i64,
        key: &Name,
        app: &Name,
        asset: Option<(Chain, Asset)>,
        now: Timestamp,
    ) -> (U256, u64) {
        let since = oldest(len_ms, now.0.max(self.newest));
        if self.unknown_until.is_some_and(|at| at.div_euclid(bucket_ms(len_ms)) >= since) {
            return (U256::MAX, u64::MAX);
        }
        let sum = |asset| {
            self.counters
                .get(&counter(scope, len_ms, key, app, asset))
                .map_or((U256::ZERO, 0), |b| b.sum_since(since))
        };
        let amount = asset.map_or(U256::ZERO, |a| sum(Some(a)).0);
        (amount, sum(None).1)
    }
}

fn counter(scope: Scope, len_ms: i64, key: &Name, app: &Name, asset: Option<(Chain, Asset)>) -> Counter {
    let (by_key, by_app) = match scope {
        Scope::Key => (true, false),
        Scope::App => (false, true),
        Scope::KeyAndApp => (true, true),
        Scope::All => (false, false),
    };
    Counter { scope, key: by_key.then(|| key.clone()), app: by_app.then(|| app.clone()), asset, len_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn windows(len_ms: i64) -> Windows {
        Windows { wanted: [(Scope::Key, len_ms)].into(), ..Windows::default() }
    }

    fn debit(at: i64, amount: u64) -> Debit {
        Debit {
            at: Timestamp(at),
            key: name("k"),
            app: name("a"),
            chain: Some(Chain(1)),
            asset: Some(Asset::Native),
            amount: U256::from(amount),
        }
    }

    fn spent(w: &Windows, len_ms: i64, now: i64) -> (U256, u64) {
        w.spent(Scope::Key, len_ms, &name("k"), &name("a"), Some((Chain(1), Asset::Native)), Timestamp(now))
    }

    #[test]
    fn a_clock_set_back_frees_nothing_and_another_key_sees_nothing() {
        let mut w = windows(60_000);
        w.add(&debit(1_000_000, 5));
        assert_eq!(spent(&w, 60_000, 0), (U256::from(5), 1));
        assert_eq!(spent(&w, 60_000, 1_059_999), (U256::from(5), 1));
        assert_eq!(spent(&w, 60_000, 1_062_000), (U256::ZERO, 0));
        assert_eq!(
            w.spent(Scope::Key, 60_000, &name("other"), &name("a"), None, Timestamp(1_000_000)),
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
}
