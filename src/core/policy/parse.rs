//! Raw TOML to typed rules. Unknown keys, wrong values and rules that could not mean what they seem to are refused, each with
//! its line and what to do about it; every rule is looked at before the text is refused.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;

use super::super::payment::{Asset, Chain};
use super::super::units::{Address, Name, U256};
use super::books::{self, Sources};
use super::fields::{approvals, calls, hours, span, tripwire, window};
use super::finding::{Fault, Finding, Lines, PolicyError, Weight, fault};
use super::index::Index;
use super::raw::{RawAsset, RawNew, RawPolicy, RawRule};
use super::rule::{Act, AssetInfo, Kind, NewDestination, Policy, Rule, Set, WindowLimit};
use super::words::{amount, chain, name, set, syntax};
use crate::core::proof::Tier;

/// Longest policy text, bytes.
const MAX_TEXT: usize = 1024 * 1024;
/// Most destinations that all rules name together, books included.
const MOST_DESTINATIONS: usize = 1_000_000;

impl Policy {
    /// Reads a policy text that needs nothing beside itself.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        Self::read(text, &Sources::default())
    }

    /// Reads a policy text with its signed books, held against the people who are to approve.
    pub fn read(text: &str, sources: &Sources<'_>) -> Result<Self, PolicyError> {
        let lines = Lines::of(text);
        let whole = |why: String, advice: &str| {
            PolicyError(vec![lines.finding(Weight::Error, "", fault(0..0, why, advice))])
        };
        if text.len() > MAX_TEXT {
            return Err(whole(
                format!("the policy is longer than {MAX_TEXT} bytes"),
                "move addresses into books",
            ));
        }
        let raw: RawPolicy = toml::from_str(text).map_err(|e| {
            let place = e.span().unwrap_or(0..0);
            PolicyError(vec![lines.finding(Weight::Error, "", syntax(place, e.message()))])
        })?;
        if *raw.schema.get_ref() != 1 {
            let why = format!("schema {} is not known here", raw.schema.get_ref());
            let fault = fault(raw.schema.span(), why, "this program reads schema = 1");
            return Err(PolicyError(vec![lines.finding(Weight::Error, "schema", fault)]));
        }
        let mut context = Context::new(&lines);
        for (name, asset) in raw.assets {
            let read = context.asset(&name, &asset);
            context.note(&format!("asset {name}"), read);
        }
        let mut signed = Vec::new();
        for (book, raw) in raw.books {
            let read = books::read(&book, raw, sources);
            if let Some((entries, by)) = context.note(&format!("book {book}"), read) {
                for (name, address) in &entries {
                    context.names.entry(*address).or_insert_with(|| format!("{book}/{name}"));
                }
                signed.extend(by);
                context.books.insert(book, Some(entries.into_values().collect()));
            } else {
                // Its rules are not reproached with a book that is there.
                context.books.insert(book, None);
            }
        }
        let sweep = raw.sweep.and_then(|sweep| {
            let at = sweep.span();
            let read = context.addresses(&at, "sweep.to", &sweep.into_inner().to);
            context.note("sweep", read)
        });
        let tripwire = raw.tripwire.and_then(|raw| context.note("tripwire", tripwire(raw)));
        let (mut rules, mut starts) = (BTreeMap::new(), BTreeMap::new());
        let mut destinations = 0usize;
        for raw in raw.rule {
            let (at, raw) = (raw.span(), raw.into_inner());
            let (id, id_at) = (raw.id.get_ref().clone(), raw.id.span());
            let place = format!("rule {id}");
            if let Some(first) = starts.insert(id.clone(), lines.line(id_at.start)) {
                let why = format!("the id stands in line {first} already");
                context.note::<()>(&place, Err(fault(id_at, why, "give each rule an id of its own")));
                continue;
            }
            let read = context.rule(at, raw, &place);
            if let Some(rule) = context.note(&place, read) {
                let listed = if let Set::Only(to) = &rule.to { to.len() } else { 0 };
                destinations = destinations.saturating_add(listed).saturating_add(rule.to_deny.len());
                context.reachable(&rule, sources, id_at);
                rules.insert(id, rule);
            }
        }
        if destinations > MOST_DESTINATIONS {
            let why =
                format!("its rules name {destinations} destinations, and {MOST_DESTINATIONS} are the most");
            context.note::<()>("", Err(fault(0..0, why, "let fewer rules share a large book")));
        }
        let mut errors: Vec<Finding> =
            context.found.iter().filter(|f| f.weight == Weight::Error).cloned().collect();
        if !errors.is_empty() {
            errors.sort();
            return Err(PolicyError(errors));
        }
        let rules: Vec<Rule> = rules.into_values().collect();
        Ok(Self {
            hash: books::digest(text, &signed),
            index: Index::new(&rules),
            rules,
            sweep: sweep.unwrap_or_default(),
            tripwire,
            assets: context.infos,
            names: context.names,
            signed,
            lines: starts,
            doubts: context.found,
        })
    }
}

