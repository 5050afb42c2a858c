//! At the start the log is read from its first entry: it must be the one that was signed, and the tables must tell the
//! same story. A row that was changed, added or taken away behind the daemon's back is found before it is used.
#![forbid(unsafe_code)]

mod beside;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use rusqlite::{Connection, params};
use serde_json::Value;

use super::destinations::{self, Mentions};
use super::governance::{governs, keep};
use super::keys::keys;
use super::loose::Behind;
use super::open::OpenRequests;
use super::schema::int;
use super::seal::Found;
use super::{EntryKind, StoreError, order, rows, users};
use crate::core::elapsed::Elapsed;
use crate::core::key::State;
use crate::core::log::checkpoint;
use crate::core::log::entry::Entry;
use crate::core::log::merkle::{Frontier, leaf_hash};
use crate::core::log::orders::follow;
use crate::core::order::Standing;
use crate::core::payment::{Asset, Payment};
use crate::core::policy::window::LONGEST_MS;
use crate::core::units::{Name, Timestamp, sha256};
use crate::core::user::duties::Acknowledged;

/// What was found of the log.
pub(super) struct Told {
    /// Its tree.
    pub(super) tree: Frontier,
    /// The time of its last entry.
    pub(super) last_ms: i64,
    /// Its newest entries about who decides what.
    pub(super) governance: VecDeque<Value>,
    /// What stands by its orders.
    pub(super) standing: Standing,
    /// Requests without an outcome.
    pub(super) open: OpenRequests,
    /// How it was found.
    pub(super) found: Found,
    /// When a log that had been found changed was accepted last.
    pub(super) accepted: Option<Timestamp>,
    /// It was written before it told of rows.
    pub(super) tells_no_rows: bool,
    /// Hashes of the texts that it holds.
    pub(super) texts: HashSet<String>,
    /// How long the daemon was there.
    pub(super) elapsed: Elapsed,
    /// Who acknowledged their duties.
    pub(super) acknowledged: Acknowledged,
}

/// What is kept beside the log, and is held against it.
pub(super) struct Beside {
    /// The edge of its tree.
    pub(super) edge: Frontier,
    /// The requests that were open at that size.
    pub(super) open: OpenRequests,
    /// The size that was sealed.
    pub(super) sealed: Option<u64>,
    /// The size that the token's anchor was given last.
    pub(super) anchored: Option<u64>,
}

/// The name of the key that signs checkpoints.
pub const LOG_KEY: &str = "claviger-log";

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
    /// When each destination was first asked for.
    mentions: Mentions,
    /// What stands under each account nonce, by a digest of key, chain and nonce.
    nonces: HashMap<[u8; 16], Under>,
    /// What was told of rows.
    rows: rows::Told,
    /// What was found and settled about the state directory.
    sealed: bool,
    anchored: bool,
    epoch: u64,
    accepted: Option<Timestamp>,
    /// Which nonce each open request uses, until its outcome; and the other way round, since a payload that is asked for
    /// again takes the nonce over from the request before it.
    using: HashMap<String, [u8; 16]>,
    holders: HashMap<[u8; 16], String>,
    signed: HashMap<[u8; 16], String>,
    /// Documents in force whose texts are kept: name and SHA-256.
    documents: BTreeMap<&'static str, String>,
    /// What is remembered of apps.
    registrations: beside::Registrations,
    /// Changes that are open: what people sign.
    changes: BTreeMap<String, String>,
    /// What stands against this device.
    standing: Standing,
    /// What is kept of users.
    users: users::Told,
}

struct Under {
    /// App, digest and request.
    who: [u8; 16],
    /// When its amount was debited.
    at: i64,
    /// What identifies the payment; entries of older versions do not say it.
    fingerprint: Option<String>,
}

fn short(parts: &[&[u8]]) -> [u8; 16] {
    let all: Vec<u8> = parts.iter().flat_map(|p| [&p.len().to_be_bytes(), *p].concat()).collect();
    let mut out = [0; 16];
    out.iter_mut().zip(sha256(&all)).for_each(|(to, from)| *to = from);
    out
}

