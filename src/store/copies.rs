//! Copies of keys: where each is, by when it has to be gone, what says that it is; each change with its entry in the log.
#![forbid(unsafe_code)]

use rusqlite::{Connection, Row, params};

use super::keys::{self, Because};
use super::writer::Work;
use super::{EntryKind, Store, StoreError, rows};
use crate::core::key::copies::{CopyKind, KeyCopy, MOST, Receipt, certificate};
use crate::core::key::policy::Deadlines;
use crate::core::key::{KeyRecord, State};
use crate::core::log::copies::CopyEvent;
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

/// A copy with the name of its key; `None` for a row that makes no sense.
fn read(r: &Row<'_>) -> Result<Option<(Name, KeyCopy)>, rusqlite::Error> {
    let (key, what): (String, String) = (r.get(0)?, r.get(1)?);
    let (place, mark) = (r.get(2)?, r.get(3)?);
    let (noted, due): (i64, Option<i64>) = (r.get(4)?, r.get(5)?);
    let gone: Option<(i64, String, String)> = match r.get::<_, Option<i64>>(6)? {
        Some(at) => Some((at, r.get(7)?, r.get(8)?)),
        None => None,
    };
    let told = r.get(9)?;
    Ok(Name::parse(&key).zip(CopyKind::parse(&what)).map(|(key, what)| {
        let gone = gone.map(|(at, by, how)| Receipt { at: Timestamp(at), by, how });
        let (noted, due) = (Timestamp(noted), due.map(Timestamp));
        (key, KeyCopy { what, place, mark, noted, due, gone, told })
    }))
}

const COLUMNS: &str = "key, what, place, mark, noted, due, gone, gone_by, gone_how, told";

fn collect(rows: Vec<Option<(Name, KeyCopy)>>) -> Result<Vec<(Name, KeyCopy)>, StoreError> {
    let unreadable =
        || StoreError::Tampered("a copy of a key cannot be read: it was changed, or is damaged".into());
    rows.into_iter().map(|row| row.ok_or_else(unreadable)).collect()
}

/// All copies of a key.
pub(super) fn of(db: &Connection, key: &Name) -> Result<Vec<KeyCopy>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM copies WHERE key = ?1 ORDER BY what, place");
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map([key.as_str()], read)?.collect::<Result<Vec<_>, _>>()?;
    Ok(collect(rows)?.into_iter().map(|(_, copy)| copy).collect())
}

/// All copies that have to go and are not gone.
fn owed(db: &Connection) -> Result<Vec<(Name, KeyCopy)>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM copies WHERE due IS NOT NULL AND gone IS NULL ORDER BY key, what, place"
    );
    let mut query = db.prepare_cached(&sql)?;
    let rows = query.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
    collect(rows)
}

/// Notes copies that are there. What is noted already keeps its time; a bundle that was made anew gets its new mark.
pub(super) fn note(
    work: &mut Work,
    key: &Name,
    copies: &[KeyCopy],
    uid: Option<u32>,
) -> Result<(), StoreError> {
    work.settled()?;
    let there = of(&work.db, key)?;
    for copy in copies {
        let known = there.iter().find(|c| c.what == copy.what && c.place == copy.place);
        if known.is_some_and(|c| c.mark == copy.mark || c.gone.is_some()) {
            continue;
        }
        if known.is_none() && of(&work.db, key)?.len() >= MOST {
            return Err(StoreError::Failed(format!(
                "of key {key} {MOST} copies are known, and no more are kept"
            )));
        }
        work.db.execute(
            "INSERT INTO copies(key, what, place, mark, noted, told) VALUES(?1, ?2, ?3, ?4, ?5, 0)
             ON CONFLICT(key, what, place) DO UPDATE SET mark = excluded.mark",
            params![key.as_str(), copy.what.as_str(), copy.place, copy.mark, work.now().0],
        )?;
        work.touched.insert(rows::copies(key));
        if known.is_none() {
            work.append(&EntryKind::KeyCopy(CopyEvent::Noted {
                key: key.to_string(),
                what: copy.what,
                place: copy.place.clone(),
                mark: copy.mark.clone(),
                uid,
            }))?;
        }
    }
    Ok(())
}

/// Whether a key is being destroyed, and how it stands.
fn going(work: &Work, key: &Name) -> Result<Result<KeyRecord, Refusal>, StoreError> {
    Ok(match keys::one(&work.db, key)? {
        Some(record) if record.destroying => Ok(record),
        _ => Err(Refusal::new(Code::KeyEdge, format!("key {key} is not being destroyed"))),
    })
}

/// Every copy of a key that is being destroyed gets its time.
// [clause 8.7.1-p] what is known of when it begins, and what is told of later, has to go
fn owe(
    work: &mut Work,
    key: &Name,
    known: &[KeyCopy],
    deadlines: Deadlines,
) -> Result<Result<(), Refusal>, StoreError> {
    note(work, key, known, None)?;
    let record = match going(work, key)? {
        Ok(record) => record,
        Err(refusal) => return Ok(Err(refusal)),
    };
    for copy in of(&work.db, key)?.into_iter().filter(|c| c.due.is_none()) {
        // What may be in other hands has no time left.
        let length = if record.compromised.is_some() { 0 } else { deadlines.of(copy.what) };
        let due = work.now().plus(length);
        work.db.execute(
            "UPDATE copies SET due = ?4 WHERE key = ?1 AND what = ?2 AND place = ?3",
            params![key.as_str(), copy.what.as_str(), copy.place, due.0],
        )?;
        work.touched.insert(rows::copies(key));
        let (key, what, place) = (key.to_string(), copy.what, copy.place);
        work.append(&EntryKind::KeyCopy(CopyEvent::Due { key, what, place, due: due.to_string() }))?;
    }
    Ok(Ok(()))
}

