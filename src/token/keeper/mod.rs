//! The keeper: the one place for queue bounds, deadlines, recovery and the PIN latch.
//!
//! A supervisor connects and starts workers, a session each; when the token goes away it stops them, lets every
//! session fall, initialises anew with growing waits, and starts them again. A PIN that was rejected is never sent a
//! second time until an operator hands one over.
#![forbid(unsafe_code)]

mod ahead;
mod fitness;
mod supervisor;

pub use ahead::{DRAWN, Made, Sealed, Work};
pub use fitness::{Event, Fitness};

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::check::CheckRow;
use super::profile::{Kind, Profile};
use super::{Description, KeySpec, RawSignature, Token, TokenError, pkcs11, worker, yubihsm};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::secret::Pin;

/// What the keeper drives.
pub enum Backend {
    /// Sealed files.
    Embedded {
        /// Their directory.
        dir: PathBuf,
        /// Profile.
        profile: Profile,
    },
    /// A PKCS#11 module.
    Pkcs11 {
        /// Which token.
        place: pkcs11::Place,
        /// Profile.
        profile: Profile,
        /// The executable that hosts the module in a process of its own; `None` loads it into this one.
        worker: Option<PathBuf>,
    },
    /// A YubiHSM 2.
    Yubihsm {
        /// `http://HOST:PORT` of its connector, or `usb`.
        connector: String,
        /// Serial, when it must match.
        serial: Option<String>,
        /// Profile.
        profile: Profile,
        /// The executable that hosts the way to it in a process of its own.
        worker: PathBuf,
    },
}

/// Where a token is, as the configuration says it. What a kind of token does not need is left out.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// PKCS#11 module, in place of the profile's.
    pub module: Option<PathBuf>,
    /// Label, when it must match.
    pub label: Option<String>,
    /// Serial, when it must match.
    pub serial: Option<String>,
    /// Directory of the embedded token.
    pub directory: Option<PathBuf>,
    /// Connector of a YubiHSM.
    pub connector: Option<String>,
}

impl Backend {
    /// Its profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        match self {
            Self::Embedded { profile, .. } | Self::Pkcs11 { profile, .. } | Self::Yubihsm { profile, .. } => {
                profile
            }
        }
    }

    /// What a configuration stands for.
    pub fn resolve(
        profile: Profile,
        place: Whereabouts,
        worker: Option<PathBuf>,
    ) -> Result<Self, TokenError> {
        let lacking = |what: &str| TokenError::Unsupported(what.to_owned());
        let Whereabouts { module, label, serial, directory, connector } = place;
        match profile.kind {
            Kind::Embedded => {
                let dir = directory.ok_or_else(|| lacking("the embedded token needs token.directory"))?;
                Ok(Self::Embedded { dir, profile })
            }
            Kind::Yubihsm => {
                let connector = connector.ok_or_else(|| {
                    lacking("a YubiHSM needs token.connector, such as \"http://127.0.0.1:12345\"")
                })?;
                yubihsm::knows_way(&connector)?;
                let worker = worker.ok_or_else(|| {
                    lacking("a YubiHSM is driven from a worker only: take token.in_process out")
                })?;
                Ok(Self::Yubihsm { connector, serial, profile, worker })
            }
            Kind::Pkcs11 => {
                let module = pkcs11::module_path(&profile, module)?;
                Ok(Self::Pkcs11 { place: pkcs11::Place { module, label, serial }, profile, worker })
            }
        }
    }

    /// What a worker is told, for a call that may take `patience`. `None` when there is no worker.
    fn hosted(&self, patience: Duration) -> Option<(&PathBuf, worker::Place, &Profile)> {
        match self {
            Self::Pkcs11 { place, profile, worker: Some(worker) } => {
                Some((worker, worker::Place::Pkcs11(place.clone()), profile))
            }
            Self::Yubihsm { connector, serial, profile, worker } => {
                // An exchange that is lost leaves time for a login and a second try.
                let patience_ms = u64::try_from(patience.as_millis() / 4).unwrap_or(u64::MAX).max(50);
                let place =
                    yubihsm::Place { connector: connector.clone(), serial: serial.clone(), patience_ms };
                Some((worker, worker::Place::Yubihsm(place), profile))
            }
            Self::Embedded { .. } | Self::Pkcs11 { worker: None, .. } => None,
        }
    }
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct KeeperConfig {
    /// Threads, a session each.
    pub workers: usize,
    /// Longest queue; above it `Busy`.
    pub queue: usize,
    /// Deadline of a call, the time in the queue included.
    pub call_timeout: Duration,
    /// Begin a payment's signature while its record is being committed. Off for tokens that keep a log of their own:
    /// nothing shall stand there that does not stand in ours.
    pub sign_ahead: bool,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self { workers: 2, queue: 256, call_timeout: Duration::from_secs(10), sign_ahead: true }
    }
}

