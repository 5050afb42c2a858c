//! Reserve, finish, fail: the write-ahead steps of a signature, inside the writer's transaction.
#![forbid(unsafe_code)]

use rusqlite::{OptionalExtension, params};

use super::open::Slot;
use super::schema::int;
use super::writer::Work;
use super::{Ask, Because, EntryKind, How, Kept, Ledger, NonceClaim, StoreError, Verdict, approvals, keys};
use crate::core::approval::Needs;
use crate::core::key::State;
use crate::core::order::against;
use crate::core::payment::Asset;
use crate::core::policy::window::Debit;
use crate::core::proof::{Decided, RequestId};
use crate::core::units::{U256, sha256};
use crate::core::user::step::{Claim, ROLLING_MS, Step};
use crate::refusal::{Code, Refusal};

/// How long a request without an outcome may be tried again without a new debit: the shortest window.
const RETRY_MS: i64 = 60_000;

/// The outcome before it is durable.
pub(super) enum Draft {
    New,
    Again,
    Already { signature: Kept, request: RequestId },
    Refused { refusal: Refusal, tripped: bool },
    Needs { needs: Needs, policy: [u8; 32] },
    Step(Step),
}

/// What stands under an account nonce.
struct Earlier {
    app: String,
    digest: [u8; 32],
    fingerprint: [u8; 32],
    request: [u8; 16],
    at: i64,
    signature: Option<Kept>,
}

pub(super) fn reserve(work: &mut Work, ask: Ask) -> Result<Draft, StoreError> {
    work.settled()?;
    let mut way = decide(work, &ask)?;
    // How long a destination is known is counted up to now before it is refused for that.
    if way.as_ref().is_err_and(|r| r.code == Code::DestinationNew) && work.count_on()? {
        way = decide(work, &ask)?;
    }
    match way {
        Ok(Way::Already { signature, request }) => Ok(Draft::Already { signature, request }),
        Ok(Way::Sign { verdict, debited, same }) => {
            // What people look at, or what was reserved before, is not measured against what is usual.
            if debited.is_none()
                && verdict.needs.is_none()
                && let Some(why) = strange(work, &ask, false)
            {
                let refusal = Refusal::new(Code::Tripped, why.clone());
                work.append(&refused(&ask, &refusal))?;
                mention(work, &ask)?;
                let tripped = stop(work, &ask, why)?;
                return Ok(Draft::Refused { refusal, tripped });
            }
            // What was reserved before, and had no outcome, was approved and confirmed then. A fee bump is another text.
            let again = same && debited.is_some();
            let mut approved = None;
            if let Some(needs) = &verdict.needs
                && !again
            {
                let policy = verdict.policy_hash;
                let found =
                    approvals::approved(work, &ask.app, &ask.key, &ask.digest, policy, ask.authority)?;
                // A rule that asks for more people since is another policy; this one asked for these.
                let Some(waiting) = found.filter(|w| w.needs == *needs) else {
                    return Ok(Draft::Needs { needs: needs.clone(), policy });
                };
                approved = Some(waiting);
            }
            if let Some(claim) = ask.present.claim()
                && !again
            {
                match step(work, &ask, claim, debited.is_some())? {
                    Step::People if approved.is_some() => {}
                    Step::People => return refuse(work, &ask, above(claim)),
                    needed if claim.enough(needed) => {}
                    needed => return Ok(Draft::Step(needed)),
                }
            }
            let mut people = Vec::new();
            if let Some(waiting) = approved {
                approvals::consume(work, &waiting)?;
                people = waiting.yes;
            }
            write_intent(work, &ask, &verdict, debited, people)?;
            (ask.start)(Decided::assertion(ask.digest, ask.request));
            Ok(if debited.is_some() { Draft::Again } else { Draft::New })
        }
        Err(refusal) => refuse(work, &ask, refusal),
    }
}

