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
    /// A YubiHSM 2 behind its connector.
    Yubihsm,
}

/// What a token claims to enforce. What is not named is not claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Claims {
    /// Keys are made inside and say so.
    pub made_inside: bool,
    /// Private values cannot be read.
    pub value_hidden: bool,
    /// Protecting attributes cannot be changed, nor weakened in a copy.
    pub attributes_fixed: bool,
    /// Non-extractable keys cannot be wrapped.
    pub wrap_refused: bool,
    /// A key does only what it was made for.
    pub purpose_enforced: bool,
    /// `CKA_WRAP_WITH_TRUSTED` holds.
    pub trusted_wrap: bool,
}

/// Attributes that a module refuses in templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Omit {
    /// `CKA_COPYABLE`.
    Copyable,
    /// `CKA_MODIFIABLE`.
    Modifiable,
    /// `CKA_DERIVE`.
    Derive,
    /// `CKA_DECRYPT` and `CKA_UNWRAP` of keys that do neither.
    Decrypt,
}

/// How templates of new keys differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Template {
    /// What is left out.
    pub omit: Vec<Omit>,
    /// Sets `CKA_ALLOWED_MECHANISMS` to the one mechanism of the key.
    pub allowed_mechanisms: bool,
    /// Sets `CKA_WRAP_WITH_TRUSTED`.
    pub wrap_with_trusted: bool,
    /// Names Ed25519 as a `PrintableString`, not by its object identifier.
    pub ed25519_by_name: bool,
}

/// The shape of a PIN: a misshapen one is never sent, because a wrong PIN costs a try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum PinShape {
    /// Anything.
    #[default]
    #[serde(rename = "any")]
    Any,
    /// `user:password` (AWS CloudHSM).
    #[serde(rename = "user:password")]
    UserPassword,
    /// Four hex digits of the authentication key, then the password (YubiHSM 2).
    #[serde(rename = "hex4password")]
    Hex4Password,
}

impl PinShape {
    /// Whether the PIN has the shape.
    pub fn accepts(self, pin: &[u8]) -> Result<(), String> {
        let (fits, shape) = match self {
            Self::Any => (true, ""),
            Self::UserPassword => (
                pin.iter().position(|b| *b == b':').is_some_and(|at| at > 0 && at + 1 < pin.len()),
                "user:password",
            ),
            Self::Hex4Password => (
                pin.len() > 4 && pin.iter().take(4).all(u8::is_ascii_hexdigit),
                "four hex digits of the authentication key's id, then its password",
            ),
        };
        if fits { Ok(()) } else { Err(format!("the PIN was not sent, since it must be {shape}")) }
    }
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
    /// Why payment keys are refused, whatever the device proves.
    #[serde(default)]
    pub payment_refused: Option<String>,
    /// Module paths, tried in order.
    #[serde(default)]
    pub modules: Vec<PathBuf>,
    /// Algorithms of its keys.
    pub algorithms: Vec<Algorithm>,
    /// Read-write sessions for signing too.
    #[serde(default)]
    pub read_write_sessions: bool,
    /// Most sessions that the daemon opens, its own included; 0 leaves it to the configuration.
    #[serde(default)]
    pub max_sessions: usize,
    /// Deadline of a call in milliseconds, where the configuration names none.
    #[serde(default)]
    pub call_timeout_ms: Option<u64>,
    /// Shape of its PIN.
    #[serde(default)]
    pub pin: PinShape,
    /// What goes into `pReserved` of `C_Initialize`; `{directory}` stands for `token.directory`.
    #[serde(default)]
    pub init: Option<String>,
    /// The token keeps an audit log of its own: it is asked only for what stands in ours, on disk.
    #[serde(default)]
    pub own_log: bool,
    /// The module speaks to its token over the network.
    #[serde(default)]
    pub network: bool,
    /// Environment of the module's process.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How templates differ.
    #[serde(default)]
    pub template: Template,
    /// Claims.
    pub claims: Claims,
}

/// Why a profile was refused.
#[derive(Debug, thiserror::Error)]
#[error("profile {0}: {1}")]
pub struct ProfileError(pub String, pub String);

macro_rules! built_in {
    ($($name:literal)*) => {
        /// The shipped profiles by name.
        const BUILT_IN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../hsm-profiles/", $name, ".toml"))),)*];
    };
}

built_in!(
    "embedded"
    "softhsm2"
    "kryoptic"
    "nss"
    "tpm2"
    "yubihsm2"
    "yubihsm2-pkcs11"
    "nitrokey-hsm2"
    "luna7"
    "cloudhsm"
    "nshield"
    "primus"
    "utimaco"
    "generic"
);

impl Profile {
    /// A built-in profile by its name, or one from a file by its path.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        let fail = |why: String| ProfileError(name.to_owned(), why);
        if let Some((_, text)) = BUILT_IN.iter().find(|(n, _)| *n == name) {
            return Self::parse(name, text);
        }
        if !name.contains('/') {
            let known: Vec<&str> = BUILT_IN.iter().map(|(n, _)| *n).collect();
            let known = known.join(", ");
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
        if profile.algorithms.is_empty() {
            return Err(ProfileError(name.to_owned(), "it names no algorithms".into()));
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
                assert_eq!(path.file_stem().unwrap().to_str(), Some(profile.name.as_str()));
                assert_eq!(Profile::load(&profile.name).unwrap(), profile);
                // What could not be tried says so where it is shown.
                assert_eq!(profile.note.contains("not tested"), !profile.tested, "{}", profile.name);
                count += 1;
            }
        }
        assert_eq!(count, BUILT_IN.len());
        assert!(Profile::load("nothing").is_err());
    }

    // [clause 8.2.5-c] test
    #[test]
    fn a_misshapen_pin_is_found_before_it_costs_a_try() {
        for (shape, good, bad) in [
            (PinShape::UserPassword, "alice:secret", ["alice", ":secret", "alice:"]),
            (PinShape::Hex4Password, "0001password", ["0001", "password", "00g1password"]),
        ] {
            assert_eq!(shape.accepts(good.as_bytes()), Ok(()));
            for pin in bad {
                assert!(shape.accepts(pin.as_bytes()).unwrap_err().contains("not sent"), "{pin}");
            }
        }
        assert_eq!(PinShape::Any.accepts(b"1"), Ok(()));
    }
}
