//! PKCS#11 tokens through cryptoki. One context a process, one session a thread, handles cached in the session.
//!
//! Never trusts an answer that means two things: "no such key" is believed only while the token itself answers.
//! Sessions are replaced after any unexpected error, and dropped before the module is finalized.
#![forbid(unsafe_code)]

mod backup;
mod data;
mod import;
mod inventory;
pub mod officer;
mod proving;
mod session;
mod template;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use serde::{Deserialize, Serialize};

use super::profile::Profile;
use super::{Description, TokenError};
use crate::secret::Pin;
use crate::sys;
pub use session::Pkcs11Token;

/// Which token, through which module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Module path.
    pub module: PathBuf,
    /// Label, when it must match.
    pub label: Option<String>,
    /// Serial, when it must match.
    pub serial: Option<String>,
    /// What goes into `pReserved` of `C_Initialize`.
    pub init: Option<String>,
}

/// Classes of errors (`research`: match on class, not on code).
fn class(error: &Error) -> TokenError {
    let text = error.to_string();
    let Error::Pkcs11(rv, _) = error else { return TokenError::Gone(text) };
    match rv {
        RvError::PinIncorrect
        | RvError::PinLocked
        | RvError::PinExpired
        | RvError::PinLenRange
        | RvError::PinInvalid => TokenError::Locked(text),
        RvError::KeyFunctionNotPermitted
        | RvError::ActionProhibited
        | RvError::AttributeReadOnly
        | RvError::AttributeSensitive
        | RvError::TemplateInconsistent
        | RvError::KeyUnextractable
        | RvError::KeyNotWrappable
        | RvError::KeyTypeInconsistent => TokenError::Refused(text),
        RvError::MechanismInvalid | RvError::FunctionNotSupported | RvError::CurveNotSupported => {
            TokenError::Unsupported(text)
        }
        RvError::SessionCount => TokenError::Busy,
        _ => TokenError::Gone(text),
    }
}

/// Told directly before a PIN is sent to a token; an error keeps it from being sent.
pub type BeforeLogin<'a> = &'a mut dyn FnMut() -> Result<(), TokenError>;

/// A loaded module. The module stays loaded for the life of the process; only its state is initialised again.
pub struct Module {
    context: Pkcs11,
    place: Place,
    profile: Arc<Profile>,
    mutation: Arc<Mutex<()>>,
}

/// A token that was found and logged into. Holds the session that keeps the login.
pub struct Connection {
    opener: Opener,
    anchor: Session,
}

/// Opens sessions under the login of a [`Connection`]; may go to other threads.
#[derive(Clone)]
pub struct Opener {
    context: Pkcs11,
    slot: Slot,
    description: Description,
    profile: Arc<Profile>,
    mutation: Arc<Mutex<()>>,
}

impl Module {
    /// Loads the module.
    pub fn load(place: Place, profile: Profile) -> Result<Self, TokenError> {
        let context = Pkcs11::new(&place.module)
            .map_err(|e| TokenError::Gone(format!("{}: {e}", place.module.display())))?;
        Ok(Self { context, place, profile: Arc::new(profile), mutation: Arc::default() })
    }

