//! Changes that one person cannot make alone: asked, shown, voted on, and carried out when their time has come. [clause 8.8]
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::House;
use super::keys::now;
use crate::core::approval::role::may;
use crate::core::approval::sshsig::verify;
use crate::core::approval::{Act, Authority, Change, Deed, Matter, REJECT, Role, Shown, Voice, judge};
use crate::core::key::{KeyRecord, State};
use crate::core::proof::RequestId;
use crate::refusal::{Code, Refusal};
use crate::store::{ChangeState, Pending};

/// How often it is looked whether a change may be carried out.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is written down how long the daemon was there: a crash takes no more than this from what was waited.
const COUNT_EVERY: Duration = Duration::from_secs(600);
/// How long people have to make up their minds, besides the delay.
const PATIENCE_MS: i64 = 7 * 86_400_000;
/// How often what is new is looked for, for those who wait.
const NEWS: Duration = Duration::from_millis(100);

/// The refusal that says whom it takes.
pub(super) fn needed(change: &Value) -> Refusal {
    let pick = |name: &str| change.get(name).map(|v| v.as_str().map_or(v.to_string(), str::to_owned));
    let why = format!(
        "{} of {} must agree to change {}",
        pick("quorum").unwrap_or_default(),
        pick("of").unwrap_or_default(),
        pick("request").unwrap_or_default(),
    );
    Refusal::new(Code::ChangeNeeded, why).with(change.clone())
}

fn describe(pending: &Pending, tally: Option<(BTreeSet<String>, BTreeSet<String>)>, counted: i64) -> Value {
    let (yes, also) = tally.unwrap_or_default();
    let change = &pending.change;
    let left = left(pending, counted);
    json!({
        "request": change.id,
        "kind": "change",
        "matter": change.matter,
        "status": pending.state,
        "asked_by": change.person.clone().unwrap_or_else(|| format!("uid {}", change.uid)),
        "quorum": change.quorum.needs.quorum,
        "of": change.quorum.needs.of,
        "approved_by": yes,
        "quorum_of_new": change.also.as_ref().map(|n| n.quorum),
        "approved_by_new": also,
        "delay_seconds": change.quorum.delay_ms / 1000,
        // As the clock stands: who sets it changes the date, and not what is left.
        "opens": left.map(|ms| now().plus(ms).to_string()),
        "waits_seconds": left.map(|ms| ms.saturating_add(999) / 1000),
        "expires": change.expires.to_string(),
    })
}

/// What is left of the delay of a change that was agreed on. A note that is no count of ours leaves all of it.
fn left(pending: &Pending, counted: i64) -> Option<i64> {
    let whole = pending.change.quorum.delay_ms;
    let agreed = pending.state == ChangeState::Agreed;
    agreed.then(|| noted(pending, counted).map_or(whole, |at| at.saturating_sub(counted).max(0)))
}

/// When the delay is over, as it was noted. No note is further away than the delay is long: one that is was a date.
fn noted(pending: &Pending, counted: i64) -> Option<i64> {
    pending.opens.filter(|at| *at <= pending.change.over_at(counted))
}

impl House {
    /// What a user of this machine is here. [`Config`](crate::config::Config)'s operators count until the authority
    /// document names who runs the daemon; root is nobody in particular.
    // [clause 8.2.3-c] from then on the document alone says who may do what
    #[must_use]
    pub fn roles_of(&self, uid: u32) -> BTreeSet<Role> {
        let rules = self.rules();
        let authority = rules.authority.as_deref();
        let mut roles =
            authority.and_then(|a| a.person_by_uid(uid)).map(|p| p.roles.clone()).unwrap_or_default();
        let named = authority.is_some_and(Authority::names_operators);
        // An auditor stays one, whatever the configuration says.
        if !named && !roles.contains(&Role::Auditor) && self.config.operator_uids.contains(&uid) {
            roles.insert(Role::Operator);
        }
        roles
    }

