//! A small blocking JSON-RPC client for the daemon's sockets.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Failure;

/// Longest reply, bytes.
const MOST: u64 = 64 << 20;

/// Calls one method.
pub fn call(socket: &Path, method: &str, params: Value) -> Result<Value, Failure> {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    exchange(socket, format!("{request}\n").as_bytes())
}

/// The same with parameters that hold a secret: they are written once, into memory that is wiped.
pub fn call_sealed(socket: &Path, method: &str, params: &impl Serialize) -> Result<Value, Failure> {
    #[derive(Serialize)]
    struct Call<'a, P> {
        jsonrpc: &'a str,
        id: u8,
        method: &'a str,
        params: &'a P,
    }
    // Larger than any such call: a buffer that grows leaves its old bytes behind.
    let mut line = Zeroizing::new(Vec::with_capacity(16 * 1024));
    let call = Call { jsonrpc: "2.0", id: 1, method, params };
    serde_json::to_writer(&mut *line, &call).map_err(Failure::plain)?;
    line.push(b'\n');
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
