//! The rules now in force and the sessions now open.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_OK, CKR_OPERATION_ACTIVE, CKR_SESSION_COUNT,
    CKR_SESSION_HANDLE_INVALID, CKR_VENDOR_DEFINED,
};

use crate::calls::{Function, Out};
use crate::rule::{Act, Rule};

/// What every call answers while the control file cannot be understood.
const BAD_CONTROL: CK_RV = CKR_VENDOR_DEFINED | 0x5348;

/// The stamp of no control file.
const ABSENT: u64 = 0;
/// The stamp of a file that cannot even be looked at.
const HIDDEN: u64 = 1;

static STATE: Mutex<State> = Mutex::new(State::new());
/// Whether a call may be anything but passed through; read without the lock.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The stamp of the version of the control file that is in force.
static STAMP: AtomicU64 = AtomicU64::new(ABSENT);
/// When the file was last looked at, in ns since the first call, with `SHIM_STAT_MS`.
static LOOKED: AtomicU64 = AtomicU64::new(0);
static SETTINGS: OnceLock<Settings> = OnceLock::new();

struct Settings {
    control: Option<OsString>,
    pause: Duration,
    start: Instant,
}

pub struct State {
    rules: Vec<Rule>,
    broken: bool,
    sessions: BTreeMap<CK_SESSION_HANDLE, CK_SLOT_ID>,
    opening: usize,
    stuck: BTreeSet<(CK_SESSION_HANDLE, Function)>,
}

/// What happens before the call is passed on, and after.
#[derive(Default)]
pub struct Plan {
    pub before: Vec<Step>,
    pub after: Vec<Step>,
}

pub enum Step {
    Wait(Duration),
    /// Until this line is no longer in the file.
    Hang(String, usize),
    Note,
    Act(Act),
}

/// The state, with the control file as it is now; none if there is nothing to do but to pass the call on.
pub fn current() -> Option<MutexGuard<'static, State>> {
    let changed = look();
    if changed.is_none() && !BUSY.load(Ordering::Acquire) {
        return None;
    }
    let mut state = lock();
    if changed.is_some() {
        state.read();
    }
    Some(state)
}

pub fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settings() -> &'static Settings {
    SETTINGS.get_or_init(|| Settings {
        control: env::var_os("SHIM_CONTROL"),
        pause: env::var("SHIM_STAT_MS")
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(Duration::ZERO, Duration::from_millis),
        start: Instant::now(),
    })
}

