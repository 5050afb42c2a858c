//! A daemon of its own for a test: real binary, real sockets, a client that shares no code with `src/wire`.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on; not every test uses all of this"
)]

pub mod rig;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

pub const BOB: &str = "0x2222222222222222222222222222222222222222";

pub const POLICY: &str = r#"
schema = 1
[assets.ETH]
chain = "eip155:1"
native = true
decimals = 18
[books.friends]
bob = "0x2222222222222222222222222222222222222222"
[[rule]]
id = "pay"
effect = "permit"
keys = ["hot"]
apps = ["test"]
chains = ["eip155:1"]
assets = ["ETH"]
to.allow = ["@friends"]
per_tx.max = "100"
fee.max = "1000000000000000"
window = [{ len = "24h", max = "250", scope = "key" }]
[[rule]]
id = "note"
effect = "permit"
acts = ["message"]
keys = ["hot"]
apps = ["test"]
"#;

pub struct Daemon {
    child: Child,
    pub home: PathBuf,
    _dir: Option<tempfile::TempDir>,
    pub address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub fn cli(home: &Path, words: &[&str]) -> (bool, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .arg("--json")
        .arg("--config")
        .arg(home.join("clavigerd.toml"))
        .args(words)
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
}

pub fn cli_ok(home: &Path, words: &[&str]) -> Value {
    let (good, text) = cli(home, words);
    assert!(good, "{words:?}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

impl Daemon {
    /// Embedded token, a key `hot`, this test registered as app `test`, [`POLICY`] in force.
    pub fn start() -> Self {
        Self::start_on(&["--profile", "embedded"])
    }

    /// The same on another token.
    pub fn start_on(token: &[&str]) -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_clavigerd")).parent().unwrap();
        let dir = tempfile::Builder::new().prefix("test.").tempdir_in(target).unwrap();
        let home = dir.path().join("home");
        cli_ok(&home, &[&["init", "--yes", "--dir", home.to_str().unwrap()], token].concat());
        let child = spawn(&home);
        let mut daemon = Self { child, home, _dir: Some(dir), address: String::new() };
        cli_ok(&daemon.home, &["status", "--wait", "30"]);
        daemon.set_up("hot");
        daemon
    }

    /// In a house that somebody else made.
    pub fn on(home: &Path) -> Self {
        let child = spawn(home);
        let daemon = Self { child, home: home.to_owned(), _dir: None, address: String::new() };
        cli_ok(home, &["status", "--wait", "30"]);
        daemon
    }

    /// A key of this name, this test registered as app `test`, [`POLICY`] in force.
    pub fn set_up(&mut self, key: &str) {
        let made = cli_ok(&self.home, &["key", "create", key]);
        self.set_up_again(made["address"].as_str().unwrap());
    }

    /// The same with a key that is there.
    pub fn set_up_again(&mut self, address: &str) {
        address.clone_into(&mut self.address);
        let me = std::env::current_exe().unwrap();
        cli_ok(&self.home, &["app", "add", "test", "--path", me.to_str().unwrap()]);
        self.apply(POLICY);
    }

    pub fn apply(&self, policy: &str) {
        let file = self.home.join("applied.toml");
        std::fs::write(&file, policy).unwrap();
        cli_ok(&self.home, &["policy", "apply", file.to_str().unwrap()]);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Waits for the end; `true` for exit code 0.
    pub fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    pub fn restart(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
        self.child = spawn(&self.home);
        cli_ok(&self.home, &["status", "--wait", "30"]);
    }

    /// Starts again what may not sign: waits for the operator's socket alone.
    pub fn restart_stopped(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
        self.child = spawn(&self.home);
        for _ in 0..600 {
            if cli(&self.home, &["status"]).0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the daemon does not answer");
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.wait(), "the daemon did not stop in order");
    }

    pub fn restart_without_waiting(&mut self) {
        self.child = spawn(&self.home);
    }

    /// Starts it again, whether it signs or not; gives what status says of the state directory once that is settled.
    pub fn begin(&mut self) -> Value {
        self.child = spawn(&self.home);
        for _ in 0..600 {
            let (good, text) = cli(&self.home, &["state", "show"]);
            let told: Value = serde_json::from_str(&text).unwrap_or_default();
            if good && told["standing"] != "unconfirmed" {
                return told;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return json!({"standing": "ended", "code": status.code()});
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the state directory is neither confirmed nor refused after 30 s");
    }

    pub fn wallet(&self) -> Client {
        Client::open(&self.home.join("wallet.sock"))
    }

    pub fn operator(&self) -> Client {
        Client::open(&self.home.join("operator.sock"))
    }

    pub fn tx(&self, nonce: u64, value: u64) -> Value {
        json!({"from": self.address, "to": BOB, "value": format!("{value:#x}"), "gas": "0x5208",
            "maxFeePerGas": "0x3b9aca00", "maxPriorityFeePerGas": "0x1", "nonce": format!("{nonce:#x}"), "chainId": "0x1"})
    }

    /// Exports the log and verifies it offline.
    pub fn verify_log(&self) -> Value {
        let dir = self.home.join(format!("export-{}", std::fs::read_dir(&self.home).unwrap().count()));
        cli_ok(&self.home, &["log", "export", dir.to_str().unwrap()]);
        let told = cli_ok(&self.home, &["log", "verify", dir.to_str().unwrap()]);
        assert_eq!(told["unproven"], json!([]), "{told}");
        told
    }
}

/// From the next start on the daemon in this house has a wall clock that [`set_clock`] sets. `false` where there is no C
/// compiler to make it with.
pub fn fake_clock(home: &Path) -> bool {
    let library = home.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/clock.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    let good = made.is_ok_and(|status| status.success());
    if !good {
        eprintln!("skipped: there is no C compiler");
    }
    good
}

/// Sets that clock ahead by so many seconds, or back.
pub fn set_clock(home: &Path, seconds: i64) {
    let fresh = home.join("clock.new");
    std::fs::write(&fresh, seconds.to_string()).unwrap();
    std::fs::rename(fresh, home.join("clock")).unwrap();
}

fn spawn(home: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(home.join("daemon.log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
    if home.join("clock.so").exists() {
        command.env("LD_PRELOAD", home.join("clock.so")).env("CLOCK_OFFSET", home.join("clock"));
    }
    command.arg("--config").arg(home.join("clavigerd.toml")).stderr(Stdio::from(log)).spawn().unwrap()
}

pub struct Client {
    pub stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    pub fn open(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// One line; `Null` at the end.
    pub fn line(&mut self) -> Value {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap(),
            Err(e) => panic!("no reply: {e}"),
        }
    }

    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        self.send(request.to_string().as_bytes());
        let reply = self.line();
        assert_eq!(reply["id"], 7);
        reply
    }
}

/// The Rust example, built as `cargo test` does when it builds everything.
pub fn rust_example() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_clavigerd")).ancestors().nth(2).unwrap();
    let done = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--example", "pay", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env_remove("CARGO_TARGET_DIR")
        .status();
    assert!(done.unwrap().success());
    target.join("debug/examples/pay")
}

/// The user that runs the tests.
pub fn own_uid() -> u32 {
    let out = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().parse().unwrap()
}

pub fn ssh_keygen_is_here() -> bool {
    let there =
        Command::new("ssh-keygen").arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("skipped: ssh-keygen is not installed");
    }
    there
}

/// Makes a key; gives its public line.
pub fn keygen(dir: &Path, who: &str, kind: &str) -> String {
    let file = dir.join(who);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", who, "-f", file.to_str().unwrap()])
        .status()
        .unwrap();
    assert!(made.success());
    std::fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned()
}

/// The stock `ssh-keygen -Y sign`.
pub fn ssh_sign(key: &Path, namespace: &str, text: &str, more: &[&str]) -> String {
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", namespace])
        .args(more)
        .arg("-f")
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap()
}

/// The stable code of a refusal, or `ok`.
pub fn code(reply: &Value) -> &str {
    if reply.get("result").is_some() { "ok" } else { reply["error"]["data"]["code"].as_str().unwrap() }
}
