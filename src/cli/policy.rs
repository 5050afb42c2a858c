//! `claviger policy`: what a text says, what it changes, what it would have changed.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::{Value, json};

use super::arguments::PolicyCommand;
use super::{Failure, Output, duties, payment, show};
use crate::config::{Config, read_text};
use crate::core::app::Apps;
use crate::core::approval::Authority;
use crate::core::policy::finding::{Finding, Weight};
use crate::core::policy::{Policy, PolicyError, diff};
use crate::service::{keys, rules};

/// Runs one command.
pub fn run(
    command: PolicyCommand,
    config_file: &Path,
    ask: &dyn Fn(&str, Value) -> Result<Value, Failure>,
) -> Result<Output, Failure> {
    let text = |file: &Path| read_text(file).map_err(|e| Failure::Usage(e.to_string()));
    match command {
        PolicyCommand::Check { file, authority } => check(&file, config_file, authority.as_deref()),
        PolicyCommand::Show => {
            let value = ask("operator_policyShow", Value::Null)?;
            let mut head = format!("# sha256 {}\n", show::text(&value, "hash"));
            for book in value.get("books").and_then(Value::as_array).into_iter().flatten() {
                let part = |member| show::text(book, member);
                head.push_str(&format!(
                    "# book {}: version {}, {} entries, signed by {}, sha256 {}\n",
                    part("name"),
                    part("version"),
                    part("entries"),
                    part("signed_by"),
                    part("sha256")
                ));
            }
            for line in value.get("duties").map(duties::told).unwrap_or_default().lines() {
                head.push_str(&format!("# duties {line}\n"));
            }
            Ok(Output { text: format!("{head}{}", show::text(&value, "text")), value })
        }
        PolicyCommand::Explain { app, tier, payment: words } => {
            let transaction = payment::transaction(&words)?;
            Ok(explained(ask(
                "operator_policyExplain",
                json!({"app": app, "key": words.key, "tier": tier, "transaction": transaction}),
            )?))
        }
        PolicyCommand::Diff { file, against: None, .. } => {
            let value = ask("operator_policyDiff", json!({"text": text(&file)?}))?;
            Ok(compared(value))
        }
        PolicyCommand::Diff { file, against: Some(old), authority } => {
            let people = people(config_file, authority.as_deref())?;
            let read = |file: &Path| {
                parse(&text(file)?, file, people.as_ref())
                    .map_err(|PolicyError(found)| refused(file, &found, None))
            };
            let (old, new) = (read(&old)?, read(&file)?);
            let change = diff(&old, &new);
            let class = change.class().to_string();
            Ok(compared(json!({"class": class, "text": change.to_string(), "changes": change.changes})))
        }
        PolicyCommand::History => {
            let value = ask("operator_governance", Value::Null)?;
            let columns = ["entry", "at", "kind", "class", "uid", "hash"];
            let table = show::table(
                &["ENTRY", "AT", "WHAT", "CLASS", "UID", "SHA-256"],
                &rows(value.get("history"), &columns),
            );
            Ok(Output { text: table, value })
        }
        PolicyCommand::Replay { file } => {
            let value = ask("operator_policyReplay", json!({"text": text(&file)?}))?;
            let columns = ["seq", "at", "app", "was", "now", "request"];
            let rows = rows(value.get("changed"), &columns);
            let judged = show::text(&value, "judged");
            let text = if rows.is_empty() {
                format!("all {judged} payments would end as they did")
            } else {
                let table = show::table(&["ENTRY", "AT", "APP", "WAS", "WOULD BE", "REQUEST"], &rows);
                format!("{table}\n{} of {judged} payments would end otherwise", rows.len())
            };
            Ok(Output { text, value })
        }
        PolicyCommand::Apply { file } => {
            let value = ask("operator_policyApply", json!({"text": text(&file)?}))?;
            let part = |member| show::text(&value, member);
            let text = format!("in force: {}\n{}\n{}", part("policy"), part("class"), part("diff"));
            Ok(Output { text, value })
        }
    }
}

fn rows(list: Option<&Value>, columns: &[&str]) -> Vec<Vec<String>> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.map(|item| columns.iter().map(|m| show::text(item, m)).collect()).collect()
}

/// A decision for people.
pub(super) fn explained(value: Value) -> Output {
    let decision = value.get("decision").cloned().unwrap_or_default();
    let mut text = format!("decision: {}\n", show::text(&decision, "outcome"));
    for (member, words) in [("rule", "rule"), ("code", "code"), ("sentence", "because"), ("advice", "advice")]
    {
        let found = show::text(&decision, member);
        if !found.is_empty() {
            text.push_str(&format!("{words}: {found}\n"));
        }
    }
    text.push('\n');
    text.push_str(&show::text(&decision, "text"));
    Output { text, value }
}

