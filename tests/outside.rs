//! Whom a real daemon tells of its log: collectors that go away and come back, and a witness that forgets nothing.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Daemon, cli_ok, code};

fn pays(daemon: &Daemon, nonce: u64) -> String {
    code(&daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(nonce, 1)]))).to_owned()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn configure(daemon: &mut Daemon, more: &str) {
    let file = daemon.home.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{config}\n{more}")).unwrap();
    daemon.restart();
}

fn size(daemon: &Daemon) -> u64 {
    cli_ok(&daemon.home, &["status"])["log"]["entries"].as_u64().unwrap()
}

fn outside(daemon: &Daemon, name: &str) -> Value {
    cli_ok(&daemon.home, &["status"])["outside"][name].clone()
}

/// A port that nobody listens on now.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Collects indexes; can be told to hang up.
#[derive(Clone, Default)]
struct Collector {
    seqs: Arc<Mutex<Vec<u64>>>,
    gone: Arc<AtomicBool>,
}

impl Collector {
    fn seen(&self) -> Vec<u64> {
        self.seqs.lock().unwrap().clone()
    }

    /// Every index from 0 on, in order, some of them twice.
    fn has_all(&self, size: u64) -> bool {
        let mut next = 0;
        for seq in self.seen() {
            assert!(seq <= next, "{next} is missing before {seq}");
            next = next.max(seq + 1);
        }
        next >= size
    }

