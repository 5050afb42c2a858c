//! Judges what was seen of a process against what is registered: one row a check, and what follows from all of them.
//!
//! A check that fails refuses. One that could not be made lowers the tier to T0; the registration says which tier is
//! the least.
#![forbid(unsafe_code)]

use super::facts::{Facts, FileFacts, PinFacts};
use super::{App, Libs, Seccomp};
use crate::core::proof::Tier;
use crate::core::units::Timestamp;
use crate::refusal::{Code, Refusal};

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// As it must be.
    Good,
    /// Refused, and why.
    Bad(Code, String),
    /// Could not be seen, and why: T0 at most.
    Unseen(String),
    /// As it may be, but no better than this tier.
    Caps(Tier, String),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub check: &'static str,
    /// What it came to.
    pub finding: Finding,
}

/// Which connection asks.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// What was known when it was accepted.
    pub pin: &'a PinFacts,
    /// The request carries this connection's nonce.
    pub proven: bool,
    /// Now.
    pub now: Timestamp,
}

/// All checks, in the order in which they refuse.
#[must_use]
pub fn rows(app: &App, asking: Asking<'_>, facts: &Facts) -> Vec<Row> {
    let row = |check, finding| Row { check, finding };
    vec![
        row("registration", registration(app, asking.now)),
        row("process", process(facts, asking.pin)),
        row("namespaces", namespaces(app, facts)),
        row("user", user(app, asking.pin, facts)),
        row("executable", executable(app, facts)),
        row("tracer", tracer(facts)),
        row("system call filters", filters(app, facts)),
        row("code", code(app, facts)),
        row("code pages", pages(facts)),
        row("writable code", writable(app, facts)),
        row("isolation", isolation(app, asking, facts)),
    ]
}

/// What follows: the tier, or the first refusal.
pub fn judge(app: &App, asking: Asking<'_>, facts: &Facts) -> Result<Tier, Refusal> {
    verdict(app, rows(app, asking, facts))
}

/// What follows from the rows.
// [clause 8.2.4-c] every check refuses by itself, and one that could not be made earns no tier
pub fn verdict(app: &App, rows: Vec<Row>) -> Result<Tier, Refusal> {
    let (mut tier, mut why) = (Tier::T3, Vec::new());
    for Row { check, finding } in rows {
        match finding {
            Finding::Good => {}
            Finding::Bad(code, sentence) => {
                return Err(Refusal::new(code, format!("{}: {sentence}", app.id)));
            }
            Finding::Unseen(reason) => {
                tier = Tier::T0;
                why.push(format!("{check} could not be checked ({reason})"));
            }
            Finding::Caps(most, reason) => {
                tier = tier.min(most);
                why.push(reason);
            }
        }
    }
    if tier < app.least() {
        let sentence =
            format!("{} must be seen at {:?} and is at {tier:?}: {}", app.id, app.least(), why.join("; "));
        return Err(Refusal::new(Code::AppTier, sentence));
    }
    Ok(tier)
}

fn registration(app: &App, now: Timestamp) -> Finding {
    if app.revoked {
        return Finding::Bad(Code::AppRevoked, "the registration was revoked".into());
    }
    if app.unsigned {
        let why = "nobody has signed the registration, and this deployment wants a signature";
        return Finding::Bad(Code::AppUnsigned, why.into());
    }
    match app.not_after {
        Some(end) if now >= end => Finding::Bad(Code::AppExpired, format!("the registration ended at {end}")),
        _ => Finding::Good,
    }
}

fn process(facts: &Facts, pin: &PinFacts) -> Finding {
    if facts.same {
        Finding::Good
    } else {
        let why = format!("process {} has ended, or runs another program than when it connected", pin.pid);
        Finding::Bad(Code::AppChanged, why)
    }
}

fn namespaces(app: &App, facts: &Facts) -> Finding {
    match &facts.elsewhere {
        Err(why) => Finding::Unseen(why.clone()),
        Ok(elsewhere) => {
            // The service manager gives a unit mounts of its own, and nobody else can start something in it.
            let unit = in_unit(app, facts) == Some(true);
            let strange: Vec<_> =
                elsewhere.iter().filter(|n| !(unit && n.as_str() == "mnt")).map(String::as_str).collect();
            if strange.is_empty() {
                Finding::Good
            } else {
                let why = format!("it runs in another {} namespace than the daemon", strange.join(" and "));
                Finding::Bad(Code::AppNamespace, why)
            }
        }
    }
}

