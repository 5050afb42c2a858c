//! Users: operators add them, they open their sessions and confirm their payments. A PIN is typed here and nowhere else.
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{Failure, Output, approval, show};
use crate::config::read_text;
use crate::core::proof::RequestId;
use crate::core::user::{Users, document};

/// Users.
#[derive(Subcommand)]
pub enum UserCommand {
    /// Adds a user, and prints the code that they enrol with.
    Add {
        /// Name.
        name: String,
        /// User id of this machine.
        #[arg(long)]
        uid: u32,
        /// A line of keys that does nothing without them; may stand several times. Limits are written into users.toml.
        #[arg(long = "key")]
        keys: Vec<String>,
    },
    /// Puts a users document in force.
    Apply {
        /// File.
        file: PathBuf,
    },
    /// Lists users.
    List,
    /// Shows a user, or with a request id the text of a payment that waits for you, and nothing else: it is what
    /// `ssh-keygen -Y sign -n clavigerd-user@v1` signs.
    Show {
        /// Name, or request id.
        what: String,
    },
    /// Takes a user out: their keys need nobody any more, as far as the policy goes.
    Remove {
        /// Name.
        name: String,
    },
    /// Lets a user enrol anew: forgotten PIN, too many wrong ones.
    Reset {
        /// Name.
        name: String,
        /// One line, for those who read the log in years.
        #[arg(long)]
        reason: String,
    },
    /// Chooses your PIN, with the code of an operator.
    Enrol {
        /// The code.
        code: String,
        /// Ask for a second PIN: typed under duress, it stops all your keys and does not show it.
        #[arg(long)]
        duress: bool,
    },
    /// Changes your PIN.
    Pin {
        /// Ask for a second PIN as well.
        #[arg(long)]
        duress: bool,
    },
    /// Opens a session for the app that showed a code.
    Unlock {
        /// The code.
        code: String,
    },
    /// Ends your sessions.
    Lock {
        /// Those of everybody (operators).
        #[arg(long)]
        all: bool,
    },
    /// Lists payments that wait for you.
    Pending,
    /// Confirms a payment.
    Confirm {
        /// Request id.
        request: String,
        /// Signature over the text by your authenticator, as ssh-keygen made it.
        #[arg(long, conflicts_with_all = ["key", "asserted"])]
        signature: Option<PathBuf>,
        /// SSH key of your authenticator, to sign with here through ssh-keygen.
        #[arg(long, conflicts_with = "asserted")]
        key: Option<PathBuf>,
        /// What fido2-assert -G printed.
        #[arg(long = "assertion")]
        asserted: Option<PathBuf>,
    },
    /// Refuses a payment.
    Refuse {
        /// Request id.
        request: String,
    },
}

type Ask<'a> = &'a dyn Fn(&str, Value) -> Result<Value, Failure>;

fn fields(value: Value) -> Output {
    Output { text: show::fields(&value), value }
}

/// Asks for a PIN on the terminal; where there is none, reads a line of standard input.
pub(super) fn secret(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        *line = crate::service::read_hidden_line(prompt).map_err(Failure::plain)?;
    } else {
        std::io::stdin().read_line(&mut line).map_err(Failure::plain)?;
    }
    let length = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(length);
    Ok(line)
}

/// A new PIN, twice where a person types it.
fn new_secret(words: &str) -> Result<Zeroizing<String>, Failure> {
    let first = secret(&format!("{words}: "))?;
    if std::io::stdin().is_terminal() && *secret(&format!("{words} again: "))? != *first {
        return Err(Failure::Usage("the two are not the same".into()));
    }
    Ok(first)
}

fn duress(asked: bool) -> Result<Option<Zeroizing<String>>, Failure> {
    asked.then(|| new_secret("PIN for duress")).transpose()
}

/// The document in force.
fn text(ask: Ask<'_>) -> Result<String, Failure> {
    let shown = ask("operator_users", Value::Null)?;
    Ok(shown.get("text").and_then(Value::as_str).unwrap_or("schema = 1\n").to_owned())
}

fn put(ask: Ask<'_>, text: &str) -> Result<Value, Failure> {
    Users::parse(text).map_err(Failure::plain)?;
    ask("operator_usersApply", json!({"text": text}))
}

fn add(ask: Ask<'_>, name: &str, uid: u32, keys: &[String]) -> Result<Output, Failure> {
    let string = |s: &str| toml::Value::String(s.to_owned()).to_string();
    let keys: Vec<String> = keys.iter().map(|k| string(k)).collect();
    let block = format!("\n[[user]]\nname = {}\nuid = {uid}\nkeys = [{}]\n", string(name), keys.join(", "));
    put(ask, &(text(ask)? + &block))?;
    Ok(invited(ask("operator_userReset", json!({"name": name, "reason": "added"}))?))
}

