//! A YubiHSM 2 from end to end, against the simulator of `tests/tokens`: the daemon's worker, the crate `yubihsm` with
//! its faults, and Yubico's own client as the stranger. Without the packages of `tests/tokens/requirements.txt` (see
//! `./test`) these tests say so and pass over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use claviger::core::key::{Algorithm, KeyRecord, KeyRef, Operation, Origin, Purpose, State};
use claviger::core::payment::ToSign;
use claviger::core::units::{Name, Timestamp};
use claviger::core::verify::Verifier;
use claviger::secret::Pin;
use claviger::token::check::{CheckRow, Claim};
use claviger::token::keeper::{
    Backend, Event, Fitness, Keeper, KeeperConfig, KeeperState, Whereabouts, Work,
};
use claviger::token::profile::Profile;
use claviger::token::{KeySpec, TokenError};
use serde_json::{Value, json};
use yubihsm::{Client, Connector, Credentials, HttpConfig};

const PIN: &str = "0002correct horse";

fn tokens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens")
}

/// A Python that has what the simulator needs.
fn python() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let named = std::env::var_os("CLAVIGER_SIM_PYTHON").map(PathBuf::from);
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/sim/bin/python");
        named.into_iter().chain([made, "python3".into()]).find(|python| {
            Command::new(python)
                .args(["-c", "import cryptography, yubihsm"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        })
    });
    if found.is_none() {
        println!("skipped: no Python with cryptography and yubihsm (./test makes one in .venv/sim)");
    }
    found.as_deref()
}

/// The simulator, in a process of its own.
struct Sim {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Sim {
    fn bare() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let (child, port) = Self::spawn(python()?, dir.path(), 0);
        Some(Self { child, port, dir })
    }

    /// With the daemon's authentication key 2, and a log of what matters.
    fn start() -> Option<Self> {
        let sim = Self::bare()?;
        sim.stranger(&["prepare"]);
        Some(sim)
    }

