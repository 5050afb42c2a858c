//! Rules as values.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::super::payment::{Asset, Chain, Effect};
use super::super::units::{Address, Name, U256};
use super::books::SignedBook;
use super::finding::Finding;
use super::index::Index;
use super::window::Scope;
use crate::core::approval::Needs;
use crate::core::proof::Tier;

/// What a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Coin or ERC-20 to somebody.
    Transfer,
    /// ERC-20 `approve`.
    Approve,
    /// ERC-20 `transferFrom`.
    TransferFrom,
    /// Any other contract call.
    Call,
    /// EIP-191 message.
    Message,
    /// Login challenge.
    Login,
    /// Encrypting data.
    Encrypt,
    /// Decrypting data.
    Decrypt,
    /// Making a MAC.
    Mac,
    /// Verifying a MAC.
    VerifyMac,
    /// Random bits.
    Random,
    /// Contract creation: no rule can permit it.
    #[serde(skip_deserializing)]
    Create,
}

impl Act {
    /// Those that rules may name.
    pub const NAMED: [Self; 11] = [
        Self::Transfer,
        Self::Approve,
        Self::TransferFrom,
        Self::Call,
        Self::Message,
        Self::Login,
        Self::Encrypt,
        Self::Decrypt,
        Self::Mac,
        Self::VerifyMac,
        Self::Random,
    ];

    /// Whether money may move by it.
    #[must_use]
    pub fn pays(self) -> bool {
        matches!(self, Self::Transfer | Self::Approve | Self::TransferFrom | Self::Call | Self::Create)
    }

    /// For people: what a rule that does not name it does not speak of.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Transfer => "transfers",
            Self::Approve => "approve",
            Self::TransferFrom => "transferFrom",
            Self::Call => "contract calls",
            Self::Create => "contract creation",
            Self::Message => "messages",
            Self::Login => "logins",
            Self::Encrypt => "encrypting",
            Self::Decrypt => "decrypting",
            Self::Mac => "making MACs",
            Self::VerifyMac => "verifying MACs",
            Self::Random => "random bits",
        }
    }

    /// The act of an effect.
    #[must_use]
    pub fn of(effect: &Effect) -> Self {
        match effect {
            Effect::Transfer { .. } => Self::Transfer,
            Effect::Approve { .. } => Self::Approve,
            Effect::TransferFrom { .. } => Self::TransferFrom,
            Effect::ContractCall { .. } => Self::Call,
            Effect::ContractCreation { .. } => Self::Create,
        }
    }
}

/// All, or those that are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set<T: Ord> {
    /// `"*"`, or absent in a forbid.
    Any,
    /// These.
    Only(BTreeSet<T>),
}

impl<T: Ord> Set<T> {
    /// Whether it holds the value.
    #[must_use]
    pub fn has(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::Only(set) => set.contains(value),
        }
    }

    /// Whether everything in `self` is in `other`.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Any) => true,
            (Self::Any, Self::Only(_)) => false,
            (Self::Only(a), Self::Only(b)) => a.is_subset(b),
        }
    }
}

/// Permit or forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Allows what it covers, within its limits.
    Permit,
    /// Denies what it covers; with limits, what exceeds them.
    Forbid,
}

/// A limit over a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowLimit {
    /// Length, milliseconds.
    pub len_ms: i64,
    /// As written: `24h`.
    pub len_text: String,
    /// Whose requests are added up.
    pub scope: Scope,
    /// Most that may be spent, base units of the rule's asset.
    pub max: Option<U256>,
    /// Most requests.
    pub count: Option<u64>,
}

/// Hours of the week, UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Monday first.
    pub days: [bool; 7],
    /// Minute of the day from which.
    pub from: u16,
    /// Minute of the day until which (exclusive); below `from` it crosses midnight.
    pub until: u16,
    /// As written.
    pub text: String,
}

