//! What the keeper drives, and what a configuration makes of it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use super::super::profile::{Kind, Profile};
use super::super::{TokenError, pkcs11, worker, yubihsm};

/// What the keeper drives.
pub enum Backend {
    /// Sealed files.
    Embedded {
        /// Their directory.
        dir: PathBuf,
        /// Profile.
        profile: Profile,
    },
    /// A PKCS#11 module.
    Pkcs11 {
        /// Which token.
        place: pkcs11::Place,
        /// Profile.
        profile: Profile,
        /// The executable that hosts the module in a process of its own; `None` loads it into this one.
        worker: Option<PathBuf>,
    },
    /// A YubiHSM 2.
    Yubihsm {
        /// `http://HOST:PORT` of its connector, or `usb`.
        connector: String,
        /// Serial, when it must match.
        serial: Option<String>,
        /// Profile.
        profile: Profile,
        /// The executable that hosts the way to it in a process of its own.
        worker: PathBuf,
    },
}

/// Where a token is, as the configuration says it. What a kind of token does not need is left out.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// PKCS#11 module, in place of the profile's.
    pub module: Option<PathBuf>,
    /// Label, when it must match.
    pub label: Option<String>,
    /// Serial, when it must match.
    pub serial: Option<String>,
    /// Directory of the embedded token.
    pub directory: Option<PathBuf>,
    /// Connector of a YubiHSM.
    pub connector: Option<String>,
}

impl Backend {
    /// Its profile.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        match self {
            Self::Embedded { profile, .. } | Self::Pkcs11 { profile, .. } | Self::Yubihsm { profile, .. } => {
                profile
            }
        }
    }

    /// What a configuration stands for.
    pub fn resolve(
        profile: Profile,
        place: Whereabouts,
        worker: Option<PathBuf>,
    ) -> Result<Self, TokenError> {
        let lacking = |what: &str| TokenError::Unsupported(what.to_owned());
        let Whereabouts { module, label, serial, directory, connector } = place;
        match profile.kind {
            Kind::Embedded => {
                let dir = directory.ok_or_else(|| lacking("the embedded token needs token.directory"))?;
                Ok(Self::Embedded { dir, profile })
            }
            Kind::Yubihsm => {
                let connector = connector.ok_or_else(|| {
                    lacking("a YubiHSM needs token.connector, such as \"http://127.0.0.1:12345\"")
                })?;
                yubihsm::knows_way(&connector)?;
                let worker = worker.ok_or_else(|| {
                    lacking("a YubiHSM is driven from a worker only: take token.in_process out")
                })?;
                Ok(Self::Yubihsm { connector, serial, profile, worker })
            }
            Kind::Pkcs11 => {
                let module = pkcs11::module_path(&profile, module)?;
                let init = match (&profile.init, directory) {
                    (None, _) => None,
                    (Some(init), Some(dir)) => Some(init.replace("{directory}", &dir.to_string_lossy())),
                    (Some(init), None) if init.contains("{directory}") => {
                        return Err(lacking(&format!("profile {} needs token.directory", profile.name)));
                    }
                    (Some(init), None) => Some(init.clone()),
                };
                Ok(Self::Pkcs11 { place: pkcs11::Place { module, label, serial, init }, profile, worker })
            }
        }
    }

    /// What a worker is told, for a call that may take `patience`, with the serial of the token that is `known` to be
    /// ours: one of the same name gets no PIN. `None` when there is no worker.
    pub(super) fn hosted(
        &self,
        patience: Duration,
        known: Option<String>,
    ) -> Option<(&PathBuf, worker::Place, &Profile)> {
        match self {
            Self::Pkcs11 { place, profile, worker: Some(worker) } => {
                let serial = known.or_else(|| place.serial.clone());
                let place = pkcs11::Place { serial, ..place.clone() };
                Some((worker, worker::Place::Pkcs11(place), profile))
            }
            Self::Yubihsm { connector, serial, profile, worker } => {
                // An exchange that is lost leaves time for a login and a second try.
                let patience_ms = u64::try_from(patience.as_millis() / 4).unwrap_or(u64::MAX).max(50);
                let serial = known.or_else(|| serial.clone());
                let place = yubihsm::Place { connector: connector.clone(), serial, patience_ms };
                Some((worker, worker::Place::Yubihsm(place), profile))
            }
            Self::Embedded { .. } | Self::Pkcs11 { worker: None, .. } => None,
        }
    }
}
