//! EDGE. `claviger-connect`: speaks on `wallet.sock` for one app, whatever language that is written in.
//!
//! It is setgid to a group of its own, so that nobody gets into it, and whoever can start it could speak for the app. So it
//! speaks for a user who is the app's alone, as a file of root's beside it says, and for nobody else (docs/apps.md). It
//! takes no words, reads no environment, starts nothing and loads nothing.
#![forbid(unsafe_code)]

mod parent;
mod relay;
mod settings;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::refusal::{Code, Refusal};
use crate::sys;
use crate::wire::rpc::{self, Dialect};
use parent::Parent;
use settings::Settings;

/// How long the daemon has for its answer to the hello.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer to the hello, bytes.
const LONGEST_HELLO: usize = 4096;

/// Why it does not speak.
enum Silence {
    /// It was given words.
    Usage,
    /// It does not vouch for who started it.
    Refused(Refusal),
    /// The daemon is not there, or is not the daemon.
    Unreachable(String),
}

impl From<Refusal> for Silence {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn refuse(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::ConnectRefused, why)
}

/// Everything that a relay needs.
struct Ready {
    parent: Parent,
    socket: UnixStream,
    nonce: String,
}

/// Runs the helper. Exit codes as those of `claviger`: 1 refused, 2 wrong usage, 3 no daemon.
#[must_use]
pub fn main() -> ExitCode {
    match prepare() {
        Ok(ready) => relay::run(ready),
        Err(Silence::Usage) => {
            eprintln!(
                "claviger-connect relays JSON-RPC between its standard input and output and clavigerd, for the app that it \
                 was installed for; it takes no arguments (docs/apps.md)"
            );
            ExitCode::from(2)
        }
        Err(Silence::Refused(refusal)) => {
            eprintln!("claviger-connect: {}; {}", refusal.sentence, refusal.code.advice());
            // Apps read standard output: the same as a reply to nothing.
            answer(&Value::Null, &refusal);
            ExitCode::from(1)
        }
        Err(Silence::Unreachable(why)) => {
            eprintln!("claviger-connect: {why}");
            ExitCode::from(3)
        }
    }
}

/// Tells the app of a refusal.
fn answer(id: &Value, refusal: &Refusal) {
    say(&rpc::error(id, refusal, Dialect::Native));
}

fn say(reply: &Value) {
    let mut out = std::io::stdout().lock();
    // An app that left hears nothing.
    out.write_all(&rpc::line(reply)).and_then(|()| out.flush()).ok();
}

/// Gets rid of what was handed over, looks who hands it over, and connects.
// [clause 8.2.4-p] refuses before it says a word to the daemon
fn prepare() -> Result<Ready, Silence> {
    let failed = |what: &str, e: std::io::Error| Silence::Refused(refuse(format!("{what}: {e}")));
    if std::env::args_os().count() > 1 {
        return Err(Silence::Usage);
    }
    sys::start::close_inherited().map_err(|e| failed("descriptors cannot be closed", e))?;
    sys::start::forget_environment();
    std::env::set_current_dir("/").map_err(|e| failed("the root directory cannot be entered", e))?;
    sys::harden_process().map_err(|e| failed("this process cannot be closed to others", e))?;
    let ids = sys::start::ids().map_err(|e| failed("its own ids cannot be read", e))?;
    let [real_group, group, _] = ids.groups;
    // Without it programs of the same user reach into it, and the group is no mark of it. The kernel also takes it away
    // from a program that is traced from its start.
    if real_group == group || !sys::start::with_privileges() {
        return Err(
            refuse("it is not setgid to a group of its own, or the setgid bit does not count here").into()
        );
    }
    let settings = Settings::beside_this_program()?;
    if ids.users != [settings.uid; 3] {
        let why = format!("users {:?} started it, and it speaks for user {} alone", ids.users, settings.uid);
        return Err(refuse(why).into());
    }
    let parent = Parent::look(&settings, real_group)?;
    let place = settings.socket.display();
    let unreachable =
        |e: std::io::Error| Silence::Unreachable(format!("the daemon does not answer on {place}: {e}"));
    let mut socket = UnixStream::connect(&settings.socket).map_err(unreachable)?;
    let listener = sys::peer_credentials(socket.as_fd()).map_err(unreachable)?.uid;
    if listener != settings.daemon {
        let why = format!("{place} belongs to user {listener}, not to {}", settings.daemon);
        return Err(Silence::Unreachable(why));
    }
    socket.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    let nonce = hello(&mut socket).map_err(unreachable)?;
    socket.set_read_timeout(None).map_err(unreachable)?;
    Ok(Ready { parent, socket, nonce })
}

fn hello(socket: &mut UnixStream) -> std::io::Result<String> {
    socket.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"claviger_hello\"}\n")?;
    let mut line = Vec::with_capacity(LONGEST_HELLO);
    let mut byte = [0; 1];
    while !line.ends_with(b"\n") {
        if line.len() == LONGEST_HELLO || socket.read(&mut byte)? == 0 {
            return Err(std::io::Error::other("the connection was closed at the hello"));
        }
        line.extend_from_slice(&byte);
    }
    let reply: Value = serde_json::from_slice(&line)?;
    let nonce = reply.pointer("/result/nonce").and_then(Value::as_str);
    let nonce = nonce.filter(|n| n.len() == 32 && n.bytes().all(|b| b.is_ascii_hexdigit()));
    nonce
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other(format!("it answers the hello with {reply}")))
}
