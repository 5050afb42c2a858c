//! How much is asked of a user for a payment: the sum of a day decides, so that splitting a payment saves nothing.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde::Serialize;

use super::User;
use crate::core::payment::{Asset, Chain, Effect, Payment};
use crate::core::units::U256;

/// The time over which payments are added up, milliseconds: a day.
pub const ROLLING_MS: i64 = 86_400_000;

/// What a user must have done. Each includes what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Opened a session on this connection.
    Session,
    /// Typed the PIN for this very payment.
    Pin,
    /// Touched a FIDO2 authenticator, which asked for its own PIN or finger, for this very payment.
    Fido,
    /// Nothing that one person does is enough: the policy's rule must ask people.
    People,
}

impl Step {
    /// As it is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Pin => "pin",
            Self::Fido => "fido",
            Self::People => "people",
        }
    }
}

/// Up to which sum of a day each step is enough, base units of one asset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The session.
    pub session: U256,
    /// The PIN for each payment.
    pub pin: U256,
    /// The authenticator for each payment.
    pub fido: U256,
}

impl Limits {
    fn step(&self, sum: U256) -> Step {
        if sum <= self.session {
            Step::Session
        } else if sum <= self.pin {
            Step::Pin
        } else if sum <= self.fido {
            Step::Fido
        } else {
            Step::People
        }
    }
}

/// A user who is here, and what they have confirmed of one request.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who, as the document in force has them.
    pub user: Arc<User>,
    /// The highest step that was taken for this very payload.
    pub confirmed: Step,
    /// Of a payment whose effect is not known from its bytes.
    pub blind: bool,
}

impl Claim {
    /// Of a request, with what was confirmed of it.
    #[must_use]
    pub fn new(user: Arc<User>, confirmed: Step, payment: Option<&Payment>) -> Self {
        let blind = payment.is_some_and(|p| {
            matches!(p.effect, Effect::ContractCall { .. } | Effect::ContractCreation { .. })
        });
        Self { user, confirmed, blind }
    }

    /// The step that this payment takes. `before` is what the user's keys spent of the asset in a day, by whatever app;
    /// `None` when the sum is past every number. `counted` when this very payment is among it.
    // [clause 8.2.3-g] what a day adds up to decides, not what a payment says of itself
    #[must_use]
    pub fn needed(&self, spent: Option<(Chain, Asset, U256)>, before: Option<U256>, counted: bool) -> Step {
        // What a call does with money is not known: no less than the most that one person may confirm.
        let least = if self.blind { Step::Fido } else { Step::Session };
        let Some((chain, asset, amount)) = spent else { return least };
        let sum = if counted { before } else { before.and_then(|b| b.checked_add(amount)) };
        // An asset that the document does not name has no limits, so that nothing of it is small.
        let limits = self.user.limits(chain, asset).copied().unwrap_or_default();
        sum.map_or(Step::People, |sum| limits.step(sum)).max(least)
    }

    /// Whether what was confirmed is enough. What takes people is with those, never with the user.
    #[must_use]
    pub fn enough(&self, needed: Step) -> bool {
        needed != Step::People && self.confirmed >= needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::units::Address;
    use crate::core::user::Users;

    fn anna() -> Arc<User> {
        let text = "schema = 1\n[[user]]\nname = \"anna\"\nuid = 7\nkeys = [\"hot\"]\n[[user.limit]]\nchain = \"eip155:1\"\nasset = \"native\"\nsession = \"100\"\npin = \"1000\"\nfido = \"10000\"\n";
        Arc::clone(Users::parse(text).unwrap().all().first().unwrap())
    }

    fn claim(confirmed: Step) -> Claim {
        Claim::new(anna(), confirmed, None)
    }

    fn native(amount: u64) -> (Chain, Asset, U256) {
        (Chain(1), Asset::Native, U256::from(amount))
    }

    // [clause 8.2.3-g] test
    #[test]
    fn the_sum_of_a_day_decides_and_splitting_saves_nothing() {
        let needed = |amount, before: u64| {
            claim(Step::Session).needed(Some(native(amount)), Some(U256::from(before)), false)
        };
        assert_eq!(needed(100, 0), Step::Session);
        assert_eq!(needed(101, 0), Step::Pin);
        assert_eq!(needed(1, 100), Step::Pin, "the last of many small ones");
        assert_eq!(needed(1, 1000), Step::Fido);
        assert_eq!(needed(0, 10_000), Step::Fido);
        assert_eq!(needed(1, 10_000), Step::People);
        // Whatever the parts: as soon as they add up to more than a limit, the higher step is asked for.
        for parts in [2u64, 3, 7, 50, 101] {
            let (mut spent, mut seen) = (0, Step::Session);
            for _ in 0..parts {
                seen = seen.max(needed(2000 / parts, spent));
                spent += 2000 / parts;
            }
            assert_eq!(seen, Step::Fido, "{parts} parts");
        }
    }

    // [clause 8.2.3-g] test
    #[test]
    fn what_is_not_known_or_not_named_is_never_small() {
        let c = claim(Step::Session);
        assert_eq!(c.needed(Some(native(1)), None, false), Step::People, "a sum past every number");
        assert_eq!(
            c.needed(Some((Chain(1), Asset::Native, U256::MAX)), Some(U256::ONE), false),
            Step::People
        );
        let other = Some((Chain(1), Asset::Erc20(Address([1; 20])), U256::ONE));
        assert_eq!(c.needed(other, Some(U256::ZERO), false), Step::People, "an asset without limits");
        assert_eq!(
            c.needed(Some((Chain(2), Asset::Native, U256::ONE)), Some(U256::ZERO), false),
            Step::People
        );
        let blind = Claim { blind: true, ..claim(Step::Pin) };
        assert_eq!(blind.needed(None, Some(U256::ZERO), false), Step::Fido);
        assert_eq!(blind.needed(Some(native(1)), Some(U256::ZERO), false), Step::Fido);
        assert_eq!(c.needed(None, Some(U256::ZERO), false), Step::Session, "a message moves no money");
        // Asked again, it is not counted twice.
        assert_eq!(c.needed(Some(native(100)), Some(U256::from(100)), true), Step::Session);
        assert!(claim(Step::Fido).enough(Step::Pin) && !claim(Step::Pin).enough(Step::Fido));
        assert!(!Claim { confirmed: Step::People, ..claim(Step::Pin) }.enough(Step::People));
    }
}
