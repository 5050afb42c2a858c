//! Puts a pair into a PKCS#11 token that was outside of it. [clause 8.7.1]
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::object::Attribute;
use zeroize::Zeroize;

use super::super::{KeySpec, Past, Token, TokenError};
use super::class;
use super::inventory;
use super::session::Pkcs11Token;
use super::template::putting;
use crate::core::key::PublicKey;
use crate::core::key::import::Incoming;
use crate::secret::SecretBytes;

/// An attribute that holds the private half is wiped, whatever became of it.
fn wipe(template: &mut [Attribute]) {
    for attribute in template {
        if let Attribute::Value(bytes) = attribute {
            bytes.zeroize();
        }
    }
}

/// What a module says of a template that it does not take is about the key, and no sign that the token has gone.
fn refused(error: &Error) -> TokenError {
    match error {
        Error::Pkcs11(
            RvError::AttributeTypeInvalid
            | RvError::AttributeValueInvalid
            | RvError::TemplateIncomplete
            | RvError::DomainParamsInvalid,
            _,
        ) => TokenError::Unsupported(format!("it does not take such a key in ({error})")),
        _ => class(error),
    }
}

fn created(
    token: &mut Pkcs11Token,
    spec: &KeySpec,
    private: &SecretBytes<32>,
) -> Result<(PublicKey, Past), TokenError> {
    let incoming = Incoming::new(spec.algorithm, SecretBytes::copy_of(private.expose()))
        .map_err(|e| TokenError::Refused(e.sentence))?;
    let (mut hidden, open) = putting(spec, &token.profile, private.expose().to_vec(), &incoming.public());
    let mutation = Arc::clone(&token.mutation);
    {
        let _one_at_a_time = mutation.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = token.context.open_rw_session(token.slot).map_err(|e| class(&e));
        let put = writer.and_then(|writer| {
            writer.create_object(&hidden).and_then(|_| writer.create_object(&open)).map_err(|e| refused(&e))
        });
        wipe(&mut hidden);
        put?;
    }
    let there = |found: Option<PublicKey>| {
        found.ok_or_else(|| TokenError::Corrupt("the key that was put in is not there".into()))
    };
    let public = there(token.find(spec.reference)?)?;
    let handle = token.handle(spec.reference)?.ok_or(TokenError::Busy)?;
    let past = inventory::past(token.session()?, handle, spec.algorithm).map_err(|e| class(&e))?;
    Ok((public, past))
}

/// `C_CreateObject`, the whole template at once: there is no moment at which the key can be read or changed.
// [clause 8.7.1-o] what was not put in whole is taken out again
pub(super) fn import(
    token: &mut Pkcs11Token,
    spec: &KeySpec,
    private: &SecretBytes<32>,
) -> Result<(PublicKey, Past), TokenError> {
    // What is there already is not ours to take out.
    if token.find(spec.reference)?.is_some() {
        return Err(TokenError::Refused("a key with this id exists already".into()));
    }
    let outcome = created(token, spec, private);
    if outcome.is_err()
        && let Err(e) = token.destroy(spec.reference)
    {
        tracing::warn!("leftovers of a failed import may be in the token: {e}");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    // [clause 8.7.1-o] test
    #[test]
    fn a_key_that_is_not_taken_is_no_sign_that_the_token_has_gone() {
        let of = |rv| refused(&Error::Pkcs11(rv, Function::CreateObject));
        for rv in [RvError::AttributeValueInvalid, RvError::TemplateIncomplete] {
            assert!(matches!(of(rv), TokenError::Unsupported(_)));
        }
        assert!(matches!(of(RvError::TemplateInconsistent), TokenError::Refused(_)));
        assert!(matches!(of(RvError::DeviceRemoved), TokenError::Gone(_)));
    }

    #[test]
    fn a_template_that_held_a_key_is_wiped() {
        let mut template = [Attribute::Token(true), Attribute::Value(vec![7; 32])];
        wipe(&mut template);
        assert!(matches!(&template[1], Attribute::Value(v) if v.iter().all(|b| *b == 0)));
    }
}
