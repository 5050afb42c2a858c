//! Tables, and the checks before the first of them is touched.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{StoreConfig, StoreError, destinations};

const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
const SCHEMA: i64 = 6;
/// The WAL-reset bug is fixed from here on.
const LEAST_SQLITE: i32 = 3_051_003;

const TABLES: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE entries(seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE checkpoints(size INTEGER PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE debits(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, key TEXT NOT NULL, app TEXT NOT NULL,
  chain INTEGER, asset BLOB, amount BLOB NOT NULL, dest BLOB);
CREATE TABLE nonces(key TEXT NOT NULL, chain INTEGER NOT NULL, nonce INTEGER NOT NULL, app TEXT NOT NULL,
  digest BLOB NOT NULL, fingerprint BLOB NOT NULL, request BLOB NOT NULL, at INTEGER NOT NULL,
  signature BLOB, PRIMARY KEY(key, chain, nonce)) WITHOUT ROWID;
CREATE TABLE keys(name TEXT PRIMARY KEY, reference BLOB NOT NULL UNIQUE, purpose TEXT NOT NULL, state TEXT NOT NULL,
  algorithm TEXT NOT NULL, public BLOB NOT NULL UNIQUE, token_serial TEXT NOT NULL, created INTEGER NOT NULL,
  origin TEXT NOT NULL, line TEXT NOT NULL, generation INTEGER NOT NULL, since INTEGER NOT NULL, activated INTEGER,
  compromised INTEGER, warned INTEGER, destroying INTEGER NOT NULL) WITHOUT ROWID;
";

/// Payments that wait for people, and what people said.
const WAITING: &str = "
CREATE TABLE waiting(request BLOB PRIMARY KEY, app TEXT NOT NULL, uid INTEGER NOT NULL, key TEXT NOT NULL,
  digest BLOB NOT NULL, tx BLOB NOT NULL, account BLOB NOT NULL, text TEXT NOT NULL, quorum INTEGER NOT NULL,
  of TEXT NOT NULL, policy BLOB NOT NULL, authority BLOB NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX waiting_by_payload ON waiting(app, key, digest);
CREATE TABLE voices(request BLOB NOT NULL, person TEXT NOT NULL, key TEXT NOT NULL, yes INTEGER NOT NULL,
  at INTEGER NOT NULL, signature TEXT NOT NULL, PRIMARY KEY(request, person)) WITHOUT ROWID;
CREATE TABLE counters(key TEXT PRIMARY KEY, counter INTEGER NOT NULL) WITHOUT ROWID;
";

/// Changes that wait for people; their voices stand beside those of payments.
const CHANGES: &str = "
CREATE TABLE changes(id BLOB PRIMARY KEY, data TEXT NOT NULL, state TEXT NOT NULL, opens INTEGER,
  expires INTEGER NOT NULL) WITHOUT ROWID;
";

/// When each line of keys was first asked to pay a destination.
const DESTINATIONS: &str = "
CREATE TABLE destinations(line TEXT NOT NULL, address BLOB NOT NULL, first INTEGER NOT NULL,
  PRIMARY KEY(line, address)) WITHOUT ROWID;
";

/// Debits of schema 3 have no destination.
const FROM_3: &str = "ALTER TABLE debits ADD COLUMN dest BLOB;";

/// What is kept of users, and how their payments are added up.
const USERS: &str = "
CREATE TABLE users(name TEXT PRIMARY KEY, verifier TEXT, tries INTEGER NOT NULL, suspended INTEGER NOT NULL,
  invite BLOB, invite_expires INTEGER) WITHOUT ROWID;
CREATE INDEX debits_by_key ON debits(key, at);
";

/// Where copies of each key are, and what became of them.
const COPIES: &str = "
CREATE TABLE copies(key TEXT NOT NULL, what TEXT NOT NULL, place TEXT NOT NULL, mark TEXT NOT NULL, noted INTEGER NOT NULL,
  due INTEGER, gone INTEGER, gone_by TEXT, gone_how TEXT, told INTEGER NOT NULL,
  PRIMARY KEY(key, what, place)) WITHOUT ROWID;
";

/// Every key of schema 2 was made in its token, and active from the beginning.
const FROM_2: &str = "
ALTER TABLE keys ADD COLUMN origin TEXT NOT NULL DEFAULT '{\"kind\":\"generated\"}';
ALTER TABLE keys ADD COLUMN line TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;
ALTER TABLE keys ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN activated INTEGER;
ALTER TABLE keys ADD COLUMN compromised INTEGER;
ALTER TABLE keys ADD COLUMN warned INTEGER;
ALTER TABLE keys ADD COLUMN destroying INTEGER NOT NULL DEFAULT 0;
UPDATE keys SET line = name, since = created, activated = created;";

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
    let steps = match version {
        0 => format!("{TABLES} {WAITING} {DESTINATIONS} {CHANGES} {USERS} {COPIES}"),
        SCHEMA => return Ok(db),
        2 => format!("{FROM_2} {WAITING} {FROM_3} {DESTINATIONS} {CHANGES} {USERS} {COPIES}"),
        3 => format!("{FROM_3} {DESTINATIONS} {CHANGES} {USERS} {COPIES}"),
        4 => format!("{USERS} {COPIES}"),
        5 => COPIES.to_owned(),
        other => {
            return Err(StoreError::Open(format!(
                "the database has schema {other}; this program knows {SCHEMA}"
            )));
        }
    };
    // All of it or nothing: what is not committed is rolled back when the connection goes.
    db.execute_batch(&format!("BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA};"))?;
    if version != 0 {
        destinations::fill(&db)?;
    }
    db.execute_batch("COMMIT")?;
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

/// Tables, columns and indexes, as far as they decide what is read and written.
fn shape(db: &Connection) -> Result<BTreeSet<String>, StoreError> {
    let mut all = BTreeSet::new();
    for query in [
        "SELECT type || ' ' || name || ' of ' || tbl_name FROM sqlite_schema",
        "SELECT 'table ' || l.name || ' ' || l.type || ' ' || l.wr FROM pragma_table_list l WHERE l.schema = 'main'",
        "SELECT s.name || '.' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || c.pk || ' ' || c.hidden
         FROM sqlite_schema s, pragma_table_xinfo(s.name) c WHERE s.type = 'table'",
        "SELECT s.name || '.' || i.seqno || ' ' || ifnull(i.name, '-') || ' ' || i.desc || ' ' || i.coll || ' ' || i.key
         FROM sqlite_schema s, pragma_index_xinfo(s.name) i WHERE s.type = 'index'",
    ] {
        let mut query = db.prepare(query)?;
        let rows = query.query_map([], |r| r.get::<_, String>(0))?;
        for row in rows {
            all.insert(row?);
        }
    }
    Ok(all)
}

/// A trigger, a view or an index that leads elsewhere would undo what the rows are compared for: the database must be
/// built as this program builds it, and sound.
// [clause 8.7.1-i] what steers the database is looked at before what it holds
pub(super) fn sound(db: &Connection) -> Result<(), StoreError> {
    let fresh = Connection::open_in_memory()?;
    fresh.execute_batch(&format!("{TABLES} {WAITING} {DESTINATIONS} {CHANGES} {USERS} {COPIES}"))?;
    let (built, wanted) = (shape(db)?, shape(&fresh)?);
    if let Some(odd) = built.symmetric_difference(&wanted).next() {
        return Err(StoreError::Tampered(format!(
            "the database is not built as this program builds it ({odd}): it was changed behind the daemon's back, or is damaged; restore it from a copy"
        )));
    }
    // Entries are read from first to last anyway; all else is looked up by indexes that must lead where they say.
    let mut query =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'entries'")?;
    for table in query.query_map([], |r| r.get::<_, String>(0))? {
        let told: String =
            db.query_row(&format!("PRAGMA integrity_check('{}')", table?), [], |r| r.get(0))?;
        if told != "ok" {
            return Err(StoreError::Tampered(format!(
                "the database is damaged ({told}): restore it from a copy"
            )));
        }
    }
    Ok(())
}
