//! One function a command.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::CommandFactory;
use serde_json::{Value, json};
use zeroize::Zeroize;

use super::arguments::{Arguments, Command, Init, LogCommand, Payment, StateCommand, TokenCommand};
use super::{
    Failure, Output, app, approval, backup, ceremony, client, device, doctor, duties, incident, key, log,
    order, payment, policy, show, tpm, user, witness,
};
use crate::config::{Config, PinSource, TokenConfig};
use crate::service::init;

/// Runs one command.
pub fn run(arguments: Arguments) -> Result<Output, Failure> {
    let config_file = arguments.config;
    let config = || Config::load(&config_file).map_err(|e| Failure::Usage(e.to_string()));
    let operator = || config().map(|c| c.operator.path);
    let ask = |method: &str, params: Value| client::call(&operator()?, method, params);
    let own = |method: &str, params: Value| {
        let socket = config()?.user.map(|u| u.path);
        let socket =
            socket.ok_or_else(|| Failure::Usage("the configuration names no [user] socket".into()))?;
        client::call(&socket, method, params)
    };
    match arguments.command {
        Command::Init(choices) => set_up(choices),
        Command::Status { wait } => status(&operator()?, wait),
        Command::Key(command) => key::run(command, &operator, &ask),
        Command::Approval(command) => approval::run(command, &ask),
        Command::Authority(command) => approval::authority(command, &ask),
        Command::User(command) => user::run(command, &ask, &own),
        Command::Duties(command) => duties::run(command, &ask, &own),
        Command::Token(TokenCommand::Inventory) => {
            let value = ask("operator_inventory", Value::Null)?;
            let text = show::fields(&value);
            if value.get("equal") == Some(&json!(true)) {
                Ok(Output { text, value })
            } else {
                Err(Failure::Refused(format!("token and registered keys differ\n{text}"), value))
            }
        }
        Command::Sign(words) => sign(&config()?.wallet.path, &words),
        Command::Policy(command) => policy::run(command, &config_file, &ask),
        Command::App(command) => app::run(command, &config, &ask),
        Command::Order(command) => order::run(command, &ask),
        Command::Incident(command) => incident::run(command, operator, &ask),
        Command::Log(LogCommand::Show { from, count }) => log::show(&operator()?, from, count),
        Command::Log(LogCommand::Export { dir }) => log::export(&operator()?, &dir),
        Command::Log(LogCommand::Prove { index }) => {
            let value = ask("operator_logProve", json!({"index": index}))?;
            Ok(Output { text: show::text(&value, "proof"), value })
        }
        Command::Log(LogCommand::Verify { dir, key }) => log::verify(&dir, key.as_ref()),
        Command::Token(TokenCommand::Check { profile: None, .. }) => {
            let rows = ask("operator_tokenCheck", Value::Null)?;
            checked(rows)
        }
        Command::Token(TokenCommand::Check {
            profile: Some(profile),
            label,
            module,
            connector,
            pin_file,
            directory,
            ..
        }) => check_token(profile, label, module, connector, pin_file, directory),
        Command::Ceremony(command) => ceremony::run(command, &config_file),
        Command::Backup(command) => backup::run(command, &ask),
        Command::Recover(words) => backup::recover(words, &config_file),
        Command::Device(command) => device::run(command, &ask),
        Command::State(StateCommand::Show) => {
            let value = ask("operator_status", Value::Null)?.get("state").cloned().unwrap_or_default();
            Ok(Output { text: show::fields(&value), value })
        }
        Command::State(StateCommand::Accept { reason }) => {
            let value = ask("operator_stateAccept", json!({"reason": reason}))?;
            Ok(Output { text: show::fields(&value), value })
        }
        Command::Witness(command) => witness::run(command),
        Command::Tpm(command) => tpm::run(command),
        Command::Unlock => unlock(&operator()?),
        Command::Reload => {
            let value = ask("operator_reload", Value::Null)?;
            Ok(Output { text: show::fields(&value), value })
        }
        Command::Doctor => doctor::run(&config_file),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "claviger", &mut text);
            let text = String::from_utf8_lossy(&text).into_owned();
            Ok(Output { value: json!({"completions": text}), text })
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(Failure::plain)?;
            clap_mangen::generate_to(Arguments::command(), &dir).map_err(Failure::plain)?;
            Ok(Output { text: format!("manual pages in {}", dir.display()), value: json!({"dir": dir}) })
        }
    }
}

fn question(words: &str, default: &str) -> Result<String, Failure> {
    eprint!("{words} [{default}]: ");
    std::io::stderr().flush().map_err(Failure::plain)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::plain)?;
    let line = line.trim();
    Ok(if line.is_empty() { default.to_owned() } else { line.to_owned() })
}

