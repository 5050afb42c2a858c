//! Looks at a process, and says what it saw: facts, no verdict. All of it reads what the kernel tells.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::areas;
use super::files::{Files, seen};
use super::status;
use crate::core::app::facts::{Facts, FileFacts, Filters, Host, PinFacts, Seen, Status};
use crate::sys::{self, memory};

/// Namespaces in which an app must be where the daemon is.
const NAMESPACES: [(&CStr, &str); 3] = [(c"ns/user", "user"), (c"ns/mnt", "mnt"), (c"ns/pid", "pid")];

type Identity = (u64, u64);

/// Who looks.
pub(super) struct Attestor {
    files: Files,
    /// Namespaces of this process, and of the machine's first one where they can be seen: the service manager gives
    /// the daemon mounts of its own.
    ours: [Seen<Identity>; 3],
    first: [Seen<Identity>; 3],
    usual: Seen<Filters>,
    host: Host,
}

/// A process that is held: its number cannot come to name another one unseen.
pub(super) struct Pinned {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    directory: OwnedFd,
    /// Opened on the memory that the process had when it connected; it says so when that is gone.
    pub(super) maps: Seen<File>,
    pagemap: Seen<File>,
    exe: Option<Identity>,
}

fn directory_of(pid: &str) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(format!("/proc/{pid}")).map_err(io::Error::other)?;
    memory::open_below(File::open("/")?.as_fd(), &path, memory::DIRECTORY)
}

fn namespaces(directory: &io::Result<OwnedFd>) -> [Seen<Identity>; 3] {
    NAMESPACES.map(|(name, what)| match directory {
        Ok(directory) => {
            let identity = memory::identity_below(directory.as_fd(), name);
            seen(&format!("namespace {what}"), identity).map(|(dev, ino, _)| (dev, ino))
        }
        Err(e) => Err(format!("namespace {what}: {e}")),
    })
}

