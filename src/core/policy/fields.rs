//! Single values of a rule: spans of time, windows, hours, calls, lines of approval.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;

use super::super::units::{Address, U256};
use super::finding::{Fault, fault};
use super::raw::{RawApprove, RawCall, RawTime, RawTripwire, RawWindow};
use super::rule::{Hours, Line, Tripwire, WindowLimit};
use super::window::{LONGEST_MS, Scope};
use super::words::amount;
use crate::core::approval::Needs;

/// transfer, approve, transferFrom, increaseAllowance, decreaseAllowance, permit (EIP-2612).
const MONEY: [[u8; 4]; 6] = [
    [0xa9, 0x05, 0x9c, 0xbb],
    [0x09, 0x5e, 0xa7, 0xb3],
    [0x23, 0xb8, 0x72, 0xdd],
    [0x39, 0x50, 0x93, 0x51],
    [0xa4, 0x57, 0xc2, 0xd7],
    [0xd5, 0x05, 0xac, 0xcf],
];

/// `10m`, `24h`, `7d`, as milliseconds.
pub(super) fn span(at: &Range<usize>, what: &str, text: &str) -> Result<i64, Fault> {
    let read = || {
        let unit = text.chars().last()?;
        let factor = match unit {
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        let digits = text.strip_suffix(unit).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        let number: i64 = digits.parse().ok()?;
        number.checked_mul(factor).filter(|ms| (60_000..=LONGEST_MS).contains(ms))
    };
    read().ok_or_else(|| {
        let why = format!("{what} {text:?} is no time that is taken");
        fault(at.clone(), why, "write a number with m, h or d, from \"1m\" to \"31d\"")
    })
}

pub(super) fn tripwire(raw: Spanned<RawTripwire>) -> Result<Tripwire, Fault> {
    let (at, raw) = (raw.span(), raw.into_inner());
    let counts = [(raw.refusals, "refusals"), (raw.new_destinations, "new_destinations")];
    for (count, what) in counts {
        if count.is_some_and(|n| n < 2) {
            let why = format!("{what} = {} would stop a key at the first one", count.unwrap_or_default());
            return Err(fault(at, why, "write 2 or more"));
        }
    }
    if raw.amount_factor.is_some_and(|n| n < 2) {
        let why = "amount_factor below 2 would stop a key at an ordinary payment";
        return Err(fault(at, why, "write 2 or more; 10 is usual"));
    }
    let counted = raw.refusals.is_some() || raw.new_destinations.is_some();
    let within_ms = match &raw.within {
        Some(within) if counted => span(&within.span(), "within", within.get_ref())?,
        Some(within) => {
            let advice = "add refusals or new_destinations, or leave it out";
            return Err(fault(within.span(), "within says nothing here", advice));
        }
        None if counted => {
            let why = "refusals and new_destinations need to know in what time";
            return Err(fault(at, why, "add within = \"10m\""));
        }
        None => 0,
    };
    if !counted && raw.amount_factor.is_none() {
        let advice = "add refusals, new_destinations or amount_factor";
        return Err(fault(at, "nothing trips it", advice));
    }
    Ok(Tripwire {
        refusals: raw.refusals,
        new_destinations: raw.new_destinations,
        within_ms,
        amount_factor: raw.amount_factor,
    })
}

pub(super) fn window(raw: &Spanned<RawWindow>, permit: bool) -> Result<WindowLimit, Fault> {
    let (at, raw) = (raw.span(), raw.get_ref());
    let len_ms = span(&at, "window len", &raw.len)?;
    let scope = Scope::parse(&raw.scope).ok_or_else(|| {
        let advice = "write all, or key, app, asset and destination, with + between several: key+destination";
        fault(at.clone(), format!("scope {:?} is not known", raw.scope), advice)
    })?;
    let max = raw.max.as_deref().map(|m| amount(&at, "window max", m)).transpose()?;
    if max.is_none() && raw.count.is_none() {
        return Err(fault(at, "the window limits nothing", "add max, count or both"));
    }
    if permit && (max.is_some_and(|m| m.is_zero()) || raw.count == Some(0)) {
        let advice = "raise it, or drop the rule: what no rule permits is refused";
        return Err(fault(at, "a window of 0 lets nothing through", advice));
    }
    Ok(WindowLimit { len_ms, len_text: raw.len.clone(), scope, max, count: raw.count })
}

pub(super) fn approvals(raw: &[Spanned<RawApprove>]) -> Result<Vec<Line>, Fault> {
    let mut lines: Vec<Line> = Vec::new();
    let at = raw.first().map_or(0..0, Spanned::span);
    for line in raw {
        let (at, line) = (line.span(), line.get_ref());
        if line.quorum == 0 || line.quorum > 100 {
            let why = format!("approve.quorum = {} asks nobody, or too many", line.quorum);
            return Err(fault(at, why, "write how many people must approve: 1 to 100"));
        }
        let above = line.above.as_deref().map_or(Ok(U256::ZERO), |a| amount(&at, "approve.above", a))?;
        if lines.iter().any(|t| t.above == above) {
            let why = format!("two lines of approve begin above {above}");
            return Err(fault(at, why, "keep one of them"));
        }
        lines.push(Line { above, needs: Needs { quorum: line.quorum, of: line.of.to_string() } });
    }
    lines.sort();
    // A higher amount never needs fewer people: it would be cheaper to ask for more.
    if lines.windows(2).any(|w| matches!(w, [a, b] if b.needs.quorum < a.needs.quorum)) {
        let why = "a higher line of approve needs fewer people than a lower one";
        return Err(fault(at, why, "let the quorum rise with the amount"));
    }
    Ok(lines)
}

pub(super) fn calls(
    at: &Range<usize>,
    raw: Vec<Spanned<RawCall>>,
    permit: bool,
    called: bool,
) -> Result<BTreeSet<(Address, [u8; 4])>, Fault> {
    let mut calls = BTreeSet::new();
    for call in raw {
        let (at, call) = (call.span(), call.into_inner());
        let mut selector = [0; 4];
        call.selector
            .strip_prefix("0x")
            .and_then(|digits| hex::decode_to_slice(digits, &mut selector).ok())
            .ok_or_else(|| {
                fault(
                    at.clone(),
                    format!("selector {:?} is none", call.selector),
                    "write 0x and 8 hex digits",
                )
            })?;
        if permit && MONEY.contains(&selector) {
            let why = format!(
                "selector {:?} moves or grants tokens: amount limits would not see it",
                call.selector
            );
            return Err(fault(at, why, "use acts transfer, approve or transfer-from"));
        }
        if !calls.insert((call.contract, selector)) {
            return Err(fault(at, "the same call stands twice", "name it once"));
        }
    }
    if permit && called && calls.is_empty() {
        let advice = "add calls = [{ contract = \"0x…\", selector = \"0x…\" }]";
        return Err(fault(at.clone(), "a permit of call must name contract and selector", advice));
    }
    if !calls.is_empty() && !called {
        return Err(fault(at.clone(), "calls are named, but no calls are covered", "add \"call\" to acts"));
    }
    Ok(calls)
}

const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

pub(super) fn hours(raw: Spanned<RawTime>) -> Result<Hours, Fault> {
    let (at, raw) = (raw.span(), raw.into_inner());
    if raw.tz != "UTC" {
        let why = format!("tz = {:?} is not known here", raw.tz);
        return Err(fault(at, why, "write tz = \"UTC\", and convert the hours"));
    }
    let index = |text: &str| {
        NAMES.iter().position(|n| *n == text).ok_or_else(|| {
            fault(
                at.clone(),
                format!("{text:?} is no day"),
                "write Mon Tue Wed Thu Fri Sat Sun, as Mon-Fri or Mon,Wed",
            )
        })
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
        let digits = |t: &str| {
            ((1..=2).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit()))
                .then(|| t.parse::<u16>().ok())?
        };
        let (h, m) = (digits(h)?, digits(m)?);
        (h <= 24 && m < 60 && h * 60 + m <= 1440).then_some(h * 60 + m)
    };
    let bad = || {
        fault(
            at.clone(),
            format!("hours = {:?} are none", raw.hours),
            "write HH:MM-HH:MM, from 00:00 to 24:00",
        )
    };
    let (from, until) = raw.hours.split_once('-').ok_or_else(bad)?;
    let (from, until) = (minute(from).ok_or_else(bad)?, minute(until).ok_or_else(bad)?);
    if from == until || from == 1440 {
        return Err(fault(at, "hours begin and end at the same time", "write 00:00-24:00 for a whole day"));
    }
    let text = format!("{} {} UTC", raw.days.as_deref().unwrap_or("every day"), raw.hours);
    Ok(Hours { days, from, until, text })
}
