//! Profiles: what differs between vendors, as data. Believed by nobody until `token check` has proved it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::key::Algorithm;

/// What drives the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Sealed files of our own.
    Embedded,
    /// A PKCS#11 module.
    Pkcs11,
}

/// What a token claims to enforce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Keys are made inside and say so.
    pub made_inside: bool,
    /// Private values cannot be read.
    pub value_hidden: bool,
    /// Protecting attributes cannot be changed.
    pub attributes_fixed: bool,
    /// Non-extractable keys cannot be wrapped.
    pub wrap_refused: bool,
    /// A key does only what it was made for.
    pub purpose_enforced: bool,
}

/// One profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Driver.
    pub kind: Kind,
    /// Whether the project's tests run against it.
    pub tested: bool,
    /// For people.
    #[serde(default)]
    pub note: String,
    /// Module paths, tried in order.
    #[serde(default)]
    pub modules: Vec<PathBuf>,
    /// Curves.
    pub algorithms: Vec<Algorithm>,
    /// Read-write sessions for signing too.
    #[serde(default)]
    pub read_write_sessions: bool,
    /// Leave `CKA_COPYABLE = false` out.
    #[serde(default)]
    pub copyable: bool,
    /// The token keeps an audit log of its own: it is asked only for what stands in ours, on disk.
    #[serde(default)]
    pub own_log: bool,
    /// The module speaks to its token over the network.
    #[serde(default)]
    pub network: bool,
    /// Environment of the module's process.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Claims.
    pub claims: Claims,
}

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
#[error("profile {0}: {1}")]
pub struct ProfileError(pub String, pub String);

const BUILT_IN: [(&str, &str); 2] = [
    ("embedded", include_str!("../../hsm-profiles/embedded.toml")),
    ("softhsm2", include_str!("../../hsm-profiles/softhsm2.toml")),
];

impl Profile {
    /// A built-in profile by its name, or one from a file by its path.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        let fail = |why: String| ProfileError(name.to_owned(), why);
        if let Some((_, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
            return Self::parse(name, text);
        }
        if !name.contains('/') {
            let known = BUILT_IN.map(|(n, _)| n).join(", ");
            return Err(fail(format!(
                "is not built in (there are {known}); name a file by a path with a slash"
            )));
        }
        let text = std::fs::read_to_string(Path::new(name)).map_err(|e| fail(e.to_string()))?;
        Self::parse(name, &text)
    }

    fn parse(name: &str, text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|e| ProfileError(name.to_owned(), e.to_string()))?;
        if profile.kind == Kind::Pkcs11 && profile.modules.iter().any(|m| !m.is_absolute()) {
            return Err(ProfileError(name.to_owned(), "module paths must be absolute".into()));
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_profile_loads_under_its_own_name() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("hsm-profiles");
        let mut count = 0;
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let profile = Profile::load(path.to_str().unwrap()).unwrap();
                assert_eq!(Profile::load(&profile.name).unwrap(), profile);
                count += 1;
            }
        }
        assert_eq!(count, BUILT_IN.len());
        assert!(Profile::load("nothing").is_err());
    }
}