/// The file's new stamp, if it is another file than the one in force.
fn look() -> Option<u64> {
    let settings = settings();
    let control = settings.control.as_ref()?;
    if !settings.pause.is_zero() {
        let now = u64::try_from(settings.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let last = LOOKED.load(Ordering::Relaxed);
        if last != 0 && u128::from(now.saturating_sub(last)) < settings.pause.as_nanos() {
            return None;
        }
        LOOKED.store(now, Ordering::Relaxed);
    }
    let stamp = stamp_at(control);
    (stamp != STAMP.load(Ordering::Acquire)).then_some(stamp)
}

fn stamp_at(path: &OsStr) -> u64 {
    match fs::metadata(path) {
        Ok(of) => stamp(&of),
        Err(why) if why.kind() == ErrorKind::NotFound => ABSENT,
        Err(_) => HIDDEN,
    }
}

/// Never `ABSENT`.
fn stamp(of: &Metadata) -> u64 {
    let parts = [
        of.dev(),
        of.ino(),
        of.size(),
        of.mtime().cast_unsigned(),
        of.mtime_nsec().cast_unsigned(),
        of.ctime().cast_unsigned(),
        of.ctime_nsec().cast_unsigned(),
    ];
    let mix = |hash: u64, part: u64| (hash ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    parts.into_iter().fold(1, mix) | 1
}

impl State {
    const fn new() -> Self {
        Self {
            rules: Vec::new(),
            broken: false,
            sessions: BTreeMap::new(),
            opening: 0,
            stuck: BTreeSet::new(),
        }
    }

    /// Reads the control file. Lines that were there before keep their counts.
    fn read(&mut self) {
        let Some(path) = &settings().control else { return };
        let (found, text) = load(path);
        if found != ABSENT && found == STAMP.load(Ordering::Acquire) {
            return; // Another thread was first.
        }
        match text.and_then(|text| parse(&text)) {
            Ok(mut rules) => {
                for rule in &mut rules {
                    if let Some(old) = self.find(&rule.text, rule.nth) {
                        rule.resume(old);
                    }
                }
                (self.rules, self.broken) = (rules, false);
            }
            Err(why) => {
                eprintln!("fault-shim: SHIM_CONTROL: {why}");
                (self.rules, self.broken) = (Vec::new(), true);
            }
        }
        self.publish();
        STAMP.store(found, Ordering::Release);
    }

    fn publish(&self) {
        let busy = self.broken || !self.rules.is_empty() || !self.stuck.is_empty();
        BUSY.store(busy, Ordering::Release);
    }

    fn find(&self, text: &str, nth: usize) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.text == text && rule.nth == nth)
    }

    /// Whether a line is still in the file.
    pub fn holds(&self, text: &str, nth: usize) -> bool {
        self.find(text, nth).is_some()
    }

    /// What this call meets. Rules count in the order of the file, up to the first that ends the call.
    pub fn plan(&mut self, function: Function, on: u64, out: Out) -> Plan {
        let mut plan = Plan::default();
        if self.broken {
            plan.before.push(Step::Act(Act::Return(BAD_CONTROL)));
            return plan;
        }
        if self.stuck.contains(&(on, function)) {
            plan.before.push(Step::Act(Act::Return(CKR_OPERATION_ACTIVE)));
            return plan;
        }
        let query = out.is_query();
        let sessions = self.sessions.len().saturating_add(self.opening);
        for rule in &mut self.rules {
            if !rule.about(function, query)
                || matches!(rule.act, Some(Act::Limit(limit)) if sessions < limit)
                || !rule.fires(first)
            {
                continue;
            }
            let steps = if rule.late { &mut plan.after } else { &mut plan.before };
            if rule.note {
                steps.push(Step::Note);
            }
            steps.extend(rule.wait.map(Step::Wait));
            if rule.hang {
                steps.push(Step::Hang(rule.text.clone(), rule.nth));
            }
            match rule.act {
                None => {}
                Some(act @ (Act::Corrupt { .. } | Act::Empty | Act::Flags { .. })) => {
                    plan.after.push(Step::Act(act));
                }
                Some(act) => {
                    steps.push(Step::Act(match act {
                        Act::Limit(_) => Act::Return(CKR_SESSION_COUNT),
                        Act::Stuck => {
                            self.stuck.insert((on, function));
                            Act::Return(CKR_OPERATION_ACTIVE)
                        }
                        other => other,
                    }));
                    break;
                }
            }
        }
        plan
    }

    /// A session may soon be open: it counts from now on.
    pub fn opening(&mut self) {
        self.opening = self.opening.saturating_add(1);
    }

    /// Follows what the wrapped module did; none if the call never reached it.
    pub fn settle(&mut self, function: Function, on: u64, out: Out, rv: Option<CK_RV>) {
        match function {
            Function::C_OpenSession => {
                self.opening = self.opening.saturating_sub(1);
                if let (Some(CKR_OK), Out::Session(session)) = (rv, out)
                    && !session.is_null()
                {
                    // SAFETY: the module answered CKR_OK and so wrote the handle there.
                    self.sessions.insert(unsafe { *session }, on);
                }
            }
            Function::C_CloseSession if matches!(rv, Some(CKR_OK | CKR_SESSION_HANDLE_INVALID)) => {
                self.sessions.remove(&on);
            }
            Function::C_CloseAllSessions if rv == Some(CKR_OK) => {
                self.sessions.retain(|_, slot| *slot != on);
            }
            Function::C_Finalize if rv == Some(CKR_OK) => self.sessions.clear(),
            _ => return,
        }
        if !self.stuck.is_empty() {
            self.stuck.retain(|(session, _)| self.sessions.contains_key(session));
            self.publish();
        }
    }
}

/// The file's stamp and text; a file that is there but cannot be read is not the same as none.
fn load(path: &OsStr) -> (u64, Result<String, String>) {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == ErrorKind::NotFound => return (ABSENT, Ok(String::new())),
        Err(why) => return (stamp_at(path), Err(why.to_string())),
    };
    let found = file.metadata().map_or(HIDDEN, |of| stamp(&of));
    let mut text = String::new();
    (found, file.read_to_string(&mut text).map(|_| text).map_err(|why| why.to_string()))
}

/// Whether no process has yet taken this name: a file beside the control file keeps it.
fn first(name: &str) -> bool {
    let Some(control) = &settings().control else { return false };
    let mut mark = control.clone();
    mark.push(format!(".{name}"));
    match File::create_new(mark) {
        Ok(_) => true,
        Err(why) if why.kind() == ErrorKind::AlreadyExists => false,
        Err(why) => {
            eprintln!("fault-shim: once={name}: {why}");
            false
        }
    }
}

fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let mut rules: Vec<Rule> = Vec::new();
    for (line, number) in text.lines().zip(1_usize..) {
        let parsed = Rule::parse(line).map_err(|why| format!("line {number}: {why}"))?;
        if let Some(mut rule) = parsed {
            rule.nth = rules.iter().filter(|other| other.text == rule.text).count();
            rules.push(rule);
        }
    }
    Ok(rules)
}
