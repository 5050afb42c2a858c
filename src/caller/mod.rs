//! EDGE. Who is on the other end of the socket.
//!
//! Decides whether a connection belongs to a registered app, at the request and again before signing. Mints
//! [`Vouched`]. An attestor looks ([`Eyes`]) and gives facts; [`crate::core::app::judge`] judges them. What cannot be
//! seen lowers the tier and is never guessed.
//!
//! A connection is its process, the memory that this had when it was accepted, and the sender of every byte. A program
//! that is executed later, a child, and whoever was handed the socket are others.
#![forbid(unsafe_code)]

mod areas;
pub mod child;
mod eyes;
mod files;
mod host;
mod look;
mod message;
mod rounds;
mod status;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{fs, io};

pub use eyes::Eyes;
use eyes::Sight;
pub use files::{executable_digest, file_facts};
use rounds::Rounds;

use crate::core::app::facts::{Facts, FileFacts, PinFacts};
use crate::core::app::hello::{Hello, Proof};
use crate::core::app::judge::{self, Asking, Row};
use crate::core::app::{App, Apps};
use crate::core::proof::{Digest, Vouched};
use crate::core::units::Timestamp;
use crate::refusal::{Code, Refusal};
use crate::sys::memory;
use crate::sys::peer::Chunk;

/// `statfs` of a pidfd whose inode number is the process's own for the life of the machine (Linux 6.9).
const PIDFS: i64 = 0x5049_4446;

/// What a connection is, for as long as it lasts.
struct Pin {
    facts: PinFacts,
    /// Nothing when the process was gone before it could be held.
    sight: Option<Sight>,
    /// Inode of the pidfd, where it names a process for good.
    process: Option<u64>,
    rounds: Arc<Rounds>,
    hello: Mutex<Hello>,
}

/// The process that connected, pinned for the life of the connection; and what this request shows for itself.
#[derive(Clone)]
pub struct Peer {
    pin: Arc<Pin>,
    /// Process id at connect time, for the log.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    proven: bool,
}

/// Holds on to a connection without keeping it: what is tied to it ends with it.
#[derive(Clone, Debug)]
pub struct Tie {
    pin: Weak<Pin>,
    pid: i32,
    uid: u32,
}

impl Tie {
    /// Who is on the other end, while the connection stands. Nothing is proven of them here.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        let pin = self.pin.upgrade()?;
        Some(Peer { pin, pid: self.pid, uid: self.uid, proven: false })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.pin.strong_count() > 0
    }

    /// Whether this is a request of that connection.
    #[must_use]
    pub fn is_of(&self, peer: &Peer) -> bool {
        std::ptr::eq(self.pin.as_ptr(), Arc::as_ptr(&peer.pin))
    }

    /// Whether both are ties to one connection.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.pin, &other.pin)
    }
}

impl Peer {
    /// A tie to its connection, the same for each request of it.
    #[must_use]
    pub fn tie(&self) -> Tie {
        Tie { pin: Arc::downgrade(&self.pin), pid: self.pid, uid: self.uid }
    }

    /// Pins the peer of an accepted connection. The executable is read only where `apps` could know it: strangers make
    /// nobody read their files.
    pub fn pin(socket: BorrowedFd<'_>, eyes: &Eyes, apps: &Apps) -> io::Result<Self> {
        let (sight, facts) = eyes.pin(socket)?;
        Self::of(sight, facts, eyes, apps)
    }

    /// Pins a process by its number, for trying it out: nobody is served on account of it.
    pub fn of_process(pid: i32, eyes: &Eyes, apps: &Apps) -> io::Result<Self> {
        let (sight, facts) = eyes.pin_process(pid)?;
        Self::of(Some(sight), facts, eyes, apps)
    }

    fn of(sight: Option<Sight>, mut facts: PinFacts, eyes: &Eyes, apps: &Apps) -> io::Result<Self> {
        if let (Ok(exe), Some(sight)) = (&facts.exe, &sight)
            && exe.digest.is_err()
            && apps.claimed(&exe.path, facts.uid).is_some()
        {
            facts.exe = sight.executable();
        }
        let process = sight.as_ref().and_then(|sight| identity(sight.pidfd()));
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        let (pid, uid) = (facts.pid, facts.uid);
        let rounds = eyes.rounds(process);
        let pin = Pin { facts, sight, process, rounds, hello: Mutex::new(Hello::new(nonce)) };
        Ok(Self { pin: Arc::new(pin), pid, uid, proven: false })
    }

