//! `claviger-verify`: checks what was exported, where neither the daemon nor its database nor its token is.
//!
//! Exit codes: 0 nothing is wrong, 1 something is, 2 it cannot be read.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use super::{print, show};
use crate::core::key::copies;
use crate::core::log::audit::{Finding, Holdings, Report, audit};
use crate::core::log::checkpoint::{Note, NoteKey, cosigners};
use crate::core::log::entry::Entry;
use crate::core::log::proof::Bundle;

/// Longest file of keys, notes or texts, bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// Most findings that people are shown; `--json` has all of them.
const SHOWN: usize = 200;

/// Checks an exported log of clavigerd, or a proof of one entry: signatures, hashes, and whether the story can be true.
#[derive(Parser)]
#[command(
    name = "claviger-verify",
    version,
    about,
    after_help = "Exit codes: 0 nothing is wrong, 1 something is, 2 it cannot be read."
)]
struct Arguments {
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a directory that `claviger log export` wrote.
    Log(LogWords),
    /// Checks what `claviger log prove` printed: that one entry is in the log.
    Proof(ProofWords),
    /// Checks what `claviger key certificate` printed: that a key was destroyed, with every copy.
    Certificate(CertificateWords),
}

/// What a certificate is held against.
#[derive(Args)]
struct CertificateWords {
    /// The certificate.
    file: PathBuf,
    /// File with the log's verifier key, from a place that you trust.
    #[arg(long, required = true)]
    key: Vec<PathBuf>,
}

/// What a proof is held against.
#[derive(Args)]
struct ProofWords {
    /// The proof.
    file: PathBuf,
    /// File with the log's verifier key, from a place that you trust.
    #[arg(long, required = true)]
    key: Vec<PathBuf>,
    /// File with keys of witnesses, a line each.
    #[arg(long)]
    witness: Vec<PathBuf>,
    /// How many witnesses must have cosigned; all that are named when absent.
    #[arg(long)]
    quorum: Option<usize>,
}

/// What a log is held against.
#[derive(Args, Default)]
pub struct LogWords {
    /// The directory.
    pub dir: PathBuf,
    /// File with the log's verifier key, from a place that you trust; several lines or files for several keys.
    #[arg(long, required = true)]
    pub key: Vec<PathBuf>,
    /// A checkpoint that you kept: what it signed must still be there.
    #[arg(long)]
    pub since: Vec<PathBuf>,
    /// File with keys of witnesses, a line each.
    #[arg(long)]
    pub witness: Vec<PathBuf>,
    /// How many witnesses must have cosigned; all that are named when absent.
    #[arg(long)]
    pub quorum: Option<usize>,
    /// A policy, key policy, authority or list of apps that was in force and may not stand in the log.
    #[arg(long)]
    pub text: Vec<PathBuf>,
    /// What the log does not hold enough for counts as wrong.
    #[arg(long)]
    pub strict: bool,
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let told = |e: std::io::Error| format!("{}: {e}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(told)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(told)?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("{} is larger than {MAX_FILE} bytes", path.display()));
    }
    Ok(text)
}

fn named(path: &Path) -> Result<(String, String), String> {
    Ok((path.display().to_string(), read(path)?))
}

