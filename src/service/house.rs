//! What the use cases share: the store, the token, the rules in force, the keys.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::anchor;
use super::backup::Backups;
use super::inactivate::Orders;
use super::metrics::Metrics;
use super::pending::Pending;
use super::seal::Standing;
use super::user::Presence;
use crate::caller::{Eyes, Peer};
use crate::config::Config;
use crate::core::app::Apps;
use crate::core::app::memory::Memory;
use crate::core::approval::Authority;
use crate::core::key::policy::{KeyPolicy, LifeClock};
use crate::core::key::{KeyRecord, Purpose, State};
use crate::core::policy::Policy;
use crate::core::policy::books::BookFile;
use crate::core::proof::RequestId;
use crate::core::random::Health;
use crate::core::units::{Address, Name};
use crate::core::user::Users;
use crate::core::verify::Verifier;
use crate::refusal::{Code, Refusal};
use crate::store::{Store, StoreError};
use crate::token::TokenError;
use crate::token::keeper::{Keeper, KeeperState};

/// A key with what is prepared for each signature.
pub struct Key {
    /// The record.
    pub record: KeyRecord,
    /// Checks signatures under its public half; secret keys have none.
    verifier: Option<Arc<Verifier>>,
}

impl Key {
    /// What checks its signatures.
    pub fn verifier(&self) -> Result<&Verifier, Refusal> {
        self.verifier.as_deref().ok_or_else(|| {
            Refusal::new(Code::KeyPurpose, format!("key {} makes no signatures", self.record.name))
        })
    }
}

/// All keys, found by name, by line and by account.
#[derive(Default)]
pub struct Keys {
    by_name: HashMap<Name, Arc<Key>>,
    /// The generation of each line that apps get.
    current: HashMap<Name, Arc<Key>>,
    by_address: HashMap<Address, Arc<Key>>,
}

/// Which of two generations apps get: an active one before others, then the newer one; one that is not active yet last.
fn rank(key: &KeyRecord) -> (u8, u32) {
    let by_state = match key.state {
        State::Active => 3,
        State::Suspended => 2,
        State::PreActive => 0,
        _ => 1,
    };
    (by_state, key.generation)
}

impl Keys {
    /// Prepares records; refuses a public key that is no point of its curve. What was prepared before is taken over: with
    /// thousands of keys, one that is made or moved costs no thousands of points.
    pub fn prepare(records: Vec<KeyRecord>, before: &Self) -> Result<Self, Refusal> {
        let mut keys = Self::default();
        for record in records {
            let known = before.by_name.get(&record.name).filter(|k| k.record.public == record.public);
            let verifier = match known {
                Some(key) => key.verifier.clone(),
                None => Verifier::new(&record.public).map(Arc::new),
            };
            keys.add(record, verifier)?;
        }
        Ok(keys)
    }

    fn add(&mut self, record: KeyRecord, verifier: Option<Arc<Verifier>>) -> Result<(), Refusal> {
        if verifier.is_none() && record.public.algorithm().is_pair() {
            let why = format!("the public key of {} is no point of its curve", record.name);
            return Err(Refusal::new(Code::Internal, why));
        }
        let key = Arc::new(Key { record, verifier });
        if key.record.purpose == Purpose::Payment
            && let Some(address) = key.record.public.evm_address()
        {
            self.by_address.insert(address, Arc::clone(&key));
        }
        let line = key.record.line.clone();
        if self.current.get(&line).is_none_or(|other| rank(&other.record) < rank(&key.record)) {
            self.current.insert(line, Arc::clone(&key));
        }
        self.by_name.insert(key.record.name.clone(), key);
        Ok(())
    }

    /// The payment key of an account.
    #[must_use]
    pub fn by_address(&self, address: Address) -> Option<Arc<Key>> {
        self.by_address.get(&address).cloned()
    }

    /// The key that apps get by this name: the generation of the line that is in use.
    #[must_use]
    pub fn by_name(&self, name: &Name) -> Option<Arc<Key>> {
        self.current.get(name).or_else(|| self.by_name.get(name)).cloned()
    }

    /// Exactly this key, whatever came after it.
    #[must_use]
    pub fn exact(&self, name: &Name) -> Option<Arc<Key>> {
        self.by_name.get(name).cloned()
    }

    /// The generations of a line, newest first; of a name that is no line, that key alone.
    #[must_use]
    pub fn generations(&self, name: &Name) -> Vec<Arc<Key>> {
        let mut all: Vec<_> = self.by_name.values().filter(|k| k.record.line == *name).cloned().collect();
        if !self.current.contains_key(name) {
            all = self.by_name.get(name).cloned().into_iter().collect();
        }
        all.sort_by_key(|k| std::cmp::Reverse(k.record.generation));
        all
    }

