//! What a line of keys has done before: when each destination was first asked for, and what it usually pays.
//!
//! First mentions are kept for ever (the store keeps them, and the log tells them); amounts as far as the rows of the
//! windows reach. No clock that is set makes a destination older: how long ago it was asked for is what the log counted
//! since ([`Elapsed`]), and not the difference of two dates.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, Name, Timestamp, U256};
use super::window::Debit;
use crate::core::elapsed::Elapsed;

/// Payments of one asset that say what is usual.
const USUAL: usize = 20;
/// With fewer of them nothing is unusual.
const LEAST: usize = 3;
/// First mentions of one key that are remembered in order; a tripwire counts no further.
const RECENT: usize = 1000;

/// A destination was asked for the first time, with a line of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// The line.
    pub key: Name,
    /// Whom.
    pub to: Address,
    /// When.
    pub at: Timestamp,
}

/// One line of keys.
#[derive(Clone, Debug, Default)]
struct Line {
    first: HashMap<Address, Timestamp>,
    recent: VecDeque<Timestamp>,
    usual: HashMap<(Chain, Asset), VecDeque<(Timestamp, U256)>>,
}

/// What all keys have done.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: HashMap<Name, Line>,
    /// How much time went by between the dates of the log.
    pub elapsed: Elapsed,
}

impl History {
    fn line(&mut self, key: &Name) -> &mut Line {
        if !self.lines.contains_key(key) {
            self.lines.insert(key.clone(), Line::default());
        }
        self.lines.entry(key.clone()).or_default()
    }

    /// A destination was asked for.
    pub fn mention(&mut self, mention: &Mention) {
        let line = self.line(&mention.key);
        if let Some(first) = line.first.get_mut(&mention.to) {
            *first = mention.at.min(*first);
            return;
        }
        line.first.insert(mention.to, mention.at);
        line.recent.push_back(mention.at);
        if line.recent.len() > RECENT {
            line.recent.pop_front();
        }
    }

    /// A payment was reserved.
    pub(super) fn paid(&mut self, debit: &Debit) {
        if let Some(to) = debit.to
            && self.first(&debit.key, to).is_none()
        {
            self.mention(&Mention { key: debit.key.clone(), to, at: debit.at });
        }
        let Some(asset) = debit.chain.zip(debit.asset) else { return };
        // What moves nothing says nothing of what is usual.
        if !debit.amount.is_zero() {
            let usual = self.line(&debit.key).usual.entry(asset).or_default();
            usual.push_back((debit.at, debit.amount));
            if usual.len() > USUAL {
                usual.pop_front();
            }
        }
    }

    /// When the destination was first asked for.
    #[must_use]
    pub fn first(&self, key: &Name, to: Address) -> Option<Timestamp> {
        self.lines.get(key)?.first.get(&to).copied()
    }

    /// How many destinations were first asked for after this moment.
    #[must_use]
    pub fn new_since(&self, key: &Name, since: Timestamp) -> usize {
        self.lines.get(key).map_or(0, |line| line.recent.iter().filter(|at| **at > since).count())
    }

    /// The largest of the last payments of the asset after this moment, when there are enough of them to say.
    #[must_use]
    pub fn largest(&self, key: &Name, asset: (Chain, Asset), since: Timestamp) -> Option<U256> {
        let usual = self.lines.get(key)?.usual.get(&asset)?;
        let counted = || usual.iter().filter(|(at, _)| *at > since).map(|(_, amount)| *amount);
        if counted().count() < LEAST { None } else { counted().max() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debit(at: i64, to: u8, amount: u64) -> Debit {
        Debit {
            at: Timestamp(at),
            key: Name::parse("k").unwrap(),
            app: Name::parse("a").unwrap(),
            chain: Some(Chain(1)),
            asset: Some(Asset::Native),
            to: Some(Address([to; 20])),
            amount: U256::from(amount),
        }
    }

    #[test]
    fn the_first_mention_counts_and_no_later_one() {
        let (mut h, key) = (History::default(), Name::parse("k").unwrap());
        h.mention(&Mention { key: key.clone(), to: Address([1; 20]), at: Timestamp(50) });
        h.paid(&debit(90, 1, 5));
        assert_eq!(h.first(&key, Address([1; 20])), Some(Timestamp(50)));
        h.mention(&Mention { key: key.clone(), to: Address([1; 20]), at: Timestamp(40) });
        assert_eq!(h.first(&key, Address([1; 20])), Some(Timestamp(40)));
        h.paid(&debit(100, 2, 5));
        assert_eq!((h.new_since(&key, Timestamp(50)), h.new_since(&key, Timestamp(49))), (1, 2));
        assert_eq!(h.first(&Name::parse("other").unwrap(), Address([1; 20])), None);
    }

    #[test]
    fn what_is_usual_needs_some_payments_and_forgets_old_ones() {
        let (mut h, key, eth) = (History::default(), Name::parse("k").unwrap(), (Chain(1), Asset::Native));
        for (at, amount) in [(1, 900), (2, 0), (3, 5)] {
            h.paid(&debit(at, 1, amount));
        }
        assert_eq!(h.largest(&key, eth, Timestamp(0)), None, "two payments say nothing");
        h.paid(&debit(4, 1, 7));
        assert_eq!(h.largest(&key, eth, Timestamp(0)), Some(U256::from(900)));
        assert_eq!(h.largest(&key, eth, Timestamp(1)), None, "what was before does not count");
        for at in 5..40 {
            h.paid(&debit(at, 1, 8));
        }
        assert_eq!(h.largest(&key, eth, Timestamp(0)), Some(U256::from(8)), "900 is long gone");
    }
}
