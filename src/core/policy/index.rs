//! Which rules concern a request: sets of rules by key, app, act, chain, asset, destination and call, made when the
//! policy is read, so that a decision looks at the few that concern it and not at all thousand.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, Name};
use super::rule::{Act, Kind, Rule, Set};

/// A set of rules by their places in the order of ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places(Vec<u64>);

impl Places {
    fn none(rules: usize) -> Self {
        Self(vec![0; rules.div_ceil(64)])
    }

    pub(super) fn add(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= b);
        self
    }

    fn or(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
        self
    }

    pub(super) fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a &= !b);
        self
    }

    /// The first that is in both.
    pub(super) fn first_of(&self, other: &Self) -> Option<usize> {
        self.0.iter().zip(&other.0).enumerate().find_map(|(at, (a, b))| {
            let both = a & b;
            (both != 0).then(|| at * 64 + both.trailing_zeros() as usize)
        })
    }

    /// In the order of ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }
}

/// Rules that name one value: all their places, or a short list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Named {
    Few(Vec<u32>),
    Many(Places),
}

impl Named {
    fn add_to(&self, mut set: Places) -> Places {
        match self {
            Self::Few(few) => {
                few.iter().for_each(|place| set.add(*place as usize));
                set
            }
            Self::Many(many) => set.or(many),
        }
    }
}

/// One thing that rules may name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct By<T: Hash + Eq> {
    /// Rules that name none, and so cover all.
    any: Places,
    named: HashMap<T, Named>,
}

impl<T: Hash + Eq> Default for By<T> {
    fn default() -> Self {
        Self { any: Places::default(), named: HashMap::new() }
    }
}

impl<T: Hash + Eq + Clone> By<T> {
    /// `names` gives what a rule names, or that it names nothing.
    fn new<'a>(rules: &'a [Rule], names: impl Fn(&'a Rule) -> Option<Vec<&'a T>>) -> Self
    where
        T: 'a,
    {
        let mut lists: HashMap<T, Vec<u32>> = HashMap::new();
        let mut any = Places::none(rules.len());
        for (place, rule) in rules.iter().enumerate() {
            match names(rule) {
                None => any.add(place),
                Some(values) => values.into_iter().for_each(|value| {
                    let list = lists.entry(value.clone()).or_default();
                    list.push(u32::try_from(place).unwrap_or(u32::MAX));
                }),
            }
        }
        let words = any.0.len();
        let pack = |list: Vec<u32>| {
            if list.len() <= words {
                return Named::Few(list);
            }
            let few = Named::Few(list);
            Named::Many(few.add_to(Places::none(rules.len())))
        };
        Self { any, named: lists.into_iter().map(|(value, list)| (value, pack(list))).collect() }
    }

    /// Rules that cover the value.
    fn covering<Q: Hash + Eq + ?Sized>(&self, value: Option<&Q>) -> Places
    where
        T: Borrow<Q>,
    {
        match value.and_then(|v| self.named.get(v)) {
            Some(named) => named.add_to(self.any.clone()),
            None => self.any.clone(),
        }
    }
}

/// The sets of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) permits: Places,
    pub(super) forbids: Places,
    /// Permits that let a fee bump replace a payment, and forbids.
    pub(super) bumps: Places,
    /// Forbids that speak of payments alone.
    pub(super) of_payments: Places,
    keys: By<Name>,
    apps: By<Name>,
    acts: By<Act>,
    chains: By<Chain>,
    assets: By<(Chain, Asset)>,
    to: By<Address>,
    denied: By<Address>,
    calls: By<(Address, [u8; 4])>,
}

fn only<T: Ord>(set: &Set<T>) -> Option<Vec<&T>> {
    match set {
        Set::Any => None,
        Set::Only(values) => Some(values.iter().collect()),
    }
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let which = |test: &dyn Fn(&Rule) -> bool| {
            let mut places = Places::none(rules.len());
            rules.iter().enumerate().filter(|(_, r)| test(r)).for_each(|(place, _)| places.add(place));
            places
        };
        let forbids = |r: &Rule| r.kind == Kind::Forbid;
        Self {
            permits: which(&|r| !forbids(r)),
            forbids: which(&forbids),
            bumps: which(&|r| forbids(r) || r.replacement),
            of_payments: which(&|r| forbids(r) && r.is_about_payments()),
            keys: By::new(rules, |r| only(&r.keys)),
            apps: By::new(rules, |r| only(&r.apps)),
            acts: By::new(rules, |r| Some(r.acts.iter().collect())),
            chains: By::new(rules, |r| only(&r.chains)),
            assets: By::new(rules, |r| only(&r.assets)),
            to: By::new(rules, |r| only(&r.to)),
            denied: By::new(rules, |r| Some(r.to_deny.iter().collect())),
            // A forbid without calls covers all of them; a permit none.
            calls: By::new(rules, |r| {
                let all = forbids(r) && r.calls.is_empty();
                (!all).then(|| r.calls.iter().collect())
            }),
        }
    }

    pub(super) fn of_key_and_app(&self, key: &Name, app: &Name) -> Places {
        self.keys.covering(Some(key)).and(&self.apps.covering(Some(app)))
    }

    pub(super) fn of_act(&self, act: Act) -> Places {
        self.acts.covering(Some(&act))
    }

    pub(super) fn of_chain(&self, chain: Chain) -> Places {
        self.chains.covering(Some(&chain))
    }

    pub(super) fn of_asset(&self, asset: (Chain, Asset)) -> Places {
        self.assets.covering(Some(&asset))
    }

    pub(super) fn of_call(&self, contract: Address, selector: Option<[u8; 4]>) -> Places {
        self.calls.covering(selector.map(|s| (contract, s)).as_ref())
    }

    /// What a permitted call may reach is named by its calls.
    pub(super) fn of_destination(&self, to: Address, called: bool) -> Places {
        let listed = self.to.covering(Some(&to));
        let listed = if called { listed.or(&self.permits) } else { listed };
        listed.without(&self.denied.covering(Some(&to)))
    }
}
