//! The keeper: the one place for queue bounds, deadlines, recovery and the PIN latch.
//!
//! A supervisor connects and starts workers, a session each; when the token goes away it stops them, lets every
//! session fall, initialises anew with growing waits, and starts them again. A PIN that was rejected is never sent a
//! second time until an operator hands one over.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::check::CheckRow;
use super::embedded::EmbeddedToken;
use super::pkcs11::{self, Module, Place};
use super::profile::{Kind, Profile};
use super::{Description, KeySpec, RawSignature, Token, TokenError};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::core::proof::Reserved;
use crate::secret::Pin;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const HEALTH_EVERY: Duration = Duration::from_millis(500);

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
        place: Place,
        /// Profile.
        profile: Profile,
    },
}

impl Backend {
    /// What a configuration stands for.
    pub fn resolve(
        profile: Profile,
        module: Option<PathBuf>,
        label: Option<String>,
        serial: Option<String>,
        directory: Option<PathBuf>,
    ) -> Result<Self, TokenError> {
        match profile.kind {
            Kind::Embedded => {
                let dir = directory.ok_or_else(|| {
                    TokenError::Unsupported("the embedded token needs token.directory".into())
                })?;
                Ok(Self::Embedded { dir, profile })
            }
            Kind::Pkcs11 => {
                let module = pkcs11::module_path(&profile, module)?;
                Ok(Self::Pkcs11 { place: Place { module, label, serial }, profile })
            }
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
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self { workers: 2, queue: 256, call_timeout: Duration::from_secs(10) }
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
}

type Call = Box<dyn FnOnce(Result<&mut dyn Token, TokenError>) -> Option<TokenError> + Send>;

struct Inner {
    queue: VecDeque<Call>,
    state: KeeperState,
    description: Option<Description>,
    /// Workers of an older generation end.
    generation: u64,
    /// A worker saw the token go.
    trouble: Option<String>,
    pin: Option<Pin>,
    expected: Vec<(KeyRef, PublicKey)>,
    stopping: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Wakes workers.
    work: Condvar,
    /// Wakes the supervisor.
    change: Condvar,
    config: KeeperConfig,
    born: Instant,
    /// Start of each worker's call in milliseconds since `born`, 0 when idle.
    calls: Vec<AtomicI64>,
    usable: AtomicBool,
    ops: AtomicU64,
    errors: AtomicU64,
    reinits: AtomicU64,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, inner: &mut Inner, state: KeeperState) {
        if inner.state != state {
            tracing::info!(?state, "token");
        }
        let usable = matches!(state, KeeperState::Usable | KeeperState::Degraded(_));
        self.usable.store(usable, Ordering::Release);
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
                stopping: false,
            }),
            work: Condvar::new(),
            change: Condvar::new(),
            config,
            born: Instant::now(),
            calls: (0..config.workers).map(|_| AtomicI64::new(0)).collect(),
            usable: AtomicBool::new(false),
            ops: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            reinits: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        let supervisor =
            std::thread::Builder::new().name("token".into()).spawn(move || supervise(&theirs, &backend));
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
        let (tell, told) = oneshot::channel();
        let call: Call = Box::new(move |token| {
            let outcome = token.and_then(run);
            let error = outcome.as_ref().err().cloned();
            // A caller that has given up does not change what happened.
            drop(tell.send(outcome));
            error
        });
        {
            let mut inner = self.shared.inner();
            if !matches!(inner.state, KeeperState::Usable | KeeperState::Degraded(_)) {
                return Err(refusing(&inner.state));
            }
            if inner.queue.len() >= self.shared.config.queue {
                return Err(TokenError::Busy);
            }
            inner.queue.push_back(call);
        }
        self.shared.work.notify_one();
        let patience = self.shared.config.call_timeout;
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(TokenError::Gone("the call was dropped".into())),
            Err(_) => Err(TokenError::Timeout(patience.as_millis())),
        }
    }

    /// Signs a payment: only what was reserved, only with a payment key.
    // [clause 8.7.2-a] the purpose is checked once more where the token is reached
    pub async fn sign_payment(
        &self,
        reserved: &Reserved,
        key: &KeyRecord,
        to_sign: ToSign,
    ) -> Result<RawSignature, TokenError> {
        if key.purpose != Purpose::Payment || *reserved.digest() != to_sign.digest() {
            return Err(TokenError::Refused("this is not the payment that was reserved for this key".into()));
        }
        let (reference, algorithm) = (key.reference, key.public.algorithm());
        self.call(move |token| token.sign(reference, algorithm, &to_sign)).await
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

    /// Makes a pair.
    pub async fn generate(&self, spec: KeySpec) -> Result<PublicKey, TokenError> {
        self.call(move |token| token.generate(&spec)).await
    }

    /// The public half of a pair.
    pub async fn find(&self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        self.call(move |token| token.find(reference)).await
    }

    /// Removes a pair.
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
        self.call(|token| token.check()).await
    }
}

