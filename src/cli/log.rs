//! `claviger log`: show, export, verify. Verification needs neither the daemon nor its database.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Failure, Output, client, show};
use crate::core::log::{export, verify};

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
        let page = client::call(socket, "operator_logShow", json!({"from": entries.len(), "count": count}))?;
        let page = page.get("entries").and_then(Value::as_array).cloned().unwrap_or_default();
        if page.is_empty() {
            return Err(Failure::plain(format!("the daemon gave no entries from index {}", entries.len())));
        }
        entries.extend(page.iter().filter_map(|e| e.as_str().map(|s| s.as_bytes().to_vec())));
    }
    let failed = |path: &Path, e: std::io::Error| Failure::plain(format!("{}: {e}", path.display()));
    let mut files = export::files(&entries);
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
            "{size} entries in {} files under {}\nverify with: claviger log verify {}",
            files.len(),
            dir.display(),
            dir.display()
        ),
        value: json!({"dir": dir, "entries": size, "files": files.len()}),
    })
}

/// Verifies an exported log.
pub fn verify(dir: &Path, key: Option<&PathBuf>) -> Result<Output, Failure> {
    let read = |name: &str| -> std::io::Result<Option<Vec<u8>>> {
        // Names come from the layout, never from the log's content.
        match fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    let key_file = key.cloned().unwrap_or_else(|| dir.join("log.vkey"));
    let vkey =
        fs::read_to_string(&key_file).map_err(|e| Failure::plain(format!("{}: {e}", key_file.display())))?;
    let report = verify::verify(&read, vkey.trim()).map_err(|e| {
        Failure::Refused(
            format!("the log does NOT verify: {e}"),
            json!({"verified": false, "why": e.to_string()}),
        )
    })?;
    let mut value = serde_json::to_value(&report).unwrap_or(Value::Null);
    let mut text = format!("the log verifies\n{}", show::fields(&value));
    if key.is_none() {
        text.push_str("note: the key was taken from the export itself; name one that you trust with --key\n");
    }
    if let Some(map) = value.as_object_mut() {
        map.insert("verified".into(), json!(true));
    }
    Ok(Output { text, value })
}
