//! The attestor as a process of its own: the same executable again, started before anything is loaded.
//!
//! It may look into other processes, and so is worth attacking: it has no keys, no policy, no network and no files that
//! it may write; it starts nothing, and its answers are facts that the daemon judges. It ends with its daemon.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::look::{Attestor, Pinned};
use super::message::{Reply, Request, receive, send};
use crate::sys;

/// The argument that makes a program of ours an attestor; the numbers of the passed sockets follow it.
pub(super) const ARGUMENT: &str = "--attest";

/// `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE`, `CAP_CHECKPOINT_RESTORE`: what it keeps of what it was given.
const KEPT: u64 = 1 << 2 | 1 << 19 | 1 << 40;

/// The most processes that are held.
const MOST: usize = 65_536;

/// Never needed to look.
const DENIED: [i64; 34] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmodat,
];

/// Called first in `main`: does an attestor's work when this process was started as one.
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    let mut words = std::env::args().skip(1);
    if words.next()? != ARGUMENT {
        return None;
    }
    let descriptors: Vec<i32> = words.next()?.split(',').filter_map(|n| n.parse().ok()).collect();
    Some(run(&descriptors))
}

fn run(descriptors: &[i32]) -> ExitCode {
    // What can be seen is tried out before this process hides itself from others, and thereby from itself.
    let hardened = sys::limit_capabilities(KEPT).map(|()| Attestor::new()).and_then(|attestor| {
        sys::harden_process()?;
        sys::die_with_parent()?;
        confine().map_err(std::io::Error::other)?;
        Ok(attestor)
    });
    let attestor = match hardened {
        Ok(attestor) => attestor,
        Err(e) => {
            eprintln!("clavigerd: the attestor could not be confined: {e}");
            return ExitCode::FAILURE;
        }
    };
    let host = attestor.host().clone();
    let shared = Arc::new(Shared { attestor, held: Mutex::default(), next: AtomicU64::new(1) });
    let mut lanes = descriptors.iter().filter_map(|fd| sys::adopt_descriptor(*fd));
    let Some(first) = lanes.next() else { return ExitCode::from(2) };
    if send(first.as_fd(), &Reply::Host(host), &[]).is_err() {
        return ExitCode::FAILURE;
    }
    for lane in lanes {
        let shared = Arc::clone(&shared);
        if std::thread::Builder::new().name("look".into()).spawn(move || shared.serve(&lane)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    shared.serve(&first);
    ExitCode::SUCCESS
}

struct Shared {
    attestor: Attestor,
    held: Mutex<HashMap<u64, Arc<Pinned>>>,
    next: AtomicU64,
}

impl Shared {
    /// Until the daemon goes.
    fn serve(&self, lane: &OwnedFd) {
        let mut buffer = Vec::new();
        while let Ok(Some((request, beside))) = receive::<Request>(lane.as_fd(), &mut buffer) {
            if self.answer(lane.as_fd(), request, beside).is_err() {
                return;
            }
        }
    }

    fn held(&self, process: u64) -> Option<Arc<Pinned>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&process).cloned()
    }

    fn answer(&self, lane: BorrowedFd<'_>, request: Request, beside: Vec<OwnedFd>) -> std::io::Result<()> {
        let unknown = || Reply::Failed("no such process is held".into());
        let reply = match request {
            Request::Pin => return self.pin(lane, beside.first()),
            Request::Executable(process) => self
                .held(process)
                .map_or_else(unknown, |pinned| Reply::Executable(self.attestor.executable(&pinned, true))),
            Request::Check { process, path, unit } => self.held(process).map_or_else(unknown, |pinned| {
                Reply::Facts(Box::new(self.attestor.check(&pinned, &path, unit)))
            }),
            Request::Forget(process) => {
                self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&process);
                return Ok(());
            }
        };
        // A path that is no UTF-8, or more than a packet holds: not seen, and so nothing that is vouched for.
        send(lane, &reply, &[]).or_else(|e| send(lane, &Reply::Failed(e.to_string()), &[]))
    }

    fn pin(&self, lane: BorrowedFd<'_>, socket: Option<&OwnedFd>) -> std::io::Result<()> {
        let failed = |why: String| send(lane, &Reply::Failed(why), &[]);
        let Some(socket) = socket else { return failed("no socket came along".into()) };
        let (pinned, facts) = match self.attestor.pin(socket.as_fd()) {
            Ok(found) => found,
            Err(e) => return failed(e.to_string()),
        };
        let Some(pinned) = pinned else { return send(lane, &Reply::Pinned(None, facts), &[]) };
        let pinned = Arc::new(pinned);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            if held.len() >= MOST {
                drop(held);
                return failed("too many processes are held".into());
            }
            held.insert(number, Arc::clone(&pinned));
        }
        let mut beside = vec![pinned.pidfd.as_fd()];
        beside.extend(pinned.maps.as_ref().ok().map(AsFd::as_fd));
        send(lane, &Reply::Pinned(Some(number), facts), &beside).or_else(|e| {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            failed(e.to_string())
        })
    }
}

/// Confines this thread and those that it starts.
fn confine() -> Result<(), Error> {
    seccompiler::apply_filter(&filter()?)
}

fn filter() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.into_iter().map(|call| (call, vec![])).collect();
    // Opening is for reading.
    let word = |n: libc::c_int| u64::try_from(n).unwrap_or_default();
    let opens = |how: libc::c_int| -> Result<SeccompRule, Error> {
        let mask = SeccompCmpOp::MaskedEq(word(libc::O_ACCMODE));
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, mask, word(how))?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    rules.insert(libc::SYS_openat, vec![opens(libc::O_WRONLY)?, opens(libc::O_RDWR)?]);
    #[cfg(target_arch = "x86_64")]
    for old in [libc::SYS_open, libc::SYS_creat, libc::SYS_unlink, libc::SYS_rename, libc::SYS_chmod] {
        rules.insert(old, vec![]);
    }
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.4-h] test
    #[test]
    fn who_looks_may_only_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let (attestor, listed) = (Attestor::new(), path.clone());
        let (wrote, started, socket, seen) = std::thread::spawn(move || {
            confine().unwrap();
            let pinned = attestor.pin_process(i32::try_from(std::process::id()).unwrap()).unwrap().0;
            let facts = attestor.check(&pinned, std::path::Path::new("/"), false);
            (
                std::fs::write(&listed, b"x").is_ok(),
                std::process::Command::new("true").status().is_ok(),
                std::net::TcpListener::bind("127.0.0.1:0").is_ok(),
                facts.code.is_ok() && facts.same,
            )
        })
        .join()
        .unwrap();
        assert_eq!((wrote, started, socket, seen), (false, false, false, true));
        assert!(std::fs::write(&path, b"x").is_ok());
    }
}
