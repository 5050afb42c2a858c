//! The signing path: one request walks one way through the house.
//!
//! Every step may refuse; no step can be left out, because each hands the next one the proof that it demands.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::ledger::SignFacts;
use super::metrics::Stage;
use super::pending::Cancel;
use super::{House, Key, Peer};
use crate::core::payment::evm::UnsignedTx;
use crate::core::payment::message::PersonalMessage;
use crate::core::payment::{Payment, ToSign};
use crate::core::policy::window::Debit;
use crate::core::proof::{Recorded, RequestId, Reserved, Start, Vouched};
use crate::core::units::Address;
use crate::core::verify::CheckedSignature;
use crate::refusal::{Code, Refusal};
use crate::store::{Ask, EntryKind, NonceClaim, ReserveReply};
use crate::token::keeper::Sealed;

/// What an app asks to have signed.
#[derive(Clone)]
pub enum Asked {
    /// A transaction, and the account that shall pay.
    Transaction(Box<UnsignedTx>, Address),
    /// An EIP-191 personal message, and the account that shall sign.
    Message(PersonalMessage, Address),
}

/// What the app gets: made only from a checked signature and its durable record.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The request in the log.
    pub request: RequestId,
    /// `{raw, tx, hash}` for a transaction, `{signature}` for a message.
    pub body: Value,
}

impl Signed {
    fn new(_signature: CheckedSignature, recorded: &Recorded, body: Value) -> Self {
        Self { request: recorded.request(), body }
    }
}

/// A request that has been understood: steps 5 and 6 are behind it.
pub(super) struct Understood {
    key: Arc<Key>,
    asked: Asked,
    payment: Option<Payment>,
    to_sign: ToSign,
    digest: [u8; 32],
}

/// A refusal, and whether the log holds it already.
struct Stop {
    refusal: Refusal,
    logged: bool,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, logged: false }
    }
}

/// Signs, or refuses and says why. Either way it is in the log before this returns.
pub async fn sign(
    house: &House,
    peer: &Peer,
    request: RequestId,
    asked: Asked,
    cancel: &Cancel,
) -> Result<Signed, Refusal> {
    let began = Instant::now();
    let account = asked.account();
    let outcome = walk(house, peer, request, asked, cancel).await;
    house.metrics.stage(Stage::Whole, began.elapsed());
    match outcome {
        Ok(signed) => Ok(signed),
        Err(stop) if stop.logged => Err(stop.refusal),
        Err(stop) => Err(house.log_refusal(peer, Some(request), Some(account), stop.refusal).await),
    }
}

async fn walk(
    house: &House,
    peer: &Peer,
    request: RequestId,
    asked: Asked,
    cancel: &Cancel,
) -> Result<Signed, Stop> {
    let rules = house.rules();
    house.open_for_signing()?;
    let timed = Timer::start(house);
    let understood = understand(house, asked)?;
    timed.stop(Stage::Decode);

    let timed = Timer::start(house);
    let vouched = peer.vouch(&rules.apps, understood.digest)?;
    timed.stop(Stage::Caller);

    let timed = Timer::start(house);
    cancel.begin()?;
    let key = &understood.key;
    let (start, sealed) = house
        .keeper
        .payment(&key.record, understood.to_sign.clone())
        .map_err(|e| super::token_refusal(&e))?;
    let ask = understood.ask(request, &vouched, start);
    let reserved = match house.store.reserve(ask).await.map_err(|e| house.store_refusal(&e))? {
        ReserveReply::New(reserved) | ReserveReply::Again(reserved) => reserved,
        ReserveReply::Already { signature, request } => {
            return understood.again(&signature, request).map_err(Stop::from);
        }
        ReserveReply::Refused(refusal) => return Err(Stop { refusal, logged: true }),
    };
    timed.stop(Stage::Reserve);

    match release(house, peer, &understood, &reserved, sealed).await {
        Ok(signed) => Ok(signed),
        Err(refusal) => {
            // The reservation stays: whether the token signed is not always known.
            let failed = house.store.fail(request, refusal.code.as_str(), &refusal.sentence).await;
            if let Err(e) = failed {
                tracing::error!("the failure of request {request} could not be written down: {e}");
            }
            Err(Stop { refusal, logged: true })
        }
    }
}

/// The token has begun as soon as the request was decided; what it made is opened only now that the record is durable.
async fn release(
    house: &House,
    peer: &Peer,
    understood: &Understood,
    reserved: &Reserved,
    sealed: Sealed,
) -> Result<Signed, Refusal> {
    let timed = Timer::start(house);
    peer.unchanged()?;
    timed.stop(Stage::Recheck);

    let timed = Timer::start(house);
    let raw = sealed.open(reserved).await.map_err(|e| super::token_refusal(&e))?;
    timed.stop(Stage::Sign);

    let timed = Timer::start(house);
    // [clause 8.2.5-b] what the token returned is verified before anybody sees it
    let checked = understood.checked(&raw)?;
    let body = understood.asked.sealed(&checked)?;
    timed.stop(Stage::Verify);

    let timed = Timer::start(house);
    let recorded = house
        .store
        .finish(reserved.request(), *checked.bytes())
        .await
        .map_err(|e| house.store_refusal(&e))?;
    timed.stop(Stage::Record);
    Ok(Signed::new(checked, &recorded, body))
}