    /// All keys, by line and generation.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Key>> {
        let mut keys: Vec<_> = self.by_name.values().cloned().collect();
        keys.sort_by(|a, b| {
            (&a.record.line, a.record.generation).cmp(&(&b.record.line, b.record.generation))
        });
        keys
    }
}

/// The rules in force: replaced as a whole by a reload, never changed in place.
pub struct Rules {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The signed books that it names.
    pub books: Vec<BookFile>,
    /// Its text.
    pub policy_text: String,
    /// The registered apps.
    pub apps: Apps,
    /// The text of their file.
    pub apps_text: String,
    /// What is remembered of each, and the manifests in force.
    pub memory: Memory,
    /// The people who approve, where there are any.
    pub authority: Option<Arc<Authority>>,
    /// Their document.
    pub authority_text: Option<String>,
    /// Whose keys they are, where that is written down.
    pub users: Option<Arc<Users>>,
    /// Their document.
    pub users_text: Option<String>,
    /// The text of the key policy.
    pub key_policy_text: String,
}

/// Admits so many refusals of strangers to the log each second; counts the others.
#[derive(Default)]
pub struct Strangers(Mutex<(i64, u32, u64)>);

impl Strangers {
    const PER_SECOND: u32 = 10;

    /// `Some(suppressed so far)` when this one is written down.
    pub(super) fn admit(&self, now_ms: i64) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (second, count, suppressed) = &mut *state;
        if now_ms.div_euclid(1000) != *second {
            (*second, *count) = (now_ms.div_euclid(1000), 0);
        }
        if *count >= Self::PER_SECOND {
            *suppressed = suppressed.saturating_add(1);
            return None;
        }
        *count += 1;
        Some(std::mem::take(suppressed))
    }
}

/// The house.
pub struct House {
    /// Frozen configuration.
    pub config: Config,
    /// Durable state.
    pub store: Store,
    /// The token.
    pub keeper: Keeper,
    /// Backups of payment keys, where they are switched on.
    pub backup: Option<Backups>,
    /// Seen from outside.
    pub metrics: Metrics,
    /// Requests that are waited for.
    pub pending: Pending,
    /// What looks at those who ask.
    pub eyes: Eyes,
    /// Which users are here.
    pub(super) presence: Presence,
    /// When it started.
    pub started: std::time::Instant,
    pub(super) strangers: Strangers,
    /// Of the token's generator of random bytes.
    pub(super) health: Mutex<Health>,
    pub(super) rules: RwLock<Arc<Rules>>,
    pub(super) keys: RwLock<Arc<Keys>>,
    /// What holds for the lives of keys.
    pub(super) key_policy: RwLock<Arc<KeyPolicy>>,
    /// The clock of those lives, and when it was read last.
    pub(super) life: Mutex<(LifeClock, std::time::Instant)>,
    /// Held for reading by what uses keys, for writing by a rotation.
    pub(super) switch: tokio::sync::RwLock<()>,
    /// One change of rules or keys at a time.
    pub(super) changes: tokio::sync::Mutex<()>,
    /// Files that differ from what is in force.
    pub(super) differing: Mutex<Vec<String>>,
    /// What stands against this device.
    pub(super) orders: Orders,
    /// The machine.
    pub(super) device: super::device::DeviceWatch,
    /// How far those outside are.
    pub outside: super::outbox::Outside,
    pub(super) stopping: AtomicBool,
    /// Copies of keys that have to go and are not gone.
    pub(super) left: Mutex<Vec<super::destroy::Left>>,
    /// How backups were found the last time.
    pub(super) backups_seen: Mutex<super::checkup::Seen>,
    /// How the state directory stands, and the short of it.
    pub(super) standing: RwLock<Standing>,
    pub(super) confirmed: AtomicBool,
    pub(super) confirming: tokio::sync::Mutex<()>,
    pub(super) anchored: anchor::Lock,
    /// Times that the token broke off when it was to seal the log for the first time.
    pub(super) unsealed_tries: AtomicU64,
    /// Times that a refused state was accepted.
    pub(super) epoch: AtomicU64,
    pub(super) run_id: u64,
    pub(super) requests: AtomicU64,
}

impl House {
    /// The rules in force now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys that exist now.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pins who connected.
    pub fn pin(&self, socket: std::os::fd::BorrowedFd<'_>) -> std::io::Result<Peer> {
        Peer::pin(socket, &self.eyes, &self.rules().apps)
    }

    /// A fresh request id: 64 random bits of this run, then a counter.
    #[must_use]
    pub fn next_request(&self) -> RequestId {
        let count = self.requests.fetch_add(1, Ordering::Relaxed);
        RequestId((u128::from(self.run_id) << 64) | u128::from(count))
    }

