//! The supervisor: connects, runs workers, notices that the token went, and starts again.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::audit::Handover;
use super::super::embedded::EmbeddedToken;
use super::super::pkcs11::{Connection, Module};
use super::super::worker::{Hosting, Process};
use super::super::{Description, Token, TokenError};
use super::look::{look_around, try_once};
use super::{Backend, Inner, KeeperState, Shared};
use crate::secret::Pin;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const HEALTH_EVERY: Duration = Duration::from_millis(500);
/// Times that a PIN is sent without the token ever saying whether it is right: a module that dies each time may spend a
/// try each time.
const UNANSWERED_LOGINS: u32 = 3;
/// Ends the reason for a lock.
const WHAT_TO_DO: &str = "no PIN is sent any more until an operator runs claviger unlock";

/// What is connected: opens sessions, tells whether it lives.
pub(super) enum Link<'a> {
    Embedded(EmbeddedToken),
    Pkcs11(&'a Module, Connection),
    Worker(Arc<Process>),
}

impl Link<'_> {
    pub(super) fn session(&self) -> Result<Box<dyn Token>, TokenError> {
        Ok(match self {
            Self::Embedded(token) => Box::new(token.clone()),
            Self::Pkcs11(_, connection) => Box::new(connection.session()?),
            Self::Worker(process) => Box::new(process.session()?),
        })
    }

    pub(super) fn describe(&self) -> Result<Description, TokenError> {
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
                inner.connected = false;
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
                shared.set_state(&mut inner, KeeperState::Locked(format!("{why}; {WHAT_TO_DO}")));
            }
            // [clause 8.2.5-c] nor is one sent for ever of which nobody says whether it is right
            Err(e) if shared.inner().unanswered >= UNANSWERED_LOGINS => {
                drop(pin);
                let mut inner = shared.inner();
                let why = format!(
                    "the PIN was sent {UNANSWERED_LOGINS} times without an answer ({e}); {WHAT_TO_DO}"
                );
                shared.set_state(&mut inner, KeeperState::Locked(why));
            }
            Err(e) => {
                let mut inner = shared.inner();
                inner.pin.get_or_insert(pin);
                shared.set_state(&mut inner, KeeperState::Unusable(e.to_string()));
            }
        }
        let mut inner = shared.inner();
        inner.connected = false;
        if inner.barred.is_some() {
            inner.pin = None;
        }
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
        if let Some(pin) = inner.pin.take().filter(|_| inner.barred.is_none()) {
            inner.connected = true;
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
    let mut before_login = || {
        let mut inner = shared.inner();
        inner.unanswered = inner.unanswered.saturating_add(1);
        Ok(())
    };
    let (sessions, patience) = (shared.config.workers, shared.config.call_timeout);
    let known = shared.inner().description.as_ref().map(|d| d.serial.clone());
    let link = if let Some((executable, place, profile)) = backend.hosted(patience, known) {
        let process = Process::start(
            Hosting { executable, place: &place, profile, sessions, patience },
            pin,
            handover.clone(),
            &mut before_login,
        );
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
                Link::Pkcs11(module, module.connect(pin, &mut before_login)?)
            }
            Backend::Yubihsm { .. } => {
                return Err(TokenError::Unsupported("a YubiHSM is driven from a worker only".into()));
            }
        }
    };
    shared.inner().unanswered = 0;
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