    /// What is known, for people and the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let exe = match &self.pin.facts.exe {
            Ok(exe) => exe.path.display().to_string(),
            Err(why) => format!("unreadable ({why})"),
        };
        format!("pid {} uid {} executable {exe}", self.pid, self.uid)
    }

    /// Whether these bytes were written by the process that connected, and by nobody else.
    // [clause 8.2.4-b] a child, a thief of the descriptor or whoever was handed it is another process
    pub fn wrote(&self, chunk: &Chunk) -> Result<(), Refusal> {
        if !chunk.descriptors.is_empty() || chunk.truncated {
            let why = format!("process {} sent descriptors, or more than fits, beside its bytes", self.pid);
            return Err(Refusal::new(Code::AppDescriptor, why));
        }
        let another = |who: String| {
            let why = format!("{who} wrote on the connection of process {}", self.pid);
            Err(Refusal::new(Code::AppSender, why))
        };
        // At the end of a stream nobody wrote, and the kernel names process 0.
        if chunk.length == 0 {
            return Ok(());
        }
        let Some(sender) = chunk.sender else { return another("an unknown process".into()) };
        if sender.pid <= 0 || sender.pid != self.pid {
            return another(format!("process {}", sender.pid));
        }
        match (&chunk.pidfd, self.pin.process) {
            (Some(pidfd), Some(process)) if identity(pidfd.as_fd()) != Some(process) => {
                another(format!("another process {} than the one that connected", sender.pid))
            }
            _ => Ok(()),
        }
    }

    /// Gives the nonce of this connection; from now on each request must show it.
    #[must_use]
    pub fn hello(&self) -> [u8; 16] {
        self.pin.hello.lock().unwrap_or_else(PoisonError::into_inner).say()
    }

    /// The peer as of one request, by what that shows for itself.
    pub fn of_request(&self, proof: Option<Proof>) -> Result<Self, Refusal> {
        let proven = self.pin.hello.lock().unwrap_or_else(PoisonError::into_inner).admit(proof)?;
        Ok(Self { proven, ..self.clone() })
    }

    /// Which registered app it is, by what was seen when it connected.
    pub fn app<'a>(&self, apps: &'a Apps) -> Result<&'a App, Refusal> {
        let unknown = |why: String| Refusal::new(Code::AppUnknown, why);
        let exe = self.pin.facts.exe.as_ref().map_err(|why| {
            unknown(format!("the executable of pid {} (uid {}) could not be read: {why}", self.pid, self.uid))
        })?;
        // [clause 8.2.4-a] an app that is not registered gets nothing
        if apps.claimed(&exe.path, self.uid).is_none() {
            let why = format!("{} under uid {} is no registered app", exe.path.display(), self.uid);
            return Err(unknown(why));
        }
        if let Some(why) = judge::replaced(exe, self.pin.facts.named.as_ref().ok().copied()) {
            return Err(Refusal::new(Code::AppReplaced, why));
        }
        let digest = exe.digest.as_ref().map_err(|why| {
            unknown(format!("{} could not be read when it connected: {why}", exe.path.display()))
        })?;
        apps.find(&exe.path, digest, self.uid).ok_or_else(|| {
            let (path, digest) = (exe.path.display(), hex::encode(digest));
            let why = format!("{path} has SHA-256 {digest} under uid {}, not the registered one", self.uid);
            Refusal::new(Code::AppReplaced, why)
        })
    }

    fn look(&self, path: &Path, unit: bool) -> Result<Facts, Refusal> {
        let sight = self.pin.sight.as_ref().ok_or_else(|| self.ended())?;
        sight
            .check(path, unit)
            .map_err(|e| Refusal::new(Code::AppUnseen, format!("nothing can be seen: {e}")))
    }

    fn ended(&self) -> Refusal {
        let why = format!("process {} has ended, or runs another program than when it connected", self.pid);
        Refusal::new(Code::AppChanged, why)
    }

    fn asking(&self, now: Timestamp) -> Asking<'_> {
        Asking { pin: &self.pin.facts, proven: self.proven, now }
    }

    /// Everything that is seen of it from now on, for its request.
    ///
    /// Requests of one process that wait at once share a look that began after they came; that this connection is of
    /// that process and that memory is asked of the kernel once more. An executable that others than root can change is
    /// read as a whole each time, on a thread where nobody else waits.
    pub async fn looked_at(&self, apps: &Apps) -> Result<Arc<Facts>, Refusal> {
        let app = self.app(apps)?;
        let asked = (app.path.clone(), app.unit.is_some());
        let slow = self.pin.facts.exe.as_ref().is_ok_and(|exe| !exe.sealed);
        let look = |(path, unit): rounds::Asked| async move {
            if !slow {
                return self.look(&path, unit);
            }
            let peer = self.clone();
            let looked = tokio::task::spawn_blocking(move || peer.look(&path, unit)).await;
            let failed = |e| Refusal::new(Code::Internal, format!("the check of the caller failed: {e}"));
            looked.unwrap_or_else(|e| Err(failed(e)))
        };
        let seen = self.pin.rounds.seen(asked, look).await?;
        let identity = |exe: &FileFacts| (exe.dev, exe.ino);
        let (now, then) = (seen.exe.as_ref().map(identity), self.pin.facts.exe.as_ref().map(identity));
        match (now, then) {
            (Ok(now), Ok(then)) if now != then => Err(self.ended()),
            _ => self.still().map(|()| seen),
        }
    }

    /// Vouches for a request, after a full check of its own.
    pub fn vouch(&self, apps: &Apps, digest: Digest, now: Timestamp) -> Result<Vouched, Refusal> {
        let app = self.app(apps)?;
        self.vouch_seen(apps, &self.look(&app.path, app.unit.is_some())?, digest, now)
    }

    /// Vouches for a request by what was seen: the process and what it executes are the registered app's.
    pub fn vouch_seen(
        &self,
        apps: &Apps,
        facts: &Facts,
        digest: Digest,
        now: Timestamp,
    ) -> Result<Vouched, Refusal> {
        let app = self.app(apps)?;
        let tier = judge::judge(app, self.asking(now), facts)?;
        Ok(Vouched::assertion(app.id.clone(), tier, digest))
    }

    /// The full check once more, right before the token's answer is opened: it must still be what was vouched for.
    // [clause 8.2.4-b] checked again right before the token signs
    pub fn again(
        &self,
        apps: &Apps,
        facts: &Facts,
        vouched: &Vouched,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let now = self.vouch_seen(apps, facts, *vouched.digest(), now)?;
        if now.app() == vouched.app() && now.tier() >= vouched.tier() {
            return Ok(());
        }
        let why = format!(
            "process {} was {} at {:?} and is {} at {:?}",
            self.pid,
            vouched.app(),
            vouched.tier(),
            now.app(),
            now.tier()
        );
        Err(Refusal::new(Code::AppChanged, why))
    }

    /// The quick check before a reply: it lives, in the memory that it had.
    // [clause 8.2.4-b] what was signed is not handed to a program that took the process over
    pub fn still(&self) -> Result<(), Refusal> {
        let same = self.pin.sight.as_ref().is_some_and(Sight::is_same);
        if same { Ok(()) } else { Err(self.ended()) }
    }

    /// Every check of the app of this name, with what each came to.
    pub fn rows(&self, app: &App, proven: bool, now: Timestamp) -> Result<Vec<Row>, Refusal> {
        let asking = Asking { pin: &self.pin.facts, proven, now };
        Ok(judge::rows(app, asking, &self.look(&app.path, app.unit.is_some())?))
    }

    /// What is seen of it now, for registering it at this path.
    pub fn facts(&self, path: &Path, unit: bool) -> Result<Facts, Refusal> {
        self.look(path, unit)
    }

    /// What was seen of it when it was pinned.
    #[must_use]
    pub fn seen(&self) -> &PinFacts {
        &self.pin.facts
    }
}

/// The inode of a pidfd, where it is the process's own.
fn identity(pidfd: BorrowedFd<'_>) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    if memory::file_system_of(pidfd).ok()? != PIDFS {
        return None;
    }
    let file = fs::File::from(pidfd.try_clone_to_owned().ok()?);
    file.metadata().ok().map(|meta| meta.ino())
}

#[cfg(test)]
mod tests;
