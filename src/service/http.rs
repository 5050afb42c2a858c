//! One request of plain HTTP/1.0 and its answer: to a collector or a witness on this machine, or a proxy to one.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::config::Url;

/// Longest answer, bytes.
const LONGEST: u64 = 64 * 1024;

/// Posts a body and gives status and body of the answer. Blocks for `patience` at most, the name's look-up aside.
pub(super) fn post(url: &Url, kind: &str, body: &[u8], patience: Duration) -> io::Result<(u16, Vec<u8>)> {
    let until = Instant::now() + patience;
    let mut stream = connect(&url.authority, patience)?;
    // 1.0: the answer is not cut into chunks, and ends with the connection.
    let head = format!(
        "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        url.path,
        url.authority,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while (answer.len() as u64) < LONGEST {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if let Some(whole) = parsed(&answer)
            && whole.2
        {
            break;
        }
    }
    let (status, body, _) =
        parsed(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))?;
    Ok((status, body))
}

/// Connects to whichever address of a name answers.
pub(super) fn connect(authority: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{authority} has no address"));
    for address in authority.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_write_timeout(Some(patience))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Status, body, and whether the body is all there by its length.
fn parsed(answer: &[u8]) -> Option<(u16, Vec<u8>, bool)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = answer.get(end + 4..)?;
    let whole = length.is_some_and(|length| body.len() >= length);
    let body = body.get(..length.unwrap_or(body.len()).min(body.len()))?;
    Some((status, body.to_vec(), whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_with_and_without_a_length() {
        let answer = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\n\r\n7\nxx";
        assert_eq!(parsed(answer), Some((409, b"7\n".to_vec(), true)));
        assert_eq!(parsed(b"HTTP/1.0 200 OK\r\n\r\nab"), Some((200, b"ab".to_vec(), false)));
        assert_eq!(parsed(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parsed(b"SMTP\r\n\r\n"), None);
    }
}
