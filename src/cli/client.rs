//! A small blocking JSON-RPC client for the daemon's sockets.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Failure;
use crate::client::protocol::session;

/// Longest reply, bytes.
const MOST: u64 = 64 << 20;

/// Calls one method.
pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, Failure> {
    call_sealed(socket, method, &params)
}

/// The same with parameters that hold a secret: they are written once, into memory that is wiped.
pub fn call_sealed(socket: &Path, method: &str, params: &impl Serialize) -> Result<Value, Failure> {
    let line = session::line(1, method, params, None).map_err(Failure::plain)?;
    exchange(socket, &line)
}

fn exchange(socket: &Path, request: &[u8]) -> Result<Value, Failure> {
    let unreachable = |e: std::io::Error| {
        Failure::Unreachable(format!(
            "the daemon does not answer on {}: {e}; is clavigerd running?",
            socket.display()
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(unreachable)?;
    stream.write_all(request).map_err(unreachable)?;
    let mut line = String::new();
    let mut reader = std::io::Read::take(BufReader::new(stream), MOST);
    reader.read_line(&mut line).map_err(unreachable)?;
    let nonsense = |why: String| {
        Failure::Unreachable(format!("the daemon closed the connection or answered nonsense: {why}"))
    };
    let reply: Value = serde_json::from_str(&line).map_err(|e| nonsense(e.to_string()))?;
    session::outcome(reply).map_err(nonsense)?.map_err(|refused| {
        let mut sentence = format!("{}: {}", refused.code(), refused.message());
        if let Some(rule) = refused.rule() {
            sentence.push_str(&format!("\n  rule: {rule}"));
        }
        sentence.push_str(&format!("\n  advice: {}", refused.advice()));
        Failure::Refused(sentence, refused.data().clone())
    })
}
