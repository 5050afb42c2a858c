//! The one writer: takes jobs, runs as many as wait in one transaction, commits, then answers.
#![forbid(unsafe_code)]

use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::clock::Clock;
use super::job::Job;
use super::keys::{States, states};
use super::open::OpenRequests;
use super::schema::int;
use super::seal::{self, Found};
use super::story::{self, Beside, Told};
use super::{
    EntryKind, Ledger, LogHead, SealKey, StoreError, approvals, debits, destinations, governance, rows,
    schema,
};
use crate::core::log::entry::{Entry, MAX_ENTRY};
use crate::core::log::merkle::{Frontier, leaf_hash};
use crate::core::order::Standing;
use crate::core::policy::history::Mention;
use crate::core::policy::window::{Debit, LONGEST_MS};
use crate::core::units::{Address, Name, Timestamp};
use crate::core::user::duties::Acknowledged;
use crate::refusal::{Code, Refusal};

/// A clock that goes back by more than this stops signing, milliseconds.
const TOLERATED_MS: i64 = 2000;

pub(super) fn wall() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What is visible outside: only what is committed.
pub(super) struct Shared {
    head: Mutex<LogHead>,
    checkpointed: AtomicU64,
    pub(super) batches: AtomicU64,
    pub(super) jobs: AtomicU64,
    pub(super) busy_since: AtomicI64,
    governance: Mutex<VecDeque<Value>>,
    /// Hashes of the texts that stand in the log.
    texts: Mutex<HashSet<String>>,
    /// Who acknowledged their duties.
    pub(super) acknowledged: Mutex<Acknowledged>,
}