    fn spawn(python: &Path, dir: &Path, port: u16) -> (Child, u16) {
        let mut child = Command::new(python)
            .arg(tokens().join("yubihsm_sim"))
            .args(["--port", &port.to_string(), "--serial", "7654321", "--state"])
            .arg(dir.join("state.json"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        (child, u16::try_from(told["port"].as_u64().unwrap()).unwrap())
    }

    fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn again(&mut self) {
        (self.child, self.port) = Self::spawn(python().unwrap(), self.dir.path(), self.port);
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn side(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        serde_json::from_str(body).unwrap()
    }

    fn fault(&self, wanted: Value) {
        self.side("POST", "/sim/fault", &wanted.to_string());
    }

    fn advance(&self, seconds: u32) {
        self.side("POST", "/sim/clock", &json!({"advance": seconds}).to_string());
    }

    fn state(&self) -> Value {
        self.side("GET", "/sim/state", "")
    }

    fn sessions(&self) -> usize {
        self.state()["sessions"].as_array().unwrap().len()
    }

    fn as_stranger(&self, words: &[&str]) -> Command {
        let mut command = Command::new(python().unwrap());
        command.arg(tokens().join("stranger.py")).arg(self.url()).args(words);
        command
    }

    fn stranger(&self, words: &[&str]) {
        let out = self.as_stranger(words).output().unwrap();
        assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    }

    fn keeper_with(&self, pin: &str, config: KeeperConfig) -> Keeper {
        let place = Whereabouts { connector: Some(self.url()), ..Whereabouts::default() };
        let worker = Some(PathBuf::from(env!("CARGO_BIN_EXE_clavigerd")));
        let backend = Backend::resolve(Profile::load("yubihsm2").unwrap(), place, worker).unwrap();
        Keeper::start(backend, Pin::new(pin.to_owned()), config)
    }

    async fn keeper(&self) -> Keeper {
        let keeper = self.keeper_with(PIN, bounds(10_000));
        until(&keeper, |s| *s == KeeperState::Usable, 20).await;
        keeper
    }
}

fn bounds(timeout_ms: u64) -> KeeperConfig {
    KeeperConfig { workers: 2, queue: 64, call_timeout: Duration::from_millis(timeout_ms), sign_ahead: false }
}

async fn until(keeper: &Keeper, wanted: impl Fn(&KeeperState) -> bool, seconds: u64) -> Duration {
    let began = Instant::now();
    while !wanted(&keeper.state()) {
        assert!(began.elapsed() < Duration::from_secs(seconds), "still {:?}", keeper.state());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed()
}

async fn make(keeper: &Keeper, n: u8, algorithm: Algorithm, purpose: Purpose) -> KeyRecord {
    let reference = KeyRef::from([n; 16]);
    let spec = KeySpec { reference, label: format!("k{n}"), algorithm, purpose };
    let name = Name::parse(&format!("k{n}")).unwrap();
    let public = keeper.generate(spec).await.unwrap();
    let record =
        KeyRecord::new(name, reference, purpose, public, String::new(), Origin::Generated, Timestamp(0));
    KeyRecord { state: State::Active, ..record }
}

/// A checkpoint is the one thing that can be signed without a reservation: it is verified here.
async fn checkpoint(keeper: &Keeper, key: &KeyRecord, n: u32) -> Result<(), TokenError> {
    let body = format!("origin\n{n}\nroot\n");
    let raw = keeper.sign_checkpoint(key, &body).await?;
    let to_sign = ToSign::Message(body.into_bytes());
    let verifier = Verifier::new(&key.public).unwrap();
    verifier.check(&to_sign, &raw).map(drop).map_err(|e| TokenError::Corrupt(e.to_string()))
}

async fn strange(keeper: &Keeper, seconds: u64, began: Instant) -> (String, Duration) {
    loop {
        for event in keeper.take_events() {
            if let Event::Strange(strange) = event {
                return (strange.what, began.elapsed());
            }
        }
        assert!(
            began.elapsed() < Duration::from_secs(seconds),
            "nothing strange after {seconds} s: {:?}",
            keeper.state()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn assert_nothing_strange(keeper: &Keeper) {
    let events = keeper.take_events();
    assert!(!events.iter().any(|e| matches!(e, Event::Strange(_))), "{events:#?}");
    assert_eq!(keeper.fitness(), Fitness::Fit);
}

fn row(rows: &[CheckRow], claim: Claim) -> &CheckRow {
    rows.iter().find(|r| r.claim == claim).unwrap()
}

// [clause 8.2.5-a] test
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_inside_and_the_profile_keeps_its_claims() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    assert_eq!(keeper.describe().unwrap().serial, "0007654321");
    let rows = keeper.check().await.unwrap();
    assert!(rows.len() >= 12 && rows.iter().all(|r| r.ok && r.found), "{rows:#?}");
    let algorithms = keeper.profile().algorithms.clone();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..12 {
        let (keeper, algorithm) = (keeper.clone(), algorithms[n % algorithms.len()]);
        let purpose = Purpose::ALL.into_iter().find(|p| p.takes(algorithm)).unwrap();
        tasks.spawn(async move { make(&keeper, u8::try_from(n + 1).unwrap(), algorithm, purpose).await });
    }
    let made = tasks.join_all().await;
    let there = keeper.inventory().await.unwrap();
    assert_eq!(there.iter().filter(|o| !o.id.is_empty()).count(), 12, "{there:#?}");
    for made in made {
        assert_eq!(keeper.find(made.reference).await.unwrap(), Some(made.public));
        keeper.destroy(made.reference).await.unwrap();
        assert_eq!(keeper.find(made.reference).await.unwrap(), None);
    }
    let gone = KeySpec {
        reference: KeyRef::from([9; 16]),
        label: "x".into(),
        algorithm: Algorithm::Aes256Gcm,
        purpose: Purpose::Encryption,
    };
    assert!(matches!(keeper.generate(gone).await, Err(TokenError::Unsupported(_))));
    assert_nothing_strange(&keeper);
    keeper.stop();
    assert_eq!(sim.state()["objects"], json!({"authentication_key": 2}), "everything was removed again");
}

// [clause 8.7.1-j] test
#[tokio::test(flavor = "multi_thread")]
async fn data_is_kept_beside_what_was_kept_last_and_is_our_doing() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let label = "claviger anchor 0011223344556677".to_owned();
    assert_eq!(keeper.data(label.clone()).await.unwrap(), Vec::<Vec<u8>>::new());
    let mut beside = Vec::new();
    for n in 0..5u8 {
        keeper.keep_data(label.clone(), vec![n; 100], beside.clone()).await.unwrap();
        let mut kept = keeper.data(label.clone()).await.unwrap();
        kept.sort_unstable();
        let wanted = if n == 0 { vec![vec![0; 100]] } else { vec![beside, vec![n; 100]] };
        assert_eq!(kept, wanted);
        beside = vec![n; 100];
    }
    assert_eq!(keeper.data("claviger anchor".into()).await.unwrap(), Vec::<Vec<u8>>::new());
    let there = keeper.inventory().await.unwrap();
    assert_eq!(there.iter().filter(|o| o.kind == "opaque" && o.label == label).count(), 2, "{there:?}");
    // The device has written all of this down, and none of it is strange.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_nothing_strange(&keeper);
    keeper.stop();
}

// [clause 8.7.2-a] test
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_used_for_its_purpose_only() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let log = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    checkpoint(&keeper, &log, 1).await.unwrap();
    let payment = make(&keeper, 2, Algorithm::Ed25519, Purpose::Payment).await;
    assert!(matches!(checkpoint(&keeper, &payment, 1).await, Err(TokenError::Refused(_))));
    let wrong = keeper.begin(&log, Work::Payment(ToSign::Message(vec![1])), [0; 32]).map(drop);
    assert!(matches!(wrong, Err(TokenError::Refused(_))), "{:?}", Operation::SignPayment);
    // A key that bears one of our labels, but came from outside.
    let reference = KeyRef::from([7; 16]);
    sim.stranger(&["plant", &format!("claviger{reference}")]);
    assert!(matches!(keeper.find(reference).await, Err(TokenError::Corrupt(_))));
    keeper.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_may_do_more_than_it_needs_is_warned_of() {
    let Some(sim) = Sim::bare() else { return };
    let keeper = sim.keeper_with("0001password", bounds(10_000));
    until(&keeper, |s| *s == KeeperState::Usable, 20).await;
    let rows = keeper.check().await.unwrap();
    let (rights, log) = (row(&rows, Claim::LeastRights), row(&rows, Claim::DeviceLog));
    assert!(rights.ok && !rights.found && rights.note.contains("more than it needs"), "{rights:?}");
    assert!(log.ok && !log.found && log.note.contains("off"), "{log:?}");
    let export = row(&rows, Claim::WrapRefused);
    assert!(export.found && export.note.contains("beside it"), "{export:?}");
    assert_eq!(keeper.fitness(), Fitness::Fit);
    keeper.stop();
}

// [clause 8.2.5-c] test
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_pin_is_sent_once_and_a_misshapen_one_never() {
    let Some(sim) = Sim::start() else { return };
    for (pin, sessions) in [("no hex and no password", 0), ("0002", 0), ("0002wrong", 1)] {
        let keeper = sim.keeper_with(pin, bounds(10_000));
        until(&keeper, |s| matches!(s, KeeperState::Locked(_)), 20).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(matches!(keeper.state(), KeeperState::Locked(_)));
        let state = sim.state();
        assert_eq!(state["sessions"].as_array().unwrap().len(), sessions, "{pin}: {state}");
        keeper.stop();
    }
    let keeper = sim.keeper_with("0002wrong", bounds(10_000));
    until(&keeper, |s| matches!(s, KeeperState::Locked(_)), 20).await;
    keeper.unlock(Pin::new(PIN.into()).unwrap());
    until(&keeper, |s| *s == KeeperState::Usable, 20).await;
    keeper.stop();
}

// [clause 8.2.5-c] test
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_taken_back_is_not_tried_again() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    sim.stranger(&["expel"]);
    // The device forgets our session with the key that it belonged to.
    sim.advance(31);
    assert!(matches!(checkpoint(&keeper, &key, 1).await, Err(TokenError::Locked(_))));
    until(&keeper, |s| matches!(s, KeeperState::Locked(_)), 5).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let state = sim.state();
    assert_eq!(state["sessions"].as_array().unwrap().len(), 1, "the one that was tried: {state}");
    keeper.unlock(Pin::new("0002another".into()).unwrap());
    until(&keeper, |s| matches!(s, KeeperState::Usable | KeeperState::Degraded(_)), 20).await;
    checkpoint(&keeper, &key, 2).await.unwrap();
    keeper.stop();
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_once() {
    let profile = Profile::load("yubihsm2").unwrap();
    let url = Whereabouts { connector: Some("http://127.0.0.1:12345".into()), ..Whereabouts::default() };
    let usb = Whereabouts { connector: Some("usb".into()), ..Whereabouts::default() };
    let mut wrong = vec![
        (url, None, "in_process"),
        (Whereabouts::default(), Some(PathBuf::from("/x")), "token.connector"),
    ];
    if !cfg!(feature = "yubihsm-usb") {
        wrong.push((usb, Some(PathBuf::from("/x")), "yubihsm-usb"));
    }
    for (place, worker, word) in wrong {
        let refused = Backend::resolve(profile.clone(), place, worker).map(drop);
        assert!(matches!(&refused, Err(TokenError::Unsupported(why)) if why.contains(word)), "{refused:?}");
    }
}

/// What the crate does by itself. When one of these fails the crate was mended, and a workaround can go.
#[tokio::test(flavor = "multi_thread")]
async fn the_crate_still_has_the_faults_that_we_work_around() {
    let Some(sim) = Sim::start() else { return };
    let open = || {
        let config = HttpConfig { addr: "127.0.0.1".into(), port: sim.port, timeout_ms: 300 };
        Client::open(Connector::http(&config), Credentials::default(), true)
    };
    // a: an answer in two segments
    let client = open().unwrap();
    sim.fault(json!({"split": true}));
    assert!(client.get_pseudo_random(8).is_err());
    sim.fault(json!({"clear": true}));
    // c: a session that the device has lost
    let client = open().unwrap();
    sim.fault(json!({"lose_sessions": true}));
    assert!((0..3).all(|_| client.get_pseudo_random(8).is_err()));
    // d: sessions that are dropped
    sim.advance(31);
    let outcomes: Vec<bool> = (0..17).map(|_| open().is_ok()).collect();
    assert_eq!(outcomes.iter().filter(|good| **good).count(), 16);
    sim.advance(31);
    // f: a log, and options, of commands that it does not know
    sim.stranger(&["modern"]);
    let client = open().unwrap();
    let (log, options) = (client.get_log_entries().unwrap(), client.get_commands_audit_options().unwrap());
    println!(
        "the crate reads {} of {} entries, and {} options",
        log.entries.len(),
        log.num_entries,
        options.len()
    );
    assert!(log.entries.len() < usize::from(log.num_entries));
    // b: a device that does not answer
    sim.fault(json!({"hang": true, "command": "get_pseudo_random"}));
    let (client, began) = (open().unwrap(), Instant::now());
    let late = tokio::task::spawn_blocking(move || client.get_pseudo_random(8).is_err());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!late.is_finished(), "300 ms are over after {:?}", began.elapsed());
    sim.fault(json!({"clear": true}));
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn broken_answers_and_lost_sessions_cost_one_call_nothing() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    let worker = keeper.stats().worker;
    sim.fault(json!({"split": true}));
    for n in 0..10 {
        checkpoint(&keeper, &key, n).await.unwrap();
    }
    sim.fault(json!({"clear": true}));
    for fault in [
        json!({"lose_sessions": true}),
        json!({"garbage": true, "command": "sign_eddsa", "times": 1}),
        json!({"garbage": "short", "command": "sign_eddsa", "times": 1}),
        json!({"drop": true, "command": "sign_eddsa", "times": 1}),
        json!({"error": {"command": "sign_eddsa", "code": "session_failed"}, "times": 1}),
    ] {
        sim.fault(fault.clone());
        checkpoint(&keeper, &key, 7).await.unwrap_or_else(|e| panic!("{fault}: {e}"));
    }
    sim.fault(json!({"wrong_signature": true, "times": 1}));
    assert!(matches!(checkpoint(&keeper, &key, 8).await, Err(TokenError::Corrupt(_))), "it is seen outside");
    // Made and removed although the answers are lost.
    sim.fault(json!({"drop": true, "command": "generate_asymmetric_key", "times": 1}));
    let other = make(&keeper, 2, Algorithm::P256, Purpose::Authentication).await;
    sim.fault(json!({"drop": true, "command": "delete_object", "times": 1}));
    keeper.destroy(other.reference).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_nothing_strange(&keeper);
    assert_eq!((keeper.stats().worker, keeper.stats().reinits), (worker, 0), "the worker stayed");
    keeper.stop();
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_hangs_or_vanishes_is_told_in_time_and_comes_back_by_itself() {
    let Some(mut sim) = Sim::start() else { return };
    let keeper = sim.keeper_with(PIN, bounds(2_000));
    until(&keeper, |s| *s == KeeperState::Usable, 20).await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    keeper.expect_keys(vec![(key.reference, key.public)]);
    let mut took = Vec::new();
    for fault in
        [json!({"hang": true}), json!({"hang": "after", "command": "sign_eddsa"}), json!({"delay_ms": 3000})]
    {
        sim.fault(fault.clone());
        let began = Instant::now();
        let late = checkpoint(&keeper, &key, 1).await;
        assert!(matches!(late, Err(TokenError::Timeout(_) | TokenError::Gone(_))), "{fault}: {late:?}");
        let told = began.elapsed();
        assert!(told < Duration::from_secs(3), "{fault}: {told:?}");
        sim.fault(json!({"clear": true}));
        sim.advance(31);
        let began = Instant::now();
        while checkpoint(&keeper, &key, 2).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(5), "{fault}: {:?}", keeper.state());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        took.push((told, began.elapsed()));
    }
    println!("hangs: told after, back after: {took:?}");
    for _ in 0..2 {
        sim.stop();
        until(&keeper, |s| matches!(s, KeeperState::Unusable(_)), 5).await;
        assert!(matches!(checkpoint(&keeper, &key, 3).await, Err(TokenError::Gone(_))));
        tokio::time::sleep(Duration::from_secs(2)).await;
        sim.again();
        let back = until(&keeper, |s| *s == KeeperState::Usable, 20).await;
        println!("unplugged: back after {back:?}");
        assert!(back < Duration::from_secs(5), "{back:?}");
        checkpoint(&keeper, &key, 4).await.unwrap();
    }
    // On and off, at any moment of a connection's beginning.
    for n in 0..12 {
        sim.stop();
        tokio::time::sleep(Duration::from_millis(30 * n)).await;
        sim.again();
        tokio::time::sleep(Duration::from_millis(900 - 70 * n)).await;
    }
    until(&keeper, |s| *s == KeeperState::Usable, 20).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_nothing_strange(&keeper);
    // What a stranger does while the daemon cannot look is found when it can.
    let worker = keeper.stats().worker.unwrap().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &worker]).status().unwrap();
    assert!(signal("-STOP").success());
    sim.stranger(&["sign"]);
    assert!(signal("-KILL").success());
    let (what, took) = strange(&keeper, 10, Instant::now()).await;
    println!("found by the next worker after {took:?}: {what}");
    keeper.stop();
}

// [clause 8.2.5-b] test
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_replaced_and_its_work_is_known() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    for signal in ["-KILL", "-ABRT", "-STOP"] {
        let old = keeper.stats().worker.unwrap();
        let calls: Vec<_> = (0..8)
            .map(|n| {
                let (keeper, key) = (keeper.clone(), key.clone());
                tokio::spawn(async move { checkpoint(&keeper, &key, n).await.is_ok() })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(15)).await;
        assert!(Command::new("kill").args([signal, &old.to_string()]).status().unwrap().success());
        let began = Instant::now();
        while keeper.stats().worker.is_none_or(|pid| pid == old) || keeper.state() != KeeperState::Usable {
            assert!(began.elapsed() < Duration::from_secs(5), "{signal}: {:?}", keeper.state());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{signal}: back after {:?}", began.elapsed());
        for call in calls {
            call.await.unwrap();
        }
        checkpoint(&keeper, &key, 9).await.unwrap();
        assert!(sim.sessions() <= 16);
        sim.advance(31);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_nothing_strange(&keeper);
    keeper.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_sessions_are_busy_and_recover() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    let began = Instant::now();
    for n in 0..300 {
        checkpoint(&keeper, &key, n).await.unwrap();
    }
    println!("300 signatures one after the other in {:?}", began.elapsed());
    assert!(sim.sessions() <= 3, "300 calls and {} sessions", sim.sessions());
    sim.fault(json!({"error": {"command": "create_session", "code": "sessions_full"}}));
    sim.fault(json!({"lose_sessions": true}));
    assert_eq!(checkpoint(&keeper, &key, 1).await, Err(TokenError::Busy));
    sim.fault(json!({"clear": true}));
    checkpoint(&keeper, &key, 2).await.unwrap();
    keeper.stop();
    // Every session is taken by others before the daemon comes.
    sim.advance(31);
    let mut other = sim.as_stranger(&["hold", "4"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "16 SESSIONS_FULL");
    let keeper = sim.keeper_with(PIN, bounds(10_000));
    until(&keeper, |s| matches!(s, KeeperState::Unusable(why) if why.contains("busy")), 10).await;
    other.wait().unwrap();
    let back = until(&keeper, |s| *s == KeeperState::Usable, 10).await;
    println!("sessions are free again: back after {back:?}");
    keeper.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_read_out_and_refused_clearly_when_it_cannot_be() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Integrity).await;
    let mut most = 0;
    for n in 0..200 {
        checkpoint(&keeper, &key, n).await.unwrap();
        most = most.max(sim.state()["log_used"].as_u64().unwrap());
    }
    println!("200 signatures with force-audit: at most {most} of 62 entries");
    assert!(most < 50);
    sim.fault(json!({"error": {"command": "sign_eddsa", "code": "log_full"}, "times": 1}));
    checkpoint(&keeper, &key, 1).await.unwrap();
    sim.fault(json!({"error": {"command": "sign_eddsa", "code": "log_full"}}));
    let full = checkpoint(&keeper, &key, 1).await;
    assert!(matches!(&full, Err(TokenError::Refused(why)) if why.contains("log is full")), "{full:?}");
    sim.fault(json!({"clear": true}));
    checkpoint(&keeper, &key, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_nothing_strange(&keeper);
    keeper.stop();
}

// [clause 8.2.5-e] test
#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_we_did_not_ask_for_stops_signing_within_five_seconds() {
    let Some(sim) = Sim::start() else { return };
    let keeper = sim.keeper().await;
    let key = make(&keeper, 1, Algorithm::Ed25519, Purpose::Payment).await;
    let log = make(&keeper, 2, Algorithm::Ed25519, Purpose::Integrity).await;
    let pay = || keeper.begin(&key, Work::Payment(ToSign::Message(vec![1])), [0; 32]).map(drop);
    pay().unwrap();
    for (act, words) in [
        ("sign", "did not ask for"),
        ("imitate", "did not ask for"),
        ("make", "did not ask for"),
        ("modern", "did not ask for"),
        // "missing", or caught in the act when the daemon looks in between.
        ("steal", "YubiHSM's log"),
    ] {
        // Our own work goes on meanwhile.
        for n in 0..5 {
            checkpoint(&keeper, &log, n).await.unwrap();
        }
        assert_nothing_strange(&keeper);
        // The time that it takes to start Python and to log in is counted too.
        let began = Instant::now();
        sim.stranger(&[act]);
        let (what, took) = strange(&keeper, 5, began).await;
        println!("{act}: found after {took:?}: {what}");
        assert!(what.contains(words), "{what}");
        assert!(matches!(pay(), Err(TokenError::Unfit(why)) if why.contains("operator")));
        until(&keeper, |s| matches!(s, KeeperState::Degraded(_)), 5).await;
        // The log of the daemon goes on: it must be able to say so.
        checkpoint(&keeper, &log, 9).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(keeper.take_events());
        keeper.check().await.unwrap();
        pay().unwrap();
        drop(keeper.take_events());
    }
    keeper.stop();
}

// [clause 8.2.5-e] test
#[test]
fn the_daemon_writes_the_strangers_operation_into_its_log() {
    let Some(sim) = Sim::start() else { return };
    let pin = sim.dir.path().join("pin");
    std::fs::write(&pin, PIN).unwrap();
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let daemon = support::Daemon::start_on(&[
        "--profile",
        "yubihsm2",
        "--connector",
        &sim.url(),
        "--pin-file",
        pin.to_str().unwrap(),
    ]);
    let mut wallet = daemon.wallet();
    let signed = wallet.call("eth_signTransaction", &json!([daemon.tx(0, 1)]));
    assert_eq!(support::code(&signed), "ok", "{signed}");
    let began = Instant::now();
    sim.stranger(&["sign"]);
    loop {
        let log =
            support::cli_ok(&daemon.home, &["log", "show", "--from", "0", "--count", "100"]).to_string();
        if log.contains("strange-operation") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("in the daemon's log after {:?}", began.elapsed());
    let refused = wallet.call("eth_signTransaction", &json!([daemon.tx(1, 1)]));
    assert_ne!(support::code(&refused), "ok");
    let report = daemon.verify_log();
    assert!(report["strange"].as_u64().unwrap() >= 1, "{report}");
    support::cli_ok(&daemon.home, &["token", "check"]);
    assert_eq!(support::code(&wallet.call("eth_signTransaction", &json!([daemon.tx(1, 1)]))), "ok");
}

// [clause 8.7.1-j] test
#[test]
fn an_older_copy_of_the_state_is_found_with_a_yubihsm() {
    let Some(sim) = Sim::start() else { return };
    let pin = sim.dir.path().join("pin");
    std::fs::write(&pin, PIN).unwrap();
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = sim.url();
    let token = ["--profile", "yubihsm2", "--connector", &url, "--pin-file", pin.to_str().unwrap()];
    let mut daemon = support::Daemon::start_on(&token);
    let told = support::cli_ok(&daemon.home, &["state", "show"]);
    assert_eq!((&told["sealed"], &told["anchor"]["kept"]), (&json!(true), &json!(true)), "{told}");
    let (_, inventory) = support::cli(&daemon.home, &["token", "inventory"]);
    assert!(inventory.contains("strangers") && !inventory.contains("claviger anchor"), "{inventory}");
    daemon.stop();
    let copy = |from: &str, to: &str| {
        let (from, to) = (daemon.home.join(from), daemon.home.join(to));
        assert!(Command::new("rm").arg("-rf").arg(&to).status().unwrap().success());
        assert!(Command::new("cp").arg("-a").arg(&from).arg(&to).status().unwrap().success());
    };
    copy("state", "old");
    let started = daemon.begin();
    assert_eq!(started["standing"], "confirmed", "{started}");
    let signed = daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(0, 1)]));
    assert_eq!(support::code(&signed), "ok", "{signed}");
    daemon.stop();
    let (from, to) = (daemon.home.join("old"), daemon.home.join("state"));
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::rename(from, to).unwrap();
    assert_eq!(daemon.begin()["code"], "state_rolled_back");
    let refused = daemon.wallet().call("eth_signTransaction", &json!([daemon.tx(1, 1)]));
    assert_eq!(support::code(&refused), "state_rolled_back");
}
