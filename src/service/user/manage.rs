//! What operators do about users: the document, and codes to enrol with. They never see a PIN.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::super::House;
use super::super::keys::now;
use super::{Peer, fresh_code, grouped};
use crate::core::approval::sshsig::SshKey;
use crate::core::approval::{Act, Deed, Matter};
use crate::core::units::sha256;
use crate::core::user::{Credential, Ended, User};
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;
use crate::sys;

/// How long a user may enrol with a code, milliseconds.
const INVITED_MS: i64 = 86_400_000;
/// Longest reason, bytes.
const LONGEST_REASON: usize = 512;

impl House {
    /// Checks a users document, and puts it in force or asks the people for it.
    pub async fn apply_users(&self, text: &str, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        super::read_document(text)?;
        if self.config.users_file.is_none() {
            let why = "the configuration names no users_file, so that nothing would be there after a restart";
            return Err(Refusal::new(Code::PolicyInvalid, why));
        }
        if self.quorum(Matter::Users) {
            return Err(self.ask_refused(Matter::Users, text, uid).await?);
        }
        self.permit(uid, &[Act::Make])?;
        self.write_and_put(Matter::Users, text, uid, &[]).await
    }

    /// Lets a user enrol, or enrol anew: the PIN of before is worth nothing from now on, and tries begin anew.
    // [clause 8.2.3-e] what too many wrong PINs closed is opened by an operator, or by several people where they say so
    pub async fn reset_user(&self, name: &str, reason: &str, uid: u32) -> Result<Value, Refusal> {
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > LONGEST_REASON || reason.chars().any(char::is_control) {
            let why = format!("give a reason: one line of at most {LONGEST_REASON} bytes");
            return Err(Refusal::new(Code::InvalidParams, why));
        }
        let found = self.rules().users.as_ref().and_then(|u| u.by_name(name)).cloned();
        let user = found.ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Refusal::new(Code::UserUnknown, format!("the users document names no {shown:?}"))
        })?;
        self.pepper(uid).await?;
        let _one_at_a_time = self.changes.lock().await;
        let deed = Deed::User { user: user.name.clone(), reason: reason.to_owned() };
        let detail = vec![format!("uid {}", user.uid), format!("keys {}", list(user.keys.iter()))];
        let agreed = self.agreed(Matter::Users, deed, detail, uid).await?;
        let code = fresh_code(16)?;
        let expires = now().plus(INVITED_MS);
        let hash = sha256(code.as_bytes());
        self.store
            .invite_user(user.name.to_string(), hash, expires, uid, reason.to_owned())
            .await
            .map_err(|e| self.store_refusal(&e))?;
        self.made(agreed).await?;
        self.presence.inner().tried.remove(user.name.as_str());
        self.presence.end(|s| (s.user == user.name).then_some(Ended::User));
        self.write_closed().await;
        tracing::warn!(user = %user.name, uid, "a user may enrol");
        Ok(
            json!({"user": user.name, "uid": user.uid, "code": grouped(&code), "expires": expires.to_string()}),
        )
    }

    /// The document, and how its users stand.
    pub async fn users_shown(&self) -> Result<Value, Refusal> {
        let rules = self.rules();
        let rows = self.store.users().await.map_err(|e| self.store_refusal(&e))?;
        let clock = sys::since_boot();
        let inner = self.presence.inner();
        let shown = |user: &User| {
            let row = rows.iter().find(|r| r.name == user.name.as_str());
            let sessions: Vec<Value> = inner
                .sessions
                .iter()
                .filter(|s| s.user == user.name)
                .map(|s| json!({"app": s.app, "open_seconds": clock.saturating_sub(s.opened) / 1000}))
                .collect();
            let fido = user.fido.iter().map(SshKey::fingerprint);
            let fido: Vec<String> =
                fido.chain(user.credentials.iter().map(Credential::fingerprint)).collect();
            json!({
                "name": user.name,
                "uid": user.uid,
                "keys": user.keys,
                "enrolled": row.is_some_and(|r| r.verifier.is_some()),
                "wrong_pins": row.map_or(0, |r| r.tries),
                "suspended": row.is_some_and(|r| {
                    r.suspended || r.tries >= rules.users.as_ref().map_or(0, |u| u.most_tries)
                }),
                "may_enrol_until": row.and_then(|r| r.invite).map(|(_, at)| at.to_string()),
                "authenticators": fido,
                "sessions": sessions,
            })
        };
        let users: Vec<Value> =
            rules.users.iter().flat_map(|u| u.all().iter()).map(|u| shown(u.as_ref())).collect();
        Ok(json!({
            "hash": rules.users.as_ref().map(|u| hex::encode(u.hash())),
            "text": rules.users_text,
            "users": users,
        }))
    }

    /// An operator ends every session.
    pub async fn lock_all(&self, uid: u32) -> Result<Value, Refusal> {
        let ended = self.end_sessions(Ended::Locked);
        let entry = EntryKind::operator(uid, "user-lock", json!({"ended": ended}));
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        self.write_closed().await;
        Ok(json!({"ended": ended}))
    }

    /// How a user stands, for themselves.
    pub async fn own_status(&self, peer: &Peer) -> Result<Value, Refusal> {
        let user = self.known_user(peer)?;
        let row = self.store.user(user.name.to_string()).await.map_err(|e| self.store_refusal(&e))?;
        let (inner, clock) = (self.presence.inner(), sys::since_boot());
        let sessions: Vec<Value> = inner
            .sessions
            .iter()
            .filter(|s| s.user == user.name)
            .map(|s| json!({"app": s.app, "open_seconds": clock.saturating_sub(s.opened) / 1000}))
            .collect();
        Ok(json!({
            "user": user.name,
            "keys": user.keys,
            "enrolled": row.is_some_and(|r| r.verifier.is_some()),
            "sessions": sessions,
        }))
    }
}

fn list<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
}
