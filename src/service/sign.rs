//! Payments and messages: what a wallet app asks to have signed with a payment key.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::keys::now;
use super::ledger::SignFacts;
pub use super::path::Signed;
use super::path::{self, Checked, Deed};
use super::pending::Cancel;
use super::{House, Key, Peer};
use crate::core::approval::Needs;
use crate::core::approval::text::PaymentText;
use crate::core::key::{Operation, State};
use crate::core::payment::evm::UnsignedTx;
use crate::core::payment::message::PersonalMessage;
use crate::core::payment::{Payment, ToSign};
use crate::core::policy::Act;
use crate::core::proof::{RequestId, Tier, Vouched};
use crate::core::units::{Address, Name};
use crate::core::verify::CheckedSignature;
use crate::refusal::{Code, Refusal};
use crate::store::{NonceClaim, Waiting, WaitingState};
use crate::token::keeper::{Made, Work};

/// How long people have, milliseconds.
const PATIENCE_MS: i64 = 24 * 3_600_000;

/// What an app asks to have signed.
#[derive(Clone)]
pub enum Asked {
    /// A transaction, and who shall pay.
    Transaction(Box<UnsignedTx>, Payer),
    /// An EIP-191 personal message, and who shall sign.
    Message(PersonalMessage, Payer),
}

/// Which key an app means. A name is looked up no earlier than the request walks the path: a rotation may come between.
#[derive(Clone, Debug)]
pub struct Payer {
    /// The account.
    pub account: Option<Address>,
    /// The name of the key.
    pub key: Option<Name>,
}

impl Payer {
    /// By its account.
    #[must_use]
    pub fn account(account: Address) -> Self {
        Self { account: Some(account), key: None }
    }

    fn find(&self, house: &House) -> Result<(Arc<Key>, Address), Refusal> {
        let keys = house.keys();
        let unknown = |why: String| Refusal::new(Code::KeyUnknown, why);
        let named = match &self.key {
            None => None,
            Some(name) => Some(
                keys.by_name(name)
                    .and_then(|key| key.record.public.evm_address().map(|address| (key, address)))
                    .ok_or_else(|| unknown(format!("there is no payment key named {name}")))?,
            ),
        };
        match (self.account, named) {
            (Some(from), Some((_, address))) if from != address => Err(unknown(format!(
                "the sender {from} is not the account {address} of the key that was named"
            ))),
            (_, Some(found)) => Ok(found),
            (Some(account), None) => keys
                .by_address(account)
                .map(|key| (key, account))
                .ok_or_else(|| unknown(format!("no key of this daemon has the account {account}"))),
            (None, None) => {
                Err(Refusal::new(Code::InvalidParams, "name the sender with from, or the key with key"))
            }
        }
    }
}

impl std::fmt::Display for Payer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.account, &self.key) {
            (Some(account), _) => account.fmt(f),
            (None, Some(key)) => key.fmt(f),
            (None, None) => f.write_str("nobody"),
        }
    }
}

/// A request that has been understood: steps 5 and 6 are behind it.
struct Understood {
    key: Arc<Key>,
    asked: Asked,
    payment: Option<Payment>,
    to_sign: ToSign,
}

/// Signs, or refuses and says why. Either way it is in the log before this returns.
pub async fn sign(
    house: &House,
    peer: &Peer,
    request: RequestId,
    asked: Asked,
    cancel: &Cancel,
) -> Result<Signed, Refusal> {
    let payer = asked.payer().to_string();
    path::walk(house, peer, request, payer, cancel, |house| understand(house, asked)).await
}

/// The same decision, without a signature and without a reservation.
pub async fn simulate(house: &House, app: &Name, tier: Tier, asked: Asked) -> Result<Value, Refusal> {
    let understood = understand(house, asked)?;
    let payment = json!(understood.payment);
    let record = &understood.key.record;
    house.rules().apps.in_scope(app, &record.line, record.purpose)?;
    let facts = understood.facts(app.clone(), tier, understood.to_sign.digest());
    let explanation = house.store.explain(Box::new(facts)).await.map_err(|e| house.store_refusal(&e))??;
    Ok(json!({"payment": payment, "decision": explanation}))
}

