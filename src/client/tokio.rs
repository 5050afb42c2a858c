//! The client for tokio: one connection that many tasks share.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use ::tokio::io::{AsyncReadExt, AsyncWriteExt};
use ::tokio::net::UnixStream;
use ::tokio::sync::{mpsc, oneshot};

use super::connect::{Helper, Options};
use super::methods::{every_method, ms};
use super::protocol::ask::{self, Ask};
use super::protocol::error::{Error, Refused};
use super::protocol::payment::{Payment, SignedPayment, Standing};
use super::protocol::replies::{Governance, Key, LoginSignature, News, Simulation, Status, UserCode};
use super::protocol::session::{Incoming, Session, Ticket};
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name};

/// Requests that wait to be written.
const QUEUE: usize = 64;

type Outcome = Result<Value, Error>;

/// What a task wants written.
struct Wanted {
    method: &'static str,
    params: Value,
    tell: oneshot::Sender<Outcome>,
}

/// A connection to the daemon, for tokio. Clones share it; it ends with the last of them.
///
/// It never connects again by itself: a user's session belongs to one connection, and whether a payment was carried out
/// must be asked, not guessed. After [`Error::Unknown`] or [`Error::Disconnected`], connect anew and ask for the very same
/// payment again: it is signed once and counted once. Nothing is cut in two when a future is dropped.
///
/// ```no_run
/// use claviger::client::{Options, Payment};
///
/// async fn pay(payment: &Payment) -> Result<String, claviger::client::Error> {
///     let client = Options::new().connect_tokio().await?;
///     Ok(client.sign_payment(payment).await?.raw_hex())
/// }
/// ```
#[derive(Clone)]
pub struct Client {
    queue: mpsc::Sender<Wanted>,
    timeout: Duration,
    ended: Arc<OnceLock<String>>,
}

impl Client {
    /// To the default socket ([`super::default_socket`]), opened by root.
    pub async fn connect() -> Result<Self, Error> {
        Self::with(Options::new()).await
    }

    /// As the options say.
    pub async fn with(options: Options) -> Result<Self, Error> {
        let unreachable = |why: std::io::Error| Error::Unreachable { place: "the runtime".into(), why };
        let line = options.open()?;
        line.stream.set_nonblocking(true).map_err(unreachable)?;
        let stream = UnixStream::from_std(line.stream).map_err(unreachable)?;
        let (queue, wanted) = mpsc::channel(QUEUE);
        let ended = Arc::new(OnceLock::new());
        let client = Self { queue, timeout: options.timeout, ended: Arc::clone(&ended) };
        let mut wire = Wire {
            stream,
            _helper: line.helper,
            session: Session::new(),
            told: BTreeMap::new(),
            line: Zeroizing::default(),
            written: 0,
        };
        // The hello goes first, and its nonce into every request after it.
        let greeted = ::tokio::time::timeout(options.timeout, wire.greet()).await;
        greeted.unwrap_or_else(|_| Err(Error::Disconnected("no answer to the hello in time".into())))?;
        ::tokio::spawn(wire.run(wanted, ended));
        Ok(client)
    }

    /// Asks, and waits for the answer. Many may be under way at once.
    pub async fn ask<T>(&self, ask: Ask<T>) -> Result<T, Error> {
        let patience = self.timeout.saturating_add(Duration::from_millis(ask.waits_ms));
        let method = ask.method;
        let (tell, told) = oneshot::channel();
        let wanted = Wanted { method, params: ask.params, tell };
        let asked = async {
            if self.queue.send(wanted).await.is_err() {
                let why = self.ended.get().cloned().unwrap_or_else(|| "it was closed".into());
                return Err(Error::Disconnected(why));
            }
            told.await.unwrap_or_else(|_| Err(Error::Unknown { method, why: "the connection ended".into() }))
        };
        let outcome = ::tokio::time::timeout(patience, asked)
            .await
            .unwrap_or_else(|_| Err(Error::Unknown { method, why: "no reply in time".into() }));
        (ask.read)(outcome?)
    }
}

