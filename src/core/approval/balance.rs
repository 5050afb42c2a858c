//! What is left in an account before its key is destroyed: a statement that somebody signs who looked at the chains. [clause
//! 8.7.1]
//!
//! The text is lines of ASCII, each ended by one line feed:
//!
//! ```text
//! clavigerd balance v1
//! deployment: prod-1
//! key: hot-1
//! account: 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed
//! observed: 2026-11-21T12:00:00Z
//! block: eip155:1 21234567 0x…
//! balance: eip155:1 native 0
//! ```
//!
//! One `block` for each chain, with its number and hash, and one `balance` for each asset, in base units.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::sshsig::{SshSigError, verify};
use super::{Authority, Role};
use crate::core::payment::{Asset, Chain};
use crate::core::units::{Name, Timestamp, U256, parse_decimal};
use crate::refusal::{Code, Refusal};

/// SSHSIG namespace of a statement.
pub const BALANCE: &str = "clavigerd-balance@v1";
/// How old a statement may be when it is handed in, milliseconds.
const FRESH_MS: i64 = 3_600_000;
/// How far a clock elsewhere may be ahead of ours, milliseconds.
const AHEAD_MS: i64 = 300_000;
/// Longest statement, bytes.
const LONGEST: usize = 16 * 1024;

/// What a statement must be about.
pub struct About<'a> {
    /// The key.
    pub key: &'a Name,
    /// Its account.
    pub account: &'a str,
    /// Every asset that the policy in force names.
    pub assets: BTreeSet<(Chain, Asset)>,
    /// When it is handed in.
    pub now: Timestamp,
}

/// What somebody stated, one fact a line, for those who decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stated {
    /// Who.
    pub by: String,
    /// What.
    pub lines: Vec<String>,
}

/// A statement as it was read.
struct Statement {
    deployment: String,
    key: String,
    account: String,
    observed: Timestamp,
    blocks: BTreeMap<Chain, (u64, String)>,
    balances: BTreeMap<(Chain, Asset), U256>,
}

fn asset(text: &str) -> Option<Asset> {
    serde_json::from_value(json!(text)).ok()
}

