//! What is wrong with a policy text: where, why, and what to do.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

/// How much it weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The text is no policy.
    Error,
    /// It can be put in force, and hardly means what it says: `policy check` fails.
    Doubt,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Doubt => "doubt",
            Self::Note => "note",
        })
    }
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// Line of the text, from 1.
    pub line: usize,
    /// How much it weighs.
    pub weight: Weight,
    /// Rule, asset or book; empty for the text as a whole.
    pub place: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { String::new() } else { format!("{}: ", self.place) };
        write!(f, "line {}: {place}{}; {}", self.line, self.why, self.advice)
    }
}

/// Why a policy text was refused: at least one error, by line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError(pub Vec<Finding>);

/// Errors that are told at once.
const MOST: usize = 20;

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<String> = self.0.iter().take(MOST).map(ToString::to_string).collect();
        f.write_str(&shown.join("\n"))?;
        let more = self.0.len().saturating_sub(MOST);
        if more > 0 { write!(f, "\nand {more} more") } else { Ok(()) }
    }
}

/// A fault in the making: where it stands is known as a range of bytes.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) at: std::ops::Range<usize>,
    pub(super) why: String,
    pub(super) advice: String,
}

pub(super) fn fault(at: std::ops::Range<usize>, why: impl Into<String>, advice: impl Into<String>) -> Fault {
    Fault { at, why: why.into(), advice: advice.into() }
}

/// Where lines begin.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.0.partition_point(|begin| *begin <= at)
    }

    pub(super) fn finding(&self, weight: Weight, place: &str, fault: Fault) -> Finding {
        Finding {
            line: self.line(fault.at.start),
            weight,
            place: place.to_owned(),
            why: fault.why,
            advice: fault.advice,
        }
    }
}