    /// Step 3: may anything be signed now?
    pub fn open_for_signing(&self) -> Result<(), Refusal> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::new(Code::Stopping, "the daemon is stopping"));
        }
        self.not_stopped()?;
        self.lease_runs()?;
        self.token_answers()?;
        self.keeper.not_strange().map_err(|e| token_refusal(&e))?;
        self.trusted()?;
        self.anchor_holds()
    }

    /// Whether the token can be asked anything.
    pub(super) fn token_answers(&self) -> Result<(), Refusal> {
        match self.keeper.state() {
            KeeperState::Usable | KeeperState::Degraded(_) => Ok(()),
            KeeperState::Probing => Err(Refusal::new(Code::TokenGone, "the token is being connected")),
            KeeperState::Unusable(why) => {
                Err(Refusal::new(Code::TokenGone, format!("the token cannot be used: {why}")))
            }
            KeeperState::Locked(why) => {
                Err(Refusal::new(Code::TokenLocked, format!("the token is locked: {why}")))
            }
        }
    }

    /// Whether the first attempt at the token has ended, either way.
    #[must_use]
    pub fn token_settled(&self) -> bool {
        self.keeper.state() != KeeperState::Probing
    }

    /// Turns new signatures away from now on.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Wall clock, milliseconds. The writer's own clock decides windows; this one is for limits on strangers.
    #[must_use]
    pub fn clock_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// The refusal for a store error.
    #[must_use]
    pub fn store_refusal(&self, error: &StoreError) -> Refusal {
        tracing::error!("store: {error}");
        Refusal::new(store_code(error), error.to_string())
    }

    /// Reads the gauges afresh.
    pub fn refresh_gauges(&self) {
        let token = self.keeper.stats();
        let store = self.store.stats();
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics
            .token_usable
            .set(i64::from(matches!(self.keeper.state(), KeeperState::Usable | KeeperState::Degraded(_))));
        self.metrics.token_strange.set(i64::from(self.keeper.not_strange().is_err()));
        self.metrics.token_reinits.set(token.reinits);
        self.metrics.token_queue.set(gauge(token.queued));
        self.metrics.store_queue.set(gauge(store.queue_depth));
        self.metrics.log_entries.set(gauge(store.log_size));
        self.metrics.inactivation.set(self.level_number());
        self.metrics.user_sessions.set(gauge(self.presence.count()));
        self.metrics.state_confirmed.set(i64::from(self.trusted().is_ok()));
        let behind = self.anchor_told().get("behind").and_then(serde_json::Value::as_i64);
        self.metrics.anchor_behind.set(behind.unwrap_or(-1));
        for (name, lag, alarmed) in self.outside.lags(store.log_size) {
            self.metrics.outside(&name, gauge(lag), alarmed);
        }
        let (left, late) = self.copies_left();
        self.metrics.copies_left.set(gauge(left.as_array().map_or(0, Vec::len) as u64));
        self.metrics.copies_overdue.set(gauge(late as u64));
        self.metrics.backups_wrong.set(self.backups_wrong().map_or(-1, gauge));
        let (policy, now) = (self.key_policy(), self.life_now());
        let overdue = |k: &&Arc<Key>| policy.end(&k.record).is_some_and(|(at, _)| now >= at);
        self.metrics.keys_overdue.set(gauge(self.keys().all().iter().filter(overdue).count() as u64));
    }
}

/// The code of a store error.
#[must_use]
pub fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Busy => Code::Busy,
        StoreError::ClockStepped(_) => Code::ClockStepped,
        StoreError::KeyExists(_) => Code::KeyExists,
        StoreError::Tampered(_) => Code::StateTampered,
        StoreError::Frozen(_) => Code::StateUnconfirmed,
        StoreError::KeyTombstone(_) => Code::KeyTombstone,
        _ => Code::StoreFailed,
    }
}

/// The refusal for a token error.
#[must_use]
pub fn token_refusal(error: &TokenError) -> Refusal {
    let code = match error {
        TokenError::Busy => Code::TokenBusy,
        TokenError::Gone(_) => Code::TokenGone,
        TokenError::Timeout(_) => Code::TokenTimeout,
        TokenError::Locked(_) => Code::TokenLocked,
        TokenError::Refused(_) | TokenError::Unsupported(_) => Code::TokenRefused,
        TokenError::Unfit(_) => Code::TokenUnfit,
        TokenError::Invalid(_) => Code::DataInvalid,
        TokenError::Corrupt(_) => Code::SignatureInvalid,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_flood_the_log_and_are_counted() {
        let strangers = Strangers::default();
        let written = (0..100).filter(|_| strangers.admit(1000).is_some()).count();
        assert_eq!(written, 10);
        assert_eq!(strangers.admit(2000), Some(90));
        assert_eq!(strangers.admit(2000), Some(0));
    }
}
