//! One thread's session with a PKCS#11 token: makes, finds, uses and destroys keys.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use zeroize::Zeroizing;

use super::super::backup::{Ask, Made};
use super::super::check::CheckRow;
use super::super::profile::Profile;
use super::super::{
    CHECK_INPUT, CHECK_NONCE, Description, KeySpec, Nonce, Object, Past, RawSignature, Token, TokenError,
    Use, check_value,
};
use super::template::{Making, curve_of, making, raw_point};
use super::{class, data, inventory};
use crate::core::key::{Algorithm, KeyRef, PublicKey};
use crate::core::payment::ToSign;
use crate::core::units::sha256;
use crate::secret::SecretBytes;

/// The whole tag of AES-GCM.
const TAG_BITS: u64 = 128;

/// One thread's session.
pub struct Pkcs11Token {
    pub(super) context: Pkcs11,
    pub(super) slot: Slot,
    pub(super) description: Description,
    pub(super) session: Option<Session>,
    pub(super) handles: HashMap<KeyRef, ObjectHandle>,
    pub(super) profile: Arc<Profile>,
    pub(super) mutation: Arc<Mutex<()>>,
}

impl Pkcs11Token {
    pub(super) fn session(&mut self) -> Result<&Session, TokenError> {
        if self.session.is_none() {
            let opened = if self.profile.read_write_sessions {
                self.context.open_rw_session(self.slot)
            } else {
                self.context.open_ro_session(self.slot)
            };
            self.session = Some(opened.map_err(|e| class(&e))?);
        }
        self.session.as_ref().ok_or(TokenError::Busy)
    }

    /// A session after an unexpected error may hold a stuck operation: it is closed, and its handles forgotten.
    pub(super) fn renew(&mut self) {
        self.session = None;
        self.handles.clear();
    }

    fn present(&self) -> Result<(), TokenError> {
        self.context
            .get_token_info(self.slot)
            .map(|_| ())
            .map_err(|e| TokenError::Gone(format!("the token does not answer: {e}")))
    }

    pub(super) fn handle(&mut self, reference: KeyRef) -> Result<Option<ObjectHandle>, TokenError> {
        if let Some(handle) = self.handles.get(&reference) {
            return Ok(Some(*handle));
        }
        let session = self.session()?;
        let mut found = Vec::new();
        for kind in [ObjectClass::PRIVATE_KEY, ObjectClass::SECRET_KEY] {
            let template = [Attribute::Class(kind), Attribute::Id(reference.as_bytes().to_vec())];
            found.extend(session.find_objects(&template).map_err(|e| class(&e))?);
            if !found.is_empty() {
                break;
            }
        }
        match found.as_slice() {
            [handle] => {
                self.handles.insert(reference, *handle);
                Ok(Some(*handle))
            }
            // A token that has vanished also says "none": ask whether it is there before believing it.
            [] => self.present().map(|()| None),
            more => Err(TokenError::Corrupt(format!("{} keys have the id {reference}", more.len()))),
        }
    }

    /// Does something with a key; once more on a fresh session when this one, or the handle, turns out to be stale.
    /// Everything that a key does here may be done twice without harm.
    pub(super) fn using<T>(
        &mut self,
        reference: KeyRef,
        run: impl Fn(&Session, ObjectHandle) -> Result<T, cryptoki::error::Error>,
    ) -> Result<T, TokenError> {
        let mut outcome = self.once(reference, &run);
        if let Err(TokenError::Gone(why)) = &outcome {
            tracing::debug!("once more on a fresh session after: {why}");
            self.renew();
            self.present()?;
            outcome = self.once(reference, &run);
        }
        if outcome.is_err() {
            self.renew();
        }
        outcome
    }

    fn once<T>(
        &mut self,
        reference: KeyRef,
        run: &impl Fn(&Session, ObjectHandle) -> Result<T, cryptoki::error::Error>,
    ) -> Result<T, TokenError> {
        let handle = self
            .handle(reference)?
            .ok_or_else(|| TokenError::Gone(format!("the key {reference} is not in the token")))?;
        run(self.session()?, handle).map_err(|e| class(&e))
    }

    pub(super) fn public(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        let template =
            [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(reference.as_bytes().to_vec())];
        let session = self.session()?;
        let found = session.find_objects(&template).map_err(|e| class(&e))?;
        let [handle] = found.as_slice() else {
            return match found.len() {
                0 => self.present().map(|()| None),
                n => Err(TokenError::Corrupt(format!("{n} public keys have the id {reference}"))),
            };
        };
        let attributes = session
            .get_attributes(*handle, &[AttributeType::EcParams, AttributeType::EcPoint])
            .map_err(|e| class(&e))?;
        let (mut params, mut point) = (None, None);
        for attribute in attributes {
            match attribute {
                Attribute::EcParams(bytes) => params = Some(bytes),
                Attribute::EcPoint(bytes) => point = Some(bytes),
                _ => {}
            }
        }
        let (Some(params), Some(point)) = (params, point) else {
            return Err(TokenError::Corrupt("a public key has no CKA_EC_PARAMS or CKA_EC_POINT".into()));
        };
        let algorithm = curve_of(&params)
            .ok_or_else(|| TokenError::Corrupt("a public key is on an unknown curve".into()))?;
        raw_point(algorithm, &point)
            .and_then(|raw| PublicKey::from_bytes(algorithm, raw))
            .map(Some)
            .ok_or_else(|| TokenError::Corrupt("CKA_EC_POINT is no point".into()))
    }

