//! Registered apps: which executable, under which user, is which app, and what it must be seen as.
//!
//! [`Apps::find`] says which app a process claims to be; [`judge`] whether it is. Absent is refused.
#![forbid(unsafe_code)]

pub mod facts;
pub mod hello;
pub mod judge;
pub mod manifest;
pub mod memory;
mod parse;
pub mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::approval::sshsig::SshKey;
use super::key::Purpose;
use super::payment::Chain;
use super::proof::Tier;
use super::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// The shape of an `eth_signTransaction` reply; clients disagree (see `docs/protocol.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplyShape {
    /// The bare raw transaction: ethers, viem, alloy, cast.
    #[default]
    String,
    /// `{raw, tx}`: web3.py, geth.
    Object,
}

/// Which files may be mapped executable beside the app's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Libs {
    /// Those that only root can change.
    #[default]
    RootOwned,
    /// These, SHA-256 by path; the digest counts, the path is for people.
    Exact(BTreeMap<PathBuf, [u8; 32]>),
}

/// System call filters that the app runs under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Seccomp {
    /// Those that every process of the machine has: none, but in a container.
    #[default]
    #[serde(rename = "none")]
    Usual,
    /// At least one more.
    #[serde(rename = "filter")]
    Filter,
}

/// What of all that the policy permits it may ask for; what is absent is everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Lines of keys.
    pub keys: Option<BTreeSet<Name>>,
    /// Purposes of keys.
    pub purposes: Option<BTreeSet<Purpose>>,
}

impl Scope {
    /// Refuses a key that is outside.
    // [clause 8.2.4-o] a registration narrows what its app gets, whatever the policy would permit
    pub fn permits(&self, app: &Name, line: &Name, purpose: Purpose) -> Result<(), Refusal> {
        let outside =
            |what: String| Err(Refusal::new(Code::AppScope, format!("{app} is not registered for {what}")));
        if self.keys.as_ref().is_some_and(|keys| !keys.contains(line)) {
            return outside(format!("key {line}"));
        }
        if self.purposes.as_ref().is_some_and(|purposes| !purposes.contains(&purpose)) {
            return outside(format!("keys of purpose {purpose}"));
        }
        Ok(())
    }
}

/// Who stands behind a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signer {
    /// Whoever may write the file.
    #[default]
    File,
    /// People who agreed on a change of the file.
    Agreed(Vec<String>),
    /// People who signed a manifest.
    People(Vec<String>),
    /// A release key that the registration names: its fingerprint.
    Release(String),
}

/// One registered app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// Its name in policies and in the log.
    pub id: Name,
    /// Absolute path of its executable.
    pub path: PathBuf,
    /// SHA-256 of that file.
    pub sha256: [u8; 32],
    /// The user that it must run as.
    pub uid: u32,
    /// The group that its executable is setgid to.
    pub gid: Option<u32>,
    /// The system unit that it runs in, under a user that is nobody else's.
    pub unit: Option<String>,
    /// The least tier at which it is served; T1 when absent.
    pub tier: Option<Tier>,
    /// What may run in it beside its executable.
    pub libs: Libs,
    /// It makes code while it runs: T1 at most.
    pub allow_jit: bool,
    /// Its system call filters.
    pub seccomp: Seccomp,
    /// Counts up with each change of this registration; what goes back is refused. 0 when it was never numbered.
    pub serial: u64,
    /// When the registration ends.
    pub not_after: Option<Timestamp>,
    /// It is no app any more.
    pub revoked: bool,
    /// Reply shape of `eth_signTransaction`.
    pub eth_sign_transaction: ReplyShape,
    /// What `eth_chainId` answers, where the policy names more than one chain.
    pub chain: Option<Chain>,
    /// What it may ask for.
    pub scope: Scope,
    /// Keys that sign its updates.
    pub release_keys: Vec<SshKey>,
    /// Nobody's signature stands behind it, and this deployment wants one: it gets nothing.
    pub unsigned: bool,
}

impl App {
    /// The least tier at which it is served.
    #[must_use]
    pub fn least(&self) -> Tier {
        self.tier.unwrap_or(Tier::T1)
    }
}

/// All registered apps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apps {
    apps: Vec<App>,
    hash: [u8; 32],
    text: String,
    signers: BTreeMap<Name, Signer>,
}

/// Why an app file was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppsError {
    /// Not TOML of the right shape.
    #[error("{0}")]
    Syntax(String),
    /// A value is wrong.
    #[error("app {0}: {1}")]
    Value(String, &'static str),
}

impl Apps {
    /// Reads the text of `apps.toml`.
    pub fn parse(text: &str) -> Result<Self, AppsError> {
        Ok(Self {
            apps: parse::parse(text)?,
            hash: super::units::sha256(text.as_bytes()),
            text: text.to_owned(),
            signers: BTreeMap::new(),
        })
    }

    /// Refuses apps that ask for a tier that cannot be checked here. `reach` gives the highest for a user, or why not.
    // [clause 8.2.4-d] what cannot be checked is said when it is loaded, not when money waits
    pub fn within(&self, reach: impl Fn(u32) -> (Tier, String)) -> Result<(), Refusal> {
        for app in &self.apps {
            let Some(wanted) = app.tier else { continue };
            let (most, why) = reach(app.uid);
            if wanted > most {
                return Err(Refusal::new(
                    Code::TierUnsupported,
                    format!("app {} asks for {wanted:?}, and here {most:?} is the most: {why}", app.id),
                ));
            }
        }
        Ok(())
    }

    /// The app that this executable is, under this user.
    // [clause 8.2.4-a] path, digest and user must all agree; nothing else names an app
    #[must_use]
    pub fn find(&self, path: &Path, sha256: &[u8; 32], uid: u32) -> Option<&App> {
        self.apps.iter().find(|a| a.path == path && &a.sha256 == sha256 && a.uid == uid)
    }