fn read_below(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<String> {
    let mut text = String::with_capacity(4096);
    File::from(memory::open_below(directory, name, memory::READ)?).take(65_536).read_to_string(&mut text)?;
    Ok(text)
}

impl Attestor {
    /// Looks around once: what is usual on this machine, and what can be seen.
    pub(super) fn new() -> Self {
        let (this, first) = (directory_of("self"), directory_of("1"));
        let usual = match &first {
            Ok(first) => seen("process 1", read_below(first.as_fd(), c"status")),
            Err(e) => Err(format!("process 1: {e}")),
        };
        Self {
            files: Files::default(),
            ours: namespaces(&this),
            first: namespaces(&first),
            usual: usual.and_then(|text| status::parse(&text)).map(|status| status.filters),
            host: super::host::look(),
        }
    }

    /// What can be seen here.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Pins who connected. The order is what makes it sound: the pidfd first, the directory, proof that the process
    /// lives and so is the one that the directory shows, its memory, its executable, and proof that it was of that
    /// memory.
    ///
    /// A process that is gone already is held by nothing, and nothing of it is known.
    pub(super) fn pin(&self, socket: BorrowedFd<'_>) -> io::Result<(Option<Pinned>, PinFacts)> {
        let who = sys::peer_credentials(socket)?;
        let (pidfd, race_free) = match sys::peer_pidfd(socket) {
            // Only where the kernel knows no better: whoever has the number now may be another process.
            Err(e) if e.raw_os_error() == Some(libc::ENOPROTOOPT) => (sys::pidfd_open(who.pid), false),
            named => (named, true),
        };
        match pidfd.and_then(|pidfd| self.hold(who.pid, pidfd)) {
            Ok(pinned) => {
                let facts = self.facts_of(&pinned, who.uid, who.gid, race_free);
                Ok((Some(pinned), facts))
            }
            Err(e) => {
                let gone = format!("the process that connected cannot be held: {e}");
                let (exe, named) = (Err(gone.clone()), Err(gone));
                Ok((None, PinFacts { pid: who.pid, uid: who.uid, gid: who.gid, exe, named, race_free }))
            }
        }
    }

    /// Pins a process that somebody names, for trying it out.
    pub(super) fn pin_process(&self, pid: i32) -> io::Result<(Pinned, PinFacts)> {
        let pinned = self.hold(pid, sys::pidfd_open(pid)?)?;
        let status = Self::status(&pinned).map_err(io::Error::other)?;
        let facts = self.facts_of(&pinned, status.uids[1], status.egid, true);
        Ok((pinned, facts))
    }

    fn hold(&self, pid: i32, pidfd: OwnedFd) -> io::Result<Pinned> {
        let directory = directory_of(&pid.to_string())?;
        if !sys::pidfd_alive(pidfd.as_fd())? {
            return Err(io::Error::other("the process has ended"));
        }
        let open = |name: &CStr, what| {
            seen(what, memory::open_below(directory.as_fd(), name, memory::READ).map(File::from))
        };
        let (maps, pagemap) = (open(c"maps", "memory map"), open(c"pagemap", "page map"));
        let mut pinned = Pinned { pid, pidfd, maps, pagemap, directory, exe: None };
        pinned.exe = self.executable(&pinned, false).ok().map(|exe| (exe.dev, exe.ino));
        Ok(pinned)
    }

    fn facts_of(&self, pinned: &Pinned, uid: u32, gid: u32, race_free: bool) -> PinFacts {
        let exe = self.executable(pinned, false).and_then(|exe| {
            let same = pinned.exe == Some((exe.dev, exe.ino)) && pinned.is_same();
            if same {
                Ok(exe)
            } else {
                Err("the process ended, or ran another program, while it was looked at".into())
            }
        });
        let named = exe.as_ref().map_err(Clone::clone).and_then(|exe| named(&exe.path));
        PinFacts { pid: pinned.pid, uid, gid, exe, named, race_free }
    }

    /// The executable; without `read`, its digest only where that is known.
    pub(super) fn executable(&self, pinned: &Pinned, read: bool) -> Seen<FileFacts> {
        // By name alone first: opening is what a strange file system could make wait.
        let open = memory::open_below(pinned.directory.as_fd(), c"exe", memory::NAME_ONLY).map(File::from);
        let file = seen("executable", open)?;
        let link = std::fs::read_link(format!("/proc/{}/exe", pinned.pid));
        let link = seen("executable", link)?;
        seen("executable", self.files.facts(&file, undeleted(link), read))
    }

    fn status(pinned: &Pinned) -> Seen<Status> {
        seen("status", read_below(pinned.directory.as_fd(), c"status")).and_then(|text| status::parse(&text))
    }

    /// Everything, for one request of an app that is registered at this path.
    pub(super) fn check(&self, pinned: &Pinned, path: &Path, unit: bool) -> Facts {
        let exe = self.executable(pinned, true);
        let code = match (&pinned.maps, &pinned.pagemap) {
            (Ok(maps), pagemap) => areas::code(&self.files, pinned.directory.as_fd(), maps, pagemap),
            (Err(why), _) => Err(why.clone()),
        };
        let status = Self::status(pinned);
        let tracer = status.clone().and_then(|status| match (status.tracer, status.threads) {
            (0, 2..) => status::tracer_of_threads(pinned.pid),
            (tracer, _) => Ok(tracer),
        });
        let owner = memory::identity_below(pinned.directory.as_fd(), c"status").map(|(.., uid)| uid);
        let dumpable = match (seen("status", owner), &status) {
            (Err(why), _) => Err(why),
            (_, Err(why)) => Err(why.clone()),
            // What is not dumpable is shown as root's; of what is root's anyway it does not tell.
            (Ok(_), Ok(status)) if status.uids[1] == 0 => Err("it runs as root".into()),
            (Ok(owner), Ok(_)) => Ok(owner != 0),
        };
        let group = if unit {
            seen("control group", read_below(pinned.directory.as_fd(), c"cgroup"))
                .map(|text| status::group(&text))
        } else {
            Err("it was not looked for".into())
        };
        let elsewhere = self.elsewhere(pinned);
        let unchanged =
            exe.as_ref().map_or(pinned.exe.is_none(), |exe| pinned.exe == Some((exe.dev, exe.ino)));
        // Last: a process that lives now, in the memory it had, has done so all the while.
        let same = pinned.is_same() && unchanged;
        Facts {
            same,
            exe,
            named: named(path),
            code,
            status,
            tracer,
            usual_filters: self.usual.clone(),
            elsewhere,
            dumpable,
            group,
        }
    }

    fn elsewhere(&self, pinned: &Pinned) -> Seen<Vec<String>> {
        let mut strange = Vec::new();
        for (n, (name, what)) in NAMESPACES.into_iter().enumerate() {
            let found = memory::identity_below(pinned.directory.as_fd(), name);
            let (dev, ino, _) = seen(&format!("namespace {what}"), found)?;
            let here = |known: &[Seen<Identity>; 3]| known.get(n) == Some(&Ok((dev, ino)));
            if !here(&self.ours) && !here(&self.first) {
                strange.push(what.to_owned());
            }
        }
        Ok(strange)
    }
}

impl Pinned {
    /// Lives, and in the memory that was pinned.
    pub(super) fn is_same(&self) -> bool {
        let memory = match &self.maps {
            Ok(maps) => areas::lives(maps.as_fd()),
            // Nothing of it was ever seen: then nothing was vouched for on its account.
            Err(_) => true,
        };
        memory && sys::pidfd_alive(self.pidfd.as_fd()).unwrap_or(false)
    }
}

/// What a path leads to here.
fn named(path: &Path) -> Seen<Identity> {
    seen("path", std::fs::metadata(path)).map(|meta| (meta.dev(), meta.ino()))
}

/// The kernel appends this to the name of what has none any more.
fn undeleted(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let kept = bytes.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(bytes);
    std::ffi::OsString::from_vec(kept).into()
}
