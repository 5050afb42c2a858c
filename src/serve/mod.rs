//! Listeners, limits, dispatch, metrics. Knows `service` and `wire`; decides nothing about money.
#![forbid(unsafe_code)]

pub mod connection;
pub mod daemon;
pub mod discover;
pub mod listener;
pub mod metrics;
mod operations;
pub mod operator;
pub mod wallet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::{Code, Refusal};
use crate::service::House;
use crate::wire::rpc::Request;

/// Serves a method that the socket's table lists, and counts the outcome. Names that are not listed share one label.
pub(crate) async fn serve_listed<F: Future<Output = Result<Value, Refusal>>>(
    house: &House,
    table: &[discover::Method],
    request: Request,
    dispatch: impl FnOnce(&'static str, Value) -> F,
) -> Result<Value, Refusal> {
    let listed = table.iter().find(|m| m.name == request.method).map(|m| m.name);
    let outcome = if let Some(name) = listed {
        dispatch(name, request.params).await
    } else {
        let why = format!("there is no method {:?} on this socket", clip(&request.method));
        Err(Refusal::new(Code::MethodNotFound, why))
    };
    let method = listed.unwrap_or("unknown");
    house.metrics.request(method, if outcome.is_ok() { "ok" } else { "refused" });
    if let Err(refusal) = &outcome {
        house.metrics.refusal(refusal.code.as_str());
        tracing::info!(method, code = refusal.code.as_str(), "refused: {}", refusal.sentence);
    }
    outcome
}

/// The beginning of a stranger's text, for a sentence.
pub(crate) fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

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
