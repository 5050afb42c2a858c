//! The daemon's configuration: raw TOML to a resolved, frozen value. Read once; reload builds a new one.
//!
//! Unknown keys are refused. Relative paths are taken from the directory of the file. Holds no secret: the PIN is
//! named by where it comes from.
#![forbid(unsafe_code)]

mod address;
mod anchor;
mod apps;
mod backup;
mod device;
mod orders;
mod outside;
mod pin;
mod token;

pub use device::DeviceConfig;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::wire::frame::Limits;
pub use anchor::{AnchorConfig, AnchorMode};
pub use apps::AppsConfig;
pub use backup::{BackupConfig, VaultConfig};
pub use orders::{Beacon, LatchPlace, OrdersConfig};
pub use outside::{OutsideConfig, Sink, SyslogTo, Url, WitnessConfig};
pub use pin::{DEFAULT_TCTI, PinSource};
use token::RawToken;
pub use token::TokenConfig;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file says something wrong.
    #[error("{path}: {why}")]
    Value {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Where a listener stands.
#[derive(Clone, Debug)]
pub struct SocketConfig {
    /// Path of the Unix socket.
    pub path: PathBuf,
    /// File mode, octal.
    pub mode: u32,
    /// Group id of the file, when set.
    pub group: Option<u32>,
}

/// Where metrics are served.
#[derive(Clone, Debug)]
pub enum MetricsListen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Loopback(std::net::SocketAddr),
}

/// Log lines on standard error.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// JSON lines in place of text.
    pub json: bool,
    /// Least level.
    pub level: tracing::Level,
    /// Origin line of the checkpoints: names this log among all logs (C2SP tlog-checkpoint).
    pub origin: String,
}

/// Bounds on strangers.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// Of one message.
    pub frame: Limits,
    /// Requests of one batch.
    pub batch: usize,
    /// Requests in flight on one connection; reading stops there.
    pub in_flight: usize,
    /// Requests in flight on all connections; above it `busy`.
    pub in_flight_total: usize,
    /// Connections.
    pub connections: usize,
    /// Time for the rest of a begun message, and for a reader to take a reply.
    pub stall: Duration,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// State directory.
    pub state_dir: PathBuf,
    /// Allows a state directory that does not survive power loss.
    pub allow_volatile: bool,
    /// For apps.
    pub wallet: SocketConfig,
    /// For operators.
    pub operator: SocketConfig,
    /// Users that may operate.
    pub operator_uids: Vec<u32>,
    /// For the people whose keys they are; only where there are any.
    pub user: Option<SocketConfig>,
    /// The token.
    pub token: TokenConfig,
    /// Backups of payment keys; none when absent.
    pub backup: Option<BackupConfig>,
    /// Policy file.
    pub policy_file: PathBuf,
    /// App file.
    pub apps_file: PathBuf,
    /// Manifests beside it, and whether they must be signed.
    pub apps: AppsConfig,
    /// Security policy of keys; the built-in one when absent.
    pub keys_file: Option<PathBuf>,
    /// The people who approve; nobody when absent.
    pub authority_file: Option<PathBuf>,
    /// Ways of orders, and the latch.
    pub orders: OrdersConfig,
    /// The users of keys; nobody when absent.
    pub users_file: Option<PathBuf>,
    /// Log lines.
    pub log: LogConfig,
    /// The anchor of the log in the token.
    pub anchor: AnchorConfig,
    /// Metrics.
    pub metrics: Option<MetricsListen>,
    /// Whom the daemon tells of its log.
    pub outside: OutsideConfig,
    /// Bounds.
    pub limits: LimitsConfig,
    /// What is demanded of the machine.
    pub device: DeviceConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state_dir: PathBuf,
    #[serde(default)]
    allow_volatile_state: bool,
    wallet: RawSocket,
    operator: RawOperator,
    user: Option<RawSocket>,
    token: RawToken,
    backup: Option<backup::RawBackup>,
    #[serde(default = "default_policy")]
    policy_file: PathBuf,
    #[serde(default = "default_apps")]
    apps_file: PathBuf,
    #[serde(default)]
    apps: apps::RawApps,
    keys_file: Option<PathBuf>,
    authority_file: Option<PathBuf>,
    users_file: Option<PathBuf>,
    #[serde(default)]
    orders: orders::RawOrders,
    #[serde(default)]
    log: RawLog,
    #[serde(default)]
    anchor: anchor::RawAnchor,
    metrics: Option<RawMetrics>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    device: device::RawDevice,
    #[serde(default)]
    export: outside::RawExport,
    #[serde(default)]
    witness: Vec<outside::RawWitness>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSocket {
    socket: PathBuf,
    mode: Option<String>,
    group: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOperator {
    socket: PathBuf,
    mode: Option<String>,
    group: Option<u32>,
    uids: Vec<u32>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLog {
    format: Option<String>,
    level: Option<String>,
    origin: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMetrics {
    listen: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    message_bytes: Option<usize>,
    depth: Option<usize>,
    batch: Option<usize>,
    in_flight: Option<usize>,
    in_flight_total: Option<usize>,
    connections: Option<usize>,
    stall_seconds: Option<u64>,
}

fn default_policy() -> PathBuf {
    "policy.toml".into()
}

fn default_apps() -> PathBuf {
    "apps.toml".into()
}

/// Longest configuration, policy or app file, bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Reads a text file with a bound.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    use std::io::Read;
    let read = |source| ConfigError::Read { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(read)?;
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(ConfigError::Value {
            path: path.into(),
            why: format!("is larger than {MAX_FILE} bytes"),
        });
    }
    Ok(text)
}

fn within(name: &str, value: usize, low: usize, high: usize) -> Result<usize, String> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{name} = {value} is outside {low} to {high}"))
    }
}

