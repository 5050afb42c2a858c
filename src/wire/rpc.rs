//! JSON-RPC 2.0 requests and replies.
//!
//! Replies are one compact line. Braces inside strings are written as `\u007b` and `\u007d`, because viem counts
//! them byte by byte.
#![forbid(unsafe_code)]

use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use crate::core::app::hello::Proof;
use crate::refusal::{Code, Refusal};

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Echoed with its type; `None` marks a notification, which gets no reply.
    pub id: Option<Value>,
    /// Method name.
    pub method: String,
    /// Array, object, or `Null` when absent.
    pub params: Value,
    /// The member `claviger`: the nonce of the connection, and a number that is taken once.
    pub proof: Option<Proof>,
}

/// A message: one request or a batch. Parts that are no requests carry their refusal and the id to answer with.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// One.
    Single(Result<Request, (Value, Refusal)>),
    /// Several, answered together.
    Batch(Vec<Result<Request, (Value, Refusal)>>),
}

/// Parses one framed message. `Err` when it is not JSON, or an empty or overlong batch.
pub fn parse(bytes: &[u8], max_batch: usize) -> Result<Message, Refusal> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|e| Refusal::new(Code::ParseError, format!("the message is no valid JSON: {e}")))?;
    match value {
        Value::Array(items) if items.is_empty() => {
            Err(Refusal::new(Code::InvalidRequest, "the batch is empty"))
        }
        Value::Array(items) if items.len() > max_batch => Err(Refusal::new(
            Code::TooLarge,
            format!("the batch holds {} requests, the limit is {max_batch}", items.len()),
        )),
        Value::Array(items) => Ok(Message::Batch(items.into_iter().map(request).collect())),
        single => Ok(Message::Single(request(single))),
    }
}

fn request(value: Value) -> Result<Request, (Value, Refusal)> {
    let Value::Object(mut map) = value else {
        return Err((Value::Null, Refusal::new(Code::InvalidRequest, "a request must be an object")));
    };
    let id = map.remove("id");
    let echo = match &id {
        None => Value::Null,
        Some(id @ (Value::Number(_) | Value::String(_) | Value::Null)) => id.clone(),
        Some(_) => {
            return Err((
                Value::Null,
                Refusal::new(Code::InvalidRequest, "the id must be a number, a string or null"),
            ));
        }
    };
    let refuse = |why: &str| Err((echo.clone(), Refusal::new(Code::InvalidRequest, why)));
    if map.remove("jsonrpc") != Some(json!("2.0")) {
        return refuse("jsonrpc must be \"2.0\"");
    }
    let Some(Value::String(method)) = map.remove("method") else {
        return refuse("method must be a string");
    };
    let params = map.remove("params").unwrap_or(Value::Null);
    if !matches!(params, Value::Null | Value::Array(_) | Value::Object(_)) {
        return refuse("params must be an array or an object");
    }
    let proof = match map.remove("claviger") {
        None => None,
        Some(member) => match proof(&member) {
            Some(proof) => Some(proof),
            None => {
                return refuse("the member claviger holds nonce, 32 hex digits, and seq, a number from 1 on");
            }
        },
    };
    if let Some(name) = map.keys().next() {
        return refuse(&format!("unknown member {name:?}"));
    }
    Ok(Request { id, method, params, proof })
}

/// `{"nonce": "…", "seq": 1}`, and nothing else.
fn proof(member: &Value) -> Option<Proof> {
    let map = member.as_object().filter(|map| map.len() == 2)?;
    let mut nonce = [0; 16];
    hex::decode_to_slice(map.get("nonce")?.as_str()?, &mut nonce).ok()?;
    Some(Proof { nonce, seq: map.get("seq")?.as_u64()? })
}

/// Which error shape a method's clients expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `claviger_*`, `operator_*`, `rpc.*`: the codes of [`Code::rpc`].
    Native,
    /// `eth_*`, `personal_*`: denials are 4001 and start with `user denied:`.
    Ethereum,
    /// `account_*` (Clef): denials are -32000 `request denied`.
    Clef,
}

