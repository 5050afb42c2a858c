//! What looks at processes: an attestor in a process of its own, or, for commands and tests, in this one.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::look::{Attestor, Pinned};
use super::message::{Reply, Request, receive, send};
use super::rounds::{AllRounds, Rounds};
use super::{areas, child};
use crate::core::app::facts::{Facts, FileFacts, Host, PinFacts, Seen};
use crate::sys;
use crate::sys::peer::packet_pair;

/// Sockets to the attestor: so many questions at once.
const LANES: usize = 4;

/// What looks.
#[derive(Clone)]
pub struct Eyes {
    looker: Looker,
    rounds: AllRounds,
}

#[derive(Clone)]
enum Looker {
    Here(Arc<Attestor>),
    Child(Arc<Remote>),
}

struct Lane {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

pub(super) struct Remote {
    child: Mutex<Child>,
    idle: Mutex<Vec<Lane>>,
    freed: Condvar,
    ended: AtomicBool,
    host: Host,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn nonsense() -> io::Error {
    io::Error::other("the attestor answered something else")
}

impl Eyes {
    fn of(looker: Looker) -> Self {
        Self { looker, rounds: AllRounds::default() }
    }

    /// The looks at a process, for all of its connections.
    pub(super) fn rounds(&self, process: Option<u64>) -> Arc<Rounds> {
        self.rounds.of(process)
    }

    /// In this process, with its privileges.
    #[must_use]
    pub fn open() -> Self {
        Self::of(Looker::Here(Arc::new(Attestor::new())))
    }

    /// In a process of its own. This one gives its privileges up, unless it is root: what reads requests from strangers
    /// cannot look into other processes.
    // [clause 8.2.4-h] who looks has no keys, and who has keys does not look
    pub fn apart() -> io::Result<Self> {
        let remote = Remote::start()?;
        if sys::effective_uid() != 0 {
            sys::limit_capabilities(0)?;
        }
        Ok(Self::of(Looker::Child(Arc::new(remote))))
    }

    /// What they can see here.
    #[must_use]
    pub fn host(&self) -> &Host {
        match &self.looker {
            Looker::Here(attestor) => attestor.host(),
            Looker::Child(remote) => &remote.host,
        }
    }

    /// Whether there is still somebody who looks. It does not come back: its privileges are gone with it.
    #[must_use]
    pub fn alive(&self) -> bool {
        match &self.looker {
            Looker::Here(_) => true,
            Looker::Child(remote) => {
                let runs = lock(&remote.child).try_wait().is_ok_and(|ended| ended.is_none());
                runs && !remote.ended.load(Ordering::Acquire)
            }
        }
    }

    /// Pins who connected.
    pub(super) fn pin(&self, socket: BorrowedFd<'_>) -> io::Result<(Option<Sight>, PinFacts)> {
        match &self.looker {
            Looker::Here(attestor) => {
                let (pinned, facts) = attestor.pin(socket)?;
                Ok((pinned.map(|pinned| Sight::here(attestor, pinned)), facts))
            }
            Looker::Child(remote) => match remote.ask(&Request::Pin, &[socket])? {
                (Reply::Pinned(None, facts), _) => Ok((None, facts)),
                (Reply::Pinned(Some(process), facts), beside) => {
                    let mut beside = beside.into_iter();
                    let pidfd = beside.next().ok_or_else(nonsense)?;
                    let maps = beside.next().map(File::from);
                    let remote = Arc::clone(remote);
                    Ok((Some(Sight::Child { remote, process, pidfd, maps }), facts))
                }
                _ => Err(nonsense()),
            },
        }
    }

    /// Pins a process by its number; only here.
    pub(super) fn pin_process(&self, pid: i32) -> io::Result<(Sight, PinFacts)> {
        match &self.looker {
            Looker::Here(attestor) => {
                let (pinned, facts) = attestor.pin_process(pid)?;
                Ok((Sight::here(attestor, pinned), facts))
            }
            Looker::Child(_) => Err(io::Error::other("only who connected is looked at")),
        }
    }
}

/// One process that is held.
pub(super) enum Sight {
    Here { attestor: Arc<Attestor>, pinned: Pinned },
    Child { remote: Arc<Remote>, process: u64, pidfd: OwnedFd, maps: Option<File> },
}

impl Sight {
    fn here(attestor: &Arc<Attestor>, pinned: Pinned) -> Self {
        Self::Here { attestor: Arc::clone(attestor), pinned }
    }

