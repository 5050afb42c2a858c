//! What a worker may not do: start programs, look into other processes, change the machine, or use the network when
//! the token needs none (`network` in its profile).
//!
//! The filter refuses with `EPERM`; a module that tries gets an error, not a death.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Never needed by a module.
const DENIED: [i64; 28] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
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
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
];

/// Confines this thread and those that it starts.
pub(super) fn confine(network: bool) -> Result<(), Error> {
    seccompiler::apply_filter(&filter(network)?)
}

fn filter(network: bool) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.into_iter().map(|call| (call, vec![])).collect();
    if !network {
        let local = u64::try_from(libc::AF_UNIX).unwrap_or_default();
        let other = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, local)?;
        rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![other])?]);
    }
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok(SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confined_thread_starts_no_program_and_reaches_no_network() {
        let confined = |network| {
            std::thread::spawn(move || {
                confine(network).unwrap();
                let local = std::os::unix::net::UnixStream::pair().is_ok();
                let net = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
                (local, net, std::process::Command::new("true").status().is_ok())
            })
            .join()
            .unwrap()
        };
        assert_eq!(confined(false), (true, false, false));
        assert_eq!(confined(true), (true, true, false));
        assert!(std::process::Command::new("true").status().is_ok());
    }
}
