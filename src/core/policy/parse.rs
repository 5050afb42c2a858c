//! Raw TOML to typed rules. Unknown keys, wrong values and rules that could not mean what they seem to are refused.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, Name, U256, parse_decimal, sha256};
use super::rule::{Act, AssetInfo, Hours, Kind, Policy, Rule, Set, Tier, Tripwire, WindowLimit};
use super::window::{LONGEST_MS, Scope};
use crate::core::approval::Needs;

/// Longest policy text, bytes.
const MAX_TEXT: usize = 1024 * 1024;

/// Why a policy text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not TOML of the right shape; the sentence names line and column.
    #[error("{0}")]
    Syntax(String),
    /// A value is wrong.
    #[error("{place}: {why}")]
    Value {
        /// Rule, asset or book.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    schema: u32,
    #[serde(default)]
    assets: BTreeMap<Name, RawAsset>,
    #[serde(default)]
    books: BTreeMap<Name, BTreeMap<Name, Address>>,
    sweep: Option<RawSweep>,
    tripwire: Option<RawTripwire>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTripwire {
    refusals: u32,
    within: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSweep {
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAsset {
    chain: String,
    erc20: Option<Address>,
    #[serde(default)]
    native: bool,
    decimals: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    id: Name,
    effect: Kind,
    acts: Option<Vec<Act>>,
    keys: Option<Vec<String>>,
    apps: Option<Vec<String>>,
    chains: Option<Vec<String>>,
    assets: Option<Vec<String>>,
    to: Option<RawTo>,
    per_tx: Option<RawMax>,
    fee: Option<RawMax>,
    #[serde(default)]
    window: Vec<RawWindow>,
    time: Option<RawTime>,
    #[serde(default)]
    calls: Vec<RawCall>,
    #[serde(default)]
    replacement: bool,
    #[serde(default)]
    approve: Vec<RawApprove>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApprove {
    above: Option<String>,
    quorum: u32,
    of: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTo {
    allow: Option<Vec<String>>,
    #[serde(default)]
    deny: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMax {
    max: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWindow {
    len: String,
    max: Option<String>,
    count: Option<u64>,
    scope: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTime {
    tz: String,
    days: Option<String>,
    hours: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCall {
    contract: Address,
    selector: String,
}

impl Policy {
    /// Reads a policy text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT {
            return Err(PolicyError::Syntax(format!("the policy is longer than {MAX_TEXT} bytes")));
        }
        let raw: RawPolicy = toml::from_str(text).map_err(|e| PolicyError::Syntax(e.to_string()))?;
        if raw.schema != 1 {
            return Err(at(
                "schema",
                format!("{} is not known here; this program reads schema 1", raw.schema),
            ));
        }
        let mut context = Context::default();
        for (name, asset) in raw.assets {
            context.asset(&name, &asset)?;
        }
        for (book, entries) in raw.books {
            for (name, address) in &entries {
                context.names.entry(*address).or_insert_with(|| format!("{book}/{name}"));
            }
            context.books.insert(book, entries.into_values().collect());
        }
        let sweep = match raw.sweep {
            None => BTreeSet::new(),
            Some(sweep) => context.addresses(&sweep.to).map_err(|why| at("sweep", why))?,
        };
        let tripwire = raw.tripwire.map(tripwire).transpose().map_err(|why| at("tripwire", why))?;
        let mut rules = BTreeMap::new();
        for rule in raw.rule {
            let id = rule.id.clone();
            let place = format!("rule {id}");
            let rule = context.rule(rule).map_err(|why| at(&place, why))?;
            if rules.insert(id, rule).is_some() {
                return Err(at(&place, "the id stands twice".into()));
            }
        }
        Ok(Self {
            hash: sha256(text.as_bytes()),
            rules,
            sweep,
            tripwire,
            assets: context.infos,
            names: context.names,
        })
    }
}

/// transfer, approve, transferFrom, increaseAllowance, decreaseAllowance, permit (EIP-2612).
const MONEY: [[u8; 4]; 6] = [
    [0xa9, 0x05, 0x9c, 0xbb],
    [0x09, 0x5e, 0xa7, 0xb3],
    [0x23, 0xb8, 0x72, 0xdd],
    [0x39, 0x50, 0x93, 0x51],
    [0xa4, 0x57, 0xc2, 0xd7],
    [0xd5, 0x05, 0xac, 0xcf],
];

fn at(place: &str, why: String) -> PolicyError {
    PolicyError::Value { place: place.to_owned(), why }
}

#[derive(Default)]
struct Context {
    assets: BTreeMap<Name, (Chain, Asset)>,
    infos: BTreeMap<(Chain, Asset), AssetInfo>,
    books: BTreeMap<Name, BTreeSet<Address>>,
    names: BTreeMap<Address, String>,
}

fn chain(text: &str) -> Result<Chain, String> {
    Chain::parse(text).ok_or_else(|| format!("chain {text:?} must be eip155:N with N above zero"))
}

fn amount(what: &str, text: &str) -> Result<U256, String> {
    parse_decimal(text)
        .ok_or_else(|| format!("{what} = {text:?} must be a decimal string of base units below 2^256"))
}

fn set<T: Ord>(
    what: &str,
    list: Option<Vec<String>>,
    needed: bool,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Set<T>, String> {
    match list {
        None if needed => Err(format!("a permit must name its {what}")),
        None => Ok(Set::Any),
        Some(list) if list.is_empty() => Err(format!("{what} is empty, so the rule would cover nothing")),
        Some(list) if list == ["*"] => Ok(Set::Any),
        Some(list) => Ok(Set::Only(list.iter().map(|t| read(t)).collect::<Result<_, _>>()?)),
    }
}

impl Context {
    fn asset(&mut self, name: &Name, raw: &RawAsset) -> Result<(), PolicyError> {
        let place = format!("asset {name}");
        let chain = chain(&raw.chain).map_err(|why| at(&place, why))?;
        let asset = match (raw.native, raw.erc20) {
            (true, None) => Asset::Native,
            (false, Some(contract)) => Asset::Erc20(contract),
            _ => return Err(at(&place, "set native = true or erc20 = \"0x…\", one of them".into())),
        };
        if raw.decimals > 36 {
            return Err(at(&place, format!("decimals = {} is above 36", raw.decimals)));
        }
        let info = AssetInfo { name: name.clone(), decimals: raw.decimals };
        if self.infos.insert((chain, asset), info).is_some() {
            return Err(at(&place, "the same asset has two names".into()));
        }
        self.assets.insert(name.clone(), (chain, asset));
        Ok(())
    }

    fn addresses(&self, list: &[String]) -> Result<BTreeSet<Address>, String> {
        let mut all = BTreeSet::new();
        for text in list {
            if let Some(book) = text.strip_prefix('@') {
                let entries = Name::parse(book).and_then(|b| self.books.get(&b));
                all.extend(entries.ok_or_else(|| format!("there is no address book {text:?}"))?);
            } else {
                let address = Address::parse(text);
                all.insert(address.ok_or_else(|| {
                    format!("{text:?} is no @book and no address with a right EIP-55 checksum")
                })?);
            }
        }
        Ok(all)
    }

    fn rule(&self, raw: RawRule) -> Result<Rule, String> {
        let permit = raw.effect == Kind::Permit;
        let acts: BTreeSet<Act> = match raw.acts {
            None if permit => [Act::Transfer].into(),
            None => Act::NAMED.into(),
            Some(acts) if acts.is_empty() => return Err("acts is empty".into()),
            Some(acts) => acts.into_iter().collect(),
        };
        let pays = acts.iter().any(|a| a.pays());
        let moves = acts.iter().any(|a| matches!(a, Act::Transfer | Act::Approve | Act::TransferFrom));
        let name = |t: &str| Name::parse(t).ok_or_else(|| format!("{t:?} is no name"));
        let chains = set("chains", raw.chains, permit && pays, chain)?;
        let mut assets = set("assets", raw.assets, permit && moves, |t| {
            let found = Name::parse(t).and_then(|n| self.assets.get(&n).copied());
            found.ok_or_else(|| format!("[assets] names no {t:?}"))
        })?;
        if permit && acts.contains(&Act::Call) && !moves {
            assets = Set::Any;
        }
        let (to, to_deny) = match raw.to {
            None if permit && moves => {
                return Err(
                    "a permit must name its destinations: to.allow = [\"@book\", \"0x…\"] or [\"*\"]".into(),
                );
            }
            None => (Set::Any, BTreeSet::new()),
            Some(to) => {
                let allow = match to.allow {
                    None if permit && moves => {
                        return Err("a permit must name its destinations under to.allow".into());
                    }
                    None => Set::Any,
                    Some(list) if list == ["*"] => Set::Any,
                    Some(list) => Set::Only(self.addresses(&list)?),
                };
                (allow, self.addresses(&to.deny)?)
            }
        };
        let per_tx = raw.per_tx.map(|m| amount("per_tx.max", &m.max)).transpose()?;
        let fee = raw.fee.map(|m| amount("fee.max", &m.max)).transpose()?;
        if permit && pays && fee.is_none() {
            return Err("a permit must bound the fee: fee.max = \"…\" in wei".into());
        }
        let windows = raw.window.into_iter().map(window).collect::<Result<Vec<_>, _>>()?;
        let limits_amount = per_tx.is_some() || windows.iter().any(|w| w.max.is_some());
        if limits_amount
            && !matches!(&assets, Set::Only(only) if only.len() == 1)
            && (moves || acts.contains(&Act::Call))
        {
            return Err("amounts are in base units of one asset: name exactly one under assets".into());
        }
        if permit && acts.contains(&Act::Approve) && !limits_amount {
            return Err("a permit of approve must bound it with per_tx.max or a window".into());
        }
        let mut calls = BTreeSet::new();
        for call in raw.calls {
            let mut selector = [0; 4];
            call.selector
                .strip_prefix("0x")
                .and_then(|digits| hex::decode_to_slice(digits, &mut selector).ok())
                .ok_or_else(|| format!("selector {:?} must be 0x and 8 hex digits", call.selector))?;
            if permit && MONEY.contains(&selector) {
                return Err(format!(
                    "selector {:?} moves or grants tokens: amount limits would not see it as a call; use acts transfer, approve or transfer-from",
                    call.selector
                ));
            }
            calls.insert((call.contract, selector));
        }
        if permit && acts.contains(&Act::Call) && calls.is_empty() {
            return Err("a permit of call must name contract and selector under calls".into());
        }
        if !calls.is_empty() && !acts.contains(&Act::Call) {
            return Err("calls are named, but acts does not hold \"call\"".into());
        }
        let approvals = approvals(raw.approve)?;
        if !permit && !approvals.is_empty() {
            return Err("approve belongs to permits".into());
        }
        let by_amount = approvals.iter().any(|t| !t.above.is_zero());
        if by_amount && !matches!(&assets, Set::Only(only) if only.len() == 1) {
            return Err("approve.above is in base units of one asset: name exactly one under assets".into());
        }
        if !approvals.is_empty() && acts.iter().any(|a| !a.pays()) {
            return Err("only payments wait for approvals: name no other acts in this rule".into());
        }
        if !permit && raw.replacement {
            return Err("replacement belongs to permits".into());
        }
        Ok(Rule {
            keys: set("keys", raw.keys, permit, name)?,
            apps: set("apps", raw.apps, permit, name)?,
            hours: raw.time.map(hours).transpose()?,
            id: raw.id,
            kind: raw.effect,
            acts,
            chains,
            assets,
            to,
            to_deny,
            calls,
            per_tx,
            fee,
            windows,
            replacement: raw.replacement,
            approvals,
        })
    }
}

fn approvals(raw: Vec<RawApprove>) -> Result<Vec<Tier>, String> {
    let mut tiers = Vec::new();
    for tier in raw {
        if tier.quorum == 0 || tier.quorum > 100 {
            return Err(format!("approve.quorum = {} must be 1 to 100", tier.quorum));
        }
        let above = tier.above.as_deref().map_or(Ok(U256::ZERO), |a| amount("approve.above", a))?;
        let needs = Needs { quorum: tier.quorum, of: tier.of.to_string() };
        if tiers.iter().any(|t: &Tier| t.above == above) {
            return Err(format!("two tiers of approve begin above {above}"));
        }
        tiers.push(Tier { above, needs });
    }
    tiers.sort();
    // A higher amount never needs fewer people: it would be cheaper to ask for more.
    let falls = tiers.windows(2).any(|w| matches!(w, [a, b] if b.needs.quorum < a.needs.quorum));
    if falls { Err("a higher tier of approve needs fewer people than a lower one".into()) } else { Ok(tiers) }
}

/// `10m`, `24h`, `7d`, as milliseconds.
fn span(what: &str, text: &str) -> Result<i64, String> {
    let bad = || format!("{what} {text:?} must be a number with m, h or d, from 1m to 31d");
    let unit = text.chars().last().ok_or_else(bad)?;
    let factor = match unit {
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return Err(bad()),
    };
    let number: i64 = text.trim_end_matches(unit).parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|ms| (60_000..=LONGEST_MS).contains(ms)).ok_or_else(bad)
}

fn tripwire(raw: RawTripwire) -> Result<Tripwire, String> {
    if raw.refusals < 2 {
        return Err(format!(
            "refusals = {} would stop a key at the first mistake; 2 is the least",
            raw.refusals
        ));
    }
    Ok(Tripwire { refusals: raw.refusals, within_ms: span("within", &raw.within)? })
}

fn window(raw: RawWindow) -> Result<WindowLimit, String> {
    let len_ms = span("window len", &raw.len)?;
    let scope = Scope::parse(&raw.scope)
        .ok_or_else(|| format!("scope {:?} is none of key, app, key+app, all", raw.scope))?;
    let max = raw.max.as_deref().map(|m| amount("window max", m)).transpose()?;
    if max.is_none() && raw.count.is_none() {
        return Err("a window limits max, count or both".into());
    }
    Ok(WindowLimit { len_ms, len_text: raw.len, scope, max, count: raw.count })
}

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn hours(raw: RawTime) -> Result<Hours, String> {
    if raw.tz != "UTC" {
        return Err(format!("tz = {:?}: only UTC is known here; convert the hours", raw.tz));
    }
    let index = |text: &str| {
        NAMES
            .iter()
            .position(|n| *n == text)
            .ok_or_else(|| format!("{text:?} is none of Mon Tue Wed Thu Fri Sat Sun"))
    };
    let mut days = [raw.days.is_none(); 7];
    for part in raw.days.iter().flat_map(|d| d.split(',')).map(str::trim) {
        let (from, until) = part.split_once('-').unwrap_or((part, part));
        let (from, until) = (index(from)?, index(until)?);
        for step in 0..=(until + 7 - from) % 7 {
            if let Some(day) = days.get_mut((from + step) % 7) {
                *day = true;
            }
        }
    }
    let minute = |text: &str| {
        let (h, m) = text.split_once(':')?;
        let (h, m): (u16, u16) = (h.parse().ok()?, m.parse().ok()?);
        (h <= 24 && m < 60 && h * 60 + m <= 1440).then_some(h * 60 + m)
    };
    let bad = || format!("hours = {:?} must be HH:MM-HH:MM", raw.hours);
    let (from, until) = raw.hours.split_once('-').ok_or_else(bad)?;
    let (from, until) = (minute(from).ok_or_else(bad)?, minute(until).ok_or_else(bad)?);
    if from == until {
        return Err("hours begin and end at the same time".into());
    }
    let text = format!("{} {} UTC", raw.days.as_deref().unwrap_or("every day"), raw.hours);
    Ok(Hours { days, from, until, text })
}