fn user(app: &App, pin: &PinFacts, facts: &Facts) -> Finding {
    let status = match &facts.status {
        Ok(status) => status,
        Err(why) => return Finding::Unseen(why.clone()),
    };
    if pin.uid != app.uid || status.uids != [app.uid; 4] {
        let why = format!("it runs under users {:?}, not {} alone", status.uids, app.uid);
        return Finding::Bad(Code::AppChanged, why);
    }
    match app.gid {
        Some(gid) if pin.gid != gid || status.egid != gid => {
            let why = format!(
                "its group is {} (when it connected {}), not {gid}, which its executable is setgid to",
                status.egid, pin.gid
            );
            Finding::Bad(Code::AppGroup, why)
        }
        _ => Finding::Good,
    }
}

fn executable(app: &App, facts: &Facts) -> Finding {
    let exe = match &facts.exe {
        Ok(exe) => exe,
        Err(why) => return Finding::Bad(Code::AppUnseen, format!("its executable cannot be read: {why}")),
    };
    if let Some(refused) = replaced(exe, facts.named.as_ref().ok().copied()) {
        return Finding::Bad(Code::AppReplaced, refused);
    }
    match &exe.digest {
        Ok(digest) if digest == &app.sha256 => Finding::Good,
        Ok(digest) => Finding::Bad(
            Code::AppReplaced,
            format!("{} has SHA-256 {}, not the registered one", exe.path.display(), hex::encode(digest)),
        ),
        Err(why) => Finding::Bad(Code::AppUnseen, format!("its executable cannot be read: {why}")),
    }
}

/// Why an executable is not the file that a path leads to.
// [clause 8.2.4-a] a deleted, replaced, copied or hidden executable has the right name and is not it
#[must_use]
pub fn replaced(exe: &FileFacts, named: Option<(u64, u64)>) -> Option<String> {
    let path = exe.path.display();
    if exe.links == 0 {
        return Some(format!("{path} was deleted or replaced after it was started"));
    }
    match named {
        Some(named) if exe.is(named) => None,
        Some(_) => Some(format!("{path} is not the file that runs (replaced, copied or hidden by a mount)")),
        None => Some(format!("{path} leads to no file that the daemon can see")),
    }
}

fn tracer(facts: &Facts) -> Finding {
    match &facts.tracer {
        Ok(0) => Finding::Good,
        Ok(pid) => Finding::Bad(Code::AppTraced, format!("process {pid} traces one of its threads")),
        Err(why) => Finding::Unseen(why.clone()),
    }
}

fn filters(app: &App, facts: &Facts) -> Finding {
    let (found, usual) = match (&facts.status, &facts.usual_filters) {
        (Ok(status), Ok(usual)) => (status.filters, *usual),
        (Err(why), _) | (_, Err(why)) => return Finding::Unseen(why.clone()),
    };
    match app.seccomp {
        Seccomp::Usual if found == usual => Finding::Good,
        Seccomp::Usual => {
            let why = format!(
                "it runs under {} system call filters (no_new_privs {}), registered is none: whoever started it \
                 may answer its system calls",
                found.count, found.no_new_privs
            );
            Finding::Bad(Code::AppSeccomp, why)
        }
        Seccomp::Filter if found.mode != 2 || found.count <= usual.count => Finding::Bad(
            Code::AppSeccomp,
            "it is registered to run under a system call filter of its own, and does not".into(),
        ),
        Seccomp::Filter if app.unit.is_some() => Finding::Good,
        Seccomp::Filter => {
            Finding::Caps(Tier::T1, "it runs under a filter, and nothing says whose it is".into())
        }
    }
}

