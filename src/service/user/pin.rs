//! PINs: enrolled once with an operator's code, tried one at a time, counted on disk before they are compared.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::keys::now;
use super::super::{House, Key, Peer, Tie, token_refusal};
use super::{MOST_SESSIONS, PEPPER, Session, plain};
use crate::core::key::Operation;
use crate::core::log::user::UserEvent;
use crate::core::units::{Name, sha256};
use crate::core::user::throttle::MOST;
use crate::core::user::verifier::{Told, acceptable, derive_fresh, peppered};
use crate::core::user::{Derived, Ended, Gate, User, Verifier, gate};
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use crate::store::EntryKind;
use crate::sys;

/// Most users of this machine, unknown to the document, whose tries are remembered.
const MOST_STRANGERS: usize = 4096;

/// A PIN as it was typed, with the one for duress where it is enrolled.
pub struct Typed {
    /// The PIN.
    pub pin: Pin,
    /// The one that stops everything and does not show it.
    pub duress: Option<Pin>,
}

/// Whoever proved their PIN.
pub(super) struct Proved {
    pub(super) user: Arc<User>,
    /// The record was made anew, and the PIN for duress is not in it.
    renewed: bool,
    /// Wrong PINs since the last right one: whoever typed none of them hears of it.
    wrong: u32,
}

fn failed(why: String) -> Refusal {
    Refusal::new(Code::Internal, why)
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| failed(format!("the kernel gives no random bytes: {e}")))?;
    Ok(bytes)
}

/// One try of each user at a time; let go of when it is over, however it ends.
struct Turn<'a> {
    house: &'a House,
    uid: u32,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.house.presence.inner().trying.remove(&self.uid);
    }
}

