//! The user: here, for one connection of one process, after a PIN that was typed outside the app. [clause 8.2.3]
//!
//! A session is the connection itself: there is nothing that could be stolen and shown elsewhere. It lives in memory alone,
//! so that a restart ends all of them.
#![forbid(unsafe_code)]

mod ask;
mod duties;
mod manage;
mod pin;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::keys::now;
use super::{House, Peer, Tie};
use crate::core::key::Purpose;
use crate::core::log::user::UserEvent;
use crate::core::payment::Payment;
use crate::core::proof::{Present, RequestId, Tier, Vouched};
use crate::core::units::Name;
use crate::core::user::{Claim, Ended, Step, User, Users, session};
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;
use crate::sys;
use crate::token::keeper::KeeperState;
pub use ask::Confirmation;
pub(super) use ask::{Decoded, Wanted};
pub use pin::Typed;

/// The name of the key that records of PINs are under.
pub const PEPPER: &str = "claviger-pepper";
/// How long a code is good for, milliseconds.
const CODE_MS: u64 = 300_000;
/// Most codes at once; each connection has one at most.
const MOST_CODES: usize = 1024;
/// Most sessions at once, and of those that ended and are remembered.
const MOST_SESSIONS: usize = 4096;
/// How often it is looked who is gone.
const LOOK: Duration = Duration::from_millis(500);
/// Letters and digits that are not taken for each other.
const ALPHABET: &[u8; 30] = b"ABCDEFGHJKMNPQRSTVWXYZ23456789";

/// Whether a line is that of the daemon's own key.
pub(super) fn is_pepper(line: &Name) -> bool {
    line.as_str() == PEPPER
}

/// Reads the users document.
pub fn read_document(text: &str) -> Result<Users, Refusal> {
    Users::parse(text).map_err(|e| Refusal::new(Code::PolicyInvalid, format!("users: {e}")))
}

