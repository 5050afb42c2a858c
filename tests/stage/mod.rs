//! Where apps are attacked: the real daemon, an app that is registered, and the user whom both the app and its attackers
//! run as.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests stop where they cannot go on; not every test uses all of this"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::{self, Daemon, cli_ok, code};
use serde_json::{Value, json};

/// Who attacks, and whom: one user.
pub const USER: u32 = 47_111;
/// The group that a protected app is setgid to.
pub const GROUP: u32 = 47_222;

pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_clavigerd")).ancestors().nth(2).unwrap().join("attacks");
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/Cargo.toml");
        let done = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(&target)
            .env_remove("CARGO_TARGET_DIR")
            .status();
        assert!(done.unwrap().success());
        target.join("debug")
    })
}

/// A program that runs and is talked with.
pub struct Running {
    pub child: Child,
    pub stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its children too: some became the app and wait for ever.
        Command::new("kill")
            .args(["-KILL", "--", &format!("-{}", self.child.id())])
            .stderr(Stdio::null())
            .status()
            .ok();
        self.child.wait().ok();
    }
}

impl Running {
    pub fn of(command: &mut Command) -> Self {
        let mut child =
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, stdin, stdout }
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn say(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.line()
    }

    /// The code of the daemon's answer to a request.
    pub fn asks(&mut self, request: &str) -> String {
        coded(&self.say(request))
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

#[track_caller]
pub fn coded(line: &str) -> String {
    let Ok(reply) = serde_json::from_str::<Value>(line) else { panic!("no reply but {line:?}") };
    code(&reply).to_owned()
}

pub struct Stage {
    pub daemon: Daemon,
    /// Root's.
    pub apps: PathBuf,
    /// The attacker's.
    pub lair: PathBuf,
    nonce: std::cell::Cell<u64>,
}

pub fn copy(from: &Path, to: &Path, mode: u32, owner: u32, group: u32) {
    std::fs::copy(from, to).unwrap();
    chown(to, Some(owner), Some(group)).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)).unwrap();
}

impl Stage {
    /// `None`, with a word, where nobody can be attacked.
    pub fn set() -> Option<Self> {
        if claviger::service::effective_uid() != 0 {
            eprintln!("skipped: only root can run the daemon and its attackers as different users");
            return None;
        }
        let built = built();
        let daemon = Daemon::start();
        let (apps, lair) = (daemon.home.join("apps"), daemon.home.join("lair"));
        for (dir, owner) in [(&apps, 0), (&lair, USER)] {
            std::fs::create_dir(dir).unwrap();
            chown(dir, Some(owner), Some(owner)).unwrap();
        }
        for (path, mode) in [
            (daemon.home.parent().unwrap().to_path_buf(), 0o755),
            (daemon.home.clone(), 0o755),
            (daemon.home.join("wallet.sock"), 0o666),
        ] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        copy(&built.join("victim"), &apps.join("victim"), 0o755, 0, 0);
        copy(&built.join("victim"), &apps.join("guarded"), 0o2755, 0, GROUP);
        copy(&built.join("mallory"), &lair.join("mallory"), 0o755, USER, USER);
        copy(&built.join("libevil.so"), &lair.join("evil.so"), 0o755, USER, USER);
        copy(&built.join("victim"), &lair.join("modified"), 0o755, USER, USER);
        std::fs::OpenOptions::new()
            .append(true)
            .open(lair.join("modified"))
            .unwrap()
            .write_all(b"something else")
            .unwrap();
        let stage = Self { daemon, apps, lair, nonce: std::cell::Cell::new(0) };
        stage.register("victim", "");
        stage.register("guarded", &format!("gid = {GROUP}\ntier = \"T2\"\n"));
        stage.daemon.apply(&support::POLICY.replace("[\"test\"]", "[\"test\", \"victim\", \"guarded\"]"));
        Some(stage)
    }

    pub fn register(&self, id: &str, more: &str) {
        let path = self.apps.join(id);
        let digest = hex::encode(claviger::service::executable_digest(&path).unwrap());
        let path = path.to_str().unwrap();
        let file = self.daemon.home.join("apps.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let entry =
            format!("\n[[app]]\nid = {id:?}\npath = {path:?}\nsha256 = {digest:?}\nuid = {USER}\n{more}");
        std::fs::write(&file, text + &entry).unwrap();
        cli_ok(&self.daemon.home, &["reload"]);
    }

    pub fn socket(&self) -> String {
        self.daemon.home.join("wallet.sock").to_str().unwrap().to_owned()
    }

    /// A payment that the policy permits, and that was not asked for before.
    pub fn payment(&self) -> String {
        self.nonce.set(self.nonce.get() + 1);
        json!({"jsonrpc": "2.0", "id": 1, "method": "eth_signTransaction", "params": [self.daemon.tx(self.nonce.get(), 1)]})
            .to_string()
    }

    pub fn start(&self, command: &mut Command) -> Running {
        Running::of(command.uid(USER).gid(USER).current_dir(&self.lair))
    }

    /// The app, connected.
    pub fn app(&self, name: &str, words: &[&str]) -> Running {
        let mut app = self.start(Command::new(self.apps.join(name)).arg(self.socket()).args(words));
        assert_eq!(app.line(), "connected");
        app
    }

    /// The app, connected, after a payment of its own was signed.
    pub fn working(&self) -> Running {
        let mut app = self.app("victim", &[]);
        assert_eq!(app.asks(&self.payment()), "ok");
        app
    }

    pub fn mallory(&self, words: &[&str]) -> Running {
        self.start(Command::new(self.lair.join("mallory")).args(words))
    }

    /// Lets the attacker come far before the daemon accepts it.
    pub fn while_it_sleeps(&self, words: &[&str]) -> Running {
        self.daemon.signal("STOP");
        let running = self.mallory(words);
        std::thread::sleep(Duration::from_millis(700));
        self.daemon.signal("CONT");
        running
    }

    /// Nothing but what was signed for the app itself stands in the log.
    pub fn signed(&self, payments: u64) {
        let report = self.daemon.verify_log();
        assert_eq!(report["results"].as_u64(), Some(payments), "{report}");
    }
}

/// Path of the app.
pub fn victim(stage: &Stage) -> String {
    stage.apps.join("victim").to_str().unwrap().to_owned()
}