    /// What a secret key makes of a known input stands for it.
    pub(super) fn secret(&mut self, reference: KeyRef) -> Result<PublicKey, TokenError> {
        let wanted =
            [AttributeType::KeyType, AttributeType::Encrypt, AttributeType::Sign, AttributeType::Wrap];
        let told = self.using(reference, |session, handle| session.get_attributes(handle, &wanted))?;
        let is = |a: Attribute| told.contains(&a);
        let aes = is(Attribute::KeyType(KeyType::AES));
        let flags = [Attribute::Encrypt(true), Attribute::Sign(true), Attribute::Wrap(true)]
            .map(|a| told.contains(&a));
        match (aes, flags) {
            (true, [true, false, false]) => {
                let made = self.encrypt(reference, CHECK_NONCE, CHECK_INPUT, &[])?;
                Ok(check_value(Algorithm::Aes256Gcm, &made))
            }
            (false, [false, true, false]) => {
                let made = self.mac(reference, CHECK_INPUT)?;
                Ok(check_value(Algorithm::HmacSha256, &made))
            }
            (true, [false, false, true]) => {
                let made = self.wrap_known(reference)?;
                Ok(check_value(Algorithm::Aes256Kw, &made))
            }
            _ => {
                Err(TokenError::Corrupt(format!("the key {reference} is for more than one thing: {told:?}")))
            }
        }
    }

    /// Wraps a key that everybody knows: RFC 3394 makes the same of it each time.
    pub(super) fn wrap_known(&mut self, reference: KeyRef) -> Result<Vec<u8>, TokenError> {
        let known = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::Value(sha256(CHECK_INPUT).to_vec()),
        ];
        let mutation = Arc::clone(&self.mutation);
        self.using(reference, |session, handle| {
            let _one_at_a_time = mutation.lock().unwrap_or_else(PoisonError::into_inner);
            let object = session.create_object(&known)?;
            let wrapped = session.wrap_key(&Mechanism::AesKeyWrap, handle, object);
            session.destroy_object(object)?;
            wrapped
        })
    }

    pub(super) fn make(&mut self, spec: &KeySpec, wanted: Option<Use>) -> Result<(), TokenError> {
        let _one_at_a_time = self.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        match making(spec, &self.profile, wanted) {
            Making::Pair(mechanism, public, private) => {
                writer.generate_key_pair(&mechanism, &public, &private).map(|_| ())
            }
            Making::Secret(mechanism, secret) => writer.generate_key(&mechanism, &secret).map(|_| ()),
        }
        .map_err(|e| class(&e))
    }

    /// Removes whatever has this id; tells whether anything is left.
    pub(super) fn sweep(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        self.handles.remove(&reference);
        let _one_at_a_time = self.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        let template = [Attribute::Id(reference.as_bytes().to_vec())];
        for handle in writer.find_objects(&template).map_err(|e| class(&e))? {
            writer.destroy_object(handle).map_err(|e| class(&e))?;
        }
        if writer.find_objects(&template).map_err(|e| class(&e))?.is_empty() {
            self.present()
        } else {
            Err(TokenError::Corrupt(format!("objects with the id {reference} are still there")))
        }
    }

    pub(super) fn prove_protected(&mut self, reference: KeyRef, made_inside: bool) -> Result<(), TokenError> {
        let handle =
            self.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the new key is not there".into()))?;
        let wanted = [
            AttributeType::Sensitive,
            AttributeType::Extractable,
            AttributeType::AlwaysSensitive,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ];
        let told = self.session()?.get_attributes(handle, &wanted).map_err(|e| class(&e))?;
        // An attribute that is absent is unproven, and unproven is not true.
        let proved = !made_inside
            || [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true), Attribute::Local(true)]
                .iter()
                .all(|a| told.contains(a));
        if told.contains(&Attribute::Sensitive(true))
            && told.contains(&Attribute::Extractable(false))
            && proved
        {
            Ok(())
        } else {
            Err(TokenError::Refused(format!("the token does not protect what it makes: {told:?}")))
        }
    }
}

