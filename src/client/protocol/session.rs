//! One connection as a value: numbers its requests, shows the nonce, and matches replies. No socket, no clock.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::{Error, Refused};
use crate::wire::frame::{Limits, Splitter};

/// Longest reply that is taken, bytes.
pub const LONGEST_REPLY: usize = 16 << 20;
/// Deepest reply that is taken.
const DEEPEST_REPLY: usize = 64;
/// Room for a request that holds a secret: a buffer that grows leaves its old bytes behind.
const ROOM: usize = 16 * 1024;

/// Which request a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What came in.
#[derive(Debug)]
pub enum Incoming {
    /// The answer to one request: its result, or a refusal.
    Reply(Ticket, Result<Value, Refused>),
    /// Why the daemon ends the connection.
    LastWords(Refused),
}

/// What is awaited.
struct Awaited {
    method: &'static str,
    /// Nobody waits for it any more; its reply is dropped when it comes.
    abandoned: bool,
}

/// One connection.
pub struct Session {
    splitter: Splitter,
    next: u64,
    nonce: Option<Zeroizing<String>>,
    seq: u64,
    awaited: BTreeMap<u64, Awaited>,
}

/// What a request shows for itself.
#[derive(Serialize)]
pub struct Shown<'a> {
    nonce: &'a str,
    seq: u64,
}

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: &'a P,
    #[serde(skip_serializing_if = "Option::is_none")]
    claviger: Option<Shown<'a>>,
}

impl Default for Session {
    fn default() -> Self {
        let limits = Limits { max_bytes: LONGEST_REPLY, max_depth: DEEPEST_REPLY };
        Self { splitter: Splitter::new(limits), next: 1, nonce: None, seq: 0, awaited: BTreeMap::new() }
    }
}

impl Session {
    /// A connection on which nothing was said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new connection after another one: its numbers go on, so that no reply is taken for one of the former.
    #[must_use]
    pub fn after(former: &Self) -> Self {
        Self { next: former.next, ..Self::default() }
    }

    /// The line of a request. After the hello it shows the nonce, and a number that was not used before.
    pub fn request<P: Serialize>(
        &mut self,
        method: &'static str,
        params: &P,
    ) -> Result<(Ticket, Zeroizing<Vec<u8>>), Error> {
        let id = self.next;
        let shown = self.nonce.as_deref().map(|nonce| Shown { nonce, seq: self.seq + 1 });
        let line = line(id, method, params, shown)
            .map_err(|e| Error::Invalid(format!("{method} cannot be written: {e}")))?;
        self.next += 1;
        self.seq += u64::from(self.nonce.is_some());
        self.awaited.insert(id, Awaited { method, abandoned: false });
        Ok((Ticket(id), line))
    }

    /// What `claviger_hello` gave: from now on each request shows it.
    pub fn greeted(&mut self, result: &Value) -> Result<(), Error> {
        let nonce = result.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if nonce.len() != 32 || !nonce.bytes().all(|b| b.is_ascii_hexdigit()) {
            let why = "the nonce has not 32 hex digits".to_owned();
            return Err(Error::Mismatch { method: "claviger_hello", why });
        }
        self.nonce = Some(Zeroizing::new(nonce.to_owned()));
        self.seq = 0;
        Ok(())
    }

    /// Takes in what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.splitter.feed(bytes);
    }

    /// The next thing that came in whole; `None` when more must be read. After an error the connection is of no use.
    pub fn take(&mut self) -> Result<Option<Incoming>, String> {
        while let Some(message) = self.splitter.take().map_err(|e| e.to_string())? {
            let message = Zeroizing::new(message);
            let reply: Value =
                serde_json::from_slice(&message).map_err(|e| format!("a reply is no valid JSON: {e}"))?;
            let id = reply.get("id").filter(|id| !id.is_null()).cloned();
            let outcome = outcome(reply)?;
            let Some(id) = id else {
                return match outcome {
                    Err(refused) => Ok(Some(Incoming::LastWords(refused))),
                    Ok(_) => Err("a reply has no id".into()),
                };
            };
            let Some((id, awaited)) = id.as_u64().and_then(|id| Some((id, self.awaited.remove(&id)?))) else {
                return Err(format!("a reply to request {id}, which was not asked or is answered already"));
            };
            if !awaited.abandoned {
                return Ok(Some(Incoming::Reply(Ticket(id), outcome)));
            }
        }
        Ok(None)
    }

    /// Nobody waits for this one any more; its reply is dropped when it comes.
    pub fn abandon(&mut self, ticket: Ticket) {
        if let Some(awaited) = self.awaited.get_mut(&ticket.0) {
            awaited.abandoned = true;
        }
    }

    /// How many requests have no reply yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.awaited.len()
    }

    /// The method of a request that has no reply yet.
    #[must_use]
    pub fn method(&self, ticket: Ticket) -> Option<&'static str> {
        self.awaited.get(&ticket.0).map(|awaited| awaited.method)
    }
}