    /// Lets a user do one of these acts, if a role of theirs may.
    pub fn permit(&self, uid: u32, acts: &[Act]) -> Result<(), Refusal> {
        let roles = self.roles_of(uid);
        if acts.iter().any(|act| may(&roles, *act)) {
            return Ok(());
        }
        if roles.is_empty() {
            return Err(Refusal::new(Code::OperatorUnknown, format!("uid {uid} is no operator")));
        }
        let roles: Vec<&str> = roles.iter().map(|r| r.as_str()).collect();
        let acts: Vec<&str> = acts.iter().map(|a| a.as_str()).collect();
        let why = format!("uid {uid} is {}, which may not {}", roles.join(" and "), acts.join(" or "));
        Err(Refusal::new(Code::RoleForbids, why))
    }

    fn tallied(&self, pending: &Pending) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
        let authority = self.rules().authority.clone()?;
        let tally = pending.change.tally(&authority, &pending.voices);
        Some((tally.yes, tally.also))
    }

    fn shown(&self, pending: &Pending) -> Value {
        describe(pending, self.tallied(pending), self.store.counted())
    }

    /// Asks people for a change; gives the one that waits for the same deed.
    pub(super) async fn ask(
        &self,
        matter: Matter,
        deed: Deed,
        detail: Vec<String>,
        uid: u32,
    ) -> Result<Value, Refusal> {
        let rules = self.rules();
        let asked = rules.authority.as_ref().and_then(|a| Some((a, a.quorum(matter)?)));
        let Some((authority, quorum)) = asked else {
            return Err(Refusal::new(Code::Internal, "nobody needs to be asked"));
        };
        let hash = hex::encode(authority.hash());
        for there in self.open_changes().await? {
            if there.change.deed == deed && there.change.authority == hash && there.change.expires > now() {
                return Ok(self.shown(&there));
            }
        }
        let mut nonce = [0u8; 16];
        getrandom::fill(&mut nonce).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let mut quorum = quorum.clone();
        // What is in other hands is destroyed without delay.
        if let Deed::Key { from: State::Compromised, to: State::Destroyed, .. } = deed {
            quorum.delay_ms = 0;
        }
        let mut change = Change {
            id: self.next_request().to_string(),
            matter,
            deed,
            uid,
            person: authority.person_by_uid(uid).map(|p| p.id.clone()),
            detail,
            authority: hash,
            expires: now().plus(PATIENCE_MS.saturating_add(quorum.delay_ms)),
            quorum,
            also: None,
            nonce: hex::encode(nonce),
        };
        if let Some(new) = change.new_authority() {
            // The new people must be able to agree with it, by the rule that they would live under.
            let needs = new.quorum(Matter::Authority).map(|q| q.needs.clone());
            change.also = Some(needs.ok_or_else(|| {
                Refusal::new(
                    Code::PolicyInvalid,
                    "the new authority document names no [quorum.authority]; governance is not given up by a change",
                )
            })?);
        }
        let text = change.render(&authority.deployment);
        if text.len() > 48 * 1024 {
            return Err(Refusal::new(Code::TooLarge, "the text of this change is too long for the log"));
        }
        self.store.open_change(change.clone(), text).await.map_err(|e| self.store_refusal(&e))??;
        tracing::warn!(change = change.id, matter = matter.as_str(), uid, "a change waits for people");
        let pending = Pending { change, state: ChangeState::Waiting, opens: None, voices: Vec::new() };
        Ok(self.shown(&pending))
    }

    /// Asks for a move of a key where the document wants a quorum for it.
    pub(super) async fn ask_for_key(
        &self,
        matter: Matter,
        key: &KeyRecord,
        to: State,
        reason: &str,
        more: Vec<String>,
        uid: u32,
    ) -> Result<(), Refusal> {
        if self.rules().authority.as_ref().is_none_or(|a| a.quorum(matter).is_none()) {
            return self.permit(uid, &[Act::Make]);
        }
        if !key.state.leads_to(to, key.purpose) {
            let why =
                format!("key {} is {}, and never becomes {}", key.name, key.state.as_str(), to.as_str());
            return Err(Refusal::new(Code::KeyEdge, why));
        }
        let deed = Deed::Key { key: key.name.clone(), from: key.state, to, reason: reason.to_owned() };
        let mut detail = vec![
            format!("{} {} key, account {}", key.public.algorithm(), key.purpose, key.account()),
            format!("made {}", key.created),
        ];
        detail.extend(more);
        let change = self.ask(matter, deed, detail, uid).await?;
        Err(needed(&change))
    }

    async fn open_changes(&self) -> Result<Vec<Pending>, Refusal> {
        self.store.open_changes().await.map_err(|e| self.store_refusal(&e))
    }

    /// Changes that wait, as people see them.
    pub async fn changes_waiting(&self) -> Result<Vec<Value>, Refusal> {
        Ok(self.open_changes().await?.iter().map(|p| self.shown(p)).collect())
    }

    /// One change, with the text that is signed.
    pub(super) async fn change(&self, id: RequestId) -> Result<Option<Value>, Refusal> {
        let Some(pending) = self.store.change(id).await.map_err(|e| self.store_refusal(&e))? else {
            return Ok(None);
        };
        let mut shown = self.shown(&pending);
        let rules = self.rules();
        if let (Some(map), Some(authority)) = (shown.as_object_mut(), rules.authority.as_ref()) {
            map.insert("text".into(), json!(pending.change.render(&authority.deployment)));
            if let Deed::Document { body, .. } = &pending.change.deed {
                map.insert("document".into(), json!(body));
            }
            let namespaces = json!({"approve": pending.change.matter.namespace(), "reject": REJECT});
            map.insert("namespaces".into(), namespaces);
        }
        Ok(Some(shown))
    }

    /// Judges a voice about a change, counts it, and carries the change out when nothing is left to wait for.
    pub(super) async fn heard_change(&self, pending: Pending, armoured: &str) -> Result<Value, Refusal> {
        let rules = self.rules();
        let change = pending.change;
        let Some(authority) = rules.authority.as_ref().filter(|a| hex::encode(a.hash()) == change.authority)
        else {
            let why = "the authority document changed since this text was shown";
            return Err(Refusal::new(Code::ApprovalStale, why));
        };
        let id = change.request().ok_or_else(|| Refusal::new(Code::Internal, "a change without an id"))?;
        let text = change.render(&authority.deployment);
        let yes = verify(armoured, REJECT, text.as_bytes()).is_err();
        let namespace = if yes { change.matter.namespace() } else { REJECT };
        let counter = match verify(armoured, namespace, text.as_bytes()) {
            Ok(signature) => self
                .store
                .counter_of(signature.key.fingerprint())
                .await
                .map_err(|e| self.store_refusal(&e))?,
            Err(_) => None,
        };
        let by = |document: &Authority, needs: &crate::core::approval::Needs| -> Result<Voice, Refusal> {
            let shown = Shown { text: text.clone(), needs: needs.clone() };
            judge(document, &shown, change.uid, namespace, armoured, |_| counter)
        };
        let voice = match by(authority, &change.quorum.needs) {
            Ok(voice) => voice,
            // Who comes with the new document speaks for it.
            Err(refusal) => match change.new_authority().zip(change.also.as_ref()) {
                Some((new, needs)) if refusal.code == Code::ApprovalStranger => by(&new, needs)?,
                _ => return Err(refusal),
            },
        };
        let person = voice.person.clone();
        let after = self
            .store
            .count_change_voice(id, yes, voice, armoured.trim().to_owned(), Arc::clone(authority))
            .await
            .map_err(|e| self.store_refusal(&e))??;
        tracing::info!(change = %id, person, yes, state = after.state.as_str(), "a voice was counted");
        if after.opens.is_some_and(|at| at <= self.store.counted()) {
            self.look_after_changes().await;
        }
        let now_is = self.store.change(id).await.map_err(|e| self.store_refusal(&e))?.unwrap_or(after);
        Ok(self.shown(&now_is))
    }

    /// Who asked takes it back; so may an owner.
    pub async fn withdraw_change(&self, id: RequestId, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let found = self.store.change(id).await.map_err(|e| self.store_refusal(&e))?;
        let Some(pending) = found.filter(|p| p.state.is_open()) else {
            return Err(Refusal::new(Code::RequestUnknown, format!("no change {id} waits for people")));
        };
        if pending.change.uid != uid && !self.roles_of(uid).contains(&Role::Owner) {
            let why = format!(
                "change {id} was asked for by uid {}: who asked, or an owner, takes it back",
                pending.change.uid
            );
            return Err(Refusal::new(Code::RoleForbids, why));
        }
        self.end(id, ChangeState::Withdrawn, format!("taken back by uid {uid}")).await?;
        Ok(json!({"request": id.to_string(), "status": ChangeState::Withdrawn}))
    }

    async fn end(&self, id: RequestId, state: ChangeState, why: String) -> Result<(), Refusal> {
        tracing::info!(change = %id, state = state.as_str(), "{why}");
        self.store.end_change(id, state, why).await.map_err(|e| self.store_refusal(&e))
    }

    /// Carries out what people agreed on and whose time has come; ends what is over.
    pub async fn look_after_changes(&self) {
        // What the next start would have to believe is done in a state that the token has confirmed.
        if self.trusted().is_err() {
            return;
        }
        let _one_at_a_time = self.changes.lock().await;
        let waiting = match self.open_changes().await {
            Ok(waiting) => waiting,
            Err(refusal) => return tracing::error!("changes that wait cannot be read: {refusal}"),
        };
        for pending in waiting {
            if let Err(refusal) = self.look_after(&pending).await {
                tracing::error!(change = pending.change.id, "a change could not be looked after: {refusal}");
            }
        }
    }

    async fn look_after(&self, pending: &Pending) -> Result<(), Refusal> {
        let change = &pending.change;
        let Some(id) = change.request() else { return Ok(()) };
        let rules = self.rules();
        let Some(authority) = rules.authority.as_ref().filter(|a| hex::encode(a.hash()) == change.authority)
        else {
            return self.end(id, ChangeState::Stale, "the authority document changed".into()).await;
        };
        let at = self.life_now();
        // [clause 8.8-b] counted again, from the signatures, under the document in force, after the delay and before the end
        let tally = change.tally(authority, &pending.voices);
        let agreed = change.is_agreed(&tally);
        if !self.still_stands(change) {
            let why = "what it started from is not in force any more: ask anew";
            return self.end(id, ChangeState::Stale, why.into()).await;
        }
        // What was agreed on before time was counted begins to be.
        if agreed && noted(pending, self.store.counted()).is_none() {
            self.store.begin_delay(change.clone()).await.map_err(|e| self.store_refusal(&e))?;
            return Ok(());
        }
        let by_itself = !matches!(change.deed, Deed::Import { .. } | Deed::User { .. });
        if !(agreed && by_itself && self.has_waited(pending).await?) {
            if at >= change.expires {
                return self.end(id, ChangeState::Expired, "its time is over".into()).await;
            }
            return Ok(());
        }
        // [clause 8.2.1-b] what people agreed on before does nothing on a device that was stopped; it waits, or expires
        if self.not_stopped().is_err() {
            return Ok(());
        }
        let people: Vec<String> = tally.yes.union(&tally.also).cloned().collect();
        let outcome = match &change.deed {
            Deed::Document { body, .. } => {
                self.write_and_put(change.matter, body, change.uid, &people).await.map(drop)
            }
            Deed::Key { key, to, reason, .. } => {
                let actor =
                    format!("{} with {}", change.person.as_deref().unwrap_or("operator"), people.join(", "));
                self.move_agreed(key, *to, reason, actor).await
            }
            Deed::Import { .. } | Deed::User { .. } => Ok(()),
        };
        match outcome {
            Ok(()) => self.end(id, ChangeState::Made, format!("agreed by {}", people.join(", "))).await,
            // A token that is away for a moment does not undo what people agreed on.
            Err(refusal) if refusal.code.retry() == crate::refusal::Retry::Later => Err(refusal),
            Err(refusal) => self.end(id, ChangeState::Failed, refusal.to_string()).await,
        }
    }

    /// Whether the delay of a change is over; the log says so before the change is carried out.
    // [clause 8.8-c] by the time that went by, while the daemon was there to hear a no
    async fn has_waited(&self, pending: &Pending) -> Result<bool, Refusal> {
        let counted = self.store.counted();
        if noted(pending, counted).is_none_or(|at| at > counted) {
            return Ok(false);
        }
        self.store.count().await.map_err(|e| self.store_refusal(&e))?;
        Ok(true)
    }

    fn still_stands(&self, change: &Change) -> bool {
        match &change.deed {
            Deed::Document { from, .. } => self.is_in_force(change.matter, from),
            Deed::Key { key, from, .. } => self.keys().exact(key).is_some_and(|k| k.record.state == *from),
            Deed::Import { key, .. } => self.keys().exact(key).is_none(),
            Deed::User { user, .. } => {
                self.rules().users.as_ref().is_some_and(|u| u.by_name(user.as_str()).is_some())
            }
        }
    }

    /// Lets an operator do what people agreed on, once; asks them when they have not.
    pub(super) async fn agreed(
        &self,
        matter: Matter,
        deed: Deed,
        detail: Vec<String>,
        uid: u32,
    ) -> Result<Option<RequestId>, Refusal> {
        let rules = self.rules();
        let Some(authority) = rules.authority.as_ref().filter(|a| a.quorum(matter).is_some()) else {
            return Ok(None);
        };
        for pending in self.open_changes().await? {
            let tally = pending.change.tally(authority, &pending.voices);
            if pending.change.deed != deed || pending.change.expires <= now() {
                continue;
            }
            if !pending.change.is_agreed(&tally) {
                return Err(needed(&self.shown(&pending)));
            }
            if self.has_waited(&pending).await? {
                return Ok(pending.change.request());
            }
            let left = left(&pending, self.store.counted()).unwrap_or_default().saturating_add(999) / 1000;
            let why = format!("change {} is agreed on, and rests for another {left} s", pending.change.id);
            return Err(Refusal::new(Code::ChangeHeld, why));
        }
        let change = self.ask(matter, deed, detail, uid).await?;
        Err(needed(&change))
    }

    /// What people agreed on was done.
    pub(super) async fn made(&self, change: Option<RequestId>) -> Result<(), Refusal> {
        match change {
            None => Ok(()),
            Some(id) => self.end(id, ChangeState::Made, "done by the operator who asked".into()).await,
        }
    }

    /// Looks after changes until the daemon stops.
    pub async fn keep_changes(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        let mut counted = Instant::now();
        loop {
            self.look_after_changes().await;
            if counted.elapsed() >= COUNT_EVERY {
                counted = Instant::now();
                if let Err(e) = self.store.count().await {
                    tracing::error!("the time that went by could not be written down: {e}");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    /// Entries about who decides what, after one that the caller knows; waits for news.
    // [clause 8.8-a] whoever the rules bind hears of a change before it is in force
    pub async fn wait_for_governance(&self, since: u64, patience: Duration) -> Value {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let fresh: Vec<Value> = self
                .store
                .governance()
                .into_iter()
                .filter(|e| e.get("entry").and_then(Value::as_u64).is_some_and(|n| n > since))
                .collect();
            if !fresh.is_empty() || tokio::time::Instant::now() + NEWS > until {
                let last = fresh.last().and_then(|e| e.get("entry")).and_then(Value::as_u64);
                return json!({"news": fresh, "since": last.unwrap_or(since)});
            }
            tokio::time::sleep(NEWS).await;
        }
    }

    /// Files that differ from what is in force.
    #[must_use]
    pub fn differing(&self) -> Vec<String> {
        self.differing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
