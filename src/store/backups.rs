//! What is known of bundles, and keys that come back from them; each with its entry in the log.
#![forbid(unsafe_code)]

use rusqlite::{Connection, OptionalExtension, params};

use super::keys::{self, Because};
use super::writer::Work;
use super::{EntryKind, Store, StoreError};
use super::{changes, copies, rows};
use crate::core::key::copies::KeyCopy;
use crate::core::key::{KeyRecord, State};
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};

fn place(key: &Name) -> String {
    format!("bundle:{key}")
}

fn put(
    work: &mut Work,
    key: &Name,
    entry: &EntryKind,
    data: &str,
    there: &[KeyCopy],
) -> Result<(), StoreError> {
    work.append(entry)?;
    // [clause 8.2.2-h] where the copies are is known in the same moment
    copies::note(work, key, there, None)?;
    work.db.execute(
        "INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)",
        params![place(key), data.as_bytes()],
    )?;
    Ok(())
}

fn get(db: &Connection, key: &Name) -> Result<Option<String>, StoreError> {
    let found: Option<Vec<u8>> =
        db.query_row("SELECT value FROM meta WHERE name = ?1", [place(key)], |r| r.get(0)).optional()?;
    let unreadable = |_| StoreError::Failed(format!("what is known of the bundle of {key} cannot be read"));
    found.map(|bytes| String::from_utf8(bytes).map_err(unreadable)).transpose()
}

/// A key that comes back, with all that is written down about it.
pub struct Restored {
    /// As it is where the register does not know it.
    pub record: KeyRecord,
    /// That it came back.
    pub entry: EntryKind,
    /// That there is a bundle of it.
    pub bundle: EntryKind,
    /// What is known of that bundle.
    pub data: String,
    /// Where it is besides.
    pub copies: Vec<KeyCopy>,
}

/// A key comes back: into its old record, stopped, or into a new one that is stopped from the beginning.
// [clause 8.2.2-f] nothing that comes back from a backup is active; people start it again
fn restore(
    work: &mut Work,
    restored: &Restored,
    because: &Because,
    uid: u32,
) -> Result<Result<(), Refusal>, StoreError> {
    let record = &restored.record;
    let known = keys::like(&work.db, record)?;
    // [clause 8.7.1-x] a tombstone is one under whatever name, and whoever else has the name
    if let Some(gone) = known.iter().find(|k| k.public == record.public)
        && (gone.state == State::Destroyed || gone.destroying)
    {
        let why = format!("key {} was destroyed on purpose", gone.name);
        return Ok(Err(Refusal::new(Code::KeyShredded, why)));
    }
    if let Some(other) = known.iter().find(|k| k.public != record.public || k.name != record.name) {
        let why =
            format!("the register knows {} with another key, or this key under another name", other.name);
        return Ok(Err(Refusal::new(Code::KeyExists, why)));
    }
    match known.first() {
        Some(known) => {
            if known.state == State::Active
                && let Err(refusal) = keys::go(work, &known.name, State::Suspended, because)?
            {
                return Ok(Err(refusal));
            }
            work.db.execute(
                "UPDATE keys SET reference = ?2, token_serial = ?3, compromised = ifnull(compromised, ?4) WHERE name = ?1",
                params![
                    known.name.as_str(),
                    record.reference.as_bytes(),
                    record.token_serial,
                    record.compromised.map(|t| t.0)
                ],
            )?;
            work.touched.insert(rows::key(&known.name));
        }
        None => {
            keys::insert(work, record, uid)??;
        }
    }
    work.append(&restored.entry)?;
    put(work, &record.name, &restored.bundle, &restored.data, &restored.copies)?;
    Ok(Ok(()))
}

impl Store {
    /// Keeps what a ceremony left behind, with its entry.
    pub async fn put_quorum(
        &self,
        entry: EntryKind,
        name: &'static str,
        text: String,
    ) -> Result<(), StoreError> {
        self.writer
            .submit(move |work| {
                work.settled()?;
                changes::documents(work, &entry, &[(name, text)])
            })
            .await
    }

    /// Keeps what is known of a bundle, with its entry.
    pub async fn put_bundle(
        &self,
        key: Name,
        entry: EntryKind,
        data: String,
        copies: Vec<KeyCopy>,
    ) -> Result<(), StoreError> {
        self.writer.submit(move |work| put(work, &key, &entry, &data, &copies)).await
    }

    /// What is known of the bundle of a key.
    pub async fn bundle(&self, key: Name) -> Result<Option<String>, StoreError> {
        self.read(move |db| get(db, &key)).await
    }

    /// Takes a key in that came back from a backup.
    pub async fn restore_key(
        &self,
        restored: Restored,
        because: Because,
        uid: u32,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| restore(work, &restored, &because, uid)).await
    }
}
