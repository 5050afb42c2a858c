//! Texts in force and changes that wait, held against what the log tells.
#![forbid(unsafe_code)]

use rusqlite::Connection;

use super::super::StoreError;
use super::super::changes::{Pending, all_open, kept_document};
use super::{Story, differs};
use crate::core::units::sha256;

impl Story {
    /// Who decides what is read from these when the daemon starts.
    // [clause 8.8-b] a document that was exchanged behind the daemon's back is not in force
    pub(super) fn check_documents(&self, db: &Connection) -> Result<(), StoreError> {
        for (name, hash) in &self.documents {
            let text = kept_document(db, name)?.ok_or_else(|| differs(&format!("the {name} in force")))?;
            if hex::encode(sha256(text.as_bytes())) != *hash {
                return Err(differs(&format!("the {name} in force")));
            }
        }
        Ok(())
    }

    /// What waits for people is what was asked.
    pub(super) fn check_changes(&self, db: &Connection) -> Result<(), StoreError> {
        let waiting = all_open(db)?;
        let same = |p: &Pending| {
            let rendered = self.changes.get(&p.change.id);
            rendered.is_some_and(|text| p.change.is_shown_by(text))
        };
        if waiting.len() == self.changes.len() && waiting.iter().all(same) {
            Ok(())
        } else {
            Err(differs("changes that wait for people"))
        }
    }
}
