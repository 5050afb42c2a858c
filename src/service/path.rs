//! The one path: every use of a key walks it, whatever its purpose.
//!
//! Every step may refuse; no step can be left out, because each hands the next one the proof that it demands.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::keys::now;
use super::ledger::SignFacts;
use super::metrics::Stage;
use super::pending::Cancel;
use super::user::Decoded;
use super::{House, Key, Peer, Rules};
use crate::core::approval::Needs;
use crate::core::key::{KeyRecord, Operation};
use crate::core::payment::Payment;
use crate::core::payment::evm::UnsignedTx;
use crate::core::policy::window::Debit;
use crate::core::proof::{Digest, Present, Recorded, RequestId, Reserved, Start, Tier, Vouched};
use crate::core::units::{Name, Timestamp};
use crate::core::user::Claim;
use crate::core::verify::CheckedSignature;
use crate::refusal::{Code, Refusal};
use crate::store::{Ask, EntryKind, NonceClaim, ReserveReply, Waiting};
use crate::token::keeper::{Made, Sealed, Work};

/// What a request is, once it was understood, and what becomes of what the token makes of it.
pub(super) trait Deed {
    /// The key.
    fn key(&self) -> &Arc<Key>;
    /// What the token shall do.
    fn work(&self) -> Work;
    /// What the policy decides on.
    fn facts(&self, app: Name, tier: Tier, digest: [u8; 32]) -> SignFacts;
    /// What the log says of it.
    fn act(&self) -> Value;
    /// The account nonce that it uses.
    fn nonce(&self) -> Option<NonceClaim>;
    /// Checks what the token made, and turns it into the answer.
    fn checked(&self, house: &House, made: Made) -> Result<Checked, Refusal>;
    /// What people are shown when the policy asks for their approval.
    fn for_people(
        &self,
        house: &House,
        request: RequestId,
        asked: &Vouched,
        uid: u32,
        needs: Needs,
        policy: [u8; 32],
    ) -> Result<Waiting, Refusal>;
    /// What its user is shown when the sum of a day asks for more than a session: the payment, and its bytes.
    fn for_user(&self) -> Option<(&Payment, &UnsignedTx)>;
    /// The answer of a signature that was released before for the very same payload.
    fn again(&self, signature: &[u8; 64]) -> Result<Checked, Refusal>;
}

/// An answer that was checked; nobody has it before its record is durable.
pub(super) struct Checked {
    body: Value,
    signature: Option<CheckedSignature>,
}

impl Checked {
    /// Of a signature that verified.
    pub(super) fn signature(signature: CheckedSignature, body: Value) -> Self {
        Self { body, signature: Some(signature) }
    }

    /// Of anything else.
    pub(super) fn data(body: Value) -> Self {
        Self { body, signature: None }
    }
}

/// What the app gets: made only from a checked answer and its durable record.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The request in the log.
    pub request: RequestId,
    /// The members of the answer.
    pub body: Value,
    /// The line of the key that was used.
    pub key: Name,
}

impl Signed {
    fn new(checked: Checked, recorded: &Recorded, key: Name) -> Self {
        Self { request: recorded.request(), body: checked.body, key }
    }
}

/// The key, when it may be used for this now.
pub(super) fn usable(key: Arc<Key>, operation: Operation) -> Result<Arc<Key>, Refusal> {
    key.record.may(operation)?;
    Ok(key)
}

/// Walks the path, or refuses and says why. Either way it is in the log before this returns.
pub(super) async fn walk<D: Deed>(
    house: &House,
    peer: &Peer,
    request: RequestId,
    what: String,
    cancel: &Cancel,
    understand: impl FnOnce(&House) -> Result<D, Refusal>,
) -> Result<Signed, Refusal> {
    let began = Instant::now();
    let outcome = steps(house, peer, request, cancel, understand).await;
    house.metrics.stage(Stage::Whole, began.elapsed());
    match outcome {
        Ok(signed) => Ok(signed),
        Err(refusal) if refusal.written => Err(refusal),
        Err(refusal) => Err(house.log_refusal(peer, Some(request), Some(what), refusal).await),
    }
}