/// One request as a line, written once into memory that is wiped: parameters may be secret.
pub fn line<P: Serialize>(
    id: u64,
    method: &str,
    params: &P,
    shown: Option<Shown<'_>>,
) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
    serde_json::to_writer(&mut *line, &Request { jsonrpc: "2.0", id, method, params, claviger: shown })?;
    line.push(b'\n');
    Ok(line)
}

/// Result or refusal of one reply: exactly one of both.
pub fn outcome(mut reply: Value) -> Result<Result<Value, Refused>, String> {
    let map = reply.as_object_mut().ok_or("a reply is no object")?;
    if map.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err("a reply is not of JSON-RPC 2.0".into());
    }
    match (map.remove("result"), map.remove("error")) {
        (Some(result), None) => Ok(Ok(result)),
        (None, Some(error)) => Refused::read(&error)
            .map(Err)
            .ok_or_else(|| "an error of a reply has not the members that the daemon gives".into()),
        _ => Err("a reply has not one of result and error".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::app::hello::Hello;
    use crate::wire::rpc::{self, Message};
    use proptest::prelude::*;
    use serde_json::json;

    /// As the daemon reads it.
    fn read(line: &[u8]) -> rpc::Request {
        match rpc::parse(line, 1) {
            Ok(Message::Single(Ok(request))) => request,
            other => panic!("{other:?}"),
        }
    }

    // [clause 8.2.4-e] test
    #[test]
    fn the_daemon_admits_every_request_after_the_hello_and_each_once() {
        let (mut session, mut hello) = (Session::new(), Hello::new([0xab; 16]));
        let (_, first) = session.request("claviger_hello", &json!({})).unwrap();
        assert_eq!(hello.admit(read(&first).proof), Ok(false), "nobody knows the nonce yet");
        session.greeted(&json!({"nonce": hex::encode(hello.say())})).unwrap();
        for _ in 0..100 {
            let (_, next) = session.request("claviger_status", &json!({})).unwrap();
            assert_eq!(hello.admit(read(&next).proof), Ok(true));
        }
        assert!(session.greeted(&json!({"nonce": "abc"})).is_err());
        assert!(session.greeted(&json!({"nonce": "x".repeat(32)})).is_err());
    }

    #[test]
    fn replies_find_their_requests_in_any_order_and_only_once() {
        let mut session = Session::new();
        let (a, _) = session.request("a", &json!({})).unwrap();
        let (b, _) = session.request("b", &json!({})).unwrap();
        let (c, _) = session.request("c", &json!({})).unwrap();
        assert_eq!((session.method(b), session.under_way()), (Some("b"), 3));
        session.abandon(a);
        for n in [3, 1, 2] {
            session.feed(&rpc::line(&json!({"jsonrpc": "2.0", "id": n, "result": n})));
        }
        let mut next = || match session.take().unwrap() {
            Some(Incoming::Reply(ticket, Ok(value))) => Some((ticket, value)),
            _ => None,
        };
        assert_eq!(next(), Some((c, json!(3))));
        assert_eq!(next(), Some((b, json!(2))), "nobody waits for the first");
        assert_eq!(next(), None);
        session.feed(&rpc::line(&json!({"jsonrpc": "2.0", "id": 2, "result": 0})));
        assert!(session.take().unwrap_err().contains("answered already"));
    }

    #[test]
    fn what_is_no_reply_ends_the_connection_and_last_words_are_heard() {
        for bad in [
            json!({"jsonrpc": "2.0", "id": 1}),
            json!({"jsonrpc": "2.0", "id": 1, "result": 1, "error": {}}),
            json!({"jsonrpc": "1.0", "id": 1, "result": 1}),
            json!({"jsonrpc": "2.0", "id": null, "result": 1}),
            json!({"jsonrpc": "2.0", "id": "1", "result": 1}),
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "x"}}),
            json!([1]),
        ] {
            let mut session = Session::new();
            session.request("a", &json!({})).unwrap();
            session.feed(&rpc::line(&bad));
            assert!(session.take().is_err(), "{bad}");
        }
        let mut session = Session::new();
        let refusal = crate::refusal::Refusal::new(crate::refusal::Code::AppSender, "another process");
        session.feed(&rpc::line(&rpc::error(&Value::Null, &refusal, rpc::Dialect::Native)));
        assert!(matches!(session.take(), Ok(Some(Incoming::LastWords(r))) if r.code() == "app_sender"));
    }

    proptest! {
        #[test]
        fn any_bytes_of_a_false_daemon_neither_panic_nor_answer_twice(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut session = Session::new();
            session.request("a", &json!({})).unwrap();
            session.feed(&bytes);
            let mut replies = 0;
            while let Ok(Some(incoming)) = session.take() {
                replies += usize::from(matches!(incoming, Incoming::Reply(..)));
            }
            prop_assert!(replies <= 1);
        }
    }
}