impl Token for Pkcs11Token {
    fn describe(&mut self) -> Result<Description, TokenError> {
        Ok(self.description.clone())
    }

    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError> {
        let outcome = self.make(spec, Some(Use::of(spec.algorithm))).and_then(|()| {
            self.prove_protected(spec.reference, self.profile.claims.made_inside)?;
            if !spec.algorithm.is_pair() {
                return self.secret(spec.reference);
            }
            self.public(spec.reference)?
                .ok_or_else(|| TokenError::Corrupt("the new public key is not there".into()))
        });
        if outcome.is_err()
            && let Err(e) = self.sweep(spec.reference)
        {
            tracing::warn!("leftovers of a failed generation may be in the token: {e}");
        }
        outcome
    }

    fn find(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        // Another session may have destroyed it since.
        self.handles.remove(&reference);
        match self.handle(reference)? {
            None => Ok(None),
            // A secret key has no public object.
            Some(_) => match self.public(reference)? {
                Some(public) => Ok(Some(public)),
                None => self.secret(reference).map(Some),
            },
        }
    }

    fn sign(
        &mut self,
        reference: KeyRef,
        algorithm: Algorithm,
        to_sign: &ToSign,
    ) -> Result<RawSignature, TokenError> {
        let mechanism = match (algorithm, to_sign) {
            (Algorithm::Secp256k1 | Algorithm::P256, ToSign::Prehash(_)) => Mechanism::Ecdsa,
            (Algorithm::Ed25519, ToSign::Message(_)) => {
                Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519))
            }
            _ => return Err(TokenError::Unsupported("this key does not sign this kind of input".into())),
        };
        let data = to_sign.as_bytes();
        self.using(reference, |session, handle| session.sign(&mechanism, handle, data))?
            .try_into()
            .map_err(|s: Vec<u8>| TokenError::Corrupt(format!("a signature of {} bytes", s.len())))
    }

    fn encrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        self.using(reference, |session, handle| {
            let mut nonce = nonce;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, aad, TAG_BITS.into())?);
            session.encrypt(&mechanism, handle, plain)
        })
    }

    fn decrypt(
        &mut self,
        reference: KeyRef,
        nonce: Nonce,
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let outcome = self.using(reference, |session, handle| {
            let mut nonce = nonce;
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, aad, TAG_BITS.into())?);
            session.decrypt(&mechanism, handle, sealed)
        });
        match outcome {
            // Modules say anything at all of a wrong tag; one that still answers was not at fault.
            Err(TokenError::Gone(why)) if self.present().is_ok() && self.handle(reference)?.is_some() => {
                Err(TokenError::Invalid(why))
            }
            other => other.map(Zeroizing::new),
        }
    }

    fn mac(&mut self, reference: KeyRef, data: &[u8]) -> Result<[u8; 32], TokenError> {
        self.using(reference, |session, handle| session.sign(&Mechanism::Sha256Hmac, handle, data))?
            .try_into()
            .map_err(|s: Vec<u8>| TokenError::Corrupt(format!("a MAC of {} bytes", s.len())))
    }

    fn data(&mut self, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
        let found = data::read(self.session()?, label).inspect_err(|_| self.renew())?;
        // A token that has vanished also says that there is nothing.
        self.present().map(|()| found)
    }

    fn keep_data(&mut self, label: &str, bytes: &[u8], beside: &[u8]) -> Result<(), TokenError> {
        let _one_at_a_time = self.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        match data::keep(&writer, label, bytes, beside) {
            // Modules say anything at all of objects that they do not take; one that still answers is not gone.
            Err(TokenError::Gone(why)) if self.present().is_ok() => Err(TokenError::Unsupported(why)),
            other => other,
        }
    }

    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        self.sweep(reference)
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError> {
        self.session()?.generate_random_slice(out).map_err(|e| class(&e))
    }

    fn inventory(&mut self, only: Option<&str>) -> Result<Vec<Object>, TokenError> {
        inventory::inventory(self.session()?, only)
    }

    fn past(&mut self, reference: KeyRef) -> Result<Past, TokenError> {
        let algorithm = self
            .find(reference)?
            .ok_or_else(|| TokenError::Refused(format!("no key has the id {reference}")))?
            .algorithm();
        let before = self.using(reference, |session, handle| inventory::past(session, handle, algorithm))?;
        if before.other_uses.is_empty() {
            return Ok(before);
        }
        let handle = self.handle(reference)?.ok_or(TokenError::Busy)?;
        let _one_at_a_time = self.mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        inventory::narrow(&writer, handle, &before);
        let after = inventory::past(&writer, handle, algorithm).map_err(|e| class(&e))?;
        let narrowed = before.other_uses.into_iter().filter(|u| !after.other_uses.contains(u)).collect();
        Ok(Past { narrowed, ..after })
    }

    fn import(&mut self, spec: &KeySpec, private: &SecretBytes<32>) -> Result<(PublicKey, Past), TokenError> {
        super::import::import(self, spec, private)
    }

    fn backup(&mut self, ask: &Ask) -> Result<Made, TokenError> {
        self.back_up(ask)
    }

    fn health(&mut self) -> Result<(), TokenError> {
        self.present()
    }

    fn check(&mut self) -> Result<Vec<CheckRow>, TokenError> {
        super::proving::prove(self)
    }
}