async fn steps<D: Deed>(
    house: &House,
    peer: &Peer,
    request: RequestId,
    cancel: &Cancel,
    understand: impl FnOnce(&House) -> Result<D, Refusal>,
) -> Result<Signed, Refusal> {
    // A rotation waits for what is under way, and holds back for a moment what comes.
    let _going = house.switch.read().await;
    let rules = house.rules();
    house.open_for_signing()?;
    house.device_is_fit()?;
    let timed = Timer::start(house);
    let deed = understand(house)?;
    let work = deed.work();
    let operation = work.operation();
    let digest = work.digest().map_err(|e| super::token_refusal(&e))?;
    timed.stop(Stage::Decode);

    let timed = Timer::start(house);
    let vouched = vouch(peer, &rules, digest).await.inspect_err(|_| house.app_failed(peer))?;
    timed.stop(Stage::Caller);
    let record = &deed.key().record;
    in_scope(&rules, &vouched, record)?;
    let payment = deed.for_user().map(|(payment, _)| payment);
    let present = house.present(peer, &vouched, &deed.key().record.line, payment)?;
    let claim = present.claim().cloned();
    if let Some(payment) = payment {
        house.fresh_device(payment).await?;
    }

    house.may_use(vouched.app(), &deed.key().record.line)?;
    let timed = Timer::start(house);
    cancel.begin()?;
    let (start, sealed) = house.keeper.begin(record, work, digest).map_err(|e| super::token_refusal(&e))?;
    let mut ask = ask(&deed, operation, request, &vouched, present, start);
    ask.authority = rules.authority.as_ref().map(|a| a.hash());
    ask.device = house.device.digest();
    let reserved = match house.store.reserve(ask).await.map_err(|e| house.store_refusal(&e))? {
        ReserveReply::New(reserved) | ReserveReply::Again(reserved) => reserved,
        ReserveReply::Already { signature, request } => {
            // It is checked like any other, and no token is asked.
            let key = deed.key().record.line.clone();
            return Ok(Signed { request, body: deed.again(&signature)?.body, key });
        }
        ReserveReply::Refused { refusal, tripped } => {
            if tripped {
                tracing::error!(key = %record.name, app = %vouched.app(), "a tripwire suspended the key: {refusal}");
                house.metrics.tripwires.inc();
                house.load_keys().await?;
            }
            return Err(refusal.in_the_log());
        }
        ReserveReply::Needs { needs, policy } => {
            let waiting = deed.for_people(house, request, &vouched, peer.uid, needs, policy)?;
            let refusal = super::approvals::waits(house, waiting).await?;
            return Err(refusal.in_the_log());
        }
        ReserveReply::Step(step) => {
            let asked = deed.for_user().zip(claim.as_ref());
            let ((payment, transaction), claim) = asked.ok_or_else(another_kind)?;
            let transaction = transaction.encode_unsigned();
            let decoded = Decoded { key: &record.name, payment, transaction };
            let refusal = house.ask_user(peer, request, &vouched, claim, step, decoded).await?;
            return Err(refusal.in_the_log());
        }
    };
    if claim.is_some() {
        house.presence.used(peer, &digest);
    }
    timed.stop(Stage::Reserve);

    let asker = Asker { peer, vouched: &vouched, claim: claim.as_ref() };
    match release(house, &asker, &deed, operation, &reserved, sealed).await {
        Ok(signed) => {
            // What was recorded as signed stays so; a program that took the process over does not get it.
            peer.still()?;
            Ok(signed)
        }
        Err(refusal) => {
            // The reservation stays: whether the token did it is not always known.
            let failed = house.store.fail(request, refusal.code.as_str(), &refusal.sentence).await;
            if let Err(e) = failed {
                tracing::error!("the failure of request {request} could not be written down: {e}");
            }
            Err(refusal.in_the_log())
        }
    }
}

/// Who asked, as far as it was shown.
#[derive(Clone, Copy)]
struct Asker<'a> {
    peer: &'a Peer,
    vouched: &'a Vouched,
    claim: Option<&'a Claim>,
}

/// The token has begun as soon as the request was decided; what it made is opened only now that the record is durable.
async fn release<D: Deed>(
    house: &House,
    asker: &Asker<'_>,
    deed: &D,
    operation: Operation,
    reserved: &Reserved,
    sealed: Sealed,
) -> Result<Signed, Refusal> {
    let Asker { peer, vouched, claim } = *asker;
    let timed = Timer::start(house);
    // By the rules of now: what was revoked meanwhile gets nothing.
    let rules = house.rules();
    in_scope(&rules, vouched, &deed.key().record)?;
    still_vouched(peer, &rules, vouched).await.inspect_err(|_| house.app_failed(peer))?;
    house.still_here(peer, claim.map(|c| &c.user.name))?;
    timed.stop(Stage::Recheck);

    let (app, line) = (vouched.app(), &deed.key().record.line);
    // [clause 8.2.1-a] an order that came meanwhile: what the token made stays sealed
    house.may_use(app, line)?;
    let timed = Timer::start(house);
    let made = sealed.open(reserved).await.map_err(|e| super::token_refusal(&e))?;
    timed.stop(Stage::Sign);

    // The token may have taken its time.
    house.may_use(app, line)?;
    // [clause 8.7.1-b] a key that was stopped meanwhile gives nothing out
    if let Some(now) = house.keys().exact(&deed.key().record.name) {
        now.record.may(operation)?;
    }
    let timed = Timer::start(house);
    // [clause 8.2.5-b] what the token returned is verified before anybody sees it
    let checked = deed.checked(house, made)?;
    timed.stop(Stage::Verify);

    let timed = Timer::start(house);
    let kept = checked.signature.as_ref().map(|s| *s.bytes());
    let recorded = house.store.finish(reserved.request(), kept).await.map_err(|e| house.store_refusal(&e))?;
    timed.stop(Stage::Record);
    Ok(Signed::new(checked, &recorded, line.clone()))
}

