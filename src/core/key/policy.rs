//! The pre-defined security policy of keys: what may be made, how long it lives, and what is due when. [clause 8.7.1]
//!
//! Pure: the time is an argument. `config/keys.toml` is the built-in text, and explains every word of it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::copies::CopyKind;
use super::{Algorithm, KeyRecord, Origin, Purpose, State};
use crate::core::units::{Timestamp, sha256};

const DAY: i64 = 86_400_000;
/// The text that is in force where no file is named.
pub const BUILT_IN: &str = include_str!("../../../config/keys.toml");

/// Why a text was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyPolicyError(String);

/// Who destroys a key at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtEnd {
    /// An operator; the daemon raises an alarm when it is overdue.
    Alarm,
    /// The daemon.
    ByItself,
}

/// Who makes a new key active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// The daemon, as soon as the key has proved that it is there and the token was tried.
    AtOnce,
    /// An operator.
    ByHand,
}

/// Whether keys that were outside of a token may be put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Import {
    /// They may.
    Allow,
    /// They may not; what a text does not name is refused.
    #[default]
    Refuse,
}

/// Whether keys are backed up, where backups are made at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backup {
    /// A bundle is made and verified before the key is active.
    BeforeUse,
    /// None is made, and the key never leaves its token.
    Never,
}

/// By when each copy of a key that is being destroyed has to be gone. Lengths are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    token: i64,
    vault: i64,
    bundle: i64,
    medium: i64,
}

impl Deadlines {
    /// For copies of this kind.
    #[must_use]
    pub fn of(&self, what: CopyKind) -> i64 {
        match what {
            CopyKind::Token => self.token,
            CopyKind::Vault => self.vault,
            CopyKind::Bundle => self.bundle,
            CopyKind::Medium => self.medium,
        }
    }
}

/// What holds for keys of one purpose. Lengths are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurposeRule {
    /// What they may be, and until when (never, when there is no day).
    pub algorithms: BTreeMap<Algorithm, Option<Timestamp>>,
    /// SP 800-57 originator-usage period: how long a key protects, from its activation.
    pub protect: i64,
    /// Whether keys from outside are taken in.
    pub import: Import,
    /// How long those protect, where that is shorter.
    pub imported: Option<i64>,
    /// How long a payment key sweeps after that.
    pub sweep: i64,
    /// SP 800-57 recipient-usage period beyond the originator's: how long what was protected is processed.
    pub process: i64,
    /// How soon after that it is destroyed.
    pub destroy_within: i64,
    /// By whom.
    pub at_end: AtEnd,
    /// Who makes it active.
    pub activation: Activation,
    /// Whether it is backed up.
    pub backup: Backup,
}

/// The whole policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPolicy {
    hash: [u8; 32],
    text: String,
    /// Days before an end on which somebody is told, falling.
    pub warn_days: Vec<u32>,
    /// By when copies are gone.
    pub deadlines: Deadlines,
    rules: BTreeMap<Purpose, PurposeRule>,
}

/// What the policy wants done with a key now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Tell people: so many days are left until it goes to this state.
    Warn {
        /// Days of `warn_days`.
        days: u32,
        /// Where it goes.
        to: State,
        /// When.
        at: Timestamp,
    },
    /// Move it there.
    Move(State),
    /// It should have been destroyed by then.
    Overdue(Timestamp),
    /// Destroy it.
    Destroy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    schema: u32,
    warn_days: Vec<u32>,
    destruction: Option<RawDeadlines>,
    purpose: Vec<RawRule>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeadlines {
    token: Option<String>,
    vault: Option<String>,
    bundle: Option<String>,
    medium: Option<String>,
}

