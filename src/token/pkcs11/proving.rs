//! Proves on a PKCS#11 token what its profile claims, by trying what must not succeed. [clause 8.2.5]
//!
//! Every refusal counts only beside a control: the same call must succeed where it may.
#![forbid(unsafe_code)]

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use super::super::check::{self, CheckRow, Claim, fresh_reference};
use super::super::{KeySpec, Token, TokenError, Use};
use super::class;
use super::session::Pkcs11Token;
use crate::core::key::{Algorithm, KeyRef, Purpose};

fn spec(reference: KeyRef, algorithm: Algorithm) -> KeySpec {
    KeySpec { reference, label: "claviger-check".into(), algorithm, purpose: Purpose::Payment }
}

/// Whether the token refused by itself. An error that says nothing about what was asked is no verdict.
pub(super) fn refused<T>(outcome: Result<T, Error>) -> Result<bool, TokenError> {
    match outcome {
        Ok(_) => Ok(false),
        Err(Error::Pkcs11(
            rv @ (RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::DeviceRemoved
            | RvError::HostMemory
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::CryptokiNotInitialized
            | RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::SessionCount
            | RvError::UserNotLoggedIn
            | RvError::OperationActive),
            call,
        )) => Err(class(&Error::Pkcs11(rv, call))),
        Err(_) => Ok(true),
    }
}

/// Asks a key for something in a session of its own: one that was refused may leave an operation behind.
fn minds(
    token: &mut Pkcs11Token,
    reference: KeyRef,
    run: impl FnOnce(&Session, ObjectHandle) -> Result<Vec<u8>, Error>,
) -> Result<bool, TokenError> {
    let handle =
        token.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the new key is not there".into()))?;
    let session = token.context.open_rw_session(token.slot).map_err(|e| class(&e))?;
    refused(run(&session, handle))
}

fn misuse(wrong: Use) -> impl FnOnce(&Session, ObjectHandle) -> Result<Vec<u8>, Error> {
    move |session, key| match wrong {
        Use::Sign => session.sign(&Mechanism::Ecdsa, key, &[1; 32]),
        Use::Mac => session.sign(&Mechanism::Sha256Hmac, key, b"some data"),
        Use::Encrypt => {
            let mut nonce = [1; 12];
            let mechanism = Mechanism::AesGcm(GcmParams::new(&mut nonce, b"", 128.into())?);
            session.encrypt(&mechanism, key, b"some data")
        }
        Use::Wrap => {
            let target =
                [Attribute::Token(false), Attribute::Extractable(true), Attribute::ValueLen(32.into())];
            let target = session.generate_key(&Mechanism::AesKeyGen, &target)?;
            session.wrap_key(&Mechanism::AesKeyWrap, key, target)
        }
    }
}

/// All proofs. What they make they remove again.
pub(super) fn prove(token: &mut Pkcs11Token) -> Result<Vec<CheckRow>, TokenError> {
    let profile = token.profile.clone();
    let mut rows = check::working(token, &profile.algorithms)?;
    let pair = profile.algorithms.iter().copied().find(|a| a.is_pair());
    if let Some(algorithm) = pair {
        rows.extend(attacks(token, algorithm)?);
    }
    let secrets: Vec<Algorithm> = profile.algorithms.iter().copied().filter(|a| !a.is_pair()).collect();
    if !secrets.is_empty() {
        let minded = mixed_up(token, &secrets)?;
        rows.push(CheckRow::of(Claim::SecretPurposes, profile.claims.purpose_enforced, minded));
    }
    Ok(rows)
}

/// What a thief with the PIN would try on a payment key.
fn attacks(token: &mut Pkcs11Token, algorithm: Algorithm) -> Result<Vec<CheckRow>, TokenError> {
    let claims = token.profile.claims;
    let reference = fresh_reference()?;
    token.make(&spec(reference, algorithm), Some(Use::Sign))?;
    let tried = (|| {
        let inside = token.prove_protected(reference, true);
        if let Err(e) = &inside
            && e.is_no_verdict()
        {
            return Err(e.clone());
        }
        let handle =
            token.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the key is not there".into()))?;
        let writer = token.context.open_rw_session(token.slot).map_err(|e| class(&e))?;
        let mut rows = vec![
            CheckRow::from_outcome(Claim::MadeInside, claims.made_inside, &inside),
            CheckRow::of(Claim::ValueHidden, claims.value_hidden, value_hidden(&writer, handle)?),
            CheckRow::of(Claim::AttributesFixed, claims.attributes_fixed, attributes_fixed(&writer, handle)?),
            CheckRow::of(Claim::CopyKeeps, claims.attributes_fixed, copy_keeps(&writer, handle)?),
            CheckRow::of(Claim::WrapRefused, claims.wrap_refused, wrap_refused(&writer, handle)?),
        ];
        if claims.trusted_wrap {
            rows.push(CheckRow::of(Claim::TrustedWrap, true, untrusted_refused(&writer)?));
        }
        Ok(rows)
    })();
    token.destroy(reference)?;
    let mut rows = tried?;
    let silent = fresh_reference()?;
    let minded = match token.make(&spec(silent, algorithm), None) {
        Ok(()) => minds(token, silent, |session, key| match algorithm {
            Algorithm::Ed25519 => {
                let scheme = EddsaParams::new(EddsaSignatureScheme::Ed25519);
                session.sign(&Mechanism::Eddsa(scheme), key, &[1])
            }
            _ => session.sign(&Mechanism::Ecdsa, key, &[1; 32]),
        }),
        // A token that makes no key without a use has none that could be misused.
        Err(e) if e.is_no_verdict() => Err(e),
        Err(_) => Ok(true),
    };
    token.destroy(silent)?;
    rows.push(CheckRow::of(Claim::PurposeEnforced, claims.purpose_enforced, minded?));
    Ok(rows)
}

