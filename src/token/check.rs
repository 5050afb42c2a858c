//! `token check`: proves on the device what its profile claims, and judges whether payment keys may live in it.
//! Cleans up after itself.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::profile::Profile;
use super::{KeySpec, Token, TokenError, Use};
use crate::core::key::{Algorithm, KeyRef, PublicKey, Purpose};
use crate::core::payment::ToSign;
use crate::core::random::{Health, STARTUP};
use crate::core::verify::Verifier;

/// What is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// An algorithm works from making a key to destroying it.
    Works(Algorithm),
    /// Keys are told apart, found by their ids, and gone when they were destroyed.
    Disciplined,
    /// The generator of random bytes passes the tests of SP 800-90B.
    RandomHealthy,
    /// Keys are made inside and say so.
    MadeInside,
    /// The private value cannot be read.
    ValueHidden,
    /// Protecting attributes cannot be changed.
    AttributesFixed,
    /// A copy protects as much as what it was copied from.
    CopyKeeps,
    /// A non-extractable key cannot be wrapped.
    WrapRefused,
    /// A key for trusted wrapping is not wrapped by an untrusted one.
    TrustedWrap,
    /// A key that is not for signing does not sign.
    PurposeEnforced,
    /// Secret keys do only what they were made for.
    SecretPurposes,
    /// A changed file of the embedded token is refused.
    SealHolds,
    /// The daemon's login to the token has no more rights than it needs.
    LeastRights,
    /// The token writes down what its keys do.
    DeviceLog,
    /// The token is hardware.
    Hardware,
}

impl Claim {
    /// For people.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::Works(algorithm) if algorithm.is_pair() => {
                format!("{algorithm}: make, sign, verify, destroy")
            }
            Self::Works(algorithm) => format!("{algorithm}: make, use, find again, destroy"),
            Self::Disciplined => "keys are told apart, found and destroyed by their ids".into(),
            Self::RandomHealthy => "random bytes pass the tests of SP 800-90B".into(),
            Self::MadeInside => "keys are made inside and say so".into(),
            Self::ValueHidden => "the private value cannot be read".into(),
            Self::AttributesFixed => "protecting attributes cannot be changed".into(),
            Self::CopyKeeps => "a copy protects as much as its original".into(),
            Self::WrapRefused => "a non-extractable key cannot be wrapped".into(),
            Self::TrustedWrap => "a key for trusted wrapping resists other wrapping keys".into(),
            Self::PurposeEnforced => "a key that is not for signing does not sign".into(),
            Self::SecretPurposes => "secret keys do only what they were made for".into(),
            Self::SealHolds => "a changed sealed file is refused".into(),
            Self::LeastRights => "the daemon's login has no more rights than it needs".into(),
            Self::DeviceLog => "the device writes down what its keys do".into(),
            Self::Hardware => "hardware".into(),
        }
    }

    /// Whether a token without it may hold no payment keys, whatever its profile says.
    #[must_use]
    pub fn is_needed_for_payments(self) -> bool {
        matches!(
            self,
            Self::Disciplined
                | Self::RandomHealthy
                | Self::MadeInside
                | Self::ValueHidden
                | Self::AttributesFixed
                | Self::CopyKeeps
                | Self::WrapRefused
                | Self::PurposeEnforced
                | Self::SealHolds
        )
    }
}

/// One proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckRow {
    /// Which.
    pub claim: Claim,
    /// What was tried.
    pub check: String,
    /// What the profile claims.
    pub claimed: bool,
    /// What the device did.
    pub found: bool,
    /// Whether the claim holds. A claim of less than the device does holds too.
    pub ok: bool,
    /// Whether payment keys need it.
    pub required: bool,
    /// More for people.
    pub note: String,
}

impl CheckRow {
    /// A row; it is good unless more is claimed than was found.
    #[must_use]
    pub fn of(claim: Claim, claimed: bool, found: bool) -> Self {
        Self {
            claim,
            check: claim.sentence(),
            claimed,
            found,
            ok: found || !claimed,
            required: claim.is_needed_for_payments(),
            note: String::new(),
        }
    }

