//! The one way to the device: one client of the crate in this process, shared by all sessions, thrown away on any
//! error that is not the device's own refusal, and never trusted after one.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use yubihsm::{Client, Connector, Credentials, HttpConfig, authentication, client, device};
use zeroize::Zeroizing;

use super::channel::{Channel, plain};
use super::log::{self, Book};
use super::objects::Known;
use super::relay::{Relay, Trouble};
use super::wire::Wire;
use super::{LOG_FULL, TokenError, refusal};
use crate::core::key::KeyRef;
use crate::token::audit::{Audit, Handover, Strange};
use crate::token::profile::Profile;

const DEVICE_INFO: u8 = 0x06;
/// Commands after which the log is read before anything else: the device keeps 62 entries.
const READ_AFTER: u32 = 25;
/// How often the log is read although it has not grown.
const REST: Duration = Duration::from_secs(30);
/// The device holds a session that was not closed for this long, and the crate cannot close any.
const HELD: Duration = Duration::from_secs(30);
/// Sessions that we take at most in that time, of the device's sixteen.
const MOST_SESSIONS: usize = 12;

/// What a device says to everybody.
pub(super) struct Told {
    pub(super) serial: String,
    pub(super) firmware: String,
    /// Entries in its log.
    pub(super) used: u8,
}

/// A client of the crate, and the door that it goes through.
struct Open {
    client: Client,
    relay: Option<Relay>,
}

#[derive(Default)]
pub(super) struct Inner {
    open: Option<Open>,
    channel: Option<Channel>,
    pub(super) known: HashMap<KeyRef, Known>,
    book: Book,
    births: VecDeque<Instant>,
    since: u32,
    strange: Vec<Strange>,
    /// Entries that our last reading left behind itself.
    residue: u8,
    read: Option<Instant>,
    /// Why the log cannot be read by this authentication key.
    blind: Option<String>,
}

/// A device, reached and logged into.
pub(super) struct Device {
    wire: Arc<Wire>,
    pub(super) key_id: u16,
    key: authentication::Key,
    pub(super) serial: String,
    pub(super) profile: Arc<Profile>,
    /// The password was rejected: it is not sent again.
    locked: AtomicBool,
    inner: Mutex<Inner>,
}

/// How a command ended, other than well.
enum Fault {
    /// The device refused: the session is as good as before.
    Refused(TokenError),
    /// Anything else: nothing of this client is used again.
    Broken(TokenError),
}

/// What the device says without a session.
pub(super) fn ask_device(wire: &Wire) -> Result<Told, TokenError> {
    let info = plain(wire, DEVICE_INFO, &[])?;
    match info.as_slice() {
        [major, minor, build, a, b, c, d, _capacity, used, ..] => Ok(Told {
            serial: format!("{:010}", u32::from_be_bytes([*a, *b, *c, *d])),
            firmware: format!("{major}.{minor}.{build}"),
            used: *used,
        }),
        _ => Err(TokenError::Corrupt("the YubiHSM does not say who it is".into())),
    }
}

/// What a failure of the crate's client comes to.
fn fault(error: &client::Error, trouble: Option<TokenError>) -> Fault {
    match (error.device_error(), trouble) {
        // The device's own word, under its MAC.
        (Some(device::ErrorKind::InvalidSession | device::ErrorKind::SessionFailed), _) => {
            Fault::Broken(TokenError::Gone("the YubiHSM has lost our session".into()))
        }
        (Some(device::ErrorKind::SshCaConstraintViolation), _) => {
            Fault::Refused(TokenError::Refused(error.to_string()))
        }
        (Some(kind), _) => Fault::Refused(refusal(kind.to_u8())),
        // What the relay saw says more than what the crate made of it.
        (None, Some(trouble)) => Fault::Broken(trouble),
        (None, None) => Fault::Broken(TokenError::Corrupt(format!("the YubiHSM: {error}"))),
    }
}

/// A panic of the crate poisons its own lock for ever: its client is thrown away like after any other failure.
fn guarded<T>(trouble: Option<&Trouble>, ask: impl FnOnce() -> Result<T, client::Error>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(fault(&e, trouble.and_then(Trouble::take))),
        Err(_) => Err(Fault::Broken(TokenError::Corrupt("the YubiHSM's driver panicked".into()))),
    }
}

fn is_log_full(error: &TokenError) -> bool {
    matches!(error, TokenError::Refused(why) if why == LOG_FULL)
}

