//! Duties: shown to those whom they bind, acknowledged by them, and asked for before a key does something.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::super::{House, Peer, Rules};
use crate::core::log::user::UserEvent;
use crate::core::units::Name;
use crate::core::user::User;
use crate::core::user::duties::{self, Duties, Whom};
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;

fn none() -> Refusal {
    Refusal::new(Code::InvalidRequest, "no duties are in force: the users document has no [duties]")
}

fn shown(duties: &Duties) -> Value {
    json!({"text": duties.text, "hash": duties.hash, "ack": duties.of, "again": duties.again})
}

impl House {
    fn knows(&self, who: &str, duties: &Duties, rules: &Rules) -> bool {
        let policy = hex::encode(rules.policy.hash());
        self.store.acknowledged(|told| told.by(who, duties, &policy))
    }

    /// Refuses where whoever the duties bind has not acknowledged them.
    // [clause 8.8-d] nobody's key signs for somebody who was not told what they answer for
    pub(super) fn duties_known(&self, rules: &Rules, app: &Name, user: Option<&User>) -> Result<(), Refusal> {
        let Some(duties) = rules.users.as_ref().and_then(|u| u.duties.as_ref()) else { return Ok(()) };
        let lacking = |who: &str, command: String| {
            let why = format!("{who} has not acknowledged the duties in force; it is done with: {command}");
            Err(Refusal::new(Code::DutiesUnacknowledged, why)
                .with(json!({"who": who, "duties": duties.hash})))
        };
        if let Some(user) = user.filter(|_| duties.of.contains(&Whom::Users)) {
            let who = duties::user(user.name.as_str(), user.uid);
            if !self.knows(&who, duties, rules) {
                return lacking(&who, "claviger duties ack".into());
            }
        }
        if duties.of.contains(&Whom::Apps) {
            let uid = rules.apps.all().iter().find(|a| a.id == *app).map_or(0, |a| a.uid);
            let who = duties::app(app.as_str(), uid);
            if !self.knows(&who, duties, rules) {
                return lacking(&who, format!("claviger duties ack --app {app}"));
            }
        }
        Ok(())
    }

    /// Those whom the duties bind, each with whether they acknowledged them; nothing where there are none.
    #[must_use]
    pub fn duties_told(&self) -> Value {
        let rules = self.rules();
        let Some((users, duties)) = rules.users.as_ref().and_then(|u| Some((u, u.duties.as_ref()?))) else {
            return Value::Null;
        };
        let people = users.all().iter().filter(|u| !u.keys.is_empty());
        let people = people.map(|u| duties::user(u.name.as_str(), u.uid));
        let apps = rules.apps.all().iter().filter(|a| !a.revoked);
        let apps = apps.map(|a| duties::app(a.id.as_str(), a.uid));
        let bound = people
            .filter(|_| duties.of.contains(&Whom::Users))
            .chain(apps.filter(|_| duties.of.contains(&Whom::Apps)));
        let (known, missing): (Vec<String>, Vec<String>) =
            bound.partition(|who| self.knows(who, duties, &rules));
        let mut told = shown(duties);
        if let Some(map) = told.as_object_mut() {
            map.insert("acknowledged".into(), json!(known));
            map.insert("missing".into(), json!(missing));
        }
        told
    }

    /// What somebody on `user.sock` is to read, and whether they did.
    pub fn own_duties(&self, peer: &Peer) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let rules = self.rules();
        let duties = rules.users.as_ref().and_then(|u| u.duties.as_ref()).ok_or_else(none)?;
        let who = duties::user(user.name.as_str(), user.uid);
        let mut told = shown(duties);
        if let Some(map) = told.as_object_mut() {
            map.insert("acknowledged".into(), json!(self.knows(&who, duties, &rules)));
            map.insert("who".into(), json!(who));
        }
        Ok(told)
    }

    /// A user acknowledges what they were shown, with their PIN.
    pub async fn acknowledge_own(&self, peer: &Peer, hash: &str, pin: Pin) -> Result<Value, Refusal> {
        let proved = self.prove(peer, pin, "duties").await?;
        self.acknowledged(duties::user(proved.user.name.as_str(), proved.user.uid), hash, peer.uid).await
    }

    /// An operator acknowledges them for an app.
    pub async fn acknowledge_for(&self, app: &str, hash: &str, uid: u32) -> Result<Value, Refusal> {
        let rules = self.rules();
        let found = rules.apps.all().iter().find(|a| a.id.as_str() == app && !a.revoked);
        let found = found.ok_or_else(|| {
            let shown: String = app.chars().take(64).collect();
            Refusal::new(Code::AppUnknown, format!("there is no app {shown:?}"))
        })?;
        self.acknowledged(duties::app(found.id.as_str(), found.uid), hash, uid).await
    }

    async fn acknowledged(&self, who: String, hash: &str, uid: u32) -> Result<Value, Refusal> {
        self.trusted()?;
        let rules = self.rules();
        let duties = rules.users.as_ref().and_then(|u| u.duties.as_ref()).ok_or_else(none)?;
        // What was read is what is acknowledged, whatever came into force meanwhile.
        if duties.hash != hash {
            let why = "these are not the duties in force any more: read them again";
            return Err(Refusal::new(Code::ApprovalStale, why));
        }
        let policy = hex::encode(rules.policy.hash());
        let event = UserEvent::Acknowledged {
            who: who.clone(),
            uid,
            duties: duties.hash.clone(),
            policy: policy.clone(),
        };
        let entry = self.store.acknowledge(event).await.map_err(|e| self.store_refusal(&e))?;
        tracing::info!(who, uid, "duties were acknowledged");
        Ok(json!({"who": who, "duties": duties.hash, "policy": policy, "entry": entry}))
    }
}
