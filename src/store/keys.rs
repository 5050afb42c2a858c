//! Key records: registered, moved along their life, rotated; each together with its entry in the log.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::Work;
use super::{EntryKind, StoreError, copies, rows};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, Operation, PublicKey, Purpose, State};
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// Who moves a key, and why.
#[derive(Clone, Debug)]
pub struct Because {
    /// `operator 1000`, `key policy`.
    pub actor: String,
    /// In words.
    pub reason: String,
    /// SHA-256 of the key policy in force.
    pub policy: [u8; 32],
}

/// What the writer knows of each key, so that a move stops the very next request.
pub(super) type States = HashMap<Name, (State, bool)>;

pub(super) fn states(db: &Connection) -> Result<States, StoreError> {
    Ok(keys(db)?.into_iter().map(|k| (k.name, (k.state, k.destroying))).collect())
}

impl Work {
    /// Whether the state of a key allows this now; `true` inside when it may only sweep.
    // [clause 8.7.1-b] the state is asked where the request is reserved, not where it was read
    pub(super) fn key_allows(&self, key: &Name, operation: Operation) -> Result<bool, Refusal> {
        let Some((state, destroying)) = self.states.get(key) else {
            return Err(Refusal::new(Code::KeyUnknown, format!("there is no key named {key}")));
        };
        if *destroying || !state.may(operation) {
            let why = format!("key {key} is {}: {operation} is over, or has not begun", state.as_str());
            return Err(Refusal::new(Code::KeyState, why));
        }
        Ok(*state == State::SweepOnly)
    }
}

/// A public half that is registered already is refused, whatever its name and state: one key, one purpose, one life.
// [clause 8.7.1-h] what was destroyed is never taken back
// [clause 8.7.1-a] a key exists for the daemon only after its record and its entry are durable together
pub(super) fn insert(
    work: &mut Work,
    record: &KeyRecord,
    uid: u32,
) -> Result<Result<(), StoreError>, StoreError> {
    work.settled()?;
    let public = record.public.as_bytes();
    let origin = serde_json::to_string(&record.origin).map_err(|e| StoreError::Failed(e.to_string()))?;
    let taken: Option<(String, String, bool)> = work
        .db
        .query_row(
            "SELECT name, state, public = ?2 FROM keys WHERE name = ?1 OR public = ?2 ORDER BY public = ?2 DESC LIMIT 1",
            params![record.name.as_str(), public],
            |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)),
        )
        .optional()?;
    if let Some((name, state, same_key)) = taken {
        return Ok(Err(match (same_key, state == State::Destroyed.as_str()) {
            (true, true) => StoreError::KeyTombstone(format!(
                "this very key was {name}, which was destroyed: it never comes back"
            )),
            (true, false) => StoreError::KeyExists(format!(
                "this very key is registered as {name} ({state}), and a key has one purpose and one life"
            )),
            (false, _) => StoreError::KeyExists(format!(
                "a key with the name {name} exists ({state}), and names are never used again"
            )),
        }));
    }
    work.db.execute(
        "INSERT INTO keys VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            record.name.as_str(),
            record.reference.as_bytes(),
            record.purpose.as_str(),
            record.state.as_str(),
            record.public.algorithm().as_str(),
            public,
            record.token_serial,
            record.created.0,
            origin,
            record.line.as_str(),
            record.generation,
            record.since.0,
            record.activated.map(|t| t.0),
            record.compromised.map(|t| t.0),
            record.warned,
            record.destroying,
        ],
    )?;
    work.append(&EntryKind::KeyCreated {
        key: record.name.to_string(),
        algorithm: record.public.algorithm().to_string(),
        purpose: record.purpose.to_string(),
        public: hex::encode(public),
        token_serial: record.token_serial.clone(),
        reference: record.reference.to_string(),
        origin: record.origin.clone(),
        state: record.state,
        uid,
    })?;
    work.touched.insert(rows::key(&record.name));
    work.states.insert(record.name.clone(), (record.state, record.destroying));
    Ok(Ok(()))
}

