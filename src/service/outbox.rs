//! The outbox: every entry of the log goes to every sink, at least once and in order, and signing never waits for it.
//!
//! Each sink has a cursor on disk, which moves when the sink is known to have what stands before it. Beside the index it
//! holds the hash of the last entry that went out: a log that is another one, or shorter, is noticed here too.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::House;
use super::rules::write_atomically;
use super::sink::{Door, Line};
use crate::config::Sink;
use crate::core::log::merkle::leaf_hash;
use crate::store::EntryKind;

/// Entries that go out at once.
const BATCH: u64 = 256;
/// How often a quiet log is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How far those outside are, for status and metrics.
#[derive(Default)]
pub struct Outside(Mutex<BTreeMap<String, Told>>);

#[derive(Clone, Default)]
pub(super) struct Told {
    /// Everything before this index has arrived.
    pub(super) next: u64,
    /// Why it did not go on, the last time.
    pub(super) trouble: Option<String>,
    /// Somebody must look into it.
    pub(super) alarmed: bool,
}

impl Outside {
    pub(super) fn tell(&self, name: &str, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), told);
    }

    /// For operators.
    #[must_use]
    pub fn status(&self, size: u64) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |t: &Told| json!({"next": t.next, "lag": size.saturating_sub(t.next), "trouble": t.trouble, "alarm": t.alarmed});
        all.iter().map(|(name, t)| (name.clone(), told(t))).collect::<serde_json::Map<_, _>>().into()
    }

    /// Name, entries behind, alarm.
    pub(super) fn lags(&self, size: u64) -> Vec<(String, u64, bool)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, t)| (name.clone(), size.saturating_sub(t.next), t.alarmed)).collect()
    }
}

/// Where the outbox keeps its places.
pub(super) fn place(state_dir: &Path, name: &str) -> PathBuf {
    state_dir.join("outbox").join(name)
}

struct Cursor {
    file: PathBuf,
    next: u64,
    /// Hash of the entry before it.
    last: Option<[u8; 32]>,
}

impl Cursor {
    fn load(file: PathBuf) -> std::io::Result<Self> {
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some(parent) = file.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                return Ok(Self { file, next: 0, last: None });
            }
            Err(e) => return Err(e),
        };
        // What cannot be read begins anew: twice is better than never.
        let mut parts = text.split_whitespace();
        let next = parts.next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let mut hash = [0; 32];
        let last = parts.next().filter(|h| hex::decode_to_slice(h, &mut hash).is_ok()).map(|_| hash);
        Ok(Self { file, next: if last.is_some() { next } else { 0 }, last })
    }

    fn save(&mut self, next: u64, last: [u8; 32]) -> std::io::Result<()> {
        write_atomically(&self.file, format!("{next} {}\n", hex::encode(last)).as_bytes())?;
        (self.next, self.last) = (next, Some(last));
        Ok(())
    }
}

impl House {
    /// Serves every sink and asks every witness until the daemon stops.
    pub async fn keep_outside(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let mut tasks = Vec::new();
        for sink in self.config.outside.sinks.clone() {
            tasks.push(tokio::spawn(Arc::clone(&self).keep_sink(sink, stop.clone())));
        }
        for witness in self.config.outside.witnesses.clone() {
            tasks.push(tokio::spawn(Arc::clone(&self).keep_witness(witness, stop.clone())));
        }
        for task in tasks {
            if let Err(e) = task.await {
                tracing::error!("a task that tells of the log failed: {e}");
            }
        }
    }

    /// Writes an alarm down, and says it where people look.
    pub(super) async fn alarm(&self, what: &str, about: &str, sentence: &str) {
        tracing::error!("ALARM {what}: {about}: {sentence}");
        if let Err(e) = self.store.append(EntryKind::alarm(what, about, sentence)).await {
            tracing::error!("the alarm could not be written down: {e}");
        }
    }

