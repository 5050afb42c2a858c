//! `claviger incident`: stops everything, keeps what is known, verifies what was kept.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Failure, Output, log, show};
use crate::config::read_text;
use crate::core::order::Evidence;

const DOCUMENT: &str = "evidence.json";
/// Longest document that is read, bytes.
const LONGEST: u64 = 64 * 1024 * 1024;
const NOTE: &str = "evidence.note";

/// Incidents (docs/runbook.md).
#[derive(Subcommand)]
pub enum IncidentCommand {
    /// Stops everything at once. Starting again takes those whom the authority document names.
    Open {
        /// One line, for those who come after.
        #[arg(long)]
        reason: String,
    },
    /// Writes what is known: status, device, apps, refusals, payments, signed by the key of the log, and the log itself.
    Evidence {
        /// A directory that is empty or not there.
        dir: PathBuf,
    },
    /// Verifies what evidence wrote, without the daemon.
    Verify {
        /// The directory.
        dir: PathBuf,
        /// File with the verifier key of the log, from a place that you trust.
        #[arg(long)]
        key: PathBuf,
    },
    /// Ends the incident, where nobody is named who starts again; else see claviger order challenge.
    Close {
        /// One line, for those who read the log in years.
        #[arg(long)]
        reason: String,
    },
}

/// Runs one command; `ask` calls the operator's socket.
pub fn run(
    command: IncidentCommand,
    socket: impl Fn() -> Result<PathBuf, Failure>,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        IncidentCommand::Open { reason } => {
            let value = ask("operator_incidentOpen", json!({"reason": reason}))?;
            let text = format!(
                "nothing is signed any more; keep what is known: claviger incident evidence DIR\n{}",
                show::fields(&value)
            );
            Ok(Output { text, value })
        }
        IncidentCommand::Evidence { dir } => evidence(&dir, &socket()?, ask),
        IncidentCommand::Verify { dir, key } => verify(&dir, &key),
        IncidentCommand::Close { reason } => {
            let value = ask("operator_incidentClose", json!({"reason": reason}))?;
            Ok(Output { text: show::fields(&value), value })
        }
    }
}

fn evidence(
    dir: &Path,
    socket: &Path,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    if dir.exists() && fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some()) {
        return Err(Failure::plain(format!("{} is not empty", dir.display())));
    }
    let told = ask("operator_incidentEvidence", Value::Null)?;
    let failed = |e: std::io::Error| Failure::plain(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    for (name, member) in [(DOCUMENT, "document"), (NOTE, "note"), ("checkpoint", "checkpoint")] {
        fs::write(dir.join(name), show::text(&told, member)).map_err(failed)?;
    }
    let logged = log::export(socket, &dir.join("log"))?;
    let value = json!({"dir": dir, "log": logged.value});
    let text = format!(
        "{0}/{DOCUMENT}, {0}/{NOTE}, {0}/log\nverify with: claviger incident verify {0} --key FILE",
        dir.display()
    );
    Ok(Output { text, value })
}

/// A bounded read: it comes from elsewhere.
fn document(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let failed = |e: std::io::Error| Failure::plain(format!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(failed)?.take(LONGEST).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn verify(dir: &Path, key: &Path) -> Result<Output, Failure> {
    let failed = |why: String| {
        Failure::Refused(
            format!("the evidence does NOT verify: {why}"),
            json!({"verified": false, "why": why}),
        )
    };
    let read = |path: &Path| read_text(path).map_err(|e| Failure::plain(e.to_string()));
    let vkey = read(key)?;
    let document = document(&dir.join(DOCUMENT))?;
    let (note, head) = (read(&dir.join(NOTE))?, read(&dir.join("checkpoint"))?);
    let (said, head) = Evidence::verify(&note, &document, &head, vkey.trim()).map_err(failed)?;
    log::verify(&dir.join("log"), Some(&key.to_owned()))?;
    let value = json!({
        "verified": true,
        "incident": said.incident,
        "document": said.document,
        "at": said.at.to_string(),
        "log": head.origin,
        "log_size": said.size,
    });
    Ok(Output { text: format!("the evidence and the log verify\n{}", show::fields(&value)), value })
}