    /// The process itself.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Here { pinned, .. } => pinned.pidfd.as_fd(),
            Self::Child { pidfd, .. } => pidfd.as_fd(),
        }
    }

    /// Lives, and in the memory that was pinned. Asks the kernel and nobody else.
    pub(super) fn is_same(&self) -> bool {
        match self {
            Self::Here { pinned, .. } => pinned.is_same(),
            Self::Child { pidfd, maps, .. } => {
                maps.as_ref().is_none_or(|maps| areas::lives(maps.as_fd()))
                    && sys::pidfd_alive(pidfd.as_fd()).unwrap_or(false)
            }
        }
    }

    /// Its executable, read.
    pub(super) fn executable(&self) -> Seen<FileFacts> {
        match self {
            Self::Here { attestor, pinned } => attestor.executable(pinned, true),
            Self::Child { remote, process, .. } => match remote.ask(&Request::Executable(*process), &[]) {
                Ok((Reply::Executable(seen), _)) => seen,
                Ok(_) => Err(nonsense().to_string()),
                Err(e) => Err(e.to_string()),
            },
        }
    }

    /// Everything.
    pub(super) fn check(&self, path: &Path, unit: bool) -> io::Result<Facts> {
        match self {
            Self::Here { attestor, pinned } => Ok(attestor.check(pinned, path, unit)),
            Self::Child { remote, process, .. } => {
                let request = Request::Check { process: *process, path: path.into(), unit };
                match remote.ask(&request, &[])?.0 {
                    Reply::Facts(facts) => Ok(*facts),
                    _ => Err(nonsense()),
                }
            }
        }
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        if let Self::Child { remote, process, .. } = self {
            remote.tell(&Request::Forget(*process));
        }
    }
}

impl Remote {
    fn start() -> io::Result<Self> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..LANES {
            let (a, b) = packet_pair()?;
            ours.push(Lane { socket: a, buffer: Vec::new() });
            theirs.push(b);
        }
        let numbers: Vec<String> = theirs.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
        // This program as it runs: its file may have been replaced since.
        let mut command = Command::new("/proc/self/exe");
        command.arg(child::ARGUMENT).arg(numbers.join(",")).env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        sys::pass_descriptors(&mut command, theirs);
        let child = command.spawn()?;
        // The parent's copies of their ends go with the command: the end of the attestor is the end of the sockets.
        drop(command);
        let first = ours.first_mut().ok_or_else(nonsense)?;
        let Some((Reply::Host(host), _)) = receive(first.socket.as_fd(), &mut first.buffer)? else {
            return Err(io::Error::other("the attestor ended before it said what it can see"));
        };
        Ok(Self {
            child: Mutex::new(child),
            idle: Mutex::new(ours),
            freed: Condvar::new(),
            ended: AtomicBool::new(false),
            host,
        })
    }

    fn lane(&self) -> Option<Lane> {
        let mut idle = lock(&self.idle);
        loop {
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            match idle.pop() {
                Some(lane) => return Some(lane),
                None => idle = self.freed.wait(idle).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn free(&self, lane: Lane) {
        lock(&self.idle).push(lane);
        self.freed.notify_one();
    }

    /// For what has no answer. Where it fails the attestor is gone, and what it held with it.
    fn tell(&self, request: &Request) {
        if let Some(lane) = self.lane() {
            drop(send(lane.socket.as_fd(), request, &[]));
            self.free(lane);
        }
    }

    fn ask(&self, request: &Request, beside: &[BorrowedFd<'_>]) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let gone = || io::Error::other("the attestor has ended");
        let mut lane = self.lane().ok_or_else(gone)?;
        let answer = send(lane.socket.as_fd(), request, beside)
            .and_then(|()| receive::<Reply>(lane.socket.as_fd(), &mut lane.buffer));
        // What was sent is answered on this socket or never: it is not used again.
        let Ok(Some((reply, beside))) = answer else {
            self.ended.store(true, Ordering::Release);
            self.freed.notify_all();
            return Err(gone());
        };
        self.free(lane);
        match reply {
            Reply::Failed(why) => Err(io::Error::other(why)),
            reply => Ok((reply, beside)),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        drop(child.kill().and_then(|()| child.wait()));
    }
}
