//! The only unsafe code of the crate: thin, safe wrappers around system calls that no safe library offers.
//!
//! Decides nothing. Each block says why it is sound.
#![expect(unsafe_code, reason = "this room exists to hold it")]

pub mod memory;
pub mod peer;
pub mod start;

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use zeroize::{Zeroize, Zeroizing};

/// Who called `connect()`, as the kernel recorded it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process id at connect time; may be recycled, so it is only ever used together with a pidfd.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

const SO_PEERPIDFD: libc::c_int = 77;

fn get_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `value` has room for `length` bytes and the kernel writes no more than that.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length).ok() != Some(size_of::<T>()) {
        return Err(io::Error::other("the kernel gave a socket option of another size"));
    }
    // SAFETY: the call succeeded and filled all of `T`, which is plain data.
    Ok(unsafe { value.assume_init() })
}

/// Arguments of `C_Initialize` with a text in `pReserved`, as NSS softokn and a few others want it. `None` when the text
/// holds a zero byte. The text stays in memory for good: some modules keep the pointer.
#[must_use]
pub fn module_arguments(flags: CInitializeFlags, text: &str) -> Option<CInitializeArgs> {
    let kept = Box::leak(CString::new(text).ok()?.into_boxed_c_str());
    let pointer = NonNull::new(kept.as_ptr().cast_mut().cast())?;
    // SAFETY: the pointer is to a text that ends with a zero byte and is never freed; that is what modules which read
    // `pReserved` at all expect there, and a profile names it for those alone.
    Some(unsafe { CInitializeArgs::new_with_reserved(flags, pointer) })
}

/// Reads what is there now; `None` when nothing is (`MSG_DONTWAIT`).
pub fn read_at_once(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes into `buffer`, which is ours for the call.
    let read = unsafe {
        libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT)
    };
    match usize::try_from(read) {
        Ok(read) => Ok(Some(read)),
        Err(_) => match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            e => Err(e),
        },
    }
}

/// Whether the kernel holds the wall clock for synchronised (`adjtimex(2)`, `STA_UNSYNC`).
pub fn clock_synchronised() -> io::Result<bool> {
    let mut state = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all zeroes is a valid timex that asks for nothing to be changed, and the kernel fills it.
    let status = unsafe { libc::adjtimex(state.as_mut_ptr()) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised above, and filled by the kernel.
    Ok(unsafe { state.assume_init() }.status & libc::STA_UNSYNC == 0)
}

/// Longest core file of this process, bytes (`RLIMIT_CORE`).
#[must_use]
pub fn core_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one rlimit.
    (unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) } == 0).then_some(limit.rlim_cur)
}

/// `SO_PEERCRED`.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let raw: libc::ucred = get_option(socket, libc::SO_PEERCRED)?;
    Ok(PeerCredentials { pid: raw.pid, uid: raw.uid, gid: raw.gid })
}

/// A pidfd of the process that connected: `SO_PEERPIDFD` (Linux 6.5), free of races.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd: libc::c_int = get_option(socket, SO_PEERPIDFD)?;
    // SAFETY: the kernel installed this descriptor for us just now; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `pidfd_open(2)` (Linux 5.3), for kernels without `SO_PEERPIDFD`.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, returns a descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process behind a pidfd still runs.
pub fn pidfd_alive(pidfd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd, no waiting.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if ready < 0 { Err(io::Error::last_os_error()) } else { Ok(ready == 0) }
}

/// The magic number of the file system that holds `path` (`statfs(2)`).
pub fn file_system_magic(path: &Path) -> io::Result<i64> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a NUL-terminated path and room for one statfs.
    if unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    Ok(unsafe { stat.assume_init() }.f_type)
}

/// No core dumps, and no attaching by other processes of the same user.
pub fn harden_process() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid rlimit, and integers.
    let failed = unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none) != 0
            || libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// As many open descriptors as this process may have: a connection costs three here and four where it is looked at.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for one rlimit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: a valid rlimit, within what is allowed.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// This process's effective user id.
#[must_use]
pub fn effective_uid() -> u32 {
    // SAFETY: cannot fail, takes nothing.
    unsafe { libc::geteuid() }
}

/// The same; 0 where there is no such clock (before Linux 2.6.39): nothing is open then.
#[must_use]
pub fn since_boot() -> u64 {
    boot_clock_ms().unwrap_or(0)
}

