//! `[apps]`: where manifests stand, and whether registrations must be signed.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Registrations beside the app file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppsConfig {
    /// Directory of `NAME.toml` and `NAME.toml.sig`; one that is not there holds none.
    pub manifests: PathBuf,
    /// What nobody has signed, or agreed on, gets nothing.
    pub signed: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApps {
    manifests: Option<PathBuf>,
    signed: Option<String>,
}

impl RawApps {
    pub(super) fn resolve(self, base: &Path) -> Result<AppsConfig, String> {
        Ok(AppsConfig {
            manifests: base.join(self.manifests.unwrap_or_else(|| "apps.d".into())),
            signed: match self.signed.as_deref() {
                None | Some("optional") => false,
                Some("required") => true,
                Some(other) => {
                    return Err(format!("apps.signed = {other:?} is neither optional nor required"));
                }
            },
        })
    }
}