    fn initialize(&self) -> Result<(), TokenError> {
        let flags = CInitializeFlags::OS_LOCKING_OK;
        let arguments = match &self.place.init {
            None => CInitializeArgs::new(flags),
            Some(init) => sys::module_arguments(flags, init)
                .ok_or_else(|| TokenError::Unsupported("the profile's init holds a zero byte".into()))?,
        };
        match self.context.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
            Err(e) => {
                self.finalize();
                Err(TokenError::Gone(format!("the module does not start: {e}")))
            }
        }
    }

    /// Initialises the module, finds the token, logs in. On any failure the module is finalized again.
    pub fn connect(&self, pin: &Pin, before_login: BeforeLogin<'_>) -> Result<Connection, TokenError> {
        self.initialize()?;
        self.login(pin, before_login).inspect_err(|_| self.finalize())
    }

    /// Ends the module's state. Every session must have been dropped before.
    pub fn finalize(&self) {
        if let Err(e) = self.context.clone().finalize() {
            tracing::debug!("C_Finalize: {e}");
        }
    }

    fn find(&self) -> Result<(Slot, Description), TokenError> {
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for slot in self.context.get_slots_with_token().map_err(|e| TokenError::Gone(e.to_string()))? {
            let Ok(info) = self.context.get_token_info(slot) else { continue };
            let trim = |t: &str| t.trim_matches([' ', '\0']).to_owned();
            let description = Description {
                profile: self.profile.name.clone(),
                manufacturer: trim(info.manufacturer_id()),
                model: trim(info.model()),
                serial: trim(info.serial_number()),
                label: trim(info.label()),
                firmware: format!("{}.{}", info.firmware_version().major(), info.firmware_version().minor()),
            };
            let matches = self.place.label.as_ref().is_none_or(|l| *l == description.label)
                && self.place.serial.as_ref().is_none_or(|s| *s == description.serial);
            seen.push(format!("{:?} serial {}", description.label, description.serial));
            if matches && info.user_pin_initialized() {
                found.push((slot, description));
            }
        }
        match found.len() {
            1 => found.pop().ok_or(TokenError::Busy),
            0 => Err(TokenError::Gone(format!(
                "no token matches label {:?} serial {:?}; there are: {}",
                self.place.label,
                self.place.serial,
                if seen.is_empty() { "none".to_owned() } else { seen.join(", ") }
            ))),
            n => Err(TokenError::Gone(format!("{n} tokens match; name the serial in the configuration"))),
        }
    }

    fn login(&self, pin: &Pin, before_login: BeforeLogin<'_>) -> Result<Connection, TokenError> {
        let (slot, description) = self.find()?;
        let info = self.context.get_token_info(slot).map_err(|e| class(&e))?;
        // [clause 8.2.5-c] the last try is never spent by a machine
        if info.user_pin_locked() {
            return Err(TokenError::Locked("the token has locked its PIN".into()));
        }
        if info.user_pin_count_low() {
            tracing::warn!("the token counts wrong PINs since its last good login: somebody has tried");
        }
        if info.user_pin_final_try() {
            return Err(TokenError::Locked(
                "one try is left for the PIN; log in by hand with the right one first".into(),
            ));
        }
        self.profile.pin.accepts(pin.expose()).map_err(TokenError::Locked)?;
        let text = std::str::from_utf8(pin.expose())
            .map_err(|_| TokenError::Locked("the PIN is no UTF-8 text".into()))?;
        let anchor = self.context.open_rw_session(slot).map_err(|e| class(&e))?;
        let secret = AuthPin::from(text.to_owned());
        before_login()?;
        anchor.login(UserType::User, Some(&secret)).map_err(|e| class(&e))?;
        let opener = Opener {
            context: self.context.clone(),
            slot,
            description,
            profile: Arc::clone(&self.profile),
            mutation: Arc::clone(&self.mutation),
        };
        Ok(Connection { opener, anchor })
    }
}

impl Connection {
    /// Who it is.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.opener.description
    }

    /// Whether the token still answers and still holds its login.
    pub fn alive(&self) -> Result<(), TokenError> {
        let opener = &self.opener;
        opener.context.get_token_info(opener.slot).map_err(|e| TokenError::Gone(e.to_string()))?;
        self.anchor.get_session_info().map(|_| ()).map_err(|e| TokenError::Gone(e.to_string()))
    }

    /// A session for one thread.
    pub fn session(&self) -> Result<Pkcs11Token, TokenError> {
        self.opener.session()
    }

    /// What opens sessions elsewhere.
    #[must_use]
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }
}

impl Opener {
    /// A session for one thread.
    pub fn session(&self) -> Result<Pkcs11Token, TokenError> {
        let mut token = Pkcs11Token {
            context: self.context.clone(),
            slot: self.slot,
            description: self.description.clone(),
            session: None,
            handles: HashMap::new(),
            profile: Arc::clone(&self.profile),
            mutation: Arc::clone(&self.mutation),
        };
        token.session()?;
        Ok(token)
    }
}

/// The first module path that exists.
pub fn module_path(profile: &Profile, given: Option<PathBuf>) -> Result<PathBuf, TokenError> {
    let candidates: Vec<PathBuf> = given.map_or_else(|| profile.modules.clone(), |path| vec![path]);
    candidates.iter().find(|p| Path::exists(p)).cloned().ok_or_else(|| {
        let tried: Vec<String> = candidates.iter().map(|p| p.display().to_string()).collect();
        TokenError::Gone(format!("no PKCS#11 module at {}", tried.join(", ")))
    })
}
