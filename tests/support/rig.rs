//! A house with backups for tests: a second place of the vault, media, ceremonies and recoveries that are scripted.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on; not every test uses all of this"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::cli_ok;

/// A house with backups: two places of the vault, two directories for bundles.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub home: PathBuf,
}

impl Rig {
    pub fn new() -> Self {
        let target = Path::new(env!("CARGO_BIN_EXE_clavigerd")).parent().unwrap();
        let dir = tempfile::Builder::new().prefix("backup.").tempdir_in(target).unwrap();
        for name in ["media-a", "media-b", "site-b"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let home = dir.path().join("home");
        let rig = Self { dir, home };
        rig.vault_token();
        rig
    }

    /// On the embedded token.
    pub fn embedded() -> Self {
        let rig = Self::new();
        rig.init(&rig.home);
        rig
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn vault_token(&self) {
        let (dir, pin) = (self.at("site-b/token"), self.at("site-b/pin"));
        let words =
            ["ceremony", "vault", "--directory", dir.to_str().unwrap(), "--pin-file", pin.to_str().unwrap()];
        cli_ok(&self.home, &words);
    }

    /// A fresh register and a fresh token, with backups switched on.
    pub fn init(&self, home: &Path) {
        self.init_on(home, &["--profile", "embedded"]);
    }

    pub fn init_on(&self, home: &Path, token: &[&str]) {
        cli_ok(home, &[&["init", "--yes", "--dir", home.to_str().unwrap()], token].concat());
        let config = home.join("clavigerd.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let shown = |name: &str| self.at(name).to_str().unwrap().to_owned();
        let backup = format!(
            "\n[backup]\nenabled = true\ndirectories = [{:?}, {:?}]\n[[backup.vault]]\nname = \"here\"\nfile = \"vault.json\"\n\
             [[backup.vault]]\nname = \"site-b\"\nfile = {:?}\n[backup.vault.token]\nprofile = \"embedded\"\ndirectory = {:?}\npin_file = {:?}\n",
            shown("media-a"),
            shown("media-b"),
            shown("site-b/vault.json"),
            shown("site-b/token"),
            shown("site-b/pin"),
        );
        std::fs::write(config, text + &backup).unwrap();
    }

    /// Holds a ceremony and gives the shares back.
    pub fn ceremony(&self, words: &[&str], spoil: bool) -> Result<Vec<String>, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .args([
                "--json",
                "--config",
                self.home.join("clavigerd.toml").to_str().unwrap(),
                "ceremony",
                "init",
                "--script",
            ])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut shares = Vec::new();
        let mut rest = String::new();
        let mut line = String::new();
        while output.read_line(&mut line).unwrap() > 0 {
            let told: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(words) = told["words"].as_str() {
                if spoil && shares.is_empty() {
                    let mut typed: Vec<&str> = words.split(' ').collect();
                    typed.swap(6, 7);
                    writeln!(input, "{}", typed.join(" ")).unwrap();
                    let mut wrong = String::new();
                    output.read_line(&mut wrong).unwrap();
                    assert!(wrong.contains("word 7 is not the one on the sheet"), "{wrong}");
                    assert!(!words.split(' ').any(|w| w.len() > 5 && wrong.contains(w)), "{wrong}");
                }
                writeln!(input, "{}", words.to_uppercase()).unwrap();
                shares.push(words.to_owned());
            } else {
                rest.push_str(&line);
            }
            line.clear();
        }
        drop(input);
        let out = child.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.success() { Ok(shares) } else { Err(rest + &words) }
    }

    /// Runs `recover` in a house with these shares.
    pub fn recover(&self, home: &Path, shares: &[&str], from: &str) -> (bool, Value) {
        self.recover_with(home, shares, from, &[])
    }

    pub fn recover_with(&self, home: &Path, shares: &[&str], from: &str, more: &[&str]) -> (bool, Value) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_claviger"))
            .args(["--json", "--config", home.join("clavigerd.toml").to_str().unwrap(), "recover"])
            .arg(self.at(from))
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all((shares.join("\n") + "\n").as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        (out.status.success(), serde_json::from_slice(&out.stdout).unwrap_or_default())
    }

    pub fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, all);
                } else if path.is_file() {
                    all.push(path);
                }
            }
        }
        let mut all = Vec::new();
        walk(self.dir.path(), &mut all);
        all
    }
}

/// Starts this test again with a SoftHSM of its own; `true` in the outer run.
pub fn again_with_softhsm(name: &str) -> bool {
    if std::env::var_os("SOFTHSM2_CONF").is_some_and(|c| c.to_string_lossy().contains("claviger-backup")) {
        return false;
    }
    let dir = tempfile::Builder::new().prefix("claviger-backup").tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tokens")).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let tokens = dir.path().join("tokens");
    std::fs::write(&conf, format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display()))
        .unwrap();
    for label in ["one", "two"] {
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", "1234"])
            .env("SOFTHSM2_CONF", &conf)
            .output()
            .expect("softhsm2-util is needed: install the package softhsm2");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env("SOFTHSM2_CONF", &conf)
        .status()
        .unwrap();
    assert!(again.success(), "{name} failed under SoftHSM");
    true
}
