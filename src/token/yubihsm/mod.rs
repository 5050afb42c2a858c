//! A YubiHSM 2 through crate `yubihsm`, behind Yubico's connector or on USB.
//!
//! The crate has faults that this room is built around: `relay` (answers in two segments, no timeouts, hidden error
//! codes), `device` (sessions that are lost for good, panics that repeat) and `channel` (logs that it cannot read,
//! sessions that it cannot close). It lives in a worker, with its deadlines outside, like a PKCS#11 module.
#![forbid(unsafe_code)]

mod channel;
mod device;
mod log;
mod objects;
mod proving;
mod relay;
mod session;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use yubihsm::authentication;

use self::device::{Device, ask_device};
use self::wire::Wire;
use super::audit::Handover;
use super::profile::{PinShape, Profile};
use super::{Description, Token, TokenError};
use crate::secret::Pin;
use session::YubihsmToken;

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

/// Whether this build knows a way to such a connector.
pub fn knows_way(connector: &str) -> Result<(), TokenError> {
    Wire::open(connector, Duration::from_secs(1)).map(drop)
}

/// What the device says when its log has no room.
const LOG_FULL: &str = "the YubiHSM's audit log is full";

/// Classes of the device's errors.
fn refusal(code: u8) -> TokenError {
    let refused = |why: &str| TokenError::Refused(format!("the YubiHSM says: {why}"));
    match code {
        0x01 => refused("unknown command"),
        0x02 => refused("invalid data"),
        0x03 | 0x06 => TokenError::Gone("the YubiHSM has lost our session".into()),
        0x04 => TokenError::Gone("the YubiHSM does not accept our session".into()),
        0x05 => TokenError::Busy,
        0x07 => refused("storage failed; it may be full"),
        0x08 => refused("wrong length"),
        0x09 => refused("insufficient permissions"),
        0x0a => TokenError::Refused(LOG_FULL.into()),
        0x0b => TokenError::Gone("the YubiHSM has no such object".into()),
        0x0c => refused("invalid object id"),
        0x10 => refused("demonstration mode"),
        0x11 => refused("an object with this id exists already"),
        0x12 => TokenError::Unsupported("the YubiHSM's algorithm is switched off".into()),
        other => refused(&format!("error {other:#04x}")),
    }
}

/// The authentication key that a PIN names, and its secret.
fn credentials(pin: &Pin) -> Result<(u16, authentication::Key), TokenError> {
    // [clause 8.2.5-c] a PIN that cannot be right is not sent
    PinShape::Hex4Password.accepts(pin.expose()).map_err(TokenError::Locked)?;
    let (id, password) = pin.expose().split_at(4);
    let id = std::str::from_utf8(id)
        .ok()
        .and_then(|digits| u16::from_str_radix(digits, 16).ok())
        .ok_or_else(|| TokenError::Locked("the PIN names no authentication key".into()))?;
    Ok((id, authentication::Key::derive_from_password(password)))
}

/// A device that was found and logged into.
pub struct Connection {
    device: Arc<Device>,
    description: Description,
}

/// Opens sessions under a [`Connection`]; may go to other threads.
#[derive(Clone)]
pub struct Opener {
    device: Arc<Device>,
    description: Description,
}

impl Connection {
    /// Finds the device, logs in, and reads its log up to now.
    pub fn open(place: &Place, profile: Profile, pin: &Pin, handover: Handover) -> Result<Self, TokenError> {
        profile.pin.accepts(pin.expose()).map_err(TokenError::Locked)?;
        let credentials = credentials(pin)?;
        let wire = Arc::new(Wire::open(&place.connector, Duration::from_millis(place.patience_ms))?);
        let told = ask_device(&wire)?;
        let number = |serial: &str| serial.trim_start_matches('0').to_owned();
        if let Some(wanted) = &place.serial
            && number(wanted) != number(&told.serial)
        {
            return Err(TokenError::Gone(format!("the connector has YubiHSM {}, not {wanted}", told.serial)));
        }
        let description = Description {
            profile: profile.name.clone(),
            manufacturer: "Yubico".into(),
            model: "YubiHSM 2".into(),
            serial: told.serial.clone(),
            label: place.connector.clone(),
            firmware: told.firmware,
        };
        let own_log = profile.own_log;
        let device = Arc::new(Device::open(wire, credentials, told.serial, Arc::new(profile))?);
        let connection = Self { device, description };
        if own_log {
            connection.device.begin_audit(handover)?;
        }
        Ok(connection)
    }

    /// Who it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Whether the device answers, is still the same, and lets us in.
    pub fn alive(&self) -> Result<(), TokenError> {
        self.device.alive()
    }

    /// What opens sessions elsewhere.
    #[must_use]
    pub fn opener(&self) -> Opener {
        Opener { device: Arc::clone(&self.device), description: self.description.clone() }
    }

    /// Closes what can be closed.
    pub fn close(&self) {
        self.device.close();
    }
}

impl Opener {
    /// A session for one thread.
    #[must_use]
    pub fn session(&self) -> Box<dyn Token> {
        Box::new(YubihsmToken { device: Arc::clone(&self.device), description: self.description.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.5-c] test
    #[test]
    fn a_pin_names_a_key_and_holds_its_password() {
        let pin = |text: &str| Pin::new(text.to_owned()).unwrap();
        let (id, key) = credentials(&pin("00a1password")).unwrap();
        assert_eq!(id, 0xa1);
        assert_eq!(key.as_secret_slice(), authentication::Key::default().as_secret_slice());
        for wrong in ["password", "0001", "00g1password", "+001password"] {
            assert!(matches!(credentials(&pin(wrong)), Err(TokenError::Locked(_))), "{wrong}");
        }
    }
}