/// What is connected: opens sessions, tells whether it lives.
enum Link<'a> {
    Embedded(EmbeddedToken),
    Pkcs11(&'a Module, pkcs11::Connection),
}

impl Link<'_> {
    fn session(&self) -> Result<Box<dyn Token>, TokenError> {
        Ok(match self {
            Self::Embedded(token) => Box::new(token.clone()),
            Self::Pkcs11(_, connection) => Box::new(connection.session()?),
        })
    }

    fn describe(&self) -> Result<Description, TokenError> {
        match self {
            Self::Embedded(token) => token.clone().describe(),
            Self::Pkcs11(_, connection) => Ok(connection.description().clone()),
        }
    }

    fn alive(&self) -> Result<(), TokenError> {
        match self {
            Self::Embedded(token) => token.clone().health(),
            Self::Pkcs11(_, connection) => connection.alive(),
        }
    }

    fn close(self) {
        if let Self::Pkcs11(module, connection) = self {
            drop(connection);
            module.finalize();
        }
    }
}

fn supervise(shared: &Arc<Shared>, backend: &Backend) {
    let mut module = None;
    let mut wait = FIRST_WAIT;
    loop {
        let Some(pin) = next_pin(shared) else { return };
        match connect(shared, backend, &mut module, &pin) {
            Ok(link) => {
                wait = FIRST_WAIT;
                let why = serve(shared, &link);
                link.close();
                let mut inner = shared.inner();
                inner.pin.get_or_insert(pin);
                if inner.stopping {
                    return;
                }
                shared.reinits.fetch_add(1, Ordering::Relaxed);
                shared.set_state(&mut inner, KeeperState::Unusable(why));
            }
            // [clause 8.2.5-c] the rejected PIN is dropped here, and nothing sends it again
            Err(TokenError::Locked(why)) => {
                drop(pin);
                let mut inner = shared.inner();
                shared.set_state(&mut inner, KeeperState::Locked(why));
            }
            Err(e) => {
                let mut inner = shared.inner();
                inner.pin.get_or_insert(pin);
                shared.set_state(&mut inner, KeeperState::Unusable(e.to_string()));
            }
        }
        let inner = shared.inner();
        if inner.pin.is_some() && !inner.stopping {
            // A spread of up to a quarter keeps many daemons from knocking together.
            let spread = wait.mul_f64(f64::from(std::process::id() % 64) / 256.0);
            drop(shared.change.wait_timeout(inner, wait + spread).unwrap_or_else(PoisonError::into_inner));
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

/// Waits for a PIN; `None` when the keeper stops.
fn next_pin(shared: &Shared) -> Option<Pin> {
    let mut inner = shared.inner();
    loop {
        if inner.stopping {
            return None;
        }
        if let Some(pin) = inner.pin.take() {
            return Some(pin);
        }
        if !matches!(inner.state, KeeperState::Locked(_)) {
            shared.set_state(&mut inner, KeeperState::Locked("no PIN was given; run claviger unlock".into()));
        }
        inner = shared.change.wait(inner).unwrap_or_else(PoisonError::into_inner);
    }
}

fn connect<'a>(
    shared: &Shared,
    backend: &Backend,
    module: &'a mut Option<Module>,
    pin: &Pin,
) -> Result<Link<'a>, TokenError> {
    let link = match backend {
        Backend::Embedded { dir, profile } => Link::Embedded(EmbeddedToken::open(dir, pin, profile.clone())?),
        Backend::Pkcs11 { place, profile } => {
            let module = match module {
                Some(module) => module,
                None => module.insert(Module::load(place.clone(), profile.clone())?),
            };
            Link::Pkcs11(module, module.connect(pin)?)
        }
    };
    match look_around(shared, &link) {
        Ok(()) => Ok(link),
        Err(e) => {
            link.close();
            Err(e)
        }
    }
}

/// A token that answers is not yet ours: its serial must be the same, and a key that we know must be there.
fn look_around(shared: &Shared, link: &Link<'_>) -> Result<(), TokenError> {
    let found = link.describe()?;
    let mut inner = shared.inner();
    if let Some(known) = &inner.description
        && known.serial != found.serial
    {
        return Err(TokenError::Gone(format!(
            "another token (serial {}) stands in place of {}",
            found.serial, known.serial
        )));
    }
    let sentinel = inner.expected.first().copied();
    inner.description = Some(found);
    drop(inner);
    if let Some((reference, public)) = sentinel {
        match link.session()?.find(reference)? {
            Some(there) if there == public => {}
            Some(_) => {
                return Err(TokenError::Corrupt(format!("the key {reference} in the token is another one")));
            }
            None => return Err(TokenError::Gone(format!("the key {reference} is not in the token"))),
        }
    }
    Ok(())
}

/// Runs workers until the token goes or the keeper stops; tells why.
fn serve(shared: &Arc<Shared>, link: &Link<'_>) -> String {
    let generation = {
        let mut inner = shared.inner();
        inner.trouble = None;
        inner.generation = inner.generation.wrapping_add(1);
        inner.generation
    };
    let mut workers = Vec::new();
    for slot in 0..shared.config.workers {
        let started = link.session().and_then(|session| {
            let theirs = Arc::clone(shared);
            std::thread::Builder::new()
                .name(format!("token-{slot}"))
                .spawn(move || work(&theirs, slot, generation, session))
                .map_err(|e| TokenError::Gone(format!("no thread: {e}")))
        });
        match started {
            Ok(handle) => workers.push(handle),
            Err(e) => tracing::warn!("token worker {slot} did not start: {e}"),
        }
    }
    let mut inner = shared.inner();
    let why = if workers.is_empty() {
        "no session could be opened".to_owned()
    } else {
        if inner.generation == generation {
            shared.set_state(&mut inner, KeeperState::Usable);
        }
        loop {
            if inner.stopping {
                break "stopping".to_owned();
            }
            if let Some(why) = inner.trouble.take() {
                break why;
            }
            let (guard, _) =
                shared.change.wait_timeout(inner, HEALTH_EVERY).unwrap_or_else(PoisonError::into_inner);
            drop(guard);
            if let Err(e) = link.alive() {
                inner = shared.inner();
                break e.to_string();
            }
            inner = shared.inner();
            watch_for_stuck_calls(shared, &mut inner);
        }
    };
    inner.generation = inner.generation.wrapping_add(1);
    shared.set_state(&mut inner, KeeperState::Unusable(why.clone()));
    drop(inner);
    shared.work.notify_all();
    // A session must not outlive the module's state: wait for all, however long the module holds them.
    for worker in workers {
        if worker.join().is_err() {
            tracing::error!("a token worker panicked");
        }
    }
    why
}

fn watch_for_stuck_calls(shared: &Shared, inner: &mut Inner) {
    let now = i64::try_from(shared.born.elapsed().as_millis()).unwrap_or(i64::MAX);
    let patience = i64::try_from(shared.config.call_timeout.as_millis()).unwrap_or(i64::MAX);
    let stuck = shared
        .calls
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .filter(|began| *began > 0 && now.saturating_sub(*began) > patience)
        .count();
    let state = match stuck {
        0 => KeeperState::Usable,
        n if n < shared.calls.len() => KeeperState::Degraded(format!("{n} calls do not come back")),
        n => KeeperState::Unusable(format!("all {n} calls do not come back")),
    };
    shared.set_state(inner, state);
}

fn work(shared: &Shared, slot: usize, generation: u64, mut session: Box<dyn Token>) {
    let mut inner = shared.inner();
    loop {
        if inner.generation != generation {
            return;
        }
        let Some(call) = inner.queue.pop_front() else {
            inner = shared.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(inner);
        let began = i64::try_from(shared.born.elapsed().as_millis()).unwrap_or(i64::MAX).max(1);
        if let Some(cell) = shared.calls.get(slot) {
            cell.store(began, Ordering::Relaxed);
        }
        let error = call(Ok(session.as_mut()));
        if let Some(cell) = shared.calls.get(slot) {
            cell.store(0, Ordering::Relaxed);
        }
        shared.ops.fetch_add(1, Ordering::Relaxed);
        inner = shared.inner();
        if let Some(error) = error {
            shared.errors.fetch_add(1, Ordering::Relaxed);
            if let TokenError::Gone(why) = error
                && inner.generation == generation
            {
                inner.trouble = Some(why.clone());
                shared.set_state(&mut inner, KeeperState::Unusable(why));
                shared.change.notify_all();
            }
        }
    }
}
