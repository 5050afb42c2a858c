//! Proves on a PKCS#11 token what its profile claims, by trying what must not succeed. [clause 8.2.5]
//!
//! Every refusal counts only beside a control: the same call must succeed where it may.
#![forbid(unsafe_code)]

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use super::super::check::{self, CheckRow, Claim, fresh_reference};
use super::super::{KeySpec, Token, TokenError, Use};
use super::class;
use super::session::Pkcs11Token;
use crate::core::key::{Algorithm, KeyRef, Purpose};
use crate::core::payment::ToSign;

fn spec(reference: KeyRef, algorithm: Algorithm) -> KeySpec {
    KeySpec { reference, label: "claviger-check".into(), algorithm, purpose: Purpose::Payment }
}

/// All proofs. What they make they remove again.
pub(super) fn prove(token: &mut Pkcs11Token) -> Result<Vec<CheckRow>, TokenError> {
    let profile = token.profile.clone();
    let mut rows = check::working(token, &profile.algorithms);
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
        let handle =
            token.handle(reference)?.ok_or_else(|| TokenError::Corrupt("the key is not there".into()))?;
        let writer = token.context.open_rw_session(token.slot).map_err(|e| class(&e))?;
        let mut rows = vec![
            CheckRow::from_outcome(Claim::MadeInside, claims.made_inside, &inside),
            CheckRow::of(Claim::ValueHidden, claims.value_hidden, value_hidden(&writer, handle)),
            CheckRow::of(Claim::AttributesFixed, claims.attributes_fixed, attributes_fixed(&writer, handle)),
            CheckRow::of(Claim::CopyKeeps, claims.attributes_fixed, copy_keeps(&writer, handle)),
            CheckRow::of(Claim::WrapRefused, claims.wrap_refused, wrap_refused(&writer, handle)),
        ];
        if claims.trusted_wrap {
            rows.push(CheckRow::of(Claim::TrustedWrap, true, untrusted_refused(&writer)));
        }
        Ok(rows)
    })();
    token.destroy(reference)?;
    let mut rows = tried?;
    let silent = fresh_reference()?;
    let minded = match token.make(&spec(silent, algorithm), None) {
        Ok(()) => {
            let to_sign = match algorithm {
                Algorithm::Ed25519 => ToSign::Message(vec![1]),
                _ => ToSign::Prehash([1; 32]),
            };
            token.sign(silent, algorithm, &to_sign).is_err()
        }
        // A token that makes no key without a use has none that could be misused.
        Err(_) => true,
    };
    token.destroy(silent)?;
    rows.push(CheckRow::of(Claim::PurposeEnforced, claims.purpose_enforced, minded));
    Ok(rows)
}

fn value_hidden(writer: &Session, key: ObjectHandle) -> bool {
    writer.get_attributes(key, &[AttributeType::Value]).map_or(true, |told| told.is_empty())
}

fn attributes_fixed(writer: &Session, key: ObjectHandle) -> bool {
    [Attribute::Sensitive(false), Attribute::Extractable(true)]
        .into_iter()
        .all(|a| writer.update_attributes(key, &[a]).is_err())
}

/// A copy may not protect less than what it was copied from.
fn copy_keeps(writer: &Session, key: ObjectHandle) -> bool {
    [Attribute::Sensitive(false), Attribute::Extractable(true)].into_iter().all(|weaker| {
        let Ok(copy) = writer.copy_object(key, &[Attribute::Token(false), weaker]) else { return true };
        let told = writer
            .get_attributes(copy, &[AttributeType::Sensitive, AttributeType::Extractable])
            .unwrap_or_default();
        drop(writer.destroy_object(copy));
        told.contains(&Attribute::Sensitive(true)) && told.contains(&Attribute::Extractable(false))
    })
}

fn wrapping_key(writer: &Session) -> Option<ObjectHandle> {
    let template = [
        Attribute::Token(false),
        Attribute::Sensitive(true),
        Attribute::Wrap(true),
        Attribute::Encrypt(true),
        Attribute::ValueLen(32.into()),
    ];
    writer.generate_key(&Mechanism::AesKeyGen, &template).ok()
}

const WRAPPINGS: [Mechanism<'static>; 3] =
    [Mechanism::AesKeyWrap, Mechanism::AesKeyWrapPad, Mechanism::AesCbcPad([0; 16])];

/// A token without wrapping keys wraps nothing.
fn wrap_refused(writer: &Session, key: ObjectHandle) -> bool {
    let Some(wrapper) = wrapping_key(writer) else { return true };
    let refused = WRAPPINGS.iter().all(|m| writer.wrap_key(m, wrapper, key).is_err());
    drop(writer.destroy_object(wrapper));
    refused
}

/// A key that only trusted keys may wrap is not wrapped by one that is not trusted, and is by no other rule unwrappable.
fn untrusted_refused(writer: &Session) -> bool {
    let Some(wrapper) = wrapping_key(writer) else { return true };
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
    let wraps = |key| writer.wrap_key(&Mechanism::AesKeyWrap, wrapper, key).is_ok();
    let outcome = match (secret(false), secret(true)) {
        (Ok(free), Ok(bound)) => {
            let found = wraps(free) && !wraps(bound);
            drop(writer.destroy_object(free));
            drop(writer.destroy_object(bound));
            found
        }
        _ => false,
    };
    drop(writer.destroy_object(wrapper));
    outcome
}

/// Secret keys are asked for what others of them are for.
fn mixed_up(token: &mut Pkcs11Token, algorithms: &[Algorithm]) -> Result<bool, TokenError> {
    for algorithm in algorithms {
        let reference = fresh_reference()?;
        token.make(&spec(reference, *algorithm), Some(Use::of(*algorithm)))?;
        let misused = [
            (Use::Encrypt, token.encrypt(reference, [1; 12], b"", b"some data").is_ok()),
            (Use::Mac, token.mac(reference, b"some data").is_ok()),
            (Use::Wrap, token.wrap_known(reference).is_ok()),
        ]
        .into_iter()
        .any(|(wrong, did)| wrong != Use::of(*algorithm) && did);
        token.destroy(reference)?;
        if misused {
            return Ok(false);
        }
    }
    Ok(true)
}
