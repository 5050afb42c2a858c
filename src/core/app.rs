//! Registered apps: which executable, under which user, is which app. [`Apps::find`] decides; absent is refused.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::payment::Chain;
use super::units::Name;

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
    /// Reply shape of `eth_signTransaction`.
    pub eth_sign_transaction: ReplyShape,
    /// What `eth_chainId` answers, where the policy names more than one chain.
    pub chain: Option<Chain>,
}

/// All registered apps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Apps {
    apps: Vec<App>,
    hash: [u8; 32],
    text: String,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    app: Vec<RawApp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    id: String,
    path: PathBuf,
    sha256: String,
    uid: u32,
    #[serde(default)]
    eth_sign_transaction: ReplyShape,
    chain: Option<String>,
}

impl Apps {
    /// Reads the text of `apps.toml`.
    pub fn parse(text: &str) -> Result<Self, AppsError> {
        let raw: RawFile = toml::from_str(text).map_err(|e| AppsError::Syntax(e.to_string()))?;
        let mut apps: Vec<App> = Vec::new();
        for app in raw.app {
            let fail = |why| AppsError::Value(app.id.clone(), why);
            let mut sha256 = [0; 32];
            hex::decode_to_slice(&app.sha256, &mut sha256)
                .map_err(|_| fail("sha256 must be 64 hex digits of the executable's SHA-256"))?;
            let id = Name::parse(&app.id).ok_or_else(|| fail("an id is 1 to 64 of A-Z a-z 0-9 . _ -"))?;
            if !app.path.is_absolute() {
                return Err(fail("path must be absolute"));
            }
            let chain = match &app.chain {
                None => None,
                Some(text) => Some(Chain::parse(text).ok_or_else(|| fail("chain must be eip155:N"))?),
            };
            if apps.iter().any(|a| a.id == id) {
                return Err(fail("the id stands twice"));
            }
            if apps.iter().any(|a| a.path == app.path && a.uid == app.uid && a.sha256 == sha256) {
                return Err(fail(
                    "another app has the same executable and user: they could not be told apart",
                ));
            }
            apps.push(App {
                id,
                path: app.path.clone(),
                sha256,
                uid: app.uid,
                eth_sign_transaction: app.eth_sign_transaction,
                chain,
            });
        }
        Ok(Self { apps, hash: super::units::sha256(text.as_bytes()), text: text.to_owned() })
    }

    /// The app that this executable is, under this user.
    // [clause 8.2.4-a] path, digest and user must all agree; nothing else names an app
    #[must_use]
    pub fn find(&self, path: &Path, sha256: &[u8; 32], uid: u32) -> Option<&App> {
        self.apps.iter().find(|a| a.path == path && &a.sha256 == sha256 && a.uid == uid)
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
    fn what_cannot_be_told_apart_is_refused_at_load() {
        let one = text(&"ab".repeat(32));
        assert!(Apps::parse(&format!("{one}{one}")).is_err());
        assert!(Apps::parse(&format!("{one}{}", one.replace("\"pay\"", "\"other\""))).is_err());
        assert!(Apps::parse(&text("xy")).is_err());
        assert!(Apps::parse(&one.replace("/usr", "usr")).is_err());
        assert!(Apps::parse(&format!("{one}surprise = 1\n")).is_err());
    }
}
