//! What a program needs that was started with more rights than whoever started it has.
#![expect(unsafe_code, reason = "part of the room that exists to hold it")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether this program has rights that its starter lacks: setuid, setgid or file capabilities (`AT_SECURE`).
#[must_use]
pub fn with_privileges() -> bool {
    // SAFETY: reads one word that the kernel handed over at the start.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Real, effective and saved ids of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub users: [u32; 3],
    /// Groups.
    pub groups: [u32; 3],
}

/// `getresuid(2)` and `getresgid(2)`.
pub fn ids() -> io::Result<Ids> {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    let [ruid, euid, suid] = &mut users;
    let [rgid, egid, sgid] = &mut groups;
    // SAFETY: room for three users and three groups.
    let failed = unsafe { libc::getresuid(ruid, euid, suid) != 0 || libc::getresgid(rgid, egid, sgid) != 0 };
    if failed { Err(io::Error::last_os_error()) } else { Ok(Ids { users, groups }) }
}

/// Closes every descriptor but input, output and error (`close_range(2)`, Linux 5.9).
///
/// Only before anything was opened: what is closed here belongs to nobody in this program yet.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: takes integers; by the contract above no owner of such a descriptor exists.
    let failed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Empties the environment. Only while there is one thread.
pub fn forget_environment() {
    // SAFETY: by the contract above nobody reads the environment at the same time.
    unsafe { libc::clearenv() };
}

/// Looks at something in `/proc` as a member of this group, in this thread alone: what is shown of a process depends on
/// the groups of who looks.
pub fn as_group<T>(group: u32, look: impl FnOnce() -> T) -> T {
    // SAFETY: takes an integer and gives the former one; fails by changing nothing. Concerns this thread's access to files.
    let former = unsafe { libc::setfsgid(group) };
    let seen = look();
    // SAFETY: as above; the former group is one that this process has.
    unsafe { libc::setfsgid(u32::from_ne_bytes(former.to_ne_bytes())) };
    seen
}

/// Waits until the process behind a pidfd has ended.
pub fn wait_for_end(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one valid pollfd, waiting without end.
        if unsafe { libc::poll(&raw mut poll, 1, -1) } >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn who_this_is_and_what_it_looks_as() {
        let ids = ids().unwrap();
        assert_eq!(ids.users[1], crate::sys::effective_uid());
        assert!(!with_privileges(), "tests are not setgid");
        assert_eq!(as_group(ids.groups[0], || 7), 7);
        assert_eq!(super::ids().unwrap(), ids);
    }

    #[test]
    fn the_end_of_a_process_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("0.1").spawn().unwrap();
        let pidfd = crate::sys::pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
        wait_for_end(pidfd.as_fd()).unwrap();
        assert!(!crate::sys::pidfd_alive(pidfd.as_fd()).unwrap());
        child.wait().unwrap();
    }
}
