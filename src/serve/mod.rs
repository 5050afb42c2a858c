//! Listeners, limits, dispatch, metrics. Knows `service` and `wire`; decides nothing about money.
#![forbid(unsafe_code)]

mod acts;
mod connection;
pub mod daemon;
pub mod discover;
pub mod listener;
pub mod metrics;
mod operations;
pub mod operator;
pub mod user;
pub mod wallet;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::refusal::{Code, Refusal};
use crate::service::{House, Peer};
use crate::wire::rpc::Request;

/// Serves a method that the socket's table lists, and counts the outcome. Names that are not listed share one label.
pub(crate) async fn serve_listed<F: Future<Output = Result<Value, Refusal>>>(
    house: &House,
    peer: &Peer,
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
    // [clause 8.7.1-e] whatever was refused, and wherever, stands in the log
    let outcome = match outcome {
        Err(refusal) if !refusal.written => {
            Err(house.log_refusal(peer, None, listed.map(str::to_owned), refusal).await)
        }
        outcome => outcome,
    };
    let method = listed.unwrap_or("unknown");
    house.metrics.request(method, if outcome.is_ok() { "ok" } else { "refused" });
    if let Err(refusal) = &outcome {
        house.metrics.refusal(refusal.code.as_str());
        tracing::info!(method, code = refusal.code.as_str(), "refused: {}", refusal.sentence);
    }
    outcome
}

/// Counts what could not be read, and writes it down when it can.
pub(crate) fn note_unreadable(house: &Arc<House>, peer: &Arc<Peer>, refusal: &Refusal) {
    house.metrics.refusal(refusal.code.as_str());
    let (house, peer, refusal) = (Arc::clone(house), Arc::clone(peer), refusal.clone());
    tokio::spawn(async move { house.log_refusal(&peer, None, None, refusal).await });
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