impl Dialect {
    /// The dialect that a method name belongs to.
    #[must_use]
    pub fn of(method: &str) -> Self {
        if method.starts_with("eth_") || method.starts_with("personal_") {
            Self::Ethereum
        } else if method.starts_with("account_") {
            Self::Clef
        } else {
            Self::Native
        }
    }
}

/// A reply with a result.
#[must_use]
pub fn result(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// A reply with a refusal, in the shape that the dialect's clients understand.
#[must_use]
pub fn error(id: &Value, refusal: &Refusal, dialect: Dialect) -> Value {
    let denial = matches!(refusal.code.rpc(), 4001 | 4100);
    let (code, message) = match dialect {
        Dialect::Clef if denial => (-32000, "request denied".to_owned()),
        Dialect::Ethereum if denial => (4001, format!("user denied: {}", refusal.sentence)),
        Dialect::Native | Dialect::Ethereum | Dialect::Clef => (refusal.code.rpc(), refusal.sentence.clone()),
    };
    let mut data = refusal.data();
    if let (Dialect::Clef, Some(map)) = (dialect, data.as_object_mut()) {
        map.insert("reason".into(), json!(refusal.sentence));
    }
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": data}})
}

struct BraceEscaper;

impl serde_json::ser::Formatter for BraceEscaper {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['{', '}']) {
            let (head, tail) = rest.split_at(at);
            writer.write_all(head.as_bytes())?;
            writer.write_all(if tail.starts_with('{') { b"\\u007b" } else { b"\\u007d" })?;
            rest = tail.get(1..).unwrap_or_default();
        }
        writer.write_all(rest.as_bytes())
    }
}

/// One compact line with its newline.
#[must_use]
pub fn line(reply: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, BraceEscaper);
    // A `Value` has string keys and writes into memory: neither can fail.
    let _infallible = reply.serialize(&mut serializer);
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &str) -> &'static str {
        match parse(bytes.as_bytes(), 4) {
            Err(r) | Ok(Message::Single(Err((_, r)))) => r.code.as_str(),
            Ok(_) => "ok",
        }
    }

    #[test]
    fn requests_are_taken_exactly() {
        for (text, expected) in [
            (r#"{"jsonrpc":"2.0","id":0,"method":"a"}"#, "ok"),
            (r#"{"jsonrpc":"2.0","id":"x","method":"a","params":[]}"#, "ok"),
            (r#"{"jsonrpc":"1.0","id":0,"method":"a"}"#, "invalid_request"),
            (r#"{"jsonrpc":"2.0","id":[],"method":"a"}"#, "invalid_request"),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "invalid_request"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","params":3}"#, "invalid_request"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","extra":3}"#, "invalid_request"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a","claviger":{"nonce":"00112233445566778899aabbccddeeff","seq":1}}"#,
                "ok",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a","claviger":{"nonce":"0011","seq":1}}"#,
                "invalid_request",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a","claviger":{"nonce":"00112233445566778899aabbccddeeff","seq":-1}}"#,
                "invalid_request",
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a","claviger":{"nonce":"00112233445566778899aabbccddeeff"}}"#,
                "invalid_request",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a","claviger":null}"#, "invalid_request"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"a",}"#, "parse_error"),
            ("[]", "invalid_request"),
            ("[1,2,3,4,5]", "too_large"),
        ] {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn replies_echo_the_id_and_escape_braces() {
        let text = String::from_utf8(line(&result(&json!(0), &json!("a{b}\"")))).unwrap();
        assert_eq!(text, "{\"id\":0,\"jsonrpc\":\"2.0\",\"result\":\"a\\u007bb\\u007d\\\"\"}\n");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["result"], json!("a{b}\""));
    }

    #[test]
    fn denials_take_the_shape_of_their_dialect() {
        let refusal = Refusal::new(Code::OverLimit, "too much");
        let eth = error(&json!(1), &refusal, Dialect::of("eth_signTransaction"));
        assert_eq!(eth["error"]["code"], 4001);
        assert_eq!(eth["error"]["message"], "user denied: too much");
        let clef = error(&json!(1), &refusal, Dialect::of("account_signTransaction"));
        assert_eq!(clef["error"]["code"], -32000);
        assert_eq!(clef["error"]["message"], "request denied");
        assert_eq!(clef["error"]["data"]["code"], "over_limit");
    }
}
