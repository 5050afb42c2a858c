//! Where entries are handed out: a file, a syslog daemon, a collector. Each blocks, and is called from a thread that may.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http;
use crate::config::{Sink, SyslogTo, Url};
use crate::core::log::entry::Entry;

/// Longest wait for the other side.
const PATIENCE: Duration = Duration::from_secs(5);
/// TCP does not say what arrived: what was written counts when the connection still stands so much later.
const STANDS: Duration = Duration::from_secs(2);
/// Longest datagram, bytes.
const LONGEST_DATAGRAM: usize = 60_000;

/// An entry as it goes out.
pub(super) struct Line {
    pub(super) seq: u64,
    at: String,
    at_ms: i64,
    kind: String,
    json: String,
}

impl Line {
    /// `None` for bytes that are no entry.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let members = Entry::members(bytes).ok()?;
        let text = |name: &str| members.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            seq: members.get("seq")?.as_u64()?,
            at: text("at")?,
            at_ms: members.get("at_ms")?.as_i64()?,
            kind: text("kind")?,
            json: members.to_string(),
        })
    }

    /// Severity of RFC 5424, and what OTLP calls it.
    fn severity(&self) -> (u8, u8, &'static str) {
        match self.kind.as_str() {
            "strange-operation" | "alarm" => (2, 21, "FATAL"),
            "failed" | "in-doubt" => (3, 17, "ERROR"),
            "refusal" | "key-due" => (4, 13, "WARN"),
            _ => (6, 9, "INFO"),
        }
    }
}

/// A sink that is being written to.
pub(super) enum Door {
    Jsonl(Jsonl),
    Syslog(Syslog),
    Otlp(Url),
}

impl Door {
    pub(super) fn new(sink: &Sink) -> Self {
        match sink {
            Sink::Jsonl { file, max_bytes, keep } => {
                Self::Jsonl(Jsonl { path: file.clone(), max_bytes: *max_bytes, keep: *keep, file: None })
            }
            Sink::Syslog(to) => Self::Syslog(Syslog { to: to.clone(), way: None, sent: VecDeque::new() }),
            Sink::Otlp(url) => Self::Otlp(url.clone()),
        }
    }

    /// Hands lines out, in order; tells before which index everything is known to have arrived, when that is more than
    /// before. After an error nothing of it is known.
    pub(super) fn deliver(&mut self, lines: &[Line]) -> io::Result<Option<u64>> {
        let after = lines.last().map(|l| l.seq.saturating_add(1));
        match self {
            Self::Jsonl(file) if !lines.is_empty() => file.append(lines).map(|()| after),
            Self::Otlp(url) if !lines.is_empty() => collector(url, lines).map(|()| after),
            Self::Syslog(syslog) => syslog.send(lines),
            Self::Jsonl(_) | Self::Otlp(_) => Ok(None),
        }
    }

    /// Begins anew after an error.
    pub(super) fn reset(&mut self) {
        match self {
            Self::Jsonl(jsonl) => jsonl.file = None,
            Self::Syslog(syslog) => {
                syslog.way = None;
                syslog.sent.clear();
            }
            Self::Otlp(_) => {}
        }
    }
}

/// A file of JSON lines.
pub(super) struct Jsonl {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: Option<(File, u64)>,
}

impl Jsonl {
    fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        for line in lines {
            let (mut file, size) = match self.file.take() {
                Some(open) => open,
                None => open(&self.path)?,
            };
            let text = format!("{}\n", line.json);
            if size > 0 && size.saturating_add(text.len() as u64) > self.max_bytes {
                file.sync_all()?;
                drop(file);
                self.put_aside()?;
                let (mut fresh, _) = open(&self.path)?;
                fresh.write_all(text.as_bytes())?;
                self.file = Some((fresh, text.len() as u64));
            } else {
                file.write_all(text.as_bytes())?;
                self.file = Some((file, size.saturating_add(text.len() as u64)));
            }
        }
        match &self.file {
            Some((file, _)) => file.sync_data(),
            None => Ok(()),
        }
    }

    /// `log.jsonl` becomes `log.jsonl.1`, which becomes `log.jsonl.2`; the last one goes.
    fn put_aside(&self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.keep).rev() {
            if numbered(n).exists() {
                fs::rename(numbered(n), numbered(n + 1))?;
            }
        }
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        } else {
            fs::rename(&self.path, numbered(1))?;
        }
        sync_directory(&self.path)
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Opens the file behind its last whole line: what a crash cut comes again.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let fresh = !path.exists();
    let mut file =
        fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path)?;
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut byte = [0];
    while end > 0 {
        file.seek(SeekFrom::Start(end - 1))?;
        file.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        end -= 1;
    }
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end))?;
    if fresh {
        sync_directory(path)?;
    }
    Ok((file, end))
}

