//! `claviger device`: what is known about the machine, and what its TPM says of it.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::arguments::DeviceCommand;
use super::{Failure, Output, show};
use crate::config::read_text;
use crate::core::device::quote::Quote;

/// Runs one command.
pub fn run(
    command: DeviceCommand,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        DeviceCommand::Facts => facts(&ask("operator_deviceFacts", Value::Null)?),
        DeviceCommand::Quote { nonce } => {
            let value = ask("operator_deviceQuote", json!({"nonce": nonce}))?;
            let text = serde_json::to_string_pretty(&value).map_err(Failure::plain)?;
            Ok(Output { text, value })
        }
        DeviceCommand::VerifyQuote { file, nonce, key } => {
            let text = read_text(&file).map_err(|e| Failure::Usage(e.to_string()))?;
            let quote: Quote = serde_json::from_str(&text)
                .map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
            let nonce = hex::decode(&nonce).map_err(|_| Failure::Usage("the nonce is hex".into()))?;
            let judged = quote.judge(&nonce, key.as_deref()).map_err(|e| {
                Failure::Refused(format!("the quote is worth nothing: {e}"), json!({"why": e.to_string()}))
            })?;
            let mut text = format!("the quote verifies\n{}", show::fields(&json!(judged)));
            if key.is_none() {
                text.push_str(
                    "note: the key was taken from the quote itself; name the one that you trust with --key\n",
                );
            }
            let rows: Vec<Vec<String>> = quote
                .facts
                .iter()
                .map(|f| vec![f.name.as_str().to_owned(), f.verdict.as_str().to_owned(), f.found.clone()])
                .collect();
            text.push_str(&show::table(&["FACT", "VERDICT", "FOUND"], &rows));
            Ok(Output { text, value: json!({"judged": judged, "facts": quote.facts, "pcrs": quote.pcrs}) })
        }
    }
}

fn facts(value: &Value) -> Result<Output, Failure> {
    let columns = ["name", "verdict", "demand", "found", "advice"];
    let rows: Vec<Vec<String>> = value
        .get("facts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|f| columns.iter().map(|m| show::text(f, m)).collect())
        .collect();
    let text = show::table(&["FACT", "VERDICT", "DEMAND", "FOUND", "WHAT TO DO"], &rows);
    if value.get("fit") == Some(&json!(true)) {
        Ok(Output { text, value: value.clone() })
    } else {
        Err(Failure::Refused(format!("nothing is signed on this machine as it is\n{text}"), value.clone()))
    }
}
