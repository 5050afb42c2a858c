//! How long the daemon was there: what the log counted, and what went by since. What waits for people to say no waits by
//! this count, which no wall clock shortens.
#![forbid(unsafe_code)]

use std::time::Instant;

use super::writer::Work;
use super::{EntryKind, Store, StoreError};
use crate::core::elapsed::{Counter, Elapsed};
use crate::core::units::Timestamp;

/// Counts that are nearer to each other than this are not written down for an asker's sake alone, milliseconds.
const NEAR_MS: i64 = 1000;

/// The count of this run, for whoever wants to know what is left.
#[derive(Clone, Copy)]
pub(super) struct Live {
    counter: Counter,
    /// On a clock that nobody sets, and that stands still with the machine.
    began: Instant,
}

impl Live {
    pub(super) fn now(self) -> i64 {
        self.counter.at(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The writer's side of it.
pub(super) struct Clock {
    /// What the log says.
    pub(super) told: Elapsed,
    pub(super) live: Live,
    /// Something began to wait in the running transaction: the count stands right behind it.
    pub(super) due: bool,
}

impl Clock {
    pub(super) fn go_on(told: Elapsed) -> Self {
        let live = Live { counter: Counter::go_on(told.total(), 0), began: Instant::now() };
        Self { told, live, due: false }
    }

    /// The commit failed.
    pub(super) fn undo(&mut self, counts: usize) {
        self.told.forget_after(counts);
        self.due = false;
    }
}

impl Work {
    /// Keeps what an entry says of time.
    pub(super) fn heard(&mut self, kind: &EntryKind, at: Timestamp) {
        if let EntryKind::Elapsed { counted_ms } = kind {
            self.clock.told.told(at, *counted_ms);
            if let Some(ledger) = &mut self.ledger {
                ledger.counted(at, *counted_ms);
            }
        }
    }

    /// Writes the count down. Before the state directory is known to be the one that was left it is not: somebody who can
    /// write the file would write a count of their own.
    pub(super) fn count(&mut self) -> Result<(), StoreError> {
        self.clock.due = false;
        if self.settled().is_ok() {
            self.append(&EntryKind::Elapsed { counted_ms: self.clock.live.now() })?;
        }
        Ok(())
    }

    /// The same, when it has grown by something that is worth an entry. Whether it was.
    pub(super) fn count_on(&mut self) -> Result<bool, StoreError> {
        let grown = self.clock.live.now().saturating_sub(self.clock.told.total());
        if grown < NEAR_MS || self.settled().is_err() {
            return Ok(false);
        }
        self.count().map(|()| true)
    }

    pub(super) fn count_what_is_due(&mut self) -> Result<(), StoreError> {
        if self.clock.due { self.count() } else { Ok(()) }
    }

    /// Whether so much has gone by since something that is dated so; the log says it before this does.
    // [clause 8.8-c] what cannot be undone waits as long as it is to wait, whatever the wall clock says
    fn has_waited(&mut self, since: Timestamp, need_ms: i64) -> Result<bool, StoreError> {
        if self.settled().is_err() {
            return Ok(false);
        }
        let enough = |work: &Self| work.clock.told.since(since, work.now()) >= need_ms;
        if enough(self) && !self.clock.told.is_empty() {
            return Ok(true);
        }
        let more = self.clock.live.now().saturating_sub(self.clock.told.total());
        if self.clock.told.since(since, self.now()).saturating_add(more) < need_ms {
            return Ok(false);
        }
        self.count()?;
        Ok(enough(self))
    }
}

impl Store {
    /// How long the daemon was there, all in all, milliseconds.
    #[must_use]
    pub fn counted(&self) -> i64 {
        self.live.now()
    }

    /// Writes the count down.
    pub async fn count(&self) -> Result<(), StoreError> {
        self.writer.submit(Work::count).await
    }

    /// Whether so much has gone by since something that the log dates so.
    pub async fn has_waited(&self, since: Timestamp, need_ms: i64) -> Result<bool, StoreError> {
        self.writer.submit(move |work| work.has_waited(since, need_ms)).await
    }
}
