//! A PKCS#11 module, or the way to a YubiHSM, in a process of its own. [clause 8.2.5]
//!
//! The code of other people crashes, hangs and cannot be cancelled. The daemon starts itself again as a worker, which
//! runs it; deadlines are held here, outside. A worker that is late or talks nonsense is killed, whatever it is at,
//! and the keeper starts another.
#![forbid(unsafe_code)]

mod confine;
pub mod host;
mod ledger;
mod message;

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::ledger::Ledger;
use self::message::{Answer, Control, Lane, Reply, Request};
use super::audit::{Audit, Handover};
use super::backup::{Ask, Made};
use super::check::CheckRow;
use super::keeper::CALLS_OF_A_CHECK;
use super::pkcs11::BeforeLogin;
use super::profile::Profile;
use super::{Description, KeySpec, Nonce, Object, Past, RawSignature, Token, TokenError, pkcs11, yubihsm};
use crate::core::key::{Algorithm, KeyRef, PublicKey};
use crate::core::payment::ToSign;
use crate::secret::{Pin, SecretBytes};
use crate::sys;

/// How long a worker may take to say that its token is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long initialising and logging in may take. Some modules look for their devices for seconds.
const START: Duration = Duration::from_secs(20);
/// How long a worker may take to end after it was told to.
const FAREWELL: Duration = Duration::from_millis(500);

/// What a worker hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Place {
    /// A PKCS#11 module.
    Pkcs11(pkcs11::Place),
    /// A YubiHSM 2.
    Yubihsm(yubihsm::Place),
}

/// What a worker is started for.
#[derive(Clone, Copy)]
pub struct Hosting<'a> {
    /// This program.
    pub executable: &'a Path,
    /// What it hosts.
    pub place: &'a Place,
    /// Profile.
    pub profile: &'a Profile,
    /// Threads that ask, a session each.
    pub sessions: usize,
    /// Deadline of a call.
    pub patience: Duration,
}

/// A running worker, logged in.
pub struct Process {
    child: Mutex<Child>,
    control: Mutex<Lane>,
    idle: Mutex<Vec<Lane>>,
    description: Description,
    ended: AtomicBool,
    patience: Duration,
    /// Kept for tokens with a log of their own.
    ledger: Ledger,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts a worker and logs in. `before_login` is told before the PIN
    /// reaches the token, as far as the worker gets.
    pub fn start(
        hosting: Hosting<'_>,
        pin: &Pin,
        handover: Handover,
        before_login: BeforeLogin<'_>,
    ) -> Result<Arc<Self>, TokenError> {
        let Hosting { executable, profile, sessions, patience, .. } = hosting;
        let gone = |e: io::Error| TokenError::Gone(format!("the token's worker does not start: {e}"));
        // One more than the threads: the keeper looks around with it.
        let mut ours = Vec::new();
        let mut theirs: Vec<OwnedFd> = Vec::new();
        for _ in 0..sessions + 2 {
            let (a, b) = UnixStream::pair().map_err(gone)?;
            ours.push(Lane::new(a));
            theirs.push(b.into());
        }
        let numbers: Vec<String> = theirs.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        let mut command = Command::new(executable);
        command.arg(host::ARGUMENT).arg(numbers.join(",")).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs(&profile.env);
        sys::pass_descriptors(&mut command, theirs);
        let child = command.spawn().map_err(gone)?;
        // The parent's copies of their ends go with the command: the end of the worker is the end of the stream.
        drop(command);
        let mut idle = ours;
        let control = idle.swap_remove(0);
        let mut process = Self {
            child: Mutex::new(child),
            control: Mutex::new(control),
            idle: Mutex::new(idle),
            description: Description::default(),
            ended: AtomicBool::new(false),
            patience,
            ledger: Ledger::of(profile, &handover),
        };
        let greeted = process.greet(hosting, pin, handover, before_login);
        match greeted {
            Ok(description) => {
                process.description = description;
                Ok(Arc::new(process))
            }
            Err(e) => {
                process.kill();
                Err(e)
            }
        }
    }

    fn greet(
        &self,
        hosting: Hosting<'_>,
        pin: &Pin,
        handover: Handover,
        before_login: BeforeLogin<'_>,
    ) -> Result<Description, TokenError> {
        let Hosting { place, profile, .. } = hosting;
        let start = Control::Start { profile: Box::new(profile.clone()), place: place.clone(), handover };
        let mut control = lock(&self.control);
        let mut answer = control
            .send(&start)
            .and_then(|()| control.send_bytes(pin.expose()))
            .and_then(|()| control.receive::<Answer>(Some(START)));
        if matches!(answer, Ok(Some(Ok(Reply::LoggingIn)))) {
            before_login()?;
            answer = control.receive::<Answer>(Some(START));
        }
        drop(control);
        match self.understood(answer, START)? {
            Reply::Description(description) => Ok(description),
            _ => Err(nonsense()),
        }
    }