/// Milliseconds since the machine was switched on, sleep included (`CLOCK_BOOTTIME`): nobody sets this clock.
pub fn boot_clock_ms() -> io::Result<u64> {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: room for one timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, now.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded.
    let now = unsafe { now.assume_init() };
    let part = |n: i64| u64::try_from(n).map_err(io::Error::other);
    Ok(part(now.tv_sec)?.saturating_mul(1000).saturating_add(part(now.tv_nsec)? / 1_000_000))
}

/// Takes over a descriptor that the service manager passed at start (`LISTEN_FDS`); called once for each.
///
/// `None` when no such descriptor is open.
#[must_use]
pub fn adopt_descriptor(fd: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the descriptor is open.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: it is open, and by the protocol of sd_listen_fds(3) it belongs to this process.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a child program inherit these descriptors, under the same numbers, and nothing else of ours.
pub fn pass_descriptors(command: &mut std::process::Command, descriptors: Vec<OwnedFd>) {
    use std::os::unix::process::CommandExt;
    let keep = move || {
        for fd in &descriptors {
            // SAFETY: changes one flag of an open descriptor; fcntl is async-signal-safe.
            if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec, the closure makes async-signal-safe calls alone and allocates nothing.
    unsafe { command.pre_exec(keep) };
}

/// Asks the kernel to kill this process when the thread that started it ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: takes integers.
    let failed = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) } != 0;
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up every capability of this thread but those of the mask, for good; what it does not have it does not get.
/// Threads and programs that it starts later have no more.
pub fn limit_capabilities(keep: u64) -> io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3: two words of 32 bits.
    let mut header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let mut words = [CapabilityWord::default(); 2];
    // SAFETY: a header of version 3, and the two words that belong to it.
    if unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for (word, shift) in words.iter_mut().zip([0, 32]) {
        let keep = u32::try_from(keep >> shift & 0xffff_ffff).unwrap_or(0);
        word.permitted &= keep;
        word.effective = word.permitted;
        word.inheritable = 0;
    }
    // SAFETY: as above; only this thread's rights change. Then integers.
    let failed = unsafe {
        libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) != 0
            || libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Changes the group of a file (`chown(2)` with the user left alone).
pub fn change_group(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(group))
}

/// Reads a secret line from the terminal without showing it. Falls back to an error when there is none.
pub fn read_hidden_line(prompt: &str) -> io::Result<String> {
    use std::io::{Read, Write};
    let mut tty = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    tty.write_all(prompt.as_bytes())?;
    let mut saved = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: room for one termios; the descriptor is open.
    if unsafe { libc::tcgetattr(tty.as_raw_fd(), saved.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled by the call above.
    let saved = unsafe { saved.assume_init() };
    let mut hidden = saved;
    hidden.c_lflag &= !libc::ECHO;
    // SAFETY: valid termios for an open terminal.
    unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw const hidden) };
    // Byte by byte, into memory of its full size: buffers that are in between, or grow, keep what was typed.
    let mut line = Zeroizing::new(Vec::with_capacity(2048));
    let mut byte = Zeroizing::new([0u8; 1]);
    let outcome = loop {
        match tty.read(&mut *byte) {
            Ok(0) => break Ok(()),
            Ok(_) if line.len() == line.capacity() => break Err(io::ErrorKind::InvalidData.into()),
            Ok(_) => line.extend_from_slice(&*byte),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => break Err(e),
        }
        if *byte == *b"\n" {
            break Ok(());
        }
    };
    // SAFETY: puts back what was there.
    unsafe { libc::tcsetattr(tty.as_raw_fd(), libc::TCSANOW, &raw const saved) };
    tty.write_all(b"\n")?;
    outcome?;
    String::from_utf8(std::mem::take(&mut *line)).map_err(|e| {
        e.into_bytes().zeroize();
        io::ErrorKind::InvalidData.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_pair_is_ourselves_and_alive() {
        let (a, _b) = UnixStream::pair().unwrap();
        let who = peer_credentials(a.as_fd()).unwrap();
        assert_eq!(who.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(who.uid, effective_uid());
        let pidfd = pidfd_open(who.pid).unwrap();
        assert!(pidfd_alive(pidfd.as_fd()).unwrap());
    }

    #[test]
    fn an_ended_process_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pidfd = pidfd_open(i32::try_from(child.id()).unwrap()).unwrap();
        child.wait().unwrap();
        assert!(!pidfd_alive(pidfd.as_fd()).unwrap());
    }
}
