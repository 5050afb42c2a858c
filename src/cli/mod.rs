//! The command line for operators. Human tables by default, one JSON document with `--json`.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the daemon cannot be reached.
#![forbid(unsafe_code)]

pub mod app;
pub mod approval;
pub mod arguments;
pub mod audit;
pub mod backup;
pub mod ceremony;
pub mod client;
pub mod commands;
pub mod device;
mod doctor;
pub mod duties;
pub mod import;
pub mod incident;
pub mod key;
pub mod log;
pub mod order;
pub mod payment;
pub mod policy;
pub mod show;
pub mod tpm;
pub mod user;
pub mod witness;

use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use arguments::Arguments;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused, or done and found wrong. The value is what `--json` prints.
    #[error("{0}")]
    Refused(String, Value),
    /// The words of the command are off.
    #[error("{0}")]
    Usage(String),
    /// The daemon cannot be reached.
    #[error("{0}")]
    Unreachable(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Refused(..) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        }
    }

    /// A failure with nothing more to say than its sentence.
    pub fn plain(sentence: impl std::fmt::Display) -> Self {
        Self::Refused(sentence.to_string(), Value::Null)
    }
}

impl From<crate::refusal::Refusal> for Failure {
    fn from(refusal: crate::refusal::Refusal) -> Self {
        let mut data = refusal.data();
        if let Some(map) = data.as_object_mut() {
            map.insert("sentence".into(), json!(refusal.sentence));
        }
        Self::Refused(format!("{}\n  advice: {}", refusal, refusal.code.advice()), data)
    }
}

/// What a command has to say: the same facts for programs and for people.
pub struct Output {
    /// For `--json`.
    pub value: Value,
    /// For people.
    pub text: String,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let as_json = arguments.json;
    match commands::run(arguments) {
        Ok(output) if as_json => print(&format!("{:#}", output.value)),
        Ok(output) => print(output.text.trim_end()),
        Err(failure) => {
            if as_json {
                let data = match &failure {
                    Failure::Refused(_, data) => data.clone(),
                    Failure::Usage(_) | Failure::Unreachable(_) => Value::Null,
                };
                print(&format!("{:#}", json!({"error": failure.to_string(), "data": data})));
            }
            eprintln!("claviger: {failure}");
            return ExitCode::from(failure.code());
        }
    }
    ExitCode::SUCCESS
}

/// A closed pipe (`claviger … | head`) is no error worth a panic.
fn print(text: &str) {
    use std::io::Write;
    if !text.is_empty() && writeln!(std::io::stdout(), "{text}").is_err() {
        std::io::stdout().flush().ok();
    }
}