    /// Turns silence, an end and nonsense into errors, after killing the worker.
    fn understood(&self, answer: io::Result<Option<Answer>>, patience: Duration) -> Answer {
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(TokenError::Gone(self.obituary("ended"))),
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                self.kill();
                Err(TokenError::Timeout(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX)))
            }
            Err(e) => Err(TokenError::Gone(self.obituary(&format!("broke off ({e})")))),
        }
    }

    /// Ends the worker if it has not ended, and says how it went.
    fn obituary(&self, what: &str) -> String {
        let by_us = self.ended.load(Ordering::Acquire);
        let status = self.end(FAREWELL);
        match status.and_then(|s| s.signal()) {
            _ if by_us => "the token's worker was stopped".to_owned(),
            Some(signal) => format!("the token's worker was ended by signal {signal}"),
            None => format!("the token's worker {what}"),
        }
    }

    /// Ends the worker at once, whatever it is doing.
    pub fn kill(&self) {
        self.end(Duration::ZERO);
    }

    fn end(&self, patience: Duration) -> Option<std::process::ExitStatus> {
        self.ended.store(true, Ordering::Release);
        let mut child = lock(&self.child);
        let began = Instant::now();
        let mut killed = false;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => {}
                Err(_) => return None,
            }
            if !killed && began.elapsed() >= patience {
                killed = child.kill().is_ok();
            }
            // A process in the kernel's hands may outlive its signal; it holds nothing that we wait for.
            if began.elapsed() > patience + Duration::from_secs(1) {
                tracing::warn!("the token's worker {} does not die", child.id());
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Who the token is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Whether worker and token answer.
    pub fn alive(&self) -> Result<(), TokenError> {
        let mut control = lock(&self.control);
        let answer =
            control.send(&Control::Alive).and_then(|()| control.receive::<Answer>(Some(SIGN_OF_LIFE)));
        drop(control);
        self.understood(answer, SIGN_OF_LIFE).map(|_| ())
    }

    /// What the next worker must know, for the token's own log to be understood.
    pub fn handover(&self) -> Handover {
        self.ledger.handover()
    }

    /// A session for one thread.
    pub fn session(self: &Arc<Self>) -> Result<RemoteToken, TokenError> {
        let lane = lock(&self.idle).pop().ok_or(TokenError::Busy)?;
        let mut token = RemoteToken { lane: Some(lane), process: Arc::clone(self) };
        token.health()?;
        Ok(token)
    }

    /// Lets the worker log out and finalize, for a moment.
    pub fn close(&self) {
        if !self.ended.load(Ordering::Acquire) && lock(&self.control).send(&Control::Close).is_ok() {
            self.end(FAREWELL);
        } else {
            self.kill();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A session in a worker, used by one thread of the daemon.
pub struct RemoteToken {
    lane: Option<Lane>,
    process: Arc<Process>,
}

impl Drop for RemoteToken {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            lock(&self.process.idle).push(lane);
        }
    }
}

fn nonsense() -> TokenError {
    TokenError::Corrupt("the token's worker answered something else".into())
}

impl RemoteToken {
    fn ask(&mut self, request: &Request) -> Answer {
        self.ask_for(request, self.process.patience)
    }

    fn ask_for(&mut self, request: &Request, patience: Duration) -> Answer {
        let number = self.process.ledger.begin(request);
        let answer = self.ask_now(request, patience);
        // An answer that did not come in time leaves open whether it was done.
        if let Some(number) = number
            && !matches!(answer, Err(TokenError::Gone(_) | TokenError::Timeout(_)))
        {
            self.process.ledger.over(number);
        }
        answer
    }

    fn ask_now(&mut self, request: &Request, patience: Duration) -> Answer {
        let Some(lane) = &mut self.lane else {
            return Err(TokenError::Gone("the token's worker has ended".into()));
        };
        match lane.send(request) {
            Ok(()) => {}
            // Said by us, before anything went out.
            Err(e) if e.kind() == ErrorKind::InvalidInput => {
                return Err(TokenError::Unsupported(e.to_string()));
            }
            Err(e) => {
                self.lane = None;
                return self.process.understood(Err(e), patience);
            }
        }
        let answer = lane.receive::<Answer>(Some(patience));
        if !matches!(answer, Ok(Some(_))) {
            self.lane = None;
        }
        self.process.understood(answer, patience)
    }

    fn done(&mut self, request: &Request) -> Result<(), TokenError> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            _ => Err(nonsense()),
        }
    }

    fn bytes(&mut self, request: &Request) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        match self.ask(request)? {
            Reply::Bytes(bytes) => Ok(bytes),
            _ => Err(nonsense()),
        }
    }

    fn public(&mut self, request: &Request) -> Result<Option<PublicKey>, TokenError> {
        match self.ask(request)? {
            Reply::Public(None) => Ok(None),
            Reply::Public(Some((algorithm, bytes))) => {
                PublicKey::from_bytes(algorithm, &bytes).map(Some).ok_or_else(nonsense)
            }
            _ => Err(nonsense()),
        }
    }
}