/// A code for people, in groups of four.
fn grouped(code: &str) -> String {
    let signs: Vec<char> = code.chars().collect();
    signs.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// A code of so many signs.
fn fresh_code(signs: usize) -> Result<String, Refusal> {
    let mut code = String::new();
    while code.len() < signs {
        let mut byte = [0u8];
        getrandom::fill(&mut byte)
            .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
        // 240 is the last multiple of 30: what is beyond would make some signs likelier.
        let drawn = byte.first().copied().filter(|b| *b < 240).map(|b| usize::from(b) % ALPHABET.len());
        let Some(sign) = drawn.and_then(|at| ALPHABET.get(at)) else { continue };
        code.push(char::from(*sign));
    }
    Ok(code)
}

/// A code as it was shown, however it was typed.
fn plain(code: &str) -> String {
    code.chars().filter(char::is_ascii_alphanumeric).take(64).map(|c| c.to_ascii_uppercase()).collect()
}

struct Session {
    peer: Tie,
    user: Name,
    app: Name,
    /// Milliseconds since the machine was started.
    opened: u64,
    used: u64,
}

/// An app that asks for its user.
struct Knock {
    peer: Tie,
    app: Name,
    tier: Tier,
    caller: String,
    expires: u64,
}

#[derive(Default)]
struct Inner {
    sessions: Vec<Session>,
    /// Sessions that ended, for the log.
    closed: Vec<(Name, Name, Ended)>,
    /// And for the app that comes back.
    gone: Vec<(Tie, Name, Ended)>,
    knocks: HashMap<String, Knock>,
    asks: HashMap<RequestId, Wanted>,
    /// The last try of each, in this run.
    tried: HashMap<String, u64>,
    /// Tries of users of this machine whom the document does not know.
    strangers: HashMap<u32, u32>,
    /// Who is being compared or waits for it: one try each.
    trying: HashSet<u32>,
}

/// Who is here.
pub(super) struct Presence {
    inner: Mutex<Inner>,
    /// One Argon2 at a time, so that nobody can take the memory.
    one: tokio::sync::Mutex<()>,
    began: u64,
}

/// Whether a remembered connection is this one. The allocation of a connection that is remembered is not used again.
fn is(remembered: &Tie, peer: &Peer) -> bool {
    remembered.is_of(peer)
}

impl Presence {
    pub(super) fn new(began: u64) -> Self {
        Self { inner: Mutex::default(), one: tokio::sync::Mutex::new(()), began }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> u64 {
        self.inner().sessions.len() as u64
    }

    /// Ends the sessions that a test picks, by the reason that it gives.
    fn end(&self, over: impl Fn(&Session) -> Option<Ended>) -> usize {
        let mut inner = self.inner();
        let (kept, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.sessions)
            .into_iter()
            .map(|s| (over(&s), s))
            .partition(|(w, _)| w.is_none());
        inner.sessions = kept.into_iter().map(|(_, s)| s).collect();
        let count = ended.len();
        for (why, session) in ended {
            let Some(why) = why else { continue };
            // What was confirmed in a session ends with it.
            inner.asks.retain(|_, ask| !(ask.peer.same(&session.peer) && ask.user == session.user));
            inner.closed.push((session.user.clone(), session.app, why));
            inner.gone.push((session.peer, session.user, why));
        }
        inner.gone.retain(|(peer, _, _)| peer.is_open());
        let extra = inner.gone.len().saturating_sub(MOST_SESSIONS);
        inner.gone.drain(..extra);
        count
    }

    /// Ends what is over by the clock, or whose app left or changed.
    fn sweep(&self, users: Option<&Users>, now: u64, everybody: Option<Ended>) {
        self.end(|s| {
            let Some(peer) = s.peer.peer() else { return Some(Ended::Left) };
            let Some(users) = users else { return Some(Ended::Rules) };
            everybody
                .or_else(|| session::over(s.opened, s.used, now, users.idle_ms, users.hard_ms))
                .or_else(|| peer.still().is_err().then_some(Ended::AppChanged))
        });
        let mut inner = self.inner();
        inner.knocks.retain(|_, k| now < k.expires && k.peer.is_open());
        inner.asks.retain(|_, ask| now < ask.expires && ask.peer.is_open());
    }

    /// Whether the user is here for this connection; being asked for keeps a session from being idle.
    fn touch(&self, peer: &Peer, user: &Name, users: &Users) -> Result<(), Refusal> {
        let now = sys::since_boot();
        let ours = |s: &Session| is(&s.peer, peer) && s.user == *user;
        let over = |s: &Session| session::over(s.opened, s.used, now, users.idle_ms, users.hard_ms);
        self.end(|s| ours(s).then(|| over(s)).flatten());
        let mut inner = self.inner();
        if let Some(session) = inner.sessions.iter_mut().find(|s| ours(s)) {
            session.used = now;
            return Ok(());
        }
        let before =
            inner.gone.iter().rev().find(|(p, u, _)| is(p, peer) && u == user).map(|(_, _, why)| *why);
        Err(match before {
            Some(why) => {
                let said = format!("the session of {user} on this connection ended: {}", why.as_str());
                Refusal::new(Code::UserLocked, said)
            }
            None => Refusal::new(
                Code::UserNeeded,
                format!("this key is {user}'s, who has opened no session on this connection"),
            ),
        }
        .with(json!({"user": user})))
    }

    fn is_here(&self, peer: &Peer, user: &Name) -> bool {
        self.inner().sessions.iter().any(|s| is(&s.peer, peer) && s.user == *user)
    }
}

impl House {
    /// Step 4: the user whose key it is, here for this connection just now.
    // [clause 8.2.3-d] asked for every use of a key that has a user; nothing in the request stands in for it
    pub(super) fn present(
        &self,
        peer: &Peer,
        vouched: &Vouched,
        line: &Name,
        payment: Option<&Payment>,
    ) -> Result<Present, Refusal> {
        let rules = self.rules();
        let digest = *vouched.digest();
        let owner = rules.users.as_ref().and_then(|users| Some((users, users.of_line(line)?)));
        self.duties_known(&rules, vouched.app(), owner.map(|(_, user)| &**user))?;
        let Some((users, user)) = owner else { return Ok(Present::assertion(digest, None)) };
        self.presence.touch(peer, &user.name, users)?;
        let confirmed = self.presence.confirmed(peer, &user.name, &digest).unwrap_or(Step::Session);
        Ok(Present::assertion(digest, Some(Claim::new(Arc::clone(user), confirmed, payment))))
    }

    /// Once more, before anything is given out.
    pub(super) fn still_here(&self, peer: &Peer, user: Option<&Name>) -> Result<(), Refusal> {
        match user {
            Some(user) if !self.presence.is_here(peer, user) => {
                let why = format!("the session of {user} ended while this was being signed");
                Err(Refusal::new(Code::UserLocked, why))
            }
            _ => Ok(()),
        }
    }

    /// The app is not what it was: nobody is here for it.
    pub(super) fn app_failed(&self, peer: &Peer) {
        self.presence.end(|s| is(&s.peer, peer).then_some(Ended::AppChanged));
    }

    /// Ends all sessions: of a lock, of rules that changed, of anything that stops signing.
    pub fn end_sessions(&self, why: Ended) -> usize {
        self.presence.inner().knocks.clear();
        self.presence.end(|_| Some(why))
    }

    /// An app asks for its user; gives the code that it shows.
    pub fn request_user(&self, peer: &Arc<Peer>) -> Result<Value, Refusal> {
        let rules = self.rules();
        if rules.users.is_none() {
            return Err(Refusal::new(Code::UserUnknown, "this daemon knows no users; its keys need none"));
        }
        let vouched = peer.vouch(&rules.apps, [0; 32], now()).inspect_err(|_| self.app_failed(peer))?;
        let now = sys::since_boot();
        let mut inner = self.presence.inner();
        // The code that is on the screen already goes on being the code.
        let there = inner.knocks.iter().find(|(_, k)| is(&k.peer, peer) && now < k.expires);
        if let Some((code, knock)) = there {
            let left = knock.expires.saturating_sub(now) / 1000;
            return Ok(json!({"code": grouped(code), "expires_seconds": left}));
        }
        let code = fresh_code(8)?;
        let knock = Knock {
            peer: peer.tie(),
            app: vouched.app().clone(),
            tier: vouched.tier(),
            caller: peer.describe(),
            expires: now.saturating_add(CODE_MS),
        };
        inner.knocks.retain(|_, k| now < k.expires && k.peer.is_open());
        if inner.knocks.len() >= MOST_CODES {
            return Err(Refusal::new(Code::Busy, format!("{MOST_CODES} apps wait for their users")));
        }
        let shown = json!({"code": grouped(&code), "expires_seconds": CODE_MS / 1000});
        inner.knocks.insert(code, knock);
        Ok(shown)
    }

    /// Wallets that know nothing of users show what a refusal says: it says how to go on.
    #[must_use]
    pub fn with_code(&self, peer: &Arc<Peer>, mut refusal: Refusal) -> Refusal {
        if !matches!(refusal.code, Code::UserNeeded | Code::UserLocked) {
            return refusal;
        }
        let Ok(Value::Object(mut facts)) = self.request_user(peer) else { return refusal };
        if let Some(code) = facts.get("code").and_then(Value::as_str) {
            refusal.sentence =
                format!("{}; they open one with: claviger user unlock {code}", refusal.sentence);
        }
        if let Some(before) = refusal.facts.as_object_mut() {
            before.append(&mut facts);
        } else {
            refusal.facts = Value::Object(facts);
        }
        refusal
    }

    /// An app waits for its user, or asks who is here.
    pub async fn wait_for_session(&self, peer: &Peer, patience: Duration) -> Value {
        let until = tokio::time::Instant::now() + patience;
        loop {
            let here: Vec<Name> = {
                let inner = self.presence.inner();
                inner.sessions.iter().filter(|s| is(&s.peer, peer)).map(|s| s.user.clone()).collect()
            };
            if !here.is_empty() || tokio::time::Instant::now() + LOOK > until {
                return json!({"users": here});
            }
            tokio::time::sleep(LOOK / 5).await;
        }
    }

    /// Looks who is gone until the daemon stops, and writes it down.
    pub async fn keep_presence(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        loop {
            let rules = self.rules();
            // [clause 8.2.3-f] a token that is locked is one that somebody locked
            let all = matches!(self.keeper.state(), KeeperState::Locked(_)).then_some(Ended::Inactivated);
            self.presence.sweep(rules.users.as_deref(), sys::since_boot(), all);
            self.write_closed().await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    /// Sessions that ended go into the log.
    pub(super) async fn write_closed(&self) {
        let closed = std::mem::take(&mut self.presence.inner().closed);
        for (user, app, why) in closed {
            tracing::info!(%user, %app, why = why.as_str(), "a session ended");
            let event = UserEvent::Closed {
                user: user.to_string(),
                app: app.to_string(),
                why: why.as_str().to_owned(),
            };
            if let Err(e) = self.store.append(EntryKind::User(event)).await {
                tracing::error!("the end of a session could not be written down: {e}");
            }
        }
    }

    /// The user of this machine who is on the other end, where the document knows them.
    fn user_of(&self, peer: &Peer) -> Option<Arc<User>> {
        self.rules().users.as_ref().and_then(|users| users.by_uid(peer.uid)).cloned()
    }

    /// Like [`Self::user_of`], for what shows and takes no PIN.
    fn known_user(&self, peer: &Peer) -> Result<Arc<User>, Refusal> {
        self.user_of(peer).ok_or_else(|| {
            Refusal::new(Code::UserUnknown, format!("uid {} is no user of this daemon", peer.uid))
        })
    }

    /// The key that records of PINs are under; made when the first user is let in.
    async fn pepper(&self, uid: u32) -> Result<Arc<super::Key>, Refusal> {
        use crate::core::key::Algorithm;
        let name = Name::parse(PEPPER).ok_or_else(|| Refusal::new(Code::Internal, "no name"))?;
        if let Some(key) = self.keys().by_name(&name) {
            return Ok(key);
        }
        let made = self.create_key(PEPPER, Algorithm::HmacSha256, Purpose::Integrity, uid).await;
        made.map_err(|why| match why.code {
            Code::TokenRefused | Code::KeyPolicyForbids => Refusal::new(
                Code::UserUnprotected,
                format!("no key for the records of PINs can be made: {}", why.sentence),
            ),
            _ => why,
        })?;
        self.keys().by_name(&name).ok_or_else(|| Refusal::new(Code::Internal, "the key is gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_are_typed_and_are_never_alike() {
        let codes: HashSet<String> = (0..200).map(|_| fresh_code(8).unwrap()).collect();
        assert_eq!(codes.len(), 200);
        for code in codes {
            assert_eq!(code.len(), 8);
            assert_eq!(plain(&format!(" {} ", grouped(&code).to_lowercase())), code);
            assert!(!code.contains(['I', 'L', 'O', 'U', '0', '1']));
        }
        assert_eq!(grouped("ABCDEFGHJK"), "ABCD-EFGH-JK");
        assert_eq!(fresh_code(16).unwrap().len(), 16);
    }
}