fn invited(value: Value) -> Output {
    let pick = |m| show::text(&value, m);
    let text = format!(
        "{} (uid {}) enrols with\n  claviger user enrol {}\nuntil {}; give the code to nobody else",
        pick("user"),
        pick("uid"),
        pick("code"),
        pick("expires")
    );
    Output { text, value }
}

fn shown(what: &str, ask: Ask<'_>, own: Ask<'_>) -> Result<Output, Failure> {
    if RequestId::parse(what).is_some() {
        let value = own("user_show", json!({"request": what}))?;
        // Exactly the bytes that are signed: the newline that printing adds is the text's own last one.
        let text = show::text(&value, "text");
        return Ok(Output { text: text.strip_suffix('\n').unwrap_or(&text).to_owned(), value });
    }
    let all = ask("operator_users", Value::Null)?;
    let mut users = all.get("users").and_then(Value::as_array).into_iter().flatten();
    let found = users.find(|u| show::text(u, "name") == what);
    found.cloned().map(fields).ok_or_else(|| Failure::Usage(format!("there is no user named {what:?}")))
}

/// Runs one command; `ask` calls the operator's socket, `own` the user's.
pub fn run(command: UserCommand, ask: Ask<'_>, own: Ask<'_>) -> Result<Output, Failure> {
    match command {
        UserCommand::Add { name, uid, keys } => add(ask, &name, uid, &keys),
        UserCommand::Apply { file } => {
            put(ask, &read_text(&file).map_err(|e| Failure::Usage(e.to_string()))?).map(fields)
        }
        UserCommand::List => {
            let value = ask("operator_users", Value::Null)?;
            let columns = ["name", "uid", "keys", "enrolled", "wrong_pins", "suspended"];
            let users = value.get("users").and_then(Value::as_array).into_iter().flatten();
            let rows: Vec<Vec<String>> =
                users.map(|u| columns.iter().map(|m| show::text(u, m)).collect()).collect();
            let heads = ["NAME", "UID", "KEYS", "ENROLLED", "WRONG PINS", "SUSPENDED"];
            Ok(Output { text: show::table(&heads, &rows), value })
        }
        UserCommand::Show { what } => shown(&what, ask, own),
        UserCommand::Remove { name } => {
            let text = document::without(&text(ask)?, &name).ok_or_else(|| {
                Failure::Usage(format!(
                    "{name:?} cannot be taken out of the users document by itself; edit it and use claviger user apply"
                ))
            })?;
            put(ask, &text).map(fields)
        }
        UserCommand::Reset { name, reason } => {
            Ok(invited(ask("operator_userReset", json!({"name": name, "reason": reason}))?))
        }
        UserCommand::Enrol { code, duress: asked } => {
            let pin = new_secret("PIN (at least 6 characters)")?;
            let duress = duress(asked)?;
            own("user_enrol", json!({"code": code, "pin": *pin, "duress": duress.as_deref()})).map(fields)
        }
        UserCommand::Pin { duress: asked } => {
            let pin = secret("PIN: ")?;
            let new = new_secret("new PIN")?;
            let duress = duress(asked)?;
            let params = json!({"pin": *pin, "new": *new, "duress": duress.as_deref()});
            own("user_changePin", params).map(fields)
        }
        UserCommand::Unlock { code } => {
            let app = own("user_request", json!({"code": code}))?;
            eprintln!("{}", show::fields(&app));
            let pin = secret("your PIN, if this is the app that showed the code: ")?;
            own("user_unlock", json!({"code": code, "pin": *pin})).map(fields)
        }
        UserCommand::Lock { all: false } => own("user_lock", Value::Null).map(fields),
        UserCommand::Lock { all: true } => ask("operator_userLock", Value::Null).map(fields),
        UserCommand::Pending => {
            let value = own("user_pending", Value::Null)?;
            let list = value.as_array().into_iter().flatten();
            let text: Vec<String> = list.map(|w| show::text(w, "text")).collect();
            let text = if text.is_empty() { "nothing waits for you".to_owned() } else { text.join("\n") };
            Ok(Output { text, value })
        }
        UserCommand::Confirm { request, signature, key, asserted } => {
            let waiting = own("user_show", json!({"request": request}))?;
            let text = show::text(&waiting, "text");
            let read = |file| read_text(file).map_err(Failure::plain);
            let signature = match (&signature, &key) {
                (Some(file), _) => Some(read(file)?),
                (None, Some(key)) => Some(approval::sign(&text, &show::text(&waiting, "namespace"), key)?),
                (None, None) => {
                    eprintln!("{text}");
                    None
                }
            };
            let asserted = asserted.as_ref().map(|file| read(file)).transpose()?;
            let pin = secret("PIN, if this is what you want to pay: ")?;
            let said = json!({
                "request": request, "digest": show::text(&waiting, "digest"), "pin": *pin,
                "signature": signature, "assertion": asserted,
            });
            own("user_confirm", said).map(fields)
        }
        UserCommand::Refuse { request } => own("user_refuse", json!({"request": request})).map(fields),
    }
}
