//! A door of our own in front of the connector, for the crate's HTTP client.
//!
//! That client takes an answer in two TCP segments for garbage, ignores its timeout, and hides the device's error code.
//! The relay reads whole answers under a deadline, hands them over in one segment, and remembers what went wrong.
//! It lets one client in, once, and ends with it.
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::wire::{ERROR, MAX_FRAME, Wire};
use super::{TokenError, refusal};

/// What last went wrong on the way, or what the device refused outside of a session.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<TokenError>>>);

impl Trouble {
    fn set(&self, trouble: TokenError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    /// Takes it.
    pub(super) fn take(&self) -> Option<TokenError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Where the crate's client finds its way to the device.
pub(super) struct Relay {
    pub(super) address: SocketAddr,
    pub(super) trouble: Trouble,
}

impl Relay {
    /// Opens the door.
    pub(super) fn open(wire: Arc<Wire>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let trouble = Trouble::default();
        let theirs = trouble.clone();
        std::thread::Builder::new().name("relay".into()).spawn(move || {
            let accepted = listener.accept();
            drop(listener);
            if let Ok((stream, _)) = accepted
                && let Err(e) = serve(stream, &wire, &theirs)
            {
                tracing::debug!("the relay ends: {e}");
            }
        })?;
        Ok(Self { address, trouble })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A door that nobody came through is still being watched.
        drop(TcpStream::connect(self.address));
    }
}

/// Passes frames on until either side goes. An answer that cannot be had ends the connection: no answer is a wrong one.
fn serve(mut stream: TcpStream, wire: &Wire, trouble: &Trouble) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut ahead = Vec::with_capacity(1024);
    while let Some(frame) = request(&mut stream, &mut ahead)? {
        let answer = match wire.exchange(&frame) {
            Ok(answer) => answer,
            Err(e) => {
                let why = e.to_string();
                trouble.set(e);
                return Err(io::Error::other(why));
            }
        };
        if let [ERROR, _, _, code] = answer.as_slice() {
            trouble.set(refusal(*code));
        }
        let mut whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        whole.extend_from_slice(&answer);
        stream.write_all(&whole)?;
    }
    Ok(())
}

fn request(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(at) = ahead.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(ahead.get(..at).unwrap_or_default()).into_owned();
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse::<usize>().ok())
                .filter(|length| *length <= MAX_FRAME)
                .ok_or_else(|| io::Error::other("no length of a frame"))?;
            let end = at.saturating_add(4).saturating_add(length);
            if let Some(body) = ahead.get(at.saturating_add(4)..end) {
                let frame = body.to_vec();
                ahead.drain(..end);
                return Ok(Some(frame));
            }
        }
        if ahead.len() > 2 * MAX_FRAME {
            return Err(io::Error::other("the request is too long"));
        }
        match stream.read(&mut chunk)? {
            0 => return Ok(None),
            n => ahead.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
}