    fn run(&self, at: SocketAddr, connection: fn(&Self, TcpStream)) {
        self.gone.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let this = self.clone();
        std::thread::spawn(move || {
            while !this.gone.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).unwrap();
                        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                        let this = this.clone();
                        std::thread::spawn(move || connection(&this, stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
    }

    fn bytes(&self, stream: &mut TcpStream, into: &mut Vec<u8>) -> bool {
        let mut part = [0; 8192];
        match stream.read(&mut part) {
            Ok(0) => false,
            Ok(n) => {
                into.extend_from_slice(&part[..n]);
                true
            }
            Err(_) => !self.gone.load(Ordering::SeqCst),
        }
    }

    /// OTLP/HTTP.
    fn otlp(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
                assert!(head.starts_with("post /v1/logs http/1.0"), "{head}");
                let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
                let length: usize = length.trim().parse().unwrap();
                if bytes.len() >= end + 4 + length {
                    let body: Value = serde_json::from_slice(&bytes[end + 4..end + 4 + length]).unwrap();
                    let records = &body["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
                    for record in records.as_array().unwrap() {
                        let seq = record["attributes"][0]["value"]["intValue"].as_str().unwrap();
                        let entry: Value =
                            serde_json::from_str(record["body"]["stringValue"].as_str().unwrap()).unwrap();
                        assert_eq!(entry["seq"].to_string(), seq);
                        self.seqs.lock().unwrap().push(seq.parse().unwrap());
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok();
                    return;
                }
            }
            if !self.bytes(&mut stream, &mut bytes) {
                return;
            }
        }
    }

    /// RFC 5424 in counted octets.
    fn syslog(&self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while self.bytes(&mut stream, &mut bytes) {
            while let Some(space) = bytes.iter().position(|b| *b == b' ') {
                let length: usize = std::str::from_utf8(&bytes[..space]).unwrap().parse().unwrap();
                if bytes.len() < space + 1 + length {
                    break;
                }
                let message = String::from_utf8(bytes[space + 1..space + 1 + length].to_vec()).unwrap();
                assert!(message.starts_with('<') && message.contains(" clavigerd "), "{message}");
                let json = &message[message.find("] {").unwrap() + 2..];
                let entry: Value = serde_json::from_str(json).unwrap();
                self.seqs.lock().unwrap().push(entry["seq"].as_u64().unwrap());
                bytes.drain(..space + 1 + length);
            }
        }
    }
}

// [clause 8.4.3-x] test
#[test]
fn collectors_that_go_away_and_come_back_miss_nothing() {
    let mut daemon = Daemon::start();
    let (otlp, syslog) = (Collector::default(), Collector::default());
    let (otlp_at, syslog_at) = (free(), free());
    otlp.run(otlp_at, Collector::otlp);
    syslog.run(syslog_at, Collector::syslog);
    let lines = daemon.home.join("out.jsonl");
    configure(
        &mut daemon,
        &format!(
            "[export]\nlag_limit = 20\njsonl = {{ file = \"out.jsonl\" }}\notlp.url = \"http://{otlp_at}/v1/logs\"\nsyslog.to = \"tcp:{syslog_at}\"\n"
        ),
    );
    for nonce in 0..5 {
        assert_eq!(pays(&daemon, nonce), "ok");
    }
    let now = size(&daemon);
    until("the first entries", || otlp.has_all(now) && syslog.has_all(now));
    // Both go away; payments are signed all the same, and somebody is told, once.
    otlp.gone.store(true, Ordering::SeqCst);
    syslog.gone.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(200));
    for nonce in 5..25 {
        let began = Instant::now();
        assert_eq!(pays(&daemon, nonce), "ok");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    until("an alarm for each", || {
        outside(&daemon, "otlp")["alarm"] == true && outside(&daemon, "syslog")["alarm"] == true
    });
    assert!(outside(&daemon, "otlp")["lag"].as_u64().unwrap() > 20);
    // The daemon dies in between as well.
    daemon.signal("KILL");
    daemon.restart();
    for nonce in 25..30 {
        assert_eq!(pays(&daemon, nonce), "ok");
    }
    otlp.run(otlp_at, Collector::otlp);
    syslog.run(syslog_at, Collector::syslog);
    let now = size(&daemon);
    until("everything", || otlp.has_all(now) && syslog.has_all(now));
    until("no lag", || {
        let told = outside(&daemon, "syslog");
        told["next"].as_u64().is_some_and(|n| n >= now) && told["alarm"] == false
    });
    let text = std::fs::read_to_string(&lines).unwrap();
    let seqs: Vec<u64> =
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64().unwrap()).collect();
    assert!(
        seqs.iter().zip(0..).all(|(seq, at)| *seq == at),
        "a file has no gap, and nothing twice: {seqs:?}"
    );
    assert!(seqs.len() as u64 >= now);
    let alarms = |about: &str| {
        text.lines()
            .map(|l| serde_json::from_str::<Value>(l).unwrap())
            .filter(|e| e["kind"] == "alarm" && e["what"] == "export-lag" && e["about"] == about)
            .count()
    };
    // Once before the crash; perhaps once more by the daemon that came after it.
    assert!((1..=2).contains(&alarms("otlp")) && (1..=2).contains(&alarms("syslog")));
    assert_eq!(daemon.verify_log()["alarms"].as_u64().unwrap(), (alarms("otlp") + alarms("syslog")) as u64);
}

// [clause 8.4.3-x] test
#[test]
fn a_log_that_is_not_the_one_that_went_out_is_noticed_and_goes_out_anew() {
    let mut daemon = Daemon::start();
    configure(&mut daemon, "[export]\njsonl = { file = \"out.jsonl\" }\n");
    assert_eq!(pays(&daemon, 0), "ok");
    let now = size(&daemon);
    until("the first entries", || outside(&daemon, "jsonl")["next"].as_u64().is_some_and(|n| n >= now));
    daemon.signal("TERM");
    assert!(daemon.wait());
    // Another log stood here when the last entry went out.
    let cursor = daemon.home.join("state/outbox/jsonl.cursor");
    let text = std::fs::read_to_string(&cursor).unwrap();
    let (next, _) = text.split_once(' ').unwrap();
    std::fs::write(&cursor, format!("{next} {}\n", "ab".repeat(32))).unwrap();
    let before = std::fs::read_to_string(daemon.home.join("out.jsonl")).unwrap().lines().count();
    daemon.restart();
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(daemon.home.join("out.jsonl")).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    };
    until("the alarm", || lines().iter().any(|e| e["kind"] == "alarm" && e["what"] == "export-gap"));
    let again: Vec<Value> = lines().split_off(before);
    assert!(again.iter().zip(0u64..).all(|(e, seq)| e["seq"] == seq), "{again:?}");
    daemon.verify_log();
}

struct Witness(Child);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts one; its address and key.
fn witness(dir: &Path, listen: &str, log: &Path) -> (Witness, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .args(["witness", "serve", "--name", "witness.example/1", "--listen", listen])
        .arg("--dir")
        .arg(dir)
        .arg("--log")
        .arg(log)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.next().unwrap().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    let key = lines.next().unwrap().unwrap();
    (Witness(child), address, key)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

// [clause 8.7.1-w] test
#[test]
fn a_witness_finds_a_log_that_was_rolled_back() {
    let mut daemon = Daemon::start();
    let first = daemon.home.join("first");
    cli_ok(&daemon.home, &["log", "export", first.to_str().unwrap()]);
    let log = first.join("log.vkey");
    let dir = daemon.home.join("witness");
    let (running, address, key) = witness(&dir, "127.0.0.1:0", &log);
    // The token would find it too: here it is the witness alone.
    configure(
        &mut daemon,
        &format!("[anchor]\nmode = \"none\"\n[[witness]]\nurl = \"{address}\"\nkey = \"{key}\"\n"),
    );
    let name = "witness witness.example/1";
    until("a cosignature", || outside(&daemon, name)["next"].as_u64().is_some_and(|n| n > 0));
    for nonce in 0..3 {
        assert_eq!(pays(&daemon, nonce), "ok");
    }
    // The export waits for the witness, and an auditor who asks for it is content.
    let dir_of = |n: &str| daemon.home.join(n);
    let (whole, keys) = (dir_of("whole"), dir_of("witnesses"));
    std::fs::write(&keys, format!("# who watches\n{key}\n")).unwrap();
    cli_ok(&daemon.home, &["log", "export", whole.to_str().unwrap()]);
    let audit = |dir: &Path| {
        let out = Command::new(env!("CARGO_BIN_EXE_claviger-verify"))
            .args(["--json", "log", dir.to_str().unwrap(), "--strict", "--key", log.to_str().unwrap()])
            .args(["--witness", keys.to_str().unwrap()])
            .output()
            .unwrap();
        let told: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (out.status.code().unwrap(), told)
    };
    let (exit, told) = audit(&whole);
    assert_eq!((exit, &told["cosigned_by"]), (0, &json!(["witness.example/1"])), "{told}");
    assert_eq!(audit(&first).0, 1, "one that no witness cosigned");
    let proof = dir_of("proof");
    std::fs::write(&proof, cli_ok(&daemon.home, &["log", "prove", "3"])["proof"].as_str().unwrap()).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_claviger-verify"))
        .args(["proof", proof.to_str().unwrap(), "--key", log.to_str().unwrap()])
        .args(["--witness", keys.to_str().unwrap()])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(checked.success());

    // A witness that is gone for a while costs nothing but its word, and goes on where it was.
    drop(running);
    assert_eq!(pays(&daemon, 3), "ok");
    until("it is missed", || outside(&daemon, name)["trouble"].is_string());
    let at = address.strip_prefix("http://").unwrap();
    let (_running, _, again) = witness(&dir, at, &log);
    assert_eq!(again, key, "its key is kept");
    daemon.signal("TERM");
    assert!(daemon.wait());
    let (state, yesterday) = (daemon.home.join("state"), daemon.home.join("yesterday"));
    copy(&state, &yesterday);
    daemon.restart();
    until("it cosigns again", || outside(&daemon, name)["trouble"].is_null());
    for nonce in 4..30 {
        assert_eq!(pays(&daemon, nonce), "ok");
    }
    let now = size(&daemon);
    until("the newest", || outside(&daemon, name)["next"].as_u64().is_some_and(|n| n >= now));

    // Yesterday's state is put back: everything in it is signed and in order, and a witness remembers more.
    daemon.signal("KILL");
    daemon.wait();
    std::fs::remove_dir_all(&state).unwrap();
    copy(&yesterday, &state);
    daemon.restart();
    until("the alarm", || outside(&daemon, name)["alarm"] == true);
    let entries = cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "1000"]);
    let alarms: Vec<&Value> =
        entries["entries"].as_array().unwrap().iter().filter(|e| e["kind"] == "alarm").collect();
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!((&alarms[0]["what"], &alarms[0]["about"]), (&json!("witness"), &json!("witness.example/1")));
    // Growing past what the witness saw does not help.
    for nonce in 100..130 {
        assert_eq!(pays(&daemon, nonce), "ok");
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(outside(&daemon, name)["alarm"], true);
}
