//! One thread's session with a PKCS#11 token: makes, finds, signs, destroys, and proves what its profile claims.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::Slot;

use super::super::check::{self, CheckRow, fresh_reference};
use super::super::profile::Profile;
use super::super::{Description, KeySpec, RawSignature, Token, TokenError};
use super::class;
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;

/// DER object identifiers for `CKA_EC_PARAMS`.
fn curve(algorithm: Algorithm) -> Vec<u8> {
    match algorithm {
        // 1.3.132.0.10
        Algorithm::Secp256k1 => vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a],
        // 1.2.840.10045.3.1.7
        Algorithm::P256 => vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        // 1.3.101.112
        Algorithm::Ed25519 => vec![0x06, 0x03, 0x2b, 0x65, 0x70],
    }
}

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
    fn renew(&mut self) {
        self.session = None;
        self.handles.clear();
    }

    fn present(&self) -> Result<(), TokenError> {
        self.context
            .get_token_info(self.slot)
            .map(|_| ())
            .map_err(|e| TokenError::Gone(format!("the token does not answer: {e}")))
    }

    fn handle(&mut self, reference: KeyRef) -> Result<Option<ObjectHandle>, TokenError> {
        if let Some(handle) = self.handles.get(&reference) {
            return Ok(Some(*handle));
        }
        let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(reference.0.to_vec())];
        let found = self.session()?.find_objects(&template).map_err(|e| class(&e))?;
        match found.as_slice() {
            [handle] => {
                self.handles.insert(reference, *handle);
                Ok(Some(*handle))
            }
            // A token that has vanished also says "none": ask whether it is there before believing it.
            [] => self.present().map(|()| None),
            more => Err(TokenError::Corrupt(format!("{} private keys have the id {reference}", more.len()))),
        }
    }

    fn sign_once(
        &mut self,
        reference: KeyRef,
        mechanism: &Mechanism<'_>,
        data: &[u8],
    ) -> Result<Vec<u8>, TokenError> {
        let handle = self
            .handle(reference)?
            .ok_or_else(|| TokenError::Gone(format!("the key {reference} is not in the token")))?;
        self.session()?.sign(mechanism, handle, data).map_err(|e| class(&e))
    }

    fn public(&mut self, reference: KeyRef) -> Result<Option<PublicKey>, TokenError> {
        let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(reference.0.to_vec())];
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
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|a| curve(*a) == params || (*a == Algorithm::Ed25519 && params.ends_with(b"edwards25519")))
            .ok_or_else(|| TokenError::Corrupt("a public key is on an unknown curve".into()))?;
        raw_point(algorithm, &point)
            .and_then(|raw| PublicKey::from_bytes(algorithm, raw))
            .map(Some)
            .ok_or_else(|| TokenError::Corrupt("CKA_EC_POINT is no point".into()))
    }

    fn make_pair(&mut self, spec: &KeySpec, may_sign: bool) -> Result<(), TokenError> {
        let mechanism = match spec.algorithm {
            Algorithm::Secp256k1 | Algorithm::P256 => Mechanism::EccKeyPairGen,
            Algorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        };
        let id = spec.reference.0.to_vec();
        let label = spec.label.clone().into_bytes();
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(curve(spec.algorithm)),
            Attribute::Id(id.clone()),
            Attribute::Label(label.clone()),
        ];
        // [clause 8.2.5-a] made inside, never readable, never extractable, and nothing of this can be changed
        let mut private = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Sign(may_sign),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
            Attribute::Id(id),
            Attribute::Label(label),
        ];
        if !self.profile.copyable {
            private.push(Attribute::Copyable(false));
        }
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        writer.generate_key_pair(&mechanism, &public, &private).map(|_| ()).map_err(|e| class(&e))
    }

    /// Removes whatever has this id; tells whether anything is left.
    fn sweep(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        self.handles.remove(&reference);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        let template = [Attribute::Id(reference.0.to_vec())];
        for handle in writer.find_objects(&template).map_err(|e| class(&e))? {
            writer.destroy_object(handle).map_err(|e| class(&e))?;
        }
        if writer.find_objects(&template).map_err(|e| class(&e))?.is_empty() {
            self.present()
        } else {
            Err(TokenError::Corrupt(format!("objects with the id {reference} are still there")))
        }
    }

    fn prove_protected(&mut self, reference: KeyRef) -> Result<(), TokenError> {
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
        let made_inside = !self.profile.claims.made_inside
            || [Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true), Attribute::Local(true)]
                .iter()
                .all(|a| told.contains(a));
        if told.contains(&Attribute::Sensitive(true))
            && told.contains(&Attribute::Extractable(false))
            && made_inside
        {
            Ok(())
        } else {
            Err(TokenError::Refused(format!("the token does not protect what it makes: {told:?}")))
        }
    }
}

/// `CKA_EC_POINT`: DER OCTET STRING, DER BIT STRING, or raw.
fn raw_point(algorithm: Algorithm, bytes: &[u8]) -> Option<&[u8]> {
    let length = if algorithm == Algorithm::Ed25519 { 32 } else { 65 };
    match bytes {
        [0x04, n, raw @ ..] if raw.len() == length && usize::from(*n) == length => Some(raw),
        [0x03, n, 0, raw @ ..] if raw.len() == length && usize::from(*n) == length + 1 => Some(raw),
        raw if raw.len() == length => Some(raw),
        _ => None,
    }
}

