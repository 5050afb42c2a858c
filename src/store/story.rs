//! At the start the log is read from its first entry: it must be the one that was signed, and the tables must tell the
//! same story. A row that was changed, added or taken away behind the daemon's back is found before it is used.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::changes::{Pending, all_open, kept_document};
use super::keys::keys;
use super::open::OpenRequests;
use super::schema::int;
use super::{EntryKind, StoreError, users};
use crate::core::key::State;
use crate::core::log::checkpoint;
use crate::core::log::entry::Entry;
use crate::core::log::merkle::{Frontier, leaf_hash};
use crate::core::log::user::UserEvent;
use crate::core::payment::{Asset, Payment};
use crate::core::policy::window::LONGEST_MS;
use crate::core::units::{Name, Timestamp, sha256};
use crate::core::user::Verifier;

/// What was found of the log.
pub(super) struct Told {
    /// Its tree.
    pub(super) tree: Frontier,
    /// The time of its last entry.
    pub(super) last_ms: i64,
    /// Its newest entries about who decides what.
    pub(super) governance: VecDeque<Value>,
}

/// Most entries about who decides what that are kept at hand.
const MOST_GOVERNANCE: usize = 200;

/// An entry about who decides what: policy, key policy, people, apps.
pub(super) fn governs(kind: &EntryKind) -> bool {
    matches!(
        kind,
        EntryKind::Policy { .. }
            | EntryKind::KeyPolicy { .. }
            | EntryKind::Authority { .. }
            | EntryKind::Apps { .. }
            | EntryKind::Users { .. }
            | EntryKind::ChangeAsked { .. }
            | EntryKind::ChangeEnded { .. }
    )
}

/// Keeps one more of them.
pub(super) fn keep(kept: &mut VecDeque<Value>, seq: u64, at: Timestamp, kind: &EntryKind) {
    let mut value = serde_json::to_value(kind).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("entry".into(), seq.into());
        map.insert("at".into(), at.to_string().into());
    }
    kept.push_back(value);
    if kept.len() > MOST_GOVERNANCE {
        kept.pop_front();
    }
}

struct KeyTold {
    facts: [String; 6],
    state: State,
    activated: Option<i64>,
    destroying: bool,
}

/// What the entries say that the tables must hold.
#[derive(Default)]
struct Story {
    keys: BTreeMap<String, KeyTold>,
    /// Debits, oldest first: when, and what row they made.
    debits: Vec<(i64, [u8; 32])>,
    /// What stands under each account nonce, by a digest of key, chain and nonce.
    nonces: HashMap<[u8; 16], [u8; 16]>,
    /// Which nonce each open request uses, until its outcome; and the other way round, since a payload that is asked for
    /// again takes the nonce over from the request before it.
    using: HashMap<String, [u8; 16]>,
    holders: HashMap<[u8; 16], String>,
    signed: HashMap<[u8; 16], String>,
    /// Documents in force whose texts are kept: name and SHA-256.
    documents: BTreeMap<&'static str, String>,
    /// Changes that are open: what people sign.
    changes: BTreeMap<String, String>,
    /// What is kept of users.
    users: BTreeMap<String, UserTold>,
}

/// Of a user: SHA-256 of the record, tries, whether suspended, SHA-256 of an open code and its end.
#[derive(Default, PartialEq, Eq)]
struct UserTold {
    verifier: Option<String>,
    tries: u32,
    suspended: bool,
    invite: Option<(String, i64)>,
}

fn short(parts: &[&[u8]]) -> [u8; 16] {
    let all: Vec<u8> = parts.iter().flat_map(|p| [&p.len().to_be_bytes(), *p].concat()).collect();
    let mut out = [0; 16];
    out.iter_mut().zip(sha256(&all)).for_each(|(to, from)| *to = from);
    out
}

fn debit_digest(
    key: &str,
    app: &str,
    chain: Option<i64>,
    asset: Option<&[u8]>,
    amount: &[u8; 32],
) -> [u8; 32] {
    sha256(format!("{key} {app} {chain:?} {:?} {}", asset.map(hex::encode), hex::encode(amount)).as_bytes())
}

fn open(why: impl Into<String>) -> StoreError {
    StoreError::Open(why.into())
}

