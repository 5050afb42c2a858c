//! The blocking client: one connection, one thread.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::connect::{Line, Options};
use super::methods::{every_method, ms};
use super::protocol::ask::{self, Ask, Read as ReadReply};
use super::protocol::error::{Error, Refused};
use super::protocol::payment::{Payment, SignedPayment, Standing};
use super::protocol::replies::{Governance, Key, LoginSignature, News, Simulation, Status, UserCode};
use super::protocol::session::{Incoming, Session, Ticket};
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name};

/// A request that was sent and has no answer yet: [`Client::receive`] gives it.
#[must_use = "the answer is in Client::receive"]
pub struct Sent<T> {
    ticket: Ticket,
    method: &'static str,
    until: Instant,
    read: ReadReply<T>,
}

/// Why a connection is of no use any more.
#[derive(Clone)]
struct Ended {
    why: String,
    last_words: Option<Refused>,
}

/// A connection to the daemon.
///
/// It never connects again by itself: a user's session belongs to one connection, and whether a payment was carried out
/// must be asked, not guessed. After [`Error::Unknown`] or [`Error::Disconnected`], call [`Client::reconnect`] and ask for the
/// very same payment again: it is signed once and counted once.
pub struct Client {
    options: Options,
    line: Line,
    session: Session,
    /// Answers that came before somebody asked for them.
    early: BTreeMap<Ticket, Result<Value, Refused>>,
    ended: Option<Ended>,
}

impl Client {
    /// To the default socket ([`super::default_socket`]), opened by root.
    pub fn connect() -> Result<Self, Error> {
        Self::with(Options::new())
    }

    /// As the options say.
    pub fn with(options: Options) -> Result<Self, Error> {
        Self::over(options, Session::new())
    }

    fn over(options: Options, session: Session) -> Result<Self, Error> {
        let line = options.open()?;
        let mut client = Self { options, line, session, early: BTreeMap::new(), ended: None };
        client.greet()?;
        Ok(client)
    }

    /// Leaves this connection for a new one. What has no answer yet is [`Error::Unknown`] from then on.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        *self = Self::over(self.options.clone(), Session::after(&self.session))?;
        Ok(())
    }

    fn greet(&mut self) -> Result<(), Error> {
        let told = self.ask(ask::raw("claviger_hello", json!({})));
        let words = self.ended.as_ref().and_then(|ended| ended.last_words.clone());
        match (told, words) {
            (Ok(result), _) => self.session.greeted(&result),
            // A hello changes nothing: why the daemon ended the connection is all there is to know.
            (Err(Error::Unknown { .. }), Some(refused)) => Err(refused.into()),
            (Err(error), _) => Err(error),
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask<T>(&mut self, ask: Ask<T>) -> Result<T, Error> {
        let sent = self.send(ask)?;
        self.receive(sent)
    }

    /// Sends a request and does not wait: several may be under way, and be answered in any order.
    pub fn send<T>(&mut self, ask: Ask<T>) -> Result<Sent<T>, Error> {
        if let Some(ended) = &self.ended {
            return Err(Error::Disconnected(ended.why.clone()));
        }
        let (ticket, line) = self.session.request(ask.method, &ask.params)?;
        let patience = self.options.timeout.saturating_add(Duration::from_millis(ask.waits_ms));
        let until = Instant::now() + patience;
        let written = self
            .line
            .stream
            .set_write_timeout(Some(at_least_one(self.options.timeout)))
            .and_then(|()| self.line.stream.write_all(&line));
        if let Err(e) = written {
            // Part of it may have been read, and what the daemon said before it left counts.
            self.hear_out();
            self.end(format!("the request could not be written: {e}"));
            return Err(self.unknown(ask.method));
        }
        Ok(Sent { ticket, method: ask.method, until, read: ask.read })
    }

    /// The answer to what was sent.
    pub fn receive<T>(&mut self, sent: Sent<T>) -> Result<T, Error> {
        loop {
            if let Some(outcome) = self.early.remove(&sent.ticket) {
                return (sent.read)(outcome?);
            }
            if self.ended.is_some() {
                return Err(self.unknown(sent.method));
            }
            if self.session.method(sent.ticket).is_none() {
                let why = "it was sent on an earlier connection".to_owned();
                return Err(Error::Unknown { method: sent.method, why });
            }
            if !self.take_in() && !self.read_until(sent.until) {
                self.session.abandon(sent.ticket);
                return Err(Error::Unknown { method: sent.method, why: "no reply in time".into() });
            }
        }
    }

    /// Looks at one thing that came in whole; `false` when there is none.
    fn take_in(&mut self) -> bool {
        match self.session.take() {
            Ok(None) => return false,
            Ok(Some(Incoming::Reply(ticket, outcome))) => {
                self.early.insert(ticket, outcome);
            }
            Ok(Some(Incoming::LastWords(refused))) => {
                let why = refused.to_string();
                self.ended.get_or_insert(Ended { why, last_words: Some(refused) });
            }
            Err(why) => self.end(why),
        }
        true
    }

    /// Reads to the end of a connection that takes nothing any more.
    fn hear_out(&mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        while self.ended.is_none() && (self.take_in() || self.read_until(until)) {}
    }

    fn unknown(&self, method: &'static str) -> Error {
        let why = self.ended.as_ref().map(|ended| ended.why.clone()).unwrap_or_default();
        Error::Unknown { method, why }
    }

    /// Reads once; `false` when there was nothing in time.
    fn read_until(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut bytes = Zeroizing::new([0; 16 * 1024]);
        let read = self
            .line
            .stream
            .set_read_timeout(Some(at_least_one(left)))
            .and_then(|()| self.line.stream.read(&mut *bytes));
        match read {
            Ok(0) => self.end("the daemon closed the connection".into()),
            Ok(n) => self.session.feed(bytes.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(e) => self.end(e.to_string()),
        }
        true
    }

    fn end(&mut self, why: String) {
        self.ended.get_or_insert(Ended { why, last_words: None });
    }
}

/// The system takes a wait of nothing for one without end.
fn at_least_one(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $out:ty = $ask:expr;)*) => {
        impl Client {
            $($(#[$doc])* pub fn $name(&mut self, $($arg: $type),*) -> Result<$out, Error> {
                self.ask($ask)
            })*
        }
    };
}
every_method!(methods);
