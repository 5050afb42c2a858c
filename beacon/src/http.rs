//! The little HTTP that a proxy in front speaks: one request a connection, bounded in size and time.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest head and body, bytes.
const LONGEST_HEAD: usize = 8 * 1024;
const LONGEST_BODY: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// A request.
pub struct Request {
    /// GET or POST.
    pub method: String,
    /// Without a query.
    pub path: String,
    /// As text.
    pub body: String,
}

/// Reads one; `None` for what is none.
pub fn read(stream: &mut TcpStream) -> Option<Request> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() > LONGEST_HEAD {
            return None;
        }
        let count = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(chunk.get(..count)?);
    };
    let head = String::from_utf8(bytes.get(..end)?.to_vec()).ok()?;
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Some(0), |(_, value)| value.trim().parse::<usize>().ok())?;
    if length > LONGEST_BODY {
        return None;
    }
    let mut body = bytes.get(end + 4..)?.to_vec();
    while body.len() < length {
        let count = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        body.extend_from_slice(chunk.get(..count)?);
    }
    body.truncate(length);
    let path = path.split('?').next()?.to_owned();
    Some(Request { method, path, body: String::from_utf8(body).ok()? })
}

/// Answers; a peer that has gone does not hear it.
pub fn write(stream: &mut TcpStream, status: u16, kind: &str, body: &str) {
    let word = if status == 200 { "OK" } else { "Refused" };
    let head = format!(
        "HTTP/1.1 {status} {word}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\nx-content-type-options: nosniff\r\ncontent-security-policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n",
        body.len()
    );
    drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())));
}
