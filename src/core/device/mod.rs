//! What is known about this machine, what a deployment demands of it, and whether both agree. [clause 8.2.4]
//!
//! These are the kernel's words about itself: a kernel that was taken over lies. They find a machine that is set up
//! wrongly, or that changed while the daemon runs. Only a TPM's quote, judged by another machine, is evidence.
#![forbid(unsafe_code)]

pub mod fresh;
pub mod quote;

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::core::units::sha256;

/// How a fact stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// This machine cannot tell.
    Unknown,
}

impl Verdict {
    /// The word in tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        }
    }
}

/// What a deployment makes of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// Nothing is signed unless it passes; unknown is not enough.
    Require,
    /// It is said when it changes.
    Warn,
    /// It is shown.
    Ignore,
}

macro_rules! facts {
    ($($variant:ident $name:literal $advice:literal;)*) => {
        /// What is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Name { $(#[doc = $advice] $variant,)* }

        impl Name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// As the configuration writes it.
            #[must_use]
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// What a person can do about it.
            #[must_use]
            pub fn advice(self) -> &'static str { match self { $(Self::$variant => $advice,)* } }
        }
    };
}

facts! {
    SecureBoot "secure-boot" "switch Secure Boot on in the firmware, and leave its setup mode";
    Tpm "tpm" "switch the TPM on in the firmware";
    MeasuredBoot "measured-boot" "name the values of PCRs 0, 2, 4, 7 and 11 of a good boot under device.pcrs";
    Lockdown "lockdown" "boot with lockdown=integrity, or with Secure Boot on a kernel that locks down by itself";
    Taint "taint" "unload modules that are forced, unsigned or from outside the kernel tree, and boot again";
    ModuleSigning "module-signing" "boot with module.sig_enforce=1, or set kernel.modules_disabled=1 after the start";
    Ima "ima" "find out which file was changed between its measurement and its use (IMA violations), and boot again";
    RootVerity "root-verity" "boot from an image under dm-verity";
    Ptrace "ptrace" "set kernel.yama.ptrace_scope to 1 or more; without Yama, run apps in their own groups";
    UserNamespaces "user-namespaces" "set user.max_user_namespaces=0, or kernel.apparmor_restrict_unprivileged_userns=1";
    ProcMem "proc-mem" "boot with proc_mem.force_override=never (Linux 6.12)";
    CoreDumps "core-dumps" "set fs.suid_dumpable=0, and leave the daemon's limit of core files at 0";
    Swap "swap" "swap to zram or to an encrypted device, or not at all";
    Kexec "kexec" "set kernel.kexec_load_disabled=1";
    Bpf "bpf" "set kernel.unprivileged_bpf_disabled to 1 or 2";
    Clock "clock" "have the clock synchronised (chrony, systemd-timesyncd)";
    CpuFlaws "cpu-flaws" "update firmware and kernel until no flaw is marked Vulnerable under /sys/devices/system/cpu";
    OwnBinary "own-binary" "name the SHA-256 of the released clavigerd under device.binary, and restart after an update";
    OwnConfig "own-config" "find out who changed clavigerd.toml since the daemon started, and restart it";
    OwnRules "own-rules" "see what is in force with claviger status and policy show, then mend the file, or claviger reload";
}

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Which.
    pub name: Name,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, in words.
    pub found: String,
}

/// All demands; what is not named is warned about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands(pub BTreeMap<Name, Demand>);

impl Demands {
    /// What a deployment makes of it.
    #[must_use]
    pub fn of(&self, name: Name) -> Demand {
        self.0.get(&name).copied().unwrap_or(Demand::Warn)
    }

    /// What is required and is not so, in words with advice. Empty when all is well.
    // [clause 8.2.4-f] unknown is not good enough where it is required
    #[must_use]
    pub fn broken(&self, facts: &[Fact]) -> Vec<String> {
        let required = |name: &Name| self.of(*name) == Demand::Require;
        Name::ALL
            .iter()
            .filter(|name| required(name))
            .filter_map(|name| match facts.iter().find(|f| f.name == *name) {
                Some(fact) if fact.verdict == Verdict::Pass => None,
                Some(fact) => Some(format!(
                    "{} is {}: {}; {}",
                    name.as_str(),
                    fact.verdict.as_str(),
                    fact.found,
                    name.advice()
                )),
                None => Some(format!("{} was not looked at", name.as_str())),
            })
            .collect()
    }

    /// What is required, and cannot be told on this machine at all.
    #[must_use]
    pub fn unknowable(&self, facts: &[Fact]) -> Vec<String> {
        facts
            .iter()
            .filter(|f| self.of(f.name) == Demand::Require && f.verdict == Verdict::Unknown)
            .map(|f| {
                format!(
                    "device.{} is required, and this machine cannot tell: {}; {}",
                    f.name.as_str(),
                    f.found,
                    f.name.advice()
                )
            })
            .collect()
    }
}

/// SHA-256 over all facts, one a line: `NAME VERDICT FOUND`. Stands in each intent.
#[must_use]
pub fn digest(facts: &[Fact]) -> [u8; 32] {
    let mut text = String::new();
    for fact in facts {
        let found: String = fact.found.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = writeln!(text, "{} {} {found}", fact.name.as_str(), fact.verdict.as_str());
    }
    sha256(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(name: Name, verdict: Verdict) -> Fact {
        Fact { name, verdict, found: "x".into() }
    }

    // [clause 8.2.4-f] test
    #[test]
    fn what_is_required_must_pass() {
        let demands = Demands(BTreeMap::from([(Name::Swap, Demand::Require), (Name::Bpf, Demand::Ignore)]));
        let broken = |verdict| demands.broken(&[fact(Name::Swap, verdict), fact(Name::Bpf, Verdict::Fail)]);
        assert!(broken(Verdict::Pass).is_empty());
        assert!(broken(Verdict::Fail)[0].contains("swap is fail"));
        assert!(broken(Verdict::Unknown)[0].contains("encrypted"), "with advice");
        assert!(!demands.broken(&[]).is_empty(), "what was not looked at does not pass");
        assert_eq!(demands.unknowable(&[fact(Name::Swap, Verdict::Unknown)]).len(), 1);
        assert!(
            demands
                .unknowable(&[fact(Name::Swap, Verdict::Fail), fact(Name::Tpm, Verdict::Unknown)])
                .is_empty()
        );
        assert_eq!(demands.of(Name::Clock), Demand::Warn);
    }

    #[test]
    fn the_digest_is_of_every_word_and_lines_cannot_be_forged() {
        let a = vec![fact(Name::Swap, Verdict::Pass), fact(Name::Bpf, Verdict::Pass)];
        let mut b = a.clone();
        b[1].verdict = Verdict::Fail;
        assert_ne!(digest(&a), digest(&b));
        let forged = vec![Fact { found: "x\nbpf pass x".into(), ..fact(Name::Swap, Verdict::Pass) }];
        assert_ne!(digest(&a), digest(&forged));
    }

    #[test]
    fn names_are_words_of_the_configuration() {
        for name in Name::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
            assert!(!name.advice().is_empty());
        }
    }
}