/// Moves a key along an edge of the table, or says why not.
// [clause 8.7.1-b] a move and its entry are durable together
pub(super) fn go(
    work: &mut Work,
    name: &Name,
    to: State,
    because: &Because,
) -> Result<Result<(), Refusal>, StoreError> {
    let Some(key) = one(&work.db, name)? else {
        return Ok(Err(Refusal::new(Code::KeyUnknown, format!("there is no key named {name}"))));
    };
    let ends_destroying = to == State::Destroyed;
    if !key.state.leads_to(to, key.purpose) || (key.destroying && !ends_destroying) {
        let why =
            format!("key {name} is {}, from which it cannot become {}", key.state.as_str(), to.as_str());
        return Ok(Err(Refusal::new(Code::KeyEdge, why)));
    }
    // [clause 8.7.1-p] whoever asks, and whatever they believe: while a copy is left the key is not destroyed
    if ends_destroying && let Some(left) = copies::left(&work.db, name)? {
        let why = format!("key {name} is not destroyed while a copy is left: {} {}", left.what, left.place);
        return Ok(Err(Refusal::new(Code::CopiesLeft, why)));
    }
    // [clause 8.2.2-g] what may be in other hands sweeps, and is never active again
    if to == State::Active && key.compromised.is_some() {
        let why =
            format!("key {name} may be in other hands: it pays to listed destinations only, or not at all");
        return Ok(Err(Refusal::new(Code::KeyEdge, why)));
    }
    // A key is stopped at any time; it comes back to life only in a log that is known to be the one that was left.
    if matches!(to, State::Active | State::PreActive) {
        work.settled()?;
    }
    let now = work.now();
    let activated = key.activated.or((to == State::Active).then_some(now));
    let compromised = key.compromised.or((to == State::Compromised).then_some(now));
    work.db.execute(
        "UPDATE keys SET state = ?2, since = ?3, activated = ?4, compromised = ?5, warned = NULL, destroying = 0 WHERE name = ?1",
        params![name.as_str(), to.as_str(), now.0, activated.map(|t| t.0), compromised.map(|t| t.0)],
    )?;
    work.append(&EntryKind::KeyMoved {
        key: name.to_string(),
        from: key.state,
        to,
        actor: because.actor.clone(),
        reason: because.reason.clone(),
        key_policy: hex::encode(because.policy),
    })?;
    work.touched.insert(rows::key(name));
    work.states.insert(name.clone(), (to, false));
    work.clock.due = true;
    Ok(Ok(()))
}

/// The successor becomes active and its predecessor ends, in one commit.
// [clause 8.7.1-g] there is no moment at which both sign, and none at which neither does
pub(super) fn rotate(
    work: &mut Work,
    old: &Name,
    new: &Name,
    end: State,
    because: &Because,
) -> Result<Result<(), Refusal>, StoreError> {
    let (before, after) = match (one(&work.db, old)?, one(&work.db, new)?) {
        (Some(before), Some(after))
            if before.line == after.line
                && before.purpose == after.purpose
                && before.generation < after.generation =>
        {
            (before, after)
        }
        _ => return Ok(Err(Refusal::new(Code::KeyEdge, format!("{new} is no successor of {old}")))),
    };
    for (key, to) in [(&after, State::Active), (&before, end)] {
        if !key.state.leads_to(to, key.purpose) || key.destroying {
            let why =
                format!("key {} is {}, so it cannot become {}", key.name, key.state.as_str(), to.as_str());
            return Ok(Err(Refusal::new(Code::KeyEdge, why)));
        }
    }
    for (name, to) in [(new, State::Active), (old, end)] {
        if let Err(refusal) = go(work, name, to, because)? {
            return Ok(Err(refusal));
        }
    }
    let line = after.line;
    work.append(&EntryKind::KeyRotated {
        line: line.to_string(),
        from: old.to_string(),
        to: new.to_string(),
        actor: because.actor.clone(),
    })?;
    Ok(Ok(()))
}