fn set_up(choices: Init) -> Result<Output, Failure> {
    let may_ask = !choices.yes && std::io::stdin().is_terminal();
    let settle = |given: Option<String>, words: &str, default: &str| match given {
        Some(value) => Ok(value),
        None if may_ask => question(words, default),
        None => Ok(default.to_owned()),
    };
    let dir = settle(choices.dir.map(|d| d.to_string_lossy().into_owned()), "directory", "/etc/claviger")?;
    let profile =
        settle(choices.profile, "token profile (embedded, softhsm2, yubihsm2, or a path)", "embedded")?;
    let connector = if profile == "yubihsm2" {
        Some(settle(choices.connector, "connector of the YubiHSM", "http://127.0.0.1:12345")?)
    } else {
        choices.connector
    };
    let label = if profile == "embedded" || connector.is_some() {
        None
    } else {
        Some(settle(choices.token_label, "token label", "claviger")?)
    };
    let cli = std::env::current_exe().and_then(|p| p.canonicalize()).map_err(Failure::plain)?;
    let unlock_later = profile != "embedded" && choices.pin_file.is_none();
    let runtime = runtime()?;
    let mut value = init::init(init::Choices {
        dir: PathBuf::from(dir),
        profile,
        label,
        module: choices.module,
        connector,
        pin_file: choices.pin_file,
        cli,
    })?;
    let config_file = PathBuf::from(show::text(&value, "config"));
    if unlock_later {
        if let Some(map) = value.as_object_mut() {
            map.insert("system_keys".into(), json!("made at the first start, after claviger unlock"));
        }
    } else {
        let made = runtime.block_on(init::make_system_keys(&config_file, choices.allow_volatile))?;
        if let Some(map) = value.as_object_mut() {
            map.insert("system".into(), made);
        }
    }
    let text = format!(
        "{}\nkeep the vkey above where an intruder cannot change it: it verifies the log for good\n\nnext:\n  clavigerd --config {path}\n  claviger --config {path} key create hot-1\n  claviger --config {path} policy check FILE",
        show::fields(&value),
        path = config_file.display()
    );
    Ok(Output { text, value })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Failure::plain)
}

fn status(socket: &Path, wait: Option<u64>) -> Result<Output, Failure> {
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    loop {
        let outcome = client::call(socket, "operator_status", Value::Null);
        let signing = matches!(&outcome, Ok(v) if v.get("signing") == Some(&json!(true)));
        if signing || Instant::now() >= until {
            let value = outcome?;
            return if wait.is_some() && !signing {
                Err(Failure::Refused(
                    format!("payments cannot be signed yet\n{}", show::fields(&value)),
                    value,
                ))
            } else {
                Ok(Output { text: show::fields(&value), value })
            };
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn sign(socket: &Path, words: &Payment) -> Result<Output, Failure> {
    let params = json!({"key": words.key, "transaction": payment::transaction(words)?});
    if words.simulate {
        return Ok(policy::explained(client::call(socket, "claviger_simulatePayment", params)?));
    }
    let value = client::call(socket, "claviger_signPayment", params)?;
    Ok(Output { text: show::fields(&value), value })
}

fn checked(verdict: Value) -> Result<Output, Failure> {
    let list = verdict.get("proofs").and_then(Value::as_array).cloned().unwrap_or_default();
    let bad = list.iter().any(|r| r.get("ok") != Some(&json!(true)));
    let cells: Vec<Vec<String>> = list
        .iter()
        .map(|r| {
            let is = |member| r.get(member) == Some(&json!(true));
            let word = match (is("ok"), is("required") && !is("found")) {
                (true, false) => "ok",
                (true, true) => "LACKS",
                (false, _) => "FAILED",
            };
            vec![
                word.to_owned(),
                show::text(r, "check"),
                show::text(r, "claimed"),
                show::text(r, "found"),
                show::text(r, "note"),
            ]
        })
        .collect();
    let table = show::table(&["", "CHECK", "CLAIMED", "FOUND", "NOTE"], &cells);
    let fit = verdict.get("payment") == Some(&json!(true));
    let said = if fit {
        "payment keys may live in this token".to_owned()
    } else {
        format!("payment keys are refused in this token: {}", show::text(&verdict, "reason"))
    };
    let text = format!("{table}\n{said}");
    if bad || !fit || list.is_empty() {
        Err(Failure::Refused(text, verdict))
    } else {
        Ok(Output { text, value: verdict })
    }
}

fn check_token(
    profile: String,
    label: Option<String>,
    module: Option<PathBuf>,
    connector: Option<String>,
    pin_file: Option<PathBuf>,
    directory: Option<PathBuf>,
) -> Result<Output, Failure> {
    let source = pin_file.map_or(PinSource::Unlock, PinSource::File);
    let pin = match source.read().map_err(Failure::plain)? {
        Some(pin) => pin,
        None => crate::secret::Pin::new(crate::service::read_hidden_line("PIN: ").map_err(|e| {
            Failure::Usage(format!("the PIN cannot be asked for here ({e}); name --pin-file"))
        })?)
        .ok_or_else(|| Failure::Usage("the PIN is empty".into()))?,
    };
    let config = TokenConfig {
        profile,
        label,
        serial: None,
        module,
        directory,
        connector,
        pin: PinSource::Unlock,
        workers: 1,
        queue: 64,
        timeout: None,
        in_process: false,
    };
    let rows = runtime()?.block_on(crate::service::report::check_profile(&config, pin))?;
    checked(rows)
}

fn unlock(socket: &Path) -> Result<Output, Failure> {
    let mut pin = if std::io::stdin().is_terminal() {
        crate::service::read_hidden_line("PIN: ").map_err(Failure::plain)?
    } else {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(Failure::plain)?;
        line
    };
    let outcome = client::call(socket, "operator_unlock", json!({"pin": pin.trim_end_matches(['\r', '\n'])}));
    pin.zeroize();
    let value = outcome?;
    let text = show::fields(&value);
    if show::text(&value, "state") == "usable" {
        Ok(Output { text, value })
    } else {
        Err(Failure::Refused(format!("the token is not usable\n{text}"), value))
    }
}
