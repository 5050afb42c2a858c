//! The transaction object of JSON-RPC, as web3.py, ethers, viem, alloy, cast and geth's SendTxArgs write it.
//!
//! `null` is absent. Numbers are 0x quantities. A field that is not known is refused by name.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use super::{AccessItem, Fee, PaymentError, UnsignedTx};
use crate::core::units::{Address, U256};

const KNOWN: [&str; 14] = [
    "from",
    "to",
    "value",
    "gas",
    "gasLimit",
    "gasPrice",
    "maxFeePerGas",
    "maxPriorityFeePerGas",
    "nonce",
    "chainId",
    "type",
    "input",
    "data",
    "accessList",
];
const BLOBS: [&str; 6] =
    ["blobs", "commitments", "proofs", "blobVersionedHashes", "maxFeePerBlobGas", "authorizationList"];

fn wrong(field: &'static str, why: impl Into<String>) -> PaymentError {
    PaymentError::Field { field, why: why.into() }
}

struct Args<'a>(&'a Map<String, Value>);

impl<'a> Args<'a> {
    fn text(&self, field: &'static str) -> Result<Option<&'a str>, PaymentError> {
        match self.0.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(field, "it must be a string that starts with 0x")),
        }
    }

    fn quantity(&self, field: &'static str) -> Result<Option<U256>, PaymentError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let digits = text.strip_prefix("0x").ok_or_else(|| wrong(field, "a quantity starts with 0x"))?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong(field, "a quantity is 0x and hex digits"));
        }
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(wrong(field, "a quantity has no leading zeros"));
        }
        U256::from_str_radix(digits, 16).map(Some).map_err(|_| wrong(field, "it is larger than 2^256-1"))
    }

    fn small<T: TryFrom<U256>>(&self, field: &'static str) -> Result<Option<T>, PaymentError> {
        match self.quantity(field)? {
            None => Ok(None),
            Some(n) => T::try_from(n).map(Some).map_err(|_| wrong(field, "it is too large")),
        }
    }

    fn need<T: TryFrom<U256>>(&self, field: &'static str) -> Result<T, PaymentError> {
        self.small(field)?.ok_or(PaymentError::Missing(field))
    }

    fn address(&self, field: &'static str) -> Result<Option<Address>, PaymentError> {
        match self.text(field)? {
            None => Ok(None),
            Some(text) => Address::parse(text).map(Some).ok_or_else(|| {
                wrong(
                    field,
                    "an address is 0x and 40 hex digits, in one case or with a right EIP-55 checksum",
                )
            }),
        }
    }

    fn bytes(&self, field: &'static str) -> Result<Option<Vec<u8>>, PaymentError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let digits = text.strip_prefix("0x").ok_or_else(|| wrong(field, "bytes start with 0x"))?;
        hex::decode(digits).map(Some).map_err(|e| wrong(field, e.to_string()))
    }
}

pub(super) fn read(args: &Value) -> Result<(UnsignedTx, Option<Address>), PaymentError> {
    let map = args.as_object().ok_or_else(|| wrong("transaction", "it must be an object"))?;
    for (name, value) in map {
        if value.is_null() {
            continue;
        }
        if let Some(blob) = BLOBS.iter().find(|b| *b == name) {
            return Err(PaymentError::Kind(
                (if *blob == "authorizationList" { "0x04" } else { "0x03" }).into(),
            ));
        }
        if !KNOWN.contains(&name.as_str()) {
            return Err(PaymentError::UnknownField(name.chars().take(64).collect()));
        }
    }
    let args = Args(map);
    let kind: Option<u64> = args.small("type")?;
    let gas_price: Option<u128> = args.small("gasPrice")?;
    let max_fee: Option<u128> = args.small("maxFeePerGas")?;
    let max_priority: Option<u128> = args.small("maxPriorityFeePerGas")?;
    let access = access_list(map.get("accessList"))?;
    if gas_price.is_some() && (max_fee.is_some() || max_priority.is_some()) {
        return Err(PaymentError::Conflict("gasPrice stands beside maxFeePerGas or maxPriorityFeePerGas"));
    }
    let dynamic = || -> Result<Fee, PaymentError> {
        Ok(Fee::Dynamic {
            max_fee: max_fee.ok_or(PaymentError::Missing("maxFeePerGas"))?,
            max_priority: max_priority.ok_or(PaymentError::Missing("maxPriorityFeePerGas"))?,
        })
    };
    let priced = || gas_price.ok_or(PaymentError::Missing("gasPrice"));
    let fee = match (kind, gas_price, &access) {
        (Some(0), _, Some(_)) => {
            return Err(PaymentError::Conflict("a legacy transaction has no access list"));
        }
        (Some(0), ..) | (None, Some(_), None) => Fee::Legacy { gas_price: priced()? },
        (Some(1), ..) | (None, Some(_), Some(_)) => Fee::AccessList { gas_price: priced()? },
        (Some(2), ..) | (None, None, _) => dynamic()?,
        (Some(other), ..) => return Err(PaymentError::Kind(format!("{other:#04x}"))),
    };
    let (input, data) = (args.bytes("input")?, args.bytes("data")?);
    if let (Some(input), Some(data)) = (&input, &data)
        && input != data
    {
        return Err(PaymentError::Conflict("input and data differ"));
    }
    let gas = match (args.small("gas")?, args.small("gasLimit")?) {
        (Some(a), Some(b)) if a != b => return Err(PaymentError::Conflict("gas and gasLimit differ")),
        (Some(gas), _) | (None, Some(gas)) => gas,
        (None, None) => return Err(PaymentError::Missing("gas")),
    };
    let tx = UnsignedTx {
        chain: args.need("chainId")?,
        nonce: args.need("nonce")?,
        fee,
        gas,
        to: args.address("to")?,
        value: args.quantity("value")?.unwrap_or_default(),
        input: input.or(data).unwrap_or_default(),
        access: access.unwrap_or_default(),
    };
    Ok((tx, args.address("from")?))
}

fn access_list(value: Option<&Value>) -> Result<Option<Vec<AccessItem>>, PaymentError> {
    let bad = || wrong("accessList", "it must be a list of {address, storageKeys}");
    let items = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(bad()),
    };
    let mut access = Vec::with_capacity(items.len().min(super::MAX_ACCESS));
    for item in items {
        let map = item
            .as_object()
            .filter(|m| m.keys().all(|k| k == "address" || k == "storageKeys"))
            .ok_or_else(bad)?;
        let address = map.get("address").and_then(Value::as_str).and_then(Address::parse).ok_or_else(bad)?;
        let keys = match map.get("storageKeys") {
            None | Some(Value::Null) => &Vec::new(),
            Some(Value::Array(keys)) => keys,
            Some(_) => return Err(bad()),
        };
        let mut slots = Vec::with_capacity(keys.len().min(super::MAX_ACCESS));
        for key in keys {
            let mut slot = [0; 32];
            let digits = key.as_str().and_then(|t| t.strip_prefix("0x")).ok_or_else(bad)?;
            hex::decode_to_slice(digits, &mut slot).map_err(|_| bad())?;
            slots.push(slot);
        }
        access.push(AccessItem { address, slots });
    }
    Ok(Some(access))
}
