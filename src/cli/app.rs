//! `claviger app`: what is registered, what would be, and what a running process is found to be.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};

use super::arguments::{AppCommand, Enrol};
use super::{Failure, Output, client, show};
use crate::config::{Config, read_text};
use crate::core::app::memory::Memory;
use crate::core::app::{App, Apps, ReplyShape, render};
use crate::core::payment::Chain;
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp};
use crate::service::{apps, rules};

/// Runs one command.
pub fn run(
    command: AppCommand,
    config: &dyn Fn() -> Result<Config, Failure>,
    ask: &dyn Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    match command {
        AppCommand::List => {
            let value = ask("operator_appList", Value::Null)?;
            let columns = ["id", "serial", "signer", "not_after", "tier", "state", "uid", "path", "keys"];
            let rows: Vec<Vec<String>> = value
                .as_array()
                .into_iter()
                .flatten()
                .map(|a| columns.iter().map(|m| show::text(a, m)).collect())
                .collect();
            let head = ["ID", "SERIAL", "SIGNED BY", "ENDS", "TIER", "STATE", "UID", "PATH", "KEYS"];
            Ok(Output { text: show::table(&head, &rows), value })
        }
        AppCommand::Show { id } => match ask("operator_appShow", json!({"name": id})) {
            Ok(value) => {
                let told = ["state", "signer", "highest_serial", "keys"];
                let told = told.iter().filter(|m| value.get(**m).is_some());
                let lines: String = told.map(|m| format!("# {m}: {}\n", show::text(&value, m))).collect();
                let text = value.get("text").and_then(Value::as_str).unwrap_or_default();
                Ok(Output { text: format!("{lines}{text}"), value })
            }
            Err(Failure::Unreachable(_)) => {
                let registered = read(&config()?)?.registered;
                let app = of(&registered, &id)?;
                Ok(Output { text: app.to_toml(), value: apps::describe(app) })
            }
            Err(e) => Err(e),
        },
        AppCommand::Revoke { id, reason } => {
            let value = ask("operator_appRevoke", json!({"name": id, "reason": reason}))?;
            let text =
                format!("{id} gets nothing any more under serial {} and below", show::text(&value, "serial"));
            Ok(Output { text, value })
        }
        AppCommand::Enrol(words) => enrol(&config()?, *words),
        AppCommand::Update { id, pid, yes } => update(&config()?, &id, pid, yes),
        AppCommand::Verify { pid } => verify(&config()?, pid),
    }
}

/// What the file says, and what is in force where a daemon tells.
struct Known {
    text: String,
    registered: Apps,
    memory: Memory,
    /// Why the daemon did not tell.
    alone: Option<String>,
}

fn read(config: &Config) -> Result<Known, Failure> {
    let text = read_text(&config.apps_file).map_err(Failure::plain)?;
    let value = match client::call(&config.operator.path, "operator_appRegistrations", Value::Null) {
        Ok(value) => value,
        Err(why) => {
            let registered = Apps::parse(&text).map_err(Failure::plain)?;
            let alone =
                Some(format!("the daemon did not say what is in force ({why}): this is what the file says"));
            return Ok(Known { text, registered, memory: Memory::default(), alone });
        }
    };
    let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let file = Apps::parse(&member("apps")).map_err(Failure::plain)?;
    let memory = Memory::parse(&member("registrations")).ok_or_else(|| {
        Failure::plain("the daemon's registrations cannot be read: is it of another version?")
    })?;
    let signed = value.get("signed") == Some(&json!(true));
    let registered = memory.in_force(&file, signed).map_err(Failure::plain)?;
    Ok(Known { text, registered, memory, alone: None })
}

/// What is registered, for doctor.
pub(super) fn registered(config: &Config) -> Result<Apps, String> {
    let known = read(config).map_err(|e| e.to_string())?;
    Apps::parse(&known.text).map(|_| known.registered).map_err(|e| e.to_string())
}

impl Known {
    /// The next serial of an app: above all that were ever in force.
    fn next(&self, id: &Name, serial: u64) -> u64 {
        self.memory.highest(id).unwrap_or(0).max(serial).saturating_add(1)
    }
}

fn of<'a>(apps: &'a Apps, id: &str) -> Result<&'a App, Failure> {
    apps.all()
        .iter()
        .find(|a| a.id.as_str() == id)
        .ok_or_else(|| Failure::Usage(format!("there is no app {id}")))
}

fn tier(text: &str) -> Result<Tier, Failure> {
    serde_json::from_value(json!(text)).map_err(|_| Failure::Usage("a tier is T0, T1, T2 or T3".into()))
}

/// Writes a registration and has the daemon read it; says whether it did.
fn write(config: &Config, text: &str, app: &App) -> Result<String, Failure> {
    let text = render::put(text, app);
    Apps::parse(&text).map_err(Failure::plain)?;
    rules::write_atomically(&config.apps_file, text.as_bytes()).map_err(Failure::plain)?;
    match client::call(&config.operator.path, "operator_reload", Value::Null) {
        Ok(value) => {
            let asked = value.get("asked").and_then(Value::as_array).into_iter().flatten();
            let ours =
                asked.filter(|a| a.get("matter") == Some(&json!("apps"))).filter_map(|a| a.get("change"));
            let change = ours.filter_map(|c| c.get("request")).find_map(Value::as_str);
            Ok(change.map_or_else(
                || "and is in force".into(),
                |id| format!("and waits for people: claviger approval show {id}"),
            ))
        }
        Err(Failure::Unreachable(_)) => Ok("and takes effect when the daemon starts".into()),
        Err(e) => Err(e),
    }
}