impl House {
    fn turn(&self, uid: u32) -> Result<Turn<'_>, Refusal> {
        if !self.presence.inner().trying.insert(uid) {
            return Err(Refusal::new(Code::Busy, "a PIN of yours is being compared: one at a time"));
        }
        Ok(Turn { house: self, uid })
    }

    /// Argon2id, where it holds up no socket.
    async fn hashed(
        &self,
        work: impl FnOnce() -> Result<Derived, String> + Send + 'static,
    ) -> Result<Derived, Refusal> {
        self.metrics.user_hashes.inc();
        tokio::task::spawn_blocking(work).await.map_err(|e| failed(e.to_string()))?.map_err(failed)
    }

    async fn tag(
        &self,
        key: &Key,
        operation: Operation,
        user: &str,
        derived: &Derived,
    ) -> Result<[u8; 32], Refusal> {
        key.record.may(operation)?;
        self.keeper.mac_record(&key.record, peppered(user, derived)).await.map_err(|e| token_refusal(&e))
    }

    /// A new record of a PIN.
    async fn record(&self, user: &Name, typed: Typed) -> Result<String, Refusal> {
        let wrong = |why: String| Refusal::new(Code::InvalidParams, why);
        acceptable(&typed.pin).map_err(wrong)?;
        if let Some(duress) = &typed.duress {
            acceptable(duress).map_err(wrong)?;
            if duress.expose() == typed.pin.expose() {
                return Err(wrong("the PIN for duress is another one".into()));
            }
        }
        let pepper = self.pepper(sys::effective_uid()).await?;
        let salt: [u8; 16] = random()?;
        let pin = typed.pin;
        let derived = self.hashed(move || derive_fresh(&pin, &salt)).await?;
        let tag = self.tag(&pepper, Operation::Mac, user.as_str(), &derived).await?;
        let duress = match typed.duress {
            None => random()?,
            Some(pin) => {
                let derived = self.hashed(move || derive_fresh(&pin, &salt)).await?;
                self.tag(&pepper, Operation::Mac, user.as_str(), &derived).await?
            }
        };
        Verifier::new(&salt, pepper.record.name.clone(), &tag, &duress).render().map_err(failed)
    }

    /// Takes a user's PIN, with the code that an operator gave them.
    pub async fn enrol(&self, peer: &Peer, code: &str, typed: Typed) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let _turn = self.turn(peer.uid)?;
        let _one = self.presence.one.lock().await;
        let code = sha256(plain(code).as_bytes());
        let row = self.store.user(user.name.to_string()).await.map_err(|e| self.store_refusal(&e))?;
        // Asked again where it is taken; here it keeps those without a code from the memory.
        if row.and_then(|r| r.invite).is_none_or(|(there, _)| there != code) {
            let why = format!("this is no code that {} may enrol with now", user.name);
            return Err(Refusal::new(Code::UserCode, why));
        }
        let record = self.record(&user.name, typed).await?;
        let name = user.name.to_string();
        self.store.enrol_user(name, code, record).await.map_err(|e| self.store_refusal(&e))??;
        tracing::info!(user = %user.name, "a user was enrolled");
        Ok(json!({"user": user.name, "enrolled": true}))
    }

    /// Puts another PIN in the place of one that is typed too.
    pub async fn change_pin(&self, peer: &Peer, old: Pin, typed: Typed) -> Result<Value, Refusal> {
        acceptable(&typed.pin).map_err(|why| Refusal::new(Code::InvalidParams, why))?;
        let Proved { user, .. } = self.prove(peer, old, "change").await?;
        let _turn = self.turn(peer.uid)?;
        let _one = self.presence.one.lock().await;
        let record = self.record(&user.name, typed).await?;
        let name = user.name.to_string();
        self.store.change_user(name, record).await.map_err(|e| self.store_refusal(&e))??;
        Ok(json!({"user": user.name, "changed": true}))
    }

    /// Compares a PIN. Whoever the document does not know, or who has none, takes as long and is told the same.
    // [clause 8.2.3-e] the gate, then the count on disk, then the comparison; in this order for everybody
    pub(super) async fn prove(&self, peer: &Peer, pin: Pin, what: &'static str) -> Result<Proved, Refusal> {
        let _turn = self.turn(peer.uid)?;
        let _one = self.presence.one.lock().await;
        let rules = self.rules();
        let known = rules.users.as_ref().and_then(|u| u.by_uid(peer.uid)).cloned();
        let most = rules.users.as_ref().map_or(MOST, |u| u.most_tries);
        let label = known.as_ref().map_or_else(|| format!("uid {}", peer.uid), |u| u.name.to_string());
        let row = self.store.user(label.clone()).await.map_err(|e| self.store_refusal(&e))?;
        // A token that is away would only take tries.
        self.open_for_signing()?;
        let failed_before = match &row {
            Some(row) if row.suspended => most,
            Some(row) => row.tries,
            None => self.strangers_tries(peer.uid)?,
        };
        let now = sys::since_boot();
        let last = self.presence.inner().tried.get(&label).copied().unwrap_or(self.presence.began);
        match gate(failed_before, most, now.saturating_sub(last)) {
            Gate::Open => {}
            closed => {
                self.metrics.user_try("kept-out");
                return Err(kept_out(closed));
            }
        }
        let counted = self.store.count_try(Some(label.clone()), label.clone(), what, most).await;
        counted.map_err(|e| self.store_refusal(&e))??;
        {
            let mut inner = self.presence.inner();
            if row.is_none() {
                let tries = inner.strangers.entry(peer.uid).or_default();
                *tries = tries.saturating_add(1);
            }
            inner.tried.insert(label.clone(), now);
        }
        let record =
            row.and_then(|r| r.verifier).map(|text| Verifier::parse(&text)).transpose().map_err(failed)?;
        let (told, upgrade) = self.compared_pin(&label, record, pin).await?;
        if let (Told::Right | Told::Duress, Some(user)) = (told, known) {
            if told == Told::Duress {
                self.under_duress(&user).await?;
            }
            let renewed = upgrade.is_some();
            self.store.user_proved(label, what, upgrade).await.map_err(|e| self.store_refusal(&e))?;
            self.metrics.user_try("right");
            return Ok(Proved { user, renewed, wrong: failed_before });
        }
        self.metrics.user_try("wrong");
        let left = most.min(MOST).saturating_sub(failed_before.saturating_add(1));
        if left == 0 {
            self.last_try(&label).await?;
        }
        let why = format!("the PIN is wrong; {left} tries are left");
        Err(Refusal::new(Code::UserWrong, why).with(json!({"tries_left": left})))
    }

    fn strangers_tries(&self, uid: u32) -> Result<u32, Refusal> {
        let inner = self.presence.inner();
        match inner.strangers.get(&uid) {
            Some(tries) => Ok(*tries),
            None if inner.strangers.len() >= MOST_STRANGERS => {
                Err(Refusal::new(Code::Busy, "too many try their luck"))
            }
            None => Ok(0),
        }
    }

    async fn last_try(&self, label: &str) -> Result<(), Refusal> {
        tracing::error!(user = label, "suspended: too many wrong PINs");
        self.presence.end(|s| (s.user.as_str() == label).then_some(Ended::User));
        self.write_closed().await;
        let why = "too many wrong PINs".to_owned();
        self.store.suspend_user(label.to_owned(), why).await.map_err(|e| self.store_refusal(&e))
    }

    /// Runs Argon2id and the token once, whatever there is to compare with; a record that got old comes back anew.
    async fn compared_pin(
        &self,
        label: &str,
        record: Option<Verifier>,
        pin: Pin,
    ) -> Result<(Told, Option<String>), Refusal> {
        let current = Name::parse(PEPPER).and_then(|name| self.keys().by_name(&name));
        let key = match &record {
            Some(record) => self.keys().exact(&record.pepper),
            None => current.clone(),
        };
        let (salt, of_record, pin) = (random::<16>()?, record.clone(), Arc::new(pin));
        let typed = Arc::clone(&pin);
        let derived = self
            .hashed(move || match of_record {
                Some(record) => record.derive(&typed),
                None => derive_fresh(&typed, &salt),
            })
            .await?;
        let tag = match &key {
            Some(key) => self.tag(key, Operation::VerifyMac, label, &derived).await?,
            None if record.is_some() => {
                return Err(Refusal::new(Code::UserUnprotected, "the key that PINs are kept under is gone"));
            }
            None => random()?,
        };
        let Some(record) = record else { return Ok((Told::Wrong, None)) };
        let told = record.compare(&tag);
        // [clause 8.7.1-g] what was kept under an older key, or more cheaply, is renewed when its PIN is there
        let old = current.filter(|c| record.is_old(&c.record.name));
        let (Told::Right, Some(current)) = (told, old) else { return Ok((told, None)) };
        let salt: [u8; 16] = random()?;
        let derived = self.hashed(move || derive_fresh(&pin, &salt)).await?;
        let tag = self.tag(&current, Operation::Mac, label, &derived).await?;
        // The PIN for duress is not here: it is enrolled again with `claviger user pin`.
        let renewed = Verifier::new(&salt, current.record.name.clone(), &tag, &random()?);
        Ok((told, Some(renewed.render().map_err(failed)?)))
    }

    /// Stops the keys of somebody who is being forced; they are answered as if all were well.
    async fn under_duress(&self, user: &User) -> Result<(), Refusal> {
        let event = UserEvent::Duress { user: user.name.to_string() };
        self.store.append(EntryKind::User(event)).await.map_err(|e| self.store_refusal(&e))?;
        for line in &user.keys {
            self.stop_line(line, &format!("user {}", user.name), "the PIN for duress was typed").await?;
        }
        Ok(())
    }

    /// Whom a code belongs to, for the user to look at before the PIN is typed.
    pub fn knock(&self, peer: &Peer, code: &str) -> Result<Value, Refusal> {
        self.known_user(peer)?;
        let inner = self.presence.inner();
        let knock = inner.knocks.get(&plain(code)).filter(|k| sys::since_boot() < k.expires);
        let Some(knock) = knock else { return Err(no_code()) };
        Ok(json!({"app": knock.app, "tier": knock.tier, "program": knock.caller}))
    }

    /// Opens a session for the connection that asked with this code.
    // [clause 8.2.3-d] the PIN passes by the user's own socket, and the session is of the connection that they looked at
    pub async fn unlock_user(&self, peer: &Peer, code: &str, pin: Pin) -> Result<Value, Refusal> {
        let code = plain(code);
        let app = || {
            let inner = self.presence.inner();
            let knock = inner.knocks.get(&code).filter(|k| sys::since_boot() < k.expires);
            knock.and_then(|k| k.peer.peer().map(Arc::new)).ok_or_else(no_code)
        };
        app()?;
        self.on_a_fit_device().await?;
        let proved = self.prove(peer, pin, "unlock").await?;
        // Looked for again: it may have left, or asked anew, while the PIN was compared.
        let connection = app()?;
        self.presence.inner().knocks.remove(&code);
        self.open_session(&connection, proved).await
    }

    /// The PIN through the app itself, where the document allows that to apps of its tier.
    pub async fn unlock_on_wallet_socket(&self, peer: &Arc<Peer>, pin: Pin) -> Result<Value, Refusal> {
        let rules = self.rules();
        let vouched = peer.vouch(&rules.apps, [0; 32], now()).inspect_err(|_| self.app_failed(peer))?;
        if !rules.users.as_ref().is_some_and(|u| u.takes_pin_from(vouched.tier())) {
            let why = "PINs are not typed into apps here: claviger_requestUser gives a code for claviger user unlock";
            return Err(Refusal::new(Code::UserNeeded, why));
        }
        self.on_a_fit_device().await?;
        let proved = self.prove(peer, pin, "unlock on wallet.sock").await?;
        self.open_session(peer, proved).await
    }

    async fn open_session(&self, connection: &Arc<Peer>, proved: Proved) -> Result<Value, Refusal> {
        let Proved { user, renewed, wrong } = proved;
        let rules = self.rules();
        let vouched = connection.vouch(&rules.apps, [0; 32], now())?;
        let Some(users) = rules.users.as_ref().filter(|u| u.by_name(user.name.as_str()) == Some(&user))
        else {
            return Err(Refusal::new(Code::UserLocked, "the users changed meanwhile: ask again"));
        };
        let event = UserEvent::Opened {
            user: user.name.to_string(),
            app: vouched.app().to_string(),
            caller: connection.describe(),
        };
        self.store.append(EntryKind::User(event)).await.map_err(|e| self.store_refusal(&e))?;
        let now = sys::since_boot();
        let mut inner = self.presence.inner();
        if inner.sessions.len() >= MOST_SESSIONS {
            return Err(Refusal::new(Code::Busy, format!("{MOST_SESSIONS} sessions are open")));
        }
        let ours = |peer: &Tie| super::is(peer, connection);
        inner.sessions.retain(|s| !(ours(&s.peer) && s.user == user.name));
        inner.gone.retain(|(p, u, _)| !(ours(p) && *u == user.name));
        inner.sessions.push(Session {
            peer: connection.tie(),
            user: user.name.clone(),
            app: vouched.app().clone(),
            opened: now,
            used: now,
        });
        tracing::info!(user = %user.name, app = %vouched.app(), "a session was opened");
        Ok(json!({
            "user": user.name,
            "app": vouched.app(),
            "idle_seconds": users.idle_ms / 1000,
            "hard_seconds": users.hard_ms / 1000,
            "wrong_pins_before": wrong,
            "note": renewed.then_some(
                "the record of your PIN was renewed; if you had a PIN for duress, run claviger user pin --duress",
            ),
        }))
    }

    /// A user locks what is open of theirs.
    pub async fn lock_user(&self, peer: &Peer) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let ended = self.presence.end(|s| (s.user == user.name).then_some(Ended::Locked));
        self.write_closed().await;
        Ok(json!({"user": user.name, "ended": ended}))
    }
}

fn no_code() -> Refusal {
    Refusal::new(Code::UserCode, "no app that is connected showed this code within the last five minutes")
}

fn kept_out(gate: Gate) -> Refusal {
    match gate {
        Gate::Wait(ms) => {
            let seconds = ms.div_ceil(1000);
            let why = format!("too many wrong PINs: the next one is taken in {seconds} s");
            Refusal::new(Code::UserThrottled, why).with(json!({"wait_seconds": seconds}))
        }
        Gate::Open | Gate::Closed => {
            Refusal::new(Code::UserSuspended, "too many wrong PINs: an operator must look into it")
        }
    }
}
