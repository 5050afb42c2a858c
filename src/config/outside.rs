//! Whom the daemon tells of its log: collectors, and witnesses.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::core::log::checkpoint::NoteKey;

/// A plain-HTTP address. TLS is spoken by a proxy beside the daemon, which needs no keys of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `HOST:PORT`.
    pub authority: String,
    /// Begins with `/`.
    pub path: String,
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// Reads `http://HOST:PORT/PATH`; the port may be absent.
    pub fn parse(what: &str, text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{what} = {text:?} {why}");
        if text.starts_with("https://") {
            return Err(wrong("asks for TLS, which the daemon does not speak: name a proxy on this machine"));
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| wrong("is no http://HOST:PORT/PATH"))?;
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
        let good = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '"' | '\\');
        if authority.is_empty() || !rest.chars().all(good) {
            return Err(wrong("is no http://HOST:PORT/PATH"));
        }
        let port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !port.ends_with(']') && port.parse::<u16>().is_ok_and(|p| p > 0)
        });
        let authority = if port { authority.to_owned() } else { format!("{authority}:80") };
        if authority.matches(':').count() > 1 && !authority.starts_with('[') {
            return Err(wrong("names a port that is none"));
        }
        Ok(Self { authority, path: format!("/{path}") })
    }
}

/// Where syslog lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTo {
    /// A datagram socket: `/dev/log`.
    Unix(PathBuf),
    /// A datagram each.
    Udp(String),
    /// Counted octets (RFC 6587).
    Tcp(String),
}

/// One place that gets every entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// A file of JSON lines.
    Jsonl {
        /// The file.
        file: PathBuf,
        /// It is put aside when it has grown past this, bytes.
        max_bytes: u64,
        /// How many that were put aside are kept.
        keep: u32,
    },
    /// RFC 5424.
    Syslog(SyslogTo),
    /// OTLP/HTTP, JSON.
    Otlp(Url),
}

impl Sink {
    /// Names its cursor, and its metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Jsonl { .. } => "jsonl",
            Self::Syslog(_) => "syslog",
            Self::Otlp(_) => "otlp",
        }
    }
}

