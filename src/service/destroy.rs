//! The end of a key: every copy is known, has a time, and leaves a receipt; only then it is called destroyed. [clause 8.7.1]
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::PoisonError;

use serde_json::{Value, json};

use super::backup::QUORUM_FILE;
use super::keys::now;
use super::lifecycle::checked_reason;
use super::{House, token_refusal, vault};
use crate::core::backup::vault::{Found, LockId};
use crate::core::key::copies::{CopyKind, KeyCopy, certificate, is_place};
use crate::core::key::{KeyRecord, PublicKey, State};
use crate::core::units::{Name, Timestamp, sha256};
use crate::refusal::{Code, Refusal};
use crate::store::Because;
use crate::token::TokenError;

/// Whose word it is where the daemon did it, and looked.
const DAEMON: &str = "daemon";

/// A copy that has to go and is not gone, for status, metrics and people.
pub(super) struct Left {
    key: Name,
    copy: KeyCopy,
    /// What keeps the daemon from it, where it tried.
    why: Option<String>,
}

impl Left {
    fn is(&self, key: &Name, copy: &KeyCopy) -> bool {
        self.key == *key && self.copy.what == copy.what && self.copy.place == copy.place
    }
}

/// What was tried with a copy.
enum Tried {
    /// It is gone, in this way.
    Gone(&'static str),
    /// It is out of the daemon's reach.
    Away(String),
    /// The daemon's own token did not do it.
    Failed(Refusal),
}

/// Removes a bundle, and what a crash left beside it. Only where the directory is the one that the ceremony marked: an
/// empty mount point says nothing about the medium that belongs there.
fn remove(path: &Path, mark: &str) -> Tried {
    let Some(dir) = path.parent().filter(|d| d.join(QUORUM_FILE).is_file()) else {
        return Tried::Away("its directory is not there, or is none of this quorum's".into());
    };
    let failed = |e: std::io::Error| Tried::Away(format!("{}: {e}", path.display()));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let found = std::fs::read(path).map(|bytes| hex::encode(sha256(&bytes)));
    for file in [path, Path::new(&beside)] {
        match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return failed(e),
            _ => {}
        }
    }
    // [clause 8.7.1-p] a receipt is written after the directory is durable without the file
    if let Err(e) = std::fs::File::open(dir).and_then(|d| d.sync_all()) {
        return failed(e);
    }
    match found {
        _ if path.exists() => Tried::Away("it is still there after it was removed".into()),
        Ok(digest) if digest == mark => Tried::Gone("removed, and looked for"),
        Ok(_) => Tried::Gone("removed; it was not the file that had been written there"),
        Err(_) => Tried::Gone("not there any more when it was to be removed"),
    }
}

impl House {
    /// Where a key is, as far as the daemon knows without having been told.
    async fn known_copies(&self, key: &KeyRecord) -> Result<Vec<KeyCopy>, Refusal> {
        let at = key.created;
        let mut all =
            vec![KeyCopy::new(CopyKind::Token, key.token_serial.clone(), key.reference.to_string(), at)];
        let Some(backups) = self.backup.as_ref().filter(|b| b.quorum().is_some()) else { return Ok(all) };
        let made = self.bundle_of(key).await?;
        let lock = made.as_ref().map_or("-", |m| m.lock.as_str());
        // A key without a lock leaves a tombstone in the vault all the same.
        for place in &backups.places {
            all.push(KeyCopy::new(CopyKind::Vault, place.name.clone(), lock.to_owned(), at));
        }
        if let Some(made) = made {
            all.extend(self.bundles_of(&made)?);
        }
        Ok(all)
    }