/// The connection itself, in a task of its own: what was begun to be written is written whole.
struct Wire {
    stream: UnixStream,
    _helper: Option<Helper>,
    session: Session,
    told: BTreeMap<Ticket, (&'static str, oneshot::Sender<Outcome>)>,
    line: Zeroizing<Vec<u8>>,
    written: usize,
}

impl Wire {
    async fn greet(&mut self) -> Result<(), Error> {
        let (ticket, line) = self.session.request("claviger_hello", &json!({}))?;
        let lost = |why: String| Error::Disconnected(why);
        // Where it cannot be written, what the other side said before it left tells why.
        let written = self.stream.write_all(&line).await;
        let mut bytes = vec![0; 1024];
        loop {
            match self.session.take().map_err(lost)? {
                Some(Incoming::Reply(answered, outcome)) if answered == ticket => {
                    return self.session.greeted(&outcome?);
                }
                Some(Incoming::LastWords(refused)) => return Err(refused.into()),
                Some(Incoming::Reply(..)) => {}
                None => match self.stream.read(&mut bytes).await {
                    Ok(0) => {
                        let closed = "the daemon closed the connection".to_owned();
                        return Err(lost(written.err().map_or(closed, |e| e.to_string())));
                    }
                    Ok(n) => self.session.feed(bytes.get(..n).unwrap_or_default()),
                    Err(e) => return Err(lost(e.to_string())),
                },
            }
        }
    }

    async fn run(mut self, mut wanted: mpsc::Receiver<Wanted>, ended: Arc<OnceLock<String>>) {
        let why = self.serve(&mut wanted).await;
        // Nobody else sets it.
        ended.get_or_init(|| why.clone());
        for (method, tell) in std::mem::take(&mut self.told).into_values() {
            tell.send(Err(Error::Unknown { method, why: why.clone() })).ok();
        }
        // What was not written yet was not asked.
        wanted.close();
        while let Some(never) = wanted.recv().await {
            never.tell.send(Err(Error::Disconnected(why.clone()))).ok();
        }
    }

    /// Until the connection ends; gives why.
    async fn serve(&mut self, wanted: &mut mpsc::Receiver<Wanted>) -> String {
        let mut bytes = Zeroizing::new(vec![0; 16 * 1024]);
        let (mut reader, mut writer) = {
            // Halves that borrow end with this call, and the socket with the wire.
            let stream: &mut UnixStream = &mut self.stream;
            stream.split()
        };
        // Why nothing can be written any more; what was said before is still read.
        let mut shut: Option<String> = None;
        loop {
            loop {
                match self.session.take() {
                    Ok(None) => break,
                    Ok(Some(Incoming::LastWords(refused))) => return refused.to_string(),
                    Err(why) => return why,
                    Ok(Some(Incoming::Reply(ticket, outcome))) => {
                        if let Some((_, tell)) = self.told.remove(&ticket) {
                            // Whoever asked may have stopped waiting.
                            tell.send(outcome.map_err(|refused: Refused| refused.into())).ok();
                        }
                    }
                }
            }
            let rest = self.line.get(self.written..).unwrap_or_default();
            ::tokio::select! {
                next = wanted.recv(), if rest.is_empty() && shut.is_none() => {
                    let Some(next) = next else { return "it was closed".into() };
                    if next.tell.is_closed() {
                        continue;
                    }
                    match self.session.request(next.method, &next.params) {
                        Ok((ticket, line)) => {
                            (self.line, self.written) = (line, 0);
                            self.told.insert(ticket, (next.method, next.tell));
                        }
                        Err(error) => {
                            next.tell.send(Err(error)).ok();
                        }
                    }
                }
                written = writer.write(rest), if !rest.is_empty() && shut.is_none() => match written {
                    Ok(n) => self.written += n,
                    Err(e) => shut = Some(format!("the request could not be written: {e}")),
                },
                read = reader.read(&mut bytes) => match read {
                    Ok(0) => return shut.unwrap_or_else(|| "the daemon closed the connection".into()),
                    Ok(n) => self.session.feed(bytes.get(..n).unwrap_or_default()),
                    Err(e) => return e.to_string(),
                },
            }
        }
    }
}

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $out:ty = $ask:expr;)*) => {
        impl Client {
            $($(#[$doc])* pub async fn $name(&self, $($arg: $type),*) -> Result<$out, Error> {
                self.ask($ask).await
            })*
        }
    };
}
every_method!(methods);
