//! Whose signatures count: one of the revokers stops, several wipe, a quorum starts again. [clause 8.2.1]
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::{HEARTBEAT, Heartbeat, Lease, ORDER, Order, REACTIVATION, Reactivation};
use crate::core::approval::sshsig::{Signature, SshKey, SshSigError, verify};
use crate::core::approval::{Act, Authority, Needs, Voice, judge};
use crate::refusal::{Code, Refusal};

/// Most signatures of one document, and the longest of them in bytes: all of it fits into one entry of the log.
pub const MOST_SIGNATURES: usize = 8;
/// See [`MOST_SIGNATURES`].
pub const LONGEST_SIGNATURE: usize = 4096;

/// `[orders]` of the authority document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderTerms {
    /// Groups whose people may stop.
    pub revokers: BTreeSet<String>,
    /// How many of them it takes to wipe.
    pub wipe: u32,
    /// How many of whom it takes to start again; nobody can where nobody is named.
    pub reactivate: Option<Needs>,
    /// `[orders.lease]`.
    pub lease: Option<LeaseTerms>,
}

/// `[orders.lease]`: who says from time to time that this device is still in the right hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Its key. It lengthens what runs, and lifts nothing.
    pub key: SshKey,
    /// Longest time that one lease may give, milliseconds.
    pub max_ttl_ms: u64,
    /// How long signing goes on after the end of a lease, milliseconds.
    pub grace_ms: u64,
    /// Whether nothing is signed without one.
    pub required: bool,
}

fn refuse<T>(code: Code, why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(code, why))
}

fn checked(text: &str, namespace: &str, armoured: &str) -> Result<Signature, Refusal> {
    if armoured.len() > LONGEST_SIGNATURE {
        return refuse(Code::OrderMalformed, format!("a signature is longer than {LONGEST_SIGNATURE} bytes"));
    }
    verify(armoured, namespace, text.as_bytes()).map_err(|e| {
        let code = if e == SshSigError::Wrong { Code::OrderWrong } else { Code::OrderMalformed };
        Refusal::new(code, format!("a signature does not count: {e}"))
    })
}

fn counted(signatures: &[String]) -> Result<(), Refusal> {
    match signatures.len() {
        0 => refuse(Code::OrderWrong, "it bears no signature"),
        n if n > MOST_SIGNATURES => {
            refuse(Code::OrderMalformed, format!("{n} signatures are more than {MOST_SIGNATURES}"))
        }
        _ => Ok(()),
    }
}

fn no_orders() -> Refusal {
    Refusal::new(
        Code::OrderStranger,
        "the authority document has no [orders]: nobody is named who may stop this device",
    )
}

/// Whether a document is for this device, of this deployment.
// [clause 8.2.1-b] what was signed for another device counts for nothing here
pub fn addressed(deployment: &str, device: &str, here: (&str, &str)) -> Result<(), Refusal> {
    if deployment != here.0 {
        return refuse(
            Code::OrderOther,
            format!("it is for deployment {deployment}, and this is {}", here.0),
        );
    }
    if device != here.1 {
        return refuse(Code::OrderOther, format!("it is for device {device}, and this is {}", here.1));
    }
    Ok(())
}

/// The people behind an order; refused when they are not enough for its level.
// [clause 8.2.1-a] one of the revokers stops, so that nobody has to be waited for; one stolen key burns no money
pub fn order(authority: &Authority, order: &Order, signatures: &[String]) -> Result<Vec<String>, Refusal> {
    let terms = authority.orders().ok_or_else(no_orders)?;
    counted(signatures)?;
    let text = order.render();
    let wipes = order.level == super::Level::Wipe;
    let mut people = BTreeSet::new();
    for armoured in signatures {
        let signature = checked(&text, ORDER, armoured)?;
        let fingerprint = signature.key.fingerprint();
        let Some(person) = authority.person_of(&signature.key) else {
            return refuse(Code::OrderStranger, format!("no person has the key {fingerprint}"));
        };
        if authority.is_revoked(&fingerprint) {
            return refuse(Code::OrderStranger, format!("the key {fingerprint} of {} is revoked", person.id));
        }
        if person.groups.is_disjoint(&terms.revokers) || !person.may(Act::Stop) {
            let why = format!("{} is none of those whom [orders] lets stop this device", person.id);
            return refuse(Code::OrderStranger, why);
        }
        // No counter is compared: an order may have lain in a drawer while its key went on counting.
        match signature.presence {
            Some(presence) if !presence.touched => {
                return refuse(Code::ApprovalPresence, "the authenticator was not touched");
            }
            Some(presence) if wipes && !presence.verified => {
                return refuse(Code::ApprovalPresence, "the authenticator did not ask for its PIN");
            }
            Some(_) => {}
            None if authority.files_allowed => {}
            None => {
                let why =
                    format!("{fingerprint} is a key in a file, and the authority takes authenticators only");
                return refuse(Code::ApprovalPresence, why);
            }
        }
        people.insert(person.id.clone());
    }
    if wipes && !u32::try_from(people.len()).is_ok_and(|n| n >= terms.wipe) {
        let (have, need) = (people.len(), terms.wipe);
        return refuse(Code::OrderQuorum, format!("a wipe takes {need} people, and {have} signed"));
    }
    Ok(people.into_iter().collect())
}