fn refuse(work: &mut Work, ask: &Ask, mut refusal: Refusal) -> Result<Draft, StoreError> {
    if let (Code::WindowExceeded | Code::StepUpPeople, Some(at)) = (refusal.code, work.filled()) {
        refusal.sentence.push_str(&format!(
            "; what was spent before {at} is not known, so that each window counts as full until it has passed"
        ));
    }
    work.append(&refused(ask, &refusal))?;
    let tripped = if refusal.code == Code::DestinationNew {
        let strange = strange(work, ask, true);
        mention(work, ask)?;
        strange.map_or(Ok(false), |why| stop(work, ask, why))?
    } else {
        trips(work, ask, refusal.code)?
    };
    Ok(Draft::Refused { refusal, tripped })
}

fn above(claim: &Claim) -> Refusal {
    let why = format!(
        "with this payment, what {} pays of this asset in a day is above what one person confirms, and the rule asks no people",
        claim.user.name
    );
    Refusal::new(Code::StepUpPeople, why)
}

/// The step that a payment takes, by what all keys of its user spent of the asset in a day, through whatever app.
// [clause 8.2.3-g] added up here, where the next payment is decided, so that two at once do not see the same room
fn step(work: &Work, ask: &Ask, claim: &Claim, counted: bool) -> Result<Step, StoreError> {
    let spent = ask.debit.chain.zip(ask.debit.asset).map(|(chain, asset)| (chain, asset, ask.debit.amount));
    let Some((chain, asset, _)) = spent else { return Ok(claim.needed(None, None, counted)) };
    let asset = match asset {
        Asset::Native => Vec::new(),
        Asset::Erc20(contract) => contract.0.to_vec(),
    };
    let since = work.now().minus(ROLLING_MS).0;
    // [clause 8.7.1-j] what was spent before a log was accepted is not known: until a day has passed, it may be anything
    let known = work.filled().is_none_or(|at| work.now().0.saturating_sub(at.0) >= ROLLING_MS);
    let mut sum = known.then_some(U256::ZERO);
    let mut query = work.db.prepare_cached(
        "SELECT amount FROM debits WHERE key = ?1 AND at >= ?2 AND chain = ?3 AND asset = ?4",
    )?;
    for line in &claim.user.keys {
        let rows = query.query_map(params![line.as_str(), since, int(chain.0), asset], |r| {
            r.get::<_, [u8; 32]>(0).map(U256::from_be_bytes)
        })?;
        for amount in rows {
            let amount = amount?;
            sum = sum.and_then(|s| s.checked_add(amount));
        }
    }
    Ok(claim.needed(spent, sum, counted))
}

/// Refusals that an honest app with a right policy hardly meets. What an app may not use at all is not among them, or
/// any app could stop any key.
const SUSPICIOUS: [Code; 9] = [
    Code::Forbidden,
    Code::AssetNotAllowed,
    Code::DestinationNotListed,
    Code::OverLimit,
    Code::WindowExceeded,
    Code::FeeTooHigh,
    Code::GrantNotAllowed,
    Code::ContractCallUnknown,
    Code::NonceConflict,
];

/// Counts a refusal, and suspends the key when it was one too many.
// [clause 8.4.3-c] somebody who tries the limits of a key loses it
fn trips(work: &mut Work, ask: &Ask, code: Code) -> Result<bool, StoreError> {
    let wire = work.ledger().ok().and_then(Ledger::tripwire);
    let (Some(wire), true) = (wire, SUSPICIOUS.contains(&code)) else { return Ok(false) };
    let Some(most) = wire.refusals else { return Ok(false) };
    let now = work.entry_time();
    let times = work.refusals.entry(ask.key.clone()).or_default();
    times.push_back(now);
    times.retain(|at| now.0.saturating_sub(at.0) < wire.within_ms);
    if times.len() < usize::try_from(most).unwrap_or(usize::MAX) {
        return Ok(false);
    }
    times.clear();
    stop(work, ask, format!("{most} refused payments in {} minutes", wire.within_ms / 60_000))
}

