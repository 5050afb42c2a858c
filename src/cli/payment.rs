//! A payment from the words of the command line to the transaction object that any wallet would send.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::Failure;
use super::arguments::Payment;
use crate::core::payment::Chain;
use crate::core::units::{Address, U256, parse_decimal};

/// The transaction object.
pub fn transaction(payment: &Payment) -> Result<Value, Failure> {
    let usage = |what: &str, text: &str| Failure::Usage(format!("{what} {text:?} cannot be read"));
    let amount = |what, text: &str| parse_decimal(text).ok_or_else(|| usage(what, text));
    let chain = Chain::parse(&payment.chain).ok_or_else(|| usage("chain", &payment.chain))?;
    let to = Address::parse(&payment.to).ok_or_else(|| usage("to", &payment.to))?;
    let value = amount("amount", &payment.amount)?;
    let quantity = |v: U256| format!("{v:#x}");
    let (to, value, input) = if payment.asset == "native" {
        (to, value, "0x".to_owned())
    } else {
        let contract = payment
            .asset
            .strip_prefix("erc20:")
            .and_then(Address::parse)
            .ok_or_else(|| usage("asset", &payment.asset))?;
        // ERC-20 transfer(address,uint256)
        let input = format!(
            "0xa9059cbb{}{}{}",
            "0".repeat(24),
            hex::encode(to.0),
            hex::encode(value.to_be_bytes::<32>())
        );
        (contract, U256::ZERO, input)
    };
    Ok(json!({
        "type": "0x2",
        "chainId": format!("{:#x}", chain.0),
        "nonce": format!("{:#x}", payment.nonce),
        "to": to.lower_hex(),
        "value": quantity(value),
        "input": input,
        "gas": format!("{:#x}", payment.gas),
        "maxFeePerGas": quantity(amount("max-fee", &payment.max_fee)?),
        "maxPriorityFeePerGas": quantity(amount("priority-fee", &payment.priority_fee)?),
    }))
}