    async fn keep_sink(self: Arc<Self>, sink: Sink, mut stop: watch::Receiver<bool>) {
        let name = sink.name();
        let mut cursor = match Cursor::load(place(&self.config.state_dir, &format!("{name}.cursor"))) {
            Ok(cursor) => cursor,
            Err(e) => {
                let why = format!("its cursor cannot be read: {e}");
                return self.alarm("export-lag", name, &why).await;
            }
        };
        self.compare(name, &mut cursor).await;
        let mut door = Some(Door::new(&sink));
        let (mut sent, mut pause, mut told) = (cursor.next, LOOK, Told::default());
        // Hashes of what was sent and is not known to have arrived.
        let mut hashes: BTreeMap<u64, [u8; 32]> = BTreeMap::new();
        loop {
            let outcome = self.hand_out(&mut door, &mut sent, &mut hashes).await;
            let more = match outcome.and_then(|arrived| {
                if let Some((next, last)) =
                    arrived.and_then(|a| Some((a, hashes.get(&a.checked_sub(1)?).copied()?)))
                {
                    cursor.save(next, last).map_err(|e| format!("its cursor cannot be kept: {e}"))?;
                    hashes = hashes.split_off(&next);
                }
                Ok(())
            }) {
                Ok(()) => {
                    (pause, told.trouble) = (LOOK, None);
                    sent < self.store.log_head().size
                }
                Err(why) => {
                    if told.trouble.is_none() {
                        tracing::warn!(sink = name, "entries do not go out: {why}");
                    }
                    self.metrics.export_failed(name);
                    told.trouble = Some(why);
                    // [clause 8.4.3-x] from where it is known to have arrived; what comes twice bears the same index.
                    sent = cursor.next;
                    hashes.clear();
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    false
                }
            };
            told.next = cursor.next;
            self.watch_lag(name, &mut told).await;
            self.outside.tell(name, told.clone());
            if *stop.borrow() {
                return;
            }
            if !more {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = stop.wait_for(|s| *s) => {}
                }
            }
        }
    }

    /// An alarm once, when a sink is too far behind; and again when it was not in between.
    async fn watch_lag(&self, name: &str, told: &mut Told) {
        let (lag, limit) =
            (self.store.log_head().size.saturating_sub(told.next), self.config.outside.lag_limit);
        if lag > limit && !told.alarmed {
            told.alarmed = true;
            let why = told.trouble.clone().unwrap_or_else(|| "it is slow".into());
            self.alarm("export-lag", name, &format!("{lag} entries have not gone out: {why}")).await;
        } else if lag <= limit / 2 {
            told.alarmed = false;
        }
    }

    /// The log must be the one that went out: the entry before the cursor is still the same.
    // [clause 8.7.1-e] a log that was put back behind what others have is noticed where it goes out
    async fn compare(&self, name: &str, cursor: &mut Cursor) {
        let (Some(last), Some(index)) = (cursor.last, cursor.next.checked_sub(1)) else { return };
        let there = match self.store.entries(index, 1).await {
            Ok(rows) => rows.first().map(|row| leaf_hash(row)),
            Err(_) => return,
        };
        if there != Some(last) {
            let size = self.store.log_head().size;
            let why = format!(
                "{} entries went out, and the log of {size} is another one, or was put back: they go out anew",
                cursor.next
            );
            self.alarm("export-gap", name, &why).await;
            (cursor.next, cursor.last) = (0, None);
        }
    }

    /// Hands out what comes next; gives before which index everything has arrived, when that is known anew.
    async fn hand_out(
        &self,
        door: &mut Option<Door>,
        sent: &mut u64,
        hashes: &mut BTreeMap<u64, [u8; 32]>,
    ) -> Result<Option<u64>, String> {
        let behind = self.store.log_head().size.saturating_sub(*sent);
        let rows = if behind > 0 {
            self.store.entries(*sent, behind.min(BATCH)).await.map_err(|e| e.to_string())?
        } else {
            Vec::new()
        };
        let mut lines = Vec::with_capacity(rows.len());
        for (seq, row) in (*sent..).zip(&rows) {
            lines.push(Line::of(row).ok_or_else(|| format!("entry {seq} cannot be read"))?);
            hashes.insert(seq, leaf_hash(row));
        }
        let mut open = door.take().ok_or("its door is lost")?;
        let count = lines.len() as u64;
        let (open, outcome) = tokio::task::spawn_blocking(move || {
            let outcome = open.deliver(&lines);
            if outcome.is_err() {
                open.reset();
            }
            (open, outcome)
        })
        .await
        .map_err(|e| e.to_string())?;
        *door = Some(open);
        let arrived = outcome.map_err(|e| e.to_string())?;
        *sent = sent.saturating_add(count);
        Ok(arrived)
    }
}