/// Steps 5 and 6: what is being paid, and with which key.
fn understand(house: &House, asked: Asked) -> Result<Understood, Refusal> {
    let (key, account) = asked.payer().find(house)?;
    let operation = match &asked {
        Asked::Transaction(..) => Operation::SignPayment,
        Asked::Message(..) => Operation::SignMessage,
    };
    let key = path::usable(key, operation)?;
    let (payment, to_sign) = match &asked {
        Asked::Transaction(tx, _) => {
            let payment = tx.payment(account).map_err(|e| Refusal::new(e.code(), e.to_string()))?;
            (Some(payment), ToSign::Prehash(tx.signing_hash()))
        }
        Asked::Message(message, _) => (None, ToSign::Prehash(message.hash())),
    };
    Ok(Understood { key, asked, payment, to_sign })
}

impl Asked {
    /// Who shall sign.
    #[must_use]
    pub fn payer(&self) -> &Payer {
        match self {
            Self::Transaction(_, payer) | Self::Message(_, payer) => payer,
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

impl Deed for Understood {
    fn key(&self) -> &Arc<Key> {
        &self.key
    }

    fn work(&self) -> Work {
        match self.asked {
            Asked::Transaction(..) => Work::Payment(self.to_sign.clone()),
            Asked::Message(..) => Work::Message(self.to_sign.clone()),
        }
    }

    fn facts(&self, app: Name, tier: Tier, digest: [u8; 32]) -> SignFacts {
        let other = match &self.asked {
            Asked::Message(message, _) => (Act::Message, message.len()),
            Asked::Transaction(..) => (Act::Create, 0),
        };
        let record = &self.key.record;
        SignFacts {
            app,
            tier,
            key: record.line.clone(),
            sweeping: record.state == State::SweepOnly,
            // A key that came back to life was looked at: what is unusual is told anew from there.
            looked_at: record.activated.filter(|first| record.since > *first).map(|_| record.since),
            payment: self.payment.clone(),
            other,
            digest,
        }
    }

    fn act(&self) -> Value {
        match (&self.payment, &self.asked) {
            (Some(payment), _) => json!(payment),
            (None, Asked::Message(message, _)) => {
                json!({"kind": "message", "bytes": message.len(), "sha256": hex::encode(self.to_sign.digest())})
            }
            (None, Asked::Transaction(..)) => Value::Null,
        }
    }

    fn nonce(&self) -> Option<NonceClaim> {
        match &self.asked {
            Asked::Message(..) => None,
            Asked::Transaction(tx, _) => Some(NonceClaim {
                chain: tx.chain(),
                nonce: tx.nonce(),
                payment_fingerprint: tx.content_digest(),
            }),
        }
    }

    fn checked(&self, _house: &House, made: Made) -> Result<Checked, Refusal> {
        let Made::Signature(raw) = made else { return Err(path::another_kind()) };
        self.again(&raw)
    }

    fn for_people(
        &self,
        house: &House,
        request: RequestId,
        asked: &Vouched,
        uid: u32,
        needs: Needs,
        policy: [u8; 32],
    ) -> Result<Waiting, Refusal> {
        let (Some(payment), Asked::Transaction(tx, _)) = (&self.payment, &self.asked) else {
            return Err(Refusal::new(Code::MessageNotAllowed, "only payments wait for approvals"));
        };
        let rules = house.rules();
        let authority =
            rules.authority.as_ref().filter(|_| rules.policy.hash() == policy).ok_or_else(|| {
                Refusal::new(Code::ApprovalStale, "the policy changed while this was read: ask again")
            })?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
        let expires = now().plus(PATIENCE_MS);
        let key = &self.key.record.name;
        let digest = *asked.digest();
        let shown = PaymentText { request, digest, app: asked.app(), key, payment, expires, nonce }.render(
            &rules.policy,
            authority,
            &needs,
        );
        Ok(Waiting {
            request,
            app: asked.app().clone(),
            uid,
            key: key.clone(),
            digest,
            transaction: tx.encode_unsigned(),
            account: payment.from,
            text: shown.text,
            needs,
            policy,
            authority: authority.hash(),
            expires,
            state: WaitingState::Waiting,
            yes: Vec::new(),
        })
    }

    fn for_user(&self) -> Option<(&Payment, &UnsignedTx)> {
        match (&self.payment, &self.asked) {
            (Some(payment), Asked::Transaction(tx, _)) => Some((payment, tx)),
            _ => None,
        }
    }

    fn again(&self, signature: &[u8; 64]) -> Result<Checked, Refusal> {
        let checked = path::verified(&self.key, &self.to_sign, signature)?;
        let body = self.asked.sealed(&checked)?;
        Ok(Checked::signature(checked, body))
    }
}
