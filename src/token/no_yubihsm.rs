//! Stands for the YubiHSM 2 in a build without the feature `yubihsm`: refuses.
#![forbid(unsafe_code)]

use std::convert::Infallible;

use serde::{Deserialize, Serialize};

use super::audit::Handover;
use super::profile::Profile;
use super::{Description, Token, TokenError};
use crate::secret::Pin;

/// Which device, and the way to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// `http://HOST:PORT` of `yubihsm-connector`, or `usb`.
    pub connector: String,
    /// Serial, when it must match.
    pub serial: Option<String>,
    /// Deadline of one exchange of frames, milliseconds.
    pub patience_ms: u64,
}

fn none<T>() -> Result<T, TokenError> {
    Err(TokenError::Unsupported("this build drives no YubiHSM (feature yubihsm)".into()))
}

/// Refuses.
pub fn knows_way(_: &str) -> Result<(), TokenError> {
    none()
}

/// There is none.
pub struct Connection(Infallible);

/// There is none.
pub struct Opener(Infallible);

impl Connection {
    /// Refuses.
    pub fn open(_: &Place, _: Profile, _: &Pin, _: Handover) -> Result<Self, TokenError> {
        none()
    }

    /// Never called.
    #[must_use]
    pub fn description(&self) -> &Description {
        match self.0 {}
    }

    /// Never called.
    pub fn alive(&self) -> Result<(), TokenError> {
        match self.0 {}
    }

    /// Never called.
    #[must_use]
    pub fn opener(&self) -> Opener {
        match self.0 {}
    }

    /// Never called.
    pub fn close(&self) {
        match self.0 {}
    }
}

impl Opener {
    /// Never called.
    #[must_use]
    pub fn session(&self) -> Box<dyn Token> {
        match self.0 {}
    }
}
