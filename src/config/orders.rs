//! `[orders]`: by which ways orders and leases come besides the operator's socket, and where the latch is.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::pin::DEFAULT_TCTI;

/// Where the latch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LatchPlace {
    /// A file: as good as its distance from the state directory.
    File(PathBuf),
    /// The counter in the TPM that sealed PINs hang on.
    Tpm {
        /// Index.
        nv_index: u32,
        /// Where the TPM is.
        tcti: String,
    },
}

impl std::fmt::Display for LatchPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Tpm { nv_index, .. } => write!(f, "tpm:{nv_index:#010x}"),
        }
    }
}

/// A place on the network that has orders and leases.
#[derive(Clone, Debug)]
pub struct Beacon {
    /// `https://HOST[:PORT][/PATH]`; `http://` to this machine alone.
    pub url: String,
    /// The certificates that may have signed the beacon's, PEM: these and no others.
    pub ca: Option<PathBuf>,
    /// How often it is asked; each time a little more or less.
    pub every: Duration,
}

/// The whole table.
#[derive(Clone, Debug)]
pub struct OrdersConfig {
    /// Orders are looked for here.
    pub directory: Option<PathBuf>,
    /// And there.
    pub beacon: Option<Beacon>,
    /// The latch.
    pub latch: LatchPlace,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOrders {
    directory: Option<PathBuf>,
    url: Option<String>,
    ca: Option<PathBuf>,
    every_seconds: Option<u64>,
    latch: Option<String>,
    tcti: Option<String>,
}

fn is_here(url: &str) -> bool {
    let host = url.strip_prefix("http://").unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|h| host.strip_prefix(h).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])))
}

impl OrdersConfig {
    pub(super) fn resolve(base: &Path, state_dir: &Path, raw: RawOrders) -> Result<Self, String> {
        let latch = match raw.latch.as_deref() {
            None => LatchPlace::File(state_dir.join("latch")),
            Some(text) => match text.split_once(':') {
                Some(("file", path)) if !path.is_empty() => LatchPlace::File(base.join(path)),
                Some(("tpm", index)) => {
                    let digits = index.strip_prefix("0x").unwrap_or_default();
                    let nv_index = u32::from_str_radix(digits, 16).map_err(|_| {
                        format!("orders.latch = {text:?} names no counter such as tpm:0x01810c1a")
                    })?;
                    if cfg!(not(feature = "tpm")) {
                        return Err("orders.latch names a TPM: build with --features tpm".into());
                    }
                    LatchPlace::Tpm { nv_index, tcti: raw.tcti.unwrap_or_else(|| DEFAULT_TCTI.to_owned()) }
                }
                _ => return Err(format!("orders.latch = {text:?} is neither file:PATH nor tpm:0xINDEX")),
            },
        };
        let beacon = match raw.url {
            None => None,
            Some(url) => {
                if cfg!(not(feature = "pull")) {
                    return Err("orders.url: this build asks nobody; build with --features pull".into());
                }
                let tls = url.starts_with("https://");
                if !tls && !is_here(&url) {
                    return Err(format!(
                        "orders.url = {url:?} is neither https:// nor http:// to this machine"
                    ));
                }
                if tls && raw.ca.is_none() {
                    return Err(
                        "orders.url without orders.ca: name the certificates that count, nobody else's do"
                            .into(),
                    );
                }
                let every = Duration::from_secs(raw.every_seconds.unwrap_or(60).clamp(1, 86_400));
                Some(Beacon {
                    url: url.trim_end_matches('/').to_owned(),
                    ca: raw.ca.map(|p| base.join(p)),
                    every,
                })
            }
        };
        Ok(Self { directory: raw.directory.map(|p| base.join(p)), beacon, latch })
    }
}
