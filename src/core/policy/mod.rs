//! The policy: a set of typed rules, default deny, forbid wins, any error denies. [clause 8.7.1]
//!
//! Pure: the time and what was spent are arguments. Amounts are checked 256-bit integers, never floats.
#![forbid(unsafe_code)]

pub mod books;
mod check;
mod cover;
pub mod decide;
pub mod diff;
pub mod explain;
mod fields;
pub mod finding;
pub mod history;
mod index;
mod lint;
pub mod parse;
mod raw;
pub mod replay;
pub mod rule;
pub mod window;
mod words;

pub use decide::{ActFacts, Decision, Denial, Facts, Permit, decide, explain};
pub use diff::{Diff, diff};
pub use explain::Explanation;
pub use finding::PolicyError;
pub use rule::{Act, Policy, Tripwire};

#[cfg(test)]
#[path = "random_tests.rs"]
mod testing;