    /// The same, with the reason of a failure.
    #[must_use]
    pub fn from_outcome(claim: Claim, claimed: bool, outcome: &Result<(), TokenError>) -> Self {
        let note = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Self::of(claim, claimed, outcome.is_ok()).with(&note)
    }

    /// Adds a note.
    #[must_use]
    pub fn with(self, note: &str) -> Self {
        Self { note: note.to_owned(), ..self }
    }
}

/// Whether payment keys may live in a token that did this; otherwise why not.
// [clause 8.2.5-a] a token that does not enforce what protects a key gets no payment keys
pub fn judge(profile: &Profile, rows: &[CheckRow]) -> Result<(), String> {
    let lacking: Vec<&str> =
        rows.iter().filter(|r| (r.required && !r.found) || !r.ok).map(|r| r.check.as_str()).collect();
    let mut reasons = Vec::new();
    if !lacking.is_empty() {
        reasons.push(format!("the token was tried and failed: {}", lacking.join("; ")));
    }
    if let Some(why) = &profile.payment_refused {
        reasons.push(format!("profile {} refuses payment keys: {why}", profile.name));
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons.join(". ")) }
}

/// A fresh id for a key that lives as long as the check.
pub(super) fn fresh_reference() -> Result<KeyRef, TokenError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
    Ok(KeyRef::from(bytes))
}

/// What holds for tokens of every kind. Each algorithm: makes a key, uses it, checks in software what can be checked,
/// destroys it, looks that it is gone.
/// A token that goes away meanwhile gets no verdict: it is tried again.
pub(super) fn working(token: &mut dyn Token, algorithms: &[Algorithm]) -> Result<Vec<CheckRow>, TokenError> {
    let mut rows = Vec::new();
    let mut row = |claim, outcome: Result<(), TokenError>| match outcome {
        Err(e) if e.is_no_verdict() => Err(e),
        outcome => {
            rows.push(CheckRow::from_outcome(claim, true, &outcome));
            Ok(())
        }
    };
    for algorithm in algorithms {
        row(Claim::Works(*algorithm), one(token, *algorithm))?;
    }
    if let Some(algorithm) = algorithms.iter().find(|a| a.is_pair()) {
        row(Claim::Disciplined, disciplined(token, *algorithm))?;
    }
    row(Claim::RandomHealthy, random_healthy(token))?;
    Ok(rows)
}

fn spec(reference: KeyRef, algorithm: Algorithm) -> KeySpec {
    KeySpec { reference, label: "claviger-check".into(), algorithm, purpose: Purpose::Payment }
}

/// Two keys under one name are two keys; what is not there neither signs nor is found.
fn disciplined(token: &mut dyn Token, algorithm: Algorithm) -> Result<(), TokenError> {
    let to_sign =
        if algorithm == Algorithm::Ed25519 { ToSign::Message(vec![3]) } else { ToSign::Prehash([3; 32]) };
    let (one, two, none) = (fresh_reference()?, fresh_reference()?, fresh_reference()?);
    let tried = (|| {
        let corrupt = |why: &str| Err(TokenError::Corrupt(why.into()));
        let (first, second) =
            (token.generate(&spec(one, algorithm))?, token.generate(&spec(two, algorithm))?);
        if first == second {
            return corrupt("two keys are one");
        }
        if token.find(one)? != Some(first) || token.find(two)? != Some(second) {
            return corrupt("a key is found as another one");
        }
        if token.find(none)?.is_some() || token.sign(none, algorithm, &to_sign).is_ok() {
            return corrupt("a key that is not there signs or is found");
        }
        token.destroy(one)?;
        if token.find(one)?.is_some() || token.sign(one, algorithm, &to_sign).is_ok() {
            return corrupt("a key that was destroyed signs or is found");
        }
        let verifier = Verifier::new(&second);
        let raw = token.sign(two, algorithm, &to_sign)?;
        if verifier.is_none_or(|v| v.check(&to_sign, &raw).is_err()) {
            return corrupt("the other key does not sign after one was destroyed");
        }
        Ok(())
    })();
    for reference in [one, two] {
        if token.find(reference).is_ok_and(|found| found.is_some()) {
            token.destroy(reference)?;
        }
    }
    tried
}

