//! EDGE. Durable state: SQLite, one writer thread, group commit. [clause 8.7.1]
//!
//! Durable before visible: every answer is given after the commit (WAL, `synchronous = FULL`) that holds it. A failed
//! commit changes nothing, in memory or on disk, and the next one is tried afresh. Mints [`Reserved`] and [`Recorded`].
#![forbid(unsafe_code)]

mod approvals;
mod ask;
mod backups;
mod changes;
mod clock;
mod copies;
mod debits;
mod destinations;
mod duties;
mod error;
mod governance;
mod handle;
mod job;
mod keys;
mod loose;
mod open;
mod order;
mod reserve;
mod rows;
mod schema;
mod seal;
mod story;
mod texts;
mod users;
mod writer;

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, params};
use serde_json::Value;

use crate::core::key::{KeyRecord, State};
pub use crate::core::log::entry::EntryKind;
use crate::core::log::merkle::{Frontier, leaf_hash};
use crate::core::proof::{Recorded, RequestId, Reserved};
use crate::core::units::{Name, Timestamp};
use crate::refusal::Refusal;
pub use approvals::{Waiting, WaitingState};
pub use ask::{Ask, How, Kept, Ledger, NonceClaim, ReserveReply, Verdict};
pub use backups::Restored;
pub use changes::{ChangeState, Pending};
pub use error::StoreError;
use handle::WriterHandle;
pub use keys::Because;
pub use order::{HeardOrder, Lifted};
use reserve::Draft;
pub use seal::{Found, RUN_INPUT, Seal, SealKey};
pub use story::LOG_KEY;
pub use texts::Text;
pub use users::UserRow;
use writer::{Shared, Work};

/// How to open the store.
pub struct StoreConfig {
    /// State directory.
    pub dir: PathBuf,
    /// Accept one that does not survive power loss.
    pub allow_volatile: bool,
    /// `f_type` of its file system.
    pub fs_magic: i64,
}

/// Head of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// Entries.
    pub size: u64,
    /// Root.
    pub root: [u8; 32],
}

/// Figures for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Jobs that wait for the writer.
    pub queue_depth: u64,
    /// Commits.
    pub batches: u64,
    /// Jobs in them.
    pub jobs: u64,
    /// Entries in the log.
    pub log_size: u64,
    /// Size of the database file, bytes.
    pub db_bytes: u64,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: Arc<WriterHandle>,
    shared: Arc<Shared>,
    reader: Arc<Mutex<Connection>>,
    file: PathBuf,
    found: Arc<Found>,
    live: clock::Live,
}

