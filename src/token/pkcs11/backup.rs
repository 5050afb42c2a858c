//! Keys of a PKCS#11 token leave for a backup under a trusted key, where the token holds to that, and come back. [clause 8.2.2]
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;
use zeroize::Zeroize;

use super::super::backup::{Ask, Made, check_of};
use super::super::{KeySpec, Token, TokenError, Use};
use super::class;
use super::proving::{refused, untrusted_refused};
use super::session::Pkcs11Token;
use super::template::{Making, making, may_leave, public};
use crate::core::key::{Algorithm, KeyRef, PublicKey};

/// RFC 5649. SoftHSM has it under this number.
const WRAPPING: Mechanism<'static> = Mechanism::AesKeyWrapPad;

/// Wipes the values of keys in a template.
pub(super) fn wipe(template: &mut [Attribute]) {
    for attribute in template {
        if let Attribute::Value(value) = attribute {
            value.zeroize();
        }
    }
}

fn key_type(algorithm: Algorithm) -> KeyType {
    match algorithm {
        Algorithm::Secp256k1 | Algorithm::P256 => KeyType::EC,
        Algorithm::Ed25519 => KeyType::EC_EDWARDS,
        Algorithm::Aes256Gcm | Algorithm::Aes256Kw => KeyType::AES,
        Algorithm::HmacSha256 => KeyType::GENERIC_SECRET,
    }
}

impl Pkcs11Token {
    pub(super) fn back_up(&mut self, ask: &Ask) -> Result<Made, TokenError> {
        // [clause 8.2.2-d] a token that would let any wrapping key take keys out lets none out at all
        if !self.profile.claims.trusted_wrap || !self.profile.template.wrap_with_trusted {
            let why = "its profile does not claim that keys leave it under trusted keys alone (CKA_WRAP_WITH_TRUSTED), and so none may leave it for a backup";
            return Err(TokenError::Unsupported(why.into()));
        }
        // Another session may have destroyed what stood under this id, and made something else there.
        let (Ask::Make { spec: KeySpec { reference, .. }, .. }
        | Ask::Unwrap { spec: KeySpec { reference, .. }, .. }
        | Ask::Take { reference, .. }
        | Ask::Wrap { reference, .. }) = ask;
        self.handles.remove(reference);
        match ask {
            Ask::Take { reference, key } => self.taken(*reference, key).map(|p| Made::of(&p)),
            Ask::Make { spec, by } => self.make_leaving(spec, *by).map(|p| Made::of(&p)),
            Ask::Wrap { reference, by } => self.wrap(*reference, *by).map(Made::Wrapped),
            Ask::Unwrap { spec, under, public, wrapped, .. } => {
                let expected = PublicKey::from_bytes(spec.algorithm, public)
                    .ok_or_else(|| TokenError::Invalid("its public key is none".into()))?;
                self.unwrap(spec, under, wrapped, &expected).map(|p| Made::of(&p))
            }
        }
    }

