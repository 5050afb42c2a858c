//! Registering apps: what is on the disk, or runs, becomes a registration; what runs is held against one.
//!
//! Runs in the command, with its privileges. What is written is a proposal until the daemon has read it; whether the
//! operator may make it is a question of the file's owner.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::caller::{Eyes, Peer, file_facts};
use crate::core::app::facts::Host;
use crate::core::app::judge::{Finding, Row, verdict};
use crate::core::app::{App, Apps, Libs, ReplyShape, Scope, Seccomp};
use crate::core::approval::sshsig::SshKey;
use crate::core::payment::Chain;
use crate::core::proof::Tier;
use crate::core::units::{Name, Timestamp};
use crate::refusal::{Code, Refusal};

use super::keys::now;

/// What the operator chose.
pub struct Choices {
    /// App id.
    pub id: Name,
    /// Executable, or that of the process.
    pub path: Option<PathBuf>,
    /// A process that runs it: its libraries are read as well.
    pub pid: Option<i32>,
    /// User; the process's, or this one's, when absent.
    pub uid: Option<u32>,
    /// Least tier.
    pub tier: Option<Tier>,
    /// System unit.
    pub unit: Option<String>,
    /// It makes code while it runs.
    pub allow_jit: bool,
    /// Each library by its digest, even where only root can change them.
    pub exact: bool,
    /// When it ends.
    pub not_after: Option<Timestamp>,
    /// Reply shape.
    pub shape: ReplyShape,
    /// Chain.
    pub chain: Option<Chain>,
}

fn failed(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::AppUnseen, why.to_string())
}

/// What would be registered, and what the operator should know of it.
pub fn propose(choices: Choices) -> Result<(App, Vec<String>), Refusal> {
    let peer = match choices.pid {
        None => None,
        Some(pid) => Some(Peer::of_process(pid, &Eyes::open(), &Apps::default()).map_err(failed)?),
    };
    let path = match (&choices.path, &peer) {
        (Some(path), _) => path.canonicalize().map_err(|e| failed(format!("{}: {e}", path.display())))?,
        (None, Some(peer)) => peer.seen().exe.as_ref().map_err(failed)?.path.clone(),
        (None, None) => return Err(failed("name an executable, or a process")),
    };
    let facts = file_facts(&path).map_err(|e| failed(format!("{}: {e}", path.display())))?;
    let sha256 = *facts.digest.as_ref().map_err(|e| failed(format!("{}: {e}", path.display())))?;
    let meta = std::fs::metadata(&path).map_err(failed)?;
    let mut notes = Vec::new();
    if !facts.sealed {
        notes.push(format!("{} can be changed by others than root: T1 at most", path.display()));
    }
    let own_uid = peer.as_ref().map_or_else(crate::sys::effective_uid, |peer| peer.uid);
    let mut app = App {
        id: choices.id,
        sha256,
        uid: choices.uid.unwrap_or(own_uid),
        gid: (meta.mode() & 0o2000 != 0).then(|| meta.gid()),
        unit: choices.unit,
        tier: choices.tier,
        libs: Libs::RootOwned,
        allow_jit: choices.allow_jit,
        seccomp: Seccomp::Usual,
        serial: 1,
        not_after: choices.not_after,
        revoked: false,
        eth_sign_transaction: choices.shape,
        chain: choices.chain,
        scope: Scope::default(),
        release_keys: Vec::new(),
        unsigned: false,
        path,
    };
    if let Some(peer) = &peer {
        let exe = peer.seen().exe.as_ref().map_err(failed)?;
        if !exe.is((facts.dev, facts.ino)) {
            return Err(failed(format!("process {} does not run {}", peer.pid, app.path.display())));
        }
        libraries(&mut app, peer, choices.exact, &mut notes)?;
    } else if choices.exact {
        return Err(failed("the libraries of a program that does not run are not known: name a process"));
    }
    Ok((app, notes))
}