fn block(text: &str) -> Option<(Chain, (u64, String))> {
    let mut words = text.split(' ');
    let (chain, number, hash) = (Chain::parse(words.next()?)?, words.next()?, words.next()?);
    let plain = !number.starts_with('0') || number == "0";
    let digits = number.bytes().all(|b| b.is_ascii_digit()) && plain;
    let hex =
        hash.strip_prefix("0x").filter(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let number = digits.then(|| number.parse().ok())??;
    words.next().is_none().then(|| (chain, (number, hex.to_ascii_lowercase())))
}

fn balance(text: &str) -> Option<((Chain, Asset), U256)> {
    let mut words = text.split(' ');
    let (chain, of, amount) = (Chain::parse(words.next()?)?, asset(words.next()?)?, words.next()?);
    words.next().is_none().then_some(((chain, of), parse_decimal(amount)?))
}

fn read(text: &str) -> Result<Statement, String> {
    if text.len() > LONGEST || !text.is_ascii() || !text.ends_with('\n') || text.contains('\r') {
        return Err(format!("it is lines of ASCII, each ended by one line feed, {LONGEST} bytes at most"));
    }
    if text.lines().next() != Some("clavigerd balance v1") {
        return Err("its first line is not clavigerd balance v1".into());
    }
    let mut rest = text.lines().skip(1);
    let mut next = |name: &str| -> Result<String, String> {
        let line = rest.next().and_then(|l| l.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned).ok_or_else(|| format!("the line {name:?} is missing, or stands elsewhere"))
    };
    let (deployment, key, account) = (next("deployment")?, next("key")?, next("account")?);
    let observed = next("observed")?;
    let observed = Timestamp::parse(&observed)
        .ok_or_else(|| format!("observed: {observed:?} is no time like 2026-11-21T12:00:00Z"))?;
    let (mut blocks, mut balances) = (BTreeMap::new(), BTreeMap::new());
    for line in rest {
        let wrong = || format!("{line:?} is neither a block nor a balance");
        if let Some((chain, at)) = line.strip_prefix("block: ").and_then(block) {
            if blocks.insert(chain, at).is_some() {
                return Err(format!("{chain} has two blocks"));
            }
        } else {
            let (of, amount) = line.strip_prefix("balance: ").and_then(balance).ok_or_else(wrong)?;
            if balances.insert(of, amount).is_some() {
                return Err(format!("{line:?} stands twice"));
            }
        }
    }
    Ok(Statement { deployment, key, account, observed, blocks, balances })
}

impl Statement {
    /// Whether it says of the right account, in time, of every asset, that nothing is there.
    fn holds(&self, deployment: &str, about: &About<'_>) -> Result<(), String> {
        let is = |what: &str, told: &str, wanted: &str| {
            if told == wanted { Ok(()) } else { Err(format!("its {what} is {told:?}, and not {wanted:?}")) }
        };
        is("deployment", &self.deployment, deployment)?;
        is("key", &self.key, about.key.as_str())?;
        is("account", &self.account, about.account)?;
        if self.observed < about.now.minus(FRESH_MS) || self.observed > about.now.plus(AHEAD_MS) {
            return Err(format!(
                "it was observed at {}, and counts for {} minutes",
                self.observed,
                FRESH_MS / 60_000
            ));
        }
        if self.balances.is_empty() {
            return Err("it states no balance".into());
        }
        for (chain, of) in self.balances.keys() {
            if !self.blocks.contains_key(chain) {
                return Err(format!("it names no block of {chain}, where it states {of}"));
            }
        }
        if let Some((chain, of)) = about.assets.iter().find(|a| !self.balances.contains_key(a)) {
            return Err(format!("it says nothing of {of} on {chain}, which the policy in force names"));
        }
        match self.balances.iter().find(|(_, amount)| !amount.is_zero()) {
            Some(((chain, of), amount)) => Err(format!("{amount} base units of {of} on {chain} are there")),
            None => Ok(()),
        }
    }
}

/// Who signed a statement, where the document lets them: an observer, or an operator.
fn signer(authority: &Authority, armoured: &str, text: &str) -> Result<String, String> {
    if armoured.len() > LONGEST {
        return Err("its signature is too long".into());
    }
    let signature = verify(armoured, BALANCE, text.as_bytes()).map_err(|e| match e {
        SshSigError::Namespace(_) => format!("{e}; sign it with -n {BALANCE}"),
        other => other.to_string(),
    })?;
    let fingerprint = signature.key.fingerprint();
    if authority.is_revoked(&fingerprint) {
        return Err(format!("the key {fingerprint} is revoked"));
    }
    if let Some(observer) = authority.observer_of(&signature.key) {
        return Ok(format!("observer {observer}"));
    }
    let operator = authority.person_of(&signature.key).filter(|p| p.roles.contains(&Role::Operator));
    let Some(person) = operator else {
        return Err(format!("{fingerprint} is the key of no observer, and of no operator"));
    };
    match signature.presence {
        Some(presence) if !presence.touched => Err("the authenticator was not touched".into()),
        None if !authority.files_allowed => Err(format!(
            "{fingerprint} is a key in a file, and the authority takes authenticators only of people"
        )),
        _ => Ok(format!("operator {}", person.id)),
    }
}

/// Judges a statement.
// [clause 8.7.1-t] somebody who is named looked at this very account, just now, and found nothing in it
pub fn judge(
    authority: &Authority,
    text: &str,
    armoured: &str,
    about: &About<'_>,
) -> Result<Stated, Refusal> {
    let wrong = |why: String| Refusal::new(Code::BalanceEvidence, why);
    let statement = read(text).map_err(wrong)?;
    statement.holds(&authority.deployment, about).map_err(wrong)?;
    let by = signer(authority, armoured, text).map_err(wrong)?;
    let mut lines =
        vec![format!("balance: nothing is left, says {by}, who looked at {}", statement.observed)];
    for (chain, (number, hash)) in &statement.blocks {
        let on = statement.balances.keys().filter(|(c, _)| c == chain);
        let on: Vec<String> = on.map(|(_, of)| of.to_string()).collect();
        lines.push(format!("balance: block {number} of {chain}, 0x{hash}: no {}", on.join(", ")));
    }
    Ok(Stated { by, lines })
}

#[cfg(test)]
#[path = "balance_tests.rs"]
mod tests;