fn compared(value: Value) -> Output {
    let rows = rows(value.get("changes"), &["rule", "what", "class"]);
    let table = if rows.is_empty() {
        "no rule changes\n".to_owned()
    } else {
        show::table(&["WHERE", "WHAT", "CLASS"], &rows)
    };
    let class = show::text(&value, "class");
    let words = match class.as_str() {
        "neutral" => "what is permitted stays the same",
        "tightens" => "less is permitted, and nothing more",
        "loosens" => "more is permitted, and nothing less",
        _ => "some of it permits more and some less, or that cannot be told",
    };
    Output { text: format!("{table}\n{class}: {words}"), value }
}

/// The people who approve and sign: of the file, or of the configuration where that can be read.
fn people(config_file: &Path, named: Option<&Path>) -> Result<Option<Authority>, Failure> {
    let configured = || Config::load(config_file).ok().and_then(|c| c.authority_file);
    let Some(file) = named.map(Path::to_owned).or_else(configured) else { return Ok(None) };
    let text = read_text(&file).map_err(|e| Failure::Usage(e.to_string()))?;
    Authority::parse(&text).map(Some).map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))
}

fn parse(text: &str, file: &Path, people: Option<&Authority>) -> Result<Policy, PolicyError> {
    let beside = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rules::parse_policy(text, beside, people)
}

/// Reads a policy with the books beside it; what is wrong, in words.
pub(super) fn read(text: &str, file: &Path, authority: Option<&Path>) -> Result<Policy, String> {
    let people = match authority {
        None => None,
        Some(path) => {
            let text = read_text(path).map_err(|e| e.to_string())?;
            Some(Authority::parse(&text).map_err(|e| format!("{}: {e}", path.display()))?)
        }
    };
    parse(text, file, people.as_ref()).map_err(|e| e.to_string())
}

fn check(file: &Path, config_file: &Path, authority: Option<&Path>) -> Result<Output, Failure> {
    let text = read_text(file).map_err(|e| Failure::Usage(e.to_string()))?;
    let people = people(config_file, authority)?;
    let policy = match parse(&text, file, people.as_ref()) {
        Ok(policy) => policy,
        Err(PolicyError(found)) => return Err(refused(file, &found, None)),
    };
    let mut found = policy.lint();
    let note = |line: usize, why: String, advice: &str| Finding {
        line,
        weight: Weight::Note,
        place: String::new(),
        why,
        advice: advice.to_owned(),
    };
    if people.is_none()
        && let Some((rule, needs)) = policy.asks().next()
    {
        let why =
            format!("nobody is known of {}: whether its quorum can be reached was not looked at", needs.of);
        found.push(note(policy.line_of(rule), why, "name the document of the people with --authority"));
    }
    if let Some(apps) = Config::load(config_file).ok().and_then(|c| read_text(&c.apps_file).ok())
        && let Ok(apps) = Apps::parse(&apps)
    {
        for app in policy.named().1.into_iter().filter(|name| apps.all().iter().all(|a| a.id != **name)) {
            found.push(note(1, format!("no app {app} is registered"), "register it with claviger app enrol"));
        }
    }
    if found.iter().any(|f| f.weight != Weight::Note) {
        return Err(refused(file, &found, Some(&policy)));
    }
    let hash = hex::encode(policy.hash());
    let rules = policy.rule_count();
    let mut words = format!("{} is a policy\nsha256: {hash}\nrules: {rules}\n", file.display());
    let books: Vec<Value> = policy.signed_books().iter().map(keys::describe_book).collect();
    for book in policy.signed_books() {
        let who: Vec<&str> = book.people.iter().map(String::as_str).collect();
        words.push_str(&format!(
            "book {}: version {}, {} entries, signed by {}\n",
            book.name,
            book.version,
            book.entries,
            who.join(", ")
        ));
    }
    words.push_str(&listed(file, &found));
    let value = json!({"valid": true, "hash": hash, "rules": rules, "books": books, "findings": found});
    Ok(Output { text: words, value })
}

/// One finding a line, as compilers write them, with what to do below.
fn listed(file: &Path, found: &[Finding]) -> String {
    found
        .iter()
        .map(|f| {
            let place = if f.place.is_empty() { String::new() } else { format!("{}: ", f.place) };
            format!("{}:{}: {}: {place}{}\n    {}\n", file.display(), f.line, f.weight, f.why, f.advice)
        })
        .collect()
}

/// `policy` when the text can be put in force all the same.
fn refused(file: &Path, found: &[Finding], policy: Option<&Policy>) -> Failure {
    let said = match policy {
        None => "is no policy",
        Some(_) => "is a policy, and hardly means what it says",
    };
    let text = format!("{} {said}\n{}", file.display(), listed(file, found));
    let hash = policy.map(|p| hex::encode(p.hash()));
    Failure::Refused(
        text.trim_end().to_owned(),
        json!({"valid": policy.is_some(), "hash": hash, "findings": found}),
    )
}