/// Availability of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeeperState {
    /// Being connected.
    Probing,
    /// In order.
    Usable,
    /// Works, but something is wrong.
    Degraded(String),
    /// Does not answer; the keeper tries again by itself.
    Unusable(String),
    /// An operator must act.
    Locked(String),
}

/// Figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeeperStats {
    /// Calls in the queue.
    pub queued: u64,
    /// Calls done.
    pub ops: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Times that the token was connected again.
    pub reinits: u64,
    /// Process id of the worker that hosts the module, while there is one.
    pub worker: Option<u32>,
}

/// A whole check makes many calls.
pub(super) const CALLS_OF_A_CHECK: u32 = 12;

type Call = Box<dyn FnOnce(Result<&mut dyn Token, TokenError>) -> Option<TokenError> + Send>;

struct Inner {
    queue: VecDeque<Call>,
    state: KeeperState,
    description: Option<Description>,
    /// Workers of an older generation end.
    generation: u64,
    /// A worker saw the token go.
    trouble: Option<TokenError>,
    pin: Option<Pin>,
    expected: Vec<(KeyRef, PublicKey)>,
    fitness: Fitness,
    /// What the token did that nobody here asked for, until an operator has looked.
    strange: Option<String>,
    events: Vec<Event>,
    stopping: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Wakes workers.
    work: Condvar,
    /// Wakes the supervisor.
    change: Condvar,
    config: KeeperConfig,
    profile: Profile,
    /// Tells those who write events down.
    noticed: tokio::sync::Notify,
    born: Instant,
    /// Start of each worker's call in milliseconds since `born`, 0 when idle.
    calls: Vec<AtomicI64>,
    usable: AtomicBool,
    ops: AtomicU64,
    errors: AtomicU64,
    reinits: AtomicU64,
    worker: AtomicU32,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call in the queue, or answers it with why not.
    fn push(&self, call: Call) {
        let mut inner = self.inner();
        let refused = if !matches!(inner.state, KeeperState::Usable | KeeperState::Degraded(_)) {
            refusing(&inner.state)
        } else if inner.queue.len() >= self.config.queue {
            TokenError::Busy
        } else {
            inner.queue.push_back(call);
            drop(inner);
            self.work.notify_one();
            return;
        };
        drop(inner);
        call(Err(refused));
    }

    fn set_state(&self, inner: &mut Inner, state: KeeperState) {
        if std::mem::discriminant(&inner.state) != std::mem::discriminant(&state) {
            tracing::info!(?state, "token");
            self.note(inner, Event::Changed(state.clone()));
        }
        let usable = matches!(state, KeeperState::Usable | KeeperState::Degraded(_));
        self.usable.store(state == KeeperState::Usable, Ordering::Release);
        inner.state = state;
        if !usable {
            // Nobody waits in a queue that nobody serves.
            let waiting: Vec<Call> = inner.queue.drain(..).collect();
            for call in waiting {
                call(Err(refusing(&inner.state)));
            }
        }
    }
}

fn prepare<T: Send + 'static>(
    run: impl FnOnce(&mut dyn Token) -> Result<T, TokenError> + Send + 'static,
) -> (Call, oneshot::Receiver<Result<T, TokenError>>) {
    let (tell, told) = oneshot::channel();
    let call: Call = Box::new(move |token| {
        let outcome = token.and_then(run);
        let error = outcome.as_ref().err().cloned();
        // A caller that has given up does not change what happened.
        drop(tell.send(outcome));
        error
    });
    (call, told)
}

async fn wait<T>(
    told: oneshot::Receiver<Result<T, TokenError>>,
    patience: Duration,
) -> Result<T, TokenError> {
    match tokio::time::timeout(patience, told).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(TokenError::Gone("the call was dropped".into())),
        Err(_) => Err(TokenError::Timeout(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX))),
    }
}

