//! Which token, and how it is used.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{PinSource, address, pin, within};

/// The token to use.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// Built-in profile name, or a path of a profile file.
    pub profile: String,
    /// Token label to look for.
    pub label: Option<String>,
    /// Token serial to look for.
    pub serial: Option<String>,
    /// Module path in place of the profile's candidates.
    pub module: Option<PathBuf>,
    /// Directory of the embedded token.
    pub directory: Option<PathBuf>,
    /// Connector of a YubiHSM: `http://HOST:PORT`, or `usb`.
    pub connector: Option<String>,
    /// Where the PIN comes from.
    pub pin: PinSource,
    /// Worker threads, a session each.
    pub workers: usize,
    /// Longest queue in front of the token.
    pub queue: usize,
    /// Deadline of one token call; the profile's, or ten seconds, when absent.
    pub timeout: Option<Duration>,
    /// Load the PKCS#11 module into the daemon: a module that crashes or hangs takes the daemon with it.
    pub in_process: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawToken {
    profile: String,
    label: Option<String>,
    serial: Option<String>,
    module: Option<PathBuf>,
    directory: Option<PathBuf>,
    connector: Option<String>,
    pin_file: Option<PathBuf>,
    pin_credential: Option<String>,
    pin_tpm: Option<pin::RawTpm>,
    workers: Option<usize>,
    queue: Option<usize>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    in_process: bool,
}

impl RawToken {
    /// `name` is the table that it stands in.
    pub(super) fn resolve(self, base: &Path, name: &str) -> Result<TokenConfig, String> {
        let at = |p: PathBuf| base.join(p);
        let pin = PinSource::resolve(base, self.pin_file, self.pin_credential, self.pin_tpm)?;
        let profile = if self.profile.contains('/') {
            at(PathBuf::from(self.profile)).to_string_lossy().into_owned()
        } else {
            self.profile
        };
        Ok(TokenConfig {
            profile,
            label: self.label,
            serial: self.serial,
            module: self.module.map(at),
            directory: self.directory.map(at),
            connector: self.connector.map(address::connector).transpose()?,
            pin,
            workers: within(&format!("{name}.workers"), self.workers.unwrap_or(2), 1, 64)?,
            queue: within(&format!("{name}.queue"), self.queue.unwrap_or(256), 1, 65_536)?,
            timeout: self.timeout_ms.map(|ms| Duration::from_millis(ms.clamp(50, 600_000))),
            in_process: self.in_process,
        })
    }
}