impl Store {
    /// Opens or makes the database. Requests that a crash left without an outcome are marked in doubt.
    pub fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let (file, lock) = schema::prepare(&config)?;
        let connection = schema::connect(&file)?;
        let reader = schema::connect_reader(&file)?;
        let (work, found) = Work::load(connection, lock)?;
        let (shared, live) = (work.shared(), work.clock.live);
        let writer = WriterHandle::start(work)?;
        let reader = Arc::new(Mutex::new(reader));
        Ok(Self { writer: Arc::new(writer), shared, reader, file, found: Arc::new(found), live })
    }

    /// Puts another ledger in force; its counters are built from what was spent.
    pub async fn swap_ledger(&self, ledger: Box<dyn Ledger>) -> Result<(), StoreError> {
        self.writer.submit(move |work| work.swap_ledger(ledger)).await
    }

    /// Decides, reserves and writes the intent down, in one durable transaction.
    // [clause 8.7.1-d] the proof is made here, after the commit has returned
    pub async fn reserve(&self, ask: Ask) -> Result<ReserveReply, StoreError> {
        let (digest, request) = (ask.digest, ask.request);
        let draft = self.writer.submit(move |work| reserve::reserve(work, ask)).await?;
        let proof = || Reserved::assertion(digest, request);
        Ok(match draft {
            Draft::New => ReserveReply::New(proof()),
            Draft::Again => ReserveReply::Again(proof()),
            Draft::Already { signature, request } => ReserveReply::Already { signature, request },
            Draft::Refused { refusal, tripped } => ReserveReply::Refused { refusal, tripped },
            Draft::Needs { needs, policy } => ReserveReply::Needs { needs, policy },
            Draft::Step(step) => ReserveReply::Step(step),
        })
    }

    /// What would be decided now.
    pub async fn explain(&self, facts: Box<dyn Any + Send>) -> Result<Result<Value, Refusal>, StoreError> {
        self.writer.submit(move |work| Ok(work.explain(facts.as_ref()))).await
    }

    /// Writes down the signature that is about to be released.
    pub async fn finish(&self, request: RequestId, signature: Option<Kept>) -> Result<Recorded, StoreError> {
        let index =
            self.writer.submit(move |work| reserve::finish(work, request, signature.as_ref())).await?;
        Ok(Recorded::assertion(request, index))
    }

    /// Writes a failure after the intent down. The reservation stays.
    pub async fn fail(
        &self,
        request: RequestId,
        code: &'static str,
        sentence: &str,
    ) -> Result<(), StoreError> {
        let entry = EntryKind::failed(request.to_string(), code, sentence);
        self.writer.submit(move |work| reserve::fail(work, request, &entry)).await
    }

    /// Appends an entry; gives its index.
    pub async fn append(&self, kind: EntryKind) -> Result<u64, StoreError> {
        self.writer.submit(move |work| work.append(&kind)).await
    }

    /// Registers a key, with its entry, in one transaction.
    pub async fn insert_key(&self, record: KeyRecord, uid: u32) -> Result<(), StoreError> {
        self.writer.submit(move |work| keys::insert(work, &record, uid)).await?
    }

    /// Moves a key along an edge of its life.
    pub async fn move_key(
        &self,
        name: Name,
        to: State,
        because: Because,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| keys::go(work, &name, to, &because)).await
    }

    /// The successor becomes active and its predecessor ends, in one commit.
    pub async fn rotate_key(
        &self,
        old: Name,
        new: Name,
        end: State,
        because: Because,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| keys::rotate(work, &old, &new, end, &because)).await
    }

    /// From here on the key does nothing, and only its destruction follows.
    pub async fn begin_destroying(
        &self,
        name: Name,
        because: Because,
    ) -> Result<Result<(), Refusal>, StoreError> {
        self.writer.submit(move |work| keys::begin_destroying(work, &name, &because)).await
    }

    /// A warning about a key's end; 0 days for one that is overdue.
    pub async fn warn_of_key(
        &self,
        name: Name,
        days: u32,
        to: State,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.writer.submit(move |work| keys::warn(work, &name, days, to, at)).await
    }

    /// The text of a document that came into force last, where it was kept.
    pub async fn document(&self, name: &'static str) -> Result<Option<String>, StoreError> {
        self.read(move |db| changes::kept_document(db, name)).await
    }

    /// How the log was found when the store was opened.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// The log is the one that was left: from here on it is used, and every commit seals it anew.
    pub async fn settle(&self, seal: Option<SealKey>, entries: Vec<EntryKind>) -> Result<(), StoreError> {
        self.writer.submit(move |work| work.settle(seal, &entries)).await
    }

    /// An operator goes on with a log that was found changed: what was approved is void, what was spent is not known.
    pub async fn accept(&self, entry: EntryKind) -> Result<(), StoreError> {
        self.writer.submit(move |work| work.accept(&entry)).await
    }

    /// Notes the size that the token holds, so that the next start finds its root while it reads the log.
    pub async fn note_anchor(&self, size: u64, entry: Option<EntryKind>) -> Result<(), StoreError> {
        self.writer.submit(move |work| work.note_anchor(size, entry.as_ref())).await
    }

    /// The root that the log had at a size; `None` when it is shorter.
    pub async fn root_at(&self, size: u64) -> Result<Option<[u8; 32]>, StoreError> {
        if let Some(root) = self.found.roots.get(&size) {
            return Ok(Some(*root));
        }
        self.read(move |db| {
            let mut tree = Frontier::default();
            let mut query = db.prepare("SELECT data FROM entries WHERE seq < ?1 ORDER BY seq")?;
            let mut rows = query.query([schema::int(size)])?;
            while let Some(row) = rows.next()? {
                tree.push(leaf_hash(&row.get::<_, Vec<u8>>(0)?));
            }
            Ok((tree.size() == size).then(|| tree.root()))
        })
        .await
    }

    /// The newest entries about who decides what, oldest first.
    #[must_use]
    pub fn governance(&self) -> Vec<Value> {
        self.shared.governance()
    }

    /// The writer's clock, and so the latest moment that anything was written down.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        self.writer.submit(|work| Ok(work.now())).await
    }

    /// Keeps a signed checkpoint.
    pub async fn save_checkpoint(&self, size: u64, note: String) -> Result<(), StoreError> {
        self.writer.submit(move |work| work.save_checkpoint(size, &note)).await?;
        self.shared.note_checkpoint(size);
        Ok(())
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = Arc::clone(&self.reader);
        tokio::task::spawn_blocking(move || query(&reader.lock().unwrap_or_else(PoisonError::into_inner)))
            .await
            .map_err(|e| StoreError::Failed(e.to_string()))?
    }

    /// All key records.
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read(keys::keys).await
    }

    /// Entries from an index on.
    pub async fn entries(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, StoreError> {
        self.read(move |db| {
            let mut query =
                db.prepare_cached("SELECT data FROM entries WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
            let rows = query.query_map(params![schema::int(from), schema::int(count)], |r| r.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The newest signed checkpoint.
    pub async fn latest_checkpoint(&self) -> Result<String, StoreError> {
        self.read(|db| {
            Ok(db.query_row("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1", [], |r| r.get(0))?)
        })
        .await
    }

    /// Signed checkpoints over so many entries and more, oldest first.
    pub async fn checkpoints(&self, from: u64, count: u64) -> Result<Vec<(u64, String)>, StoreError> {
        self.read(move |db| {
            let mut query = db.prepare_cached(
                "SELECT size, note FROM checkpoints WHERE size >= ?1 ORDER BY size LIMIT ?2",
            )?;
            let rows = query.query_map(params![schema::int(from), schema::int(count)], |r| {
                Ok((r.get::<_, i64>(0)?.cast_unsigned(), r.get(1)?))
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Head of the log: what is committed.
    #[must_use]
    pub fn log_head(&self) -> LogHead {
        self.shared.head()
    }

    /// Entries under the newest checkpoint.
    #[must_use]
    pub fn checkpointed_size(&self) -> u64 {
        self.shared.checkpointed()
    }

    /// Figures.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let (batches, jobs) = self.shared.batches();
        StoreStats {
            queue_depth: self.writer.queued(),
            batches,
            jobs,
            log_size: self.shared.head().size,
            db_bytes: std::fs::metadata(&self.file).map_or(0, |m| m.len()),
        }
    }

    /// Whether the writer answers.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.writer.alive()
    }

    /// Ends the writer after everything that was submitted.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod copies_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tamper_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tombstone_tests;
