//! What keys of the other purposes do: logins, encryption, MACs, random bits. [clause 8.7.2]
//!
//! The same path as a payment: the caller vouched for, the policy asked, the intent durable before the answer.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::ledger::SignFacts;
use super::path::{self, Checked, Deed, Signed};
use super::pending::Cancel;
use super::{House, Key, Peer};
use crate::core::approval::Needs;
use crate::core::key::Operation;
use crate::core::login::Login;
use crate::core::payment::Payment;
use crate::core::payment::evm::UnsignedTx;
use crate::core::policy::Act;
use crate::core::proof::{RequestId, Tier, Vouched};
use crate::core::random;
use crate::core::units::{Name, sha256};
use crate::refusal::{Code, Refusal};
use crate::store::{NonceClaim, RUN_INPUT, Waiting};
use crate::token::keeper::{Made, Work};
use crate::token::{CHECK_INPUT, CHECK_NONCE, Nonce};

/// Longest data of one request, bytes.
pub const LONGEST_DATA: usize = 32 * 1024;
/// Longest associated data, bytes.
pub const LONGEST_AAD: usize = 4096;

/// What an app asks a key to do.
#[derive(Clone)]
pub enum Asked {
    /// Sign a login challenge.
    Login(Login),
    /// Encrypt.
    Encrypt {
        /// What.
        plain: Zeroizing<Vec<u8>>,
        /// Beside it, in the open.
        aad: Vec<u8>,
    },
    /// Decrypt nonce, ciphertext and tag.
    Decrypt {
        /// What.
        sealed: Vec<u8>,
        /// Beside it, in the open.
        aad: Vec<u8>,
    },
    /// Make a MAC.
    Mac(Zeroizing<Vec<u8>>),
    /// Compare a MAC.
    VerifyMac {
        /// Of what.
        data: Zeroizing<Vec<u8>>,
        /// The MAC.
        mac: [u8; 32],
    },
    /// So many random bytes.
    Random(usize),
}

impl Asked {
    fn operation(&self) -> Operation {
        match self {
            Self::Login(_) => Operation::SignLogin,
            Self::Encrypt { .. } => Operation::Encrypt,
            Self::Decrypt { .. } => Operation::Decrypt,
            Self::Mac(_) => Operation::Mac,
            Self::VerifyMac { .. } => Operation::VerifyMac,
            Self::Random(_) => Operation::Random,
        }
    }

    fn act(&self) -> (Act, usize) {
        match self {
            Self::Login(login) => (Act::Login, login.message().len()),
            Self::Encrypt { plain, .. } => (Act::Encrypt, plain.len()),
            Self::Decrypt { sealed, .. } => (Act::Decrypt, sealed.len()),
            Self::Mac(data) => (Act::Mac, data.len()),
            Self::VerifyMac { data, .. } => (Act::VerifyMac, data.len()),
            Self::Random(length) => (Act::Random, *length),
        }
    }

    fn bounds(&self) -> Result<(), Refusal> {
        let wrong = |why: String| Err(Refusal::new(Code::InvalidParams, why));
        let (data, aad) = match self {
            Self::Login(_) => return Ok(()),
            Self::Random(length) if (1..=random::LONGEST).contains(length) => return Ok(()),
            Self::Random(_) => return wrong(format!("ask for 1 to {} random bytes", random::LONGEST)),
            Self::Encrypt { plain, aad } => (plain.as_slice(), aad.len()),
            Self::Decrypt { sealed, aad } => (sealed.as_slice(), aad.len()),
            Self::Mac(data) | Self::VerifyMac { data, .. } => (data.as_slice(), 0),
        };
        if data.len() > LONGEST_DATA || aad > LONGEST_AAD {
            return wrong(format!(
                "at most {LONGEST_DATA} bytes of data and {LONGEST_AAD} bytes of associated data"
            ));
        }
        // [clause 8.7.1-i] no MAC that an app gets is the key that seals a log, whatever key a changed log would name
        let reserved = [CHECK_INPUT, RUN_INPUT].iter().any(|input| data.starts_with(input));
        if matches!(self.operation(), Operation::Mac | Operation::VerifyMac) && reserved {
            return wrong("data that begins like an input of the daemon's own is not taken".into());
        }
        Ok(())
    }
}

