//! EDGE. Reads what the kernel says about this machine. [clause 8.2.4]
//!
//! A few dozen small files under /proc and /sys; a root for them can be named, so that tests bring their own machine.
#![forbid(unsafe_code)]

mod read;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::core::device::{Fact, Name, Verdict};
use crate::sys;
use read::{Found, Root};

/// What a deployment says of itself, to compare with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// SHA-256 of the released program.
    pub binary: Option<[u8; 32]>,
    /// PCRs of a good boot: index and value.
    pub pcrs: Vec<(u8, [u8; 32])>,
}

/// Looks at this machine.
pub struct Device {
    root: Root,
    expected: Expected,
    config: PathBuf,
    config_at_start: Option<[u8; 32]>,
    /// Files of rules, and SHA-256 of what is in force of each.
    rules: Mutex<Vec<(PathBuf, [u8; 32])>>,
    /// SHA-256 of this program, read once: what runs does not change, its file may.
    binary: Result<[u8; 32], String>,
}

fn file_digest(path: &Path) -> Result<[u8; 32], String> {
    let mut file = std::fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (mut hasher, mut block) = (Sha256::new(), vec![0; 64 * 1024]);
    loop {
        match file.read(&mut block).map_err(|e| format!("{}: {e}", path.display()))? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(block.get(..n).unwrap_or_default()),
        }
    }
}

impl Device {
    /// Of the machine under `root` (`/` but for tests), with the daemon's configuration file.
    #[must_use]
    pub fn new(root: &Path, config: &Path, expected: Expected) -> Self {
        Self {
            root: Root::new(root),
            expected,
            config: config.to_owned(),
            config_at_start: file_digest(config).ok(),
            rules: Mutex::default(),
            binary: file_digest(Path::new("/proc/self/exe")),
        }
    }

    /// Other rules are in force from now on.
    pub fn in_force(&self, rules: Vec<(PathBuf, [u8; 32])>) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// All facts, in their order.
    // [clause 8.2.4-f] looked at while the daemon runs, not only when it starts
    #[must_use]
    pub fn look(&self) -> Vec<Fact> {
        Name::ALL
            .iter()
            .map(|name| {
                let (verdict, found) = self.one(*name);
                Fact { name: *name, verdict, found }
            })
            .collect()
    }

    fn one(&self, name: Name) -> Found {
        let root = &self.root;
        match name {
            Name::SecureBoot => root.secure_boot(),
            Name::Tpm => root.tpm(),
            Name::MeasuredBoot => root.measured_boot(&self.expected.pcrs),
            Name::Lockdown => root.lockdown(),
            Name::Taint => root.taint(),
            Name::ModuleSigning => root.module_signing(),
            Name::Ima => root.ima(),
            Name::RootVerity => root.root_verity(),
            Name::Ptrace => root.at_least("proc/sys/kernel/yama/ptrace_scope", 1, "Yama is not there"),
            Name::UserNamespaces => root.user_namespaces(),
            Name::ProcMem => root.proc_mem(),
            Name::CoreDumps => root.core_dumps(sys::core_limit()),
            Name::Swap => root.swap(),
            Name::Kexec => root.at_least(
                "proc/sys/kernel/kexec_load_disabled",
                1,
                "the kernel does not say, or has no kexec",
            ),
            Name::Bpf => {
                root.at_least("proc/sys/kernel/unprivileged_bpf_disabled", 1, "the kernel does not say")
            }
            Name::Clock => match sys::clock_synchronised() {
                Ok(true) => (Verdict::Pass, "synchronised".into()),
                Ok(false) => (Verdict::Fail, "not synchronised".into()),
                Err(e) => (Verdict::Unknown, e.to_string()),
            },
            Name::CpuFlaws => root.cpu_flaws(),
            Name::OwnBinary => self.own_binary(),
            Name::OwnConfig => match (self.config_at_start, file_digest(&self.config)) {
                (Some(then), Ok(now)) if then == now => {
                    (Verdict::Pass, format!("sha256:{} as it was at the start", hex::encode(now)))
                }
                (Some(then), Ok(now)) => {
                    let (then, now) = (hex::encode(then), hex::encode(now));
                    let found =
                        format!("sha256:{now} was changed since the daemon started with sha256:{then}");
                    (Verdict::Fail, found)
                }
                (_, Err(e)) => (Verdict::Fail, e),
                (None, Ok(_)) => (Verdict::Unknown, "could not be read at the start".into()),
            },
            Name::OwnRules => self.own_rules(),
        }
    }

