//! Rows that the entries about them do not tell in full: keys and their copies, payments that wait, counters of
//! authenticators, receipts. The commit
//! that changes one writes its digest into the log, and at each start every row must be found as it was told last.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use sha2::{Digest, Sha256};

use super::{EntryKind, StoreError};
use crate::core::proof::RequestId;
use crate::core::units::Name;

/// Most rows of one entry: with the longest names it stays below the longest entry.
const MOST: usize = 250;

/// Named one by one, so that a column that a later schema adds does not change what was told before.
const KEYS: &str = "SELECT name, reference, purpose, state, algorithm, public, token_serial, created, origin, line, generation, since, activated, compromised, warned, destroying FROM keys";
const WAITING: &str = "SELECT request, app, uid, key, digest, tx, account, text, quorum, of, policy, authority, expires, state FROM waiting";
const VOICES: &str =
    "SELECT request, person, key, yes, at, signature FROM voices WHERE request = ?1 ORDER BY person";
const CHANGES: &str = "SELECT id, data, state, opens, expires FROM changes";
/// With the name of the key, and all that is known of its copies.
const COPIES: &str = "SELECT key, what, place, mark, noted, due, gone, gone_by, gone_how, told FROM copies WHERE key = ?1 ORDER BY what, place";
const COUNTERS: &str = "SELECT key, counter FROM counters";
const RECEIPTS: &str = "SELECT substr(name, 9), value FROM meta";

/// What the log said of each row last, by [`key`], [`waiting`], [`counter`] or [`receipt`].
pub(super) type Told = HashMap<String, String>;

pub(super) fn key(name: &Name) -> String {
    format!("keys/{name}")
}

pub(super) fn waiting(request: RequestId) -> String {
    format!("waiting/{request}")
}

pub(super) fn change(id: RequestId) -> String {
    format!("changes/{id}")
}

pub(super) fn copies(key: &Name) -> String {
    format!("copies/{key}")
}

pub(super) fn counter(key: &str) -> String {
    format!("counters/{key}")
}

pub(super) fn receipt(order: &str) -> String {
    format!("receipts/{order}")
}