    /// Begins or goes on with the end of a key: what the daemon reaches it destroys now, and what it does not keeps the key
    /// in its destruction. Begun once, it is finished by whoever comes next, after a crash too.
    // [clause 8.7.1-p] every copy has a time and a receipt; the key is destroyed when the last one is in
    pub(super) async fn destroy(&self, key: &KeyRecord, because: Because) -> Result<KeyRecord, Refusal> {
        let again = because.clone();
        self.store
            .begin_destroying(key.name.clone(), because)
            .await
            .map_err(|e| self.store_refusal(&e))??;
        self.load_keys().await?;
        let (known, deadlines) = (self.known_copies(key).await?, self.key_policy().deadlines);
        self.store
            .owe_copies(key.name.clone(), known, deadlines)
            .await
            .map_err(|e| self.store_refusal(&e))??;
        let owed = self.copies_of(&key.name).await?.into_iter().filter(|c| c.gone.is_none());
        let (mut failed, mut left) = (None, Vec::new());
        let mut locks = Vec::new();
        for copy in owed {
            let tried = match copy.what {
                CopyKind::Token => self.leave_token(key, &copy).await,
                CopyKind::Bundle => remove(Path::new(&copy.place), &copy.mark),
                CopyKind::Medium => Tried::Away("an operator gives a receipt for it".into()),
                CopyKind::Vault => {
                    locks.push(copy);
                    continue;
                }
            };
            match tried {
                Tried::Gone(how) => self.receipt(key, &copy, DAEMON, how).await?,
                Tried::Away(why) => left.push((copy, why)),
                Tried::Failed(refusal) => {
                    left.push((copy, refusal.sentence.clone()));
                    failed = Some(refusal);
                }
            }
        }
        left.extend(self.leave_vault(key, locks).await?);
        for (copy, why) in &left {
            tracing::warn!(key = %key.name, what = copy.what.as_str(), place = copy.place, "not gone yet: {why}");
        }
        self.note_left(&key.name, left);
        let origin = self.config.log.origin.clone();
        let done = self
            .store
            .finish_destroying(key.name.clone(), again, origin)
            .await
            .map_err(|e| self.store_refusal(&e))??;
        if done {
            self.load_keys().await?;
            tracing::info!(key = %key.name, "key destroyed, with every copy of it");
        }
        match failed {
            Some(refusal) => Err(refusal),
            None => self.named(key.name.as_str()),
        }
    }

    async fn receipt(&self, key: &KeyRecord, copy: &KeyCopy, by: &str, how: &str) -> Result<(), Refusal> {
        let (name, place) = (key.name.clone(), copy.place.clone());
        self.store
            .copy_gone(name, copy.what, place, by.to_owned(), how.to_owned())
            .await
            .map_err(|e| self.store_refusal(&e))?
    }

    async fn leave_token(&self, key: &KeyRecord, copy: &KeyCopy) -> Tried {
        let failed = |e| Tried::Failed(token_refusal(&e));
        match self.keeper.describe() {
            None => return Tried::Failed(Refusal::new(Code::TokenGone, "the token is not connected")),
            Some(token) if token.serial != copy.place => {
                return Tried::Away("it was in a token that is not the one in use here".into());
            }
            Some(_) => {}
        }
        // Under the id that a restoration gives it there may be a second one, from a run that was cut off.
        for reference in [key.reference, super::recover::reference_of(&key.public)] {
            match self.keeper.find(reference).await {
                Ok(None) => continue,
                // Half a pair is no key, and is to go all the same.
                Ok(Some(_)) | Err(TokenError::Corrupt(_)) => {}
                Err(e) => return failed(e),
            }
            if let Err(e) = self.keeper.destroy(reference).await {
                return failed(e);
            }
            // [clause 8.7.1-h] destroyed is what the token no longer finds
            match self.keeper.find(reference).await {
                Ok(None) => {}
                Ok(Some(_)) => {
                    let why =
                        format!("the token still holds key {} after it was told to destroy it", key.name);
                    return Tried::Failed(Refusal::new(Code::TokenRefused, why));
                }
                Err(e) => return failed(e),
            }
        }
        Tried::Gone("destroyed in the token, and looked for")
    }

