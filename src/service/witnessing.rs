//! A witness for the logs of others: remembers of each the largest tree that it cosigned, on disk before it answers.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};

use super::rules::write_atomically;
use crate::core::log::checkpoint::{Note, NoteKey, cosignature_line, cosigned_message, witness_key};
use crate::core::log::witness::{Declined, LONGEST_REQUEST, Seen, Submission, judge};
use crate::core::units::sha256;
use crate::secret::SecretBytes;

/// Longest time for one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// A witness.
pub struct Witness {
    dir: PathBuf,
    name: String,
    key: SigningKey,
    logs: Vec<NoteKey>,
    _lock: fs::File,
}

/// Status, kind and body of an answer.
type Answer = (u16, &'static str, String);

impl Witness {
    /// Opens its directory; makes it, and its key, when it is not there.
    pub fn open(dir: &Path, name: &str, logs: Vec<NoteKey>) -> io::Result<Self> {
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b'+') {
            return Err(wrong("a witness's name is printable ASCII without spaces and +"));
        }
        if !dir.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))?;
        lock.try_lock()
            .map_err(|e| io::Error::other(format!("another witness uses {}: {e}", dir.display())))?;
        let file = dir.join("key");
        let seed = if file.exists() {
            let bytes = zeroize::Zeroizing::new(fs::read(&file)?);
            let bytes: &[u8; 32] =
                bytes.as_slice().try_into().map_err(|_| wrong("its key file is damaged"))?;
            SecretBytes::copy_of(bytes)
        } else {
            let seed = SecretBytes::<32>::fill(|bytes| getrandom::fill(bytes)).map_err(io::Error::other)?;
            let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
            out.write_all(seed.expose())?;
            out.sync_all()?;
            fs::File::open(dir)?.sync_all()?;
            seed
        };
        let key = SigningKey::from_bytes(seed.expose());
        Ok(Self { dir: dir.to_owned(), name: name.to_owned(), key, logs, _lock: lock })
    }

    /// Its key, for those who count its cosignatures.
    #[must_use]
    pub fn vkey(&self) -> String {
        witness_key(&self.name, &self.key.verifying_key().to_bytes())
    }

    fn file(&self, origin: &str) -> PathBuf {
        self.dir.join(format!("{}.seen", hex::encode(sha256(origin.as_bytes()))))
    }

    /// What was cosigned last. A file that is there and cannot be read is never taken for none.
    fn seen(&self, origin: &str) -> io::Result<Seen> {
        let text = match fs::read_to_string(self.file(origin)) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Seen::NOTHING),
            Err(e) => return Err(e),
        };
        let head = Note::parse(&text).and_then(|n| n.head()).map_err(io::Error::other)?;
        Ok(Seen { size: head.size, root: head.root })
    }

    /// Answers one request. One at a time: what is asked and what is remembered belong together.
    fn answer(&self, body: &str) -> io::Result<Answer> {
        let declined = |d: Declined| {
            let size = if let Declined::Elsewhere(n) | Declined::Fork(n) = d { Some(n) } else { None };
            match size {
                Some(size) => (d.status(), "text/x.tlog.size", format!("{size}\n")),
                None => (d.status(), "text/plain", format!("{d}\n")),
            }
        };
        let Some(submission) = Submission::parse(body) else { return Ok(declined(Declined::Malformed)) };
        let mut trouble = None;
        let judged = judge(&submission, &self.logs, |origin| {
            self.seen(origin).unwrap_or_else(|e| {
                trouble = Some(e);
                Seen::NOTHING
            })
        });
        if let Some(e) = trouble {
            return Err(e);
        }
        let head = match judged {
            Ok(head) => head,
            Err(why) => {
                tracing::warn!("not cosigned: {why}");
                return Ok(declined(why));
            }
        };
        // [clause 8.7.1-w] remembered first: a crash after the answer must not forget what was answered
        write_atomically(&self.file(&head.origin), submission.note.as_bytes())?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
        let text = Note::parse(&submission.note).map_err(io::Error::other)?.text.to_owned();
        let signature = self.key.sign(cosigned_message(now, &text).as_bytes()).to_bytes();
        let public = self.key.verifying_key().to_bytes();
        Ok((200, "text/plain", cosignature_line(&self.name, &public, now, &signature)))
    }

    /// Serves until it is ended.
    pub fn serve(&self, listener: &TcpListener) -> io::Result<()> {
        loop {
            match listener.accept() {
                Ok((mut stream, from)) => {
                    if let Err(e) = self.connection(&mut stream) {
                        tracing::debug!("{from}: {e}");
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn connection(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let (status, kind, body) = match request(stream)? {
            Ok(body) => self.answer(&body).unwrap_or_else(|e| {
                tracing::error!("what was cosigned cannot be read or kept: {e}");
                (500, "text/plain", "the witness is in trouble\n".into())
            }),
            Err(status) => (status, "text/plain", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status} {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            if status == 200 { "OK" } else { "Declined" },
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())
    }
}

/// Reads a request, bounded in bytes and time; `Err` inside is the status of what is none.
fn request(stream: &mut TcpStream) -> io::Result<Result<String, u16>> {
    let until = Instant::now() + PATIENCE;
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned();
            let mut lines = head.split("\r\n");
            let mut words = lines.next().unwrap_or_default().split(' ');
            if words.next() != Some("POST") {
                return Ok(Err(405));
            }
            if !words.next().is_some_and(|path| path.ends_with("/add-checkpoint")) {
                return Ok(Err(404));
            }
            let length = lines.find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let Some(length) = length else { return Ok(Err(411)) };
            if length > LONGEST_REQUEST {
                return Ok(Err(413));
            }
            if let Some(body) = bytes.get(end + 4..).filter(|b| b.len() >= length) {
                let body = body.get(..length).unwrap_or_default().to_vec();
                return Ok(String::from_utf8(body).map_err(|_| 400));
            }
        }
        if bytes.len() > LONGEST_REQUEST * 2 {
            return Ok(Err(413));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Err(408));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Ok(Err(400)),
            n => bytes.extend_from_slice(part.get(..n).unwrap_or_default()),
        }
    }
}