impl Token for Pkcs11Token {
    fn describe(&mut self) -> Result<Description, TokenError> {
        Ok(self.description.clone())
    }

    fn generate(&mut self, spec: &KeySpec) -> Result<PublicKey, TokenError> {
        let mutation = Arc::clone(&self.mutation);
        let _one_at_a_time = mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.make_pair(spec, true).and_then(|()| {
            self.prove_protected(spec.reference)?;
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
        match self.handle(reference)? {
            None => Ok(None),
            Some(_) => self.public(reference),
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
        let signature = match self.sign_once(reference, &mechanism, data) {
            // A lost session or a stale handle: once more on a fresh one. Signing the same bytes twice is harmless.
            Err(TokenError::Gone(why)) => {
                tracing::debug!("signing again on a fresh session after: {why}");
                self.renew();
                self.present()?;
                self.sign_once(reference, &mechanism, data)
            }
            other => other,
        };
        if signature.is_err() {
            self.renew();
        }
        signature?
            .try_into()
            .map_err(|s: Vec<u8>| TokenError::Corrupt(format!("a signature of {} bytes", s.len())))
    }

    fn destroy(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        let mutation = Arc::clone(&self.mutation);
        let _one_at_a_time = mutation.lock().unwrap_or_else(PoisonError::into_inner);
        self.sweep(reference)
    }

    fn random(&mut self, out: &mut [u8]) -> Result<(), TokenError> {
        self.session()?.generate_random_slice(out).map_err(|e| class(&e))
    }

    fn health(&mut self) -> Result<(), TokenError> {
        self.present()
    }

    fn check(&mut self) -> Result<Vec<CheckRow>, TokenError> {
        let (claims, algorithms) = (self.profile.claims, self.profile.algorithms.clone());
        let note = if self.profile.tested { "" } else { "this profile was not tested by the project" };
        let mut rows = check::signing(self, &algorithms);
        let algorithm = algorithms.first().copied().unwrap_or(Algorithm::P256);
        let spec = |reference, label: &str| KeySpec {
            reference,
            label: label.into(),
            algorithm,
            purpose: Purpose::Payment,
        };
        let reference = fresh_reference()?;
        self.generate(&spec(reference, "claviger-check"))?;
        let outcome = self.attack(reference);
        self.destroy(reference)?;
        let [inside, hidden, fixed, unwrapped] = outcome?;
        rows.push(CheckRow::of("keys are made inside and say so", claims.made_inside, inside, note));
        rows.push(CheckRow::of("the private value cannot be read", claims.value_hidden, hidden, note));
        rows.push(CheckRow::of(
            "protecting attributes cannot be changed",
            claims.attributes_fixed,
            fixed,
            note,
        ));
        rows.push(CheckRow::of(
            "a non-extractable key cannot be wrapped",
            claims.wrap_refused,
            unwrapped,
            note,
        ));
        let silent = fresh_reference()?;
        let made = self.make_pair(&spec(silent, "claviger-check-nosign"), false);
        let to_sign =
            if algorithm == Algorithm::Ed25519 { ToSign::Message(vec![1]) } else { ToSign::Prehash([1; 32]) };
        let refused = made.is_ok() && self.sign(silent, algorithm, &to_sign).is_err();
        self.destroy(silent)?;
        rows.push(CheckRow::of(
            "a key that is not for signing does not sign",
            claims.purpose_enforced,
            refused,
            note,
        ));
        Ok(rows)
    }
}

impl Pkcs11Token {
    /// Tries what must not succeed; `true` for each that was refused.
    fn attack(&mut self, reference: KeyRef) -> Result<[bool; 4], TokenError> {
        let inside = self.prove_protected(reference).is_ok();
        let handle =
            self.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the key is not there".into()))?;
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        let hidden = writer.get_attributes(handle, &[AttributeType::Value]).is_ok_and(|a| a.is_empty())
            || writer.get_attributes(handle, &[AttributeType::Value]).is_err();
        let fixed = [Attribute::Sensitive(false), Attribute::Extractable(true)]
            .into_iter()
            .all(|a| writer.update_attributes(handle, &[a]).is_err());
        let wrapper = [
            Attribute::Token(false),
            Attribute::Wrap(true),
            Attribute::Encrypt(true),
            Attribute::ValueLen(32.into()),
        ];
        let unwrapped = match writer.generate_key(&Mechanism::AesKeyGen, &wrapper) {
            Ok(wrapper) => [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad]
                .iter()
                .all(|m| writer.wrap_key(m, wrapper, handle).is_err()),
            // A token without wrapping keys wraps nothing.
            Err(_) => true,
        };
        Ok([inside, hidden, fixed, unwrapped])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_in_each_vendors_encoding() {
        let raw = [7u8; 32];
        let octets = [&[0x04, 32][..], &raw].concat();
        let bits = [&[0x03, 33, 0][..], &raw].concat();
        for bytes in [&raw[..], &octets, &bits] {
            assert_eq!(raw_point(Algorithm::Ed25519, bytes), Some(&raw[..]));
        }
        assert_eq!(raw_point(Algorithm::Ed25519, &raw[1..]), None);
        let mut point = [9u8; 65];
        point[0] = 4;
        assert_eq!(raw_point(Algorithm::P256, &[&[0x04, 65][..], &point].concat()), Some(&point[..]));
        assert_eq!(raw_point(Algorithm::P256, &point), Some(&point[..]));
    }
}
