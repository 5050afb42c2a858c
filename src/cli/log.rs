//! `claviger log`: show, export, prove, verify. Verification needs neither the daemon nor its database.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{Failure, Output, audit, client, show};
use crate::core::log::export;

/// Shows entries.
pub fn show(socket: &Path, from: i64, count: u64) -> Result<Output, Failure> {
    let reply = client::call(socket, "operator_logShow", json!({"from": from, "count": count}))?;
    let entries: Vec<Value> = reply
        .get("entries")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|e| serde_json::from_str(e.as_str()?).ok())
        .collect();
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    Ok(Output {
        text: show::table(&["INDEX", "TIME", "KIND", "APP", "KEY", "WHAT"], &rows),
        value: json!({"size": reply.get("size"), "entries": entries}),
    })
}

fn row(entry: &Value) -> Vec<String> {
    let pick = |m| show::text(entry, m);
    let what = match pick("kind").as_str() {
        "intent" => format!(
            "rule {} {}",
            pick("rule"),
            short(&entry.get("act").map(Value::to_string).unwrap_or_default())
        ),
        "refusal" | "failed" => format!("{}: {}", pick("code"), short(&pick("sentence"))),
        "policy" => format!("{} {}", short(&pick("hash")), pick("class")),
        "key-created" => pick("algorithm"),
        "user" => {
            let parts = ["event", "user", "what", "step", "why", "request"].map(pick);
            parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" ")
        }
        _ => short(&pick("request")),
    };
    vec![pick("seq"), pick("at"), pick("kind"), pick("app"), pick("key"), what]
}

fn short(text: &str) -> String {
    if text.chars().count() > 110 {
        format!("{}…", text.chars().take(110).collect::<String>())
    } else {
        text.to_owned()
    }
}

/// Every checkpoint before the newest.
fn checkpoints(socket: &Path, size: u64) -> Result<String, Failure> {
    let (mut text, mut from) = (String::new(), 0);
    while from < size {
        let page = client::call(socket, "operator_logCheckpoints", json!({"from": from}))?;
        let page = page.get("checkpoints").and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(last) = page.last().and_then(|c| c.get("size")).and_then(Value::as_u64) else { break };
        for checkpoint in &page {
            if checkpoint.get("size").and_then(Value::as_u64).is_some_and(|s| s < size) {
                text.push_str(&show::text(checkpoint, "note"));
                text.push('\n');
            }
        }
        from = last.saturating_add(1);
    }
    Ok(text)
}

/// Fetches the log from the daemon and writes it as static files.
pub fn export(socket: &Path, dir: &Path) -> Result<Output, Failure> {
    if dir.exists() && fs::read_dir(dir).is_ok_and(|mut d| d.next().is_some()) {
        return Err(Failure::plain(format!("{} is not empty", dir.display())));
    }
    let head = client::call(socket, "operator_logHead", Value::Null)?;
    let size = head.get("size").and_then(Value::as_u64).unwrap_or(0);
    let mut entries: Vec<Vec<u8>> = Vec::new();
    while (entries.len() as u64) < size {
        let count = (size - entries.len() as u64).min(500);
        let page = client::call(
            socket,
            "operator_logShow",
            json!({"from": entries.len(), "count": count, "raw": true}),
        )?;
        let page = page.get("entries").and_then(Value::as_array).cloned().unwrap_or_default();
        if page.is_empty() {
            return Err(Failure::plain(format!("the daemon gave no entries from index {}", entries.len())));
        }
        for entry in page {
            let bytes = entry.as_str().and_then(|e| BASE64.decode(e).ok());
            entries.push(bytes.ok_or_else(|| Failure::plain("the daemon gave an entry that is no base64"))?);
        }
    }
    let failed = |path: &Path, e: std::io::Error| Failure::plain(format!("{}: {e}", path.display()));
    let mut files = export::files(&entries);
    files.push((export::CHECKPOINTS.into(), checkpoints(socket, size)?.into_bytes()));
    files.push(("checkpoint".into(), show::text(&head, "checkpoint").into_bytes()));
    files.push(("log.vkey".into(), format!("{}\n", show::text(&head, "vkey")).into_bytes()));
    for (name, bytes) in &files {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
        }
        fs::write(&path, bytes).map_err(|e| failed(&path, e))?;
    }
    Ok(Output {
        text: format!(
            "{size} entries in {} files under {}\nverify with: claviger-verify log {} --key FILE",
            files.len(),
            dir.display(),
            dir.display()
        ),
        value: json!({"dir": dir, "entries": size, "files": files.len()}),
    })
}

/// Verifies an exported log, as `claviger-verify log` does.
pub fn verify(dir: &Path, key: Option<&PathBuf>) -> Result<Output, Failure> {
    let own = dir.join("log.vkey");
    let words = audit::LogWords {
        dir: dir.to_owned(),
        key: vec![key.cloned().unwrap_or(own)],
        ..audit::LogWords::default()
    };
    let report = audit::log(&words).map_err(Failure::plain)?;
    let (text, value) = audit::told(&report, false);
    if !report.breaches.is_empty() {
        return Err(Failure::Refused(text, value));
    }
    let note = "note: the key was taken from the export itself; name one that you trust with --key\n";
    Ok(Output { text: text + if key.is_none() { note } else { "" }, value })
}