fn enrol(config: &Config, words: Enrol) -> Result<Output, Failure> {
    let known = read(config)?;
    let id = Name::parse(&words.id)
        .ok_or_else(|| Failure::Usage("an id is 1 to 64 of A-Z a-z 0-9 . _ -".into()))?;
    let there = Apps::parse(&known.text).map_err(Failure::plain)?;
    if of(&known.registered, &words.id).or_else(|_| of(&there, &words.id)).is_ok() {
        return Err(Failure::Usage(format!("app {id} is registered already: see claviger app update")));
    }
    let chain =
        |text: String| Chain::parse(&text).ok_or_else(|| Failure::Usage("a chain is eip155:N".into()));
    let day = |text: String| {
        Timestamp::parse_day(&text).ok_or_else(|| Failure::Usage("a day is written 2030-12-31".into()))
    };
    let shape = match words.eth_sign_transaction.as_str() {
        "string" => ReplyShape::String,
        "object" => ReplyShape::Object,
        other => return Err(Failure::Usage(format!("{other:?} is neither string nor object"))),
    };
    let (mut app, notes) = apps::propose(apps::Choices {
        id,
        path: words.path,
        pid: words.pid,
        uid: words.uid,
        tier: words.tier.as_deref().map(tier).transpose()?,
        unit: words.unit,
        allow_jit: words.allow_jit,
        exact: words.exact,
        not_after: words.not_after.map(day).transpose()?,
        shape,
        chain: words.chain.map(chain).transpose()?,
    })?;
    app.serial = known.next(&app.id, 0);
    let when =
        if words.dry_run { "would be registered".to_owned() } else { write(config, &known.text, &app)? };
    let mut said = format!("app {} is what follows, {when}:\n\n{}", app.id, app.to_toml());
    if words.dry_run {
        said = format!("# app {} {when}:\n{}", app.id, app.to_toml());
    }
    notes.iter().for_each(|note| said.push_str(&format!("\nnote: {note}")));
    let mut value = apps::describe(&app);
    if let Some(map) = value.as_object_mut() {
        map.insert("notes".into(), json!(notes));
    }
    Ok(Output { text: said, value })
}

fn update(config: &Config, id: &str, pid: Option<i32>, yes: bool) -> Result<Output, Failure> {
    let known = read(config)?;
    let old = of(&known.registered, id)?;
    let exact = matches!(old.libs, crate::core::app::Libs::Exact(_));
    if exact && pid.is_none() {
        let why = "its libraries stand with their digests: name a process that runs it (--pid)";
        return Err(Failure::Usage(why.into()));
    }
    let (mut new, mut notes) = apps::propose(apps::Choices {
        id: old.id.clone(),
        path: Some(old.path.clone()),
        pid,
        uid: Some(old.uid),
        tier: old.tier,
        unit: old.unit.clone(),
        allow_jit: old.allow_jit,
        exact,
        not_after: old.not_after,
        shape: old.eth_sign_transaction,
        chain: old.chain,
    })?;
    notes.extend(known.alone.clone());
    if pid.is_none() {
        new.seccomp = old.seccomp;
    }
    // A revoked app stays revoked, and each change counts up.
    (new.revoked, new.serial, new.unsigned) = (old.revoked, old.serial, old.unsigned);
    (new.scope, new.release_keys) = (old.scope.clone(), old.release_keys.clone());
    let changes = old.differences(&new);
    if changes.is_empty() {
        let value = json!({"id": id, "changed": false, "differences": [], "notes": notes});
        return Ok(Output { text: format!("{id} is what was registered"), value });
    }
    new.serial = known.next(&old.id, old.serial);
    let when = if yes {
        write(config, &known.text, &new)?
    } else {
        "and nothing was written: look at it, then say --yes".into()
    };
    let mut said = format!("{id} is another than was registered, {when}\n{}", changes.join("\n"));
    notes.iter().for_each(|note| said.push_str(&format!("\nnote: {note}")));
    let value = json!({"id": id, "changed": true, "written": yes, "differences": changes, "notes": notes});
    Ok(Output { text: said, value })
}

fn verify(config: &Config, pid: i32) -> Result<Output, Failure> {
    let known = read(config)?;
    let value = apps::verify(&known.registered, pid)?;
    let rows: Vec<Vec<String>> = value
        .get("checks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|row| ["verdict", "check", "code", "sentence"].iter().map(|m| show::text(row, m)).collect())
        .collect();
    let table = show::table(&["", "CHECK", "CODE", "FOUND"], &rows);
    let tell = |member: &str| {
        let told = value.get(member).cloned().unwrap_or_default();
        match told.get("tier") {
            Some(_) => show::text(&told, "tier"),
            None => format!("refused, {}: {}", show::text(&told, "refused"), show::text(&told, "sentence")),
        }
    };
    let mut text = format!(
        "{} as {}\n{table}\nwith claviger_hello: {}\nwithout: {}",
        show::text(&value, "process"),
        show::text(&value, "app"),
        tell("with_hello"),
        tell("without_hello")
    );
    known.alone.iter().for_each(|note| text.push_str(&format!("\nnote: {note}")));
    if value.get("accepted") == Some(&json!(true)) {
        Ok(Output { text, value })
    } else {
        Err(Failure::Refused(text, value))
    }
}

/// What the executable of an app is now, for doctor.
pub(super) fn as_registered(app: &App) -> Result<bool, String> {
    let path: &PathBuf = &app.path;
    crate::service::executable_digest(path).map(|digest| digest == app.sha256).map_err(|e| e.to_string())
}