    /// What an officer put there is looked at, and tried as a thief with the PIN would.
    fn taken(&mut self, reference: KeyRef, key: &[u8]) -> Result<PublicKey, TokenError> {
        let key: &[u8; 32] =
            key.try_into().map_err(|_| TokenError::Corrupt("a wrapping key has 32 bytes".into()))?;
        self.trusted(reference)?;
        let found = self.secret(reference)?;
        if check_of(key) != Some(found) {
            return Err(TokenError::Refused("another wrapping key has this id".into()));
        }
        let handle = self.handle(reference)?.ok_or(TokenError::Busy)?;
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        if !untrusted_refused(&writer)? {
            return Err(TokenError::Unfit(
                "the token lets a key out that is for trusted wrapping keys alone".into(),
            ));
        }
        let wrapped = {
            let known = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Extractable(true),
                Attribute::Value(vec![5; 32]),
            ];
            let object = writer.create_object(&known).map_err(|e| class(&e))?;
            writer.wrap_key(&WRAPPING, handle, object).map_err(|e| class(&e))?
        };
        let readable = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
        ];
        // [clause 8.2.2-d] what leaves under this key does not come back under it, readable, for whoever has the PIN
        if !refused(writer.unwrap_key(&WRAPPING, handle, &wrapped, &readable))? {
            return Err(TokenError::Unfit("the token unwraps with a key that is for wrapping alone".into()));
        }
        Ok(found)
    }

    /// Whether a key is trusted, wraps, and does nothing else, for good.
    fn trusted(&mut self, reference: KeyRef) -> Result<(), TokenError> {
        let handle = self.handle(reference)?.ok_or_else(|| {
            TokenError::Refused(
                "the wrapping key is not in the token: its security officer puts it there".into(),
            )
        })?;
        let must = [
            Attribute::Trusted(true),
            Attribute::Wrap(true),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
        ];
        let wanted: Vec<AttributeType> = must.iter().map(Attribute::attribute_type).collect();
        let told = self.session()?.get_attributes(handle, &wanted).map_err(|e| class(&e))?;
        // An attribute that is absent is unproven, and unproven is not true.
        if must.iter().all(|a| told.contains(a)) {
            Ok(())
        } else {
            Err(TokenError::Refused(format!("the wrapping key is not protected as it must be: {told:?}")))
        }
    }

    fn make_leaving(&mut self, spec: &KeySpec, by: KeyRef) -> Result<PublicKey, TokenError> {
        self.trusted(by)?;
        let mut private = may_leave(spec, &self.profile);
        match making(spec, &self.profile, Some(Use::of(spec.algorithm))) {
            Making::Pair(mechanism, public, _) => {
                self.write(|writer| writer.generate_key_pair(&mechanism, &public, &private).map(drop))?;
            }
            Making::Secret(mechanism, _) => {
                private.push(Attribute::ValueLen(32.into()));
                self.write(|writer| writer.generate_key(&mechanism, &private).map(drop))?;
            }
        }
        self.kept(spec, true)
    }

    fn write(
        &self,
        run: impl FnOnce(&Session) -> Result<(), cryptoki::error::Error>,
    ) -> Result<(), TokenError> {
        let mutation = Arc::clone(&self.mutation);
        let _one_at_a_time = mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = self.context.open_rw_session(self.slot).map_err(|e| class(&e))?;
        run(&writer).map_err(|e| class(&e))
    }

    /// The public half of a pair that was just made or taken in; swept away when the token does not protect it.
    fn kept(&mut self, spec: &KeySpec, made_inside: bool) -> Result<PublicKey, TokenError> {
        let outcome = self.prove_leaving(spec.reference, made_inside).and_then(|()| {
            self.find(spec.reference)?
                .ok_or_else(|| TokenError::Corrupt("the new public key is not there".into()))
        });
        if outcome.is_err()
            && let Err(e) = self.sweep(spec.reference)
        {
            tracing::warn!("leftovers of a key that was refused may be in the token: {e}");
        }
        outcome
    }

    fn prove_leaving(&mut self, reference: KeyRef, made_inside: bool) -> Result<(), TokenError> {
        let handle =
            self.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the new key is not there".into()))?;
        let wanted = [
            AttributeType::Sensitive,
            AttributeType::WrapWithTrusted,
            AttributeType::Modifiable,
            AttributeType::AlwaysSensitive,
            AttributeType::Local,
        ];
        let told = self.session()?.get_attributes(handle, &wanted).map_err(|e| class(&e))?;
        let inside = !made_inside
            || [Attribute::AlwaysSensitive(true), Attribute::Local(true)].iter().all(|a| told.contains(a));
        if inside
            && [Attribute::Sensitive(true), Attribute::WrapWithTrusted(true), Attribute::Modifiable(false)]
                .iter()
                .all(|a| told.contains(a))
        {
            Ok(())
        } else {
            Err(TokenError::Refused(format!("the token does not protect a key that may leave it: {told:?}")))
        }
    }

    fn wrap(&mut self, reference: KeyRef, by: KeyRef) -> Result<Vec<u8>, TokenError> {
        self.trusted(by)?;
        let key = self
            .handle(reference)?
            .ok_or_else(|| TokenError::Refused("the key is not in the token".into()))?;
        let told = self
            .session()?
            .get_attributes(key, &[AttributeType::Extractable, AttributeType::WrapWithTrusted])
            .map_err(|e| class(&e))?;
        if !told.contains(&Attribute::Extractable(true)) || !told.contains(&Attribute::WrapWithTrusted(true))
        {
            return Err(TokenError::Refused("this key was not made to leave the token".into()));
        }
        let outcome = self.using(by, |session, wrapper| session.wrap_key(&WRAPPING, wrapper, key));
        outcome.map_err(|e| match e {
            TokenError::Gone(why) => {
                TokenError::Refused(format!("the token does not wrap this kind of key: {why}"))
            }
            other => other,
        })
    }

    fn unwrap(
        &mut self,
        spec: &KeySpec,
        under: &[u8],
        wrapped: &[u8],
        expected: &PublicKey,
    ) -> Result<PublicKey, TokenError> {
        let mut once = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(true),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Value(under.to_vec()),
        ];
        let mut private = may_leave(spec, &self.profile);
        let pair = spec.algorithm.is_pair();
        let class_of = if pair { ObjectClass::PRIVATE_KEY } else { ObjectClass::SECRET_KEY };
        private.extend([Attribute::Class(class_of), Attribute::KeyType(key_type(spec.algorithm))]);
        // SoftHSM holds to this while it still reads the template: what stands behind it is refused.
        private.sort_by_key(|a| matches!(a, Attribute::Modifiable(_)));
        let mut other = public(spec, &self.profile);
        let raw = expected.as_bytes();
        let length =
            u8::try_from(raw.len()).map_err(|_| TokenError::Invalid("its public key is too long".into()))?;
        other.extend([
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::KeyType(key_type(spec.algorithm)),
            Attribute::EcPoint([&[0x04, length], raw].concat()),
        ]);
        if self.handle(spec.reference)?.is_some() {
            return Err(TokenError::Refused("a key with this id exists already".into()));
        }
        // The wrapping key is an object of this session, and goes with it.
        let outcome = self.write(|writer| {
            let key = writer.create_object(&once)?;
            let outcome = writer.unwrap_key(&WRAPPING, key, wrapped, &private);
            writer.destroy_object(key)?;
            outcome?;
            // A secret key has no public half.
            if pair { writer.create_object(&other).map(drop) } else { Ok(()) }
        });
        wipe(&mut once);
        if outcome.is_err()
            && let Err(e) = self.sweep(spec.reference)
        {
            tracing::warn!("leftovers of a key that did not come in may be in the token: {e}");
        }
        outcome.map_err(|e| match e {
            TokenError::Gone(why) => TokenError::Invalid(format!("the token does not take it in: {why}")),
            more => more,
        })?;
        self.kept(spec, false)
    }
}
