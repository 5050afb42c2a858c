//! Orders: documents that people sign far away, that anybody carries, and that stop this device. [clause 8.2.1]
//!
//! Pure. The level of inactivation is a ratchet: an order raises it, whenever and however often it arrives; only a quorum
//! lowers it, over a fresh challenge of this device and for what it lifts, by name. Stopping is cheap and safe, starting
//! again is neither.
#![forbid(unsafe_code)]

pub mod document;
pub mod heartbeat;
pub mod incident;
pub mod judge;
pub mod lease;
pub mod pace;
pub mod reactivation;
pub mod receipt;
pub mod standing;
mod text;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::units::{Name, sha256};
use crate::refusal::{Code, Refusal};

pub use document::Order;
pub use heartbeat::Heartbeat;
pub use incident::{Evidence, Incident};
pub use judge::{LeaseTerms, OrderTerms};
pub use lease::{Lease, LeaseRequest};
pub use pace::{Asked, Pace};
pub use reactivation::Reactivation;
pub use receipt::Receipt;
pub use standing::{Effect, Heard, Held, NotHeard, Standing};

/// SSHSIG namespace of an order.
pub const ORDER: &str = "clavigerd-order@v1";
/// SSHSIG namespace of a reactivation.
pub const REACTIVATION: &str = "clavigerd-reactivation@v1";
/// SSHSIG namespace of a lease.
pub const LEASE: &str = "clavigerd-lease@v1";
/// SSHSIG namespace of a heartbeat.
pub const HEARTBEAT: &str = "clavigerd-heartbeat@v1";

/// How far something is stopped. Each includes the lower; absent, it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Nothing is signed.
    Suspend,
    /// Nor is the token open: logged out, its PIN dropped.
    Inactivate,
    /// Its keys are destroyed. There is no way back.
    Wipe,
}

impl Level {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Suspend, Self::Inactivate, Self::Wipe];

    /// The word in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Inactivate => "inactivate",
            Self::Wipe => "wipe",
        }
    }

    /// The inverse of [`Self::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.as_str() == text)
    }
}

/// What is stopped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The device.
    All,
    /// One app.
    App(Name),
    /// One wallet: a line of keys, whatever its generation.
    Key(Name),
}

impl Scope {
    /// `all`, `app:NAME`, `key:NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |name: &str| Name::parse(name).filter(|n| n.line() == *n);
        match text.split_once(':') {
            None => (text == "all").then_some(Self::All),
            Some(("app", name)) => plain(name).map(Self::App),
            Some(("key", name)) => plain(name).map(Self::Key),
            Some(_) => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::App(name) => write!(f, "app:{name}"),
            Self::Key(name) => write!(f, "key:{name}"),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Names a device: its deployment, and the key in its token that signs its log. A token that is put into another machine
/// stays the same device.
// [clause 8.2.1-b] an order for one device is none for another
#[must_use]
pub fn device_id(deployment: &str, log_key: &[u8]) -> String {
    let text = format!("clavigerd device v1\ndeployment: {deployment}\nlog key: {}\n", hex::encode(log_key));
    hex::encode(sha256(text.as_bytes()))
}

/// The refusal of what an order stopped.
#[must_use]
pub fn stopped(scope: &Scope, level: Level, order: &str) -> Refusal {
    let what = match scope {
        Scope::All => "this device is".to_owned(),
        Scope::App(app) => format!("app {app} is"),
        Scope::Key(key) => format!("key {key} is"),
    };
    let (code, word) = match level {
        Level::Suspend => (Code::Suspended, "suspended"),
        Level::Inactivate => (Code::Inactivated, "inactivated"),
        Level::Wipe => (Code::Wiped, "wiped"),
    };
    Refusal::new(code, format!("{what} {word} by order {order}"))
        .with(json!({"scope": scope, "level": level, "order": order}))
}

/// What stands against an app's use of a key, the worst of it.
#[must_use]
pub fn against(standing: &Standing, app: &Name, key: &Name) -> Option<Refusal> {
    if standing.held().is_empty() {
        return None;
    }
    let scopes = [Scope::All, Scope::App(app.clone()), Scope::Key(key.line())];
    let found = scopes.iter().filter_map(|s| standing.held().get(s).map(|held| (held.level, s, held)));
    found.max_by_key(|(level, ..)| *level).map(|(level, scope, held)| stopped(scope, level, &held.order))
}
