//! Both directions, each in a thread of its own: requests get the nonce, replies pass as they are.
#![forbid(unsafe_code)]

use std::io::{Read, StdoutLock, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use serde_json::{Value, json};

use super::parent::Parent;
use super::{Ready, answer, say};
use crate::refusal::{Code, Refusal};
use crate::sys;
use crate::wire::frame::{FrameError, Limits, Splitter};
use crate::wire::rpc::{self, Message, Request};

const CHUNK: usize = 16 * 1024;
const STACK: usize = 256 * 1024;

/// Relays until the app leaves, the daemon leaves, or something is refused that cannot be gone on from.
pub(super) fn run(ready: Ready) -> ExitCode {
    let (end, ended) = channel();
    let started = start(ready, &end);
    if let Err(e) = started {
        eprintln!("claviger-connect: no threads: {e}");
        return ExitCode::FAILURE;
    }
    // The first that ends ends the others with the process: nothing outlives whom it was for.
    ended.recv().unwrap_or(ExitCode::FAILURE)
}

fn start(ready: Ready, end: &Sender<ExitCode>) -> std::io::Result<()> {
    let Ready { parent, socket, nonce } = ready;
    let parent = Arc::new(parent);
    let replies = socket.try_clone()?;
    let run = |name: &str, work: Box<dyn FnOnce() -> Option<ExitCode> + Send>| {
        let end = end.clone();
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        thread.spawn(move || work().map(|code| end.send(code).ok())).map(drop)
    };
    let watched = Arc::clone(&parent);
    run(
        "parent",
        Box::new(move || {
            // Where it cannot be waited for, nobody says any more that it lives.
            Some(sys::start::wait_for_end(watched.pidfd()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
        }),
    )?;
    run("replies", Box::new(move || Some(pass_replies(replies))))?;
    run(
        "requests",
        Box::new(move || {
            let told = Requests { parent, socket: &socket, nonce, seq: 0 }.pass(std::io::stdin().lock());
            match told {
                // No more requests come; those under way are answered first.
                Ok(()) => socket.shutdown(Shutdown::Write).err().map(|_| ExitCode::FAILURE),
                Err(Stop) => Some(ExitCode::FAILURE),
            }
        }),
    )
}

/// Passes replies on, whole lines at a time: what the helper itself has to say does not come between.
fn pass_replies(mut socket: UnixStream) -> ExitCode {
    let mut bytes = vec![0; CHUNK];
    let mut midway: Option<StdoutLock<'static>> = None;
    loop {
        let chunk = match socket.read(&mut bytes) {
            Ok(0) => return ExitCode::SUCCESS,
            Ok(n) => bytes.get(..n).unwrap_or_default(),
            Err(_) => return ExitCode::FAILURE,
        };
        let out = midway.get_or_insert_with(|| std::io::stdout().lock());
        if out.write_all(chunk).and_then(|()| out.flush()).is_err() {
            return ExitCode::FAILURE;
        }
        if chunk.ends_with(b"\n") {
            midway = None;
        }
    }
}

/// The relay ends.
struct Stop;

struct Requests<'a> {
    parent: Arc<Parent>,
    socket: &'a UnixStream,
    nonce: String,
    seq: u64,
}

impl Requests<'_> {
    fn pass(&mut self, mut input: impl Read) -> Result<(), Stop> {
        // The daemon's own bounds, held before it sees a byte.
        let mut splitter = Splitter::new(Limits::default());
        let mut bytes = vec![0; CHUNK];
        loop {
            loop {
                match splitter.take() {
                    Ok(None) => break,
                    Ok(Some(message)) => self.one(&message)?,
                    Err(error) => {
                        answer(&Value::Null, &unreadable(error));
                        return Err(Stop);
                    }
                }
            }
            match input.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(n) => splitter.feed(bytes.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(Stop),
            }
        }
    }

    fn one(&mut self, message: &[u8]) -> Result<(), Stop> {
        let request = match rpc::parse(message, 1) {
            Ok(Message::Single(Ok(request))) => request,
            Ok(Message::Single(Err((id, refusal)))) => {
                answer(&id, &refusal);
                return Ok(());
            }
            Ok(Message::Batch(_)) => {
                let why = "through claviger-connect requests come one at a time, not in a batch";
                answer(&Value::Null, &Refusal::new(Code::InvalidRequest, why));
                return Ok(());
            }
            Err(refusal) => {
                answer(&Value::Null, &refusal);
                return Ok(());
            }
        };
        // An app that says hello by itself is answered here: the nonce stays where it is used.
        if request.method == "claviger_hello" {
            if let Some(id) = &request.id {
                say(&rpc::result(id, &json!({"nonce": "0".repeat(32)})));
            }
            return Ok(());
        }
        // [clause 8.2.4-p] looked at before each request
        if let Err(refusal) = self.parent.still() {
            answer(request.id.as_ref().unwrap_or(&Value::Null), &refusal);
            return Err(Stop);
        }
        self.seq += 1;
        let line = forward(request, &self.nonce, self.seq);
        self.socket.write_all(&line).map_err(|_| Stop)
    }
}

/// What the daemon would have understood, with the proof of this connection in the place of any that came along.
fn forward(request: Request, nonce: &str, seq: u64) -> Vec<u8> {
    let mut value =
        json!({"jsonrpc": "2.0", "method": request.method, "claviger": {"nonce": nonce, "seq": seq}});
    if let Some(map) = value.as_object_mut() {
        if let Some(id) = request.id {
            map.insert("id".into(), id);
        }
        if !request.params.is_null() {
            map.insert("params".into(), request.params);
        }
    }
    rpc::line(&value)
}

fn unreadable(error: FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge(_) => Code::TooLarge,
        FrameError::TooDeep(_) => Code::TooDeep,
        FrameError::NotAMessage(_) => Code::ParseError,
    };
    Refusal::new(code, format!("{error}; the connection is closed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::app::hello::Proof;

    // [clause 8.2.4-p] test
    #[test]
    fn whatever_proof_an_app_shows_the_helper_shows_its_own() {
        for text in [
            r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":[1]}}"#,
            r#"{"jsonrpc":"2.0","id":"a","method":"m","params":{"x":[1]},"claviger":{"nonce":"00000000000000000000000000000000","seq":7}}"#,
        ] {
            let Ok(Message::Single(Ok(request))) = rpc::parse(text.as_bytes(), 1) else { panic!("{text}") };
            let line = forward(request, &"ab".repeat(16), 3);
            let Ok(Message::Single(Ok(read))) = rpc::parse(&line, 1) else { panic!("{text}") };
            assert_eq!(read.proof, Some(Proof { nonce: [0xab; 16], seq: 3 }));
            assert_eq!(
                (read.id, read.method.as_str(), read.params),
                (Some(json!("a")), "m", json!({"x": [1]}))
            );
        }
        let silent = Request { id: None, method: "m".into(), params: Value::Null, proof: None };
        let line = String::from_utf8(forward(silent, "n", 1)).unwrap();
        assert!(!line.contains("\"id\"") && !line.contains("params"), "{line}");
    }
}