    /// Lets the lock go in every place that is there.
    // [clause 8.7.1-s] a key is not called destroyed before every place of the vault has let its lock go
    async fn leave_vault(
        &self,
        key: &KeyRecord,
        locks: Vec<KeyCopy>,
    ) -> Result<Vec<(KeyCopy, String)>, Refusal> {
        if locks.is_empty() {
            return Ok(Vec::new());
        }
        let outcomes = match &self.backup {
            Some(backups) => {
                let _turn = backups.turn.lock().await;
                vault::destroy(&backups.places, LockId::of(&key.public), now()).await
            }
            None => Vec::new(),
        };
        let mut left = Vec::new();
        for copy in locks {
            match outcomes.iter().find(|(name, _)| *name == copy.place) {
                Some((_, Ok(()))) => {
                    let how = "its root was destroyed, and the table stands under a new one without it";
                    self.receipt(key, &copy, DAEMON, how).await?;
                }
                Some((_, Err(refusal))) => left.push((copy, refusal.sentence.clone())),
                None => left.push((copy, "this place of the vault is not in the configuration".into())),
            }
        }
        Ok(left)
    }

    fn note_left(&self, key: &Name, fresh: Vec<(KeyCopy, String)>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|l| l.key != *key);
        left.extend(fresh.into_iter().map(|(copy, why)| Left { key: key.clone(), copy, why: Some(why) }));
    }

    /// Raises an alarm, once, about each copy whose time is over; keeps what status and metrics tell of the others.
    // [clause 8.7.1-p] in time, or somebody hears of it
    pub(super) async fn look_after_copies(&self) {
        if self.trusted().is_err() {
            return;
        }
        match self.store.copies_overdue(self.life_now()).await {
            Ok(fresh) => {
                for (key, copy) in fresh {
                    let due = copy.due.map(|t| t.to_string()).unwrap_or_default();
                    tracing::error!(%key, what = copy.what.as_str(), place = copy.place, "ALARM: not gone since {due}");
                }
            }
            Err(e) => tracing::error!("overdue copies cannot be told of: {e}"),
        }
        match self.store.copies_owed().await {
            Ok(owed) => {
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                let before = std::mem::take(&mut *left);
                left.extend(owed.into_iter().map(|(key, copy)| {
                    let why = before.iter().find(|l| l.is(&key, &copy)).and_then(|l| l.why.clone());
                    Left { key, copy, why }
                }));
            }
            Err(e) => tracing::error!("copies that have to go cannot be read: {e}"),
        }
    }

    /// Copies that have to go and are not gone, and how many of them are overdue.
    pub(super) fn copies_left(&self) -> (Value, usize) {
        let (now, left) = (self.life_now(), self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let rows = left.iter().map(|l| {
            let mut row = shown(&l.copy, now);
            if let Some(map) = row.as_object_mut() {
                map.insert("key".into(), json!(l.key));
                map.insert("why".into(), json!(l.why));
            }
            row
        });
        (rows.collect(), left.iter().filter(|l| l.copy.overdue(now)).count())
    }

    pub(super) async fn copies_of(&self, key: &Name) -> Result<Vec<KeyCopy>, Refusal> {
        self.store.copies(key.clone()).await.map_err(|e| self.store_refusal(&e))
    }

    /// Where a key is, and what became of it there; the signed certificate when nothing is left.
    pub async fn key_copies(&self, name: &str) -> Result<Value, Refusal> {
        let key = self.named(name)?;
        let mut copies = self.copies_of(&key.name).await?;
        if key.state != State::Destroyed {
            let fresh = self.known_copies(&key).await?;
            let unknown = |c: &KeyCopy| !copies.iter().any(|k| k.what == c.what && k.place == c.place);
            let fresh: Vec<KeyCopy> = fresh.into_iter().filter(unknown).collect();
            copies.extend(fresh);
        }
        let at = self.life_now();
        let certificate = match certificate(&self.config.log.origin, &key, &copies) {
            None => Value::Null,
            Some(text) => json!(self.sign_note(&text).await?),
        };
        Ok(json!({
            "key": key.name,
            "state": key.state,
            "destroying": key.destroying,
            "copies": copies.iter().map(|c| shown(c, at)).collect::<Vec<_>>(),
            "certificate": certificate,
        }))
    }

    /// An operator tells of a medium that holds a bundle of the key; or, with `how`, that a copy is gone which the daemon
    /// does not reach.
    // [clause 8.7.1-p] of what the daemon reaches nobody's word counts
    pub async fn key_copy(
        &self,
        name: &str,
        what: &str,
        place: &str,
        how: Option<&str>,
        uid: u32,
    ) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let key = self.named(name)?;
        let wrong = |why: &str| Refusal::new(Code::InvalidParams, why.to_owned());
        let what =
            CopyKind::parse(what).ok_or_else(|| wrong("a copy is a token, vault, bundle or medium"))?;
        if !is_place(place) {
            return Err(wrong("a place is one line that people can read, of 255 bytes at most"));
        }
        let Some(how) = how else {
            if what != CopyKind::Medium || key.state == State::Destroyed {
                return Err(wrong("only media are told of, and only while there is a key"));
            }
            let mark = self.bundle_of(&key).await?.map_or_else(|| "-".to_owned(), |m| m.bundle);
            let copy = KeyCopy::new(what, place.to_owned(), mark, self.life_now());
            let (name, deadlines) = (key.name.clone(), self.key_policy().deadlines);
            let noted = self.store.note_copies(name.clone(), vec![copy], Some(uid)).await;
            noted.map_err(|e| self.store_refusal(&e))?;
            if key.destroying {
                let owed = self.store.owe_copies(name, Vec::new(), deadlines).await;
                owed.map_err(|e| self.store_refusal(&e))??;
            }
            return self.key_copies(key.name.as_str()).await;
        };
        let how = checked_reason(how)?;
        if self.reaches(what, place) {
            let why = format!("the {what} {place} is within the daemon's reach, which destroys it and looks");
            return Err(Refusal::new(Code::CopyReachable, why));
        }
        let by = format!("operator {uid}");
        self.store
            .copy_gone(key.name.clone(), what, place.to_owned(), by.clone(), how.to_owned())
            .await
            .map_err(|e| self.store_refusal(&e))??;
        tracing::warn!(key = %key.name, what = what.as_str(), place, uid, "a receipt was given: {how}");
        let ended = self.destroy(&key, self.because(by, "the last copies of it are gone")).await;
        self.look_after_copies().await;
        ended?;
        self.key_copies(key.name.as_str()).await
    }

    /// Whether the daemon itself sees to this copy.
    fn reaches(&self, what: CopyKind, place: &str) -> bool {
        let vaults = || self.backup.iter().flat_map(|b| &b.places);
        match what {
            CopyKind::Token => self.keeper.describe().is_none_or(|d| d.serial == place),
            CopyKind::Vault => vaults().any(|p| p.name == place),
            CopyKind::Bundle => Path::new(place).parent().is_some_and(|d| d.join(QUORUM_FILE).is_file()),
            CopyKind::Medium => false,
        }
    }

    /// A key that the vault knows as destroyed does not come in again, whatever the register remembers.
    // [clause 8.7.1-x] a register may be lost or older: the vault's tombstones count for every way in
    pub(super) async fn not_shredded(&self, public: &PublicKey) -> Result<(), Refusal> {
        let Some(backups) = &self.backup else { return Ok(()) };
        let _turn = backups.turn.lock().await;
        match vault::look(&backups.places).await?.find(LockId::of(public)) {
            Found::Gone(at) => {
                let why =
                    format!("this very key was destroyed with its backups at {at}: it never comes back");
                Err(Refusal::new(Code::KeyTombstone, why))
            }
            Found::Lock(_) | Found::Nothing => Ok(()),
        }
    }
}

fn shown(copy: &KeyCopy, now: Timestamp) -> Value {
    json!({
        "what": copy.what,
        "place": copy.place,
        "mark": copy.mark,
        "noted": copy.noted.to_string(),
        "due": copy.due.map(|t| t.to_string()),
        "overdue": copy.overdue(now),
        "gone": copy.gone.as_ref().map(|g| g.at.to_string()),
        "by": copy.gone.as_ref().map(|g| &g.by),
        "how": copy.gone.as_ref().map(|g| &g.how),
    })
}
