//! The methods of `operator.sock`. Only users that the configuration lists get past the first line.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::acts::acts_of;
use super::connection::Handler;
use super::{clip, discover, named, note_unreadable, serve_listed};
use crate::core::approval::Act;
use crate::core::key::import::Source;
use crate::core::key::{Algorithm, PublicKey, Purpose, State};
use crate::core::payment::evm::UnsignedTx;
use crate::core::proof::{RequestId, Tier};
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::secret::{Pin, SecretBytes};
use crate::service::balance::Left;
use crate::service::import::Import;
use crate::service::sign::{self, Asked, Payer};
use crate::service::{Chunk, House, Peer, keys};
use crate::wire::rpc::Request;

/// The operator side of one connection.
pub struct Operator {
    /// The house.
    pub house: Arc<House>,
    /// Who is on the other end.
    pub peer: Arc<Peer>,
}

impl Handler for Operator {
    async fn call(&self, request: Request) -> Result<Value, Refusal> {
        serve_listed(&self.house, &self.peer, discover::OPERATOR, request, |name, params| {
            self.dispatch(name, params)
        })
        .await
    }

    fn admit(&self, chunk: &Chunk) -> Result<(), Refusal> {
        self.peer.wrote(chunk)
    }

    fn unreadable(&self, refusal: &Refusal) {
        note_unreadable(&self.house, &self.peer, refusal);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyParams {
    name: String,
    purpose: Option<String>,
    algorithm: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedParams {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyParams {
    name: String,
    what: String,
    place: String,
    gone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextParams {
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainParams {
    app: Name,
    tier: Option<Tier>,
    transaction: Value,
    key: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProveParams {
    index: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogParams {
    from: Option<i64>,
    count: Option<u64>,
    raw: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveParams {
    name: String,
    to: String,
    reason: String,
    evidence: Option<String>,
    signature: Option<String>,
    waiver: Option<String>,
}

impl MoveParams {
    /// What is known of the account of a key that is to be destroyed.
    fn left(&mut self) -> Result<Left, Refusal> {
        let evidence = match (self.evidence.take(), self.signature.take()) {
            (Some(text), Some(signature)) => Some((text, signature)),
            (None, None) => None,
            _ => {
                let why = "a statement and the signature over it come together";
                return Err(Refusal::new(Code::InvalidParams, why));
            }
        };
        Ok(Left { evidence, waiver: self.waiver.take() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetParams {
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DutiesParams {
    app: String,
    duties: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateParams {
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReasonParams {
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApprovalParams {
    request: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VoiceParams {
    request: String,
    signature: String,
}

fn approval_id(text: &str) -> Result<RequestId, Refusal> {
    RequestId::parse(text)
        .ok_or_else(|| Refusal::new(Code::RequestUnknown, format!("{:?} is no request id", clip(text))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdoptParams {
    name: String,
    id: String,
    purpose: String,
}

/// The private half is taken over from the parser's own text, and wiped with it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportParams {
    name: String,
    purpose: String,
    algorithm: String,
    public: String,
    source: Source,
    private: Option<Zeroizing<String>>,
}

/// Nothing that is wrong with these is told in the words of the parser, which repeats what it was given.
fn imported(params: Value) -> Result<Import, Refusal> {
    let wrong = |what: &str| Refusal::new(Code::InvalidParams, format!("{what}; compare with rpc.discover"));
    let params: ImportParams =
        named(params).map_err(|_| wrong("the parameters are not those of an import"))?;
    let algorithm = Algorithm::parse(&params.algorithm).ok_or_else(|| wrong("there is no such algorithm"))?;
    let public = hex::decode(&params.public).ok().and_then(|b| PublicKey::from_bytes(algorithm, &b));
    let private =
        params.private.map(|text| SecretBytes::fill(|out| hex::decode_to_slice(text.as_str(), out)));
    Ok(Import {
        name: params.name,
        purpose: Purpose::parse(&params.purpose).ok_or_else(|| wrong("there is no such purpose"))?,
        public: public.ok_or_else(|| wrong("the public half is none"))?,
        source: params.source,
        private: private.transpose().map_err(|_| wrong("the private half is not 32 bytes in hex"))?,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewsParams {
    since: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuoteParams {
    nonce: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinParams {
    pin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PapersParams {
    text: String,
    signatures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScopeParams {
    scope: Option<String>,
}

impl Operator {
    async fn dispatch(&self, method: &'static str, params: Value) -> Result<Value, Refusal> {
        let (house, uid) = (&self.house, self.peer.uid);
        // [clause 8.2.1-a] whoever reaches this socket may carry an order: nothing but its signatures count
        if method == "operator_orderSend" {
            let params: PapersParams = named(params)?;
            return house.carry(&params.text, &params.signatures, "operator").await;
        }
        // [clause 8.2.3-a] who may operate is written down, and the kernel says who is asking
        if let Err(refusal) = house.permit(uid, acts_of(method, &params)) {
            return Err(house.log_refusal(&self.peer, None, None, refusal).await);
        }
        // No key is made or taken into use while an order stands against the device.
        if acts_of(method, &params).contains(&Act::Make) && method != "operator_incidentClose" {
            house.not_stopped()?;
        }
        match method {
            "rpc.discover" => Ok(discover::document(discover::OPERATOR, "claviger operator API")),
            "operator_status" => Ok(house.status()),
            "operator_keyCreate" => {
                let params: KeyParams = named(params)?;
                let one_of = |what: &str, text: &str| {
                    Refusal::new(Code::InvalidParams, format!("there is no {what} {:?}", clip(text)))
                };
                let purpose = match &params.purpose {
                    None => Purpose::Payment,
                    Some(text) => Purpose::parse(text).ok_or_else(|| one_of("purpose", text))?,
                };
                let algorithm = match &params.algorithm {
                    None => purpose.usual(),
                    Some(text) => Algorithm::parse(text).ok_or_else(|| one_of("algorithm", text))?,
                };
                let record = house.create_key(&params.name, algorithm, purpose, uid).await?;
                Ok(keys::describe(&record))
            }
            "operator_keyAdopt" => {
                let params: AdoptParams = named(params)?;
                let purpose = Purpose::parse(&params.purpose).ok_or_else(|| {
                    let why = format!("there is no purpose {:?}", clip(&params.purpose));
                    Refusal::new(Code::InvalidParams, why)
                })?;
                let record = house.adopt_key(&params.name, &params.id, purpose, uid).await?;
                Ok(keys::describe(&record))
            }
            "operator_keyImport" => house.import_key(imported(params)?, uid).await,
            "operator_keyMove" => {
                let mut params: MoveParams = named(params)?;
                let left = params.left()?;
                let to = State::parse(&params.to).ok_or_else(|| {
                    Refusal::new(Code::InvalidParams, format!("there is no state {:?}", clip(&params.to)))
                })?;
                let record = house.move_key(&params.name, to, &params.reason, left, uid).await?;
                Ok(keys::describe(&record))
            }
            "operator_keyRotate" => {
                let params: RotateParams = named(params)?;
                house.rotate_key(&params.name, &params.reason, uid).await
            }
            "operator_keysDue" => Ok(house.keys_due()),
            "operator_governance" => house.governance().await,
            "operator_approvals" => house.approvals().await,
            "operator_approval" => {
                let params: ApprovalParams = named(params)?;
                house.approval(approval_id(&params.request)?).await
            }
            "operator_approve" => {
                let params: VoiceParams = named(params)?;
                house.voice(&self.peer, approval_id(&params.request)?, &params.signature).await
            }
            "operator_changeWithdraw" => {
                let params: ApprovalParams = named(params)?;
                house.withdraw_change(approval_id(&params.request)?, uid).await
            }
            "operator_authorityShow" => Ok(house.authority_shown()),
            "operator_authorityApply" => {
                let params: TextParams = named(params)?;
                house.apply_authority(&params.text, uid).await
            }
            "operator_users" => house.users_shown().await,
            "operator_usersApply" => {
                let params: TextParams = named(params)?;
                house.apply_users(&params.text, uid).await
            }
            "operator_userReset" => {
                let params: ResetParams = named(params)?;
                house.reset_user(&params.name, &params.reason, uid).await
            }
            "operator_dutiesAck" => {
                let params: DutiesParams = named(params)?;
                house.acknowledge_for(&params.app, &params.duties, uid).await
            }
            "operator_userLock" => house.lock_all(uid).await,
            "operator_governanceNews" => {
                let params: NewsParams = named(params)?;
                let patience = Duration::from_millis(params.timeout_ms.unwrap_or(30_000).min(60_000));
                Ok(house.wait_for_governance(params.since.unwrap_or(0), patience).await)
            }
            "operator_orderStatus" => Ok(house.order_status()),
            "operator_orderChallenge" => {
                let params: ScopeParams = named(params)?;
                house.order_challenge(params.scope.as_deref().unwrap_or("all"), uid).await
            }
            "operator_orderReactivate" => {
                let params: PapersParams = named(params)?;
                house.order_reactivate(&params.text, &params.signatures).await
            }
            "operator_incidentOpen" => {
                let params: ReasonParams = named(params)?;
                house.open_incident(&params.reason, uid).await
            }
            "operator_incidentEvidence" => house.incident_evidence().await,
            "operator_incidentClose" => {
                let params: ReasonParams = named(params)?;
                house.close_incident(&params.reason, uid).await
            }
            "operator_leaseRequest" => house.lease_request(),
            "operator_deviceQuote" => {
                let params: QuoteParams = named(params)?;
                house.device_quote(&params.nonce).await
            }
            "operator_deviceFacts" => Ok(house.device_facts().await),
            "operator_inventory" => house.inventory().await,
            "operator_keyList" => {
                Ok(json!(house.keys().all().iter().map(|k| keys::describe(&k.record)).collect::<Vec<_>>()))
            }
            "operator_keyShow" => {
                let params: KeyParams = named(params)?;
                Name::parse(&params.name)
                    .and_then(|n| house.keys().exact(&n))
                    .map(|k| keys::describe(&k.record))
                    .ok_or_else(|| {
                        Refusal::new(
                            Code::KeyUnknown,
                            format!("there is no key named {:?}", clip(&params.name)),
                        )
                    })
            }
            "operator_appList" => Ok(house.app_list()),
            "operator_appShow" => {
                let params: NamedParams = named(params)?;
                house.app_shown(&params.name)
            }
            "operator_appRegistrations" => Ok(house.registrations()),
            "operator_appRevoke" => {
                let params: ResetParams = named(params)?;
                house.revoke_app(&params.name, &params.reason, uid).await
            }
            "operator_policyShow" => {
                let rules = house.rules();
                let books: Vec<Value> = rules.policy.signed_books().iter().map(keys::describe_book).collect();
                let hash = hex::encode(rules.policy.hash());
                let duties = house.duties_told();
                Ok(json!({"hash": hash, "text": rules.policy_text, "books": books, "duties": duties}))
            }
            "operator_policyDiff" => {
                let params: TextParams = named(params)?;
                let new = house.read_policy(&params.text)?;
                let change = crate::core::policy::diff(&house.rules().policy, &new);
                let (class, text) = (change.class().to_string(), change.to_string());
                Ok(json!({"class": class, "text": text, "changes": change.changes, "notes": new.lint()}))
            }
            "operator_policyReplay" => {
                let params: TextParams = named(params)?;
                house.replay_policy(&params.text).await
            }
            "operator_policyApply" => {
                let params: TextParams = named(params)?;
                house.apply_policy(&params.text, uid).await
            }
            "operator_policyExplain" => {
                let params: ExplainParams = named(params)?;
                let (tx, from) = UnsignedTx::from_args(&params.transaction)
                    .map_err(|e| Refusal::new(e.code(), e.to_string()))?;
                let payer = Payer { account: from, key: params.key };
                let tier = params.tier.unwrap_or(Tier::T1);
                sign::simulate(house, &params.app, tier, Asked::Transaction(Box::new(tx), payer)).await
            }
            "operator_logShow" => {
                let params: LogParams = named(params)?;
                let (from, count) = (params.from.unwrap_or(-20), params.count.unwrap_or(20));
                house.log_show(from, count, params.raw.unwrap_or(false)).await
            }
            "operator_logCheckpoints" => {
                let params: LogParams = named(params)?;
                let from = u64::try_from(params.from.unwrap_or(0)).unwrap_or(0);
                house.log_checkpoints(from).await
            }
            "operator_logProve" => {
                let params: ProveParams = named(params)?;
                house.log_prove(params.index).await
            }
            "operator_logHead" => house.log_head_signed().await,
            "operator_tokenCheck" => house.token_check(uid).await,
            "operator_keyCopies" => {
                let params: NamedParams = named(params)?;
                house.key_copies(&params.name).await
            }
            "operator_keyCopy" => {
                let CopyParams { name, what, place, gone } = named(params)?;
                house.key_copy(&name, &what, &place, gone.as_deref(), uid).await
            }
            "operator_backupList" => house.backup_list().await,
            "operator_backupMake" => {
                let params: NamedParams = named(params)?;
                house.backup_make(&params.name).await
            }
            "operator_backupVerify" => house.backup_verify().await,
            "operator_stateAccept" => {
                let params: ReasonParams = named(params)?;
                house.accept_state(&params.reason, uid).await
            }
            "operator_unlock" => {
                let params: PinParams = named(params)?;
                let pin = Pin::new(params.pin)
                    .ok_or_else(|| Refusal::new(Code::InvalidParams, "the PIN is empty or too long"))?;
                house.unlock(pin, uid).await
            }
            "operator_reload" => house.reload(uid).await,
            _ => Err(Refusal::new(Code::Internal, format!("{method} is listed and not served"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_with_unknown_members_are_refused() {
        assert!(named::<KeyParams>(json!({"name": "a", "extra": 1})).is_err());
        assert!(named::<LogParams>(Value::Null).is_ok());
        let canary = "c0ffee";
        for params in [json!([canary]), json!({canary: 1}), json!({"private": 1}), json!({"source": canary})]
        {
            let told = imported(params).map(drop).unwrap_err();
            assert!(!told.to_string().contains(canary), "{told}");
        }
        assert!(named::<TextParams>(json!([{"text": "x"}])).is_ok());
    }
}
