//! The methods of `wallet.sock`: native, the Ethereum dialect, Clef's external API.
//!
//! Maps names and shapes to use cases. There is no method that signs a hash.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::Handler;
use super::{clip, discover, named, note_unreadable, operations, positional, serve_listed};
use crate::core::app::{App, ReplyShape};
use crate::core::payment::Chain;
use crate::core::payment::evm::UnsignedTx;
use crate::core::payment::message::PersonalMessage;
use crate::core::proof::RequestId;
use crate::core::units::{Address, Name};
use crate::refusal::{Code, Refusal};
use crate::service::operate;
use crate::service::pending::Cancel;
use crate::service::sign::{self, Asked, Payer, Signed};
use crate::service::{Chunk, House, Key, Peer, Rules};
use crate::wire::rpc::Request;

/// Longest time that `claviger_waitRequest` waits, milliseconds.
const LONGEST_WAIT: u64 = 60_000;

/// The wallet side of one connection.
pub struct Wallet {
    /// The house.
    pub house: Arc<House>,
    /// Who is on the other end.
    pub peer: Arc<Peer>,
}

impl Handler for Wallet {
    async fn call(&self, request: Request) -> Result<Value, Refusal> {
        let house = Arc::clone(&self.house);
        // What this request shows for itself counts for it alone.
        let (asking, refused) = match self.peer.of_request(request.proof) {
            Ok(peer) => (Self { house, peer: Arc::new(peer) }, None),
            Err(refusal) => (Self { house, peer: Arc::clone(&self.peer) }, Some(refusal)),
        };
        serve_listed(&self.house, &self.peer, discover::WALLET, request, |name, params| async move {
            match refused {
                Some(refusal) => Err(refusal),
                None => asking.dispatch(name, params).await,
            }
        })
        .await
        .map_err(|refusal| self.house.with_code(&self.peer, refusal))
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
struct PaymentParams {
    transaction: Value,
    key: Option<Name>,
    wait: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewsParams {
    since: Option<u64>,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitParams {
    request: String,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionParams {
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PinParams {
    pin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelParams {
    request: String,
}

impl Wallet {
    async fn dispatch(&self, method: &'static str, params: Value) -> Result<Value, Refusal> {
        match method {
            "rpc.discover" => return Ok(discover::document(discover::WALLET, "claviger wallet API")),
            "web3_clientVersion" => return Ok(json!(concat!("claviger/", env!("CARGO_PKG_VERSION")))),
            "account_version" => return Ok(json!("6.1.0")),
            "claviger_hello" => return Ok(json!({"nonce": hex::encode(self.peer.hello())})),
            _ => {}
        }
        let app = match self.app() {
            Ok(app) => app,
            Err(refusal) => return Err(self.house.log_refusal(&self.peer, None, None, refusal).await),
        };
        match method {
            "eth_accounts" | "account_list" => Ok(json!(self.accounts(&app))),
            "eth_chainId" => self.chain(&app).map(|c| json!(format!("{:#x}", c.0))),
            "eth_signTransaction" => {
                let [args] = positional::<1>(params, 0)?;
                let body = self.sign(self.transaction(&args, None).await?).await?.body;
                Ok(match app.eth_sign_transaction {
                    ReplyShape::String => body.get("raw").cloned().unwrap_or(Value::Null),
                    ReplyShape::Object => raw_and_tx(&body),
                })
            }
            "account_signTransaction" => {
                // The method selector of Clef is a hint for its interface; what counts is the call data.
                let [args, _selector] = positional::<2>(params, 1)?;
                let body = self.sign(self.transaction(&args, None).await?).await?.body;
                Ok(raw_and_tx(&body))
            }
            "personal_sign" => {
                let [data, account] = positional::<2>(params, 0)?;
                let asked = Asked::Message(message(&data)?, Payer::account(address(&account)?));
                let body = self.sign(asked).await?.body;
                Ok(body.get("signature").cloned().unwrap_or(Value::Null))
            }
            "claviger_status" => Ok(self.house.wallet_status()),
            "claviger_governance" => self.house.governance().await,
            "claviger_waitGovernance" => {
                let params: NewsParams = named(params)?;
                let patience =
                    Duration::from_millis(params.timeout_ms.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT));
                Ok(self.house.wait_for_governance(params.since.unwrap_or(0), patience).await)
            }
            "claviger_listKeys" => Ok(json!(self.keys(&app))),
            "claviger_signPayment" => self.sign_payment(&app, named(params)?).await,
            "claviger_simulatePayment" => {
                let params: PaymentParams = named(params)?;
                let asked = self.transaction(&params.transaction, params.key).await?;
                let tier = self.house.tier_of(&self.peer).await?;
                sign::simulate(&self.house, &app.id, tier, asked).await
            }
            "claviger_waitRequest" => {
                let params: WaitParams = named(params)?;
                let patience =
                    Duration::from_millis(params.timeout_ms.unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT));
                let id = request_id(&params.request)?;
                let told = match self.house.pending.wait(id, &app.id, patience).await {
                    // What waits for its user, or for people, is in no table of background requests.
                    Err(r) if r.code == Code::RequestUnknown => {
                        let by_user = self.house.wait_for_user(&self.peer, &app.id, id, patience).await;
                        let waited = match by_user {
                            Err(r) if r.code == Code::RequestUnknown => {
                                self.house.wait_for_approval(&self.peer, &app.id, id, patience).await?
                            }
                            other => other?,
                        };
                        waited.map(Ok)
                    }
                    other => other?,
                };
                match told {
                    None => Ok(json!({"request": params.request, "status": "pending"})),
                    // [clause 8.2.1-a] what waits to be fetched is not given out after an order
                    Some(Ok(signed)) => {
                        self.house.may_use(&app.id, &signed.key)?;
                        Ok(native(&signed))
                    }
                    Some(Err(refusal)) => Err(refusal),
                }
            }
            "claviger_cancelRequest" => {
                let params: CancelParams = named(params)?;
                let id = request_id(&params.request)?;
                let cancelled = match self.house.pending.cancel(id, &app.id) {
                    Err(r) if r.code == Code::RequestUnknown => {
                        self.house.cancel_ask(&self.peer, &app.id, id)
                            || self.house.cancel_approval(&app.id, id).await?
                            || return Err(r)
                    }
                    other => other?,
                };
                Ok(json!({"request": params.request, "cancelled": cancelled}))
            }
            "claviger_requestUser" => self.house.request_user(&self.peer),
            "claviger_userSession" => {
                let params: SessionParams = named(params)?;
                let patience = Duration::from_millis(params.timeout_ms.unwrap_or(0).min(LONGEST_WAIT));
                Ok(self.house.wait_for_session(&self.peer, patience).await)
            }
            "claviger_unlockUser" => {
                let params: PinParams = named(params)?;
                self.house.unlock_on_wallet_socket(&self.peer, super::user::pin(params.pin)?).await
            }
            _ => self.operate(method, params).await,
        }
    }

    async fn operate(&self, method: &str, params: Value) -> Result<Value, Refusal> {
        let read = match operations::read(method, params) {
            Ok(read) => read,
            Err(refusal) => return Err(self.house.log_refusal(&self.peer, None, None, refusal).await),
        };
        let (key, asked) = read;
        let request = self.house.next_request();
        let done = operate::operate(&self.house, &self.peer, request, key, asked).await?;
        let mut body = done.body;
        if let Some(map) = body.as_object_mut() {
            map.insert("request".into(), json!(done.request.to_string()));
        }
        Ok(body)
    }

    fn app(&self) -> Result<App, Refusal> {
        // What an app may see is nothing for a program that took its process over.
        self.peer.still()?;
        self.peer.app(&self.house.rules().apps).cloned()
    }

    fn accounts(&self, app: &App) -> Vec<String> {
        let rules = self.house.rules();
        let usable = |key: &Key| may_use(&rules, app, key);
        self.house
            .keys()
            .all()
            .iter()
            .filter(|k| usable(k))
            .filter_map(|k| k.record.public.evm_address().map(|a| a.lower_hex()))
            .collect()
    }

    fn keys(&self, app: &App) -> Vec<Value> {
        let rules = self.house.rules();
        self.house
            .keys()
            .all()
            .iter()
            .filter(|k| may_use(&rules, app, k))
            .map(|k| crate::service::keys::describe(&k.record))
            .collect()
    }

    fn chain(&self, app: &App) -> Result<Chain, Refusal> {
        if let Some(chain) = app.chain {
            return Ok(chain);
        }
        let rules = self.house.rules();
        let chains = rules.policy.chains();
        match (chains.first(), chains.len()) {
            (Some(chain), 1) => Ok(*chain),
            _ => Err(Refusal::new(
                Code::ChainUnknown,
                format!(
                    "the policy names {} chains; set chain for app {} in apps.toml",
                    chains.len(),
                    app.id
                ),
            )),
        }
    }

    /// Steps 5's first half: the bytes or fields become a transaction, and the account is settled.
    async fn transaction(&self, args: &Value, key: Option<Name>) -> Result<Asked, Refusal> {
        let outcome = Self::read_transaction(args, key);
        match outcome {
            Ok(asked) => Ok(asked),
            Err(refusal) => Err(self.house.log_refusal(&self.peer, None, None, refusal).await),
        }
    }

    fn read_transaction(args: &Value, key: Option<Name>) -> Result<Asked, Refusal> {
        let (tx, from) = match args {
            Value::String(text) => {
                let bytes = hex_bytes(text)?;
                let tx = UnsignedTx::decode(&bytes).map_err(|e| Refusal::new(e.code(), e.to_string()))?;
                (tx, None)
            }
            args => UnsignedTx::from_args(args).map_err(|e| Refusal::new(e.code(), e.to_string()))?,
        };
        Ok(Asked::Transaction(Box::new(tx), Payer { account: from, key }))
    }

    async fn sign(&self, asked: Asked) -> Result<Signed, Refusal> {
        let request = self.house.next_request();
        sign::sign(&self.house, &self.peer, request, asked, &Cancel::default()).await
    }

    async fn sign_payment(&self, app: &App, params: PaymentParams) -> Result<Value, Refusal> {
        let asked = self.transaction(&params.transaction, params.key).await?;
        if params.wait.unwrap_or(true) {
            return Ok(native(&self.sign(asked).await?));
        }
        let request = self.house.next_request();
        let (cancel, tell) = self.house.pending.open(request, app.id.clone())?;
        let (house, peer) = (Arc::clone(&self.house), Arc::clone(&self.peer));
        tokio::spawn(async move {
            let outcome = sign::sign(&house, &peer, request, asked, &cancel).await;
            tell.send_replace(Some(outcome));
        });
        Ok(json!({"request": request.to_string(), "status": "pending"}))
    }
}

/// Whether policy and registration let an app use a key, as far as can be said before it asks.
fn may_use(rules: &Rules, app: &App, key: &Key) -> bool {
    let record = &key.record;
    rules.policy.may_use(&app.id, &record.name)
        && app.scope.permits(&app.id, &record.line, record.purpose).is_ok()
}

fn native(signed: &Signed) -> Value {
    let mut body = signed.body.clone();
    if let Some(map) = body.as_object_mut() {
        map.insert("request".into(), json!(signed.request.to_string()));
        map.insert("status".into(), json!("signed"));
    }
    body
}

fn raw_and_tx(body: &Value) -> Value {
    json!({"raw": body.get("raw"), "tx": body.get("tx")})
}

pub(super) fn hex_bytes(text: &str) -> Result<Vec<u8>, Refusal> {
    let digits = text.strip_prefix("0x").ok_or_else(|| {
        Refusal::new(Code::InvalidParams, "bytes are written as 0x and an even number of hex digits")
    })?;
    hex::decode(digits)
        .map_err(|e| Refusal::new(Code::InvalidParams, format!("the hex digits are wrong: {e}")))
}

fn message(data: &Value) -> Result<PersonalMessage, Refusal> {
    let text =
        data.as_str().ok_or_else(|| Refusal::new(Code::InvalidParams, "the message must be 0x hex"))?;
    PersonalMessage::new(hex_bytes(text)?).map_err(|e| Refusal::new(Code::InvalidParams, e.to_string()))
}

fn address(value: &Value) -> Result<Address, Refusal> {
    value.as_str().and_then(Address::parse).ok_or_else(|| {
        Refusal::new(
            Code::InvalidParams,
            "the account must be a 0x address with a right checksum, or in one case",
        )
    })
}

fn request_id(text: &str) -> Result<RequestId, Refusal> {
    u128::from_str_radix(text, 16)
        .map(RequestId)
        .map_err(|_| Refusal::new(Code::RequestUnknown, format!("{:?} is no request id", clip(text))))
}