/// Suspends the key; whether it was one that could be.
fn stop(work: &mut Work, ask: &Ask, reason: String) -> Result<bool, StoreError> {
    let because = Because { actor: "tripwire".into(), reason, policy: [0; 32] };
    Ok(keys::go(work, &ask.key, State::Suspended, &because)?.is_ok())
}

/// Why the request is unlike what its key does.
// [clause 8.4.3-c] many destinations at once, or an amount far above what is usual, stop the key before it signs
fn strange(work: &Work, ask: &Ask, refused: bool) -> Option<String> {
    work.ledger().ok()?.strange(ask.facts.as_ref(), work.now(), refused)
}

/// Whom the request would have paid is known from now on.
fn mention(work: &mut Work, ask: &Ask) -> Result<(), StoreError> {
    ask.debit.to.map_or(Ok(()), |to| work.mention(&ask.debit.key, to))
}

enum Way {
    Already {
        signature: Kept,
        request: RequestId,
    },
    /// `same` when the very payload was reserved before, approved where that was asked for.
    Sign {
        verdict: Verdict,
        debited: Option<i64>,
        same: bool,
    },
}

fn decide(work: &Work, ask: &Ask) -> Result<Result<Way, Refusal>, StoreError> {
    if *ask.present.digest() != ask.digest {
        return Ok(Err(Refusal::new(Code::Internal, "the user was asked about another request")));
    }
    if let Some(back) = work.clock_stepped() {
        let why = format!("the clock stands {back} ms before the last entry of the log");
        return Ok(Err(Refusal::new(Code::ClockStepped, why)));
    }
    // [clause 8.2.1-a] asked once more where the request is reserved: an order that is durable stops the very next one
    if let Some(refusal) = against(&work.standing, &ask.app, &ask.key) {
        return Ok(Err(refusal));
    }
    let sweeping = match work.key_allows(&ask.key, ask.operation) {
        Ok(sweeping) => sweeping,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let earlier = match &ask.nonce {
        None => None,
        Some(claim) => earlier(work, ask, claim)?,
    };
    let rule = |debited, replacing| {
        let how = How { debited, sweeping, replacing };
        work.ledger().and_then(|l| l.decide(ask.facts.as_ref(), work.now(), how))
    };
    let (Some(earlier), Some(claim)) = (earlier, &ask.nonce) else {
        return Ok(rule(false, false).map(|verdict| Way::Sign { verdict, debited: None, same: false }));
    };
    // [clause 8.4.3-b] one nonce, one payment: the same payload gets the same signature, another one is refused
    let same = earlier.digest == ask.digest;
    if earlier.app != ask.app.as_str() || (!same && earlier.fingerprint != claim.payment_fingerprint) {
        tracing::warn!(key = %ask.key, nonce = claim.nonce, "another payment was asked for under a used nonce");
        return Ok(Err(conflict(ask, claim)));
    }
    // What was released stays debited where it was. What was not is free to try for as long as no window can have
    // let go of it; later it is debited again, or yesterday's reservation could be spent beside today's.
    let stands = earlier.signature.is_some() || work.now().0.saturating_sub(earlier.at) < RETRY_MS;
    let debited = stands.then_some(earlier.at);
    Ok(match (same, earlier.signature) {
        (true, Some(signature)) => {
            Ok(Way::Already { signature, request: RequestId(u128::from_be_bytes(earlier.request)) })
        }
        (true, None) => rule(stands, false).map(|verdict| Way::Sign { verdict, debited, same }),
        (false, _) => match rule(stands, true) {
            Ok(verdict) => Ok(Way::Sign { verdict, debited, same }),
            Err(_) => match rule(stands, false) {
                Ok(verdict) => Err(conflict(ask, claim).by_rule(verdict.rule.as_str())),
                Err(refusal) => Err(refusal),
            },
        },
    })
}

fn conflict(ask: &Ask, claim: &NonceClaim) -> Refusal {
    Refusal::new(
        Code::NonceConflict,
        format!("key {} was asked for another payload for nonce {} on {}", ask.key, claim.nonce, claim.chain),
    )
}

fn earlier(work: &Work, ask: &Ask, claim: &NonceClaim) -> Result<Option<Earlier>, StoreError> {
    let mut query = work.db.prepare_cached(
        "SELECT app, digest, fingerprint, request, at, signature FROM nonces WHERE key = ?1 AND chain = ?2 AND nonce = ?3",
    )?;
    let row = query.query_row(params![ask.key.as_str(), int(claim.chain.0), int(claim.nonce)], |r| {
        Ok(Earlier {
            app: r.get(0)?,
            digest: r.get(1)?,
            fingerprint: r.get(2)?,
            request: r.get(3)?,
            at: r.get(4)?,
            signature: r.get(5)?,
        })
    });
    Ok(row.optional()?)
}

fn write_intent(
    work: &mut Work,
    ask: &Ask,
    verdict: &Verdict,
    debited: Option<i64>,
    approved_by: Vec<String>,
) -> Result<(), StoreError> {
    work.append(&EntryKind::Intent {
        request: ask.request.to_string(),
        app: ask.app.to_string(),
        tier: format!("{:?}", ask.tier),
        key: ask.key.to_string(),
        act: ask.act.clone(),
        digest: hex::encode(ask.digest),
        rule: verdict.rule.to_string(),
        policy: hex::encode(verdict.policy_hash),
        debited: debited.is_none(),
        device: hex::encode(ask.device),
        approved_by,
        fingerprint: ask.nonce.as_ref().map(|claim| hex::encode(claim.payment_fingerprint)),
        user: ask.present.claim().map(|c| c.user.name.to_string()),
    })?;
    let request = ask.request.0.to_be_bytes();
    let at = debited.unwrap_or(work.entry_time().0);
    if debited.is_none() {
        let row = Debit { at: work.entry_time(), ..ask.debit.clone() };
        work.debit(&row)?;
    }
    let slot = match &ask.nonce {
        None => None,
        Some(claim) => {
            let slot = Slot { key: ask.key.clone(), chain: int(claim.chain.0), nonce: int(claim.nonce) };
            work.db
                .prepare_cached("INSERT OR REPLACE INTO nonces VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, NULL)")?
                .execute(params![
                    slot.key.as_str(),
                    slot.chain,
                    slot.nonce,
                    ask.app.as_str(),
                    ask.digest,
                    claim.payment_fingerprint,
                    request,
                    at
                ])?;
            Some(slot)
        }
    };
    work.open.begin(ask.request, slot);
    Ok(())
}

fn refused(ask: &Ask, refusal: &Refusal) -> EntryKind {
    let mut entry = EntryKind::refusal(
        Some(ask.request.to_string()),
        Some(ask.app.to_string()),
        String::new(),
        Some(ask.key.to_string()),
        refusal,
        0,
    );
    if let EntryKind::Refusal { act, caller, tier, .. } = &mut entry {
        *tier = Some(format!("{:?}", ask.tier));
        *act = Some(ask.act.clone());
        *caller = None;
    }
    entry
}

pub(super) fn finish(
    work: &mut Work,
    request: RequestId,
    signature: Option<&Kept>,
) -> Result<u64, StoreError> {
    let Ok(slot) = work.open.end(request) else {
        return Err(StoreError::Failed(format!("request {request} is not open")));
    };
    if let (Some(Slot { key, chain, nonce }), Some(signature)) = (slot, signature) {
        work.db
            .prepare_cached(
                "UPDATE nonces SET signature = ?4 WHERE key = ?1 AND chain = ?2 AND nonce = ?3 AND request = ?5",
            )?
            .execute(params![key.as_str(), chain, nonce, signature, request.0.to_be_bytes()])?;
    }
    work.append(&EntryKind::Result {
        request: request.to_string(),
        signature: signature.map(|s| hex::encode(sha256(s))),
    })
}

pub(super) fn fail(work: &mut Work, request: RequestId, entry: &EntryKind) -> Result<(), StoreError> {
    if work.open.end(request).is_ok() {
        work.append(entry)?;
    }
    Ok(())
}