impl Config {
    /// Reads and resolves the file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_text(file)?;
        Self::parse(file, &text).map_err(|why| ConfigError::Value { path: file.into(), why })
    }

    fn parse(file: &Path, text: &str) -> Result<Self, String> {
        let raw: Raw = toml::from_str(text).map_err(|e| e.to_string())?;
        let file = std::path::absolute(file).map_err(|e| e.to_string())?;
        let base = file.parent().unwrap_or(Path::new("/")).to_path_buf();
        let at = |p: PathBuf| base.join(p);
        let mode = |text: Option<String>, default: u32| match text {
            None => Ok(default),
            Some(t) => u32::from_str_radix(&t, 8)
                .ok()
                .filter(|m| *m <= 0o777)
                .ok_or_else(|| format!("mode {t:?} is no octal file mode such as \"0660\"")),
        };
        let level = raw.log.level.as_deref().unwrap_or("info");
        let defaults = Limits::default();
        let state_dir = at(raw.state_dir);
        if raw.users_file.is_some() && raw.user.is_none() {
            return Err("users_file needs [user] socket = \"…\": users open their sessions there".into());
        }
        Ok(Self {
            orders: OrdersConfig::resolve(&base, &state_dir, raw.orders)?,
            state_dir,
            allow_volatile: raw.allow_volatile_state,
            wallet: SocketConfig {
                path: at(raw.wallet.socket),
                mode: mode(raw.wallet.mode, 0o660)?,
                group: raw.wallet.group,
            },
            operator: SocketConfig {
                path: at(raw.operator.socket),
                mode: mode(raw.operator.mode, 0o600)?,
                group: raw.operator.group,
            },
            operator_uids: raw.operator.uids,
            user: match raw.user {
                None => None,
                // Whoever opens it is known by the kernel's uid; what they may do there is with their PIN.
                Some(user) => Some(SocketConfig {
                    path: at(user.socket),
                    mode: mode(user.mode, 0o666)?,
                    group: user.group,
                }),
            },
            token: raw.token.resolve(&base, "token")?,
            backup: raw.backup.map(|b| b.resolve(&base)).transpose()?,
            policy_file: at(raw.policy_file),
            device: raw.device.resolve()?,
            apps: raw.apps.resolve(&base)?,
            apps_file: at(raw.apps_file),
            keys_file: raw.keys_file.map(at),
            authority_file: raw.authority_file.map(at),
            users_file: raw.users_file.map(at),
            log: LogConfig {
                json: match raw.log.format.as_deref() {
                    None | Some("text") => false,
                    Some("json") => true,
                    Some(other) => return Err(format!("log.format = {other:?} is neither text nor json")),
                },
                level: level.parse().map_err(|_| {
                    format!("log.level = {level:?} is none of error, warn, info, debug, trace")
                })?,
                origin: match raw.log.origin {
                    None => "claviger.local/log".into(),
                    Some(o) if o.is_ascii() && !o.is_empty() && !o.contains([' ', '+', '\n']) => o,
                    Some(o) => return Err(format!("log.origin = {o:?} must be ASCII without space or plus")),
                },
            },
            anchor: AnchorConfig::resolve(&raw.anchor)?,
            metrics: match raw.metrics {
                None => None,
                Some(m) => Some(address::metrics_listen(&m.listen, &base)?),
            },
            outside: outside::resolve(raw.export, raw.witness, &base)?,
            limits: LimitsConfig {
                frame: Limits {
                    max_bytes: within(
                        "limits.message_bytes",
                        raw.limits.message_bytes.unwrap_or(defaults.max_bytes),
                        1024,
                        16 << 20,
                    )?,
                    max_depth: within(
                        "limits.depth",
                        raw.limits.depth.unwrap_or(defaults.max_depth),
                        4,
                        100,
                    )?,
                },
                batch: within("limits.batch", raw.limits.batch.unwrap_or(64), 1, 1024)?,
                in_flight: within("limits.in_flight", raw.limits.in_flight.unwrap_or(64), 1, 4096)?,
                in_flight_total: within(
                    "limits.in_flight_total",
                    raw.limits.in_flight_total.unwrap_or(1024),
                    1,
                    65_536,
                )?,
                connections: within("limits.connections", raw.limits.connections.unwrap_or(256), 1, 65_536)?,
                stall: Duration::from_secs(raw.limits.stall_seconds.unwrap_or(30).clamp(1, 3600)),
            },
            file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "state_dir = \"state\"\n[wallet]\nsocket = \"w.sock\"\n[operator]\nsocket = \"o.sock\"\nuids = [0]\n[token]\nprofile = \"embedded\"\n";

    #[test]
    fn paths_are_taken_from_the_files_directory() {
        let config = Config::parse(Path::new("/etc/claviger/c.toml"), GOOD).unwrap();
        assert_eq!(config.state_dir, Path::new("/etc/claviger/state"));
        assert_eq!(config.wallet.mode, 0o660);
        assert_eq!(config.operator.mode, 0o600);
    }

    #[test]
    fn the_shipped_example_is_read() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/clavigerd.toml");
        Config::load(&file).expect("config/clavigerd.toml");
    }

    #[test]
    fn wrong_values_are_named() {
        for (add, word) in [
            ("surprise = 1\n", "surprise"),
            ("[limits]\nbatch = 0\n", "limits.batch"),
            ("[metrics]\nlisten = \"0.0.0.0:9000\"\n", "loopback"),
            ("[log]\nformat = \"xml\"\n", "log.format"),
            ("[anchor]\nmode = \"some\"\n", "anchor.mode"),
            ("[apps]\nsigned = \"some\"\n", "apps.signed"),
            ("[anchor]\nentries = 0\n", "anchor.entries"),
            ("connector = \"https://127.0.0.1:12345\"\n", "token.connector"),
            ("connector = \"http://127.0.0.1\"\n", "token.connector"),
            ("connector = \"usb:x\"\n", "token.connector"),
            ("[orders]\nlatch = \"disk\"\n", "orders.latch"),
            ("[orders]\nurl = \"http://beacon.example\"\n", "orders.url"),
            ("[orders]\nurl = \"http://127.0.0.1.example\"\n", "orders.url"),
            ("[orders]\nurl = \"https://beacon.example\"\n", "orders."),
            ("users_file = \"users.toml\"\n", "[user]"),
        ] {
            let text =
                if add.starts_with(['[', 'c']) { format!("{GOOD}{add}") } else { format!("{add}{GOOD}") };
            let why = Config::parse(Path::new("/c.toml"), &text).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
        assert!(
            Config::parse(Path::new("/c.toml"), &GOOD.replace("[wallet]", "[wallet]\nmode = \"999\""))
                .is_err()
        );
    }

    #[test]
    fn a_sealed_pin_needs_a_build_that_knows_a_tpm() {
        let text = format!("{GOOD}pin_tpm = {{ file = \"pin.sealed\" }}\n");
        let parsed = Config::parse(Path::new("/etc/claviger/c.toml"), &text);
        if cfg!(feature = "tpm") {
            let PinSource::Tpm { file, tcti } = parsed.unwrap().token.pin else { panic!("another source") };
            assert_eq!(
                (file.as_path(), tcti.as_str()),
                (Path::new("/etc/claviger/pin.sealed"), DEFAULT_TCTI)
            );
        } else {
            assert!(parsed.unwrap_err().contains("--features tpm"));
        }
        let both = format!("{text}pin_file = \"pin\"\n");
        assert!(Config::parse(Path::new("/c.toml"), &both).unwrap_err().contains("name one of"));
    }
}
