//! Who started the helper: a process of the one user it speaks for, and alive.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;

use super::refuse;
use super::settings::{Settings, is_roots_file};
use crate::refusal::Refusal;
use crate::sys;

type Identity = (u64, u64);

/// The process that started the helper, held so that its number cannot come to name another one unseen.
pub(super) struct Parent {
    pid: u32,
    pidfd: OwnedFd,
    /// The group of who started it: as that, `/proc` shows what it executes.
    group: u32,
    /// What it may execute; empty where nothing is said.
    programs: Vec<Identity>,
}

impl Parent {
    /// Holds it and looks.
    // [clause 8.2.4-p] only the user that is the app's alone, and of its programs those that are named
    pub(super) fn look(settings: &Settings, group: u32) -> Result<Self, Refusal> {
        let pid = parent_id();
        let ended = |e: std::io::Error| refuse(format!("whoever started it cannot be held: {e}"));
        let number = i32::try_from(pid).map_err(|_| refuse("whoever started it has no number here"))?;
        if number <= 1 {
            return Err(refuse("whoever started it has ended, or is out of sight"));
        }
        let pidfd = sys::pidfd_open(number).map_err(ended)?;
        // A process that is still the parent after it was held is the one that is held.
        if parent_id() != pid {
            return Err(refuse("whoever started it has ended"));
        }
        let mut programs = Vec::with_capacity(settings.programs.len());
        for path in &settings.programs {
            let meta = std::fs::metadata(path)
                .map_err(|e| refuse(format!("program {} cannot be seen: {e}", path.display())))?;
            if !is_roots_file(&meta) {
                let why = format!("others than root can change program {}", path.display());
                return Err(refuse(why));
            }
            programs.push((meta.dev(), meta.ino()));
        }
        let parent = Self { pid, pidfd, group, programs };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(ended)?;
        if users(&status) != Some([settings.uid; 4]) {
            let why = format!("process {pid} started it and is not of user {} alone", settings.uid);
            return Err(refuse(why));
        }
        parent.still()?;
        Ok(parent)
    }

    /// Whether it lives and executes what it may, asked again before each request.
    pub(super) fn still(&self) -> Result<(), Refusal> {
        if !self.programs.is_empty() {
            let path = format!("/proc/{}/exe", self.pid);
            let seen = sys::start::as_group(self.group, || std::fs::metadata(path));
            let meta =
                seen.map_err(|e| refuse(format!("what process {} executes cannot be seen: {e}", self.pid)))?;
            if !self.programs.contains(&(meta.dev(), meta.ino())) {
                let why = format!("process {} executes none of the programs that are named", self.pid);
                return Err(refuse(why));
            }
        }
        // Last: one that lives now was there when it was looked at.
        match sys::pidfd_alive(self.pidfd.as_fd()) {
            Ok(true) => Ok(()),
            _ => Err(refuse("whoever started it has ended")),
        }
    }

    /// To wait for its end.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Real, effective, saved and file system user.
fn users(status: &str) -> Option<[u32; 4]> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let words: Vec<u32> = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    words.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_whole_or_not_at_all() {
        assert_eq!(users("Name:\tx\nUid:\t5\t6\t7\t8\n"), Some([5, 6, 7, 8]));
        for bad in ["", "Uid:\t5\t6\t7\n", "Uid:\t5\t6\t7\tx\n", "Gid:\t1\t1\t1\t1\n"] {
            assert_eq!(users(bad), None);
        }
    }

    #[test]
    fn a_parent_of_another_user_or_program_is_refused() {
        let ids = sys::start::ids().unwrap();
        let own = |uid, programs| Settings { uid, socket: "/s".into(), daemon: 0, programs };
        assert!(Parent::look(&own(ids.users[0], vec![]), ids.groups[0]).is_ok());
        assert!(Parent::look(&own(ids.users[0] + 1, vec![]), ids.groups[0]).is_err());
        let sh = vec!["/bin/sh".into()];
        assert!(Parent::look(&own(ids.users[0], sh), ids.groups[0]).is_err(), "a shell runs no tests");
        assert!(Parent::look(&own(ids.users[0], vec!["/nowhere".into()]), ids.groups[0]).is_err());
    }
}
