//! Listeners, limits, dispatch, metrics. Knows `service` and `wire`; decides nothing about money.
#![forbid(unsafe_code)]

pub mod connection;
pub mod daemon;
pub mod discover;
pub mod listener;
pub mod metrics;
pub mod operator;
pub mod wallet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::{Code, Refusal};

/// Reads named parameters; an absent `params` is an empty object.
pub(crate) fn named<T: DeserializeOwned>(params: Value) -> Result<T, Refusal> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        Value::Array(mut items) if items.len() == 1 => items.pop().unwrap_or(Value::Null),
        Value::Array(items) if items.is_empty() => Value::Object(serde_json::Map::new()),
        other => other,
    };
    serde_json::from_value(params).map_err(|e| Refusal::new(Code::InvalidParams, e.to_string()))
}

/// Takes exactly `N` positional parameters, the last of which may be missing when `optional`.
pub(crate) fn positional<const N: usize>(params: Value, optional: usize) -> Result<[Value; N], Refusal> {
    let wrong = || Refusal::new(Code::InvalidParams, format!("expected an array of {N} parameters"));
    let mut items = match params {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        _ => return Err(wrong()),
    };
    if items.len() > N || items.len() + optional < N {
        return Err(wrong());
    }
    items.resize(N, Value::Null);
    items.try_into().map_err(|_| wrong())
}
