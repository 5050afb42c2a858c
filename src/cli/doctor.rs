//! `claviger doctor`: finds what is misconfigured and says how to mend it. Changes nothing.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use super::{Failure, Output, client, policy, show};
use crate::config::{Config, PinSource, read_text};
use crate::core::user::Users;
use crate::service::{pin, start};

struct Findings(Vec<(bool, &'static str, String)>);

impl Findings {
    fn good(&mut self, what: &'static str, sentence: impl Into<String>) {
        self.0.push((true, what, sentence.into()));
    }
    fn bad(&mut self, what: &'static str, sentence: impl Into<String>) {
        self.0.push((false, what, sentence.into()));
    }
    fn judge<T, E: std::fmt::Display>(
        &mut self,
        what: &'static str,
        outcome: Result<T, E>,
        good: impl Into<String>,
        mend: &str,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.good(what, good);
                Some(value)
            }
            Err(e) => {
                self.bad(what, format!("{e}; {mend}"));
                None
            }
        }
    }
}

/// Looks at everything.
pub fn run(config_file: &Path) -> Result<Output, Failure> {
    let mut found = Findings(Vec::new());
    let loaded = Config::load(config_file);
    if let Some(config) =
        found.judge("configuration", loaded, config_file.display().to_string(), "make one with claviger init")
    {
        look(&mut found, &config);
    }
    let rows: Vec<Vec<String>> = found
        .0
        .iter()
        .map(|(good, what, sentence)| {
            vec![if *good { "ok" } else { "MEND" }.to_owned(), (*what).to_owned(), sentence.clone()]
        })
        .collect();
    let value: Vec<Value> = found
        .0
        .iter()
        .map(|(good, what, sentence)| json!({"ok": good, "what": what, "sentence": sentence}))
        .collect();
    let text = show::table(&["", "WHAT", "FOUND"], &rows);
    if found.0.iter().all(|(good, ..)| *good) {
        Ok(Output { text, value: json!(value) })
    } else {
        Err(Failure::Refused(format!("some things want mending\n{text}"), json!(value)))
    }
}

fn look(found: &mut Findings, config: &Config) {
    let rules = read_text(&config.policy_file)
        .map_err(|e| e.to_string())
        .and_then(|t| policy::read(&t, &config.policy_file, config.authority_file.as_deref()));
    found.judge(
        "policy",
        rules,
        config.policy_file.display().to_string(),
        "read it with claviger policy check",
    );
    // What is in force where the daemon tells: a manifest may say more than the file.
    let apps = super::app::registered(config);
    if let Some(apps) = found.judge("apps", apps, config.apps_file.display().to_string(), "mend apps.toml") {
        for app in apps.all() {
            match super::app::as_registered(app) {
                Ok(true) => {
                    found.good("app", format!("{} is the executable that was registered", app.id));
                }
                Ok(false) => found.bad(
                    "app",
                    format!(
                        "{}: {} has changed since it was registered; look why, then claviger app update",
                        app.id,
                        app.path.display()
                    ),
                ),
                Err(e) => found.bad("app", format!("{}: {}: {e}", app.id, app.path.display())),
            }
        }
    }
    if let Some(file) = &config.users_file {
        let users = read_text(file)
            .map_err(|e| e.to_string())
            .and_then(|t| Users::parse(&t).map_err(|e| e.to_string()));
        found.judge("users", users, file.display().to_string(), "see config/users.toml");
    }
    state(found, config);
    match &config.token.pin {
        PinSource::Credential(name) => {
            found.good("PIN", format!("comes as the credential {name} from the service manager"));
        }
        PinSource::Unlock => found.good("PIN", "comes by claviger unlock after each start"),
        PinSource::Tpm { file, tcti } => {
            let opens = pin::check(file, tcti).map_err(|r| format!("{r}; {}", r.code.advice()));
            found.judge("PIN", opens, "is sealed, and the TPM would open it", "see claviger tpm check");
        }
        PinSource::File(_) => {
            found.judge("PIN", config.token.pin.read(), "the PIN file is private", "see the advice above");
        }
    }
    found.judge(
        "token",
        start::backend(&config.token).map_err(|r| r.sentence),
        config.token.profile.clone(),
        "install the module, or set token.module",
    );
    match client::call(&config.operator.path, "operator_status", Value::Null) {
        Ok(status) => {
            for note in status.get("not_in_force").and_then(Value::as_array).into_iter().flatten() {
                let why = note.as_str().unwrap_or_default();
                found.bad("rules", format!("{why}; claviger reload asks the people for it"));
            }
            let token = status.get("token").cloned().unwrap_or_default();
            attestation(found, status.get("attestation").unwrap_or(&Value::Null));
            let word = show::text(&token, "state");
            if word == "usable" {
                found.good("daemon", "answers, and the token is usable");
                token_of(found, config, &token);
                state_of(found, &status.get("state").cloned().unwrap_or_default());
            } else {
                found.bad(
                    "daemon",
                    format!("answers, but the token is {word}: {}", show::text(&token, "reason")),
                );
            }
        }
        Err(e) => found.bad("daemon", e.to_string()),
    }
}