/// Does it, or refuses and says why. Either way it is in the log before this returns.
///
/// What was protected before a rotation is processed by the generation that protected it: they are tried, newest first.
// [clause 8.7.1-g] apps read what they wrote by the name that they wrote it under
pub async fn operate(
    house: &House,
    peer: &Peer,
    request: RequestId,
    key: Name,
    asked: Asked,
) -> Result<Signed, Refusal> {
    let mut older = Vec::new();
    if matches!(asked.operation(), Operation::Decrypt | Operation::VerifyMac) {
        let able = |k: &Arc<Key>| k.record.may(asked.operation()).is_ok();
        older =
            house.keys().generations(&key).into_iter().filter(able).map(|k| k.record.name.clone()).collect();
        older.reverse();
    }
    let mut exactly = older.pop();
    let (mut request, what) = (request, key.to_string());
    loop {
        let asked = asked.clone();
        let which = exactly.clone();
        let understood = |house: &House| understand(house, &key, which.as_ref(), asked);
        let outcome = path::walk(house, peer, request, what.clone(), &Cancel::default(), understood).await;
        let not_this_one = match &outcome {
            Ok(signed) => signed.body.get("valid") == Some(&Value::Bool(false)),
            Err(refusal) => refusal.code == Code::DataInvalid,
        };
        match older.pop() {
            Some(next) if not_this_one => (exactly, request) = (Some(next), house.next_request()),
            _ => return outcome,
        }
    }
}

struct Understood {
    key: Arc<Key>,
    asked: Asked,
    work: Work,
}

fn fill<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
    Ok(bytes)
}

/// A nonce that no check value uses.
fn fresh_nonce() -> Result<Nonce, Refusal> {
    loop {
        let nonce = fill()?;
        if nonce != CHECK_NONCE {
            return Ok(nonce);
        }
    }
}

fn understand(
    house: &House,
    name: &Name,
    exactly: Option<&Name>,
    asked: Asked,
) -> Result<Understood, Refusal> {
    asked.bounds()?;
    let keys = house.keys();
    let key = exactly
        .and_then(|n| keys.exact(n))
        .or_else(|| keys.by_name(name))
        .ok_or_else(|| Refusal::new(Code::KeyUnknown, format!("there is no key named {name}")))?;
    // What is made of PINs is made for nobody else, or an app could try them itself.
    if super::user::is_pepper(&key.record.line) {
        let why = format!("key {} is the daemon's own", key.record.name);
        return Err(Refusal::new(Code::KeyNotAllowed, why));
    }
    // [clause 8.7.1-i] what seals the log makes no MACs for anybody else
    if super::seal::is_own(&key.record.line) {
        return Err(Refusal::new(Code::KeyPurpose, format!("key {name} is the daemon's own")));
    }
    let key = path::usable(key, asked.operation())?;
    let work = match &asked {
        Asked::Login(login) => Work::Login(login.to_sign(key.record.public.algorithm())),
        Asked::Encrypt { plain, aad } => {
            Work::Encrypt { nonce: fresh_nonce()?, aad: aad.clone(), plain: plain.clone() }
        }
        Asked::Decrypt { sealed, aad } => {
            let (nonce, rest) =
                sealed.split_first_chunk::<12>().filter(|(_, r)| r.len() >= 16).ok_or_else(|| {
                    Refusal::new(Code::DataInvalid, "shorter than a nonce of 12 bytes and a tag of 16")
                })?;
            if *nonce == CHECK_NONCE {
                return Err(Refusal::new(Code::DataInvalid, "no data was ever encrypted under this nonce"));
            }
            Work::Decrypt { nonce: *nonce, aad: aad.clone(), sealed: rest.to_vec() }
        }
        Asked::Mac(data) => Work::Mac(data.clone()),
        Asked::VerifyMac { data, .. } => Work::VerifyMac(data.clone()),
        Asked::Random(_) => Work::Random(Zeroizing::new(fill()?)),
    };
    Ok(Understood { key, asked, work })
}