struct Context<'a> {
    lines: &'a Lines,
    assets: BTreeMap<Name, (Chain, Asset)>,
    infos: BTreeMap<(Chain, Asset), AssetInfo>,
    /// `None` for a book that could not be read.
    books: BTreeMap<Name, Option<BTreeSet<Address>>>,
    names: BTreeMap<Address, String>,
    found: Vec<Finding>,
}

impl<'a> Context<'a> {
    fn new(lines: &'a Lines) -> Self {
        Self {
            lines,
            assets: BTreeMap::new(),
            infos: BTreeMap::new(),
            books: BTreeMap::new(),
            names: BTreeMap::new(),
            found: Vec::new(),
        }
    }

    /// Keeps an error, or gives the value.
    fn note<T>(&mut self, place: &str, read: Result<T, Fault>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(fault) => {
                self.found.push(self.lines.finding(Weight::Error, place, fault));
                None
            }
        }
    }

    fn doubt(&mut self, place: &str, fault: Fault) {
        self.found.push(self.lines.finding(Weight::Doubt, place, fault));
    }

    fn remark(&mut self, place: &str, fault: Fault) {
        self.found.push(self.lines.finding(Weight::Note, place, fault));
    }

    fn asset(&mut self, name: &Name, raw: &Spanned<RawAsset>) -> Result<(), Fault> {
        let (at, raw) = (raw.span(), raw.get_ref());
        let chain =
            chain(raw.chain.get_ref()).map_err(|(why, advice)| fault(raw.chain.span(), why, advice))?;
        let asset = match (raw.native, &raw.erc20) {
            (true, None) => Asset::Native,
            (false, Some(contract)) => Asset::Erc20(*contract.get_ref()),
            (both, _) => {
                let why = if both {
                    "it is native and a token at once"
                } else {
                    "it is neither native nor a token"
                };
                return Err(fault(at, why, "set native = true or erc20 = \"0x…\", one of them"));
            }
        };
        let decimals = *raw.decimals.get_ref();
        if decimals > 36 {
            let why = format!("decimals = {decimals} is above 36");
            return Err(fault(raw.decimals.span(), why, "write as many as the token has, mostly 6 or 18"));
        }
        if let Some(other) = self.infos.get(&(chain, asset)) {
            let why = format!("the asset {} is the same", other.name);
            return Err(fault(at, why, "keep one of the two names"));
        }
        self.infos.insert((chain, asset), AssetInfo { name: name.clone(), decimals });
        self.assets.insert(name.clone(), (chain, asset));
        Ok(())
    }

    fn addresses(
        &self,
        at: &Range<usize>,
        what: &str,
        list: &[Spanned<String>],
    ) -> Result<BTreeSet<Address>, Fault> {
        if list.is_empty() {
            return Err(fault(
                at.clone(),
                format!("{what} is empty"),
                "name a @book or an address, or leave it out",
            ));
        }
        let mut all = BTreeSet::new();
        for text in list {
            let (at, text) = (text.span(), text.get_ref());
            if let Some(book) = text.strip_prefix('@') {
                let entries = Name::parse(book).and_then(|b| self.books.get(&b)).ok_or_else(|| {
                    let known: Vec<&str> = self.books.keys().map(Name::as_str).collect();
                    let advice =
                        format!("write [books.{book}], or one of those that are there: {}", known.join(", "));
                    fault(at.clone(), format!("there is no address book {text:?}"), advice)
                })?;
                if entries.as_ref().is_some_and(BTreeSet::is_empty) {
                    return Err(fault(
                        at,
                        format!("the book {text:?} is empty"),
                        "put addresses in, or leave it out",
                    ));
                }
                all.extend(entries.iter().flatten());
            } else {
                let address = Address::parse(text).ok_or_else(|| {
                    let advice = "write \"@BOOK\", or \"0x\" and 40 hex digits with a right EIP-55 checksum or in one case";
                    fault(at, format!("{text:?} is no @book and no address"), advice)
                })?;
                all.insert(address);
            }
        }
        Ok(all)
    }

    /// Every quorum must be one that people can make; where no document is at hand, that is not known.
    fn reachable(&mut self, rule: &Rule, sources: &Sources<'_>, at: Range<usize>) {
        let Some(authority) = sources.authority else { return };
        for line in &rule.approvals {
            let there = authority.strength(&line.needs.of);
            if usize::try_from(line.needs.quorum).map_or(true, |quorum| there < quorum) {
                let why = format!(
                    "it asks for {} of {}, and the authority document names {there} with a key that counts",
                    line.needs.quorum, line.needs.of
                );
                let advice = "lower the quorum, name another group, or enrol people";
                let place = format!("rule {}", rule.id);
                self.found.push(self.lines.finding(Weight::Error, &place, fault(at.clone(), why, advice)));
            }
        }
    }

    fn rule(&mut self, at: Range<usize>, raw: RawRule, place: &str) -> Result<Rule, Fault> {
        let err = |why: &str, advice: &str| Err(fault(at.clone(), why, advice));
        let permit = raw.effect == Kind::Permit;
        let acts: BTreeSet<Act> = match &raw.acts {
            None if permit => [Act::Transfer].into(),
            None => Act::NAMED.into(),
            Some(acts) => {
                let unique: BTreeSet<Act> = acts.get_ref().iter().copied().collect();
                if unique.is_empty() || unique.len() != acts.get_ref().len() {
                    return Err(fault(
                        acts.span(),
                        "acts is empty, or names one twice",
                        "name each act once",
                    ));
                }
                unique
            }
        };
        let pays = acts.iter().any(|a| a.pays());
        let moves = acts.iter().any(|a| matches!(a, Act::Transfer | Act::Approve | Act::TransferFrom));
        let called = acts.contains(&Act::Call);
        if permit && !pays {
            let unheard = [
                (raw.chains.is_some(), "chains"),
                (raw.assets.is_some(), "assets"),
                (raw.to.is_some(), "to"),
                (raw.per_tx.is_some(), "per_tx"),
                (raw.fee.is_some(), "fee"),
                (raw.window.iter().any(|w| w.get_ref().max.is_some()), "window max"),
            ];
            for (_, what) in unheard.iter().filter(|(said, _)| *said) {
                let why = format!("{what} is never looked at: the rule names no act that pays");
                self.doubt(place, fault(at.clone(), why, "leave it out"));
            }
        }
        let chains = set(&at, "chains", &raw.chains, permit && pays, chain)?;
        let assets = set(&at, "assets", &raw.assets, permit && moves, |t| {
            let found = Name::parse(t).and_then(|n| self.assets.get(&n).copied());
            found.ok_or_else(|| (format!("there is no asset {t:?}"), "write it under [assets.…] first"))
        })?;
        self.assets_on_chains(&at, place, &assets, &chains)?;
        let (to, to_deny) = self.destinations(&at, place, &raw, permit && moves)?;
        let max = |raw: &Option<Spanned<super::raw::RawMax>>, what: &str| {
            raw.as_ref().map(|m| amount(&m.span(), what, &m.get_ref().max)).transpose()
        };
        let (per_tx, fee) = (max(&raw.per_tx, "per_tx.max")?, max(&raw.fee, "fee.max")?);
        if permit && pays && fee.is_none() {
            return err("a permit must bound the fee", "add fee.max = \"…\" in wei");
        }
        let windows = raw.window.iter().map(|w| window(w, permit)).collect::<Result<Vec<_>, _>>()?;
        self.bounds(&at, place, &raw, per_tx, &windows)?;
        let bounds_amounts = per_tx.is_some() || windows.iter().any(|w| w.max.is_some());
        let one_asset = matches!(&assets, Set::Only(only) if only.len() == 1);
        if bounds_amounts && !one_asset && (moves || called) {
            return err("amounts are in base units of one asset", "name exactly one under assets");
        }
        if permit && acts.contains(&Act::Approve) && !bounds_amounts {
            return err("a permit of approve must bound it", "add per_tx.max, or a window with max");
        }
        let calls = calls(&at, raw.calls, permit, called)?;
        let approvals = approvals(&raw.approve)?;
        if !permit && !approvals.is_empty() {
            return err("approve belongs to permits", "put it into the permit that covers the payment");
        }
        if approvals.iter().any(|t| !t.above.is_zero()) && !one_asset {
            return err("approve.above is in base units of one asset", "name exactly one under assets");
        }
        if !approvals.is_empty() && acts.iter().any(|a| !a.pays()) {
            return err("only payments wait for approvals", "name no other acts in this rule");
        }
        if let Some(line) = approvals.iter().find(|l| per_tx.is_some_and(|max| l.above >= max)) {
            let why = format!("nobody is ever asked above {}: per_tx.max is not higher", line.above);
            self.doubt(place, fault(at.clone(), why, "lower approve.above, or raise per_tx.max"));
        }
        if let Some(replacement) = raw.replacement.as_ref().filter(|_| !permit) {
            return Err(fault(replacement.span(), "replacement belongs to permits", "leave it out"));
        }
        if let Some(tier) = raw.tier.as_ref().filter(|_| !permit) {
            return Err(fault(
                tier.span(),
                "tier belongs to permits",
                "put it into the permits that apps need",
            ));
        }
        let new_destination = match &raw.new_destination {
            None => None,
            Some(new) if !permit || !pays => {
                return Err(fault(
                    new.span(),
                    "new_destination belongs to permits of payments",
                    "leave it out",
                ));
            }
            Some(new) => Some(self.new_destination(place, new, per_tx, one_asset)?),
        };
        Ok(Rule {
            keys: set(&at, "keys", &raw.keys, permit, name)?,
            apps: set(&at, "apps", &raw.apps, permit, name)?,
            hours: raw.time.map(hours).transpose()?,
            id: raw.id.into_inner(),
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
            replacement: raw.replacement.is_some_and(Spanned::into_inner),
            approvals,
            tier: raw.tier.map_or(Tier::T0, Spanned::into_inner),
            new_destination,
        })
    }

    fn assets_on_chains(
        &mut self,
        at: &Range<usize>,
        place: &str,
        assets: &Set<(Chain, Asset)>,
        chains: &Set<Chain>,
    ) -> Result<(), Fault> {
        let (Set::Only(assets), Set::Only(chains)) = (assets, chains) else { return Ok(()) };
        let outside: Vec<_> = assets.iter().filter(|(chain, _)| !chains.contains(chain)).collect();
        if let Some(asset) = outside.first() {
            let named = self.infos.get(*asset).map_or_else(String::new, |i| i.name.to_string());
            let why = format!("the asset {named} lives on {}, which chains does not name", asset.0);
            let told = fault(at.clone(), why, "name its chain, or an asset of the chains that are named");
            if outside.len() == assets.len() {
                return Err(told);
            }
            self.doubt(place, told);
        }
        Ok(())
    }

    fn destinations(
        &mut self,
        at: &Range<usize>,
        place: &str,
        raw: &RawRule,
        needed: bool,
    ) -> Result<(Set<Address>, BTreeSet<Address>), Fault> {
        let missing = || {
            let advice = "add to.allow = [\"@BOOK\", \"0x…\"], or [\"*\"] for all";
            fault(at.clone(), "a permit must name its destinations", advice)
        };
        let Some(to) = &raw.to else {
            return if needed { Err(missing()) } else { Ok((Set::Any, BTreeSet::new())) };
        };
        let (at, to) = (to.span(), to.get_ref());
        let allow = match &to.allow {
            None if needed => return Err(missing()),
            None => Set::Any,
            Some(list) if matches!(list.as_slice(), [one] if one.get_ref() == "*") => Set::Any,
            Some(list) => Set::Only(self.addresses(&at, "to.allow", list)?),
        };
        let deny =
            if to.deny.is_empty() { BTreeSet::new() } else { self.addresses(&at, "to.deny", &to.deny)? };
        if let Set::Only(allow) = &allow {
            let both = allow.intersection(&deny).count();
            if both > 0 && both == allow.len() {
                let advice = "take them out of to.deny, or drop the rule";
                return Err(fault(at, "to.deny takes back all of to.allow: the rule covers nothing", advice));
            }
            if both > 0 {
                let why = format!("{both} destinations are in to.allow and in to.deny; to.deny wins");
                self.doubt(place, fault(at.clone(), why, "name each of them once"));
            }
            if raw.effect == Kind::Permit && allow.contains(&Address([0; 20])) {
                let advice = "take 0x000…000 out: what is sent there is gone";
                self.doubt(place, fault(at, "it lets money be paid to the zero address", advice));
            }
        }
        Ok((allow, deny))
    }

    /// Limits that permit nothing, or that never count.
    fn bounds(
        &mut self,
        at: &Range<usize>,
        place: &str,
        raw: &RawRule,
        per_tx: Option<U256>,
        windows: &[WindowLimit],
    ) -> Result<(), Fault> {
        let permit = raw.effect == Kind::Permit;
        if permit && per_tx.is_some_and(|max| max.is_zero()) {
            let why = "per_tx.max = \"0\" lets no money through";
            return Err(fault(
                at.clone(),
                why,
                "raise it, or drop the rule: what no rule permits is refused",
            ));
        }
        let mut seen = BTreeSet::new();
        for (limit, raw) in windows.iter().zip(&raw.window) {
            if !seen.insert((limit.scope, limit.len_ms)) {
                let why = format!("two windows of {} have the scope {}", limit.len_text, limit.scope);
                return Err(fault(raw.span(), why, "merge them into one: { len, max, count, scope }"));
            }
            if let (Some(max), Some(each)) = (limit.max, per_tx)
                && max < each
            {
                let why =
                    format!("per_tx.max {each} is never reached: {} lets {max} through", limit.len_text);
                self.remark(place, fault(raw.span(), why, "lower per_tx.max, or raise the window"));
            }
        }
        Ok(())
    }

    fn new_destination(
        &mut self,
        place: &str,
        raw: &Spanned<RawNew>,
        per_tx: Option<U256>,
        one_asset: bool,
    ) -> Result<NewDestination, Fault> {
        let (at, raw) = (raw.span(), raw.get_ref());
        let delay_ms = span(&at, "new_destination.delay", &raw.delay)?;
        let max = raw.max.as_deref().map(|m| amount(&at, "new_destination.max", m)).transpose()?;
        if max.is_some() && !one_asset {
            let why = "new_destination.max is in base units of one asset";
            return Err(fault(at, why, "name exactly one under assets"));
        }
        if max.is_some_and(|max| max.is_zero()) {
            let why = "new_destination.max = \"0\" lets no money through";
            return Err(fault(at, why, "leave it out: without max a new destination gets nothing"));
        }
        if max.zip(per_tx).is_some_and(|(max, each)| max >= each) {
            let why = "new_destination limits nothing: its max is not below per_tx.max";
            self.doubt(place, fault(at, why, "lower its max, or leave it out"));
        }
        Ok(NewDestination { delay_ms, delay_text: raw.delay.clone(), max })
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