    /// An app that is registered at this path for this user, whatever its digest.
    #[must_use]
    pub fn claimed(&self, path: &Path, uid: u32) -> Option<&App> {
        self.apps.iter().find(|a| a.path == path && a.uid == uid)
    }

    /// The app of this name.
    #[must_use]
    pub fn named(&self, id: &Name) -> Option<&App> {
        self.apps.iter().find(|a| a.id == *id)
    }

    /// Refuses a key that is outside of what this app is registered for.
    pub fn in_scope(&self, id: &Name, line: &Name, purpose: Purpose) -> Result<(), Refusal> {
        self.named(id).map_or(Ok(()), |app| app.scope.permits(id, line, purpose))
    }

    /// Who stands behind a registration.
    #[must_use]
    pub fn signer(&self, id: &Name) -> Signer {
        self.signers.get(id).cloned().unwrap_or_default()
    }

    /// All of them, as written.
    #[must_use]
    pub fn all(&self) -> &[App] {
        &self.apps
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(sha: &str) -> String {
        format!("[[app]]\nid = \"pay\"\npath = \"/usr/bin/pay\"\nsha256 = \"{sha}\"\nuid = 1000\n")
    }

    // [clause 8.2.4-a] test
    #[test]
    fn an_app_is_its_path_digest_and_user_together() {
        let apps = Apps::parse(&text(&"ab".repeat(32))).unwrap();
        let path = Path::new("/usr/bin/pay");
        assert!(apps.find(path, &[0xab; 32], 1000).is_some());
        assert!(apps.find(path, &[0xab; 32], 1001).is_none());
        assert!(apps.find(path, &[0xaa; 32], 1000).is_none());
        assert!(apps.find(Path::new("/tmp/pay"), &[0xab; 32], 1000).is_none());
    }

    #[test]
    fn a_registration_says_what_must_be_seen() {
        let more = "gid = 990\ntier = \"T2\"\nallow_jit = false\nseccomp = \"filter\"\nserial = 4\n\
                    not_after = \"2030-01-01\"\nrevoked = true\n[app.libs]\n\"/lib/x.so\" = \"";
        let text = format!("{}{more}{}\"\n", text(&"ab".repeat(32)), "cd".repeat(32));
        let apps = Apps::parse(&text).unwrap();
        let app = &apps.all()[0];
        assert_eq!((app.gid, app.least(), app.serial, app.revoked), (Some(990), Tier::T2, 4, true));
        assert_eq!(app.libs, Libs::Exact(BTreeMap::from([("/lib/x.so".into(), [0xcd; 32])])));
        assert_eq!(app.not_after, Timestamp::parse_day("2030-01-01"));
        for (good, bad) in [
            ("\"T2\"", "\"T9\""),
            ("2030-01-01", "2030-02-31"),
            ("allow_jit = false", "allow_jit = true"),
            ("\"filter\"", "\"some\""),
            ("\"/lib/x.so\"", "\"x.so\""),
        ] {
            assert!(Apps::parse(&text.replace(good, bad)).is_err(), "{bad}");
        }
    }

    // [clause 8.2.4-o] test
    #[test]
    fn an_app_gets_no_key_and_no_purpose_that_it_is_not_registered_for() {
        let scoped = |words: &str| {
            let text = format!("{}[app.scope]\n{words}\n", text(&"ab".repeat(32)));
            Apps::parse(&text)
        };
        let name = |text| Name::parse(text).unwrap();
        let asked = |words: &str, line, purpose| {
            let apps = scoped(words).unwrap();
            apps.in_scope(&name("pay"), &name(line), purpose).map_err(|refusal| refusal.code)
        };
        let keys = "keys = [\"hot\"]";
        assert_eq!(asked(keys, "hot", Purpose::Payment), Ok(()));
        assert_eq!(asked(keys, "hot", Purpose::Encryption), Ok(()));
        assert_eq!(asked(keys, "cold", Purpose::Payment), Err(Code::AppScope));
        let both = "keys = [\"hot\"]\npurposes = [\"payment\"]";
        assert_eq!(asked(both, "hot", Purpose::Payment), Ok(()));
        assert_eq!(asked(both, "hot", Purpose::Encryption), Err(Code::AppScope));
        assert_eq!(asked("keys = []", "hot", Purpose::Payment), Err(Code::AppScope));
        assert_eq!(asked("", "any", Purpose::Random), Ok(()));
        assert!(scoped("keys = [\"hot@2\"]").is_err(), "a generation is no line");
        assert!(scoped("purposes = [\"fun\"]").is_err() && scoped("limits = []").is_err());
    }

    // [clause 8.2.4-d] test
    #[test]
    fn a_tier_that_cannot_be_checked_is_refused_at_load() {
        let one = text(&"ab".repeat(32));
        let reach = |_: u32| (Tier::T1, "no privileges".to_owned());
        assert!(Apps::parse(&one).unwrap().within(reach).is_ok());
        let high = Apps::parse(&format!("{one}tier = \"T2\"\n")).unwrap();
        assert_eq!(high.within(reach).unwrap_err().code, Code::TierUnsupported);
        assert!(high.within(|_| (Tier::T3, String::new())).is_ok());
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused_at_load() {
        let one = text(&"ab".repeat(32));
        assert!(Apps::parse(&format!("{one}{one}")).is_err());
        assert!(Apps::parse(&format!("{one}{}", one.replace("\"pay\"", "\"other\""))).is_err());
        assert!(Apps::parse(&text("xy")).is_err());
        assert!(Apps::parse(&one.replace("/usr", "usr")).is_err());
        assert!(Apps::parse(&format!("{one}surprise = 1\n")).is_err());
    }
}
