//! Sliding windows: what was spent, by whom, in the last hours. Counters belong to scopes, not to rules, so that
//! editing a rule never resets what was spent.
//!
//! A window is 60 buckets; a bucket counts until it has wholly left the window: never under-counted, over-counted
//! by at most one bucket. Time that goes back frees nothing.
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, Name, Timestamp, U256};
use super::history::{History, Mention};
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
    /// To whom: payee, spender or contract; `None` for a message.
    pub to: Option<Address>,
    /// How much, base units.
    pub amount: U256,
}

/// Whose requests a window adds up: of one key, one app, one asset, one destination, of several of them together, or all.
/// Amounts are always kept by asset as well; the number of requests only where the scope names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// Of one key.
    pub key: bool,
    /// Of one app.
    pub app: bool,
    /// Of one asset.
    pub asset: bool,
    /// To one destination.
    pub destination: bool,
}

impl Scope {
    /// Of one key.
    pub const KEY: Self = Self { key: true, app: false, asset: false, destination: false };

    /// From what the policy writes: `all`, or names with `+` between them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut scope = Self::default();
        if text == "all" {
            return Some(scope);
        }
        for part in text.split('+') {
            let one = match part {
                "key" => &mut scope.key,
                "app" => &mut scope.app,
                "asset" => &mut scope.asset,
                "destination" => &mut scope.destination,
                _ => return None,
            };
            if std::mem::replace(one, true) {
                return None;
            }
        }
        Some(scope)
    }

    /// Whether a window of this scope adds up everything that one of the other does.
    #[must_use]
    pub fn holds_all_of(self, other: Self) -> bool {
        (!self.key || other.key)
            && (!self.app || other.app)
            && (!self.asset || other.asset)
            && (!self.destination || other.destination)
    }
}

impl fmt::Display for Scope {
    /// As the policy writes it: `key+app`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts =
            [(self.key, "key"), (self.app, "app"), (self.asset, "asset"), (self.destination, "destination")];
        let named: Vec<&str> = parts.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(&if named.is_empty() { "all".to_owned() } else { named.join("+") })
    }
}

/// Whose window is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Whose<'a> {
    /// Line of keys.
    pub key: &'a Name,
    /// App.
    pub app: &'a Name,
    /// What is paid.
    pub asset: Option<(Chain, Asset)>,
    /// To whom.
    pub to: Option<Address>,
}

/// One counter: scope with its values, of the amounts of an asset or of the number of requests, length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Counter {
    scope: Scope,
    len_ms: i64,
    amounts: bool,
    key: Option<Name>,
    app: Option<Name>,
    asset: Option<(Chain, Asset)>,
    to: Option<Address>,
}

impl Counter {
    fn new(scope: Scope, len_ms: i64, amounts: bool, whose: &Whose<'_>) -> Self {
        Self {
            scope,
            len_ms,
            amounts,
            key: scope.key.then(|| whose.key.clone()),
            app: scope.app.then(|| whose.app.clone()),
            asset: whose.asset.filter(|_| amounts || scope.asset),
            to: whose.to.filter(|_| scope.destination),
        }
    }
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
        if self.queue.front().is_none_or(|(number, ..)| *number >= oldest) {
            return;
        }
        (self.amount, self.count) = self.sum_since(oldest);
        while self.queue.front().is_some_and(|(number, ..)| *number < oldest) {
            self.queue.pop_front();
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
        // A sum that reached the top says nothing of its parts: what is left is added up again.
        if self.amount == U256::MAX {
            let left = self.queue.iter().filter(|(number, ..)| *number >= oldest);
            return left.fold((U256::ZERO, 0), |(sum, n), (_, amount, count)| {
                (sum.saturating_add(*amount), n.saturating_add(*count))
            });
        }
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

/// What was spent, and what the keys have done before. Sums saturate at the top, where every limit denies.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    wanted: BTreeSet<(Scope, i64)>,
    counters: HashMap<Counter, Buckets>,
    /// Destinations and amounts that are usual.
    pub history: History,
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
        Self::of(policy.rules.iter().flat_map(|r| &r.windows).map(|w| (w.scope, w.len_ms)))
    }

    fn of(wanted: impl IntoIterator<Item = (Scope, i64)>) -> Self {
        Self { wanted: wanted.into_iter().collect(), ..Self::default() }
    }

    /// Adds a request to every counter that it belongs to.
    pub fn add(&mut self, debit: &Debit) {
        self.newest = self.newest.max(debit.at.0);
        let asset = debit.chain.zip(debit.asset);
        let whose = Whose { key: &debit.key, app: &debit.app, asset, to: debit.to };
        for (scope, len_ms) in &self.wanted {
            for amounts in [false, true] {
                if amounts && asset.is_none() {
                    continue;
                }
                let counter = Counter::new(*scope, *len_ms, amounts, &whose);
                let buckets = self.counters.entry(counter).or_default();
                buckets.expire(oldest(*len_ms, self.newest));
                buckets.add(debit.at.0.div_euclid(bucket_ms(*len_ms)), debit.amount);
            }
        }
        self.history.paid(debit);
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

    /// Starts over from rows, oldest first, and from what destinations were first asked for.
    pub fn rebuild(&mut self, rows: &[Debit], seen: &[Mention]) {
        let elapsed = std::mem::take(&mut self.history.elapsed);
        *self = Self { wanted: std::mem::take(&mut self.wanted), ..Self::default() };
        self.history.elapsed = elapsed;
        for mention in seen {
            self.history.mention(mention);
        }
        for row in rows {
            self.add(row);
        }
    }

    /// Amount and number of requests in the window. The amount is that of the asset.
    #[must_use]
    pub fn spent(&self, scope: Scope, len_ms: i64, whose: &Whose<'_>, now: Timestamp) -> (U256, u64) {
        let since = oldest(len_ms, now.0.max(self.newest));
        if self.unknown_until.is_some_and(|at| at.div_euclid(bucket_ms(len_ms)) >= since) {
            return (U256::MAX, u64::MAX);
        }
        let sum = |amounts| {
            self.counters
                .get(&Counter::new(scope, len_ms, amounts, whose))
                .map_or((U256::ZERO, 0), |b| b.sum_since(since))
        };
        let amount = if whose.asset.is_some() { sum(true).0 } else { U256::ZERO };
        (amount, sum(false).1)
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