impl RawDeadlines {
    fn resolve(self) -> Result<Deadlines, String> {
        let one = |what, text: Option<String>, usual| length(what, text.as_deref().unwrap_or(usual));
        Ok(Deadlines {
            token: one("destruction.token", self.token, "24h")?,
            vault: one("destruction.vault", self.vault, "72h")?,
            bundle: one("destruction.bundle", self.bundle, "72h")?,
            medium: one("destruction.medium", self.medium, "30d")?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    purpose: Purpose,
    algorithms: Vec<Algorithm>,
    #[serde(default)]
    until: BTreeMap<Algorithm, String>,
    protect: String,
    #[serde(default)]
    import: Import,
    imported: Option<String>,
    sweep: Option<String>,
    process: Option<String>,
    destroy_within: String,
    destroy: AtEnd,
    activation: Activation,
    backup: Option<Backup>,
}

/// `90d`, `2y` (of 365 days), `12h`, `30s` (drills) or `0d`, as milliseconds.
pub(crate) fn length(what: &str, text: &str) -> Result<i64, String> {
    let bad = || format!("{what} = {text:?} must be a number with s, h, d or y, at most 100y");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let factor = match unit {
        "s" => 1000,
        "h" => 3_600_000,
        "d" => DAY,
        "y" => 365 * DAY,
        _ => return Err(bad()),
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: i64 = number.parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|ms| *ms <= 100 * 365 * DAY).ok_or_else(bad)
}

fn rule(raw: RawRule) -> Result<PurposeRule, String> {
    if raw.algorithms.is_empty() {
        return Err("it names no algorithms".into());
    }
    let mut algorithms: BTreeMap<Algorithm, Option<Timestamp>> = BTreeMap::new();
    for algorithm in raw.algorithms {
        if !raw.purpose.takes(algorithm) {
            return Err(format!("{algorithm} cannot serve it"));
        }
        if algorithms.insert(algorithm, None).is_some() {
            return Err(format!("{algorithm} stands twice"));
        }
    }
    for (algorithm, day) in raw.until {
        let slot = algorithms
            .get_mut(&algorithm)
            .ok_or_else(|| format!("until names {algorithm}, which is not allowed anyway"))?;
        *slot = Some(
            Timestamp::parse_day(&day).ok_or_else(|| format!("until {day:?} is no day like 2035-12-31"))?,
        );
    }
    let protect = length("protect", &raw.protect)?;
    if protect == 0 {
        return Err("protect = 0 would end every key at once".into());
    }
    let imported = raw.imported.map(|text| length("imported", &text)).transpose()?;
    if imported == Some(0) {
        return Err(
            "imported = 0 would end every imported key at once; import = \"refuse\" takes none".into()
        );
    }
    let pairs = raw.purpose == Purpose::Payment || raw.purpose == Purpose::Authentication;
    if raw.import == Import::Allow && !pairs {
        return Err("only payment and authentication keys are imported".into());
    }
    let optional = |what, text: Option<String>| text.map_or(Ok(0), |t| length(what, &t));
    let sweep = optional("sweep", raw.sweep)?;
    if sweep > 0 && raw.purpose != Purpose::Payment {
        return Err("only payment keys sweep".into());
    }
    Ok(PurposeRule {
        algorithms,
        protect,
        import: raw.import,
        imported,
        sweep,
        process: optional("process", raw.process)?,
        destroy_within: length("destroy_within", &raw.destroy_within)?,
        at_end: raw.destroy,
        activation: raw.activation,
        // Random bits are no loss: the next key makes others.
        backup: raw.backup.unwrap_or(if raw.purpose == Purpose::Random {
            Backup::Never
        } else {
            Backup::BeforeUse
        }),
    })
}

impl KeyPolicy {
    /// Reads a text. Every purpose must have exactly one part.
    pub fn parse(text: &str) -> Result<Self, KeyPolicyError> {
        let raw: Raw = toml::from_str(text).map_err(|e| KeyPolicyError(e.to_string()))?;
        let error = |why: String| Err(KeyPolicyError(why));
        if raw.schema != 1 {
            return error(format!("schema {} is not known here; this program reads schema 1", raw.schema));
        }
        if !raw.warn_days.windows(2).all(|w| matches!(w, [a, b] if a > b)) || raw.warn_days.contains(&0) {
            return error("warn_days must fall, from the earliest warning to the last, above 0".into());
        }
        let mut rules = BTreeMap::new();
        for part in raw.purpose {
            let purpose = part.purpose;
            let rule = rule(part).map_err(|why| KeyPolicyError(format!("purpose {purpose}: {why}")))?;
            if rules.insert(purpose, rule).is_some() {
                return error(format!("purpose {purpose} stands twice"));
            }
        }
        if let Some(missing) = Purpose::ALL.into_iter().find(|p| !rules.contains_key(p)) {
            return error(format!("there is no part for purpose {missing}"));
        }
        let deadlines = raw.destruction.unwrap_or_default().resolve().map_err(KeyPolicyError)?;
        let (hash, text) = (sha256(text.as_bytes()), text.to_owned());
        Ok(Self { hash, text, warn_days: raw.warn_days, deadlines, rules })
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What holds for a purpose.
    #[must_use]
    pub fn rule(&self, purpose: Purpose) -> Option<&PurposeRule> {
        self.rules.get(&purpose)
    }

    /// Whether a key of this algorithm may be made now.
    // [clause 8.7.1-f] nothing is made that the policy does not name, or whose day is past
    pub fn may_make(&self, purpose: Purpose, algorithm: Algorithm, now: Timestamp) -> Result<(), String> {
        match self.rule(purpose).and_then(|r| r.algorithms.get(&algorithm)) {
            None => Err(format!("the key policy allows no {algorithm} for {purpose} keys")),
            Some(Some(until)) if now >= *until => {
                Err(format!("the key policy allows {algorithm} for {purpose} keys until {until} only"))
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether a key from outside may be put into the token now.
    // [clause 8.7.1-o] only where the policy says so: whoever had it before may have it still
    pub fn may_import(&self, purpose: Purpose, algorithm: Algorithm, now: Timestamp) -> Result<(), String> {
        self.may_make(purpose, algorithm, now)?;
        match self.rule(purpose).map(|r| r.import) {
            Some(Import::Allow) => Ok(()),
            _ => Err(format!("the key policy takes no {purpose} keys in from outside")),
        }
    }

    /// When a key leaves its state by itself, and where it goes.
    // [clause 8.7.1-f] every state that is not the last has an end
    #[must_use]
    pub fn end(&self, key: &KeyRecord) -> Option<(Timestamp, State)> {
        let rule = self.rule(key.purpose)?;
        match key.state {
            State::Active | State::Suspended => {
                // [clause 8.7.1-o] what was outside is moved away from sooner
                let cap = rule.imported.filter(|_| matches!(key.origin, Origin::Imported { .. }));
                let protect = cap.map_or(rule.protect, |cap| cap.min(rule.protect));
                let by_age = key.activated.unwrap_or(key.created).plus(protect);
                let sunset = rule.algorithms.get(&key.public.algorithm()).copied().flatten();
                let at = sunset.map_or(by_age, |day| day.min(by_age));
                Some((at, if rule.sweep > 0 { State::SweepOnly } else { State::Deactivated }))
            }
            State::SweepOnly => Some((key.since.plus(rule.sweep), State::Deactivated)),
            State::Deactivated => {
                Some((key.since.plus(rule.process).plus(rule.destroy_within), State::Destroyed))
            }
            State::Compromised => Some((key.since.plus(rule.destroy_within), State::Destroyed)),
            State::PreActive | State::Destroyed => None,
        }
    }

    /// What is to be done about a key. `warned` is the shortest warning that was given for this state already.
    #[must_use]
    pub fn due(&self, key: &KeyRecord, warned: Option<u32>, now: Timestamp) -> Option<Due> {
        let (at, to) = self.end(key)?;
        if now >= at {
            return Some(match (to, self.rule(key.purpose)?.at_end) {
                (State::Destroyed, AtEnd::Alarm) => Due::Overdue(at),
                (State::Destroyed, AtEnd::ByItself) => Due::Destroy,
                _ => Due::Move(to),
            });
        }
        let left = at.0.saturating_sub(now.0);
        let reached = self.warn_days.iter().copied().filter(|d| left <= i64::from(*d) * DAY).min()?;
        (warned.is_none_or(|w| reached < w)).then_some(Due::Warn { days: reached, to, at })
    }
}

/// A clock for lives: a wall clock that is set back never makes them longer.
#[derive(Clone, Copy, Debug)]
pub struct LifeClock {
    reached: Timestamp,
}

impl LifeClock {
    /// Begins at the latest moment that anything was written down.
    #[must_use]
    pub fn new(latest: Timestamp) -> Self {
        Self { reached: latest }
    }

    /// The time, given the wall clock and how much of monotonic time has gone by since the last call.
    pub fn advance(&mut self, wall: Timestamp, elapsed_ms: i64) -> Timestamp {
        self.reached = self.reached.plus(elapsed_ms.max(0)).max(wall);
        self.reached
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