fn differs(what: &str) -> StoreError {
    open(format!(
        "the database does not say of {what} what the log says: it was changed behind the daemon's back, or is damaged; restore it from a copy, or ask the auditor"
    ))
}

impl Story {
    fn hear(&mut self, entry: Entry) {
        let at = entry.at_ms;
        match entry.kind {
            EntryKind::KeyCreated {
                key, algorithm, purpose, public, token_serial, reference, state, ..
            } => {
                let line = Name::parse(&key).map(|n| n.line().to_string()).unwrap_or_default();
                let facts = [algorithm, purpose, public, token_serial, reference, line];
                let activated = (state == State::Active).then_some(at);
                self.keys.insert(key, KeyTold { facts, state, activated, destroying: false });
            }
            EntryKind::KeyMoved { key, to, .. } => {
                if let Some(told) = self.keys.get_mut(&key) {
                    (told.state, told.destroying) = (to, false);
                    if to == State::Active && told.activated.is_none() {
                        told.activated = Some(at);
                    }
                }
            }
            EntryKind::KeyDestroying { key, .. } => {
                if let Some(told) = self.keys.get_mut(&key) {
                    told.destroying = true;
                }
            }
            EntryKind::Intent { request, app, key, act, digest, debited, .. } => {
                let payment: Option<Payment> = serde_json::from_value(act).ok();
                let spent = payment.as_ref().and_then(|p| p.effect.debit());
                if debited {
                    let line = Name::parse(&key).map(|n| n.line().to_string()).unwrap_or_default();
                    let asset: Option<Vec<u8>> = spent.map(|(asset, _)| match asset {
                        Asset::Native => Vec::new(),
                        Asset::Erc20(contract) => contract.0.to_vec(),
                    });
                    let amount = spent.map(|(_, a)| a).unwrap_or_default().to_be_bytes::<32>();
                    let chain = payment.as_ref().map(|p| int(p.chain.0));
                    self.debits.push((at, debit_digest(&line, &app, chain, asset.as_deref(), &amount)));
                }
                if let Some(payment) = payment {
                    let slot = slot(&key, int(payment.chain.0), int(payment.nonce));
                    self.nonces.insert(slot, short(&[app.as_bytes(), digest.as_bytes(), request.as_bytes()]));
                    self.signed.remove(&slot);
                    if let Some(before) = self.holders.insert(slot, request.clone()) {
                        self.using.remove(&before);
                    }
                    self.using.insert(request, slot);
                }
            }
            EntryKind::Result { request, signature } => {
                if let (Some(slot), Some(signature)) = (self.outcome(&request), signature) {
                    self.signed.insert(slot, signature);
                }
            }
            EntryKind::Failed { request, .. } | EntryKind::InDoubt { request } => {
                self.outcome(&request);
            }
            EntryKind::Policy { hash, kept: true, .. } => drop(self.documents.insert("policy", hash)),
            EntryKind::KeyPolicy { hash, kept: true, .. } => drop(self.documents.insert("key-policy", hash)),
            EntryKind::Authority { hash, kept: true, .. } => drop(self.documents.insert("authority", hash)),
            EntryKind::Apps { hash, kept: true, .. } => drop(self.documents.insert("apps", hash)),
            EntryKind::Users { hash, .. } => drop(self.documents.insert("users", hash)),
            EntryKind::User(event) => self.hear_user(event),
            EntryKind::ChangeAsked { change, text, .. } => drop(self.changes.insert(change, text)),
            EntryKind::ChangeEnded { change, .. } => drop(self.changes.remove(&change)),
            _ => {}
        }
    }

    fn hear_user(&mut self, event: UserEvent) {
        match event {
            UserEvent::Invited { user, code, expires_ms, .. } => {
                let told = UserTold { invite: Some((code, expires_ms)), ..UserTold::default() };
                self.users.insert(user, told);
            }
            UserEvent::Enrolled { user, verifier, .. } => {
                if let Some(told) = self.users.get_mut(&user) {
                    (told.verifier, told.invite) = (Some(verifier), None);
                }
            }
            UserEvent::Try { user, .. } => {
                if let Some(told) = self.users.get_mut(&user) {
                    told.tries = told.tries.saturating_add(1);
                }
            }
            UserEvent::Proved { user, .. } => {
                if let Some(told) = self.users.get_mut(&user) {
                    told.tries = 0;
                }
            }
            UserEvent::Suspended { user, .. } => {
                if let Some(told) = self.users.get_mut(&user) {
                    told.suspended = true;
                }
            }
            _ => {}
        }
    }

