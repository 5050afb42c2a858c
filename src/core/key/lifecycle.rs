//! The life of a key: states, the edges between them, and what each state still allows. [clause 8.7.1]
//!
//! NIST SP 800-57 Part 1, section 7, with one state of our own: wallets receive money at old addresses, so that a payment
//! key at its end may still pay to the destinations that the policy lists for sweeping, and nowhere else.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::purpose::{Operation, Purpose};

/// The states of NIST SP 800-57 Part 1, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Made, not yet usable: it may prove that it is there, and nothing else.
    PreActive,
    /// Usable.
    Active,
    /// Stopped for now.
    Suspended,
    /// At the end of its cryptoperiod, and still emptying its account to listed destinations.
    SweepOnly,
    /// At the end of its cryptoperiod: what it protected may still be processed.
    Deactivated,
    /// Known or suspected to be in other hands.
    Compromised,
    /// Gone; the record stays.
    Destroyed,
}

impl State {
    /// All of them, in the order of a key's life.
    pub const ALL: [Self; 7] = [
        Self::PreActive,
        Self::Active,
        Self::Suspended,
        Self::SweepOnly,
        Self::Deactivated,
        Self::Compromised,
        Self::Destroyed,
    ];

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// The name used in JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreActive => "pre-active",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::SweepOnly => "sweep-only",
            Self::Deactivated => "deactivated",
            Self::Compromised => "compromised",
            Self::Destroyed => "destroyed",
        }
    }

    /// The states that can follow.
    // [clause 8.7.1-b] these edges and no others
    #[must_use]
    pub fn next(self) -> &'static [Self] {
        match self {
            Self::PreActive => &[Self::Active, Self::Compromised, Self::Destroyed],
            Self::Active => {
                &[Self::Suspended, Self::SweepOnly, Self::Deactivated, Self::Compromised, Self::Destroyed]
            }
            Self::Suspended => {
                &[Self::Active, Self::SweepOnly, Self::Deactivated, Self::Compromised, Self::Destroyed]
            }
            Self::SweepOnly => &[Self::Deactivated, Self::Compromised, Self::Destroyed],
            Self::Deactivated => &[Self::Compromised, Self::Destroyed],
            Self::Compromised => &[Self::Destroyed],
            Self::Destroyed => &[],
        }
    }

    /// Whether a key of this purpose can go there from here.
    #[must_use]
    pub fn leads_to(self, to: Self, purpose: Purpose) -> bool {
        self.next().contains(&to) && (to != Self::SweepOnly || purpose == Purpose::Payment)
    }

    /// What may still be done in this state, purpose aside.
    #[must_use]
    pub fn may(self, operation: Operation) -> bool {
        match self {
            Self::Active => true,
            Self::SweepOnly => operation == Operation::SignPayment,
            // What was protected earlier may be processed; nothing new is protected.
            Self::Deactivated => {
                matches!(operation, Operation::Decrypt | Operation::VerifyMac | Operation::Unwrap)
            }
            Self::PreActive | Self::Suspended | Self::Compromised | Self::Destroyed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rows lead to columns: changes of it are to be read.
    const MATRIX: &str =
        "            pre-active active suspended sweep-only deactivated compromised destroyed
 pre-active .          yes    .         .          .           yes         yes
     active .          .      yes       yes        yes         yes         yes
  suspended .          yes    .         yes        yes         yes         yes
 sweep-only .          .      .         .          yes         yes         yes
deactivated .          .      .         .          .           yes         yes
compromised .          .      .         .          .           .           yes
  destroyed .          .      .         .          .           .           .
";

    /// What each state allows, of everything.
    const ALLOWED: &str = "\
pre-active:
active: signing payments, signing messages, signing logins, signing checkpoints, encrypting, decrypting, making MACs, verifying MACs, wrapping keys, unwrapping keys, random bits
suspended:
sweep-only: signing payments
deactivated: decrypting, verifying MACs, unwrapping keys
compromised:
destroyed:
";

    // [clause 8.7.1-b] test
    #[test]
    fn the_edges_and_what_states_allow_are_what_was_reviewed() {
        let head: Vec<_> = State::ALL.iter().map(|s| s.as_str()).collect();
        let mut text = format!("{:11} {}\n", "", head.join(" "));
        let mut allowed = String::new();
        for from in State::ALL {
            assert_eq!(State::parse(from.as_str()), Some(from));
            let row: Vec<String> = State::ALL
                .iter()
                .map(|to| {
                    let word = if from.leads_to(*to, Purpose::Payment) { "yes" } else { "." };
                    format!("{word:width$}", width = to.as_str().len())
                })
                .collect();
            text += &format!("{:>11} {}\n", from.as_str(), row.join(" ").trim_end());
            let may: Vec<_> = Operation::ALL.iter().filter(|o| from.may(**o)).map(|o| o.as_str()).collect();
            allowed += format!("{}: {}", from.as_str(), may.join(", ")).trim_end();
            allowed += "\n";
            for purpose in Purpose::ALL.into_iter().filter(|p| *p != Purpose::Payment) {
                assert!(!from.leads_to(State::SweepOnly, purpose));
            }
        }
        assert_eq!(text, MATRIX, "\n{text}");
        assert_eq!(allowed, ALLOWED, "\n{allowed}");
    }

    proptest! {
        // [clause 8.7.1-b] test
        #[test]
        fn no_walk_comes_back_to_life(steps in proptest::collection::vec(0usize..7, 0..40)) {
            let (mut at, mut ended, mut compromised) = (State::PreActive, false, false);
            for step in steps {
                let to = State::ALL[step];
                if !at.leads_to(to, Purpose::Payment) {
                    continue;
                }
                at = to;
                ended |= matches!(at, State::SweepOnly | State::Deactivated | State::Compromised | State::Destroyed);
                compromised |= at == State::Compromised;
                // Past its end a key never signs anything but sweeps, and a compromised one never anything.
                prop_assert!(!(ended && at == State::Active));
                if ended {
                    prop_assert!(Operation::ALL.into_iter().all(|o| !at.may(o)
                        || matches!(o, Operation::SignPayment | Operation::Decrypt | Operation::VerifyMac | Operation::Unwrap)));
                }
                if compromised {
                    prop_assert!(Operation::ALL.into_iter().all(|o| !at.may(o)));
                }
            }
            // Every walk can still end.
            prop_assert!(at == State::Destroyed || at.leads_to(State::Destroyed, Purpose::Payment));
        }
    }
}
