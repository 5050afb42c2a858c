//! What passes between the daemon and a token worker: frames of a 32-bit little-endian length and JSON.
//!
//! Both ends are the same executable, so that the form may change with any release. Buffers are wiped: a frame may
//! hold a text that a key shall protect.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Place;
use crate::core::key::{Algorithm, KeyRef};
use crate::core::payment::ToSign;
use crate::secret::MAX_PIN_BYTES;
use crate::sys;
use crate::token::audit::{Audit, Handover};
use crate::token::backup::{Ask, Made};
use crate::token::check::CheckRow;
use crate::token::profile::Profile;
use crate::token::{Description, KeySpec, Nonce, Object, Past, TokenError};

/// How long a side looks before it sleeps.
const MOMENT: Duration = Duration::from_micros(400);
/// A yield that takes longer ran somebody else.
const WANTED: Duration = Duration::from_micros(5);
/// Longest frame.
const MAX_FRAME: usize = 1 << 20;

/// On the first socket: the life of the worker. After `Start` comes the PIN, as a frame of its own and no JSON.
#[derive(Serialize, Deserialize)]
pub(super) enum Control {
    Start { profile: Box<Profile>, place: Place, handover: Handover },
    Alive,
    Close,
}

/// On the other sockets, one session each.
#[derive(Serialize, Deserialize)]
pub(super) enum Request {
    Describe,
    Generate(KeySpec),
    Find(KeyRef),
    Sign { reference: KeyRef, algorithm: Algorithm, to_sign: ToSign },
    Encrypt { reference: KeyRef, nonce: Nonce, aad: Vec<u8>, plain: Zeroizing<Vec<u8>> },
    Decrypt { reference: KeyRef, nonce: Nonce, aad: Vec<u8>, sealed: Vec<u8> },
    Mac { reference: KeyRef, data: Vec<u8> },
    Data(String),
    KeepData { label: String, bytes: Vec<u8>, beside: Vec<u8> },
    Destroy(KeyRef),
    Random(usize),
    Inventory(Option<String>),
    Past(KeyRef),
    Import { spec: KeySpec, private: Zeroizing<[u8; 32]> },
    Backup(Ask),
    Health,
    Audit,
    Check,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    /// The PIN is about to be sent to the token; the outcome follows.
    LoggingIn,
    Description(Description),
    Public(Option<(Algorithm, Vec<u8>)>),
    Bytes(Zeroizing<Vec<u8>>),
    Audit(Audit),
    Rows(Vec<CheckRow>),
    Objects(Vec<Object>),
    Data(Vec<Vec<u8>>),
    Past(Past),
    Imported {
        algorithm: Algorithm,
        public: Vec<u8>,
        past: Past,
    },
    Backup(Made),
}

pub(super) type Answer = Result<Reply, TokenError>;

/// One end of a socket, with the bytes that were read ahead.
pub(super) struct Lane {
    stream: UnixStream,
    ahead: Zeroizing<Vec<u8>>,
}

impl Lane {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, ahead: Zeroizing::new(Vec::with_capacity(4096)) }
    }

    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut frame = Zeroizing::new(Vec::with_capacity(1024));
        frame.extend([0; 4]);
        serde_json::to_writer(&mut *frame, message).map_err(io::Error::other)?;
        self.write(frame)
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut frame = Zeroizing::new(Vec::with_capacity(bytes.len() + 4));
        frame.extend([0; 4]);
        frame.extend(bytes);
        self.write(frame)
    }

    fn write(&mut self, mut frame: Zeroizing<Vec<u8>>) -> io::Result<()> {
        let length = frame.len().saturating_sub(4);
        if length > MAX_FRAME {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the message is too long"));
        }
        let head = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        frame.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        self.stream.write_all(&frame)
    }

    /// The next message; `None` at the end of the stream. `patience` is for the whole of it.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
        patience: Option<Duration>,
    ) -> io::Result<Option<T>> {
        match self.frame(patience)? {
            None => Ok(None),
            Some(frame) => serde_json::from_slice(&frame).map(Some).map_err(io::Error::other),
        }
    }

    /// The next frame as a PIN.
    pub(super) fn receive_pin(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        match self.frame(None)? {
            Some(frame) if frame.len() <= MAX_PIN_BYTES => Ok(frame),
            _ => Err(io::Error::new(ErrorKind::InvalidData, "no PIN came")),
        }
    }

    /// Looks for a moment whether something comes: to fall asleep and be woken costs more than many answers take to
    /// come. As soon as somebody else wants the processor, it is theirs.
    fn look_again(&self, chunk: &mut [u8]) -> io::Result<Option<usize>> {
        let until = Instant::now() + MOMENT;
        loop {
            match sys::read_at_once(self.stream.as_fd(), chunk) {
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => return other,
            }
            let now = Instant::now();
            std::thread::yield_now();
            if now >= until || now.elapsed() > WANTED {
                return Ok(None);
            }
        }
    }

    fn frame(&mut self, patience: Option<Duration>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let began = Instant::now();
        self.stream.set_read_timeout(patience)?;
        loop {
            if let Some((head, rest)) = self.ahead.split_first_chunk::<4>() {
                let length = usize::try_from(u32::from_le_bytes(*head)).unwrap_or(usize::MAX);
                if length > MAX_FRAME {
                    return Err(io::Error::new(ErrorKind::InvalidData, "the message is too long"));
                }
                if let Some(body) = rest.get(..length) {
                    let frame = Zeroizing::new(body.to_vec());
                    self.ahead = Zeroizing::new(rest.get(length..).unwrap_or_default().to_vec());
                    return Ok(Some(frame));
                }
            }
            if patience.is_some_and(|p| began.elapsed() >= p) {
                return Err(ErrorKind::TimedOut.into());
            }
            let mut chunk = Zeroizing::new([0u8; 4096]);
            let soon = self.look_again(&mut *chunk)?;
            let read = match soon.map_or_else(|| self.stream.read(&mut *chunk), Ok) {
                Ok(0) if self.ahead.is_empty() => return Ok(None),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            };
            // A vector that grows leaves its old bytes behind: move them over by hand.
            let mut more = Zeroizing::new(Vec::with_capacity(self.ahead.len() + read));
            more.extend_from_slice(&self.ahead);
            more.extend_from_slice(chunk.get(..read).unwrap_or_default());
            self.ahead = more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_however_they_are_cut() {
        let (a, b) = UnixStream::pair().unwrap();
        let mut lane = Lane::new(b);
        let message = Request::Sign {
            reference: KeyRef::from([3; 16]),
            algorithm: Algorithm::Ed25519,
            to_sign: ToSign::Message(vec![9; 20_000]),
        };
        let writer = std::thread::spawn(move || {
            let mut out = Lane::new(a);
            out.send(&message).unwrap();
            out.send(&Control::Alive).unwrap();
            out.stream.write_all(&[2, 0]).unwrap();
        });
        let back: Request = lane.receive(None).unwrap().unwrap();
        assert!(matches!(back, Request::Sign { to_sign: ToSign::Message(m), .. } if m == vec![9; 20_000]));
        assert!(matches!(lane.receive(None).unwrap(), Some(Control::Alive)));
        writer.join().unwrap();
        let cut = lane.receive::<Control>(None).map(|_| ()).unwrap_err();
        assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn silence_ends_at_the_deadline_and_lengths_are_bounded() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut lane = Lane::new(b);
        let late = lane.receive::<Control>(Some(Duration::from_millis(20))).map(|_| ()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let long = lane.receive::<Control>(None).map(|_| ()).unwrap_err();
        assert_eq!(long.kind(), ErrorKind::InvalidData);
    }
}
