//! EDGE. Who is on the other end of the socket.
//!
//! Decides whether a connection belongs to a registered app, at the request and again before signing. Mints
//! [`Vouched`]. What it cannot see (other users' processes without the capability) is refused, never guessed.
//! Tier T1: executable and user observed, process pinned by pidfd; memory of the app is not checked here.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::core::app::{App, Apps};
use crate::core::proof::{Digest, Tier, Vouched};
use crate::refusal::{Code, Refusal};
use crate::sys;

/// Executables above this size are refused, in bytes.
const MAX_EXECUTABLE: u64 = 512 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl FileId {
    fn of(meta: &std::fs::Metadata) -> Self {
        let ns = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Digests of executables that only root can change. Others are read each time they connect.
#[derive(Clone, Default)]
pub struct DigestCache(Arc<Mutex<HashMap<FileId, [u8; 32]>>>);

const MAX_CACHED: usize = 1024;

impl DigestCache {
    fn digest(&self, file: &mut File) -> io::Result<(FileId, [u8; 32])> {
        let meta = file.metadata()?;
        let id = FileId::of(&meta);
        if meta.size() > MAX_EXECUTABLE {
            return Err(io::Error::other("the executable is too large to be checked"));
        }
        let trusted = meta.uid() == 0 && meta.mode() & 0o022 == 0;
        if trusted && let Some(digest) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok((id, *digest));
        }
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(buffer.get(..n).unwrap_or_default());
        }
        if FileId::of(&file.metadata()?) != id {
            return Err(io::Error::other("the executable changed while it was read"));
        }
        let digest: [u8; 32] = hash.finalize().into();
        if trusted {
            let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= MAX_CACHED {
                cache.clear();
            }
            cache.insert(id, digest);
        }
        Ok((id, digest))
    }
}

/// SHA-256 of an executable, for registering it.
pub fn executable_digest(path: &std::path::Path) -> io::Result<[u8; 32]> {
    DigestCache::default().digest(&mut File::open(path)?).map(|(_, digest)| digest)
}

/// The process that connected, pinned for the life of the connection.
pub struct Peer {
    pidfd: OwnedFd,
    /// Process id at connect time, for the log.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    seen: Result<Executable, String>,
}

struct Executable {
    path: PathBuf,
    file: FileId,
    digest: [u8; 32],
}

impl Peer {
    /// Pins the peer of an accepted connection. The order matters: the pidfd first, then what `/proc` says, then
    /// proof that the process is still the one that the pidfd names.
    pub fn pin(socket: BorrowedFd<'_>, cache: &DigestCache) -> io::Result<Self> {
        let who = sys::peer_credentials(socket)?;
        let pidfd = match sys::peer_pidfd(socket) {
            Ok(fd) => fd,
            // Kernels before 6.5: opening by number is sound here only because liveness is checked after reading.
            Err(_) => sys::pidfd_open(who.pid)?,
        };
        let seen = look(who.pid, cache)
            .and_then(|exe| match sys::pidfd_alive(pidfd.as_fd()) {
                Ok(true) => Ok(exe),
                Ok(false) => Err(io::Error::other("the process has ended")),
                Err(e) => Err(e),
            })
            .map_err(|e| e.to_string());
        Ok(Self { pidfd, pid: who.pid, uid: who.uid, seen })
    }

    /// What is known, for people and the log.
    #[must_use]
    pub fn describe(&self) -> String {
        let exe = match &self.seen {
            Ok(exe) => exe.path.display().to_string(),
            Err(why) => format!("unreadable ({why})"),
        };
        format!("pid {} uid {} executable {exe}", self.pid, self.uid)
    }