/// What a process has loaded becomes part of its registration.
fn libraries(app: &mut App, peer: &Peer, exact: bool, notes: &mut Vec<String>) -> Result<(), Refusal> {
    let seen = peer.facts(&app.path, app.unit.is_some())?;
    let code = seen.code.map_err(failed)?;
    let mut files = std::collections::BTreeMap::new();
    let mut open = Vec::new();
    for file in code.files {
        let digest = file.digest.map_err(|why| failed(format!("{}: {why}", file.path.display())))?;
        if digest == app.sha256 {
            continue;
        }
        if !file.sealed {
            open.push(file.path.display().to_string());
        }
        files.insert(file.path, digest);
    }
    if !open.is_empty() {
        notes.push(format!(
            "can be changed by others than root, and so stand with their digests: {}",
            open.join(", ")
        ));
    }
    if exact || !open.is_empty() {
        app.libs = Libs::Exact(files);
    }
    let made: Vec<String> = code.writable.into_iter().chain(code.anonymous).collect();
    if !made.is_empty() && !app.allow_jit {
        notes.push(format!(
            "it executes memory that is no file's ({} areas): it is refused until --allow-jit is given, and reaches T1 \
             at most then",
            made.len()
        ));
    }
    if let (Ok(status), Ok(usual)) = (&seen.status, &seen.usual_filters)
        && status.filters.count > usual.count
    {
        app.seccomp = Seccomp::Filter;
        notes.push("it runs under a system call filter, and must from now on".into());
    }
    Ok(())
}

fn rows_of(rows: &[Row]) -> Vec<Value> {
    rows.iter()
        .map(|Row { check, finding }| {
            let (word, code, why) = match finding {
                Finding::Good => ("ok", None, String::new()),
                Finding::Bad(code, why) => ("refused", Some(code.as_str()), why.clone()),
                Finding::Unseen(why) => ("not seen", None, why.clone()),
                Finding::Caps(tier, why) => ("ok", None, format!("{tier:?} at most: {why}")),
            };
            json!({"check": check, "verdict": word, "code": code, "sentence": why})
        })
        .collect()
}

/// The full check of a running process, row by row, as if it had just connected.
pub fn verify(apps: &Apps, pid: i32) -> Result<Value, Refusal> {
    let peer = Peer::of_process(pid, &Eyes::open(), apps).map_err(failed)?;
    let app = peer.app(apps)?;
    let outcome = |proven| peer.rows(app, proven, now()).map(|rows| (rows_of(&rows), verdict(app, rows)));
    let ((_, plain), (rows, hello)) = (outcome(false)?, outcome(true)?);
    let told = |outcome: &Result<Tier, Refusal>| match outcome {
        Ok(tier) => json!({"tier": tier}),
        Err(refusal) => json!({"refused": refusal.code.as_str(), "sentence": refusal.sentence}),
    };
    Ok(json!({
        "app": app.id,
        "process": peer.describe(),
        "accepted": hello.is_ok(),
        "checks": rows,
        "without_hello": told(&plain),
        "with_hello": told(&hello),
    }))
}

/// What is seen on this machine, for status and doctor.
#[must_use]
pub fn attestation(host: &Host) -> Value {
    json!({"level": host.level(), "of": 3, "lacks": host.lacks()})
}

/// A registration, for people and programs.
#[must_use]
pub fn describe(app: &App) -> Value {
    json!({
        "id": app.id,
        "path": app.path,
        "sha256": hex::encode(app.sha256),
        "uid": app.uid,
        "gid": app.gid,
        "unit": app.unit,
        "tier": app.least(),
        "libs": match &app.libs {
            Libs::RootOwned => json!("root-owned"),
            Libs::Exact(files) => files.iter().map(|(p, d)| (p.display().to_string(), json!(hex::encode(d)))).collect::<serde_json::Map<_, _>>().into(),
        },
        "allow_jit": app.allow_jit,
        "seccomp": if app.seccomp == Seccomp::Filter { "filter" } else { "none" },
        "serial": app.serial,
        "not_after": app.not_after.map(|t| t.to_string()),
        "revoked": app.revoked,
        "scope": {"keys": app.scope.keys, "purposes": app.scope.purposes},
        "release_keys": app.release_keys.iter().map(SshKey::fingerprint).collect::<Vec<_>>(),
        "state": super::registry::state(app),
    })
}
