//! `beacon.toml`: text to frozen configuration.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where to listen beyond this machine.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Address.
    pub listen: SocketAddr,
    /// Chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who signed the certificates of those who may connect; everybody may where none is named.
    pub client_ca: Option<PathBuf>,
    /// No key exchange without ML-KEM.
    pub post_quantum_only: bool,
}

/// To whom leases are given.
#[derive(Clone, Debug)]
pub struct Leases {
    /// Key for ssh-keygen.
    pub key: PathBuf,
    /// How long one runs.
    pub seconds: u64,
    /// Only to devices that say that all they require of their machine is so.
    pub only_fit: bool,
    /// Only as long as somebody in charge gave a sign of life within so many milliseconds.
    pub heartbeat_ms: Option<i64>,
}

/// What one beacon carries.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections.
    pub connections: usize,
    /// Connections from one address, but for those of this machine.
    pub per_peer: usize,
    /// Devices.
    pub devices: usize,
    /// Orders of one device.
    pub orders: usize,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The authority document.
    pub authority: PathBuf,
    /// Folder of the database.
    pub state: PathBuf,
    /// Loopback, without TLS: pages, metrics, and proxies.
    pub plain: Option<SocketAddr>,
    /// Beyond this machine.
    pub tls: Option<Tls>,
    /// None are given without.
    pub leases: Option<Leases>,
    /// Limits.
    pub limits: Limits,
    /// A device that said nothing for so many milliseconds is stale.
    pub stale_ms: i64,
    /// What people call the devices.
    pub names: BTreeMap<String, String>,
    /// Devices without a name are not heard.
    pub only_named: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    authority: PathBuf,
    state: PathBuf,
    #[serde(default)]
    listen: RawListen,
    lease: Option<RawLease>,
    #[serde(default)]
    limits: RawLimits,
    stale_seconds: Option<u32>,
    #[serde(default)]
    only_named: bool,
    #[serde(default)]
    device: Vec<RawDevice>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawListen {
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    #[serde(default)]
    post_quantum: PostQuantum,
}

#[derive(Deserialize, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum PostQuantum {
    #[default]
    Prefer,
    Require,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLease {
    key: PathBuf,
    seconds: Option<u32>,
    #[serde(default)]
    only_fit: bool,
    heartbeat_days: Option<u16>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    connections: Option<usize>,
    per_peer: Option<usize>,
    devices: Option<usize>,
    orders: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDevice {
    id: String,
    name: String,
}

/// 32 bytes as lower-case hex.
pub fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Config {
    /// Reads the file; relative paths are taken from its folder.
    pub fn read(file: &Path) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
        Self::parse(&text, file.parent().unwrap_or(Path::new("."))).map_err(|e| failed(&e))
    }

    fn parse(text: &str, base: &Path) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|e| e.to_string())?;
        if raw.listen.plain.is_some_and(|plain| !plain.ip().is_loopback()) {
            return Err("listen.plain is for this machine alone: beyond it, listen.tls".into());
        }
        let (certificate, key) = (raw.listen.certificate, raw.listen.key);
        let tls = match (raw.listen.tls, certificate, key) {
            (None, None, None) if raw.listen.client_ca.is_none() => None,
            (Some(listen), Some(certificate), Some(key)) => Some(Tls {
                listen,
                certificate: base.join(certificate),
                key: base.join(key),
                client_ca: raw.listen.client_ca.map(|ca| base.join(ca)),
                post_quantum_only: raw.listen.post_quantum == PostQuantum::Require,
            }),
            _ => return Err("listen.tls, listen.certificate and listen.key go together".into()),
        };
        if tls.is_none() && raw.listen.plain.is_none() {
            return Err("[listen] names neither tls nor plain".into());
        }
        let mut names = BTreeMap::new();
        for device in raw.device {
            if !is_hash(&device.id) || device.name.is_empty() || device.name.len() > 200 {
                return Err(format!("[[device]] {:?} has no id of 64 hex digits, or no name", device.name));
            }
            if names.insert(device.id.clone(), device.name).is_some() {
                return Err(format!("[[device]] {} stands there twice", device.id));
            }
        }
        let leases = raw.lease.map(|lease| Leases {
            key: base.join(lease.key),
            seconds: u64::from(lease.seconds.unwrap_or(14_400).max(1)),
            only_fit: lease.only_fit,
            heartbeat_ms: lease.heartbeat_days.map(|days| i64::from(days.max(1)) * 86_400_000),
        });
        let limits = Limits {
            connections: raw.limits.connections.unwrap_or(12_000),
            per_peer: raw.limits.per_peer.unwrap_or(256),
            devices: raw.limits.devices.unwrap_or(10_000),
            orders: raw.limits.orders.unwrap_or(1000),
        };
        Ok(Self {
            authority: base.join(raw.authority),
            state: base.join(raw.state),
            plain: raw.listen.plain,
            tls,
            leases,
            limits,
            stale_ms: i64::from(raw.stale_seconds.unwrap_or(120).max(1)) * 1000,
            names,
            only_named: raw.only_named,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop where they cannot go on")]

    use super::*;

    const LEAST: &str = "authority = \"a\"\nstate = \"s\"\n";

    #[test]
    fn beyond_this_machine_there_is_tls_and_nothing_else() {
        let read = |more: &str| Config::parse(&format!("{LEAST}{more}"), Path::new("/etc"));
        let good = read("[listen]\nplain = \"127.0.0.1:1\"").unwrap();
        assert_eq!((good.authority, good.tls.is_none()), ("/etc/a".into(), true));
        let tls = "[listen]\ntls = \"[::]:1\"\ncertificate = \"c\"\nkey = \"k\"\n";
        assert!(!read(tls).unwrap().tls.unwrap().post_quantum_only);
        let strict =
            read(&format!("{tls}post_quantum = \"require\"\nclient_ca = \"d\"")).unwrap().tls.unwrap();
        assert!(strict.post_quantum_only && strict.client_ca == Some("/etc/d".into()));
        for bad in [
            "",
            "[listen]\nplain = \"0.0.0.0:1\"",
            "[listen]\ntls = \"[::]:1\"",
            "[listen]\nplain = \"127.0.0.1:1\"\nclient_ca = \"c\"",
            "[listen]\nplain = \"127.0.0.1:1\"\nother = 1",
            "[listen]\nplain = \"127.0.0.1:1\"\n[[device]]\nid = \"x\"\nname = \"n\"",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_example_is_a_configuration() {
        let text = include_str!("../../config/beacon.toml");
        let read = Config::parse(text, Path::new("/etc/claviger-beacon")).unwrap();
        assert!(read.tls.is_some() && read.leases.unwrap().heartbeat_ms.is_none());
    }
}