impl Token for RemoteToken {
    fn describe(&mut self) -> Result<Description, TokenError> {
        match self.ask(&Request::Describe)? {
            Reply::Description(description) => Ok(description),
            _ => Err(nonsense()),
        }
    }

    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError> {
        self.public(&Request::Generate(spec.clone()))?.ok_or_else(nonsense)
    }

    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        self.public(&Request::Find(reference))
    }

    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError> {
        match self.ask(&Request::Sign { reference, algorithm, to_sign: to_sign.clone() })? {
            Reply::Bytes(bytes) => bytes.as_slice().try_into().map_err(|_| nonsense()),
            _ => Err(nonsense()),
        }
    }

    fn encrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let plain = Zeroizing::new(plain.to_vec());
        self.bytes(&Request::Encrypt { reference, nonce, aad: aad.to_vec(), plain }).map(|b| b.to_vec())
    }

    fn decrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.bytes(&Request::Decrypt { reference, nonce, aad: aad.to_vec(), sealed: sealed.to_vec() })
    }

    fn mac(&mut self, reference: KeyRef, data: &[u8]) -> Result<[u8; 32], TokenError> {
        let tag = self.bytes(&Request::Mac { reference, data: data.to_vec() })?;
        tag.as_slice().try_into().map_err(|_| nonsense())
    }

    fn data(&mut self, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
        match self.ask(&Request::Data(label.to_owned()))? {
            Reply::Data(all) => Ok(all),
            _ => Err(nonsense()),
        }
    }

    fn keep_data(&mut self, label: &str, bytes: &[u8], beside: &[u8]) -> Result<(), TokenError> {
        let (bytes, beside) = (bytes.to_vec(), beside.to_vec());
        self.done(&Request::KeepData { label: label.to_owned(), bytes, beside })
    }

    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        self.done(&Request::Destroy(reference))
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError> {
        match self.ask(&Request::Random(out.len()))? {
            Reply::Bytes(bytes) if bytes.len() == out.len() => {
                out.copy_from_slice(&bytes);
                Ok(())
            }
            _ => Err(nonsense()),
        }
    }

    fn inventory(&mut self, only: Option<&str>) -> Result<Vec<Object>, TokenError> {
        match self.ask(&Request::Inventory(only.map(str::to_owned)))? {
            Reply::Objects(objects) => Ok(objects),
            _ => Err(nonsense()),
        }
    }

    fn past(&mut self, reference: KeyRef) -> Result<Past, TokenError> {
        match self.ask(&Request::Past(reference))? {
            Reply::Past(past) => Ok(past),
            _ => Err(nonsense()),
        }
    }

    fn import(&mut self, spec: &KeySpec, private: &SecretBytes<32>) -> Result<(PublicKey, Past), TokenError> {
        let private = Zeroizing::new(*private.expose());
        match self.ask(&Request::Import { spec: spec.clone(), private })? {
            Reply::Imported { algorithm, public, past } => {
                Ok((PublicKey::from_bytes(algorithm, &public).ok_or_else(nonsense)?, past))
            }
            _ => Err(nonsense()),
        }
    }

    fn backup(&mut self, ask: &Ask) -> Result<Made, TokenError> {
        match self.ask(&Request::Backup(ask.clone()))? {
            Reply::Backup(made) => Ok(made),
            _ => Err(nonsense()),
        }
    }

    fn health(&mut self) -> Result<(), TokenError> {
        self.done(&Request::Health)
    }

    fn audit(&mut self) -> Result<Audit, TokenError> {
        let settled = self.process.ledger.settled();
        match self.ask(&Request::Audit)? {
            Reply::Audit(audit) => {
                self.process.ledger.read(&settled, audit.mark);
                Ok(audit)
            }
            _ => Err(nonsense()),
        }
    }

    fn check(&mut self) -> Result<Vec<CheckRow>, TokenError> {
        let patience = self.process.patience.saturating_mul(CALLS_OF_A_CHECK);
        match self.ask_for(&Request::Check, patience)? {
            Reply::Rows(rows) => Ok(rows),
            _ => Err(nonsense()),
        }
    }
}