fn debit_digest(
    at: i64,
    key: &str,
    app: &str,
    chain: Option<i64>,
    asset: Option<&[u8]>,
    amount: &[u8; 32],
    dest: Option<[u8; 20]>,
) -> [u8; 32] {
    let (asset, dest) = (asset.map(hex::encode), dest.map(hex::encode));
    sha256(format!("{at} {key} {app} {chain:?} {asset:?} {} {dest:?}", hex::encode(amount)).as_bytes())
}

fn open(why: impl Into<String>) -> StoreError {
    StoreError::Tampered(why.into())
}

fn differs(what: &str) -> StoreError {
    open(format!(
        "the database does not say of {what} what the log says: it was changed behind the daemon's back, or is damaged; restore it from a copy, or ask the auditor"
    ))
}

impl Story {
    fn hear(&mut self, entry: Entry) {
        let at = entry.at_ms;
        follow(&mut self.standing, &entry.kind);
        destinations::hear(&mut self.mentions, at, &entry.kind);
        self.registrations.hear(&entry.kind);
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
            EntryKind::KeyRestored { key, token_serial, reference, .. } => {
                if let Some(told) = self.keys.get_mut(&key) {
                    let [_, _, _, serial, id, _] = &mut told.facts;
                    (*serial, *id) = (token_serial, reference);
                }
            }
            EntryKind::KeyDestroying { key, .. } => {
                if let Some(told) = self.keys.get_mut(&key) {
                    told.destroying = true;
                }
            }
            EntryKind::Intent { request, app, key, act, digest, debited, fingerprint, .. } => {
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
                    let dest = payment.as_ref().and_then(|p| p.effect.counterparty()).map(|a| a.0);
                    self.debits
                        .push((at, debit_digest(at, &line, &app, chain, asset.as_deref(), &amount, dest)));
                }
                if let Some(payment) = payment {
                    let slot = slot(&key, int(payment.chain.0), int(payment.nonce));
                    let who = short(&[app.as_bytes(), digest.as_bytes(), request.as_bytes()]);
                    let earlier = self.nonces.get(&slot).filter(|_| !debited).map(|under| under.at);
                    self.nonces.insert(slot, Under { who, at: earlier.unwrap_or(at), fingerprint });
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
            EntryKind::Ceremony { hash, .. } => drop(self.documents.insert("backup-quorum", hash)),
            EntryKind::Policy { kept: Some(hash), .. } => drop(self.documents.insert("policy", hash)),
            EntryKind::KeyPolicy { kept: Some(hash), .. } => drop(self.documents.insert("key-policy", hash)),
            EntryKind::Authority { kept: Some(hash), .. } => drop(self.documents.insert("authority", hash)),
            EntryKind::Apps { kept: Some(hash), registrations, .. } => {
                self.documents.insert("apps", hash);
                self.documents.extend(registrations.map(|hash| ("registrations", hash)));
            }
            EntryKind::Users { kept: Some(hash), .. } => drop(self.documents.insert("users", hash)),
            EntryKind::User(event) => self.users.hear(event),
            EntryKind::ChangeAsked { change, text, .. } => drop(self.changes.insert(change, text)),
            EntryKind::ChangeEnded { change, .. } => drop(self.changes.remove(&change)),
            EntryKind::Rows { rows } => self.rows.extend(rows),
            EntryKind::State { what, epoch, .. } => {
                self.epoch = self.epoch.max(epoch);
                match what.as_str() {
                    "sealed" => self.sealed = true,
                    "anchored" => self.anchored = true,
                    "accepted" => self.accepted = Some(Timestamp(at)),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The nonce that a request holds, which lets go of it.
    fn outcome(&mut self, request: &str) -> Option<[u8; 16]> {
        let slot = self.using.remove(request)?;
        self.holders.remove(&slot);
        Some(slot)
    }

    /// The newest checkpoint is signed by the key that the log says signs it.
    fn check_signature(&self, note: &str) -> Result<(), StoreError> {
        let Some(key) = self.keys.get(LOG_KEY) else { return Ok(()) };
        if note.lines().count() != 5 || !note.ends_with('\n') {
            return Err(open(
                "the newest checkpoint of the log holds more than its key signed: it was changed",
            ));
        }
        let [_, _, public, ..] = &key.facts;
        let origin = note.lines().next().unwrap_or_default();
        let vkey = checkpoint::verifier_key(origin, &hex::decode(public).unwrap_or_default());
        checkpoint::verify(note, &vkey).map(drop).map_err(|e| {
            open(format!(
                "the newest checkpoint of the log is not by its key ({e}): it was changed, or is damaged"
            ))
        })
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

    /// What still counts in some window must be there, once, unchanged and in its order.
    fn check_debits(&self, db: &Connection, now: i64) -> Result<(), StoreError> {
        // A window lets go of what it counts one bucket later.
        let since = now.saturating_sub(LONGEST_MS + LONGEST_MS / 30);
        let told = self.debits.iter().filter(|(at, _)| *at >= since).map(|d| d.1);
        let mut query = db.prepare(
            "SELECT at, key, app, chain, asset, amount, dest FROM debits WHERE at >= ?1 ORDER BY id",
        )?;
        let rows = query.query_map([since], |r| {
            let (key, app): (String, String) = (r.get(1)?, r.get(2)?);
            let (chain, asset): (Option<i64>, Option<Vec<u8>>) = (r.get(3)?, r.get(4)?);
            Ok(debit_digest(r.get(0)?, &key, &app, chain, asset.as_deref(), &r.get(5)?, r.get(6)?))
        })?;
        let rows: Vec<[u8; 32]> = rows.collect::<Result<_, _>>()?;
        if told.eq(rows) { Ok(()) } else { Err(differs("what was spent")) }
    }

    /// What stands is what the orders in the log come to.
    // [clause 8.2.1-c] a level that was lowered behind the daemon's back is found
    fn check_standing(&self, db: &Connection) -> Result<(), StoreError> {
        let kept = order::kept(db)?.unwrap_or_else(|| Standing::default().encode());
        if kept == self.standing.encode() { Ok(()) } else { Err(differs("the level of inactivation")) }
    }

    fn check_nonces(&self, db: &Connection) -> Result<(), StoreError> {
        let mut query = db.prepare(
            "SELECT key, chain, nonce, app, digest, request, signature, at, fingerprint FROM nonces",
        )?;
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
            let (at, fingerprint): (i64, [u8; 32]) = (r.get(7)?, r.get(8)?);
            let same = self.nonces.get(&slot).is_some_and(|under| {
                under.who == row
                    && under.at == at
                    && under.fingerprint.as_ref().is_none_or(|f| *f == hex::encode(fingerprint))
            });
            if !same || self.signed.get(&slot) != signature.as_ref() {
                return Err(differs(&format!("an account nonce of key {key}")));
            }
        }
        if count == self.nonces.len() { Ok(()) } else { Err(differs("account nonces")) }
    }
}

fn slot(key: &str, chain: i64, nonce: i64) -> [u8; 16] {
    short(&[key.as_bytes(), &chain.to_be_bytes(), &nonce.to_be_bytes()])
}

/// A size, and the root that a checkpoint names for it.
type Named = (u64, [u8; 32]);

/// The checkpoints, and the note of the newest.
fn checkpoints(db: &Connection) -> Result<(Vec<Named>, Option<String>), StoreError> {
    let mut query = db.prepare("SELECT size, note FROM checkpoints ORDER BY size")?;
    let mut rows = query.query([])?;
    let (mut heads, mut newest) = (Vec::new(), None);
    while let Some(row) = rows.next()? {
        let (size, note): (i64, String) = (row.get(0)?, row.get(1)?);
        let named = note.lines().nth(1).and_then(|line| line.parse().ok());
        let root = checkpoint::unverified_root(&note).filter(|_| named == Some(size.cast_unsigned()));
        heads.push((size.cast_unsigned(), root.ok_or_else(|| open("a checkpoint cannot be read"))?));
        newest = Some(note);
    }
    Ok((heads, newest))
}

/// Reads the whole log, follows what is open in it, and compares all that stands beside it.
// [clause 8.7.1-e] what was changed, removed or moved is found before it is used
pub(super) fn read(db: &Connection, beside: &Beside) -> Result<Told, StoreError> {
    let changed = || open("the log is not the one that was signed: entries were changed");
    let (heads, newest) = checkpoints(db)?;
    let mut heads = heads.into_iter().peekable();
    let (mut tree, mut story, mut last_ms) = (Frontier::default(), Story::default(), 0);
    let (mut governance, mut requests) = (VecDeque::new(), OpenRequests::default());
    let (mut texts, mut elapsed, mut acknowledged) =
        (HashSet::new(), Elapsed::default(), Acknowledged::default());
    let mut behind = None;
    let mut found = Found::default();
    let wanted = [Some(beside.edge.size()), beside.sealed, beside.anchored];
    let mut look = |tree: &Frontier, requests: &OpenRequests, found: &mut Found| {
        let size = tree.size();
        if wanted.contains(&Some(size)) {
            found.roots.insert(size, tree.root());
        }
        while let Some((_, root)) = heads.next_if(|(at, _)| *at <= size) {
            if root != tree.root() {
                return false;
            }
        }
        size != beside.edge.size()
            || (tree.root() == beside.edge.root() && requests.all() == beside.open.all())
    };
    let mut query = db.prepare("SELECT seq, data FROM entries ORDER BY seq")?;
    let mut rows = query.query(params![])?;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(0)? != int(tree.size()) {
            return Err(open(format!("entry {} of the log is missing", tree.size())));
        }
        if !look(&tree, &requests, &mut found) {
            return Err(changed());
        }
        let data = row.get_ref(1)?.as_blob().map_err(|e| open(e.to_string()))?;
        let entry = Entry::decode(data)
            .map_err(|e| open(format!("entry {} of the log cannot be read: {e}", tree.size())))?;
        if entry.seq != tree.size() || entry.at_ms < last_ms {
            return Err(open(format!("entry {} of the log stands in another's place", tree.size())));
        }
        requests.replay(&entry.kind);
        if beside.sealed.is_some_and(|size| entry.seq >= size) {
            let authority = story.documents.get("authority");
            let behind = behind.get_or_insert_with(|| Behind::seal(db, authority));
            if !behind.permits(&entry.kind) {
                found.loose.get_or_insert(entry.seq);
            }
        }
        tree.push(leaf_hash(data));
        last_ms = entry.at_ms;
        if governs(&entry.kind) {
            keep(&mut governance, entry.seq, Timestamp(entry.at_ms), &entry.kind);
        }
        if let EntryKind::Document { hash, part, parts, .. } = &entry.kind
            && part == parts
        {
            texts.insert(hash.clone());
        }
        if let EntryKind::Elapsed { counted_ms } = entry.kind
            && !elapsed.told(Timestamp(entry.at_ms), counted_ms)
        {
            return Err(open(format!("entry {} of the log counts time backwards", entry.seq)));
        }
        if let EntryKind::User(event) = &entry.kind {
            acknowledged.hear(event);
        }
        story.hear(entry);
    }
    if !look(&tree, &requests, &mut found) {
        return Err(changed());
    }
    if heads.next().is_some() || tree.size() < beside.edge.size().max(beside.sealed.unwrap_or(0)) {
        return Err(open("the log is shorter than what was signed: entries were removed"));
    }
    if let Some(note) = newest {
        story.check_signature(&note)?;
    }
    story.check_keys(db)?;
    story.check_debits(db, last_ms)?;
    story.check_nonces(db)?;
    story.check_documents(db)?;
    story.registrations.check()?;
    story.check_changes(db)?;
    story.check_standing(db)?;
    if !story.users.agrees(db)? {
        return Err(differs("users"));
    }
    let tells_no_rows = story.rows.is_empty();
    if !tells_no_rows && let Err(what) = rows::compare(db, std::mem::take(&mut story.rows))? {
        return Err(differs(&what));
    }
    found.size = tree.size();
    (found.sealed, found.anchored, found.epoch) = (story.sealed, story.anchored, story.epoch);
    let accepted = story.accepted;
    if !destinations::same(db, &story.mentions)? {
        return Err(differs("destinations that were asked for"));
    }
    let standing = story.standing;
    Ok(Told {
        tree,
        last_ms,
        governance,
        standing,
        open: requests,
        found,
        accepted,
        tells_no_rows,
        texts,
        elapsed,
        acknowledged,
    })
}