impl Device {
    /// Logs in, and reads the log up to now.
    pub(super) fn open(
        wire: Arc<Wire>,
        (key_id, key): (u16, authentication::Key),
        serial: String,
        profile: Arc<Profile>,
    ) -> Result<Self, TokenError> {
        let device = Self {
            wire,
            key_id,
            key,
            serial,
            profile,
            locked: AtomicBool::new(false),
            inner: Mutex::default(),
        };
        let mut inner = device.lock();
        device.login(&mut inner)?;
        drop(inner);
        Ok(device)
    }

    /// Takes over what the session before this one knew of the log, and reads on from there.
    pub(super) fn begin_audit(&self, handover: Handover) -> Result<(), TokenError> {
        let mut inner = self.lock();
        inner.book.inherit(handover);
        self.look(&mut inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|poisoned| {
            let mut inner = PoisonError::into_inner(poisoned);
            inner.open = None;
            inner.known.clear();
            self.inner.clear_poison();
            inner
        })
    }

    /// What it says without a session. Waits for nobody.
    pub(super) fn told(&self) -> Result<Told, TokenError> {
        let told = ask_device(&self.wire)?;
        if told.serial == self.serial {
            Ok(told)
        } else {
            Err(TokenError::Gone(format!("YubiHSM {} stands in place of {}", told.serial, self.serial)))
        }
    }

    /// Counts the sessions that we take.
    fn birth(inner: &mut Inner) -> Result<(), TokenError> {
        let now = Instant::now();
        inner.births.retain(|born| now.duration_since(*born) < HELD);
        if inner.births.len() >= MOST_SESSIONS {
            tracing::warn!("{MOST_SESSIONS} sessions with the YubiHSM were lost within {HELD:?}");
            return Err(TokenError::Busy);
        }
        inner.births.push_back(now);
        Ok(())
    }

    fn rejected(&self) -> TokenError {
        TokenError::Locked(format!(
            "the YubiHSM does not accept authentication key {:#06x} with this password",
            self.key_id
        ))
    }

    /// Whether it answers, is the same, and still lets us in.
    pub(super) fn alive(&self) -> Result<(), TokenError> {
        if self.locked.load(Ordering::Acquire) {
            return Err(self.rejected());
        }
        self.told().map(|_| ())
    }

    fn login(&self, inner: &mut Inner) -> Result<(), TokenError> {
        self.alive()?;
        Self::birth(inner)?;
        inner.known.clear();
        let (connector, relay) = match self.wire.as_ref() {
            Wire::Http { patience, .. } => {
                let relay = Relay::open(Arc::clone(&self.wire))
                    .map_err(|e| TokenError::Gone(format!("no door to the YubiHSM's connector: {e}")))?;
                let config = HttpConfig {
                    addr: relay.address.ip().to_string(),
                    port: relay.address.port(),
                    timeout_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
                };
                (Connector::http(&config), Some(relay))
            }
            #[cfg(feature = "yubihsm-usb")]
            Wire::Usb(connector) => (connector.clone(), None),
        };
        let credentials = Credentials::new(self.key_id, self.key.clone());
        let trouble = relay.as_ref().map(|relay| relay.trouble.clone());
        let opened = catch_unwind(AssertUnwindSafe(|| Client::open(connector, credentials, true)));
        let client = match opened {
            Ok(Ok(client)) => client,
            // [clause 8.2.5-c] a password that the device does not know is not tried again
            Ok(Err(e)) if *e.kind() == client::ErrorKind::AuthenticationError => {
                self.locked.store(true, Ordering::Release);
                return Err(self.rejected());
            }
            Ok(Err(e)) => {
                return Err(match fault(&e, trouble.as_ref().and_then(Trouble::take)) {
                    Fault::Refused(e) | Fault::Broken(e) => e,
                });
            }
            Err(_) => return Err(TokenError::Corrupt("the YubiHSM's driver panicked".into())),
        };
        inner.open = Some(Open { client, relay });
        Ok(())
    }

