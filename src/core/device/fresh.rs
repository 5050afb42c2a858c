//! Payments before which the machine is looked at anew, and not by its newest sample.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::core::payment::{Asset, Chain, Effect, Payment};
use crate::core::units::U256;

/// From which amount on a payment is one of them, base units of each asset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fresh(pub BTreeMap<(Chain, Asset), U256>);

impl Fresh {
    /// Whether this payment is one of them. Nobody is asked where no amount is named.
    // [clause 8.2.4-q] what is not known to be small is not small
    #[must_use]
    pub fn concerns(&self, payment: &Payment) -> bool {
        if self.0.is_empty() {
            return false;
        }
        // What a call does with money its bytes do not say.
        if matches!(payment.effect, Effect::ContractCall { .. } | Effect::ContractCreation { .. }) {
            return true;
        }
        let small = |(asset, amount)| self.0.get(&(payment.chain, asset)).is_some_and(|from| amount < *from);
        !payment.effect.debit().is_some_and(small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::units::Address;

    // [clause 8.2.4-q] test
    #[test]
    fn what_is_not_known_to_be_small_is_looked_at() {
        let (to, asset) = (Address([2; 20]), Asset::Native);
        let payment = |chain, effect| Payment {
            chain: Chain(chain),
            from: Address([1; 20]),
            effect,
            max_fee: U256::ZERO,
            fee_per_gas: U256::ZERO,
            nonce: 0,
        };
        let transfer =
            |chain, asset, n: u64| payment(chain, Effect::Transfer { asset, to, amount: U256::from(n) });
        let fresh = Fresh(BTreeMap::from([((Chain(1), asset), U256::from(50))]));
        assert!(!fresh.concerns(&transfer(1, asset, 49)));
        assert!(fresh.concerns(&transfer(1, asset, 50)));
        assert!(fresh.concerns(&transfer(2, asset, 1)), "another chain");
        assert!(fresh.concerns(&transfer(1, Asset::Erc20(to), 1)), "an asset that is not named");
        let creation = Effect::ContractCreation { value: U256::ZERO };
        assert!(fresh.concerns(&payment(1, creation)), "nobody knows what it moves");
        assert!(!Fresh::default().concerns(&transfer(1, asset, u64::MAX)), "nobody asked for it");
    }
}