impl Hours {
    /// Whether the second since the epoch lies inside.
    #[must_use]
    pub fn has(&self, seconds: i64) -> bool {
        let day = seconds.div_euclid(86_400);
        let minute = u16::try_from(seconds.rem_euclid(86_400) / 60).unwrap_or(0);
        // 1970-01-01 was a Thursday.
        let weekday = |d: i64| usize::try_from((d + 3).rem_euclid(7)).unwrap_or(0);
        let on = |d: i64| self.days.get(weekday(d)).copied().unwrap_or(false);
        if self.from <= self.until {
            on(day) && (self.from..self.until).contains(&minute)
        } else {
            (on(day) && minute >= self.from) || (on(day - 1) && minute < self.until)
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique name.
    pub id: Name,
    /// Permit or forbid.
    pub kind: Kind,
    /// What it speaks of.
    pub acts: BTreeSet<Act>,
    /// Keys.
    pub keys: Set<Name>,
    /// Apps.
    pub apps: Set<Name>,
    /// Chains.
    pub chains: Set<Chain>,
    /// Assets, resolved.
    pub assets: Set<(Chain, Asset)>,
    /// Destinations that are covered.
    pub to: Set<Address>,
    /// Destinations that are not.
    pub to_deny: BTreeSet<Address>,
    /// Contract and selector pairs.
    pub calls: BTreeSet<(Address, [u8; 4])>,
    /// Most in one transaction, base units.
    pub per_tx: Option<U256>,
    /// Highest fee, wei.
    pub fee: Option<U256>,
    /// Sliding windows.
    pub windows: Vec<WindowLimit>,
    /// Hours.
    pub hours: Option<Hours>,
    /// Whether a fee bump of the same payment may replace it.
    pub replacement: bool,
    /// From what amount on people must approve, rising.
    pub approvals: Vec<Line>,
    /// The least that must be known of the caller.
    pub tier: Tier,
    /// How long a destination waits that the key has not paid before.
    pub new_destination: Option<NewDestination>,
}

/// A destination that a key has not paid before waits after it was first asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDestination {
    /// How long, milliseconds.
    pub delay_ms: i64,
    /// As written: `24h`.
    pub delay_text: String,
    /// What may be paid to it meanwhile, each time; nothing when absent.
    pub max: Option<U256>,
}

/// What suspends a key by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tripwire {
    /// So many refused payments within the time.
    pub refusals: Option<u32>,
    /// So many destinations within the time that the key was never asked to pay before.
    pub new_destinations: Option<u32>,
    /// The time, milliseconds.
    pub within_ms: i64,
    /// More than this many times the largest of the last payments of the same asset.
    pub amount_factor: Option<u32>,
}

/// People who must approve amounts above a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The line, base units; 0 for every payment.
    pub above: U256,
    /// Who.
    pub needs: Needs,
}

impl Rule {
    /// Who must approve an amount. Without an amount nothing says that it is small.
    #[must_use]
    pub fn needs(&self, amount: Option<U256>) -> Option<&Needs> {
        let reached = |t: &&Line| t.above.is_zero() || amount.is_none_or(|a| a > t.above);
        self.approvals.iter().rev().find(reached).map(|t| &t.needs)
    }
}

impl Rule {
    /// Whether it bounds how much is paid.
    #[must_use]
    pub fn bounds_amounts(&self) -> bool {
        self.per_tx.is_some() || self.windows.iter().any(|w| w.max.is_some())
    }

    /// Whether it has limits: a forbid without them forbids all that it covers.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.per_tx.is_some() || self.fee.is_some() || !self.windows.is_empty()
    }

    /// Whether it names chains, assets, destinations or contracts.
    #[must_use]
    pub fn is_about_payments(&self) -> bool {
        matches!(self.chains, Set::Only(_))
            || matches!(self.assets, Set::Only(_))
            || matches!(self.to, Set::Only(_))
            || !self.to_deny.is_empty()
            || !self.calls.is_empty()
    }
}

/// A named asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetInfo {
    /// Its name in this policy.
    pub name: Name,
    /// Digits after the point, for people.
    pub decimals: u8,
}

/// A whole policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(super) hash: [u8; 32],
    /// By id: the order of the file never matters.
    pub(super) rules: Vec<Rule>,
    /// Finds the rules that concern a request.
    pub(super) index: Index,
    /// Where keys at their end may still pay to.
    pub(super) sweep: BTreeSet<Address>,
    pub(super) tripwire: Option<Tripwire>,
    pub(super) assets: BTreeMap<(Chain, Asset), AssetInfo>,
    /// Names of addresses, for people: `suppliers/acme`.
    pub(super) names: BTreeMap<Address, String>,
    /// Address books that people signed.
    pub(super) signed: Vec<SignedBook>,
    /// In which line of the text each rule begins.
    pub(super) lines: BTreeMap<Name, usize>,
    /// What the text says and hardly means.
    pub(super) doubts: Vec<Finding>,
}