fn hex0x(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

impl Deed for Understood {
    fn key(&self) -> &Arc<Key> {
        &self.key
    }

    fn work(&self) -> Work {
        self.work.clone()
    }

    fn facts(&self, app: Name, tier: Tier, digest: [u8; 32]) -> SignFacts {
        let key = self.key.record.line.clone();
        SignFacts {
            app,
            key,
            tier,
            sweeping: false,
            looked_at: None,
            payment: None,
            other: self.asked.act(),
            digest,
        }
    }

    fn act(&self) -> Value {
        let (act, bytes) = self.asked.act();
        match &self.asked {
            Asked::Login(login) => json!({"kind": act, "audience": login.audience(), "bytes": bytes}),
            Asked::Encrypt { aad, .. } => {
                json!({"kind": act, "bytes": bytes, "aad_sha256": hex::encode(sha256(aad))})
            }
            Asked::Decrypt { aad, sealed } => json!({
                "kind": act, "bytes": bytes, "aad_sha256": hex::encode(sha256(aad)),
                "ciphertext_sha256": hex::encode(sha256(sealed)),
            }),
            Asked::Mac(_) | Asked::VerifyMac { .. } | Asked::Random(_) => {
                json!({"kind": act, "bytes": bytes})
            }
        }
    }

    fn nonce(&self) -> Option<NonceClaim> {
        None
    }

    fn checked(&self, house: &House, made: Made) -> Result<Checked, Refusal> {
        match (&self.asked, &self.work, made) {
            (Asked::Login(login), Work::Login(to_sign), Made::Signature(raw)) => {
                let signature = path::verified(&self.key, to_sign, &raw)?;
                let body = json!({
                    "signature": hex0x(signature.bytes()),
                    "message": hex0x(&login.message()),
                    "algorithm": self.key.record.public.algorithm(),
                    "public_key": hex0x(self.key.record.public.as_bytes()),
                });
                Ok(Checked::signature(signature, body))
            }
            (Asked::Encrypt { .. }, Work::Encrypt { nonce, plain, .. }, Made::Bytes(sealed)) => {
                // A token that hands the text back as it was has not encrypted it.
                let leaks = plain.len() >= 16 && sealed.starts_with(plain);
                if sealed.len() != plain.len() + 16 || leaks {
                    return Err(path::another_kind());
                }
                let ciphertext = hex0x(&[nonce.as_slice(), &sealed].concat());
                Ok(Checked::data(json!({"ciphertext": ciphertext, "key": self.key.record.name})))
            }
            (Asked::Decrypt { .. }, _, Made::Bytes(plain)) => {
                Ok(Checked::data(json!({"plaintext": hex0x(&plain)})))
            }
            (Asked::Mac(_), _, Made::Tag(tag)) => {
                Ok(Checked::data(json!({"mac": hex0x(&tag), "key": self.key.record.name})))
            }
            (Asked::VerifyMac { mac, .. }, _, Made::Tag(tag)) => {
                Ok(Checked::data(json!({"valid": bool::from(tag.ct_eq(mac))})))
            }
            (Asked::Random(length), _, Made::Seed(seed, drawn)) => {
                house.healthy(drawn.as_slice())?;
                let bytes = random::expand(&seed, *length).ok_or_else(path::another_kind)?;
                Ok(Checked::data(json!({"random": hex0x(&bytes)})))
            }
            _ => Err(path::another_kind()),
        }
    }

    fn for_people(
        &self,
        _house: &House,
        _request: RequestId,
        _asked: &Vouched,
        _uid: u32,
        _needs: Needs,
        _policy: [u8; 32],
    ) -> Result<Waiting, Refusal> {
        Err(Refusal::new(Code::OperationNotAllowed, "only payments wait for approvals"))
    }

    fn for_user(&self) -> Option<(&Payment, &UnsignedTx)> {
        None
    }

    fn again(&self, _signature: &[u8; 64]) -> Result<Checked, Refusal> {
        Err(path::another_kind())
    }
}

impl House {
    /// Tests what the token's generator gave; after a failure it gives nothing any more.
    // [clause 8.7.2-c] a stuck source stops generation
    fn healthy(&self, drawn: &[u8]) -> Result<(), Refusal> {
        let mut health = self.health.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        health.feed(drawn).map_err(|why| {
            tracing::error!("the token's generator of random bytes is not healthy: {why}");
            Refusal::new(Code::RandomUnhealthy, format!("the token's generator is not healthy: {why}"))
        })
    }
}