    /// Runs a command on the crate's client. After a broken exchange the client is gone; `again` says that a second
    /// try on a fresh one does no harm. `logged` is the command and the object that the device will write down.
    pub(super) fn run<T>(
        &self,
        inner: &mut Inner,
        again: bool,
        logged: Option<(u8, u16)>,
        ask: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, TokenError> {
        if self.profile.own_log && inner.since >= READ_AFTER && inner.blind.is_none() {
            self.read_log(inner)?;
        }
        let (mut retried, mut emptied) = (!again, false);
        loop {
            if inner.open.is_none() {
                self.login(inner)?;
            }
            let Some(open) = &inner.open else { return Err(TokenError::Busy) };
            inner.since = inner.since.saturating_add(1);
            if let Some((command, target)) = logged {
                inner.book.issue(command, target);
            }
            match guarded(open.relay.as_ref().map(|relay| &relay.trouble), || ask(&open.client)) {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(e)) => {
                    if let Some((command, target)) = logged {
                        inner.book.retract(command, target);
                    }
                    if emptied || !is_log_full(&e) {
                        return Err(e);
                    }
                    emptied = true;
                    self.read_log(inner).map_err(|why| {
                        TokenError::Refused(format!("{LOG_FULL}, and cannot be read: {why}"))
                    })?;
                }
                Err(Fault::Broken(e)) => {
                    inner.open = None;
                    inner.known.clear();
                    if let Some((command, target)) = logged {
                        inner.book.doubt(command, target);
                    }
                    if retried {
                        return Err(e);
                    }
                    retried = true;
                    tracing::debug!("once more on a fresh session after: {e}");
                }
            }
        }
    }

    /// A command on our own session; once more on a fresh one when it turns out to be lost.
    pub(super) fn own(
        &self,
        inner: &mut Inner,
        command: u8,
        data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let mut lost = inner.channel.is_none();
        loop {
            let channel = if let Some(channel) = &mut inner.channel {
                channel
            } else {
                Self::birth(inner)?;
                inner.channel.insert(Channel::open(&self.wire, self.key_id, &self.key)?)
            };
            match channel.command(command, data) {
                Err(TokenError::Gone(_) | TokenError::Corrupt(_)) if !lost => {
                    inner.channel = None;
                    lost = true;
                }
                Err(e @ (TokenError::Gone(_) | TokenError::Corrupt(_))) => {
                    inner.channel = None;
                    return Err(e);
                }
                done => return done,
            }
        }
    }

    /// Reads the log to its end and gives the device the room back.
    fn read_log(&self, inner: &mut Inner) -> Result<(), TokenError> {
        let data = self.own(inner, log::GET_LOG_ENTRIES, &[])?;
        let (boots, logins, links) = log::parse(&data)?;
        if boots > 0 || logins > 0 {
            tracing::warn!(boots, logins, "the YubiHSM's log was full: it did not write these down");
        }
        let strange = inner.book.judge(&links, self.key_id);
        inner.strange.extend(strange);
        // The last entry stays: where it is gone before we take it, somebody else has been at the log.
        if let [.., before, _] = links.as_slice() {
            self.own(inner, log::SET_LOG_INDEX, &before.entry.number.to_be_bytes())?;
        }
        inner.since = 0;
        inner.read = Some(Instant::now());
        inner.residue = self.told()?.used;
        Ok(())
    }

    fn look(&self, inner: &mut Inner) -> Result<(), TokenError> {
        if inner.blind.is_some() {
            return Ok(());
        }
        match self.read_log(inner) {
            // Without the right to read the log there is none for us: `token check` says so.
            Err(TokenError::Refused(why)) => {
                tracing::warn!("the YubiHSM's log cannot be read: {why}");
                inner.blind = Some(why);
                Ok(())
            }
            done => done,
        }
    }

    /// What the device wrote down that is not our doing, since the last time.
    pub(super) fn audit(&self) -> Result<Audit, TokenError> {
        let used = self.told()?.used;
        let mut inner = self.lock();
        let rested = inner.read.is_none_or(|read| read.elapsed() > REST);
        if used != inner.residue || rested {
            self.look(&mut inner)?;
        }
        Ok(Audit { strange: std::mem::take(&mut inner.strange), mark: inner.book.mark() })
    }

    /// Why the log cannot be read, if it cannot.
    pub(super) fn blind(&self) -> Option<String> {
        self.lock().blind.clone()
    }

    /// Gives back what can be given back.
    pub(super) fn close(&self) {
        if let Ok(mut inner) = self.inner.try_lock() {
            inner.channel = None;
            inner.open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.5-b] test
    #[test]
    fn a_panic_of_the_driver_is_a_broken_client_and_no_end() {
        let outcome = guarded::<()>(None, || panic!("as a poisoned lock does"));
        assert!(matches!(outcome, Err(Fault::Broken(TokenError::Corrupt(_)))));
        let error: client::Error = client::ErrorKind::ProtocolError.into();
        let trouble = Trouble::default();
        let outcome = guarded::<()>(Some(&trouble), || Err(error));
        assert!(matches!(outcome, Err(Fault::Broken(_))));
    }
}