enum Way {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// Syslog, RFC 5424.
pub(super) struct Syslog {
    to: SyslogTo,
    way: Option<Way>,
    /// What was written and is not known to have arrived: when, and the index after it.
    sent: VecDeque<(Instant, u64)>,
}

impl Syslog {
    fn send(&mut self, lines: &[Line]) -> io::Result<Option<u64>> {
        if self.way.is_none() && lines.is_empty() {
            return Ok(None);
        }
        let way = match self.way.take() {
            Some(way) => way,
            None => way(&self.to)?,
        };
        let after = lines.last().map(|l| l.seq.saturating_add(1));
        let (way, arrived) = match way {
            Way::Tcp(mut stream) => {
                stands(&mut stream)?;
                let mut bytes = Vec::new();
                for line in lines {
                    // RFC 6587, 3.4.1: octets are counted, so that no byte of a message ends it.
                    let message = message(line, usize::MAX);
                    bytes.extend_from_slice(format!("{} {message}", message.len()).as_bytes());
                }
                stream.write_all(&bytes)?;
                self.sent.extend(after.map(|a| (Instant::now(), a)));
                let mut arrived = None;
                while self.sent.front().is_some_and(|(at, _)| at.elapsed() >= STANDS) {
                    arrived = self.sent.pop_front().map(|(_, a)| a);
                }
                (Way::Tcp(stream), arrived)
            }
            Way::Udp(socket) => {
                for line in lines {
                    socket.send(message(line, LONGEST_DATAGRAM).as_bytes())?;
                }
                (Way::Udp(socket), after)
            }
            Way::Unix(socket) => {
                for line in lines {
                    socket.send(message(line, LONGEST_DATAGRAM).as_bytes())?;
                }
                (Way::Unix(socket), after)
            }
        };
        self.way = Some(way);
        Ok(arrived)
    }
}

fn way(to: &SyslogTo) -> io::Result<Way> {
    Ok(match to {
        SyslogTo::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Way::Unix(socket)
        }
        SyslogTo::Udp(to) => {
            let address = to
                .to_socket_addrs()?
                .next()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{to} has no address")))?;
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(address)?;
            Way::Udp(socket)
        }
        SyslogTo::Tcp(to) => Way::Tcp(http::connect(to, PATIENCE)?),
    })
}

/// A syslog server says nothing; one that has closed says that.
fn stands(stream: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 64];
    stream.set_nonblocking(true)?;
    let read = stream.read(&mut bytes);
    stream.set_nonblocking(false)?;
    match read {
        Ok(0) => Err(io::ErrorKind::ConnectionReset.into()),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(e),
    }
}

/// One message of RFC 5424, facility 13 (log audit). What is too long for a datagram says that it is.
fn message(line: &Line, longest: usize) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|h| !h.is_empty() && h.is_ascii()).unwrap_or("-").to_owned();
    let (severity, ..) = line.severity();
    // RFC 5424, 7.3.1: from 1 on, and never above 2^31 - 1. The whole number stands in the message.
    let sequence = line.seq % 0x7fff_ffff + 1;
    let head = format!(
        "<{}>1 {} {host} clavigerd {} {} [meta sequenceId=\"{sequence}\"] ",
        13 * 8 + severity,
        line.at,
        std::process::id(),
        line.kind
    );
    if head.len() + line.json.len() <= longest {
        return head + &line.json;
    }
    head + &json!({"seq": line.seq, "at": line.at, "kind": line.kind, "too_long": line.json.len()})
        .to_string()
}