/// A copy is gone. Said twice, the first word stays.
fn gone(
    work: &mut Work,
    key: &Name,
    (what, place): (CopyKind, &str),
    (by, how): (&str, &str),
) -> Result<Result<(), Refusal>, StoreError> {
    work.settled()?;
    if let Err(refusal) = going(work, key)? {
        return Ok(Err(refusal));
    }
    let there = of(&work.db, key)?.into_iter().find(|c| c.what == what && c.place == place);
    match there {
        None => {
            let why = format!("no {what} {place:?} of key {key} is known: see claviger key copies");
            return Ok(Err(Refusal::new(Code::CopyUnknown, why)));
        }
        Some(copy) if copy.gone.is_some() => return Ok(Ok(())),
        Some(_) => {}
    }
    work.db.execute(
        "UPDATE copies SET gone = ?4, gone_by = ?5, gone_how = ?6 WHERE key = ?1 AND what = ?2 AND place = ?3",
        params![key.as_str(), what.as_str(), place, work.now().0, by, how],
    )?;
    work.touched.insert(rows::copies(key));
    work.append(&EntryKind::KeyCopy(CopyEvent::Gone {
        key: key.to_string(),
        what,
        place: place.to_owned(),
        by: by.to_owned(),
        how: how.to_owned(),
    }))?;
    Ok(Ok(()))
}

/// Tells once of each copy whose time is over; gives how many are overdue.
fn overdue(work: &mut Work, now: Timestamp) -> Result<Vec<(Name, KeyCopy)>, StoreError> {
    work.settled()?;
    let mut fresh = Vec::new();
    for (key, copy) in owed(&work.db)?.into_iter().filter(|(_, c)| c.overdue(now) && !c.told) {
        work.db.execute(
            "UPDATE copies SET told = 1 WHERE key = ?1 AND what = ?2 AND place = ?3",
            params![key.as_str(), copy.what.as_str(), copy.place],
        )?;
        work.touched.insert(rows::copies(&key));
        work.append(&EntryKind::KeyCopy(CopyEvent::Overdue {
            key: key.to_string(),
            what: copy.what,
            place: copy.place.clone(),
            due: copy.due.map(|t| t.to_string()).unwrap_or_default(),
        }))?;
        fresh.push((key, copy));
    }
    Ok(fresh)
}

/// A copy that keeps a key from being called destroyed.
pub(super) fn left(db: &Connection, key: &Name) -> Result<Option<KeyCopy>, StoreError> {
    Ok(of(db, key)?.into_iter().find(|c| c.gone.is_none()))
}

/// The last step: nothing is left, so that the key is destroyed, and a certificate says so. `false` while something is.
// [clause 8.7.1-p] the last receipt, the state and the certificate are durable together
fn finish(
    work: &mut Work,
    key: &Name,
    because: &Because,
    origin: &str,
) -> Result<Result<bool, Refusal>, StoreError> {
    work.settled()?;
    let copies = of(&work.db, key)?;
    if copies.is_empty() || copies.iter().any(|c| c.gone.is_none()) {
        return Ok(Ok(false));
    }
    let vaults = copies.iter().filter(|c| c.what == CopyKind::Vault).map(|c| c.place.clone());
    let vaults: Vec<String> = vaults.collect();
    if let Err(refusal) = going(work, key)? {
        return Ok(Err(refusal));
    }
    if !vaults.is_empty() {
        work.append(&EntryKind::LockDestroyed { key: key.to_string(), vaults })?;
    }
    if let Err(refusal) = keys::go(work, key, State::Destroyed, because)? {
        return Ok(Err(refusal));
    }
    let record = keys::one(&work.db, key)?;
    let text = record.and_then(|r| certificate(origin, &r, &copies));
    let text = text.ok_or_else(|| StoreError::Failed(format!("nothing certifies that key {key} is gone")))?;
    work.append(&EntryKind::KeyCopy(CopyEvent::Certified { key: key.to_string(), text }))?;
    Ok(Ok(true))
}

impl Store {
    /// What is known of where a key is.
    pub async fn copies(&self, key: Name) -> Result<Vec<KeyCopy>, StoreError> {
        self.read(move |db| of(db, &key)).await
    }

    /// All copies that have to go and are not gone, by key.
    pub async fn copies_owed(&self) -> Result<Vec<(Name, KeyCopy)>, StoreError> {
        self.read(owed).await
    }

    /// Notes copies that are there.
    pub async fn note_copies(
        &self,
        key: Name,
        copies: Vec<KeyCopy>,
        uid: Option<u32>,
    ) -> Result<(), StoreError> {
        self.writer.submit(move |work| note(work, &key, &copies, uid)).await
    }

    /// Every copy of a key that is being destroyed gets its time; `known` are those that need not be noted yet.
    pub async fn owe_copies(
        &self,
        key: Name,
        known: Vec<KeyCopy>,
        deadlines: Deadlines,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| owe(work, &key, &known, deadlines)).await
    }

    /// A copy is gone.
    pub async fn copy_gone(
        &self,
        key: Name,
        what: CopyKind,
        place: String,
        by: String,
        how: String,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| gone(work, &key, (what, &place), (&by, &how))).await
    }

    /// Tells once of each copy whose time is over.
    pub async fn copies_overdue(&self, now: Timestamp) -> Result<Vec<(Name, KeyCopy)>, StoreError> {
        self.writer.submit(move |work| overdue(work, now)).await
    }

    /// The last step of a destruction; `false` while something is left.
    pub async fn finish_destroying(
        &self,
        key: Name,
        because: Because,
        origin: String,
    ) -> Result<Result<bool, Refusal>, StoreError> {
        self.writer.submit(move |work| finish(work, &key, &because, &origin)).await
    }
}