    /// Tries are not given back by changing a row.
    // [clause 8.2.3-e] a count that was set back behind the daemon's back is found before the next try
    fn check_users(&self, db: &Connection) -> Result<(), StoreError> {
        let rows = users::all(db)?;
        let same = |row: &users::UserRow| {
            let found = UserTold {
                verifier: row.verifier.as_deref().map(Verifier::hash),
                tries: row.tries,
                suspended: row.suspended,
                invite: row.invite.map(|(code, at)| (hex::encode(code), at.0)),
            };
            self.users.get(&row.name) == Some(&found)
        };
        if rows.len() == self.users.len() && rows.iter().all(same) { Ok(()) } else { Err(differs("users")) }
    }

    /// The nonce that a request holds, which lets go of it.
    fn outcome(&mut self, request: &str) -> Option<[u8; 16]> {
        let slot = self.using.remove(request)?;
        self.holders.remove(&slot);
        Some(slot)
    }

    fn check_keys(&self, db: &Connection) -> Result<(), StoreError> {
        let records = keys(db)?;
        if records.len() != self.keys.len() {
            return Err(differs("how many keys there are"));
        }
        for key in records {
            let what = format!("key {}", key.name);
            let told = self.keys.get(key.name.as_str()).ok_or_else(|| differs(&what))?;
            let [algorithm, purpose, public, serial, reference, line] = &told.facts;
            let same = *algorithm == key.public.algorithm().as_str()
                && *purpose == key.purpose.as_str()
                && *public == hex::encode(key.public.as_bytes())
                && *serial == key.token_serial
                && *reference == key.reference.to_string()
                && *line == key.line.as_str()
                && told.state == key.state
                && told.destroying == key.destroying
                && told.activated.is_some() == key.activated.is_some()
                && told.activated.zip(key.activated).is_none_or(|(log, row)| log.abs_diff(row.0) < 60_000);
            if !same {
                return Err(differs(&what));
            }
        }
        Ok(())
    }

    /// What still counts in some window must be there, once and unchanged.
    fn check_debits(&self, db: &Connection, now: i64) -> Result<(), StoreError> {
        let since = now.saturating_sub(LONGEST_MS);
        let mut told: Vec<[u8; 32]> =
            self.debits.iter().filter(|(at, _)| *at >= since).map(|d| d.1).collect();
        let mut query = db.prepare("SELECT key, app, chain, asset, amount FROM debits WHERE at >= ?1")?;
        let rows = query.query_map([since], |r| {
            let (key, app): (String, String) = (r.get(0)?, r.get(1)?);
            let (chain, asset): (Option<i64>, Option<Vec<u8>>) = (r.get(2)?, r.get(3)?);
            Ok(debit_digest(&key, &app, chain, asset.as_deref(), &r.get(4)?))
        })?;
        let mut rows: Vec<[u8; 32]> = rows.collect::<Result<_, _>>()?;
        told.sort_unstable();
        rows.sort_unstable();
        if told == rows { Ok(()) } else { Err(differs("what was spent")) }
    }

    /// Who decides what is read from these when the daemon starts.
    // [clause 8.8-b] a document that was exchanged behind the daemon's back is not in force
    fn check_documents(&self, db: &Connection) -> Result<(), StoreError> {
        for (name, hash) in &self.documents {
            let text = kept_document(db, name)?.ok_or_else(|| differs(&format!("the {name} in force")))?;
            if hex::encode(sha256(text.as_bytes())) != *hash {
                return Err(differs(&format!("the {name} in force")));
            }
        }
        Ok(())
    }

