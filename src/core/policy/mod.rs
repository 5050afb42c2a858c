//! The policy: a set of typed rules, default deny, forbid wins, any error denies. [clause 8.7.1]
//!
//! Pure: the time and what was spent are arguments. Amounts are checked 256-bit integers, never floats.
#![forbid(unsafe_code)]

pub mod decide;
pub mod diff;
pub mod explain;
pub mod parse;
pub mod replay;
pub mod rule;
pub mod window;

pub use decide::{ActFacts, Decision, Denial, Facts, Permit, decide};
pub use diff::{Diff, diff};
pub use explain::Explanation;
pub use parse::PolicyError;
pub use rule::{Act, Policy, Tripwire};