/// From here on the key does nothing any more, and only its destruction follows.
pub(super) fn begin_destroying(
    work: &mut Work,
    name: &Name,
    because: &Because,
) -> Result<Result<(), Refusal>, StoreError> {
    let Some(key) = one(&work.db, name)? else {
        return Ok(Err(Refusal::new(Code::KeyUnknown, format!("there is no key named {name}"))));
    };
    if !key.state.leads_to(State::Destroyed, key.purpose) {
        return Ok(Err(Refusal::new(Code::KeyEdge, format!("key {name} is destroyed already"))));
    }
    if !key.destroying {
        work.db.execute("UPDATE keys SET destroying = 1 WHERE name = ?1", [name.as_str()])?;
        work.append(&EntryKind::KeyDestroying {
            key: name.to_string(),
            actor: because.actor.clone(),
            reason: because.reason.clone(),
        })?;
        work.touched.insert(rows::key(name));
        work.states.insert(name.clone(), (key.state, true));
    }
    Ok(Ok(()))
}

/// A warning or an alarm about a key's end, kept so that it is given once.
pub(super) fn warn(
    work: &mut Work,
    name: &Name,
    days: u32,
    to: State,
    at: Timestamp,
) -> Result<(), StoreError> {
    work.db.execute("UPDATE keys SET warned = ?2 WHERE name = ?1", params![name.as_str(), days])?;
    work.touched.insert(rows::key(name));
    work.append(&EntryKind::KeyDue { key: name.to_string(), to, due: at.to_string(), overdue: days == 0 })?;
    Ok(())
}

const COLUMNS: &str = "name, reference, purpose, state, algorithm, public, token_serial, created, origin, line, generation, since, activated, compromised, warned, destroying";

/// `None` inside for a row that makes no sense.
fn record(r: &Row<'_>) -> Result<Option<KeyRecord>, rusqlite::Error> {
    let text = |n| r.get::<_, String>(n);
    let (name, purpose, state, algorithm) = (text(0)?, text(2)?, text(3)?, text(4)?);
    let (reference, public) = (r.get::<_, Vec<u8>>(1)?, r.get::<_, Vec<u8>>(5)?);
    let (token_serial, created, origin, line) = (text(6)?, r.get(7)?, text(8)?, text(9)?);
    let (generation, since) = (r.get(10)?, r.get(11)?);
    let (activated, compromised): (Option<i64>, Option<i64>) = (r.get(12)?, r.get(13)?);
    let (warned, destroying) = (r.get(14)?, r.get(15)?);
    Ok((|| {
        Some(KeyRecord {
            reference: KeyRef::new(&reference)?,
            purpose: Purpose::parse(&purpose)?,
            state: State::parse(&state)?,
            public: PublicKey::from_bytes(Algorithm::parse(&algorithm)?, &public)?,
            name: Name::parse(&name)?,
            token_serial,
            created: Timestamp(created),
            origin: serde_json::from_str(&origin).ok()?,
            line: Name::parse(&line)?,
            generation,
            since: Timestamp(since),
            activated: activated.map(Timestamp),
            compromised: compromised.map(Timestamp),
            warned,
            destroying,
        })
    })())
}

fn unreadable(name: &str) -> StoreError {
    StoreError::Tampered(format!("the record of key {name:?} cannot be read: it was changed, or is damaged"))
}

pub(super) fn one(db: &Connection, name: &Name) -> Result<Option<KeyRecord>, StoreError> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM keys WHERE name = ?1"))?;
    let row = query.query_row([name.as_str()], record).optional()?;
    row.map(|r| r.ok_or_else(|| unreadable(name.as_str()))).transpose()
}

/// Keys with this name, or with this public half.
pub(super) fn like(db: &Connection, wanted: &KeyRecord) -> Result<Vec<KeyRecord>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM keys WHERE name = ?1 OR public = ?2");
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map(params![wanted.name.as_str(), wanted.public.as_bytes()], record)?;
    rows.map(|row| row?.ok_or_else(|| unreadable(wanted.name.as_str()))).collect()
}

pub(super) fn keys(db: &Connection) -> Result<Vec<KeyRecord>, StoreError> {
    let mut query = db.prepare_cached(&format!("SELECT {COLUMNS} FROM keys ORDER BY line, generation"))?;
    let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, record(r)?)))?;
    let mut records = Vec::new();
    for row in rows {
        let (name, parsed) = row?;
        records.push(parsed.ok_or_else(|| unreadable(&name))?);
    }
    Ok(records)
}
