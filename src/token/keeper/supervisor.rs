//! The supervisor: connects, runs workers, notices that the token went, and starts again.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::super::audit::Handover;
use super::super::embedded::EmbeddedToken;
use super::super::pkcs11::{Connection, Module};
use super::super::worker::Process;
use super::super::{Description, Token, TokenError};
use super::{Backend, Fitness, Inner, KeeperState, Shared};
use crate::secret::Pin;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const HEALTH_EVERY: Duration = Duration::from_millis(500);

/// What is connected: opens sessions, tells whether it lives.
enum Link<'a> {
    Embedded(EmbeddedToken),
    Pkcs11(&'a Module, Connection),
    Worker(Arc<Process>),
}

impl Link<'_> {
    fn session(&self) -> Result<Box<dyn Token>, TokenError> {
        Ok(match self {
            Self::Embedded(token) => Box::new(token.clone()),
            Self::Pkcs11(_, connection) => Box::new(connection.session()?),
            Self::Worker(process) => Box::new(process.session()?),
        })
    }

    fn describe(&self) -> Result<Description, TokenError> {
        match self {
            Self::Embedded(token) => token.clone().describe(),
            Self::Pkcs11(_, connection) => Ok(connection.description().clone()),
            Self::Worker(process) => Ok(process.description().clone()),
        }
    }

    fn alive(&self) -> Result<(), TokenError> {
        match self {
            Self::Embedded(token) => token.clone().health(),
            Self::Pkcs11(_, connection) => connection.alive(),
            Self::Worker(process) => process.alive(),
        }
    }

    /// Breaks off what is under way, where that can be done.
    fn abort(&self) {
        if let Self::Worker(process) = self {
            process.kill();
        }
    }

    /// What the next link must know of this one.
    fn handover(&self) -> Handover {
        if let Self::Worker(process) = self { process.handover() } else { Handover::default() }
    }

    /// Process id of the worker.
    fn worker(&self) -> Option<u32> {
        if let Self::Worker(process) = self { Some(process.id()) } else { None }
    }

    fn close(self) {
        match self {
            Self::Embedded(_) => {}
            Self::Pkcs11(module, connection) => {
                drop(connection);
                module.finalize();
            }
            Self::Worker(process) => process.close(),
        }
    }
}

pub(super) fn supervise(shared: &Arc<Shared>, backend: &Backend) {
    let mut module = None;
    let mut handover = Handover::default();
    let mut wait = FIRST_WAIT;
    loop {
        let Some(pin) = next_pin(shared) else { return };
        match connect(shared, backend, &mut module, &mut handover, &pin) {
            Ok(link) => {
                wait = FIRST_WAIT;
                shared.worker.store(link.worker().unwrap_or_default(), Ordering::Relaxed);
                let end = serve(shared, &link);
                shared.worker.store(0, Ordering::Relaxed);
                handover = link.handover();
                link.close();
                let mut inner = shared.inner();
                if inner.stopping {
                    return;
                }
                match end {
                    // [clause 8.2.5-c] a login that was taken back while it was in use is not tried again either
                    TokenError::Locked(why) => {
                        drop(pin);
                        shared.set_state(&mut inner, KeeperState::Locked(why));
                    }
                    end => {
                        inner.pin.get_or_insert(pin);
                        shared.reinits.fetch_add(1, Ordering::Relaxed);
                        shared.set_state(&mut inner, KeeperState::Unusable(end.to_string()));
                    }
                }
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
    handover: &mut Handover,
    pin: &Pin,
) -> Result<Link<'a>, TokenError> {
    let (sessions, patience) = (shared.config.workers, shared.config.call_timeout);
    let link = if let Some((executable, place, profile)) = backend.hosted(patience) {
        let process = Process::start(executable, &place, profile, pin, sessions, patience, handover.clone());
        // A worker that failed may have read the token's log before it did.
        handover.unsure |= process.is_err();
        Link::Worker(process?)
    } else {
        match backend {
            Backend::Embedded { dir, profile } => {
                Link::Embedded(EmbeddedToken::open(dir, pin, profile.clone())?)
            }
            Backend::Pkcs11 { place, profile, .. } => {
                let module = match module {
                    Some(module) => module,
                    None => module.insert(Module::load(place.clone(), profile.clone())?),
                };
                Link::Pkcs11(module, module.connect(pin)?)
            }
            Backend::Yubihsm { .. } => {
                return Err(TokenError::Unsupported("a YubiHSM is driven from a worker only".into()));
            }
        }
    };
    match first_look(shared, &link)
        .and_then(|()| look_around(shared, &link))
        .and_then(|()| try_once(shared, &link))
    {
        Ok(()) => Ok(link),
        Err(e) => {
            *handover = link.handover();
            link.close();
            Err(e)
        }
    }
}

/// What happened in the token while it was away comes before everything else.
fn first_look(shared: &Shared, link: &Link<'_>) -> Result<(), TokenError> {
    if shared.profile.own_log { shared.look_into_log(link.session()?.as_mut()) } else { Ok(()) }
}

/// The first time, the token is tried before anything else is asked of it.
fn try_once(shared: &Shared, link: &Link<'_>) -> Result<(), TokenError> {
    if shared.inner().fitness == Fitness::Untried {
        shared.try_out(link.session()?.as_mut())?;
    }
    Ok(())
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
fn serve(shared: &Arc<Shared>, link: &Link<'_>) -> TokenError {
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
    // A session of its own, since those of the workers may all be waiting for the token.
    let mut watcher = if shared.profile.own_log { link.session().ok() } else { None };
    let mut inner = shared.inner();
    let why = if workers.is_empty() {
        TokenError::Gone("no session could be opened".into())
    } else {
        if inner.generation == generation {
            shared.set_state(&mut inner, KeeperState::Usable);
        }
        loop {
            if inner.stopping {
                break TokenError::Gone("stopping".into());
            }
            if let Some(why) = inner.trouble.take() {
                break why;
            }
            let (guard, _) =
                shared.change.wait_timeout(inner, HEALTH_EVERY).unwrap_or_else(PoisonError::into_inner);
            drop(guard);
            let looked = link.alive().and_then(|()| match &mut watcher {
                Some(watcher) => shared.look_into_log(watcher.as_mut()),
                None => Ok(()),
            });
            if let Err(e) = looked {
                inner = shared.inner();
                break e;
            }
            inner = shared.inner();
            watch_for_stuck_calls(shared, &mut inner);
        }
    };
    inner.generation = inner.generation.wrapping_add(1);
    let in_order = inner.stopping;
    drop(watcher);
    shared.set_state(&mut inner, KeeperState::Unusable(why.to_string()));
    drop(inner);
    if !in_order {
        link.abort();
    }
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
        0 => match &inner.strange {
            Some(why) => KeeperState::Degraded(why.clone()),
            None => KeeperState::Usable,
        },
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
            if let TokenError::Gone(_) | TokenError::Timeout(_) = error
                && inner.generation == generation
            {
                shared.set_state(&mut inner, KeeperState::Unusable(error.to_string()));
                inner.trouble = Some(error);
                shared.change.notify_all();
            }
        }
    }
}