    /// Which registered app it is.
    pub fn app<'a>(&self, apps: &'a Apps) -> Result<&'a App, Refusal> {
        let exe = self.seen.as_ref().map_err(|why| {
            Refusal::new(
                Code::AppUnknown,
                format!("the executable of pid {} (uid {}) could not be read: {why}", self.pid, self.uid),
            )
        })?;
        // [clause 8.2.4-a] an app that is not registered gets nothing
        apps.find(&exe.path, &exe.digest, self.uid).ok_or_else(|| {
            Refusal::new(
                Code::AppUnknown,
                format!(
                    "{} (sha256 {}) under uid {} is no registered app",
                    exe.path.display(),
                    hex::encode(exe.digest),
                    self.uid
                ),
            )
        })
    }

    /// Vouches for this request: the process lives, runs the executable that was pinned, and is a registered app.
    pub fn vouch(&self, apps: &Apps, digest: Digest) -> Result<Vouched, Refusal> {
        let app = self.app(apps)?;
        self.unchanged()?;
        Ok(Vouched::assertion(app.id.clone(), Tier::T1, digest))
    }

    /// The quick check before signing: still alive, still the same executable.
    // [clause 8.2.4-b] checked again right before the token signs
    pub fn unchanged(&self) -> Result<(), Refusal> {
        let changed = |why: String| Refusal::new(Code::AppChanged, why);
        let exe = self.seen.as_ref().map_err(|why| changed(why.clone()))?;
        let now = std::fs::metadata(format!("/proc/{}/exe", self.pid)).map(|m| FileId::of(&m));
        if !sys::pidfd_alive(self.pidfd.as_fd()).unwrap_or(false) {
            return Err(changed(format!("process {} has ended", self.pid)));
        }
        match now {
            Ok(id) if id == exe.file => Ok(()),
            Ok(_) => {
                Err(changed(format!("process {} runs another executable than when it connected", self.pid)))
            }
            Err(e) => Err(changed(format!("process {} can no longer be read: {e}", self.pid))),
        }
    }
}

fn look(pid: i32, cache: &DigestCache) -> io::Result<Executable> {
    let link = format!("/proc/{pid}/exe");
    let path = std::fs::read_link(&link)?;
    let (file, digest) = cache.digest(&mut File::open(&link)?)?;
    // The name must lead to the same file in our own view of the file system: a deleted, replaced or bind-mounted
    // executable has the right name and is not it.
    let named = std::fs::metadata(&path).map(|m| FileId::of(&m));
    if named.ok() != Some(file) {
        return Err(io::Error::other(format!(
            "{} is not the file that runs (replaced, deleted or hidden by a mount)",
            path.display()
        )));
    }
    Ok(Executable { path, file, digest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn registry(path: &std::path::Path, uid: u32) -> Apps {
        let sha = hex::encode(executable_digest(path).unwrap());
        Apps::parse(&format!("[[app]]\nid = \"me\"\npath = {path:?}\nsha256 = \"{sha}\"\nuid = {uid}\n"))
            .unwrap()
    }

    // [clause 8.2.4-a] test
    #[test]
    fn this_process_is_known_only_when_registered() {
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::pin(a.as_fd(), &DigestCache::default()).unwrap();
        assert_eq!(peer.vouch(&Apps::default(), [0; 32]).err().unwrap().code, Code::AppUnknown);
        let me = std::env::current_exe().unwrap().canonicalize().unwrap();
        let apps = registry(&me, sys::effective_uid());
        assert_eq!(peer.vouch(&apps, [7; 32]).unwrap().digest(), &[7; 32]);
        let other_user = registry(&me, sys::effective_uid() + 1);
        assert_eq!(peer.vouch(&other_user, [0; 32]).err().unwrap().code, Code::AppUnknown);
    }

    // [clause 8.2.4-b] test
    #[test]
    fn a_process_that_execs_or_ends_after_connecting_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let python = "import socket,sys,os,time\ns=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);s.set_inheritable(True)\nsys.stdin.readline();os.execv('/bin/sleep',['sleep','30'])";
        let mut child = std::process::Command::new("python3")
            .args(["-c", python])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let peer = Peer::pin(stream.as_fd(), &DigestCache::default()).unwrap();
        peer.unchanged().expect("still the same");
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let mut refused = false;
        for _ in 0..200 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            if let Err(refusal) = peer.unchanged() {
                assert_eq!(refusal.code, Code::AppChanged);
                refused = true;
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(refused, "exec after connect went unnoticed");
        assert_eq!(peer.unchanged().unwrap_err().code, Code::AppChanged);
    }
}