impl Shared {
    pub(super) fn head(&self) -> LogHead {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn checkpointed(&self) -> u64 {
        self.checkpointed.load(Ordering::Acquire)
    }
    pub(super) fn note_checkpoint(&self, size: u64) {
        self.checkpointed.fetch_max(size, Ordering::AcqRel);
    }
    pub(super) fn governance(&self) -> Vec<Value> {
        self.governance.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
    pub(super) fn holds_text(&self, hash: &str) -> bool {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }
    pub(super) fn keep_text(&self, hash: String) {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }
    pub(super) fn batches(&self) -> (u64, u64) {
        (self.batches.load(Ordering::Relaxed), self.jobs.load(Ordering::Relaxed))
    }
}

/// The writer's state. Everything but the database is put back when a commit fails.
pub(super) struct Work {
    pub(super) db: Connection,
    _lock: File,
    pub(super) open: OpenRequests,
    pub(super) states: States,
    /// Refused payments of each key, as far as a tripwire remembers. A restart forgets them.
    pub(super) refusals: HashMap<Name, VecDeque<Timestamp>>,
    /// Rows that the running transaction changed, and the log must tell of.
    pub(super) touched: BTreeSet<String>,
    /// How long the daemon was there.
    pub(super) clock: Clock,
    tree: Frontier,
    last_ms: i64,
    pub(super) ledger: Option<Box<dyn Ledger>>,
    /// When every window was last declared full.
    filled: Option<Timestamp>,
    seal: Option<Arc<SealKey>>,
    /// The size under the newest seal.
    sealed: u64,
    /// Nothing is permitted: the log says that it can be compared with what the token knows, and it was not yet.
    frozen: bool,
    pub(super) shared: Arc<Shared>,
    /// What stands against this device, by all orders in the log.
    pub(super) standing: Standing,
}

impl Work {
    pub(super) fn load(db: Connection, lock: File) -> Result<(Self, Found), StoreError> {
        schema::sound(&db)?;
        let wrong = |what: &str| StoreError::Tampered(format!("{what} cannot be read"));
        let (edge, open, seal) = (saved(&db, "frontier")?, saved(&db, "open")?, saved(&db, "seal")?);
        let seal = seal.map(|s| seal::parse(&s).ok_or_else(|| wrong("the seal of the log"))).transpose()?;
        let anchored = saved(&db, "anchored")?.and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let beside = Beside {
            edge: edge
                .map_or(Some(Frontier::default()), |b| Frontier::from_bytes(&b))
                .ok_or_else(|| wrong("the saved edge of the log's tree"))?,
            open: open
                .map_or(Some(OpenRequests::default()), |b| OpenRequests::from_bytes(&b))
                .ok_or_else(|| wrong("the saved list of open requests"))?,
            sealed: seal.map(|(size, ..)| size),
            anchored,
        };
        let Told {
            tree,
            last_ms,
            governance,
            standing,
            open,
            found,
            accepted,
            tells_no_rows,
            texts,
            elapsed,
            acknowledged,
        } = story::read(&db, &beside)?;
        let found = found.with_seal(seal).ok_or_else(|| wrong("what the seal is about"))?;
        let checkpointed: Option<i64> =
            db.query_row("SELECT max(size) FROM checkpoints", [], |r| r.get(0))?;
        let shared = Arc::new(Shared {
            head: Mutex::new(LogHead { size: tree.size(), root: tree.root() }),
            checkpointed: AtomicU64::new(checkpointed.unwrap_or(0).cast_unsigned()),
            batches: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            busy_since: AtomicI64::new(0),
            governance: Mutex::new(governance),
            texts: Mutex::new(texts),
            acknowledged: Mutex::new(acknowledged),
        });
        let states = states(&db)?;
        let mut work = Self {
            db,
            _lock: lock,
            open,
            states,
            refusals: HashMap::new(),
            touched: BTreeSet::new(),
            clock: Clock::go_on(elapsed),
            tree,
            last_ms,
            ledger: None,
            filled: accepted,
            seal: None,
            sealed: 0,
            frozen: found.sealed || found.anchored,
            shared,
            standing,
        };
        if tells_no_rows {
            work.touched.extend(rows::all(&work.db)?);
        }
        work.settle_open_requests()?;
        work.publish();
        Ok((work, found))
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn publish(&self) {
        *self.shared.head.lock().unwrap_or_else(PoisonError::into_inner) =
            LogHead { size: self.tree.size(), root: self.tree.root() };
    }

    /// Requests that a crash left open are in doubt: the token may have signed. Their reservation stays.
    fn settle_open_requests(&mut self) -> Result<(), StoreError> {
        self.db.execute_batch("BEGIN IMMEDIATE")?;
        for request in self.open.all() {
            let _ = self.open.end(request);
            self.append(&EntryKind::InDoubt { request: request.to_string() })?;
        }
        // By the log's own time: a wall clock that is wrong for a moment takes nothing away.
        self.db.execute("DELETE FROM debits WHERE at < ?1", [self.entry_time().minus(LONGEST_MS * 2).0])?;
        self.tell_rows()?;
        self.db.execute_batch("COMMIT")?;
        self.open.keep();
        Ok(())
    }

    /// The writer's clock: the wall's, and never less than it was.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(wall().max(self.last_ms))
    }

    /// The time of the last entry: rows that belong to it bear the same.
    pub(super) fn entry_time(&self) -> Timestamp {
        Timestamp(self.last_ms)
    }

    /// How far the wall clock went back, when that is more than is tolerated.
    pub(super) fn clock_stepped(&self) -> Option<i64> {
        let back = self.last_ms.saturating_sub(wall());
        (back > TOLERATED_MS).then_some(back)
    }

    /// Appends to the log, inside the running transaction.
    pub(super) fn append(&mut self, kind: &EntryKind) -> Result<u64, StoreError> {
        let (seq, mut now) = (self.tree.size(), self.now());
        if let EntryKind::Elapsed { .. } = kind {
            // Dated after all that stands before it.
            now = now.max(Timestamp(self.last_ms).plus(1));
        }
        let data = Entry::encode(seq, now, kind).map_err(StoreError::Failed)?;
        if data.len() > MAX_ENTRY {
            return Err(StoreError::Failed(format!(
                "an entry of {} bytes is too long for the log",
                data.len()
            )));
        }
        self.db
            .prepare_cached("INSERT INTO entries(seq, data) VALUES(?1, ?2)")?
            .execute(params![int(seq), data])?;
        self.tree.push(leaf_hash(&data));
        self.last_ms = now.0;
        self.heard(kind, now);
        // Shown a moment before it is durable; what it announces comes into force only after.
        if governance::governs(kind) {
            let mut kept = self.shared.governance.lock().unwrap_or_else(PoisonError::into_inner);
            governance::keep(&mut kept, seq, now, kind);
        }
        Ok(seq)
    }

    pub(super) fn ledger(&self) -> Result<&dyn Ledger, Refusal> {
        self.ledger.as_deref().ok_or_else(|| Refusal::new(Code::NoRule, "no policy is in force"))
    }

    pub(super) fn explain(&self, facts: &dyn Any) -> Result<Value, Refusal> {
        self.ledger()?.explain(facts, self.now())
    }

    /// Counts a debit, on disk and in the windows.
    pub(super) fn debit(&mut self, debit: &Debit) -> Result<(), StoreError> {
        debits::insert(&self.db, debit)?;
        if let Some(to) = debit.to {
            let mention = Mention { key: debit.key.clone(), to, at: debit.at };
            self.clock.due |= destinations::write(&self.db, &mention)?;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.commit(debit);
        }
        Ok(())
    }

    /// A destination was asked for, and nothing was paid: it is known from now on.
    pub(super) fn mention(&mut self, key: &Name, to: Address) -> Result<(), StoreError> {
        let mention = Mention { key: key.clone(), to, at: self.entry_time() };
        self.clock.due |= destinations::write(&self.db, &mention)?;
        if let Some(ledger) = &mut self.ledger {
            ledger.mention(&mention);
        }
        Ok(())
    }

    pub(super) fn swap_ledger(&mut self, mut ledger: Box<dyn Ledger>) -> Result<(), StoreError> {
        ledger.elapsed(&self.clock.told);
        ledger.rebuild(&self.debits()?, &destinations::all(&self.db)?);
        if let Some(at) = self.filled {
            ledger.fill(at);
        }
        self.ledger = Some(ledger);
        Ok(())
    }

    /// When every window was last declared full.
    pub(super) fn filled(&self) -> Option<Timestamp> {
        self.filled
    }

    /// Whether anything may be done that the next start would have to believe.
    // [clause 8.7.1-i] the writer itself permits nothing before the log was held against what the token knows
    pub(super) fn settled(&self) -> Result<(), StoreError> {
        let why = "whether the state directory is as it was left is not known before the token has said so";
        if self.frozen { Err(StoreError::Frozen(why.into())) } else { Ok(()) }
    }

    pub(super) fn settle(&mut self, seal: Option<SealKey>, entries: &[EntryKind]) -> Result<(), StoreError> {
        (self.seal, self.sealed, self.frozen, self.clock.due) = (seal.map(Arc::new), 0, false, true);
        entries.iter().try_for_each(|entry| self.append(entry).map(drop))
    }

    pub(super) fn accept(&mut self, entry: &EntryKind) -> Result<(), StoreError> {
        approvals::void(self)?;
        self.append(entry)?;
        self.filled = Some(self.entry_time());
        if let (Some(ledger), Some(at)) = (&mut self.ledger, self.filled) {
            ledger.fill(at);
        }
        Ok(())
    }

    pub(super) fn note_anchor(&mut self, size: u64, entry: Option<&EntryKind>) -> Result<(), StoreError> {
        if let Some(entry) = entry {
            self.append(entry)?;
        }
        self.save("anchored", &size.to_be_bytes())
    }

    pub(super) fn save(&self, name: &str, value: &[u8]) -> Result<(), StoreError> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO meta(name, value) VALUES(?1, ?2)")?
            .execute(params![name, value])?;
        Ok(())
    }

    /// The log tells of the rows that this transaction changed.
    fn tell_rows(&mut self) -> Result<(), StoreError> {
        if self.touched.is_empty() {
            return Ok(());
        }
        let touched = std::mem::take(&mut self.touched);
        for entry in rows::entries(&self.db, touched.iter())? {
            self.append(&entry)?;
        }
        Ok(())
    }

    /// The last of a transaction: the tag over the log as it stands now.
    // [clause 8.7.1-i] in the same commit as what it covers, so that no crash parts them
    fn renew_seal(&mut self) -> Result<(), StoreError> {
        let Some(seal) = self.seal.clone().filter(|_| self.sealed != self.tree.size()) else { return Ok(()) };
        let head = LogHead { size: self.tree.size(), root: self.tree.root() };
        let bytes = seal.seal(&head).ok_or_else(|| StoreError::Failed("the log cannot be sealed".into()))?;
        self.save("seal", &bytes)?;
        self.sealed = head.size;
        Ok(())
    }

    pub(super) fn debits(&self) -> Result<Vec<Debit>, StoreError> {
        debits::since(&self.db, self.now().minus(LONGEST_MS.saturating_mul(2)))
    }

    pub(super) fn save_checkpoint(&mut self, size: u64, note: &str) -> Result<(), StoreError> {
        self.db.execute(
            "INSERT OR REPLACE INTO checkpoints(size, note) VALUES(?1, ?2)",
            params![int(size), note],
        )?;
        // The edge and the open requests are of the same moment: both are compared at the next start.
        self.save("frontier", &self.tree.to_bytes())?;
        self.save("open", &self.open.to_bytes())
    }

    /// Runs jobs in one transaction. `Err` means that none of them happened.
    pub(super) fn batch(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
        let (tree, last_ms, standing) = (self.tree.clone(), self.last_ms, self.standing.clone());
        let before = (self.seal.clone(), self.sealed, self.frozen, self.filled);
        let counts = self.clock.told.len();
        let outcome = (|| {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
            for job in jobs.iter_mut() {
                job.run(self)?;
            }
            self.count_what_is_due()?;
            self.tell_rows()?;
            self.renew_seal()?;
            // [clause 8.7.1-d] nobody is answered before this has returned
            self.db.execute_batch("COMMIT")?;
            Ok(())
        })();
        if let Err(error) = &outcome {
            tracing::error!("a commit failed, nothing of it happened: {error}");
            if !self.db.is_autocommit()
                && let Err(e) = self.db.execute_batch("ROLLBACK")
            {
                tracing::error!("rolling back failed: {e}");
            }
            (self.tree, self.last_ms, self.standing) = (tree, last_ms, standing);
            (self.seal, self.sealed, self.frozen, self.filled) = before;
            self.touched.clear();
            self.clock.undo(counts);
            self.open.undo();
            // Without their states no key is usable.
            self.states = states(&self.db).unwrap_or_default();
            self.recount();
        }
        self.open.keep();
        outcome
    }

    /// Counts again from the rows. When they cannot be read, nothing is permitted until they can.
    fn recount(&mut self) {
        let Some(mut ledger) = self.ledger.take() else { return };
        match self.debits().and_then(|rows| Ok((rows, destinations::all(&self.db)?))) {
            Ok((rows, seen)) => {
                ledger.elapsed(&self.clock.told);
                ledger.rebuild(&rows, &seen);
                if let Some(at) = self.filled {
                    ledger.fill(at);
                }
                self.ledger = Some(ledger);
            }
            Err(e) => tracing::error!("what was spent cannot be read, so nothing is permitted: {e}"),
        }
    }
}

fn saved(db: &Connection, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(db.query_row("SELECT value FROM meta WHERE name = ?1", [name], |r| r.get(0)).optional()?)
}
