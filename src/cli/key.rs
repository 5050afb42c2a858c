//! Keys: made, taken over, moved along their lives.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};

use super::arguments::{KeyCommand, Move};
use super::{Failure, Output, import, show};
use crate::config::read_text;

/// Runs one command; `ask` calls the operator's socket.
pub fn run(
    command: KeyCommand,
    socket: &impl Fn() -> Result<PathBuf, Failure>,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    let shown =
        |words: &str, value: Value| Output { text: format!("{words}{}", show::fields(&value)), value };
    let go = |of: Move, to: &str| {
        let value = ask("operator_keyMove", json!({"name": of.name, "to": to, "reason": of.reason}))?;
        Ok(shown("", value))
    };
    match command {
        KeyCommand::Create { name, purpose, algorithm } => {
            let words = json!({"name": name, "purpose": purpose, "algorithm": algorithm});
            Ok(shown("made in the token\n", ask("operator_keyCreate", words)?))
        }
        KeyCommand::Adopt { name, id, purpose } => {
            let words = json!({"name": name, "id": id, "purpose": purpose});
            Ok(shown("taken over\n", ask("operator_keyAdopt", words)?))
        }
        KeyCommand::Import(words) => import::run(&words, &socket()?),
        KeyCommand::Activate(of) => go(of, "active"),
        KeyCommand::Suspend(of) => go(of, "suspended"),
        KeyCommand::SweepOnly(of) => go(of, "sweep-only"),
        KeyCommand::Deactivate(of) => go(of, "deactivated"),
        KeyCommand::Compromise(of) => go(of, "compromised"),
        KeyCommand::Destroy { of, confirm, evidence, signature, waive_balance } => {
            if confirm != of.name {
                return Err(Failure::Usage(format!(
                    "--confirm {confirm} is not {}: nothing was destroyed",
                    of.name
                )));
            }
            let name = of.name.clone();
            // The very bytes that were signed: nothing is trimmed here.
            let read =
                |file: Option<PathBuf>| file.map(|f| read_text(&f).map_err(Failure::plain)).transpose();
            let words = json!({
                "name": of.name, "to": "destroyed", "reason": of.reason, "evidence": read(evidence)?,
                "signature": read(signature)?, "waiver": waive_balance,
            });
            let mut value = ask("operator_keyMove", words)?;
            let copies = ask("operator_keyCopies", json!({"name": name}))?;
            let text = format!("{}{}", show::fields(&value), copies_told(&copies));
            if let Some(map) = value.as_object_mut() {
                map.insert("copies".into(), copies.get("copies").cloned().unwrap_or_default());
            }
            Ok(Output { text, value })
        }
        KeyCommand::DestroyReceipt { name, what, place, how } => {
            let words = json!({"name": name, "what": what, "place": place, "gone": how});
            let value = ask("operator_keyCopy", words)?;
            Ok(Output { text: copies_told(&value), value })
        }
        KeyCommand::Copies { name } => {
            let value = ask("operator_keyCopies", json!({"name": name}))?;
            Ok(Output { text: copies_told(&value), value })
        }
        KeyCommand::Certificate { name } => {
            let value = ask("operator_keyCopies", json!({"name": name}))?;
            match value.get("certificate").and_then(Value::as_str) {
                Some(text) => Ok(Output { text: text.to_owned(), value: json!({"certificate": text}) }),
                None => Err(Failure::Refused(
                    format!("copies of key {name} are left, or it is not destroyed\n{}", copies_told(&value)),
                    value,
                )),
            }
        }
        KeyCommand::Rotate(of) => {
            let value = ask("operator_keyRotate", json!({"name": of.name, "reason": of.reason}))?;
            Ok(shown("the successor is in use\n", value))
        }
        KeyCommand::Due => {
            let value = ask("operator_keysDue", Value::Null)?;
            let rows: Vec<Vec<String>> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(|k| {
                    ["name", "state", "to", "at", "days", "overdue"]
                        .iter()
                        .map(|m| show::text(k, m))
                        .collect()
                })
                .collect();
            let text = show::table(&["NAME", "STATE", "BECOMES", "AT", "DAYS", "OVERDUE"], &rows);
            Ok(Output { text, value })
        }
        KeyCommand::List => {
            let value = ask("operator_keyList", Value::Null)?;
            Ok(Output { text: show::keys(&value), value })
        }
        KeyCommand::Show { name } => Ok(shown("", ask("operator_keyShow", json!({"name": name}))?)),
    }
}

/// A table of copies, and what follows from it.
fn copies_told(value: &Value) -> String {
    let copies: Vec<&Value> = value.get("copies").and_then(Value::as_array).into_iter().flatten().collect();
    let cells = ["what", "place", "due", "overdue", "gone", "by", "how"];
    let rows: Vec<Vec<String>> =
        copies.iter().map(|c| cells.iter().map(|m| show::text(c, m)).collect()).collect();
    let table = show::table(&["WHAT", "PLACE", "DUE", "OVERDUE", "GONE", "BY", "HOW"], &rows);
    let left = copies.iter().filter(|c| c.get("gone").is_none_or(Value::is_null)).count();
    let said = match (value.get("destroying") == Some(&json!(true)), left) {
        (true, _) => format!("being destroyed: {left} of {} copies are left", copies.len()),
        (false, 0) => format!("destroyed: all of {} copies are gone", copies.len()),
        (false, _) => format!("{} copies", copies.len()),
    };
    format!("{table}\n{said}\n")
}
