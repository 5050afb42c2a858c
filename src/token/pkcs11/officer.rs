//! The security officer: the only one who makes a key trusted (PKCS#11 3.0, 4.7), beside the daemon's own login. [clause 8.2.2]
#![forbid(unsafe_code)]

use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use super::super::TokenError;
use super::super::profile::Profile;
use super::{Module, Place, class};
use crate::core::key::KeyRef;
use crate::secret::Pin;

/// Puts a wrapping key into the token that is trusted, wraps, and does nothing else.
///
/// It is no private object, since an officer sees none; that it is sensitive and does not leave holds all the same. Loads
/// the module into this process, for a command that ends after it.
pub fn take(
    place: Place,
    profile: Profile,
    pin: &Pin,
    reference: KeyRef,
    key: &[u8; 32],
) -> Result<(), TokenError> {
    let module = Module::load(place, profile)?;
    let outcome = module.as_officer(pin, |session| {
        let mut template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Trusted(true),
            Attribute::Wrap(true),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Derive(false),
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
            Attribute::Id(reference.as_bytes().to_vec()),
            Attribute::Label(b"claviger-wrap".to_vec()),
            Attribute::Value(key.to_vec()),
        ];
        let outcome = session.create_object(&template).map(drop).map_err(|e| class(&e));
        super::backup::wipe(&mut template);
        outcome
    });
    module.finalize();
    outcome
}

impl Module {
    /// Does something under the officer's login. The PIN is sent once.
    fn as_officer(
        &self,
        pin: &Pin,
        run: impl FnOnce(&cryptoki::session::Session) -> Result<(), TokenError>,
    ) -> Result<(), TokenError> {
        self.initialize()?;
        let (slot, _) = self.find()?;
        let text = std::str::from_utf8(pin.expose())
            .map_err(|_| TokenError::Locked("the PIN is no UTF-8 text".into()))?;
        let session = self.context.open_rw_session(slot).map_err(|e| class(&e))?;
        session.login(UserType::So, Some(&AuthPin::from(text.to_owned()))).map_err(|e| class(&e))?;
        let outcome = run(&session);
        if let Err(e) = session.logout() {
            tracing::debug!("C_Logout: {e}");
        }
        outcome
    }
}
