//! Duties: read by those whom they bind, and acknowledged.
#![forbid(unsafe_code)]

use clap::Subcommand;
use serde_json::{Value, json};

use super::user::secret;
use super::{Failure, Output, show};

/// Duties.
#[derive(Subcommand)]
pub enum DutiesCommand {
    /// Shows them.
    Show {
        /// Who acknowledged them and who did not (operators).
        #[arg(long)]
        all: bool,
    },
    /// Acknowledges them: for yourself, with your PIN, or as an operator for an app.
    Ack {
        /// The app.
        #[arg(long)]
        app: Option<String>,
    },
}

type Ask<'a> = &'a dyn Fn(&str, Value) -> Result<Value, Failure>;

/// The duties as operators see them.
fn all(ask: Ask<'_>) -> Result<Value, Failure> {
    let duties = ask("operator_governance", Value::Null)?.get("duties").cloned().unwrap_or_default();
    if duties.is_null() { Err(Failure::plain("no duties are in force")) } else { Ok(duties) }
}

/// Who acknowledged them, a line each.
pub(super) fn told(duties: &Value) -> String {
    let list = |member| duties.get(member).and_then(Value::as_array).cloned().unwrap_or_default();
    let line = |who: Value, word: &str| format!("{word} {}\n", who.as_str().unwrap_or_default());
    let known = list("acknowledged").into_iter().map(|w| line(w, "acknowledged by"));
    known.chain(list("missing").into_iter().map(|w| line(w, "NOT acknowledged by"))).collect()
}

/// Runs one command; `ask` calls the operator's socket, `own` the user's.
pub fn run(command: DutiesCommand, ask: Ask<'_>, own: Ask<'_>) -> Result<Output, Failure> {
    match command {
        DutiesCommand::Show { all: true } => {
            let value = all(ask)?;
            Ok(Output { text: format!("{}\n\n{}", show::text(&value, "text"), told(&value)), value })
        }
        DutiesCommand::Show { all: false } => {
            let value = own("user_duties", Value::Null)?;
            let done = value.get("acknowledged") == Some(&json!(true));
            let word = if done { "you acknowledged them" } else { "not acknowledged: claviger duties ack" };
            Ok(Output { text: format!("{}\n\n{word}", show::text(&value, "text")), value })
        }
        DutiesCommand::Ack { app: Some(app) } => {
            let shown = all(ask)?;
            eprintln!("{}", show::text(&shown, "text"));
            let value = ask("operator_dutiesAck", json!({"app": app, "duties": show::text(&shown, "hash")}))?;
            Ok(Output { text: show::fields(&value), value })
        }
        DutiesCommand::Ack { app: None } => {
            let shown = own("user_duties", Value::Null)?;
            eprintln!("{}", show::text(&shown, "text"));
            let pin = secret("PIN, if you have read this and answer for it: ")?;
            let value = own("user_acknowledge", json!({"duties": show::text(&shown, "hash"), "pin": *pin}))?;
            Ok(Output { text: show::fields(&value), value })
        }
    }
}