/// What the daemon can see of those who ask. Less than everything is no fault: apps say which tier they must reach.
fn attestation(found: &mut Findings, told: &Value) {
    let lacks: Vec<&str> =
        told.get("lacks").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let level = format!("level {} of {}", show::text(told, "level"), show::text(told, "of"));
    if lacks.is_empty() {
        found.good("attestation", format!("{level}: every check of an app can be made"));
    } else {
        found.good("attestation", format!("{level}; lacking {}", lacks.join("; lacking ")));
    }
}

/// What the token was found to be, and whether it holds what is registered and nothing else.
fn token_of(found: &mut Findings, config: &Config, token: &Value) {
    if token.get("payment") == Some(&json!(true)) {
        found.good("token", "was tried: payment keys may live in it");
    } else {
        found.bad("token", format!("payment keys are refused: {}", show::text(token, "payment_refused")));
    }
    if token.get("profile_tested") != Some(&json!(true)) {
        found.good(
            "profile",
            "was not tested by the project with this vendor's device; claviger token check tries it",
        );
    }
    match client::call(&config.operator.path, "operator_inventory", Value::Null) {
        Ok(told) if told.get("equal") == Some(&json!(true)) => {
            found.good("inventory", format!("the token's {} objects are the registered keys", show::text(&told, "objects")));
        }
        Ok(told) => found.bad(
            "inventory",
            format!(
                "missing in the token: {}; strangers in it: {}; take them over with claviger key adopt, or remove them",
                show::text(&told, "missing"),
                show::text(&told, "strangers")
            ),
        ),
        Err(Failure::Refused(why, _)) => found.bad("inventory", why),
        Err(_) => {}
    }
}

/// Whether the state directory is the one that was left, and how that is known.
fn state_of(found: &mut Findings, told: &Value) {
    match show::text(told, "standing").as_str() {
        "confirmed" => {}
        "refused" => {
            let (why, advice) = (show::text(told, "reason"), show::text(told, "advice"));
            return found.bad("state", format!("nothing is signed: {why}; {advice}"));
        }
        other => return found.bad("state", format!("is {other}: the token has not been asked yet")),
    }
    if told.get("sealed") == Some(&json!(true)) {
        found.good("seal", "every commit is sealed under a key in the token");
    } else {
        let why = show::text(told, "unsealed_because");
        found.bad(
            "seal",
            format!("who can write the database can rewrite what no checkpoint signs yet: {why}"),
        );
    }
    let anchor = told.get("anchor").cloned().unwrap_or_default();
    let (mode, why) = (show::text(&anchor, "mode"), show::text(&anchor, "reason"));
    match (mode.as_str(), anchor.get("kept") == Some(&json!(true)), anchor.get("reason")) {
        ("none", ..) => found.good("anchor", "anchor.mode is none: an older copy that is put back is not found"),
        (_, true, Some(Value::Null)) => found.good("anchor", "the token knows how long the log is"),
        (_, true, _) => found.bad("anchor", format!("the token was not told how long the log is: {why}")),
        _ => found.bad(
            "anchor",
            format!("an older copy that is put back is not found ({why}); make room in the token, or set anchor.mode = \"none\" to say so"),
        ),
    }
}

fn state(found: &mut Findings, config: &Config) {
    match std::fs::metadata(&config.state_dir) {
        Err(e) => found.bad("state", format!("{}: {e}", config.state_dir.display())),
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            found.bad("state", format!("{} can be read by others: chmod 0700", config.state_dir.display()));
        }
        Ok(_) => match crate::service::file_system_magic(&config.state_dir) {
            Ok(0x0102_1994 | 0x8584_58f6) => found.bad(
                "state",
                format!("{} is in memory: it does not survive power loss", config.state_dir.display()),
            ),
            Ok(_) => found.good("state", config.state_dir.display().to_string()),
            Err(e) => found.bad("state", e.to_string()),
        },
    }
}