/// Keys of some files: a line each, `#` before what is for people.
pub fn keys(files: &[PathBuf], witnesses: bool) -> Result<Vec<NoteKey>, String> {
    let mut keys = Vec::new();
    for file in files {
        for line in read(file)?.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let key = NoteKey::parse(line).map_err(|e| format!("{}: {e}", file.display()))?;
            if key.is_witness() != witnesses {
                let what = if witnesses { "no witness" } else { "a witness, and no log" };
                return Err(format!("{}: {} is the key of {what}", file.display(), key.name()));
            }
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Reads what is asked for, and checks it.
pub fn log(words: &LogWords) -> Result<Report, String> {
    let witnesses = keys(&words.witness, true)?;
    let quorum = words.quorum.unwrap_or(witnesses.len());
    let holdings = Holdings {
        keys: keys(&words.key, false)?,
        since: words.since.iter().map(|p| named(p)).collect::<Result<_, _>>()?,
        witnesses,
        quorum,
        texts: words.text.iter().map(|p| read(p)).collect::<Result<_, _>>()?,
    };
    if holdings.keys.is_empty() {
        return Err("no key of the log was given".into());
    }
    let file = |name: &str| -> std::io::Result<Option<Vec<u8>>> {
        // Names come from the layout, never from the log's content.
        match std::fs::read(words.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    audit(&file, &holdings).map_err(|e| format!("{}: {e}", words.dir.display()))
}

fn listed(title: &str, findings: &[Finding]) -> String {
    let mut text = format!("{title}: {}\n", findings.len());
    for f in findings.iter().take(SHOWN) {
        let place = f.entry.map_or("the log".to_owned(), |index| format!("entry {index}"));
        text.push_str(&format!("  {place}: {} ({}, clause {})\n", f.what, f.rule, f.clause));
    }
    if findings.len() > SHOWN {
        text.push_str(&format!("  and {} more; --json has all\n", findings.len() - SHOWN));
    }
    text
}

/// What is said of a log, for people and for programs.
#[must_use]
pub fn told(report: &Report, strict: bool) -> (String, Value) {
    let good = report.breaches.is_empty() && (report.unproven.is_empty() || !strict);
    let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
    let mut text = if good { "the log verifies\n" } else { "the log does NOT verify\n" }.to_owned();
    if !report.breaches.is_empty() {
        text.push_str(&listed("wrong", &report.breaches));
    }
    if !report.unproven.is_empty() {
        text.push_str(&listed("not shown, since the log does not hold enough for it", &report.unproven));
    }
    if let Some(map) = value.as_object_mut() {
        let lists = ["breaches", "unproven"].map(|name| map.remove(name));
        text.push_str(&show::fields(&Value::Object(map.clone())));
        for (name, list) in ["breaches", "unproven"].into_iter().zip(lists) {
            map.insert(name.into(), list.unwrap_or_default());
        }
        map.insert("verified".into(), json!(good));
    }
    (text, value)
}

/// Checks a proof of one entry.
fn proof(words: &ProofWords) -> Result<(String, Value), String> {
    let text = read(&words.file)?;
    let bundle = Bundle::parse(&text).map_err(|e| format!("{}: {e}", words.file.display()))?;
    let (keys, witnesses) = (keys(&words.key, false)?, keys(&words.witness, true)?);
    let quorum = words.quorum.unwrap_or(witnesses.len());
    let failed =
        |why: String| (format!("the proof does NOT verify: {why}"), json!({"verified": false, "why": why}));
    let (note, head) = match bundle.verify() {
        Ok(shown) => shown,
        Err(e) => return Ok(failed(e.to_string())),
    };
    if !keys.iter().any(|key| key.name() == head.origin && key.signed(&note)) {
        return Ok(failed(format!("no key that was given signed the checkpoint of {}", head.origin)));
    }
    let cosigners = cosigners(&witnesses, &note);
    if cosigners.len() < quorum {
        return Ok(failed(format!("{} witnesses cosigned it, and {quorum} must", cosigners.len())));
    }
    let entry =
        Entry::decode(&bundle.entry).and_then(|e| serde_json::to_value(e).map_err(|e| e.to_string()))?;
    let value = json!({
        "verified": true, "origin": head.origin, "index": bundle.index, "size": head.size, "entry": entry,
        "cosigned_by": cosigners,
    });
    let text = format!(
        "entry {} of the {} entries of {}, as they were signed:\n{entry:#}",
        bundle.index, head.size, head.origin
    );
    Ok((text, value))
}

/// Checks a certificate of destruction.
// [clause 8.7.1-p] it is worth what the key of the log is worth, without the daemon
fn certificate(words: &CertificateWords) -> Result<(String, Value), String> {
    let text = read(&words.file)?;
    let keys = keys(&words.key, false)?;
    let failed = |why: &str| {
        (format!("the certificate does NOT verify: {why}"), json!({"verified": false, "why": why}))
    };
    let Ok(note) = Note::parse(&text) else { return Ok(failed("it is no signed note")) };
    if !keys.iter().any(|key| copies::told(note.text, "log") == Some(key.name()) && key.signed(&note)) {
        return Ok(failed("no key that was given signed it, or it is about another log"));
    }
    if !copies::is_certificate(note.text) {
        return Ok(failed("what is signed is no certificate of destruction"));
    }
    let said = |name: &str| copies::told(note.text, name).unwrap_or_default();
    let value = json!({
        "verified": true, "log": said("log"), "key": said("key"), "public": said("public"),
        "destroyed": said("destroyed"), "copies": said("copies"),
    });
    Ok((format!("the certificate verifies\n\n{}", note.text), value))
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let Arguments { json, command } = Arguments::parse();
    let outcome = match &command {
        Command::Proof(words) => proof(words),
        Command::Certificate(words) => certificate(words),
        Command::Log(words) => log(words).map(|report| told(&report, words.strict)),
    };
    let (text, value) = match outcome {
        Ok(told) => told,
        Err(why) => {
            if json {
                print(&format!("{:#}", json!({"error": why})));
            }
            eprintln!("claviger-verify: {why}");
            return ExitCode::from(2);
        }
    };
    print(if json { format!("{value:#}") } else { text }.trim_end());
    if value.get("verified") == Some(&json!(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
