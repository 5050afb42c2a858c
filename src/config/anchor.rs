//! Whether, and how often, the token is told how long the log is.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::Deserialize;

/// What becomes of a token that cannot hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AnchorMode {
    /// Used where the token has room for it; otherwise that is said.
    Auto,
    /// Nothing is signed without it.
    Required,
    /// Not used, and not asked for.
    None,
}

/// The anchor.
#[derive(Clone, Copy, Debug)]
pub struct AnchorConfig {
    /// Mode.
    pub mode: AnchorMode,
    /// It is written after so many entries,
    pub entries: u64,
    /// or after so long, when there are new ones.
    pub after: Duration,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnchor {
    mode: Option<String>,
    entries: Option<u64>,
    minutes: Option<u64>,
}

impl AnchorConfig {
    pub(super) fn resolve(raw: &RawAnchor) -> Result<Self, String> {
        let within = |name: &str, value: u64, high: u64| {
            if (1..=high).contains(&value) {
                Ok(value)
            } else {
                Err(format!("anchor.{name} = {value} is outside 1 to {high}"))
            }
        };
        Ok(Self {
            mode: match raw.mode.as_deref() {
                None | Some("auto") => AnchorMode::Auto,
                Some("required") => AnchorMode::Required,
                Some("none") => AnchorMode::None,
                Some(other) => {
                    return Err(format!("anchor.mode = {other:?} is none of auto, required, none"));
                }
            },
            entries: within("entries", raw.entries.unwrap_or(1000), 1_000_000)?,
            after: Duration::from_secs(60 * within("minutes", raw.minutes.unwrap_or(10), 1440)?),
        })
    }
}
