//! What was seen of a process that asks: values that the attestor gives and the daemon judges. Nothing is decided here.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::core::proof::Tier;

/// What was found, or why it could not be seen. Not seen is never taken for good.
pub type Seen<T> = Result<T, String>;

/// A file, as an open descriptor of it tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// What it is called; for people, and to find the registration.
    pub path: PathBuf,
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Names that lead to it; 0 when it was deleted or replaced.
    pub links: u64,
    /// Only root can change it, and it is on a file system whose word counts.
    pub sealed: bool,
    /// SHA-256.
    pub digest: Seen<[u8; 32]>,
}

impl FileFacts {
    /// Whether this is that very file.
    #[must_use]
    pub fn is(&self, other: (u64, u64)) -> bool {
        (self.dev, self.ino) == other
    }
}

/// What is known once for a connection, when it is accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PinFacts {
    /// Process that called `connect()`.
    pub pid: i32,
    /// Its effective user then.
    pub uid: u32,
    /// Its effective group then.
    pub gid: u32,
    /// Its executable.
    pub exe: Seen<FileFacts>,
    /// Device and inode of what the executable's path leads to in the daemon's own view.
    pub named: Seen<(u64, u64)>,
    /// The kernel named the process itself (`SO_PEERPIDFD`), so that no number was recycled meanwhile.
    pub race_free: bool,
}

/// What is mapped executable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// Each file once.
    pub files: Vec<FileFacts>,
    /// Areas that may be written and executed.
    pub writable: Vec<String>,
    /// Areas of no file, other than the kernel's own.
    pub anonymous: Vec<String>,
    /// Areas of which a page is no longer the file's.
    pub changed: Changed,
}

/// Areas with changed pages, or why they could not be looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed(pub Seen<Vec<String>>);

impl Default for Changed {
    fn default() -> Self {
        Self(Ok(Vec::new()))
    }
}

/// System call filters of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    /// 0 none, 1 strict, 2 filter (`Seccomp` in `/proc/PID/status`).
    pub mode: u32,
    /// How many.
    pub count: u32,
    /// It can gain no privileges by executing: setgid does not count.
    pub no_new_privs: bool,
}

/// What `/proc/PID/status` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Real, effective, saved and file system user.
    pub uids: [u32; 4],
    /// Effective group.
    pub egid: u32,
    /// Process that traces the first thread; 0 for none.
    pub tracer: u32,
    /// Threads.
    pub threads: u32,
    /// Filters.
    pub filters: Filters,
}

/// What was seen at one moment, for one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The process lives, and its memory is the one that was pinned: before and after everything else was read.
    pub same: bool,
    /// Its executable now.
    pub exe: Seen<FileFacts>,
    /// Device and inode of what the registered path leads to.
    pub named: Seen<(u64, u64)>,
    /// What it executes.
    pub code: Seen<Code>,
    /// Its status.
    pub status: Seen<Status>,
    /// The tracer of any of its threads; 0 for none.
    pub tracer: Seen<u32>,
    /// Filters of the machine's first process: what everybody has.
    pub usual_filters: Seen<Filters>,
    /// Of user, mnt and pid: the namespaces in which it is not where the daemon, or the machine's first process, is.
    pub elsewhere: Seen<Vec<String>>,
    /// Other processes of its user may read and write its memory.
    pub dumpable: Seen<bool>,
    /// The control group that it is in, when it was asked for.
    pub group: Seen<String>,
}

/// What the daemon can see on this machine, with its privileges and this kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// User that looks.
    pub uid: u32,
    /// Processes of other users, and those that are not dumpable (`CAP_SYS_PTRACE`, `CAP_DAC_READ_SEARCH`).
    pub others: bool,
    /// The very files that are mapped (`CAP_CHECKPOINT_RESTORE`); by their names without it.
    pub mapped: bool,
    /// Who connected, without a race (Linux 6.5).
    pub race_free: bool,
    /// Executable areas in binary form (Linux 6.11).
    pub areas: bool,
    /// Changed pages at once (Linux 6.7).
    pub scan: bool,
    /// Changed pages at all.
    pub pages: bool,
}

impl Host {
    /// From 0, nothing of other users, to 3, everything.
    #[must_use]
    pub fn level(&self) -> u8 {
        match (self.pages && self.others, self.mapped, self.race_free) {
            (false, ..) => 0,
            (true, false, _) => 1,
            (true, true, false) => 2,
            (true, true, true) => 3,
        }
    }

    /// What is lacking, and what follows.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        [
            (
                self.others,
                "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: of other users' processes, and of those that are not \
                 dumpable, nothing is seen; T1 at most for apps of the daemon's own user, T0 for others",
            ),
            (
                self.mapped,
                "CAP_CHECKPOINT_RESTORE: mapped files are found by their names; on btrfs and overlay file systems \
                 they cannot be told, and the tier is T0",
            ),
            (self.race_free, "Linux 6.5: apps that do not say hello are at T0"),
            (self.areas, "Linux 6.11: memory maps are read as text, which takes five times as long"),
            (self.scan, "Linux 6.7: code pages are read one by one"),
            (self.pages, "CONFIG_PROC_PAGE_MONITOR: changed code pages are not seen, and the tier is T0"),
        ]
        .into_iter()
        .filter_map(|(has, lacking)| (!has).then_some(lacking))
        .collect()
    }

    /// The highest tier that an app of this user can reach, and why no higher.
    #[must_use]
    pub fn reach(&self, uid: u32) -> (Tier, String) {
        if !self.pages {
            (Tier::T0, "changed code pages cannot be seen on this kernel".into())
        } else if self.others {
            (Tier::T3, String::new())
        } else if self.uid == uid {
            (Tier::T1, "the daemon has no CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH".into())
        } else {
            (
                Tier::T0,
                format!(
                    "the daemon sees nothing of processes of user {uid} without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
                ),
            )
        }
    }
}
