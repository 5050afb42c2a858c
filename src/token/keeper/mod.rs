//! The keeper: the one place for queue bounds, deadlines, recovery and the PIN latch.
//!
//! A supervisor connects and starts workers, a session each; when the token goes away it stops them, lets every
//! session fall, initialises anew with growing waits, and starts them again. A PIN that was rejected is never sent a
//! second time until an operator hands one over.
#![forbid(unsafe_code)]

mod ahead;
mod backend;
mod backups;
mod fitness;
mod look;
mod supervisor;

pub use ahead::{DRAWN, Made, Sealed, Work};
pub use backend::{Backend, Whereabouts};
pub use fitness::{Event, Fitness};

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::check::CheckRow;
use super::profile::Profile;
use super::{Description, KeySpec, Object, Past, RawSignature, Token, TokenError};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, PublicKey, Purpose};
use crate::core::login::possession;
use crate::core::payment::ToSign;
use crate::core::verify::Verifier;
use crate::secret::{Pin, SecretBytes};

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
    /// Each with the time that it came.
    queue: VecDeque<(Instant, Call)>,
    state: KeeperState,
    description: Option<Description>,
    /// Workers of an older generation end.
    generation: u64,
    /// A worker saw the token go.
    trouble: Option<TokenError>,
    pin: Option<Pin>,
    /// Times that this PIN was sent without the token ever saying whether it is right.
    unanswered: u32,
    expected: Vec<(KeyRef, PublicKey)>,
    fitness: Fitness,
    /// What the token did that nobody here asked for, until an operator has looked.
    strange: Option<String>,
    events: Vec<Event>,
    stopping: bool,
    /// Why no login is made any more, until that is lifted.
    barred: Option<String>,
    /// A login is held.
    connected: bool,
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
        let refused = if let Some(why) = &inner.barred {
            TokenError::Locked(why.clone())
        } else if !matches!(inner.state, KeeperState::Usable | KeeperState::Degraded(_)) {
            refusing(&inner.state)
        } else if inner.queue.len() >= self.config.queue {
            TokenError::Busy
        } else {
            inner.queue.push_back((Instant::now(), call));
            drop(inner);
            self.work.notify_one();
            return;
        };
        drop(inner);
        call(Err(refused));
    }

    fn set_state(&self, inner: &mut Inner, state: KeeperState) {
        // Whatever else is found: it is closed on purpose.
        let state = inner.barred.clone().map_or(state, KeeperState::Locked);
        if std::mem::discriminant(&inner.state) != std::mem::discriminant(&state) {
            if let KeeperState::Locked(why) = &state {
                tracing::error!("the token is locked: {why}");
            } else {
                tracing::info!(?state, "token");
            }
            self.note(inner, Event::Changed(state.clone()));
        }
        self.usable.store(state == KeeperState::Usable, Ordering::Release);
        inner.state = state;
        if !matches!(inner.state, KeeperState::Usable | KeeperState::Degraded(_)) {
            // Nobody waits in a queue that nobody serves.
            let waiting: Vec<_> = inner.queue.drain(..).collect();
            for (_, call) in waiting {
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
                unanswered: 0,
                expected: Vec::new(),
                fitness: Fitness::Untried,
                strange: None,
                events: Vec::new(),
                stopping: false,
                barred: None,
                connected: false,
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
        if inner.barred.is_some() {
            return;
        }
        inner.pin = Some(pin);
        inner.unanswered = 0;
        if matches!(inner.state, KeeperState::Locked(_)) {
            self.shared.set_state(&mut inner, KeeperState::Probing);
        }
        self.shared.change.notify_all();
    }

    /// Takes the login back and drops the PIN; no other is taken until [`Self::unbar`]. What is under way is broken off.
    // [clause 8.2.1-a] the token is closed at once, whatever it is busy with
    pub fn bar(&self, why: &str) {
        let mut inner = self.shared.inner();
        inner.pin = None;
        inner.barred = Some(why.to_owned());
        inner.trouble = Some(TokenError::Locked(why.to_owned()));
        self.shared.set_state(&mut inner, KeeperState::Locked(why.to_owned()));
        drop(inner);
        self.shared.work.notify_all();
        self.shared.change.notify_all();
    }

    /// A PIN may be handed over again.
    pub fn unbar(&self) {
        self.shared.inner().barred = None;
        self.shared.change.notify_all();
    }

    /// Whether a login is held, or may be about to be.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.shared.inner().connected
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

    /// Makes a MAC for a record of the daemon's own, of what no app ever hands in.
    pub async fn mac_record(
        &self,
        key: &KeyRecord,
        data: zeroize::Zeroizing<Vec<u8>>,
    ) -> Result<[u8; 32], TokenError> {
        if key.purpose != Purpose::Integrity || key.public.algorithm() != Algorithm::HmacSha256 {
            return Err(TokenError::Refused(format!("key {} makes no MACs of records", key.name)));
        }
        self.not_strange()?;
        let reference = key.reference;
        self.call(move |token| token.mac(reference, &data)).await
    }

    /// The key of one run, which seals the log: only of the key for it, only from its own input.
    pub async fn run_key(&self, key: &KeyRecord, input: Vec<u8>) -> Result<SecretBytes<32>, TokenError> {
        if key.purpose != Purpose::Integrity || key.public.algorithm() != Algorithm::HmacSha256 {
            return Err(TokenError::Refused("only a MAC key for integrity seals the log".into()));
        }
        let reference = key.reference;
        self.call(move |token| {
            let mut made = Zeroizing::new(token.mac(reference, &input)?);
            SecretBytes::fill(|out| {
                out.swap_with_slice(made.as_mut());
                Ok(())
            })
        })
        .await
    }

    /// What the token keeps under a label.
    pub async fn data(&self, label: String) -> Result<Vec<Vec<u8>>, TokenError> {
        self.call(move |token| token.data(&label)).await
    }

    /// Keeps a few bytes in the token, beside what was kept last.
    pub async fn keep_data(&self, label: String, bytes: Vec<u8>, beside: Vec<u8>) -> Result<(), TokenError> {
        self.call(move |token| token.keep_data(&label, &bytes, &beside)).await
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

    /// Puts a key in that was outside. Every error leaves open whether something of it is there.
    pub async fn import(
        &self,
        spec: KeySpec,
        private: SecretBytes<32>,
    ) -> Result<(PublicKey, Past), TokenError> {
        if spec.purpose == Purpose::Payment {
            self.fit_for_payments()?;
        }
        self.call(move |token| token.import(&spec, &private)).await
    }

    /// What is known of a key.
    pub async fn find(&self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        self.call(move |token| token.find(reference)).await
    }

    /// All objects of the token.
    pub async fn inventory(&self) -> Result<Vec<Object>, TokenError> {
        self.call(|token| token.inventory(None)).await
    }

    /// What the token says of a key that it did not make for us.
    pub async fn past(&self, reference: KeyRef) -> Result<Past, TokenError> {
        self.call(move |token| token.past(reference)).await
    }

    /// Shows that a pair's private half belongs to this public one; secret keys are recognised by [`Self::find`].
    pub async fn prove_possession(&self, reference: KeyRef, public: PublicKey) -> Result<(), TokenError> {
        let Some(verifier) = Verifier::new(&public) else { return Ok(()) };
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| TokenError::Gone(e.to_string()))?;
        let to_sign = possession(public.algorithm(), &random);
        let asked = to_sign.clone();
        let raw = self.call(move |token| token.sign(reference, public.algorithm(), &asked)).await?;
        verifier
            .check(&to_sign, &raw)
            .map(drop)
            .map_err(|e| TokenError::Corrupt(format!("its halves do not belong together: {e}")))
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
