//! Reads registrations. What the text means is said here; whether somebody may say it is another's question.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use super::{App, AppsError, Libs, ReplyShape, Scope, Seccomp};
use crate::core::approval::sshsig::SshKey;
use crate::core::key::Purpose;
use crate::core::payment::Chain;
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    app: Vec<RawApp>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawLibs {
    Word(String),
    Exact(BTreeMap<PathBuf, String>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawScope {
    keys: Option<BTreeSet<Name>>,
    purposes: Option<BTreeSet<Purpose>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    id: String,
    path: PathBuf,
    sha256: String,
    uid: u32,
    gid: Option<u32>,
    unit: Option<String>,
    tier: Option<Tier>,
    libs: Option<RawLibs>,
    #[serde(default)]
    allow_jit: bool,
    #[serde(default)]
    seccomp: Seccomp,
    #[serde(default)]
    serial: u64,
    not_after: Option<String>,
    #[serde(default)]
    revoked: bool,
    #[serde(default)]
    eth_sign_transaction: ReplyShape,
    chain: Option<String>,
    #[serde(default)]
    scope: RawScope,
    #[serde(default)]
    release_keys: Vec<String>,
}

/// Most release keys of one app.
const MOST_RELEASE_KEYS: usize = 16;

pub(super) fn parse(text: &str) -> Result<Vec<App>, AppsError> {
    let raw: RawFile = toml::from_str(text).map_err(|e| AppsError::Syntax(e.to_string()))?;
    let mut apps: Vec<App> = Vec::new();
    for raw in raw.app {
        let app = named(raw)?;
        apart(&apps, &app)?;
        apps.push(app);
    }
    Ok(apps)
}

fn named(raw: RawApp) -> Result<App, AppsError> {
    let id = raw.id.clone();
    app(raw).map_err(|why| AppsError::Value(id, why))
}

/// Two apps must be two.
pub(super) fn apart(apps: &[App], app: &App) -> Result<(), AppsError> {
    let fail = |why| Err(AppsError::Value(app.id.to_string(), why));
    if apps.iter().any(|a| a.id == app.id) {
        return fail("the id stands twice");
    }
    if apps.iter().any(|a| a.path == app.path && a.uid == app.uid && a.sha256 == app.sha256) {
        return fail("another app has the same executable and user: they could not be told apart");
    }
    Ok(())
}

/// Reads one registration.
pub(super) fn one(table: toml::Table) -> Result<App, AppsError> {
    named(table.try_into().map_err(|e: toml::de::Error| AppsError::Syntax(e.message().to_owned()))?)
}

/// A registration as a table, for another to be laid over it.
pub(super) fn table_of(app: &App) -> Option<toml::Table> {
    let mut file: toml::Table = toml::from_str(&app.to_toml()).ok()?;
    match file.remove("app")? {
        toml::Value::Array(apps) => apps.into_iter().next()?.try_into().ok(),
        _ => None,
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok().map(|()| digest)
}

fn libs(raw: Option<RawLibs>) -> Result<Libs, &'static str> {
    match raw {
        None => Ok(Libs::RootOwned),
        Some(RawLibs::Word(word)) if word == "root-owned" => Ok(Libs::RootOwned),
        Some(RawLibs::Word(_)) => Err("libs is \"root-owned\", or a table of paths and SHA-256"),
        Some(RawLibs::Exact(files)) => {
            let read = |(path, text): (PathBuf, String)| {
                let digest = digest(&text).filter(|_| path.is_absolute());
                digest
                    .map(|d| (path, d))
                    .ok_or("libs holds absolute paths with 64 hex digits of the file's SHA-256")
            };
            files.into_iter().map(read).collect::<Result<_, _>>().map(Libs::Exact)
        }
    }
}

fn app(raw: RawApp) -> Result<App, &'static str> {
    let sha256 = digest(&raw.sha256).ok_or("sha256 must be 64 hex digits of the executable's SHA-256")?;
    let id = Name::parse(&raw.id).ok_or("an id is 1 to 64 of A-Z a-z 0-9 . _ -")?;
    if !raw.path.is_absolute() {
        return Err("path must be absolute");
    }
    let chain = match &raw.chain {
        None => None,
        Some(text) => Some(Chain::parse(text).ok_or("chain must be eip155:N")?),
    };
    let not_after = match &raw.not_after {
        None => None,
        Some(day) => Some(Timestamp::parse_day(day).ok_or("not_after must be a day such as 2030-12-31")?),
    };
    if raw.unit.as_ref().is_some_and(|unit| !unit.ends_with(".service") || unit.contains('/')) {
        return Err("unit must be the name of a system unit, such as pay.service");
    }
    if raw.unit.is_some() && raw.uid == 0 {
        return Err("an app with a unit runs under a user of its own, which root is not");
    }
    if raw.scope.keys.iter().flatten().any(|key| key.line() != *key) {
        return Err("scope.keys names lines of keys, and one of them is a generation");
    }
    if raw.release_keys.len() > MOST_RELEASE_KEYS {
        return Err("release_keys are 16 at most");
    }
    let release_keys = raw.release_keys.iter().map(|line| SshKey::parse(line)).collect::<Result<_, _>>();
    let release_keys = release_keys
        .map_err(|_| "release_keys are public keys as ssh-keygen writes them: ed25519, ecdsa-256, or sk-")?;
    if raw.allow_jit && raw.tier.is_some_and(|tier| tier > Tier::T1) {
        return Err("an app that makes code while it runs (allow_jit) reaches T1 at most");
    }
    Ok(App {
        id,
        path: raw.path,
        sha256,
        uid: raw.uid,
        gid: raw.gid,
        unit: raw.unit,
        tier: raw.tier,
        libs: libs(raw.libs)?,
        allow_jit: raw.allow_jit,
        seccomp: raw.seccomp,
        serial: raw.serial,
        not_after,
        revoked: raw.revoked,
        eth_sign_transaction: raw.eth_sign_transaction,
        chain,
        scope: Scope { keys: raw.scope.keys, purposes: raw.scope.purposes },
        release_keys,
        unsigned: false,
    })
}