fn code(app: &App, facts: &Facts) -> Finding {
    let code = match &facts.code {
        Ok(code) => code,
        Err(why) => return Finding::Unseen(why.clone()),
    };
    let mut unseen = None;
    for file in &code.files {
        let path = file.path.display();
        if file.links == 0 {
            return Finding::Bad(
                Code::AppForeignCode,
                format!("{path} was deleted or replaced and still runs"),
            );
        }
        match &file.digest {
            Ok(digest) if digest == &app.sha256 || app.takes(digest, file.sealed) => {}
            Ok(digest) => {
                let why = format!("{path} (sha256 {}) runs in it and is not allowed to", hex::encode(digest));
                return Finding::Bad(Code::AppForeignCode, why);
            }
            Err(why) => unseen = Some(format!("{path}: {why}")),
        }
    }
    let runs = facts.exe.as_ref().is_ok_and(|exe| code.files.iter().any(|f| f.is((exe.dev, exe.ino))));
    match unseen {
        Some(why) => Finding::Unseen(why),
        None if !runs => {
            Finding::Bad(Code::AppForeignCode, "its own executable is not what it executes".into())
        }
        None => Finding::Good,
    }
}

fn pages(facts: &Facts) -> Finding {
    match facts.code.as_ref().map(|code| &code.changed.0) {
        Ok(Ok(changed)) if changed.is_empty() => Finding::Good,
        Ok(Ok(changed)) => {
            Finding::Bad(Code::AppPatched, format!("its code was changed in memory: {}", changed.join(", ")))
        }
        Ok(Err(why)) | Err(why) => Finding::Unseen(why.clone()),
    }
}

fn writable(app: &App, facts: &Facts) -> Finding {
    // Where nothing could be seen, the row of the code says so.
    let Ok(code) = &facts.code else { return Finding::Good };
    let found: Vec<&str> = code.writable.iter().chain(&code.anonymous).map(String::as_str).collect();
    match (found.is_empty(), app.allow_jit) {
        (true, false) => Finding::Good,
        (_, true) => Finding::Caps(Tier::T1, "it may make code while it runs (allow_jit)".into()),
        (false, false) => {
            let why =
                format!("it executes memory that is no file's, or that can be written: {}", found.join(", "));
            Finding::Bad(Code::AppWritableCode, why)
        }
    }
}

/// Whether it runs in the unit that is registered; `None` where none is.
fn in_unit(app: &App, facts: &Facts) -> Option<bool> {
    let unit = app.unit.as_ref()?;
    Some(facts.group.as_ref().is_ok_and(|group| *group == format!("/system.slice/{unit}")))
}

/// What keeps other programs of the same user out.
fn isolation(app: &App, asking: Asking<'_>, facts: &Facts) -> Finding {
    let caps = |most, why: &str| Finding::Caps(most, why.to_owned());
    if !asking.pin.race_free && !asking.proven {
        return caps(Tier::T0, "before Linux 6.5 only a connection that says hello is known to be its own");
    }
    match in_unit(app, facts) {
        Some(false) => {
            let found = facts.group.clone().unwrap_or_else(|why| why);
            let why = format!("it runs in {found}, not in the system unit that is registered");
            return Finding::Bad(Code::AppGroup, why);
        }
        Some(true) if sealed(facts) => return Finding::Good,
        _ => {}
    }
    if !sealed(facts) {
        return caps(Tier::T1, "its executable can be changed by others than root");
    }
    match &facts.dumpable {
        Ok(false) => {}
        Ok(true) => return caps(Tier::T1, "programs of the same user may write to its memory (dumpable)"),
        Err(why) => return Finding::Caps(Tier::T1, format!("whether it is dumpable is not known: {why}")),
    }
    // The group was the executable's own when it connected: then nobody else made the connection for it.
    if asking.proven || app.gid.is_some() {
        caps(Tier::T2, "it runs in no system unit of its own")
    } else {
        caps(
            Tier::T1,
            "it has not said hello, and is setgid to no group: it may have inherited the connection",
        )
    }
}

fn sealed(facts: &Facts) -> bool {
    facts.exe.as_ref().is_ok_and(|exe| exe.sealed)
        && facts.code.as_ref().is_ok_and(|code| code.files.iter().all(|file| file.sealed))
}

impl App {
    /// Whether code of this digest may run in it.
    fn takes(&self, digest: &[u8; 32], sealed: bool) -> bool {
        match &self.libs {
            Libs::RootOwned => sealed,
            Libs::Exact(known) => known.values().any(|d| d == digest),
        }
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
