//! Words of the text: lists, names, chains, amounts, and what the reader of TOML says.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Range;

use super::super::payment::Chain;
use super::super::units::{Name, U256, parse_decimal};
use super::finding::{Fault, fault};
use super::raw::Words;
use super::rule::Set;

/// What the reader of TOML says, with advice for the mistakes that people make.
pub(super) fn syntax(at: Range<usize>, message: &str) -> Fault {
    let message = message.trim().replace('\n', " ");
    let advice = if message.contains("expected a string") {
        "write it in quotes: amounts are decimal strings of base units, \"5000000\""
    } else if message.contains("duplicate key") {
        "each name stands once: merge the two, or rename one"
    } else if message.contains("unknown field") || message.contains("unknown variant") {
        "look for a mistyped word; config/policy.toml shows all that there is"
    } else if message.contains("expected u64") || message.contains("expected u32") {
        "write a whole number, not below 0"
    } else if message.contains("missing field") {
        "add it; config/policy.toml shows where"
    } else {
        "mend it as config/policy.toml shows"
    };
    fault(at, message, advice)
}

pub(super) fn chain(text: &str) -> Result<Chain, (String, &'static str)> {
    Chain::parse(text)
        .ok_or_else(|| (format!("chain {text:?} is no chain"), "write eip155:N with N above zero"))
}

/// An amount in base units.
pub(super) fn amount(at: &Range<usize>, what: &str, text: &str) -> Result<U256, Fault> {
    parse_decimal(text).ok_or_else(|| {
        let why = format!("{what} = {text:?} is no amount");
        fault(
            at.clone(),
            why,
            "write a decimal string of base units, from 0 to below 2^256, without sign or point",
        )
    })
}

type Told = (String, &'static str);

/// A list of names: absent, `["*"]`, or all different.
pub(super) fn set<T: Ord>(
    at: &Range<usize>,
    what: &str,
    list: &Words,
    needed: bool,
    read: impl Fn(&str) -> Result<T, Told>,
) -> Result<Set<T>, Fault> {
    let Some(list) = list else {
        let why = format!("a permit must name its {what}");
        let advice = format!("add {what} = [\"…\"], or [\"*\"] for all");
        return if needed { Err(fault(at.clone(), why, advice)) } else { Ok(Set::Any) };
    };
    if list.is_empty() {
        let advice = format!("name {what}, or write [\"*\"] for all");
        return Err(fault(at.clone(), format!("{what} is empty, so the rule would cover nothing"), advice));
    }
    if matches!(list.as_slice(), [one] if one.get_ref() == "*") {
        return Ok(Set::Any);
    }
    let mut only = BTreeSet::new();
    for text in list {
        if text.get_ref() == "*" {
            let why = format!("{what} holds \"*\" beside names");
            return Err(fault(text.span(), why, "\"*\" stands alone, for all"));
        }
        let value = read(text.get_ref()).map_err(|(why, advice)| fault(text.span(), why, advice))?;
        if !only.insert(value) {
            let why = format!("{:?} stands twice in {what}", text.get_ref());
            return Err(fault(text.span(), why, "name it once"));
        }
    }
    Ok(Set::Only(only))
}

pub(super) fn name(text: &str) -> Result<Name, Told> {
    let read = Name::parse(text)
        .ok_or_else(|| (format!("{text:?} is no name"), "use 1 to 64 of A-Z a-z 0-9 . _ -"))?;
    if read.line() == read {
        Ok(read)
    } else {
        Err((format!("{text:?} names one generation of a key"), "name the line, without @ and what follows"))
    }
}
