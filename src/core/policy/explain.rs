//! Why a decision fell as it did: one line a rule, and the figure that decided.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

use super::super::units::Name;
use super::rule::Kind;

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleVerdict {
    /// The rule.
    pub rule: Name,
    /// Its kind.
    pub effect: Kind,
    /// Whether it applied: a permit that lets pass, a forbid that denies.
    pub applies: bool,
    /// Where it stopped to apply.
    pub stopped_at: Option<&'static str>,
    /// In words, with the figures.
    pub sentence: String,
}

/// The whole explanation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What was asked, in words.
    pub request: String,
    /// Each rule, by id.
    pub rules: Vec<RuleVerdict>,
    /// The outcome, in words.
    pub outcome: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "request: {}", self.request)?;
        let width = self.rules.iter().map(|r| r.rule.as_str().len()).max().unwrap_or(0);
        for r in &self.rules {
            let mark = match (r.effect, r.applies) {
                (Kind::Permit, true) => "permits",
                (Kind::Permit, false) => "silent ",
                (Kind::Forbid, true) => "FORBIDS",
                (Kind::Forbid, false) => "silent ",
            };
            writeln!(f, "  {mark}  {:width$}  {}", r.rule.as_str(), r.sentence)?;
        }
        write!(f, "outcome: {}", self.outcome)
    }
}