/// The one place where a registration's scope is asked, before the policy is.
fn in_scope(rules: &Rules, vouched: &Vouched, key: &KeyRecord) -> Result<(), Refusal> {
    rules.apps.in_scope(vouched.app(), &key.line, key.purpose)
}

impl House {
    /// What is known of somebody who only wants to know what would be decided.
    pub async fn tier_of(&self, peer: &Peer) -> Result<Tier, Refusal> {
        let rules = self.rules();
        Ok(vouch(peer, &rules, [0; 32]).await?.tier())
    }
}

/// The full check of who asks.
async fn vouch(peer: &Peer, rules: &Rules, digest: Digest) -> Result<Vouched, Refusal> {
    let seen = peer.looked_at(&rules.apps).await?;
    peer.vouch_seen(&rules.apps, &seen, digest, now())
}

/// The same once more.
async fn still_vouched(peer: &Peer, rules: &Rules, vouched: &Vouched) -> Result<(), Refusal> {
    let seen = peer.looked_at(&rules.apps).await?;
    peer.again(&rules.apps, &seen, vouched, now())
}

fn ask<D: Deed>(
    deed: &D,
    operation: Operation,
    request: RequestId,
    vouched: &Vouched,
    present: Present,
    start: Start,
) -> Ask {
    let key = deed.key().record.name.clone();
    let facts = deed.facts(vouched.app().clone(), vouched.tier(), *vouched.digest());
    let spent = facts.payment.as_ref().and_then(|p| p.effect.debit());
    let debit = Debit {
        // The writer puts the time of its own clock here.
        at: Timestamp(0),
        // A successor goes on where its predecessor was: rotation gives no fresh limits.
        key: deed.key().record.line.clone(),
        app: vouched.app().clone(),
        chain: facts.payment.as_ref().map(|p| p.chain),
        asset: spent.map(|(asset, _)| asset),
        to: facts.payment.as_ref().and_then(|p| p.effect.counterparty()),
        amount: spent.map(|(_, amount)| amount).unwrap_or_default(),
    };
    Ask {
        request,
        app: vouched.app().clone(),
        tier: vouched.tier(),
        present,
        key,
        operation,
        act: deed.act(),
        digest: *vouched.digest(),
        authority: None,
        device: [0; 32],
        debit,
        nonce: deed.nonce(),
        facts: Box::new(facts),
        start,
    }
}

/// What the token returned as a signature, verified.
pub(super) fn verified(
    key: &Key,
    to_sign: &crate::core::payment::ToSign,
    made: &[u8; 64],
) -> Result<CheckedSignature, Refusal> {
    let name = &key.record.name;
    key.verifier()?.check(to_sign, made).map_err(|e| {
        tracing::error!(key = %name, "the token returned a signature that does not verify: {e}");
        Refusal::new(Code::SignatureInvalid, format!("the signature by key {name} does not verify: {e}"))
    })
}

/// For the one case that no path leads to: an answer of another kind than what was asked.
pub(super) fn another_kind() -> Refusal {
    Refusal::new(Code::SignatureInvalid, "the token answered something else than what it was asked")
}

impl House {
    /// Writes a refusal down and hands it back. Strangers' refusals are rate-limited in the log, and counted.
    pub async fn log_refusal(
        &self,
        peer: &Peer,
        request: Option<RequestId>,
        what: Option<String>,
        refusal: Refusal,
    ) -> Refusal {
        let app = peer.app(&self.rules().apps).ok().map(|a| a.id.clone());
        // Strangers, and requests that nobody can read, do not fill the log; how many there were does stand there.
        let suppressed = if app.is_some() && !refusal.is_about_form() {
            0
        } else {
            match self.strangers.admit(self.clock_ms()) {
                Some(suppressed) => suppressed,
                None => return refusal.in_the_log(),
            }
        };
        let entry = EntryKind::refusal(
            request.map(|r| r.to_string()),
            app.map(|a| a.to_string()),
            peer.describe(),
            what,
            &refusal,
            suppressed,
        );
        match self.store.append(entry).await {
            Ok(_) => refusal.in_the_log(),
            Err(e) => {
                tracing::error!("a refusal ({refusal}) could not be written down: {e}");
                refusal.in_the_log()
            }
        }
    }
}

struct Timer<'a> {
    house: &'a House,
    began: Instant,
}

impl<'a> Timer<'a> {
    fn start(house: &'a House) -> Self {
        Self { house, began: Instant::now() }
    }

    fn stop(self, stage: Stage) {
        self.house.metrics.stage(stage, self.began.elapsed());
    }
}
