//! Approving payments: what waits, what it says, a yes or a no.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::arguments::{ApprovalCommand, AuthorityCommand, Voice};
use super::{Failure, Output, show};
use crate::config::read_text;
use crate::core::approval::Authority;

/// Runs one command; `ask` calls the operator's socket.
pub fn run(
    command: ApprovalCommand,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        ApprovalCommand::List => {
            let value = ask("operator_approvals", Value::Null)?;
            let rows: Vec<Vec<String>> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(|w| {
                    // A payment is told by its app and key, a change by its matter and who asked.
                    let (by, about) = match show::text(w, "kind").as_str() {
                        "change" => (show::text(w, "asked_by"), show::text(w, "matter")),
                        _ => (show::text(w, "app"), show::text(w, "key")),
                    };
                    let pick = |m| show::text(w, m);
                    let needs = format!("{} of {}", pick("quorum"), pick("of"));
                    let rests = w.get("waits_seconds").and_then(Value::as_i64).map_or(String::new(), rest);
                    vec![
                        pick("request"),
                        pick("kind"),
                        pick("status"),
                        by,
                        about,
                        needs,
                        pick("approved_by"),
                        rests,
                        pick("expires"),
                    ]
                })
                .collect();
            let heads =
                ["REQUEST", "KIND", "STATUS", "BY", "ABOUT", "NEEDS", "APPROVED BY", "WAITS", "EXPIRES"];
            Ok(Output { text: show::table(&heads, &rows), value })
        }
        ApprovalCommand::Show { request } => {
            let value = ask("operator_approval", json!({"request": request}))?;
            // Exactly the bytes that are signed: the newline that printing adds is the text's own last one.
            let text = show::text(&value, "text");
            Ok(Output { text: text.strip_suffix('\n').unwrap_or(&text).to_owned(), value })
        }
        ApprovalCommand::Approve(voice) => speak(&voice, "approve", ask),
        ApprovalCommand::Withdraw { request } => {
            let value = ask("operator_changeWithdraw", json!({"request": request}))?;
            Ok(Output { text: show::fields(&value), value })
        }
        ApprovalCommand::Reject(voice) => speak(&voice, "reject", ask),
    }
}

/// What is left of a delay: `23h 59m`, `59m 30s`, `30s`.
fn rest(seconds: i64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s}s"),
        (h, m, _) => format!("{h}h {m}m"),
    }
}

/// The people who decide.
pub fn authority(
    command: AuthorityCommand,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        AuthorityCommand::Show => {
            let value = ask("operator_authorityShow", Value::Null)?;
            let text = match value.get("text").and_then(Value::as_str) {
                Some(text) => format!("# sha256 {}\n{text}", show::text(&value, "hash")),
                None => "no authority document is in force".to_owned(),
            };
            Ok(Output { text, value })
        }
        AuthorityCommand::Check { file } => {
            let text = read_text(&file).map_err(|e| Failure::Usage(e.to_string()))?;
            let read = Authority::parse(&text).map_err(|e| {
                Failure::Refused(
                    format!("{}: {e}", file.display()),
                    json!({"valid": false, "why": e.to_string()}),
                )
            })?;
            let value =
                json!({"valid": true, "hash": hex::encode(read.hash()), "people": read.people().len()});
            Ok(Output { text: show::fields(&value), value })
        }
        AuthorityCommand::Apply { file } => {
            let text = read_text(&file).map_err(|e| Failure::Usage(e.to_string()))?;
            let value = ask("operator_authorityApply", json!({"text": text}))?;
            Ok(Output { text: show::fields(&value), value })
        }
    }
}

fn speak(
    voice: &Voice,
    word: &str,
    ask: &impl Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    let signature = match (&voice.signature, &voice.key) {
        (Some(file), _) => read_text(file).map_err(Failure::plain)?,
        (None, Some(key)) => {
            let shown = ask("operator_approval", json!({"request": voice.request}))?;
            let namespace = shown.get("namespaces").map(|n| show::text(n, word)).unwrap_or_default();
            sign(&show::text(&shown, "text"), &namespace, key)?
        }
        (None, None) => {
            return Err(Failure::Usage(
                "name --signature FILE, made with ssh-keygen -Y sign, or --key FILE to make it here".into(),
            ));
        }
    };
    let value = ask("operator_approve", json!({"request": voice.request, "signature": signature}))?;
    Ok(Output { text: show::fields(&value), value })
}

/// Shows the text and has ssh-keygen sign it; that asks for passphrase, PIN and touch by itself.
pub(super) fn sign(text: &str, namespace: &str, key: &Path) -> Result<String, Failure> {
    eprintln!("{text}");
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", namespace, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::Usage(format!("ssh-keygen cannot be started ({e}); install openssh-client")))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(Failure::plain)?;
    }
    let done = child.wait_with_output().map_err(Failure::plain)?;
    if !done.status.success() {
        return Err(Failure::Usage("ssh-keygen did not sign".into()));
    }
    String::from_utf8(done.stdout).map_err(Failure::plain)
}
