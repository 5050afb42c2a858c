//! `token check`: proves on the device what its profile claims. Cleans up after itself.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::{KeySpec, Token, TokenError};
use crate::core::key::{Algorithm, KeyRef, Purpose};
use crate::core::payment::ToSign;
use crate::core::verify::Verifier;

/// One proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRow {
    /// What was tried.
    pub check: String,
    /// What the profile claims.
    pub claimed: bool,
    /// What the device did.
    pub found: bool,
    /// Whether the claim holds. A claim of less than the device does holds too.
    pub ok: bool,
    /// More for people.
    pub note: String,
}

impl CheckRow {
    /// A row; it is good unless more is claimed than was found.
    #[must_use]
    pub fn of(check: impl Into<String>, claimed: bool, found: bool, note: &str) -> Self {
        Self { check: check.into(), claimed, found, ok: found || !claimed, note: note.to_owned() }
    }
}

/// A fresh id for a key that lives as long as the check.
pub(super) fn fresh_reference() -> Result<KeyRef, TokenError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
    Ok(KeyRef(bytes))
}

/// Each algorithm: makes a key, signs, verifies in software, destroys, looks that it is gone.
pub(super) fn signing(token: &mut dyn Token, algorithms: &[Algorithm]) -> Vec<CheckRow> {
    algorithms
        .iter()
        .map(|algorithm| {
            let outcome = one(token, *algorithm);
            let note = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
            CheckRow::of(format!("{algorithm}: make, sign, verify, destroy"), true, outcome.is_ok(), &note)
        })
        .collect()
}

fn one(token: &mut dyn Token, algorithm: Algorithm) -> Result<(), TokenError> {
    let reference = fresh_reference()?;
    let spec = KeySpec { reference, label: "claviger-check".into(), algorithm, purpose: Purpose::Payment };
    let public = token.generate(&spec)?;
    let outcome = sign_some(token, reference, algorithm, &public);
    token.destroy(reference)?;
    outcome?;
    match token.find(reference)? {
        None => Ok(()),
        Some(_) => Err(TokenError::Corrupt("the key is still there after it was destroyed".into())),
    }
}

fn sign_some(
    token: &mut dyn Token,
    reference: KeyRef,
    algorithm: Algorithm,
    public: &crate::core::key::PublicKey,
) -> Result<(), TokenError> {
    let verifier =
        Verifier::new(public).ok_or_else(|| TokenError::Corrupt("its public key is no point".into()))?;
    for n in 0..8u8 {
        let to_sign = if algorithm == Algorithm::Ed25519 {
            ToSign::Message(vec![n; 40])
        } else {
            ToSign::Prehash([n; 32])
        };
        let raw = token.sign(reference, algorithm, &to_sign)?;
        let _checked = verifier.check(&to_sign, &raw).map_err(|e| TokenError::Corrupt(e.to_string()))?;
    }
    Ok(())
}
