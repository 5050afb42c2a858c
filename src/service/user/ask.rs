//! Payments that wait for their user: shown as the daemon decoded them, confirmed on the user's own socket, signed when
//! their app comes back for them. In memory alone, like the session that they belong to.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::{Value, json};

use super::super::keys::now;
use super::super::pending::Cancel;
use super::super::sign::{Asked, Payer, Signed, sign};
use super::super::{House, Peer, Tie};
use super::{Presence, is};
use crate::core::log::user::UserEvent;
use crate::core::payment::Payment;
use crate::core::payment::evm::UnsignedTx;
use crate::core::proof::{Digest, RequestId, Vouched};
use crate::core::units::{Address, Name};
use crate::core::user::{CONFIRM, Claim, Step, User, UserText, fido2, text};
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use crate::store::EntryKind;
use crate::sys;

/// How long a payment waits for its user, milliseconds.
const PATIENCE_MS: u64 = 900_000;
/// Most that wait for one connection, and in all.
const MOST_OF_ONE: usize = 32;
const MOST: usize = 1024;
/// How often one that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Confirmed(Step),
    Refused,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Confirmed(_) => "confirmed",
            Self::Refused => "refused",
        }
    }
}

/// A payment that waits.
pub(in crate::service) struct Wanted {
    pub(super) peer: Tie,
    pub(super) user: Name,
    /// Milliseconds since the machine was started.
    pub(super) expires: u64,
    app: Name,
    key: Name,
    digest: Digest,
    step: Step,
    text: String,
    transaction: Vec<u8>,
    account: Address,
    state: State,
}

/// What is asked for, as the path understood it.
pub(in crate::service) struct Decoded<'a> {
    pub(in crate::service) key: &'a Name,
    pub(in crate::service) payment: &'a Payment,
    pub(in crate::service) transaction: Vec<u8>,
}

/// What a user says to a payment.
pub struct Confirmation {
    /// Which.
    pub request: RequestId,
    /// SHA-256 of what they were shown will be signed.
    pub digest: Digest,
    /// Their PIN.
    pub pin: Pin,
    /// SSHSIG of their authenticator over the text.
    pub signature: Option<String>,
    /// A FIDO2 assertion, as `fido2-assert -G` prints it.
    pub asserted: Option<String>,
}

impl Wanted {
    fn open(&self, now: u64) -> bool {
        now < self.expires && self.peer.is_open()
    }

    fn describe(&self, request: RequestId, now: u64) -> Value {
        json!({
            "request": request.to_string(),
            "status": self.state.as_str(),
            "user": self.user,
            "app": self.app,
            "key": self.key,
            "step": self.step,
            "digest": hex::encode(self.digest),
            "expires_seconds": self.expires.saturating_sub(now) / 1000,
        })
    }
}

fn unknown(request: RequestId) -> Refusal {
    Refusal::new(Code::RequestUnknown, format!("no payment {request} waits for its user"))
}

impl Presence {
    /// The highest step that was taken for this payload on this connection.
    // [clause 8.2.3-g] looked up by the digest of what will be signed: what was changed after it was shown is not confirmed
    pub(super) fn confirmed(&self, peer: &Peer, user: &Name, digest: &Digest) -> Option<Step> {
        let (inner, now) = (self.inner(), sys::since_boot());
        let ours = inner
            .asks
            .values()
            .filter(|a| is(&a.peer, peer) && a.user == *user && a.digest == *digest && a.open(now));
        ours.filter_map(|a| if let State::Confirmed(step) = a.state { Some(step) } else { None }).max()
    }

    /// What was confirmed is reserved: it is used up.
    pub(in crate::service) fn used(&self, peer: &Peer, digest: &Digest) {
        self.inner().asks.retain(|_, a| !(is(&a.peer, peer) && a.digest == *digest));
    }

    /// The state of one, for the connection that asked.
    fn look(
        &self,
        peer: &Peer,
        app: &Name,
        request: RequestId,
    ) -> Result<(State, Vec<u8>, Address), Refusal> {
        let (inner, now) = (self.inner(), sys::since_boot());
        let ours = inner.asks.get(&request).filter(|a| is(&a.peer, peer) && a.app == *app);
        let ask = ours.filter(|a| a.open(now)).ok_or_else(|| unknown(request))?;
        Ok((ask.state, ask.transaction.clone(), ask.account))
    }
}

