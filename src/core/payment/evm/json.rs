//! The signed transaction as geth prints it: quantities without leading zeros, `yParity` beside `v`.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::rlp::Seal;
use super::{Fee, UnsignedTx};
use crate::core::units::{Address, U256};

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
        put("accessList", access_list(tx));
        put("yParity", json!(format!("{parity:#x}")));
    }
    value
}

fn access_list(tx: &UnsignedTx) -> Value {
    let slots = |slots: &[[u8; 32]]| -> Vec<String> {
        slots.iter().map(|s| format!("0x{}", hex::encode(s))).collect()
    };
    let list = tx
        .access
        .iter()
        .map(|item| json!({"address": item.address.lower_hex(), "storageKeys": slots(&item.slots)}));
    list.collect()
}

/// The object of the unsigned transaction, as wallets send it.
pub(super) fn args(tx: &UnsignedTx, from: Address) -> Value {
    let mut value = json!({
        "from": from.lower_hex(),
        "chainId": format!("{:#x}", tx.chain),
        "nonce": format!("{:#x}", tx.nonce),
        "to": tx.to.map(|a| a.lower_hex()),
        "gas": format!("{:#x}", tx.gas),
        "value": format!("{:#x}", tx.value),
        "input": format!("0x{}", hex::encode(&tx.input)),
    });
    let Some(map) = value.as_object_mut() else { return value };
    let mut put = |name: &str, value: Value| {
        map.insert(name.to_owned(), value);
    };
    match tx.fee {
        Fee::Legacy { gas_price } => {
            put("type", json!("0x0"));
            put("gasPrice", json!(format!("{gas_price:#x}")));
        }
        Fee::AccessList { gas_price } => {
            put("type", json!("0x1"));
            put("gasPrice", json!(format!("{gas_price:#x}")));
            put("accessList", access_list(tx));
        }
        Fee::Dynamic { max_fee, max_priority } => {
            put("type", json!("0x2"));
            put("maxFeePerGas", json!(format!("{max_fee:#x}")));
            put("maxPriorityFeePerGas", json!(format!("{max_priority:#x}")));
            put("accessList", access_list(tx));
        }
    }
    value
}