    /// What waits for people is what was asked.
    fn check_changes(&self, db: &Connection) -> Result<(), StoreError> {
        let waiting = all_open(db)?;
        let same = |p: &Pending| {
            let rendered = self.changes.get(&p.change.id);
            rendered.is_some_and(|text| p.change.is_shown_by(text))
        };
        if waiting.len() == self.changes.len() && waiting.iter().all(same) {
            Ok(())
        } else {
            Err(differs("changes that wait for people"))
        }
    }

    fn check_nonces(&self, db: &Connection) -> Result<(), StoreError> {
        let mut query =
            db.prepare("SELECT key, chain, nonce, app, digest, request, signature FROM nonces")?;
        let mut rows = query.query([])?;
        let mut count = 0usize;
        while let Some(r) = rows.next()? {
            count += 1;
            let (key, app): (String, String) = (r.get(0)?, r.get(3)?);
            let slot = slot(&key, r.get(1)?, r.get(2)?);
            let (digest, request): ([u8; 32], [u8; 16]) = (r.get(4)?, r.get(5)?);
            let row =
                short(&[app.as_bytes(), hex::encode(digest).as_bytes(), hex::encode(request).as_bytes()]);
            let signature: Option<[u8; 64]> = r.get(6)?;
            let signature = signature.map(|s| hex::encode(sha256(&s)));
            if self.nonces.get(&slot) != Some(&row) || self.signed.get(&slot) != signature.as_ref() {
                return Err(differs(&format!("an account nonce of key {key}")));
            }
        }
        if count == self.nonces.len() { Ok(()) } else { Err(differs("account nonces")) }
    }
}

fn slot(key: &str, chain: i64, nonce: i64) -> [u8; 16] {
    short(&[key.as_bytes(), &chain.to_be_bytes(), &nonce.to_be_bytes()])
}

/// Reads the whole log, follows what is open from where that was saved, and compares the tables.
// [clause 8.7.1-e] what was changed, removed or moved is found before it is used
pub(super) fn read(
    db: &Connection,
    saved: &Frontier,
    requests: &mut OpenRequests,
) -> Result<Told, StoreError> {
    let changed = || open("the log is not the one that was signed: entries were changed");
    let head: Option<(i64, String)> = db
        .query_row("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1", [], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .optional()?;
    let head = match head {
        None => None,
        Some((size, note)) => Some((
            size.cast_unsigned(),
            checkpoint::unverified_root(&note).ok_or_else(|| open("the last checkpoint cannot be read"))?,
        )),
    };
    let (mut tree, mut story, mut last_ms) = (Frontier::default(), Story::default(), 0);
    let mut governance = VecDeque::new();
    let matches = |tree: &Frontier| {
        let as_saved = tree.size() != saved.size() || tree.root() == saved.root();
        as_saved && head.is_none_or(|(size, root)| tree.size() != size || tree.root() == root)
    };
    let mut query = db.prepare("SELECT seq, data FROM entries ORDER BY seq")?;
    let mut rows = query.query(params![])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? != int(tree.size()) {
            return Err(open(format!("entry {} of the log is missing", tree.size())));
        }
        if !matches(&tree) {
            return Err(changed());
        }
        let data = row.get_ref(1)?.as_blob().map_err(|e| open(e.to_string()))?;
        let entry: Entry = serde_json::from_slice(data)
            .map_err(|e| open(format!("entry {} of the log cannot be read: {e}", tree.size())))?;
        if entry.seq != tree.size() {
            return Err(open(format!("entry {} of the log stands in another's place", tree.size())));
        }
        if tree.size() >= saved.size() {
            requests.replay(&entry.kind);
        }
        tree.push(leaf_hash(data));
        last_ms = entry.at_ms;
        if governs(&entry.kind) {
            keep(&mut governance, entry.seq, Timestamp(entry.at_ms), &entry.kind);
        }
        story.hear(entry);
    }
    if tree.size() < saved.size().max(head.map_or(0, |(size, _)| size)) {
        return Err(open("the log is shorter than what was signed: entries were removed"));
    }
    if !matches(&tree) {
        return Err(changed());
    }
    story.check_keys(db)?;
    story.check_debits(db, last_ms)?;
    story.check_nonces(db)?;
    story.check_documents(db)?;
    story.check_changes(db)?;
    story.check_users(db)?;
    Ok(Told { tree, last_ms, governance })
}
