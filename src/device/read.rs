//! One function a fact: a file or two, and what its words mean.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::core::device::Verdict;

/// How it stands, and what was found.
pub(super) type Found = (Verdict, String);

/// Where the machine's files are.
pub(super) struct Root(PathBuf);

/// Longest file that is read, bytes: these are all small.
const LONGEST: u64 = 256 * 1024;

/// Taints that say that code runs in the kernel which nobody vouched for: forced module (1), forced removal (3), bad page
/// (5), overridden ACPI table (8), out of tree (12), unsigned (13). Documentation/admin-guide/tainted-kernels.rst.
const TAINTS: u64 = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 12 | 1 << 13;

fn judged(good: bool, found: impl Into<String>) -> Found {
    (if good { Verdict::Pass } else { Verdict::Fail }, found.into())
}

fn unknown(why: impl Into<String>) -> Found {
    (Verdict::Unknown, why.into())
}

impl Root {
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        std::fs::File::open(self.0.join(path)).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn text(&self, path: &str) -> Option<String> {
        String::from_utf8(self.bytes(path)?).ok().map(|t| t.trim().to_owned())
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A setting that must be at least so much.
    pub(super) fn at_least(&self, path: &str, least: u64, absent: &str) -> Found {
        match self.number(path) {
            Some(n) => judged(n >= least, format!("/{path} is {n}")),
            None => unknown(absent),
        }
    }

    /// UEFI specification, 3.3: one byte after four of attributes.
    pub(super) fn secure_boot(&self) -> Found {
        let variable = |name: &str| {
            let path = format!("sys/firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
            self.bytes(&path).and_then(|b| b.get(4).copied())
        };
        match (variable("SecureBoot"), variable("SetupMode")) {
            (None, _) => unknown("the firmware's variables cannot be read"),
            (Some(1), Some(1)) => judged(false, "on, and in setup mode: anybody can change its keys"),
            (Some(on), _) => judged(on == 1, if on == 1 { "on" } else { "off" }),
        }
    }

    pub(super) fn tpm(&self) -> Found {
        match self.text("sys/class/tpm/tpm0/tpm_version_major") {
            Some(major) => judged(major == "2", format!("version {major}")),
            None if self.0.join("sys/class/tpm").is_dir() => judged(false, "none"),
            None => unknown("the kernel knows no TPMs"),
        }
    }

    pub(super) fn measured_boot(&self, expected: &[(u8, [u8; 32])]) -> Found {
        if expected.is_empty() {
            return unknown("device.pcrs names no values to compare with");
        }
        for (index, value) in expected {
            let Some(found) = self.text(&format!("sys/class/tpm/tpm0/pcr-sha256/{index}")) else {
                return unknown(format!("PCR {index} cannot be read"));
            };
            if !found.eq_ignore_ascii_case(&hex::encode(value)) {
                return judged(false, format!("PCR {index} is {}", found.to_ascii_lowercase()));
            }
        }
        judged(true, format!("{} PCRs are as named", expected.len()))
    }

    pub(super) fn lockdown(&self) -> Found {
        match self.text("sys/kernel/security/lockdown") {
            // The one in force stands in brackets.
            Some(text) => {
                judged(text.contains("[integrity]") || text.contains("[confidentiality]"), text.clone())
            }
            None => unknown("the kernel does not say"),
        }
    }

    pub(super) fn taint(&self) -> Found {
        match self.number("proc/sys/kernel/tainted") {
            Some(taint) => judged(taint & TAINTS == 0, format!("{taint}")),
            None => unknown("the kernel does not say"),
        }
    }

    pub(super) fn module_signing(&self) -> Found {
        if self.text("sys/module/module/parameters/sig_enforce").as_deref() == Some("Y") {
            return judged(true, "only signed modules are loaded");
        }
        if self.number("proc/sys/kernel/modules_disabled") == Some(1) {
            return judged(true, "no modules are loaded any more");
        }
        if !self.0.join("proc/modules").exists() && self.0.join("proc/sys/kernel").is_dir() {
            return judged(true, "the kernel has no modules");
        }
        match self.text("proc/modules") {
            Some(_) => judged(false, "modules without a signature can be loaded"),
            None => unknown("the kernel does not say"),
        }
    }

    pub(super) fn ima(&self) -> Found {
        match self.number("sys/kernel/security/ima/violations") {
            Some(count) => judged(count == 0, format!("{count} violations")),
            None => unknown("IMA is not there"),
        }
    }

    /// The dm name of the device under a mount point: `CRYPT-VERITY-…`, `CRYPT-LUKS2-…`.
    fn mapper_of(&self, device: &str) -> Option<String> {
        self.text(&format!("sys/dev/block/{device}/dm/uuid"))
    }

    pub(super) fn root_verity(&self) -> Found {
        let Some(mounts) = self.text("proc/self/mountinfo") else { return unknown("no mounts are told") };
        // proc(5): id, parent, major:minor, root, mount point, …; the last one wins.
        let root = mounts
            .lines()
            .map(|l| l.split_whitespace().collect::<Vec<_>>())
            .filter_map(|words| Some((*words.get(2)?, *words.get(4)?)))
            .rfind(|(_, point)| *point == "/");
        match root.map(|(device, _)| self.mapper_of(device)) {
            Some(Some(uuid)) => judged(uuid.starts_with("CRYPT-VERITY-"), uuid),
            Some(None) => judged(false, "the root file system is not verified"),
            None => unknown("no root file system is told"),
        }
    }

    pub(super) fn user_namespaces(&self) -> Found {
        let most = self.number("proc/sys/user/max_user_namespaces");
        let debian = self.number("proc/sys/kernel/unprivileged_userns_clone");
        let apparmor = self.number("proc/sys/kernel/apparmor_restrict_unprivileged_userns");
        match most {
            None => unknown("the kernel does not say"),
            Some(0) => judged(true, "nobody makes user namespaces"),
            Some(_) if debian == Some(0) || apparmor == Some(1) => {
                judged(true, "only privileged users make them")
            }
            Some(most) => judged(false, format!("every user makes up to {most}")),
        }
    }

    pub(super) fn proc_mem(&self) -> Found {
        let Some(line) = self.text("proc/cmdline") else { return unknown("the command line cannot be read") };
        let option = line.split_whitespace().rev().find_map(|w| w.strip_prefix("proc_mem.force_override="));
        match option {
            Some(word) => {
                judged(matches!(word, "never" | "ptrace"), format!("proc_mem.force_override={word}"))
            }
            None => judged(false, "writes through /proc/PID/mem go past page protection"),
        }
    }

    pub(super) fn core_dumps(&self, limit: Option<u64>) -> Found {
        let Some(suid) = self.number("proc/sys/fs/suid_dumpable") else {
            return unknown("the kernel does not say");
        };
        let shown = limit.map_or("unknown".to_owned(), |l| l.to_string());
        judged(suid == 0 && limit == Some(0), format!("fs.suid_dumpable {suid}, limit {shown}"))
    }

    pub(super) fn swap(&self) -> Found {
        let Some(text) = self.text("proc/swaps") else { return unknown("the kernel does not say") };
        // proc(5): a heading, then file name, type, …
        let open: Vec<&str> = text
            .lines()
            .skip(1)
            .filter_map(|l| l.split_whitespace().next())
            .filter(|name| !self.is_safe_swap(name))
            .collect();
        let count = text.lines().count().saturating_sub(1);
        if open.is_empty() {
            judged(
                true,
                if count == 0 { "none".to_owned() } else { format!("{count}, none in clear on a disk") },
            )
        } else {
            judged(false, format!("in clear: {}", open.join(" ")))
        }
    }

    fn is_safe_swap(&self, name: &str) -> bool {
        let Some(device) = name.strip_prefix("/dev/") else { return false };
        let of = |device: &str| self.text(&format!("sys/block/{device}/dm/uuid"));
        if device.starts_with("zram") {
            return true;
        }
        // /dev/mapper/NAME stands for some dm-N.
        let linked = std::fs::canonicalize(self.0.join("dev").join(device)).ok();
        let linked = linked.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
        [Some(device), linked].into_iter().flatten().filter_map(of).any(|uuid| uuid.starts_with("CRYPT-"))
    }

    pub(super) fn cpu_flaws(&self) -> Found {
        let dir = self.0.join("sys/devices/system/cpu/vulnerabilities");
        let Ok(entries) = std::fs::read_dir(&dir) else { return unknown("the kernel does not say") };
        let mut open: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| {
                let path = format!("sys/devices/system/cpu/vulnerabilities/{name}");
                self.text(&path).is_some_and(|t| t.starts_with("Vulnerable"))
            })
            .collect();
        open.sort();
        if open.is_empty() { judged(true, "none is open") } else { judged(false, open.join(" ")) }
    }
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
