//! Proves on a YubiHSM what its profile claims, by trying what must not succeed. [clause 8.2.5]
//!
//! Every refusal counts only beside a control: the same call must succeed where it may.
#![forbid(unsafe_code)]

use yubihsm::object::{Label, Type};
use yubihsm::{Capability, wrap};

use super::device::Inner;
use super::log::{
    DELETE_OBJECT, EXPORT_WRAPPED, GENERATE_ASYMMETRIC_KEY, GENERATE_HMAC_KEY, GENERATE_WRAP_KEY, SIGN_ECDSA,
    SIGN_EDDSA, SIGN_HMAC,
};
use super::session::YubihsmToken;
use super::{TokenError, objects, refusal};
use crate::core::key::{Algorithm, Purpose};
use crate::token::KeySpec;
use crate::token::check::{self, CheckRow, Claim, fresh_reference};

const GET_OPTION: u8 = 0x50;
const FORCE_AUDIT: u8 = 1;
const COMMAND_AUDIT: u8 = 3;
/// What is needed to try an export, with its control, and to clean up after it.
const EXPORTER: Capability =
    Capability::GENERATE_WRAP_KEY.union(Capability::DELETE_WRAP_KEY).union(Capability::EXPORT_WRAPPED);

/// All proofs. What they make they remove again.
pub(super) fn prove(token: &mut YubihsmToken) -> Result<Vec<CheckRow>, TokenError> {
    let profile = std::sync::Arc::clone(&token.device.profile);
    let mut rows = check::working(token, &profile.algorithms)?;
    if let Some(algorithm) = profile.algorithms.iter().copied().find(|a| a.is_pair()) {
        rows.extend(attacks(token, algorithm)?);
    }
    rows.push(rights(token)?);
    rows.push(own_log(token));
    Ok(rows)
}

fn spec(algorithm: Algorithm) -> Result<KeySpec, TokenError> {
    let purpose = Purpose::ALL.into_iter().find(|p| p.takes(algorithm)).unwrap_or(Purpose::Payment);
    Ok(KeySpec { reference: fresh_reference()?, label: "claviger-check".into(), algorithm, purpose })
}

/// A key that is removed again, whatever becomes of what is done with it.
fn with<T>(
    token: &YubihsmToken,
    inner: &mut Inner,
    spec: &KeySpec,
    capability: Capability,
    run: impl FnOnce(&mut Inner, u16) -> Result<T, TokenError>,
) -> Result<T, TokenError> {
    let id = token.make(inner, spec, capability)?;
    let outcome = run(inner, id);
    let kind = if spec.algorithm.is_pair() { Type::AsymmetricKey } else { Type::HmacKey };
    token.delete(inner, id, kind)?;
    outcome
}

/// Whether the device itself refused. Anything else is no proof.
fn refused<T>(outcome: Result<T, TokenError>) -> Result<bool, TokenError> {
    match outcome {
        Ok(_) => Ok(false),
        Err(TokenError::Refused(_)) => Ok(true),
        Err(e) if e == refusal(0x0b) => Ok(true),
        Err(e) => Err(e),
    }
}

fn sign(token: &YubihsmToken, inner: &mut Inner, id: u16, algorithm: Algorithm) -> Result<(), TokenError> {
    let device = &token.device;
    match algorithm {
        Algorithm::Ed25519 => {
            device.run(inner, true, Some((SIGN_EDDSA, id)), |c| c.sign_ed25519(id, [1].as_slice()).map(drop))
        }
        Algorithm::HmacSha256 => {
            device.run(inner, true, Some((SIGN_HMAC, id)), |c| c.sign_hmac(id, vec![1]).map(drop))
        }
        _ => device.run(inner, true, Some((SIGN_ECDSA, id)), |c| {
            c.sign_ecdsa_prehash_raw(id, vec![1; 32]).map(drop)
        }),
    }
}

