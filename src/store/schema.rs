//! Tables, and the checks before the first of them is touched.
#![forbid(unsafe_code)]

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::writer::Work;
use super::{EntryKind, StoreConfig, StoreError};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, PublicKey, Purpose, State};
use crate::core::units::{Name, Timestamp};

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const SCHEMA: i64 = 3;
/// The WAL-reset bug is fixed from here on.
const LEAST_SQLITE: i32 = 3_051_003;

const TABLES: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries(seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE checkpoints(size INTEGER PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE debits(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, key TEXT NOT NULL, app TEXT NOT NULL,
  chain INTEGER, asset BLOB, amount BLOB NOT NULL);
CREATE TABLE nonces(key TEXT NOT NULL, chain INTEGER NOT NULL, nonce INTEGER NOT NULL, app TEXT NOT NULL,
  digest BLOB NOT NULL, fingerprint BLOB NOT NULL, request BLOB NOT NULL, at INTEGER NOT NULL,
  signature BLOB, PRIMARY KEY(key, chain, nonce)) WITHOUT ROWID;
CREATE TABLE keys(name TEXT PRIMARY KEY, reference BLOB NOT NULL UNIQUE, purpose TEXT NOT NULL, state TEXT NOT NULL,
  algorithm TEXT NOT NULL, public BLOB NOT NULL UNIQUE, token_serial TEXT NOT NULL, created INTEGER NOT NULL,
  origin TEXT NOT NULL) WITHOUT ROWID;
";

/// Every key of schema 2 was made in its token.
const FROM_2: &str = "ALTER TABLE keys ADD COLUMN origin TEXT NOT NULL DEFAULT '{\"kind\":\"generated\"}';";

/// SQLite integers are signed; bits are kept.
pub(super) fn int(n: u64) -> i64 {
    n.cast_signed()
}

pub(super) fn prepare(config: &StoreConfig) -> Result<(PathBuf, File), StoreError> {
    let open = |why: String| StoreError::Open(why);
    let shown = config.dir.display();
    if rusqlite::version_number() < LEAST_SQLITE {
        return Err(open(format!("SQLite {} can lose commits; 3.51.3 is the least", rusqlite::version())));
    }
    if !config.allow_volatile && matches!(config.fs_magic, TMPFS | RAMFS) {
        return Err(open(format!(
            "{shown} is in memory and does not survive power loss: limits could be spent twice; move state_dir to a disk, or say --allow-volatile"
        )));
    }
    if !config.dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.dir)
            .map_err(|e| open(format!("{shown} cannot be made: {e}")))?;
    }
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(config.dir.join("lock"))
        .map_err(|e| open(format!("{shown}/lock cannot be opened: {e}")))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(open(format!("another daemon uses {shown}"))),
        Err(TryLockError::Error(e)) => return Err(open(format!("{shown}/lock cannot be locked: {e}"))),
    }
    let file = config.dir.join("claviger.db");
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&file)
        .and_then(|_| File::open(&config.dir)?.sync_all())
        .map_err(|e| open(format!("{} cannot be made: {e}", file.display())))?;
    Ok((file, lock))
}

pub(super) fn connect(file: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open(file)?;
    db.set_prepared_statement_cache_capacity(64);
    db.busy_timeout(Duration::from_secs(5))?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if mode != "wal" {
        return Err(StoreError::Open(format!("the database stays in journal mode {mode}; WAL is needed")));
    }
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000; PRAGMA foreign_keys = ON; PRAGMA cache_size = -8000;")?;
    let version: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    match version {
        0 => {
            db.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;"))?;
        }
        SCHEMA => {}
        2 => {
            db.execute_batch(&format!("BEGIN IMMEDIATE; {FROM_2} PRAGMA user_version = {SCHEMA}; COMMIT;"))?;
        }
        other => {
            return Err(StoreError::Open(format!(
                "the database has schema {other}; this program knows {SCHEMA}"
            )));
        }
    }
    Ok(db)
}

pub(super) fn connect_reader(file: &Path) -> Result<Connection, StoreError> {
    let db = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.busy_timeout(Duration::from_secs(5))?;
    Ok(db)
}

/// A public half that is registered already is refused, whatever its name: one key, one purpose.
// [clause 8.7.1-a] a key exists for the daemon only after its record and its entry are durable together
pub(super) fn insert_key(
    work: &mut Work,
    record: &KeyRecord,
    uid: u32,
) -> Result<Result<(), StoreError>, StoreError> {
    let public = record.public.as_bytes();
    let origin = serde_json::to_string(&record.origin).map_err(|e| StoreError::Failed(e.to_string()))?;
    let taken: i64 = work.db.query_row(
        "SELECT count(*) FROM keys WHERE name = ?1 OR public = ?2",
        params![record.name.as_str(), public],
        |r| r.get(0),
    )?;
    if taken > 0 {
        return Ok(Err(StoreError::KeyExists(format!(
            "a key with the name {} or this public half exists",
            record.name
        ))));
    }
    work.db.execute(
        "INSERT INTO keys VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            record.name.as_str(),
            record.reference.as_bytes(),
            record.purpose.as_str(),
            record.state.as_str(),
            record.public.algorithm().as_str(),
            public,
            record.token_serial,
            record.created.0,
            origin
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
        uid,
    })?;
    Ok(Ok(()))
}

pub(super) fn keys(db: &Connection) -> Result<Vec<KeyRecord>, StoreError> {
    let mut query = db.prepare_cached(
        "SELECT name, reference, purpose, state, algorithm, public, token_serial, created, origin FROM keys ORDER BY name",
    )?;
    let rows = query.query_map([], |r| {
        Ok((
            r.get::<_, String>(0)?,
            r.get::<_, Vec<u8>>(1)?,
            r.get::<_, String>(2)?,
            r.get::<_, String>(3)?,
            r.get::<_, String>(4)?,
            r.get::<_, Vec<u8>>(5)?,
            r.get::<_, String>(6)?,
            r.get::<_, i64>(7)?,
            r.get::<_, String>(8)?,
        ))
    })?;
    let mut records = Vec::new();
    for row in rows {
        let (name, reference, purpose_text, state_text, algorithm, public, token_serial, created, origin) =
            row?;
        let parsed = (|| {
            Some(KeyRecord {
                reference: KeyRef::new(&reference)?,
                purpose: Purpose::parse(&purpose_text)?,
                state: State::parse(&state_text)?,
                public: PublicKey::from_bytes(Algorithm::parse(&algorithm)?, &public)?,
                name: Name::parse(&name)?,
                token_serial,
                created: Timestamp(created),
                origin: serde_json::from_str(&origin).ok()?,
            })
        })();
        records.push(
            parsed.ok_or_else(|| StoreError::Failed(format!("the record of key {name:?} cannot be read")))?,
        );
    }
    Ok(records)
}