fn value_hidden(writer: &Session, key: ObjectHandle) -> Result<bool, TokenError> {
    match writer.get_attributes(key, &[AttributeType::Value]) {
        Ok(told) => Ok(told.is_empty()),
        Err(e) => refused::<()>(Err(e)),
    }
}

fn attributes_fixed(writer: &Session, key: ObjectHandle) -> Result<bool, TokenError> {
    for weaker in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
        if !refused(writer.update_attributes(key, &[weaker]))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A copy may not protect less than what it was copied from.
fn copy_keeps(writer: &Session, key: ObjectHandle) -> Result<bool, TokenError> {
    for weaker in [Attribute::Sensitive(false), Attribute::Extractable(true)] {
        let copy = match writer.copy_object(key, &[Attribute::Token(false), weaker]) {
            Ok(copy) => copy,
            Err(e) => {
                refused::<()>(Err(e))?;
                continue;
            }
        };
        let told = writer.get_attributes(copy, &[AttributeType::Sensitive, AttributeType::Extractable]);
        drop(writer.destroy_object(copy));
        let told = told.map_err(|e| class(&e))?;
        if !told.contains(&Attribute::Sensitive(true)) || !told.contains(&Attribute::Extractable(false)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A token without wrapping keys wraps nothing.
fn wrapping_key(writer: &Session) -> Result<Option<ObjectHandle>, TokenError> {
    let template = [
        Attribute::Token(false),
        Attribute::Sensitive(true),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::ValueLen(32.into()),
    ];
    match writer.generate_key(&Mechanism::AesKeyGen, &template) {
        Ok(key) => Ok(Some(key)),
        Err(e) => refused::<()>(Err(e)).map(|_| None),
    }
}

const WRAPPINGS: [Mechanism<'static>; 3] =
    [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad, Mechanism::AesCbcPad([0; 16])];

fn wrap_refused(writer: &Session, key: ObjectHandle) -> Result<bool, TokenError> {
    let Some(wrapper) = wrapping_key(writer)? else { return Ok(true) };
    let tried: Result<Vec<bool>, TokenError> =
        WRAPPINGS.iter().map(|m| refused(writer.wrap_key(m, wrapper, key))).collect();
    drop(writer.destroy_object(wrapper));
    Ok(tried?.into_iter().all(|was| was))
}

/// A key that only trusted keys may wrap is not wrapped by one that is not trusted, and is by no other rule unwrappable.
pub(super) fn untrusted_refused(writer: &Session) -> Result<bool, TokenError> {
    let Some(wrapper) = wrapping_key(writer)? else { return Ok(true) };
    let secret = |trusted_only: bool| {
        let mut template = vec![
            Attribute::Token(false),
            Attribute::Sensitive(true),
            Attribute::Extractable(true),
            Attribute::Encrypt(true),
            Attribute::ValueLen(32.into()),
        ];
        if trusted_only {
            template.push(Attribute::WrapWithTrusted(true));
        }
        writer.generate_key(&Mechanism::AesKeyGen, &template)
    };
    let wraps = |key| refused(writer.wrap_key(&Mechanism::AesKeyWrap, wrapper, key)).map(|was| !was);
    let outcome = (|| {
        let (free, bound) = (secret(false).map_err(|e| class(&e))?, secret(true).map_err(|e| class(&e))?);
        let found = (wraps(free), wraps(bound));
        drop(writer.destroy_object(free));
        drop(writer.destroy_object(bound));
        Ok(found.0? && !found.1?)
    })();
    drop(writer.destroy_object(wrapper));
    outcome
}

/// Secret keys are asked for what others of them are for.
fn mixed_up(token: &mut Pkcs11Token, algorithms: &[Algorithm]) -> Result<bool, TokenError> {
    for algorithm in algorithms {
        let reference = fresh_reference()?;
        token.make(&spec(reference, *algorithm), Some(Use::of(*algorithm)))?;
        let wrong = [Use::Sign, Use::Encrypt, Use::Mac, Use::Wrap].into_iter();
        let minded: Result<Vec<bool>, TokenError> = wrong
            .filter(|which| *which != Use::of(*algorithm))
            .map(|which| minds(token, reference, misuse(which)))
            .collect();
        token.destroy(reference)?;
        let misused = minded?.contains(&false);
        if misused {
            return Ok(false);
        }
    }
    Ok(true)
}