/// A witness of the log's checkpoints.
#[derive(Clone, Debug)]
pub struct WitnessConfig {
    /// Submission prefix.
    pub url: Url,
    /// Its key.
    pub key: NoteKey,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct OutsideConfig {
    /// Sinks, each kind once.
    pub sinks: Vec<Sink>,
    /// So many entries behind is an alarm.
    pub lag_limit: u64,
    /// Witnesses.
    pub witnesses: Vec<WitnessConfig>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExport {
    jsonl: Option<RawJsonl>,
    syslog: Option<RawSyslog>,
    otlp: Option<RawOtlp>,
    lag_limit: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJsonl {
    file: PathBuf,
    max_bytes: Option<u64>,
    keep: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSyslog {
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOtlp {
    url: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWitness {
    url: String,
    key: String,
}

fn syslog(text: &str, base: &Path) -> Result<SyslogTo, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(SyslogTo::Unix(base.join(path)));
    }
    let place = |rest: &str| {
        let port = rest
            .rsplit_once(':')
            .is_some_and(|(h, p)| !h.is_empty() && p.parse::<u16>().is_ok_and(|p| p > 0));
        port.then(|| rest.to_owned())
    };
    let udp = text.strip_prefix("udp:").and_then(place).map(SyslogTo::Udp);
    let tcp = text.strip_prefix("tcp:").and_then(place).map(SyslogTo::Tcp);
    udp.or(tcp).ok_or_else(|| {
        let tls = if text.starts_with("tls:") { "; TLS is spoken by a relay on this machine" } else { "" };
        format!("export.syslog.to = {text:?} is none of unix:PATH, udp:HOST:PORT, tcp:HOST:PORT{tls}")
    })
}

pub(super) fn resolve(
    export: RawExport,
    witnesses: Vec<RawWitness>,
    base: &Path,
) -> Result<OutsideConfig, String> {
    let mut sinks = Vec::new();
    if let Some(raw) = export.jsonl {
        let max_bytes = raw.max_bytes.unwrap_or(64 << 20);
        if max_bytes < 128 << 10 {
            return Err(format!("export.jsonl.max_bytes = {max_bytes} is less than two long entries take"));
        }
        sinks.push(Sink::Jsonl {
            file: base.join(raw.file),
            max_bytes,
            keep: raw.keep.unwrap_or(10).min(1000),
        });
    }
    if let Some(raw) = export.syslog {
        sinks.push(Sink::Syslog(syslog(&raw.to, base)?));
    }
    if let Some(raw) = export.otlp {
        sinks.push(Sink::Otlp(Url::parse("export.otlp.url", &raw.url)?));
    }
    let witnesses = witnesses
        .into_iter()
        .map(|raw| {
            let key = NoteKey::parse(&raw.key).map_err(|e| format!("witness.key = {:?}: {e}", raw.key))?;
            if !key.is_witness() {
                return Err(format!("witness.key = {:?} is the key of a log, not of a witness", raw.key));
            }
            Ok(WitnessConfig { url: Url::parse("witness.url", raw.url.trim_end_matches('/'))?, key })
        })
        .collect::<Result<Vec<_>, String>>()?;
    for (n, witness) in witnesses.iter().enumerate() {
        if witnesses.iter().take(n).any(|other| other.key.name() == witness.key.name()) {
            return Err(format!("witness {} stands twice", witness.key.name()));
        }
    }
    Ok(OutsideConfig { sinks, lag_limit: export.lag_limit.unwrap_or(10_000).max(1), witnesses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_strictly() {
        for (text, authority, path) in [
            ("http://h:1/a/b", "h:1", "/a/b"),
            ("http://h", "h:80", "/"),
            ("http://[::1]:4318/v1/logs", "[::1]:4318", "/v1/logs"),
            ("http://[::1]/x", "[::1]:80", "/x"),
        ] {
            let url = Url::parse("x", text).unwrap();
            assert_eq!((url.authority.as_str(), url.path.as_str()), (authority, path));
        }
        for text in [
            "https://h/",
            "http://",
            "http://u@h/",
            "http://h:0/",
            "http://h/a b",
            "h:1",
            "http://h:1\r\nX: y/",
        ] {
            assert!(Url::parse("x", text).is_err(), "{text:?}");
        }
        assert!(Url::parse("x", "https://h/").unwrap_err().contains("proxy"));
    }

    #[test]
    fn sinks_and_witnesses_are_named_where_they_are_wrong() {
        let read = |text: &str| -> Result<OutsideConfig, String> {
            resolve(
                toml::from_str(text).map_err(|e: toml::de::Error| e.to_string())?,
                Vec::new(),
                Path::new("/b"),
            )
        };
        let good = "jsonl.file = \"x\"\nsyslog.to = \"tcp:h:514\"\notlp.url = \"http://h/v1/logs\"\n";
        let config = read(good).unwrap();
        assert_eq!(config.sinks.iter().map(Sink::name).collect::<Vec<_>>(), ["jsonl", "syslog", "otlp"]);
        for (text, word) in [
            ("syslog.to = \"tls:h:6514\"", "TLS"),
            ("syslog.to = \"tcp:h\"", "export.syslog.to"),
            ("otlp.url = \"https://h/\"", "export.otlp.url"),
            ("jsonl = { file = \"x\", max_bytes = 1 }", "max_bytes"),
            ("kafka.to = \"x\"", "kafka"),
        ] {
            assert!(read(text).unwrap_err().contains(word), "{text}");
        }
        let witness = |key: &str| {
            let raw = RawWitness { url: "http://h:1".into(), key: key.into() };
            resolve(RawExport::default(), vec![raw], Path::new("/")).map(drop)
        };
        let public = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
        assert_eq!(witness(&crate::core::log::checkpoint::witness_key("w", &public)), Ok(()));
        assert!(witness(&crate::core::log::checkpoint::verifier_key("w", &public)).is_err());
        assert!(witness("w").is_err());
    }
}
