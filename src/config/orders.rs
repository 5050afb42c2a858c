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
    /// Certificate and key of this device, PEM, where the beacon asks for them.
    pub own: Option<(PathBuf, PathBuf)>,
    /// A proxy on the way, `http://HOST:PORT`: it is asked with CONNECT, and sees TLS pass.
    pub proxy: Option<String>,
    /// No key exchange but one that a quantum computer does not undo.
    pub post_quantum_only: bool,
    /// How long it is left alone when it holds no answers; each time a little more or less.
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
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    proxy: Option<String>,
    post_quantum: Option<PostQuantum>,
    every_seconds: Option<u64>,
    latch: Option<String>,
    tcti: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum PostQuantum {
    Prefer,
    Require,
}

/// A proxy is named by host and port. One that is spoken to over TLS would get the beacon's TLS inside of its own, which
/// the HTTP library leaves out without a word; and a password does not belong into this file.
fn proxy_is_plain(proxy: &str) -> bool {
    proxy.strip_prefix("http://").and_then(|rest| rest.rsplit_once(':')).is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok_and(|p| p > 0)
            && !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
    })
}

fn is_here(url: &str) -> bool {
    let host = url.strip_prefix("http://").unwrap_or_default();
    ["127.0.0.1", "localhost", "[::1]"]
        .iter()
        .any(|h| host.strip_prefix(h).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/'])))
}

impl Beacon {
    fn resolve(base: &Path, raw: &RawOrders) -> Result<Option<Self>, String> {
        let Some(url) = raw.url.as_deref() else { return Ok(None) };
        if cfg!(not(feature = "pull")) {
            return Err("orders.url: this build asks nobody; build with --features pull".into());
        }
        let tls = url.starts_with("https://");
        if !tls && !is_here(url) {
            return Err(format!("orders.url = {url:?} is neither https:// nor http:// to this machine"));
        }
        if tls && raw.ca.is_none() {
            return Err(
                "orders.url without orders.ca: name the certificates that count, nobody else's do".into()
            );
        }
        let own = match (&raw.certificate, &raw.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) if tls => Some((base.join(certificate), base.join(key))),
            (Some(_), Some(_)) => return Err("orders.certificate goes with https:// alone".into()),
            _ => return Err("orders.certificate and orders.key go together".into()),
        };
        if let Some(proxy) = &raw.proxy {
            if !tls {
                return Err(
                    "orders.proxy goes with https:// alone: http:// does not leave this machine".into()
                );
            }
            if !proxy_is_plain(proxy) {
                return Err("orders.proxy is http://HOST:PORT, without a name or password".into());
            }
        }
        let every = Duration::from_secs(raw.every_seconds.unwrap_or(60).clamp(1, 86_400));
        Ok(Some(Self {
            url: url.trim_end_matches('/').to_owned(),
            ca: raw.ca.as_ref().map(|p| base.join(p)),
            own,
            proxy: raw.proxy.clone(),
            post_quantum_only: raw.post_quantum == Some(PostQuantum::Require),
            every,
        }))
    }
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
                    LatchPlace::Tpm {
                        nv_index,
                        tcti: raw.tcti.clone().unwrap_or_else(|| DEFAULT_TCTI.to_owned()),
                    }
                }
                _ => return Err(format!("orders.latch = {text:?} is neither file:PATH nor tpm:0xINDEX")),
            },
        };
        let beacon = Beacon::resolve(base, &raw)?;
        Ok(Self { directory: raw.directory.map(|p| base.join(p)), beacon, latch })
    }
}

#[cfg(all(test, feature = "pull"))]
mod tests {
    use super::*;

    fn beacon(text: &str) -> Result<Option<Beacon>, String> {
        let raw: RawOrders = toml::from_str(text).map_err(|e| e.to_string())?;
        OrdersConfig::resolve(Path::new("/etc"), Path::new("/var"), raw).map(|c| c.beacon)
    }

    #[test]
    fn a_beacon_elsewhere_needs_tls_and_named_certificates_and_a_proxy_sees_only_tls() {
        let tls = "url = \"https://b.example/x/\"\nca = \"ca.pem\"\n";
        let good = beacon(&format!(
            "{tls}proxy = \"http://proxy.example:3128\"\ncertificate = \"a\"\nkey = \"b\"\npost_quantum = \"require\""
        ));
        let good = good.unwrap().unwrap();
        assert_eq!(good.url, "https://b.example/x");
        assert_eq!(good.own, Some(("/etc/a".into(), "/etc/b".into())));
        assert!(good.post_quantum_only && good.every == Duration::from_secs(60));
        assert!(!beacon(tls).unwrap().unwrap().post_quantum_only);
        assert!(beacon("url = \"http://127.0.0.1:1\"").unwrap().is_some());
        for proxy in
            ["https://p:1", "http://p", "http://u:p@p:1", "http://p:0", "socks5://p:1", "http://p:1/", ""]
        {
            assert!(beacon(&format!("{tls}proxy = \"{proxy}\"")).is_err(), "{proxy}");
        }
        for bad in [
            "url = \"http://b.example\"",
            "url = \"https://b.example\"",
            "url = \"http://localhost.example\"",
            "url = \"http://127.0.0.1:1\"\nproxy = \"http://p:1\"",
            "url = \"http://127.0.0.1:1\"\ncertificate = \"a\"\nkey = \"b\"",
        ] {
            assert!(beacon(bad).is_err(), "{bad}");
        }
        for bad in ["certificate = \"a\"", "key = \"b\"", "post_quantum = \"no\""] {
            assert!(beacon(&format!("{tls}{bad}")).is_err(), "{bad}");
        }
    }
}