fn refusing(state: &KeeperState) -> TokenError {
    match state {
        KeeperState::Locked(why) => TokenError::Locked(why.clone()),
        KeeperState::Unusable(why) => TokenError::Gone(why.clone()),
        KeeperState::Probing | KeeperState::Usable | KeeperState::Degraded(_) => {
            TokenError::Gone("the token is being connected".into())
        }
    }
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    supervisor: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Keeper {
    /// Starts the supervisor. Without a PIN the token is `Locked` until [`Self::unlock`].
    #[must_use]
    pub fn start(backend: Backend, pin: Option<Pin>, config: KeeperConfig) -> Self {
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                queue: VecDeque::new(),
                state: KeeperState::Probing,
                description: None,
                generation: 0,
                trouble: None,
                pin,
                expected: Vec::new(),
                fitness: Fitness::Untried,
                strange: None,
                events: Vec::new(),
                stopping: false,
            }),
            work: Condvar::new(),
            change: Condvar::new(),
            profile: backend.profile().clone(),
            noticed: tokio::sync::Notify::new(),
            config,
            born: Instant::now(),
            calls: (0..config.workers).map(|_| AtomicI64::new(0)).collect(),
            usable: AtomicBool::new(false),
            ops: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            reinits: AtomicU64::new(0),
            worker: AtomicU32::new(0),
        });
        let theirs = Arc::clone(&shared);
        let supervisor = std::thread::Builder::new()
            .name("token".into())
            .spawn(move || supervisor::supervise(&theirs, &backend));
        let supervisor = match supervisor {
            Ok(handle) => Some(handle),
            Err(e) => {
                let mut inner = shared.inner();
                shared.set_state(&mut inner, KeeperState::Unusable(format!("no thread for the token: {e}")));
                drop(inner);
                None
            }
        };
        Self { shared, supervisor: Arc::new(Mutex::new(supervisor)) }
    }

    /// Availability.
    #[must_use]
    pub fn state(&self) -> KeeperState {
        if self.shared.usable.load(Ordering::Acquire) {
            return KeeperState::Usable;
        }
        self.shared.inner().state.clone()
    }

    /// Who the token is, as far as it was ever connected.
    #[must_use]
    pub fn describe(&self) -> Option<Description> {
        self.shared.inner().description.clone()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> KeeperStats {
        KeeperStats {
            queued: self.shared.inner().queue.len() as u64,
            ops: self.shared.ops.load(Ordering::Relaxed),
            errors: self.shared.errors.load(Ordering::Relaxed),
            reinits: self.shared.reinits.load(Ordering::Relaxed),
            worker: Some(self.shared.worker.load(Ordering::Relaxed)).filter(|pid| *pid != 0),
        }
    }

    /// Keys that must be found before the token counts as connected.
    pub fn expect_keys(&self, keys: Vec<(KeyRef, PublicKey)>) {
        self.shared.inner().expected = keys;
    }

    /// Hands a PIN over; lifts the latch of a rejected one.
    pub fn unlock(&self, pin: Pin) {
        let mut inner = self.shared.inner();
        inner.pin = Some(pin);
        if matches!(inner.state, KeeperState::Locked(_)) {
            self.shared.set_state(&mut inner, KeeperState::Probing);
        }
        self.shared.change.notify_all();
    }

    /// Ends workers and supervisor after the calls in hand.
    pub fn stop(&self) {
        let mut inner = self.shared.inner();
        inner.stopping = true;
        inner.generation = inner.generation.wrapping_add(1);
        drop(inner);
        self.shared.work.notify_all();
        self.shared.change.notify_all();
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = supervisor
            && handle.join().is_err()
        {
            tracing::error!("the token's supervisor did not end in order");
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut dyn Token) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let (call, told) = prepare(run);
        self.shared.push(call);
        wait(told, self.shared.config.call_timeout).await
    }

    /// Signs a checkpoint of the log: only with the integrity key, only what looks like one.
    pub async fn sign_checkpoint(&self, key: &KeyRecord, body: &str) -> Result<RawSignature, TokenError> {
        let algorithm = key.public.algorithm();
        if key.purpose != Purpose::Integrity || algorithm != Algorithm::Ed25519 || body.lines().count() < 3 {
            return Err(TokenError::Refused("an integrity key signs checkpoints and nothing else".into()));
        }
        let (reference, to_sign) = (key.reference, ToSign::Message(body.as_bytes().to_vec()));
        self.call(move |token| token.sign(reference, algorithm, &to_sign)).await
    }

    /// Makes a key.
    pub async fn generate(&self, spec: KeySpec) -> Result<PublicKey, TokenError> {
        if !spec.purpose.takes(spec.algorithm) {
            return Err(TokenError::Refused(format!("a {} key cannot be {}", spec.purpose, spec.algorithm)));
        }
        if spec.purpose == Purpose::Payment {
            self.fit_for_payments()?;
        }
        self.call(move |token| token.generate(&spec)).await
    }

    /// What is known of a key.
    pub async fn find(&self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        self.call(move |token| token.find(reference)).await
    }

    /// Removes a key.
    pub async fn destroy(&self, reference: KeyRef) -> Result<(), TokenError> {
        self.call(move |token| token.destroy(reference)).await
    }

    /// Proves what the profile claims; waits for a token that is being connected.
    pub async fn check(&self) -> Result<Vec<CheckRow>, TokenError> {
        for _ in 0..100 {
            if self.state() != KeeperState::Probing {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let shared = Arc::clone(&self.shared);
        let (call, told) = prepare(move |token| shared.try_out(token));
        self.shared.push(call);
        wait(told, self.shared.config.call_timeout.saturating_mul(CALLS_OF_A_CHECK)).await
    }
}