/// OTLP/HTTP, JSON: one request for all lines.
fn collector(url: &Url, lines: &[Line]) -> io::Result<()> {
    let records: Vec<Value> = lines
        .iter()
        .map(|line| {
            let (_, number, text) = line.severity();
            json!({
                "timeUnixNano": (i128::from(line.at_ms) * 1_000_000).to_string(),
                "severityNumber": number,
                "severityText": text,
                "body": {"stringValue": line.json},
                "attributes": [
                    {"key": "claviger.seq", "value": {"intValue": line.seq.to_string()}},
                    {"key": "claviger.kind", "value": {"stringValue": line.kind}},
                ],
            })
        })
        .collect();
    let body = json!({"resourceLogs": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "clavigerd"}}]},
        "scopeLogs": [{"scope": {"name": "claviger.log"}, "logRecords": records}],
    }]});
    let (status, answer) = http::post(url, "application/json", body.to_string().as_bytes(), PATIENCE)?;
    // Accepted in part is not accepted: what is rejected would be a gap.
    let rejected = serde_json::from_slice::<Value>(&answer).ok().and_then(|a| {
        let count = a.pointer("/partialSuccess/rejectedLogRecords")?;
        Some(count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(1))
    });
    if (200..300).contains(&status) && rejected.unwrap_or(0) == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("{url} answered {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::log::entry::EntryKind;
    use crate::core::units::Timestamp;

    fn lines(from: u64, count: u64) -> Vec<Line> {
        let entry = |n| {
            let kind = EntryKind::operator(0, &"x".repeat(1000), Value::Null);
            Line::of(&Entry::encode(n, Timestamp(5), &kind).unwrap()).unwrap()
        };
        (from..from + count).map(entry).collect()
    }

    fn seqs(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap()).collect()
    }

    #[test]
    fn a_file_is_put_aside_when_it_is_full_and_a_cut_line_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log.jsonl");
        let door = || Door::new(&Sink::Jsonl { file: file.clone(), max_bytes: 5000, keep: 2 });
        assert_eq!(door().deliver(&lines(0, 3)).unwrap(), Some(3));
        assert_eq!(door().deliver(&[]).unwrap(), None);
        // A crash in the midst of a line.
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 7]).unwrap();
        assert_eq!(door().deliver(&lines(2, 1)).unwrap(), Some(3));
        assert_eq!(seqs(&file), [0, 1, 2]);
        assert_eq!(door().deliver(&lines(3, 9)).unwrap(), Some(12));
        assert_eq!(seqs(&file), [8, 9, 10, 11]);
        assert_eq!(seqs(&dir.path().join("log.jsonl.1")), [4, 5, 6, 7]);
        assert_eq!(seqs(&dir.path().join("log.jsonl.2")), [0, 1, 2, 3]);
        door().deliver(&lines(12, 1)).unwrap();
        assert_eq!(seqs(&dir.path().join("log.jsonl.2")), [4, 5, 6, 7]);
    }

    #[test]
    fn messages_are_those_of_rfc_5424_and_fit_a_datagram() {
        let line = lines(7, 1).remove(0);
        let text = message(&line, usize::MAX);
        assert!(text.starts_with("<110>1 1970-01-01T00:00:00.005Z "), "{text}");
        assert!(text.contains(" operator [meta sequenceId=\"8\"] {"), "{text}");
        let short = message(&line, 300);
        assert!(
            short.len() <= 300 && short.contains("\"too_long\"") && short.contains("\"seq\":7"),
            "{short}"
        );
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut door = Door::new(&Sink::Syslog(SyslogTo::Unix(path)));
        assert_eq!(door.deliver(&lines(0, 2)).unwrap(), Some(2));
        let mut bytes = [0; 4096];
        let got = socket.recv(&mut bytes).unwrap();
        assert!(String::from_utf8_lossy(&bytes[..got]).contains("\"seq\":0"));
    }
}
