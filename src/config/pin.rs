//! Where the token's PIN comes from. The configuration names the place, and never holds the PIN.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{ConfigError, read_text};
use crate::secret::Pin;

/// The kernel's own resource manager for the TPM.
pub const DEFAULT_TCTI: &str = "device:/dev/tpmrm0";

/// Where the PIN comes from.
#[derive(Clone, Debug)]
pub enum PinSource {
    /// A file readable by the daemon's user alone.
    File(PathBuf),
    /// A systemd credential (`LoadCredential=`), by name.
    Credential(String),
    /// A file that this machine's TPM opens, after the right boot and until a counter in it is raised.
    Tpm {
        /// What `claviger tpm seal` wrote.
        file: PathBuf,
        /// Where the TPM is.
        tcti: String,
    },
    /// Nowhere: an operator runs `claviger unlock`.
    Unlock,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTpm {
    file: PathBuf,
    tcti: Option<String>,
}

impl PinSource {
    /// The one source that is named, relative paths taken from a directory.
    pub(super) fn resolve(
        base: &Path,
        file: Option<PathBuf>,
        credential: Option<String>,
        tpm: Option<RawTpm>,
    ) -> Result<Self, String> {
        match (file, credential, tpm) {
            (None, None, None) => Ok(Self::Unlock),
            (Some(path), None, None) => Ok(Self::File(base.join(path))),
            (None, Some(name), None) => Ok(Self::Credential(name)),
            // Said when this is read, not when the PIN is wanted.
            (None, None, Some(_)) if !cfg!(feature = "tpm") => {
                Err("token.pin_tpm: this program knows no TPM: build it with --features tpm".into())
            }
            (None, None, Some(RawTpm { file, tcti })) => {
                Ok(Self::Tpm { file: base.join(file), tcti: tcti.unwrap_or_else(|| DEFAULT_TCTI.into()) })
            }
            _ => Err("name one of pin_file, pin_credential and pin_tpm".into()),
        }
    }

    /// Reads the PIN where a file holds it; `None` where none does.
    pub fn read(&self) -> Result<Option<Pin>, ConfigError> {
        use std::os::unix::fs::MetadataExt;
        let path = match self {
            Self::Unlock | Self::Tpm { .. } => return Ok(None),
            Self::File(path) => path.clone(),
            Self::Credential(name) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(dir) if !name.contains('/') => PathBuf::from(dir).join(name),
                _ => {
                    return Err(ConfigError::Value {
                        path: name.into(),
                        why: "is a credential, but the service manager passed none (LoadCredential=)".into(),
                    });
                }
            },
        };
        let meta =
            std::fs::metadata(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        if matches!(self, Self::File(_)) && meta.mode() & 0o077 != 0 {
            return Err(ConfigError::Value {
                path,
                why: format!("mode {:04o} lets others read the PIN: chmod 0600", meta.mode() & 0o7777),
            });
        }
        let text = read_text(&path)?;
        Pin::new(text).map(Some).ok_or(ConfigError::Value { path, why: "holds no PIN".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "1234\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(PinSource::File(path.clone()).read().is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(PinSource::File(path).read().unwrap().unwrap().expose(), b"1234");
    }
}