impl House {
    /// A payment needs its user: it is put before them. Gives the refusal that tells its app.
    pub(in crate::service) async fn ask_user(
        &self,
        peer: &Peer,
        request: RequestId,
        vouched: &Vouched,
        claim: &Claim,
        step: Step,
        decoded: Decoded<'_>,
    ) -> Result<Refusal, Refusal> {
        let clock = sys::since_boot();
        let user = &claim.user.name;
        let Decoded { key, payment, transaction } = decoded;
        let told = |id: RequestId, ask: &Wanted| {
            let why = format!(
                "{user} must confirm this payment ({}): claviger user confirm {id}",
                if step == Step::Fido { "PIN and authenticator" } else { "PIN" }
            );
            Refusal::new(Code::StepUpNeeded, why).with(ask.describe(id, clock))
        };
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
        let rules = self.rules();
        let text = UserText {
            origin: &self.config.log.origin,
            user,
            request,
            digest: *vouched.digest(),
            app: vouched.app(),
            tier: vouched.tier(),
            caller: &peer.describe(),
            key,
            payment,
            step,
            expires: now().plus(i64::try_from(PATIENCE_MS).unwrap_or(0)),
            nonce,
        }
        .render(&rules.policy);
        let refusal = {
            let mut inner = self.presence.inner();
            inner.asks.retain(|_, a| a.open(clock));
            let same = |a: &Wanted| {
                is(&a.peer, peer)
                    && a.user == *user
                    && a.digest == *vouched.digest()
                    && a.step == step
                    && a.state == State::Waiting
            };
            if let Some((id, there)) = inner.asks.iter().find(|(_, a)| same(a)) {
                return Ok(told(*id, there));
            }
            let of_one = inner.asks.values().filter(|a| is(&a.peer, peer)).count();
            if of_one >= MOST_OF_ONE || inner.asks.len() >= MOST {
                let why = format!(
                    "{MOST_OF_ONE} payments of a connection, or {MOST} of all, wait for users already"
                );
                return Err(Refusal::new(Code::Busy, why));
            }
            let session = inner.sessions.iter().find(|s| is(&s.peer, peer) && s.user == *user);
            let Some(connection) = session.map(|s| s.peer.clone()) else {
                let why = format!("the session of {user} ended while this was decided");
                return Err(Refusal::new(Code::UserLocked, why));
            };
            let ask = Wanted {
                peer: connection,
                user: user.clone(),
                expires: clock.saturating_add(PATIENCE_MS),
                app: vouched.app().clone(),
                key: key.clone(),
                digest: *vouched.digest(),
                step,
                text: text.clone(),
                transaction,
                account: payment.from,
                state: State::Waiting,
            };
            let refusal = told(request, &ask);
            inner.asks.insert(request, ask);
            refusal
        };
        self.metrics.user_steps.inc();
        tracing::info!(%request, %user, step = step.as_str(), "a payment waits for its user");
        let event = UserEvent::Asked {
            request: request.to_string(),
            user: user.to_string(),
            step: step.as_str().to_owned(),
            text,
        };
        self.store.append(EntryKind::User(event)).await.map_err(|e| self.store_refusal(&e))?;
        Ok(refusal)
    }