/// The voices under a reactivation; refused when they are not enough, or one of them does not count.
// [clause 8.2.1-b] a quorum of distinct people, by the rules of approvals, none of whom asked for it
pub fn reactivation(
    authority: &Authority,
    asked: &Reactivation,
    signatures: &[String],
    last_counter: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<Voice>, Refusal> {
    let terms = authority.orders().ok_or_else(no_orders)?;
    if terms.reactivate.as_ref() != Some(&asked.needs) {
        let why = "the authority document names another quorum than this text: make a new challenge";
        return refuse(Code::ChallengeStale, why);
    }
    counted(signatures)?;
    let shown = asked.shown();
    let mut voices: Vec<Voice> = Vec::new();
    for armoured in signatures {
        let voice = judge(authority, &shown, asked.uid, REACTIVATION, armoured, &last_counter)?;
        if voices.iter().any(|v| v.person == voice.person) {
            let why = format!("{} signed twice; each person counts once", voice.person);
            return refuse(Code::ApprovalTwice, why);
        }
        voices.push(voice);
    }
    if !u32::try_from(voices.len()).is_ok_and(|n| n >= asked.needs.quorum) {
        let (need, of) = (asked.needs.quorum, &asked.needs.of);
        return refuse(Code::OrderQuorum, format!("it takes {need} of {of}, and {} signed", voices.len()));
    }
    Ok(voices)
}

/// Whether a lease bears the signature of the key that the authority document names for it.
pub fn lease(authority: &Authority, lease: &Lease, armoured: &str) -> Result<LeaseTerms, Refusal> {
    let terms = authority.orders().and_then(|t| t.lease.clone()).ok_or_else(|| {
        Refusal::new(Code::OrderStranger, "the authority document has no [orders.lease]: no lease counts")
    })?;
    let signature = checked(&lease.render(), super::LEASE, armoured)?;
    let fingerprint = signature.key.fingerprint();
    if signature.key != terms.key || authority.is_revoked(&fingerprint) {
        let why = format!("{fingerprint} is not the key of leases, or is revoked");
        return refuse(Code::OrderStranger, why);
    }
    Ok(terms)
}

/// The person behind a heartbeat: one of those who may stop, touching an authenticator where keys in files do not count.
pub fn heartbeat(authority: &Authority, beat: &Heartbeat, armoured: &str) -> Result<String, Refusal> {
    if beat.deployment != authority.deployment {
        let why = format!("it is for deployment {}, and this is {}", beat.deployment, authority.deployment);
        return refuse(Code::OrderOther, why);
    }
    let signature = checked(&beat.render(), HEARTBEAT, armoured)?;
    let fingerprint = signature.key.fingerprint();
    let person = authority.person_of(&signature.key).filter(|_| !authority.is_revoked(&fingerprint));
    let Some(person) = person.filter(|p| p.may(Act::Stop)) else {
        let why = format!("{fingerprint} is no key of somebody who may stop this deployment");
        return refuse(Code::OrderStranger, why);
    };
    match signature.presence {
        Some(presence) if presence.touched => Ok(person.id.clone()),
        None if authority.files_allowed => Ok(person.id.clone()),
        _ => refuse(Code::ApprovalPresence, "it takes an authenticator that was touched"),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
