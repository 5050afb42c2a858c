//! The signed transaction as geth prints it: quantities without leading zeros, `yParity` beside `v`.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::rlp::Seal;
use super::{Fee, UnsignedTx};
use crate::core::units::U256;

pub(super) fn describe(tx: &UnsignedTx, seal: &Seal, hash: &[u8; 32]) -> Value {
    let parity = u64::from(seal.odd);
    let (kind, v) = match tx.fee {
        Fee::Legacy { .. } => (0, tx.chain.saturating_mul(2).saturating_add(35 + parity)),
        Fee::AccessList { .. } => (1, parity),
        Fee::Dynamic { .. } => (2, parity),
    };
    let mut value = json!({
        "type": format!("{kind:#x}"),
        "chainId": format!("{:#x}", tx.chain),
        "nonce": format!("{:#x}", tx.nonce),
        "to": tx.to.map(|a| a.lower_hex()),
        "gas": format!("{:#x}", tx.gas),
        "gasPrice": null,
        "maxPriorityFeePerGas": null,
        "maxFeePerGas": null,
        "value": format!("{:#x}", tx.value),
        "input": format!("0x{}", hex::encode(&tx.input)),
        "v": format!("{v:#x}"),
        "r": format!("{:#x}", U256::from_be_bytes(seal.r)),
        "s": format!("{:#x}", U256::from_be_bytes(seal.s)),
        "hash": format!("0x{}", hex::encode(hash)),
    });
    let Some(map) = value.as_object_mut() else { return value };
    let mut put = |name: &str, value: Value| {
        map.insert(name.to_owned(), value);
    };
    match tx.fee {
        Fee::Legacy { gas_price } | Fee::AccessList { gas_price } => {
            put("gasPrice", json!(format!("{gas_price:#x}")));
        }
        Fee::Dynamic { max_fee, max_priority } => {
            put("maxFeePerGas", json!(format!("{max_fee:#x}")));
            put("maxPriorityFeePerGas", json!(format!("{max_priority:#x}")));
        }
    }
    if kind != 0 {
        let list: Vec<Value> = tx
            .access
            .iter()
            .map(|item| {
                let slots: Vec<String> = item.slots.iter().map(|s| format!("0x{}", hex::encode(s))).collect();
                json!({"address": item.address.lower_hex(), "storageKeys": slots})
            })
            .collect();
        put("accessList", json!(list));
        put("yParity", json!(format!("{parity:#x}")));
    }
    value
}