    // [clause 8.2.4-q] what lies on the disk and is not in force shows while the daemon runs, not at the next reload
    fn own_rules(&self) -> Found {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let other = |(file, in_force): &(PathBuf, [u8; 32])| match file_digest(file) {
            Ok(found) if found == *in_force => None,
            Ok(found) => {
                let (found, in_force) = (hex::encode(found), hex::encode(in_force));
                Some(format!("{} is sha256:{found}, and sha256:{in_force} is in force", file.display()))
            }
            Err(e) => Some(e),
        };
        let others: Vec<String> = rules.iter().filter_map(other).collect();
        match (rules.is_empty(), others.is_empty()) {
            (true, _) => (Verdict::Unknown, "no rules are in force yet".into()),
            (false, true) => (Verdict::Pass, "the files are what is in force".into()),
            (false, false) => (Verdict::Fail, others.join("; ")),
        }
    }

    fn own_binary(&self) -> Found {
        let running = match &self.binary {
            Ok(digest) => digest,
            Err(e) => return (Verdict::Unknown, e.clone()),
        };
        let shown = format!("sha256:{}", hex::encode(running));
        match self.expected.binary {
            None => (Verdict::Unknown, format!("{shown}; device.binary names none to compare with")),
            Some(expected) if expected == *running => (Verdict::Pass, shown),
            Some(_) => (Verdict::Fail, format!("{shown} is not the one that device.binary names")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.4-f] test
    #[test]
    fn a_configuration_that_changes_while_the_daemon_runs_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("c.toml");
        std::fs::write(&config, "a = 1").unwrap();
        let expected = Expected { binary: Some([0; 32]), pcrs: Vec::new() };
        let device = Device::new(Path::new("/"), &config, expected);
        let of = |name| device.look().into_iter().find(|f| f.name == name).unwrap().verdict;
        assert_eq!(of(Name::OwnConfig), Verdict::Pass);
        assert_eq!(of(Name::OwnBinary), Verdict::Fail);
        std::fs::write(&config, "a = 2").unwrap();
        assert_eq!(of(Name::OwnConfig), Verdict::Fail);
        std::fs::remove_file(&config).unwrap();
        assert_eq!(of(Name::OwnConfig), Verdict::Fail);
        let own =
            Expected { binary: Some(file_digest(Path::new("/proc/self/exe")).unwrap()), pcrs: Vec::new() };
        let device = Device::new(Path::new("/"), &config, own);
        assert_eq!(
            device.look().into_iter().find(|f| f.name == Name::OwnBinary).unwrap().verdict,
            Verdict::Pass
        );
    }

    // [clause 8.2.4-q] test
    #[test]
    fn a_file_that_is_not_what_is_in_force_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (policy, apps) = (dir.path().join("policy.toml"), dir.path().join("apps.toml"));
        std::fs::write(&policy, "a").unwrap();
        std::fs::write(&apps, "b").unwrap();
        let device = Device::new(Path::new("/"), &policy, Expected::default());
        let found = || device.look().into_iter().find(|f| f.name == Name::OwnRules).unwrap();
        assert_eq!(found().verdict, Verdict::Unknown);
        let of = |path: &PathBuf| (path.clone(), file_digest(path).unwrap());
        device.in_force(vec![of(&policy), of(&apps)]);
        assert_eq!(found().verdict, Verdict::Pass);
        std::fs::write(&apps, "c").unwrap();
        assert!(found().verdict == Verdict::Fail && found().found.contains("apps.toml is sha256:"));
        device.in_force(vec![of(&policy), of(&apps)]);
        assert_eq!(found().verdict, Verdict::Pass);
        std::fs::remove_file(&policy).unwrap();
        assert_eq!(found().verdict, Verdict::Fail);
    }

    #[test]
    fn this_very_machine_is_read_without_a_fault() {
        let facts = Device::new(Path::new("/"), Path::new("/etc/hostname"), Expected::default()).look();
        assert_eq!(facts.len(), Name::ALL.len());
        assert!(facts.iter().all(|f| !f.found.is_empty()));
    }
}
