//! Whether backups are what they were when they were made: looked at on a schedule, without anybody coming together.
//! [clause 8.2.2]
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::PoisonError;

use serde_json::{Value, json};

use super::House;
use super::backup::Made;
use crate::core::backup::age;
use crate::core::backup::bundle::lock_mark;
use crate::core::backup::vault::{Found, LockId};
use crate::core::units::{Timestamp, sha256};
use crate::refusal::Refusal;

/// Most keys that an alarm names.
const NAMED: usize = 5;

/// How backups were found the last time.
#[derive(Default)]
pub(super) struct Seen {
    at: Option<Timestamp>,
    /// Keys that are not as they should be, and the first thing that is wrong with each.
    wrong: Vec<(String, String)>,
    /// Why it could not be looked.
    refused: Option<String>,
}

/// What is wrong with the copy in a directory.
fn compare(dir: &Path, made: &Made) -> Option<String> {
    let path = dir.join(&made.file);
    match std::fs::read(&path) {
        Ok(bytes) if hex::encode(sha256(&bytes)) != made.bundle => {
            Some(format!("{} is not the bundle that was made", path.display()))
        }
        Ok(bytes) if !age::is_for_a_quorum(&bytes) => {
            Some(format!("{} has no head that a quorum could open", path.display()))
        }
        Ok(_) => None,
        Err(e) => Some(format!("{}: {e}", path.display())),
    }
}

impl House {
    /// Holds every copy of every bundle against the register, and every place of the vault against the locks.
    // [clause 8.2.2-e] a copy that is missing, cut or changed is found before it is needed
    // [clause 8.2.2-h] and so is one of a quorum that is not in force any more
    pub async fn backup_verify(&self) -> Result<Value, Refusal> {
        let rows = self.looked_over().await?;
        let ok = rows.iter().all(|(_, wrong)| wrong.is_empty());
        let keys: Vec<Value> = rows
            .into_iter()
            .map(|(key, wrong)| json!({"key": key, "ok": wrong.is_empty(), "wrong": wrong}))
            .collect();
        Ok(json!({"ok": ok, "keys": keys}))
    }

    async fn looked_over(&self) -> Result<Vec<(String, Vec<String>)>, Refusal> {
        let backups = self.backups()?;
        let quorum = self.backup_quorum()?;
        let _turn = backups.turn.lock().await;
        let mut tables = Vec::new();
        for place in &backups.places {
            place.connected().await;
            tables.push((place.name.clone(), place.read().await));
        }
        let mut rows = Vec::new();
        for key in self.backed_up() {
            let mut wrong: Vec<String> = Vec::new();
            match self.bundle_of(&key).await? {
                None => wrong.push("it has no bundle".to_owned()),
                Some(made) => {
                    if made.epoch != quorum.epoch {
                        wrong.push(format!("its bundle is of ceremony {}, which is over", made.epoch));
                    }
                    wrong.extend(backups.config.directories.iter().filter_map(|d| compare(d, &made)));
                    let id = LockId::of(&key.public);
                    for (place, table) in &tables {
                        match table {
                            Ok(Some((_, table))) => match table.find(id) {
                                Found::Lock(lock) if lock_mark(lock) == made.lock => {}
                                _ => wrong.push(format!("the vault at {place} does not hold its lock")),
                            },
                            Ok(None) => wrong.push(format!("the vault at {place} does not exist")),
                            Err(refusal) => wrong.push(refusal.sentence.clone()),
                        }
                    }
                }
            }
            rows.push((key.name.to_string(), wrong));
        }
        Ok(rows)
    }

    /// Looks over all backups when it is time, and raises an alarm when something is wrong that was not before.
    // [clause 8.2.2-h] nobody has to remember to look
    pub(super) async fn look_after_backups(&self) {
        let Some(backups) = self.backup.as_ref().filter(|b| b.quorum().is_some()) else { return };
        let now = self.life_now();
        let (due, before) = {
            let seen = self.backups_seen.lock().unwrap_or_else(PoisonError::into_inner);
            let due = seen.at.is_none_or(|at| now >= at.plus(backups.config.verify_ms));
            (due, (seen.wrong.clone(), seen.refused.clone()))
        };
        if !due || self.trusted().is_err() {
            return;
        }
        let (wrong, refused) = match self.looked_over().await {
            Ok(rows) => {
                let first = |(key, wrong): (String, Vec<String>)| Some((key, wrong.into_iter().next()?));
                (rows.into_iter().filter_map(first).collect::<Vec<_>>(), None)
            }
            Err(refusal) => (Vec::new(), Some(refusal.to_string())),
        };
        if let Some(why) = refused.as_ref().filter(|_| before.1 != refused) {
            self.alarm("backup", "all keys", &format!("backups cannot be looked at: {why}")).await;
        } else if !wrong.is_empty() && wrong != before.0 {
            let names: Vec<String> =
                wrong.iter().take(NAMED).map(|(key, what)| format!("{key}: {what}")).collect();
            self.alarm("backup", &format!("{} keys", wrong.len()), &names.join("; ")).await;
        }
        let mut seen = self.backups_seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Seen { at: Some(now), wrong, refused };
    }

    /// Keys that could not be restored from everywhere, as far as it was looked.
    pub(super) fn backups_wrong(&self) -> Option<u64> {
        let seen = self.backups_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let all = || self.backed_up().len() as u64;
        seen.at.map(|_| if seen.refused.is_some() { all() } else { seen.wrong.len() as u64 })
    }

    /// For status.
    pub(super) fn backups_told(&self) -> Value {
        if self.backup.is_none() {
            return Value::Null;
        }
        let seen = self.backups_seen.lock().unwrap_or_else(PoisonError::into_inner);
        json!({
            "looked": seen.at.map(|t| t.to_string()),
            "wrong": seen.wrong.iter().map(|(key, what)| json!({"key": key, "what": what})).collect::<Vec<_>>(),
            "refused": seen.refused,
        })
    }
}
