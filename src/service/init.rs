//! First set-up: a directory with configuration, rules that permit nothing yet, and for the embedded token the token.
//!
//! Refuses to touch a directory that holds a configuration already.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::House;
use super::start::backend;
use crate::caller::{Eyes, executable_digest};
use crate::config::Config;
use crate::refusal::{Code, Refusal};
use crate::secret::{Pin, SecretBytes};
use crate::sys;
use crate::token::embedded::EmbeddedToken;

/// What the operator chose.
pub struct Choices {
    /// Where everything goes.
    pub dir: PathBuf,
    /// Built-in profile name, or a path.
    pub profile: String,
    /// Token label.
    pub label: Option<String>,
    /// Module path.
    pub module: Option<PathBuf>,
    /// Connector of a YubiHSM.
    pub connector: Option<String>,
    /// PIN file that exists already.
    pub pin_file: Option<PathBuf>,
    /// The executable of this command line, registered as app `claviger-cli`.
    pub cli: PathBuf,
}

fn failed(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::StoreFailed, what.to_string())
}

/// Quotes for TOML.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Refusal> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|e| failed(format!("{}: {e}", path.display())))
}

fn new_passphrase(path: &Path) -> Result<(), Refusal> {
    let secret = SecretBytes::<24>::fill(|bytes| getrandom::fill(bytes)).map_err(failed)?;
    let mut text = zeroize::Zeroizing::new([0u8; 48]);
    hex::encode_to_slice(secret.expose(), text.as_mut_slice()).map_err(failed)?;
    write_new(path, 0o600, text.as_slice())
}

/// Makes an embedded token that keeps a root of the vault, and its passphrase where there is none yet.
pub fn make_embedded(directory: &Path, pin_file: &Path) -> Result<Value, Refusal> {
    if !pin_file.exists() {
        new_passphrase(pin_file)?;
    }
    let text = fs::read_to_string(pin_file).map_err(|e| failed(format!("{}: {e}", pin_file.display())))?;
    let pin = Pin::new(text).ok_or_else(|| failed("the file holds no passphrase"))?;
    EmbeddedToken::create(directory, &pin).map_err(|e| super::token_refusal(&e))?;
    Ok(json!({"directory": directory, "pin_file": pin_file}))
}

/// Makes everything, starts the house once to make the system key, and tells what was made.
pub fn init(choices: Choices) -> Result<Value, Refusal> {
    let dir = std::path::absolute(&choices.dir).map_err(failed)?;
    let config_file = dir.join("clavigerd.toml");
    if config_file.exists() {
        return Err(Refusal::new(
            Code::KeyExists,
            format!("{} exists already; nothing was changed", config_file.display()),
        ));
    }
    if !dir.exists() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&dir)
            .map_err(|e| failed(format!("{}: {e}", dir.display())))?;
    }
    let mut made = Vec::new();
    let embedded = choices.profile == "embedded";
    let pin_file = match &choices.pin_file {
        Some(path) => Some(std::path::absolute(path).map_err(failed)?),
        None if embedded => {
            let path = dir.join("token.pin");
            new_passphrase(&path)?;
            made.push(path.clone());
            Some(path)
        }
        None => None,
    };
    let mut token = format!("profile = {:?}\n", choices.profile);
    if let Some(label) = &choices.label {
        token.push_str(&format!("label = {}\n", toml::Value::String(label.clone())));
    }
    if let Some(module) = &choices.module {
        token.push_str(&format!("module = {}\n", quoted(module)));
    }
    if let Some(connector) = &choices.connector {
        token.push_str(&format!("connector = {}\n", toml::Value::String(connector.clone())));
    }
    if let Some(path) = &pin_file {
        token.push_str(&format!("pin_file = {}\n", quoted(path)));
    }
    if embedded {
        token.push_str("directory = \"token\"\n");
        let text = fs::read_to_string(pin_file.as_deref().unwrap_or(Path::new("")))
            .map_err(|e| failed(format!("the PIN file cannot be read: {e}")))?;
        let pin = Pin::new(text).ok_or_else(|| failed("the PIN file holds no passphrase"))?;
        EmbeddedToken::create(&dir.join("token"), &pin).map_err(|e| super::token_refusal(&e))?;
        made.push(dir.join("token"));
    }
    let uid = sys::effective_uid();
    let operators = if uid == 0 { "0".to_owned() } else { format!("0, {uid}") };
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(failed)?;
    let origin = format!("claviger.local/{}", hex::encode(random));
    let text = format!(
        "# Made by `claviger init`. Every key is described in config/clavigerd.toml of the sources.\n\
         state_dir = \"state\"\npolicy_file = \"policy.toml\"\napps_file = \"apps.toml\"\n\n\
         [wallet]\nsocket = \"wallet.sock\"\nmode = \"0660\"\n\n\
         [operator]\nsocket = \"operator.sock\"\nmode = \"0600\"\nuids = [{operators}]\n\n\
         [token]\n{token}\n\
         [log]\norigin = {origin:?}\n\n\
         [metrics]\nlisten = \"unix:metrics.sock\"\n"
    );
    let digest =
        executable_digest(&choices.cli).map_err(|e| failed(format!("{}: {e}", choices.cli.display())))?;
    let apps = format!(
        "# Which executable, under which user, is which app. Reload with `claviger reload`.\n\n\
         [[app]]\nid = \"claviger-cli\"\npath = {}\nsha256 = \"{}\"\nuid = {uid}\neth_sign_transaction = \"object\"\n",
        quoted(&choices.cli),
        hex::encode(digest)
    );
    let policy = "# Permits nothing until rules are added: what no rule permits is refused.\n\
                  # config/policy.toml of the sources explains every key; `claviger policy check FILE` reads a text.\nschema = 1\n";
    for (name, mode, text) in [
        ("policy.toml", 0o644, policy),
        ("apps.toml", 0o644, apps.as_str()),
        ("clavigerd.toml", 0o644, text.as_str()),
    ] {
        write_new(&dir.join(name), mode, text.as_bytes())?;
        made.push(dir.join(name));
    }
    let config = Config::load(&config_file).map_err(failed)?;
    fs::create_dir_all(&config.state_dir).map_err(failed)?;
    fs::set_permissions(&config.state_dir, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    made.push(config.state_dir.clone());
    // The profile and the token's place must make sense before this is called done.
    backend(&config.token)?;
    Ok(json!({"made": made, "config": config_file, "origin": origin}))
}

/// Opens the house once, without listening, to make the key that signs the log.
pub async fn make_system_keys(config_file: &Path, allow_volatile: bool) -> Result<Value, Refusal> {
    let mut config = Config::load(config_file).map_err(failed)?;
    config.allow_volatile |= allow_volatile;
    let house = House::open(config, Eyes::open()).await?;
    // A busy machine, a slow token: as long as it is being connected.
    for _ in 0..400 {
        match house.confirm().await {
            Err(refusal)
                if matches!(refusal.code, Code::TokenGone | Code::TokenTimeout | Code::TokenBusy) => {}
            _ => break,
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let outcome = async {
        house.open_for_signing()?;
        let key = house.log_key(sys::effective_uid()).await?;
        house.checkpoint().await?;
        Ok(json!({
            "log_key": super::keys::describe(&key.record),
            "vkey": house.log_verifier_key().await?,
            "token": house.keeper.describe(),
        }))
    }
    .await;
    house.finish().await;
    outcome
}