/// Runs workers until the token goes or the keeper stops; tells why.
fn serve(shared: &Arc<Shared>, link: &Link<'_>) -> TokenError {
    let generation = {
        let mut inner = shared.inner();
        // A login that was just made, and is not wanted any more.
        inner.trouble = inner.barred.clone().map(TokenError::Locked);
        inner.generation = inner.generation.wrapping_add(1);
        inner.generation
    };
    let mut workers = Vec::new();
    if let Err(e) = hire(shared, link, generation, &mut workers) {
        tracing::warn!("{} of {} token sessions: {e}", workers.len(), shared.config.workers);
    }
    // A session of its own, since those of the workers may all be waiting for the token.
    let mut watcher = if shared.profile.own_log { link.session().ok() } else { None };
    let mut inner = shared.inner();
    let why = if workers.is_empty() {
        TokenError::Gone("no session could be opened".into())
    } else {
        if inner.generation == generation {
            watch(shared, &mut inner, workers.len());
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
            if guard.stopping || guard.trouble.is_some() {
                inner = guard;
                continue;
            }
            drop(guard);
            // Sessions that were not to be had may be now.
            let alive = link
                .alive()
                .and_then(|()| match &mut watcher {
                    Some(watcher) => shared.look_into_log(watcher.as_mut()),
                    None => Ok(()),
                })
                .and_then(|()| match hire(shared, link, generation, &mut workers) {
                    Err(TokenError::Busy) => Ok(()),
                    other => other,
                });
            inner = shared.inner();
            if let Err(e) = alive {
                break e;
            }
            if inner.trouble.is_none() {
                watch(shared, &mut inner, workers.len());
            }
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

/// Starts the workers that are missing, as far as the token gives sessions.
fn hire(
    shared: &Arc<Shared>,
    link: &Link<'_>,
    generation: u64,
    workers: &mut Vec<JoinHandle<()>>,
) -> Result<(), TokenError> {
    for slot in workers.len()..shared.config.workers {
        let session = link.session()?;
        let theirs = Arc::clone(shared);
        let started = std::thread::Builder::new()
            .name(format!("token-{slot}"))
            .spawn(move || work(&theirs, slot, generation, session))
            .map_err(|e| TokenError::Gone(format!("no thread: {e}")))?;
        workers.push(started);
    }
    Ok(())
}

/// What is wrong though the token answers: calls that do not come back, sessions that are missing.
fn watch(shared: &Shared, inner: &mut Inner, workers: usize) {
    let now = i64::try_from(shared.born.elapsed().as_millis()).unwrap_or(i64::MAX);
    let patience = i64::try_from(shared.config.call_timeout.as_millis()).unwrap_or(i64::MAX);
    let stuck = shared
        .calls
        .iter()
        .map(|c| c.load(Ordering::Relaxed))
        .filter(|began| *began > 0 && now.saturating_sub(*began) > patience)
        .count();
    let state = match stuck {
        0 if inner.strange.is_some() => KeeperState::Degraded(inner.strange.clone().unwrap_or_default()),
        0 if workers < shared.config.workers => {
            KeeperState::Degraded(format!("{workers} of {} sessions are open", shared.config.workers))
        }
        0 => KeeperState::Usable,
        n if n < workers => KeeperState::Degraded(format!("{n} calls do not come back")),
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
        let Some((came, call)) = inner.queue.pop_front() else {
            inner = shared.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(inner);
        // Half of the patience is for the queue, half for the token. A token that is asked for more than it can do would
        // else work for callers that have just given up, and serve nobody.
        if came.elapsed() > shared.config.call_timeout / 2 {
            drop(call(Err(TokenError::Busy)));
            inner = shared.inner();
            continue;
        }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::Instant;

    use super::super::{Keeper, KeeperConfig};
    use super::*;
    use crate::token::profile::Profile;

    /// Stands in for a worker: says that it logs in, and dies.
    const DIES: &str = r#"#!/usr/bin/env bash
echo try >> "${0%/*}/tries"
fd=${2%%,*}
read -r -t 5 -N 1 -u "$fd"
sleep 0.05
printf '\x12\0\0\0{"Ok":"LoggingIn"}' >&"$fd"
"#;

    fn tries(dir: &Path) -> usize {
        fs::read_to_string(dir.join("tries")).map_or(0, |text| text.lines().count())
    }

    fn locked(keeper: &Keeper) {
        let began = Instant::now();
        loop {
            match keeper.state() {
                KeeperState::Locked(why) => {
                    assert!(why.contains("claviger unlock"), "{why}");
                    return;
                }
                state => assert!(began.elapsed() < Duration::from_secs(20), "{state:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    // [clause 8.2.5-c] test
    #[test]
    fn a_login_that_is_never_answered_is_tried_three_times_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let worker = dir.path().join("worker");
        fs::write(&worker, DIES).unwrap();
        fs::set_permissions(&worker, fs::Permissions::from_mode(0o700)).unwrap();
        let backend = Backend::Pkcs11 {
            place: crate::token::pkcs11::Place {
                module: "/nowhere".into(),
                label: None,
                serial: None,
                init: None,
            },
            profile: Profile::load("softhsm2").unwrap(),
            worker: Some(worker),
        };
        let pin = || Pin::new("1234".to_owned()).unwrap();
        let keeper = Keeper::start(backend, Some(pin()), KeeperConfig::default());
        locked(&keeper);
        std::thread::sleep(LONGEST_WAIT);
        assert_eq!(tries(dir.path()), 3);
        keeper.unlock(pin());
        while tries(dir.path()) == 3 {
            std::thread::sleep(Duration::from_millis(10));
        }
        locked(&keeper);
        std::thread::sleep(FIRST_WAIT);
        assert_eq!(tries(dir.path()), 6);
        keeper.stop();
    }
}