/// What a thief with the PIN would try on a payment key.
fn attacks(token: &mut YubihsmToken, algorithm: Algorithm) -> Result<Vec<CheckRow>, TokenError> {
    let claims = token.device.profile.claims;
    let may_export = authentication_key(token)?.0.contains(EXPORTER);
    let token = &*token;
    let device = &token.device;
    let mut inner = device.lock();
    let right = objects::capability(algorithm)?;
    let pair = spec(algorithm)?;
    let (made, hidden, fixed, (kept, note), for_macs) =
        with(token, &mut inner, &pair, right, |inner, id| {
            let info = |inner: &mut Inner| {
                device.run(inner, true, None, |c| c.get_object_info(id, Type::AsymmetricKey))
            };
            let made = objects::recognise(&info(inner)?, pair.reference).map(drop);
            let hidden = refused(device.run(inner, true, None, |c| c.get_opaque(id)))?;
            let label = objects::label(pair.reference);
            let domain = objects::domain(pair.purpose);
            let more = right | Capability::EXPORTABLE_UNDER_WRAP;
            let Some(curve) = objects::curve(algorithm) else { return Err(objects::unsupported(algorithm)) };
            // No command changes an object; making it anew in its place must fail, and leave it as it was.
            let fixed = refused(device.run(inner, false, Some((GENERATE_ASYMMETRIC_KEY, id)), |c| {
                c.generate_asymmetric_key(id, label.clone(), domain, more, curve)
            }))? && objects::recognise(&info(inner)?, pair.reference).is_ok();
            let kept = exported(token, inner, id, algorithm, may_export)?;
            let for_macs = refused(sign(token, inner, id, Algorithm::HmacSha256))?;
            Ok((made, hidden, fixed, kept, for_macs))
        })?;
    let silent = with(token, &mut inner, &spec(algorithm)?, Capability::empty(), |inner, id| {
        refused(sign(token, inner, id, algorithm))
    })?;
    let mut rows = vec![
        CheckRow::from_outcome(Claim::MadeInside, claims.made_inside, &made),
        CheckRow::of(Claim::ValueHidden, claims.value_hidden, hidden && kept).with(note),
        CheckRow::of(Claim::AttributesFixed, claims.attributes_fixed, fixed),
        CheckRow::of(Claim::WrapRefused, claims.wrap_refused, kept).with(note),
        CheckRow::of(Claim::PurposeEnforced, claims.purpose_enforced, silent),
    ];
    if device.profile.algorithms.contains(&Algorithm::HmacSha256) {
        let capability = objects::capability(Algorithm::HmacSha256)?;
        let for_signing = with(token, &mut inner, &spec(Algorithm::HmacSha256)?, capability, |inner, id| {
            refused(sign(token, inner, id, algorithm))
        })?;
        rows.push(CheckRow::of(Claim::SecretPurposes, claims.purpose_enforced, for_signing && for_macs));
    }
    Ok(rows)
}

/// Whether a key of ours stays inside, and how that was seen.
fn exported(
    token: &YubihsmToken,
    inner: &mut Inner,
    id: u16,
    algorithm: Algorithm,
    may_export: bool,
) -> Result<(bool, &'static str), TokenError> {
    let device = &token.device;
    let export = |inner: &mut Inner, wrapper: u16, id: u16| {
        device.run(inner, true, Some((EXPORT_WRAPPED, wrapper)), |c| {
            c.export_wrapped(wrapper, Type::AsymmetricKey, id).map(drop)
        })
    };
    if !may_export {
        // Only the refusal of the right itself proves anything without a wrap key and a control.
        return Ok(match export(inner, 2, id) {
            Err(e) if e == refusal(0x09) => (true, "our authentication key may not export"),
            _ => (false, "our authentication key may export, but may make no wrap key to try it with"),
        });
    }
    let right = objects::capability(algorithm)? | Capability::EXPORTABLE_UNDER_WRAP;
    let free = spec(algorithm)?;
    let domain = objects::domain(free.purpose);
    let mut wrapper = None;
    for id in objects::ids(free.reference) {
        let made = device.run(inner, false, Some((GENERATE_WRAP_KEY, id)), |c| {
            let label = Label::from_bytes(b"claviger-check").unwrap_or_default();
            c.generate_wrap_key(
                id,
                label,
                domain,
                Capability::EXPORT_WRAPPED,
                right,
                wrap::Algorithm::Aes256Ccm,
            )
        });
        match made {
            Err(e) if e == refusal(0x11) => {}
            made => {
                wrapper = Some(made?);
                break;
            }
        }
    }
    let Some(wrapper) = wrapper else {
        return Err(TokenError::Refused("no object id is free for a wrap key".into()));
    };
    let kept = with(token, inner, &free, right, |inner, free| {
        Ok(export(inner, wrapper, free).is_ok() && refused(export(inner, wrapper, id))?)
    });
    token.delete(inner, wrapper, Type::WrapKey)?;
    Ok((kept?, "an exportable key was exported beside it, as it may"))
}

