//! `claviger backup` and `claviger recover`.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::ceremony::{close, house, officer_pin, read_line};
use super::{Failure, Output, show};
use crate::core::backup::slip39::{Share, ShareError};
use crate::refusal::Code;
use crate::service::ceremony::{identity_of, share_refusal};
use crate::service::recover::{Manner, Progress};

/// Backups.
#[derive(Subcommand)]
pub enum BackupCommand {
    /// Which keys have a bundle.
    List,
    /// Makes a fresh bundle of a key.
    Make {
        /// Its name.
        name: String,
    },
    /// Holds every copy of every bundle, and every place of the vault, against the register.
    Verify,
    /// Tells of a medium that holds the bundle of a key: it has to be gone before the key is called destroyed.
    Note {
        /// The key.
        name: String,
        /// What it is and where, for those who have to find it in years.
        #[arg(long)]
        place: String,
    },
}

/// Recovery.
#[derive(Args)]
pub struct Recover {
    /// Bundles, or directories that hold some. Shares are typed, or read from standard input, a line each.
    #[arg(required = true)]
    bundles: Vec<PathBuf>,
    /// File with the PIN of the token's security officer, where only that one makes keys trusted (PKCS#11).
    #[arg(long)]
    so_pin_file: Option<PathBuf>,
    /// The old token may be in other hands: payment keys that come back pay to what sweep.to lists, and are never active.
    #[arg(long)]
    sweep_only: bool,
}

/// How far a recovery is, on standard error: one line that changes at a terminal, and one now and then elsewhere.
fn teller() -> impl Fn(Progress) + Sync {
    let (began, at_terminal) = (Instant::now(), std::io::stderr().is_terminal());
    let last = Mutex::new(began);
    move |Progress { done, of, restored }| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if at_terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
        if done < of && last.elapsed() < pause {
            return;
        }
        *last = Instant::now();
        let seconds = began.elapsed().as_secs_f64().max(0.001);
        let rate = f64::from(u32::try_from(done).unwrap_or(u32::MAX)) / seconds;
        let left = f64::from(u32::try_from(of.saturating_sub(done)).unwrap_or(u32::MAX)) / rate;
        let line = format!("{done} of {of} bundles, {restored} restored, {rate:.1}/s, {left:.0} s left");
        if at_terminal {
            eprint!("\r\x1b[K{line}{}", if done == of { "\n" } else { "" });
        } else {
            eprintln!("{line}");
        }
    }
}

/// Runs one command; `ask` calls the operator's socket.
pub fn run(
    command: BackupCommand,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        BackupCommand::List => {
            let value = ask("operator_backupList", Value::Null)?;
            let rows = rows(&value, &["key", "state", "backed_up", "epoch", "at", "file"]);
            let table = show::table(&["KEY", "STATE", "BACKED UP", "EPOCH", "AT", "FILE"], &rows);
            let text = format!(
                "quorum {} (ceremony {})\n{table}",
                show::text(&value, "quorum"),
                show::text(&value, "epoch")
            );
            Ok(Output { text, value })
        }
        BackupCommand::Make { name } => {
            let value = ask("operator_backupMake", json!({"name": name}))?;
            Ok(Output { text: format!("made and verified\n{}", show::fields(&value)), value })
        }
        BackupCommand::Note { name, place } => {
            let words = json!({"name": name, "what": "medium", "place": place});
            let value = ask("operator_keyCopy", words)?;
            Ok(Output { text: "noted".into(), value })
        }
        BackupCommand::Verify => {
            let value = ask("operator_backupVerify", Value::Null)?;
            let table = show::table(&["KEY", "OK", "WRONG"], &rows(&value, &["key", "ok", "wrong"]));
            if value.get("ok") == Some(&json!(true)) {
                Ok(Output { text: table, value })
            } else {
                Err(Failure::Refused(format!("not every key could be restored\n{table}"), value))
            }
        }
    }
}

fn rows(value: &Value, members: &[&str]) -> Vec<Vec<String>> {
    let keys = value.get("keys").and_then(Value::as_array).into_iter().flatten();
    keys.map(|k| members.iter().map(|m| show::text(k, m)).collect()).collect()
}

fn bundles(paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let failed = |e: std::io::Error| Failure::Usage(format!("{}: {e}", path.display()));
            for entry in std::fs::read_dir(&path).map_err(failed)? {
                let file = entry.map_err(failed)?.path();
                if file.extension().is_some_and(|e| e == "bundle") {
                    files.push(file);
                }
            }
        } else {
            files.push(path);
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() { Err(Failure::Usage("there is no bundle there".into())) } else { Ok(files) }
}

/// Shares until they are enough. At a terminal a wrong one is typed again; from a script it ends the matter.
fn gather(at_terminal: bool) -> Result<Vec<Share>, Failure> {
    let mut shares: Vec<Share> = Vec::new();
    loop {
        let line = if at_terminal {
            let prompt = format!("share {} (nothing is shown): ", shares.len().saturating_add(1));
            Zeroizing::new(crate::service::read_hidden_line(&prompt).map_err(Failure::plain)?)
        } else {
            read_line()?
        };
        match Share::parse(&line) {
            Ok(share) => shares.push(share),
            Err(error) if at_terminal => {
                // For the custodian's eyes: what was probably meant stands in no log.
                let meant = match error {
                    ShareError::Word { near: Some(word), .. } => format!(" ({word}?)"),
                    _ => String::new(),
                };
                eprintln!("{error}{meant}: type it again");
                continue;
            }
            Err(error) => return Err(share_refusal(&error).into()),
        }
        match identity_of(&shares) {
            Ok(_) => return Ok(shares),
            Err(refusal) if refusal.code == Code::SharesLacking => {}
            Err(refusal) if at_terminal => {
                eprintln!("{}: the last one is left out", refusal.sentence);
                shares.pop();
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

/// Restores keys into the token of a configuration. The daemon is stopped meanwhile.
pub fn recover(words: Recover, config_file: &Path) -> Result<Output, Failure> {
    let files = bundles(words.bundles)?;
    let officer = officer_pin(words.so_pin_file)?;
    let mut opened = house(config_file)?;
    let outcome = (|| {
        opened.runtime.block_on(opened.house.settled())?;
        let shares = gather(std::io::stdin().is_terminal())?;
        let identity = identity_of(&shares)?;
        let uid = crate::service::effective_uid();
        Ok::<Value, Failure>(opened.runtime.block_on(opened.house.recover(
            &identity,
            &shares,
            &files,
            officer.as_ref(),
            (Manner { sweep_only: words.sweep_only }, uid),
            &teller(),
        ))?)
    })();
    close(&mut opened);
    let value = outcome?;
    let table: Vec<Vec<String>> = value
        .get("bundles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|b| {
            let key = b.get("key").cloned().unwrap_or_default();
            vec![
                show::text(b, "file"),
                if b.get("there") == Some(&json!(true)) { "there".into() } else { show::text(b, "restored") },
                show::text(&key, "name"),
                show::text(&key, "account"),
                show::text(b, "sentence"),
            ]
        })
        .collect();
    let table = show::table(&["FILE", "RESTORED", "KEY", "ACCOUNT", "WHY NOT"], &table);
    let count = |name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let (restored, there, of) = (count("restored"), count("there"), count("of"));
    let next = if words.sweep_only { "sweep-only" } else { "activate" };
    let text = format!(
        "{table}\n{restored} of {of} came back, {there} were there already; each signed a challenge in the token, and is suspended until people start it again: claviger key {next} NAME"
    );
    if restored + there == of { Ok(Output { text, value }) } else { Err(Failure::Refused(text, value)) }
}