    /// What waits for a user.
    pub fn asked_of(&self, peer: &Peer) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let (inner, clock) = (self.presence.inner(), sys::since_boot());
        let mut list: Vec<(u64, Value)> = inner
            .asks
            .iter()
            .filter(|(_, a)| a.user == user.name && a.open(clock) && a.state == State::Waiting)
            .map(|(id, a)| {
                let mut shown = a.describe(*id, clock);
                if let Some(map) = shown.as_object_mut() {
                    map.insert("text".into(), json!(a.text));
                }
                (a.expires, shown)
            })
            .collect();
        list.sort_by_key(|(expires, _)| *expires);
        Ok(list.into_iter().map(|(_, shown)| shown).collect())
    }

    /// One of them, with the text that is signed and the hash for an assertion.
    pub fn asked_one(&self, peer: &Peer, request: RequestId) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let (inner, clock) = (self.presence.inner(), sys::since_boot());
        let ask = inner.asks.get(&request).filter(|a| a.user == user.name && a.open(clock));
        let ask = ask.ok_or_else(|| unknown(request))?;
        let mut shown = ask.describe(request, clock);
        if let Some(map) = shown.as_object_mut() {
            let hash = fido2::client_data_hash(&ask.digest, request);
            map.insert("text".into(), json!(ask.text));
            map.insert("namespace".into(), json!(CONFIRM));
            map.insert("client_data_hash".into(), json!(hex::encode(hash)));
            let rps: Vec<&str> = user.credentials.iter().map(|c| c.rp.as_str()).collect();
            map.insert("relying_parties".into(), json!(rps));
        }
        Ok(shown)
    }

    /// What of an ask a confirmation is held against; it must wait for this user still.
    fn waits_for(&self, user: &User, request: RequestId, digest: &Digest) -> Result<(Step, String), Refusal> {
        let (inner, clock) = (self.presence.inner(), sys::since_boot());
        let ask = inner.asks.get(&request).filter(|a| a.user == user.name && a.open(clock));
        let ask = ask.filter(|a| a.state == State::Waiting).ok_or_else(|| unknown(request))?;
        // [clause 8.2.3-g] the user says what was shown, and it must be what waits
        if ask.digest != *digest {
            let why = format!("payment {request} is not the one that was shown");
            return Err(Refusal::new(Code::RequestUnknown, why));
        }
        if !inner.sessions.iter().any(|s| s.peer.same(&ask.peer) && s.user == user.name) {
            let why = format!("the session of {} with {} ended", user.name, ask.app);
            return Err(Refusal::new(Code::UserLocked, why));
        }
        Ok((ask.step, ask.text.clone()))
    }

    /// A user confirms a payment.
    pub async fn confirm_payment(&self, peer: &Peer, said: Confirmation) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let Confirmation { request, digest, pin, signature, asserted } = said;
        let (step, text) = self.waits_for(&user, request, &digest)?;
        // What costs a try comes last: a signature that is wrong takes none.
        let by = if step == Step::Fido {
            Some(by_authenticator(&user, &text, &digest, request, signature, asserted)?)
        } else {
            None
        };
        let user = self.prove(peer, pin, "confirm").await?.user;
        self.waits_for(&user, request, &digest)?;
        let (proof, counter) =
            by.map_or((None, None), |(proof, key, counter)| (Some(proof), Some((key, counter))));
        let event = UserEvent::Confirmed {
            request: request.to_string(),
            user: user.name.to_string(),
            step: step.as_str().to_owned(),
            digest: hex::encode(digest),
            proof,
            authenticator: counter.as_ref().map(|(key, _)| key.clone()),
        };
        self.store.user_confirmed(event, counter).await.map_err(|e| self.store_refusal(&e))??;
        let mut inner = self.presence.inner();
        let waiting = inner.asks.get_mut(&request).filter(|a| a.state == State::Waiting);
        let ask = waiting.ok_or_else(|| unknown(request))?;
        ask.state = State::Confirmed(step);
        tracing::info!(%request, user = %user.name, step = step.as_str(), "a user confirmed a payment");
        Ok(ask.describe(request, sys::since_boot()))
    }

    /// A user refuses a payment; that takes no PIN.
    pub async fn refuse_payment(&self, peer: &Peer, request: RequestId) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let shown = {
            let (mut inner, clock) = (self.presence.inner(), sys::since_boot());
            let found = inner.asks.get_mut(&request).filter(|a| a.user == user.name && a.open(clock));
            let ask = found.ok_or_else(|| unknown(request))?;
            ask.state = State::Refused;
            ask.describe(request, clock)
        };
        let event = UserEvent::Refused { request: request.to_string(), user: user.name.to_string() };
        self.store.append(EntryKind::User(event)).await.map_err(|e| self.store_refusal(&e))?;
        Ok(shown)
    }

    /// An app waits for its user; when they have confirmed, its payment is signed now.
    pub async fn wait_for_user(
        &self,
        peer: &Peer,
        app: &Name,
        request: RequestId,
        patience: Duration,
    ) -> Result<Option<Signed>, Refusal> {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let (state, transaction, account) = self.presence.look(peer, app, request)?;
            match state {
                State::Confirmed(_) => {
                    // The very payload that was shown; it walks the path like any other request.
                    let tx = UnsignedTx::decode(&transaction)
                        .map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
                    let asked = Asked::Transaction(Box::new(tx), Payer::account(account));
                    return sign(self, peer, self.next_request(), asked, &Cancel::default()).await.map(Some);
                }
                State::Refused => {
                    let why = format!("payment {request} was refused by its user");
                    return Err(Refusal::new(Code::StepUpRefused, why));
                }
                State::Waiting => {}
            }
            if tokio::time::Instant::now() + LOOK > until {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its app takes a payment back that waits for its user.
    #[must_use]
    pub fn cancel_ask(&self, peer: &Peer, app: &Name, request: RequestId) -> bool {
        let mut inner = self.presence.inner();
        let ours = inner.asks.get(&request).is_some_and(|a| is(&a.peer, peer) && a.app == *app);
        ours && inner.asks.remove(&request).is_some()
    }
}

/// What an authenticator made: the text of it, its key, its counter.
fn by_authenticator(
    user: &User,
    text: &str,
    digest: &Digest,
    request: RequestId,
    signature: Option<String>,
    asserted: Option<String>,
) -> Result<(String, String, u32), Refusal> {
    let refuse = |why: String| Refusal::new(Code::UserAssertion, why);
    if !user.has_fido() {
        return Err(refuse(format!(
            "{} has no authenticator; an operator enrols one in the users document",
            user.name
        )));
    }
    match (signature, asserted) {
        (Some(armoured), None) => {
            let (key, counter) = text::signed(&armoured, text, &user.fido).map_err(refuse)?;
            Ok((armoured.trim().to_owned(), key, counter))
        }
        (None, Some(lines)) => {
            let told = fido2::verify(&lines, digest, request, &user.credentials);
            let told = told.map_err(|e| refuse(e.to_string()))?;
            Ok((lines.trim().to_owned(), told.fingerprint, told.counter))
        }
        (Some(_), Some(_)) => Err(refuse("give a signature or an assertion, not both".into())),
        (None, None) => Err(refuse(
            "this takes an authenticator: a signature over the text of claviger user show, or an assertion"
                .into(),
        )),
    }
}