fn random_healthy(token: &mut dyn Token) -> Result<(), TokenError> {
    let mut drawn = Zeroizing::new([0; STARTUP]);
    token.random(drawn.as_mut_slice())?;
    Health::default()
        .feed(drawn.as_slice())
        .map_err(|why| TokenError::Corrupt(format!("its generator is not healthy: {why}")))
}

fn one(token: &mut dyn Token, algorithm: Algorithm) -> Result<(), TokenError> {
    let reference = fresh_reference()?;
    let public = token.generate(&spec(reference, algorithm))?;
    let outcome = match Use::of(algorithm) {
        Use::Sign => sign_some(token, reference, algorithm, &public),
        Use::Encrypt => encrypt_some(token, reference),
        Use::Mac => mac_some(token, reference),
        Use::Wrap => Ok(()),
    };
    let again = token.find(reference);
    token.destroy(reference)?;
    outcome?;
    if again? != Some(public) {
        return Err(TokenError::Corrupt("the key was found again as another one".into()));
    }
    match token.find(reference)? {
        None => Ok(()),
        Some(_) => Err(TokenError::Corrupt("the key is still there after it was destroyed".into())),
    }
}

fn sign_some(
    token: &mut dyn Token,
    reference: KeyRef,
    algorithm: Algorithm,
    public: &PublicKey,
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

fn encrypt_some(token: &mut dyn Token, reference: KeyRef) -> Result<(), TokenError> {
    let corrupt = |why: &str| Err(TokenError::Corrupt(why.into()));
    let (nonce, plain) = ([7; 12], b"a few words that shall stay between us");
    let mut sealed = token.encrypt(reference, nonce, b"beside", plain)?;
    if sealed.len() != plain.len() + 16 {
        return corrupt("the ciphertext has a wrong length");
    }
    if token.decrypt(reference, nonce, b"beside", &sealed)?.as_slice() != plain {
        return corrupt("it does not decrypt what it encrypted");
    }
    if let Some(first) = sealed.first_mut() {
        *first ^= 1;
    }
    match token.decrypt(reference, nonce, b"beside", &sealed) {
        Err(TokenError::Invalid(_)) => {}
        Err(e) => return Err(e),
        Ok(_) => return corrupt("it decrypts what was changed"),
    }
    if let Some(first) = sealed.first_mut() {
        *first ^= 1;
    }
    match token.decrypt(reference, nonce, b"above", &sealed) {
        Err(TokenError::Invalid(_)) => Ok(()),
        Err(e) => Err(e),
        Ok(_) => corrupt("it minds no associated data"),
    }
}

fn mac_some(token: &mut dyn Token, reference: KeyRef) -> Result<(), TokenError> {
    let (one, two) = (token.mac(reference, b"one")?, token.mac(reference, b"two")?);
    if one == two || token.mac(reference, b"one")? != one {
        return Err(TokenError::Corrupt("its MACs are no function of the data".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.5-a] test
    #[test]
    fn a_token_that_lacks_one_needed_thing_gets_no_payment_keys() {
        let mut profile = Profile::load("softhsm2").unwrap();
        let good = |claim| CheckRow::of(claim, true, true);
        let all =
            [Claim::MadeInside, Claim::ValueHidden, Claim::WrapRefused, Claim::TrustedWrap, Claim::Hardware];
        let rows: Vec<CheckRow> = all.into_iter().map(good).collect();
        assert_eq!(judge(&profile, &rows), Ok(()));
        // Not claimed and not found: needed things are needed all the same, others are not.
        for claim in all {
            let mut rows = rows.clone();
            rows.push(CheckRow::of(claim, false, false));
            assert_eq!(judge(&profile, &rows).is_err(), claim.is_needed_for_payments(), "{claim:?}");
            let mut rows = rows.clone();
            rows.push(CheckRow::of(claim, true, false));
            assert!(judge(&profile, &rows).unwrap_err().contains(&claim.sentence()));
        }
        profile.payment_refused = Some("because".into());
        assert!(judge(&profile, &rows).unwrap_err().contains("because"));
    }
}
