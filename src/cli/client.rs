//! A small blocking JSON-RPC client for the daemon's sockets.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;

/// Longest reply, bytes.
const MOST: u64 = 64 << 20;

/// Calls one method.
pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, Failure> {
    let unreachable = |e: std::io::Error| {
        Failure::Unreachable(format!(
            "the daemon does not answer on {}: {e}; is clavigerd running?",
            socket.display()
        ))
    };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).map_err(unreachable)?;
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stream.write_all(format!("{request}\n").as_bytes()).map_err(unreachable)?;
    let mut line = String::new();
    let mut reader = std::io::Read::take(BufReader::new(stream), MOST);
    reader.read_line(&mut line).map_err(unreachable)?;
    let mut reply: Value = serde_json::from_str(&line).map_err(|e| {
        Failure::Unreachable(format!("the daemon closed the connection or answered nonsense: {e}"))
    })?;
    if let Some(error) = reply.get("error") {
        let text = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("").to_owned();
        let data = error.get("data").cloned().unwrap_or(Value::Null);
        let mut sentence = format!("{}: {}", text(data.get("code")), text(error.get("message")));
        if let Some(rule) = data.get("rule").and_then(Value::as_str) {
            sentence.push_str(&format!("\n  rule: {rule}"));
        }
        sentence.push_str(&format!("\n  advice: {}", text(data.get("advice"))));
        return Err(Failure::Refused(sentence, data));
    }
    Ok(reply.get_mut("result").map(Value::take).unwrap_or_default())
}