/// The same decision, without a signature and without a reservation.
pub async fn simulate(house: &House, app: &crate::core::units::Name, asked: Asked) -> Result<Value, Refusal> {
    let understood = understand(house, asked)?;
    let payment = json!(understood.payment);
    let facts = understood.facts(app.clone());
    let explanation = house.store.explain(Box::new(facts)).await.map_err(|e| house.store_refusal(&e))??;
    Ok(json!({"payment": payment, "decision": explanation}))
}

/// Steps 5 and 6: what is being paid, and with which key.
fn understand(house: &House, asked: Asked) -> Result<Understood, Refusal> {
    let account = asked.account();
    let key = house.keys().by_address(account).ok_or_else(|| {
        Refusal::new(Code::KeyUnknown, format!("no key of this daemon has the account {account}"))
    })?;
    key.record.may_pay()?;
    let (payment, to_sign) = match &asked {
        Asked::Transaction(tx, from) => {
            let payment = tx.payment(*from).map_err(|e| Refusal::new(e.code(), e.to_string()))?;
            (Some(payment), ToSign::Prehash(tx.signing_hash()))
        }
        Asked::Message(message, _) => (None, ToSign::Prehash(message.hash())),
    };
    let digest = to_sign.digest();
    Ok(Understood { key, asked, payment, to_sign, digest })
}

impl Asked {
    /// The account that shall sign.
    #[must_use]
    pub fn account(&self) -> Address {
        match self {
            Self::Transaction(_, account) | Self::Message(_, account) => *account,
        }
    }

    fn sealed(&self, checked: &CheckedSignature) -> Result<Value, Refusal> {
        Ok(match self {
            Self::Transaction(tx, _) => {
                let signed = tx.sealed(checked).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
                json!({
                    "raw": signed.raw_hex(),
                    "tx": signed.tx,
                    "hash": format!("0x{}", hex::encode(signed.hash)),
                })
            }
            Self::Message(message, _) => {
                json!({"signature": format!("0x{}", hex::encode(message.signature_bytes(checked)))})
            }
        })
    }
}

impl Understood {
    fn facts(&self, app: crate::core::units::Name) -> SignFacts {
        SignFacts {
            app,
            key: self.key.record.name.clone(),
            payment: self.payment.clone(),
            message_length: match &self.asked {
                Asked::Message(message, _) => message.len(),
                Asked::Transaction(..) => 0,
            },
            digest: self.digest,
        }
    }

    fn checked(&self, raw: &[u8; 64]) -> Result<CheckedSignature, Refusal> {
        let name = &self.key.record.name;
        self.key.verifier.check(&self.to_sign, raw).map_err(|e| {
            tracing::error!(key = %name, "the token returned a signature that does not verify: {e}");
            let why = format!("the signature by key {name} does not verify: {e}");
            Refusal::new(Code::SignatureInvalid, why)
        })
    }

    /// What was released before for the very same payload: it is checked like any other, and no token is asked.
    fn again(&self, signature: &[u8; 64], request: RequestId) -> Result<Signed, Refusal> {
        Ok(Signed { request, body: self.asked.sealed(&self.checked(signature)?)? })
    }

    fn ask(&self, request: RequestId, vouched: &Vouched, start: Start) -> Ask {
        let key = self.key.record.name.clone();
        let spent = self.payment.as_ref().and_then(|p| p.effect.debit());
        let debit = Debit {
            // The writer puts the time of its own clock here.
            at: crate::core::units::Timestamp(0),
            key: key.clone(),
            app: vouched.app().clone(),
            chain: self.payment.as_ref().map(|p| p.chain),
            asset: spent.map(|(asset, _)| asset),
            amount: spent.map(|(_, amount)| amount).unwrap_or_default(),
        };
        let nonce = match &self.asked {
            Asked::Message(..) => None,
            Asked::Transaction(tx, _) => Some(NonceClaim {
                chain: tx.chain(),
                nonce: tx.nonce(),
                payment_fingerprint: tx.content_digest(),
            }),
        };
        let act = match (&self.payment, &self.asked) {
            (Some(payment), _) => json!(payment),
            (None, Asked::Message(message, _)) => {
                json!({"kind": "message", "bytes": message.len(), "sha256": hex::encode(self.digest)})
            }
            (None, Asked::Transaction(..)) => Value::Null,
        };
        Ask {
            request,
            app: vouched.app().clone(),
            tier: vouched.tier(),
            key,
            act,
            digest: self.digest,
            debit,
            nonce,
            facts: Box::new(self.facts(vouched.app().clone())),
            start,
        }
    }
}

impl House {
    /// Writes a refusal down and hands it back. Strangers' refusals are rate-limited in the log, and counted.
    pub async fn log_refusal(
        &self,
        peer: &Peer,
        request: Option<RequestId>,
        account: Option<Address>,
        refusal: Refusal,
    ) -> Refusal {
        let app = peer.app(&self.rules().apps).ok().map(|a| a.id.clone());
        let suppressed = match &app {
            Some(_) => 0,
            None => match self.strangers.admit(self.clock_ms()) {
                Some(suppressed) => suppressed,
                None => return refusal,
            },
        };
        let entry = EntryKind::refusal(
            request.map(|r| r.to_string()),
            app.map(|a| a.to_string()),
            peer.describe(),
            account.map(|a| a.to_string()),
            &refusal,
            suppressed,
        );
        match self.store.append(entry).await {
            Ok(_) => refusal,
            Err(e) => {
                tracing::error!("a refusal ({refusal}) could not be written down: {e}");
                refusal
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
