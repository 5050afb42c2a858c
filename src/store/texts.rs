//! What comes into force is announced with its text: word by word in the log, once, before its hash is named.
#![forbid(unsafe_code)]

use rusqlite::params;

use super::schema::int;
use super::writer::Work;
use super::{EntryKind, Store, StoreError, changes};
use crate::core::units::sha256;

/// A text that comes into force, and what it is.
pub struct Text {
    /// `policy`, `key-policy`, `authority`, `apps` or `users`.
    pub what: &'static str,
    /// The text.
    pub text: String,
    /// Another that is in force with it, or neither of them.
    pub beside: Option<(&'static str, String)>,
}

impl Store {
    /// Puts a witness's line behind a checkpoint, once.
    pub async fn cosign_checkpoint(&self, size: u64, line: String) -> Result<(), StoreError> {
        self.writer
            .submit(move |work| {
                work.db.execute(
                    "UPDATE checkpoints SET note = note || ?2 WHERE size = ?1 AND instr(note, ?2) = 0",
                    params![int(size), line],
                )?;
                Ok(())
            })
            .await
    }

    /// Writes a text into the log that another entry will name by its hash, where it does not stand there yet.
    pub async fn keep_text(&self, what: &'static str, text: String) -> Result<(), StoreError> {
        let hash = hex::encode(sha256(text.as_bytes()));
        if self.shared.holds_text(&hash) {
            return Ok(());
        }
        let entries = EntryKind::documents(what, &text);
        let write = move |work: &mut Work| entries.iter().try_for_each(|e| work.append(e).map(drop));
        self.writer.submit(write).await?;
        self.shared.keep_text(hash);
        Ok(())
    }

    /// Writes the entry down that announces a text, and before it the text itself where the log does not hold it yet; keeps
    /// the text at hand for the next start. All in one transaction.
    // [clause 8.7.1-e] an auditor needs no file that the daemon's machine may have lost or changed
    pub async fn announce(&self, text: Text, entry: EntryKind) -> Result<(), StoreError> {
        let both: Vec<(&'static str, String)> =
            [(text.what, text.text)].into_iter().chain(text.beside).collect();
        let hash = |text: &str| hex::encode(sha256(text.as_bytes()));
        let hashes: Vec<String> = both.iter().map(|(_, text)| hash(text)).collect();
        let fresh = both.iter().filter(|(_, text)| !self.shared.holds_text(&hash(text)));
        let entries: Vec<EntryKind> =
            fresh.flat_map(|(what, text)| EntryKind::documents(what, text)).collect();
        let entry = entry.keeping(&hashes);
        self.writer
            .submit(move |work| {
                for part in &entries {
                    work.append(part)?;
                }
                changes::documents(work, &entry, &both)
            })
            .await?;
        hashes.into_iter().for_each(|hash| self.shared.keep_text(hash));
        Ok(())
    }
}