/// The rights of our authentication key, those that it may give, and its domains.
fn authentication_key(token: &YubihsmToken) -> Result<(Capability, Capability, yubihsm::Domain), TokenError> {
    let id = token.device.key_id;
    let mut inner = token.device.lock();
    let info =
        token.device.run(&mut inner, true, None, |c| c.get_object_info(id, Type::AuthenticationKey))?;
    Ok((info.capabilities, info.delegated_capabilities, info.domains))
}

/// What is stolen with the PIN should be no more than the daemon needs. A warning: nothing of it weakens a key.
fn rights(token: &YubihsmToken) -> Result<CheckRow, TokenError> {
    let (own, given, domains) = authentication_key(token)?;
    let usable = Capability::SIGN_ECDSA | Capability::SIGN_EDDSA | Capability::SIGN_HMAC;
    let mut over = Vec::new();
    if !objects::NEEDED.contains(own) {
        over.push(format!("capabilities {:#x}", own.difference(objects::NEEDED).bits()));
    }
    if !usable.contains(given) {
        over.push(format!("delegated capabilities {:#x}", given.difference(usable).bits()));
    }
    if !objects::domains().contains(domains) {
        over.push(format!("domains {:#x}", domains.difference(objects::domains()).bits()));
    }
    let note = if over.is_empty() {
        String::new()
    } else {
        format!("it has more than it needs: {}", over.join(", "))
    };
    Ok(CheckRow::of(Claim::LeastRights, false, over.is_empty()).with(&note))
}

/// Whether the device writes down what keys do, for us to read.
fn own_log(token: &YubihsmToken) -> CheckRow {
    let row = |found, note: &str| CheckRow::of(Claim::DeviceLog, false, found).with(note);
    if let Some(why) = token.device.blind() {
        return row(false, &format!("the log cannot be read: {why}"));
    }
    let mut inner = token.device.lock();
    let option = |inner: &mut Inner, number| token.device.own(inner, GET_OPTION, &[number]);
    let (audited, forced) = match (option(&mut inner, COMMAND_AUDIT), option(&mut inner, FORCE_AUDIT)) {
        (Ok(audited), Ok(forced)) => (audited, forced),
        (Err(e), _) | (_, Err(e)) => return row(false, &format!("its options cannot be read: {e}")),
    };
    let logs =
        |command: u8| audited.chunks_exact(2).any(|pair| matches!(pair, [c, on] if *c == command && *on > 0));
    let wanted =
        [SIGN_ECDSA, SIGN_EDDSA, SIGN_HMAC, GENERATE_ASYMMETRIC_KEY, GENERATE_HMAC_KEY, DELETE_OBJECT];
    if let Some(silent) = wanted.into_iter().find(|command| !logs(*command)) {
        return row(
            false,
            &format!("the audit of command {silent:#04x} is off: a stranger's would not be seen"),
        );
    }
    let forced = matches!(forced.as_slice(), [on] if *on > 0);
    row(true, if forced { "" } else { "force-audit is off: a full log is overwritten" })
}
