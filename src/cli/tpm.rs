//! `claviger tpm`: seals the PIN in this machine's TPM, looks whether it would open, makes it useless.
//!
//! Speaks to the TPM itself, without the daemon: after a boot that changed, there is no daemon to ask.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::arguments::TpmCommand;
use super::{Failure, Output, show};
use crate::config::PinSource;
use crate::secret::Pin;
use crate::service::pin;

/// Runs one of the commands.
pub fn run(command: TpmCommand) -> Result<Output, Failure> {
    match command {
        TpmCommand::Seal { out, tcti, nv_index, pin_file } => {
            pin::available()?;
            let value = pin::seal(&ask(pin_file)?, &tcti, nv_index, &out)?;
            let text = format!("the PIN is sealed\n{}\n{}", show::fields(&value), advice(&value));
            Ok(Output { text, value })
        }
        TpmCommand::Raise { nv_index, tcti } => {
            let value = pin::raise(&tcti, nv_index)?;
            let text =
                format!("what was sealed to the counter before stays closed\n{}", show::fields(&value));
            Ok(Output { text, value })
        }
        TpmCommand::Check { file, tcti } => {
            pin::check(&file, &tcti)?;
            let text = format!("{} would open", file.display());
            Ok(Output { text, value: json!({"file": file, "opens": true}) })
        }
    }
}

fn advice(told: &Value) -> String {
    let blank: Vec<String> = told
        .get("blank_pcrs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    if blank.is_empty() {
        "keep the PIN itself away from this machine: after a change of firmware or kernel it is needed again"
            .into()
    } else {
        format!(
            "nothing was measured into PCR {}: a thief who starts another system on this machine gets the PIN; switch Secure Boot on, start a unified kernel image, and seal again",
            blank.join(" and ")
        )
    }
}

/// A PIN that was mistyped would be tried at each start until the token locks itself: so it is asked for twice.
fn ask(file: Option<PathBuf>) -> Result<Pin, Failure> {
    if let Some(pin) = file.map_or(PinSource::Unlock, PinSource::File).read().map_err(Failure::plain)? {
        return Ok(pin);
    }
    let line = |prompt| {
        let text = crate::service::read_hidden_line(prompt).map_err(|e| {
            Failure::Usage(format!("the PIN cannot be asked for here ({e}); name --pin-file"))
        })?;
        Pin::new(text).ok_or_else(|| Failure::Usage("the PIN is empty".into()))
    };
    let (first, again) = (line("PIN of the token: ")?, line("once more: ")?);
    if bool::from(first.expose().ct_eq(again.expose())) {
        Ok(first)
    } else {
        Err(Failure::Usage("these were two different PINs; nothing was sealed".into()))
    }
}
