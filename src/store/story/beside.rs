//! Texts in force and changes that wait, held against what the log tells.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use rusqlite::Connection;

use super::super::changes::{Pending, all_open, kept_document};
use super::super::{EntryKind, StoreError};
use super::{Story, differs};
use crate::core::app::memory::Memory;
use crate::core::units::sha256;

/// What was remembered of apps, text after text: it never goes back, whoever wrote the last of them.
#[derive(Default)]
pub(super) struct Registrations {
    coming: String,
    known: HashMap<String, Memory>,
    last: Memory,
    wrong: Option<String>,
}

impl Registrations {
    pub(super) fn hear(&mut self, kind: &EntryKind) {
        match kind {
            EntryKind::Document { what, hash, part, parts, text } if what == "registrations" => {
                if *part == 1 {
                    self.coming.clear();
                }
                self.coming.push_str(text);
                if part == parts {
                    let read = Memory::parse(&self.coming);
                    self.known.extend(read.map(|memory| (hash.clone(), memory)));
                    self.coming.clear();
                }
            }
            EntryKind::Apps { registrations: Some(hash), .. } => match self.known.get(hash) {
                None => self.wrong = Some("what is remembered of apps".into()),
                Some(memory) => {
                    let back = memory.goes_back(&self.last).map(|id| format!("the serial of app {id}"));
                    self.wrong = self.wrong.take().or(back);
                    self.last = memory.clone();
                }
            },
            _ => {}
        }
    }

    // [clause 8.2.4-n] an entry that forgets a serial is none that the daemon wrote
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.wrong.as_deref().map_or(Ok(()), |what| Err(differs(what)))
    }
}

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