/// Every column with its type and length: no two rows look alike.
fn absorb(hash: &mut Sha256, row: &Row<'_>) -> Result<(), rusqlite::Error> {
    for n in 0..row.as_ref().column_count() {
        let mut value = |kind: u8, bytes: &[u8]| {
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        match row.get_ref(n)? {
            ValueRef::Null => value(0, &[]),
            ValueRef::Integer(n) => value(1, &n.to_be_bytes()),
            ValueRef::Real(x) => value(2, &x.to_be_bytes()),
            ValueRef::Text(text) => value(3, text),
            ValueRef::Blob(blob) => value(4, blob),
        }
    }
    Ok(())
}

fn plain(row: &Row<'_>) -> Result<String, rusqlite::Error> {
    let mut hash = Sha256::new();
    absorb(&mut hash, row)?;
    Ok(hex::encode(hash.finalize()))
}

/// A payment or a change that waits, with all that people said of it; how many voices that were.
fn with_voices(db: &Connection, row: &Row<'_>) -> Result<(String, usize), rusqlite::Error> {
    let mut hash = Sha256::new();
    absorb(&mut hash, row)?;
    let mut query = db.prepare_cached(VOICES)?;
    let mut rows = query.query([row.get::<_, [u8; 16]>(0)?])?;
    let mut voices = 0;
    while let Some(row) = rows.next()? {
        absorb(&mut hash, row)?;
        voices += 1;
    }
    Ok((hex::encode(hash.finalize()), voices))
}

/// All copies of one key.
fn copies_of(db: &Connection, key: &str) -> Result<String, rusqlite::Error> {
    let mut hash = Sha256::new();
    let mut query = db.prepare_cached(COPIES)?;
    let mut rows = query.query([key])?;
    while let Some(row) = rows.next()? {
        absorb(&mut hash, row)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// The digest of one row as it stands now.
fn digest(db: &Connection, what: &str) -> Result<String, StoreError> {
    let unknown = || StoreError::Failed(format!("there is no row {what:?} to tell of"));
    let (table, name) = what.split_once('/').ok_or_else(unknown)?;
    let one = |sql: &str, column: &str| db.prepare_cached(&format!("{sql} WHERE {column} = ?1"));
    Ok(match table {
        "keys" => one(KEYS, "name")?.query_row([name], plain)?,
        "copies" => copies_of(db, name)?,
        "counters" => one(COUNTERS, "key")?.query_row([name], plain)?,
        "receipts" => one(RECEIPTS, "name")?.query_row([format!("receipt:{name}")], plain)?,
        "waiting" => {
            let id = RequestId::parse(name).ok_or_else(unknown)?.0.to_be_bytes();
            one(WAITING, "request")?.query_row([id], |row| with_voices(db, row))?.0
        }
        "changes" => {
            let id = RequestId::parse(name).ok_or_else(unknown)?.0.to_be_bytes();
            one(CHANGES, "id")?.query_row([id], |row| with_voices(db, row))?.0
        }
        _ => return Err(unknown()),
    })
}

/// The entries that tell of these rows.
pub(super) fn entries<'a>(
    db: &Connection,
    touched: impl Iterator<Item = &'a String>,
) -> Result<Vec<EntryKind>, StoreError> {
    let told = touched.map(|what| Ok((what.clone(), digest(db, what)?)));
    let told: Vec<(String, String)> = told.collect::<Result<_, StoreError>>()?;
    Ok(told
        .chunks(MOST)
        .map(|rows| EntryKind::Rows { rows: rows.iter().cloned().collect::<BTreeMap<_, _>>() })
        .collect())
}

/// Goes over every row with its name and digest. `Err` inside names what stands alone.
fn each(
    db: &Connection,
    mut see: impl FnMut(String, String) -> Result<(), StoreError>,
) -> Result<Result<(), &'static str>, StoreError> {
    let mut query = db.prepare(KEYS)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        see(format!("keys/{}", row.get::<_, String>(0)?), plain(row)?)?;
    }
    let mut query = db.prepare("SELECT DISTINCT key FROM copies")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let digest = copies_of(db, &key)?;
        see(format!("copies/{key}"), digest)?;
    }
    let mut query = db.prepare(COUNTERS)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        see(counter(&row.get::<_, String>(0)?), plain(row)?)?;
    }
    let mut query = db.prepare(&format!("{RECEIPTS} WHERE name GLOB 'receipt:*'"))?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        see(receipt(&row.get::<_, String>(0)?), plain(row)?)?;
    }
    let mut voices = 0;
    for (sql, named) in [(WAITING, waiting as fn(RequestId) -> String), (CHANGES, change)] {
        let mut query = db.prepare(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (digest, said) = with_voices(db, row)?;
            voices += said;
            see(named(RequestId(u128::from_be_bytes(row.get(0)?))), digest)?;
        }
    }
    let all: i64 = db.query_row("SELECT count(*) FROM voices", [], |r| r.get(0))?;
    Ok(if usize::try_from(all) == Ok(voices) { Ok(()) } else { Err("what people said") })
}

/// The names of all rows, for a log that was written before it told of any.
pub(super) fn all(db: &Connection) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let _alone = each(db, |name, _| {
        names.push(name);
        Ok(())
    })?;
    Ok(names)
}

/// Compares every row with what was told. `Err` inside names what differs.
// [clause 8.7.1-i] a row that was changed, added or taken away behind the daemon's back is found before it is used
pub(super) fn compare(db: &Connection, mut told: Told) -> Result<Result<(), String>, StoreError> {
    let mut wrong = None;
    let alone = each(db, |name, digest| {
        if told.remove(&name) != Some(digest) {
            wrong.get_or_insert(name);
        }
        Ok(())
    })?;
    let missing = told.into_keys().min();
    Ok(match (wrong.or(missing), alone) {
        (Some(name), _) => Err(name.replacen('/', " ", 1)),
        (None, Err(what)) => Err(what.to_owned()),
        (None, Ok(())) => Ok(()),
    })
}