impl Policy {
    /// SHA-256 of the text; with signed books, of the text and all of them.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// All that permits ask of people, with the rule that does.
    pub fn asks(&self) -> impl Iterator<Item = (&Name, &Needs)> {
        self.rules.iter().flat_map(|r| r.approvals.iter().map(|t| (&r.id, &t.needs)))
    }

    /// What suspends a key by itself.
    #[must_use]
    pub fn tripwire(&self) -> Option<Tripwire> {
        self.tripwire
    }

    /// Every asset that it names.
    pub fn assets(&self) -> impl Iterator<Item = (Chain, Asset)> + '_ {
        self.assets.keys().copied()
    }

    /// Address books that people signed.
    #[must_use]
    pub fn signed_books(&self) -> &[SignedBook] {
        &self.signed
    }

    /// What the text says and hardly means; none of it keeps the policy from being in force.
    #[must_use]
    pub fn doubts(&self) -> &[Finding] {
        &self.doubts
    }

    /// In which line of the text a rule begins.
    #[must_use]
    pub fn line_of(&self, rule: &Name) -> usize {
        self.lines.get(rule).copied().unwrap_or(1)
    }

    /// The rule of an id.
    #[must_use]
    pub(super) fn rule(&self, id: &Name) -> Option<&Rule> {
        self.rules.binary_search_by(|r| r.id.cmp(id)).ok().and_then(|at| self.rules.get(at))
    }

    /// How many rules.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.len()
    }

    /// Chains that permit rules name.
    #[must_use]
    pub fn chains(&self) -> BTreeSet<Chain> {
        let mut all = BTreeSet::new();
        for rule in self.rules.iter().filter(|r| r.kind == Kind::Permit) {
            if let Set::Only(chains) = &rule.chains {
                all.extend(chains.iter().copied());
            }
        }
        all
    }

    /// Whether some permit lets this app use this key at all.
    #[must_use]
    pub fn may_use(&self, app: &Name, key: &Name) -> bool {
        self.rules.iter().any(|r| r.kind == Kind::Permit && r.keys.has(key) && r.apps.has(app))
    }

    /// An amount for people: `5.2 USDC (5200000)`.
    #[must_use]
    pub fn format_amount(&self, chain: Chain, asset: Asset, amount: U256) -> String {
        match self.assets.get(&(chain, asset)) {
            None => format!("{amount} base units of {asset}"),
            Some(info) => format!("{} {} ({amount})", with_point(amount, info.decimals), info.name),
        }
    }

    /// An address for people, with its name in the address books.
    #[must_use]
    pub fn format_address(&self, address: Address) -> String {
        match self.names.get(&address) {
            Some(name) => format!("{address} (@{name})"),
            None => address.to_string(),
        }
    }
}

fn with_point(amount: U256, decimals: u8) -> String {
    let digits = amount.to_string();
    let places = usize::from(decimals);
    if places == 0 {
        return digits;
    }
    let padded = format!("{digits:0>width$}", width = places + 1);
    let (whole, part) = padded.split_at(padded.len() - places);
    let part = part.trim_end_matches('0');
    if part.is_empty() { whole.to_owned() } else { format!("{whole}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_with_their_point() {
        for (amount, decimals, text) in
            [(0u64, 6, "0"), (5, 6, "0.000005"), (5_200_000, 6, "5.2"), (7, 0, "7"), (1_000_000, 6, "1")]
        {
            assert_eq!(with_point(U256::from(amount), decimals), text);
        }
    }

    #[test]
    fn hours_cross_midnight_and_know_the_weekday() {
        let mut days = [false; 7];
        days[4] = true; // Friday
        let night = Hours { days, from: 22 * 60, until: 2 * 60, text: String::new() };
        let friday = 1_763_683_200; // 2025-11-21, a Friday
        assert!(!night.has(friday + 21 * 3600));
        assert!(night.has(friday + 23 * 3600));
        assert!(night.has(friday + 25 * 3600));
        assert!(!night.has(friday + 27 * 3600));
        assert!(!night.has(friday - 3600));
    }
}
