//! The whole path against the bare token, in one run on one machine.
//!
//! `cargo bench` makes a throw-away SoftHSM token and an embedded one under `target/`, measures bare `C_Sign` loops,
//! starts the real daemon and drives it over `wallet.sock` as an app would, and prints one table and the time by stage.
//! `cargo bench -- --seconds 5` measures longer.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench that cannot go on stops"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use claviger::core::key::{Algorithm, KeyRef, Purpose};
use claviger::core::payment::ToSign;
use claviger::core::verify::Verifier;
use claviger::secret::Pin;
use claviger::token::audit::Handover;
use claviger::token::embedded::EmbeddedToken;
use claviger::token::pkcs11::{Connection, Module, Place, module_path};
use claviger::token::profile::Profile;
use claviger::token::worker::{self, Hosting, Process};
use claviger::token::{KeySpec, Token};

const PIN: &str = "123456";

struct Figures {
    rate: f64,
    p50: f64,
    p99: f64,
}

fn figures(mut samples: Vec<f64>, elapsed: Duration) -> Figures {
    samples.sort_by(f64::total_cmp);
    let at = |q: usize| samples.get(samples.len() * q / 100).copied().unwrap_or(f64::NAN);
    Figures {
        rate: f64::from(u32::try_from(samples.len()).unwrap()) / elapsed.as_secs_f64(),
        p50: at(50),
        p99: at(99),
    }
}

fn input(algorithm: Algorithm, n: u64) -> ToSign {
    let mut bytes = [7u8; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    if algorithm == Algorithm::Ed25519 { ToSign::Message(bytes.repeat(4)) } else { ToSign::Prehash(bytes) }
}

/// Signs in a loop on each thread, one session each.
fn bare(sessions: Vec<Box<dyn Token>>, key: KeyRef, algorithm: Algorithm, seconds: f64) -> Figures {
    let began = Instant::now();
    let threads: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            std::thread::spawn(move || {
                let mut samples = Vec::new();
                while began.elapsed().as_secs_f64() < seconds {
                    let call = Instant::now();
                    session.sign(key, algorithm, &input(algorithm, samples.len() as u64)).unwrap();
                    samples.push(call.elapsed().as_secs_f64() * 1e6);
                }
                samples
            })
        })
        .collect();
    let samples: Vec<f64> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    figures(samples, began.elapsed())
}

fn verify_cost(token: &mut dyn Token, key: KeyRef, algorithm: Algorithm) -> f64 {
    let verifier = Verifier::new(&token.find(key).unwrap().unwrap()).unwrap();
    let signed: Vec<_> = (0..50)
        .map(|n| (input(algorithm, n), token.sign(key, algorithm, &input(algorithm, n)).unwrap()))
        .collect();
    let began = Instant::now();
    for _ in 0..10 {
        for (to_sign, raw) in &signed {
            let _checked = verifier.check(to_sign, raw).unwrap();
        }
    }
    began.elapsed().as_secs_f64() * 1e6 / 500.0
}

struct Daemon {
    child: Child,
    home: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn cli(home: &Path, words: &[&str]) -> serde_json::Value {
    let out = Command::new(env!("CARGO_BIN_EXE_claviger"))
        .arg("--json")
        .arg("--config")
        .arg(home.join("clavigerd.toml"))
        .args(words)
        .output()
        .unwrap();
    assert!(out.status.success(), "{words:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

fn daemon(home: PathBuf, init: &[&str], in_process: bool) -> Daemon {
    let mut words = vec!["init", "--yes", "--dir", home.to_str().unwrap()];
    words.extend(init);
    cli(&home, &words);
    if in_process {
        let file = home.join("clavigerd.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("[token]\n", "[token]\nin_process = true\n")).unwrap();
    }
    let log = std::fs::File::create(home.join("daemon.log")).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_clavigerd"))
        .arg("--config")
        .arg(home.join("clavigerd.toml"))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    let daemon = Daemon { child, home };
    cli(&daemon.home, &["status", "--wait", "20"]);
    let me = std::env::current_exe().unwrap();
    cli(&daemon.home, &["app", "add", "bench", "--path", me.to_str().unwrap()]);
    let policy = daemon.home.join("bench-policy.toml");
    std::fs::write(&policy, "schema = 1\n[assets.ETH]\nchain = \"eip155:1\"\nnative = true\ndecimals = 18\n[[rule]]\nid = \"bench\"\neffect = \"permit\"\nkeys = [\"*\"]\napps = [\"bench\"]\nacts = [\"transfer\", \"login\"]\nchains = [\"eip155:1\"]\nassets = [\"ETH\"]\nto.allow = [\"*\"]\nper_tx.max = \"10\"\nfee.max = \"1000000000000000\"\nwindow = [{ len = \"24h\", max = \"1000000000000000000\", scope = \"key\" }, { len = \"1h\", count = 1000000000, scope = \"app\" }]\n").unwrap();
    cli(&daemon.home, &["policy", "apply", policy.to_str().unwrap()]);
    daemon
}

/// What the clients ask: a payment, or a login with a key that no EVM chain knows. Both walk the same path.
fn request(algorithm: Algorithm, account: &str, nonce: u64) -> String {
    if algorithm == Algorithm::Ed25519 {
        return format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"claviger_signLogin\",\"params\":{{\"key\":\"k-ed25519\",\"audience\":\"https://example.org\",\"challenge\":\"0x{nonce:064x}\"}}}}\n"
        );
    }
    format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"eth_signTransaction\",\"params\":[{{\"from\":\"{account}\",\"to\":\"0x2222222222222222222222222222222222222222\",\"value\":\"0x1\",\"gas\":\"0x5208\",\"maxFeePerGas\":\"0x3b9aca00\",\"maxPriorityFeePerGas\":\"0x1\",\"nonce\":\"{nonce:#x}\",\"chainId\":\"0x1\"}}]}}\n"
    )
}

/// Drives the daemon with so many clients, one request in flight each.
fn whole(
    home: &Path,
    (algorithm, account): (Algorithm, &str),
    clients: u64,
    seconds: f64,
    nonces: &Arc<AtomicU64>,
) -> Figures {
    let stop = Arc::new(AtomicBool::new(false));
    let all = Arc::new(Mutex::new(Vec::new()));
    let barrier = Arc::new(std::sync::Barrier::new(usize::try_from(clients).unwrap() + 1));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (stop, all, barrier, nonces) = (stop.clone(), all.clone(), barrier.clone(), nonces.clone());
            let (socket, account) = (home.join("wallet.sock"), account.to_owned());
            std::thread::spawn(move || {
                let mut stream = UnixStream::connect(socket).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut samples, mut line) = (Vec::new(), String::new());
                barrier.wait();
                while !stop.load(Ordering::Relaxed) {
                    let nonce = nonces.fetch_add(1, Ordering::Relaxed);
                    let request = request(algorithm, &account, nonce);
                    let call = Instant::now();
                    stream.write_all(request.as_bytes()).unwrap();
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                    assert!(line.contains("\"result\""), "{line}");
                    samples.push(call.elapsed().as_secs_f64() * 1e6);
                }
                all.lock().unwrap().extend(samples);
            })
        })
        .collect();
    barrier.wait();
    let began = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(seconds));
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
    let elapsed = began.elapsed();
    let samples = std::mem::take(&mut *all.lock().unwrap());
    figures(samples, elapsed)
}

/// Sum and count of each stage so far.
fn stages(home: &Path) -> BTreeMap<String, (f64, f64)> {
    let mut stream = UnixStream::connect(home.join("metrics.sock")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let mut out: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix("claviger_stage_latency_seconds_") else { continue };
        let Some((kind, rest)) = rest.split_once("{stage=\"") else { continue };
        let Some((stage, value)) = rest.split_once("\"} ") else { continue };
        let value: f64 = value.parse().unwrap_or(0.0);
        match kind {
            "sum" => out.entry(stage.into()).or_default().0 = value,
            "count" => out.entry(stage.into()).or_default().1 = value,
            _ => {}
        }
    }
    out
}

fn row(what: &str, clients: &str, f: &Figures, floor: Option<f64>) {
    let ratio = floor.map_or(String::new(), |floor| format!("{:.2}", f.rate / floor));
    println!("{what:<34} {clients:>7} {:>9.0} {:>9.0} {:>9.0} {ratio:>7}", f.rate, f.p50, f.p99);
}

fn measure_daemon(daemon: &Daemon, token: &str, floors: &BTreeMap<Algorithm, f64>, seconds: f64) {
    for algorithm in Algorithm::PAIRS {
        let purpose = if algorithm == Algorithm::Ed25519 { "authentication" } else { "payment" };
        let name = format!("k-{algorithm}");
        let made = cli(
            &daemon.home,
            &["key", "create", &name, "--purpose", purpose, "--algorithm", algorithm.as_str()],
        );
        let account = made["address"].as_str().unwrap_or_default().to_lowercase();
        let nonces = Arc::new(AtomicU64::new(0));
        whole(&daemon.home, (algorithm, &account), 4, 0.3, &nonces);
        for clients in [1, 4, 16, 64] {
            let before = stages(&daemon.home);
            let f = whole(&daemon.home, (algorithm, &account), clients, seconds, &nonces);
            row(
                &format!("whole path, {token}, {algorithm}"),
                &clients.to_string(),
                &f,
                floors.get(&algorithm).copied(),
            );
            if clients == 1 || clients == 64 {
                let mean: Vec<String> = stages(&daemon.home)
                    .iter()
                    .map(|(stage, (sum, count))| {
                        let (s, c) = before.get(stage).copied().unwrap_or_default();
                        format!("{stage} {:.0}", (sum - s) * 1e6 / (count - c).max(1.0))
                    })
                    .collect();
                println!("    mean us by stage: {}", mean.join(", "));
            }
        }
    }
}

/// The same signatures through a worker process: what the hop adds to one call.
fn hop(connection: &Connection, place: &Place, profile: &Profile, seconds: f64) {
    let pin = Pin::new(PIN.into()).unwrap();
    let executable = Path::new(env!("CARGO_BIN_EXE_clavigerd"));
    let hosted = worker::Place::Pkcs11(place.clone());
    let hosting =
        Hosting { executable, place: &hosted, profile, sessions: 2, patience: Duration::from_secs(10) };
    let worker = Process::start(hosting, &pin, Handover::default(), &mut || Ok(())).unwrap();
    for (n, algorithm) in (1..).zip(Algorithm::PAIRS) {
        let key = KeyRef::from([n; 16]);
        let near: Box<dyn Token> = Box::new(connection.session().unwrap());
        let near = bare(vec![near], key, algorithm, seconds);
        for threads in [1, 2] {
            let sessions =
                (0..threads).map(|_| Box::new(worker.session().unwrap()) as Box<dyn Token>).collect();
            let far = bare(sessions, key, algorithm, seconds);
            row(&format!("C_Sign through the worker, {algorithm}"), &format!("{threads} thr"), &far, None);
            if threads == 1 {
                println!(
                    "    the hop adds {:.0} us at p50, {:.0} us at p99",
                    far.p50 - near.p50,
                    far.p99 - near.p99
                );
            }
        }
    }
    worker.close();
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let seconds = words.windows(2).find(|w| w[0] == "--seconds").map_or(2.0, |w| w[1].parse().unwrap());
    let Ok(conf) = std::env::var("SOFTHSM2_CONF") else {
        // SoftHSM reads its configuration from the environment: start again with ours.
        let dir = tempfile::Builder::new()
            .prefix("bench.")
            .tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target"))
            .unwrap();
        std::fs::create_dir(dir.path().join("tokens")).unwrap();
        let conf = dir.path().join("softhsm2.conf");
        std::fs::write(
            &conf,
            format!("directories.tokendir = {}\nlog.level = ERROR\n", dir.path().join("tokens").display()),
        )
        .unwrap();
        let status = Command::new(&words[0]).args(&words[1..]).env("SOFTHSM2_CONF", &conf).status().unwrap();
        assert!(status.success());
        return;
    };
    let dir = PathBuf::from(conf).parent().unwrap().to_path_buf();
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "bench", "--so-pin", "12345678", "--pin", PIN])
        .output()
        .expect("softhsm2-util (install softhsm2)");
    assert!(made.status.success());
    println!("{:<34} {:>7} {:>9} {:>9} {:>9} {:>7}", "", "clients", "per s", "p50 us", "p99 us", "ratio");

    let profile = Profile::load("softhsm2").unwrap();
    let place = Place {
        module: module_path(&profile, None).unwrap(),
        label: Some("bench".into()),
        serial: None,
        init: None,
    };
    let module = Module::load(place.clone(), profile.clone()).unwrap();
    let connection = module.connect(&Pin::new(PIN.into()).unwrap(), &mut || Ok(())).unwrap();
    let mut floors = BTreeMap::new();
    for (n, algorithm) in (1..).zip(Algorithm::PAIRS) {
        let key = KeyRef::from([n; 16]);
        let mut session = connection.session().unwrap();
        session
            .generate(&KeySpec {
                reference: key,
                label: "bench".into(),
                algorithm,
                purpose: Purpose::Payment,
            })
            .unwrap();
        for threads in [1, 2] {
            let sessions =
                (0..threads).map(|_| Box::new(connection.session().unwrap()) as Box<dyn Token>).collect();
            let f = bare(sessions, key, algorithm, seconds);
            row(&format!("bare C_Sign, SoftHSM, {algorithm}"), &format!("{threads} thr"), &f, None);
            floors.insert(algorithm, f.rate);
        }
        println!("    software verification: {:.0} us", verify_cost(&mut session, key, algorithm));
    }
    hop(&connection, &place, &profile, seconds);
    drop(connection);
    module.finalize();

    let pin = dir.join("pin");
    std::fs::write(&pin, PIN).unwrap();
    Command::new("chmod").arg("600").arg(&pin).status().unwrap();
    let softhsm = daemon(
        dir.join("softhsm"),
        &["--profile", "softhsm2", "--token-label", "bench", "--pin-file", pin.to_str().unwrap()],
        false,
    );
    println!("ratio = whole path / bare two-thread loop");
    measure_daemon(&softhsm, "SoftHSM", &floors, seconds);
    drop(softhsm);
    let near = daemon(
        dir.join("near"),
        &["--profile", "softhsm2", "--token-label", "bench", "--pin-file", pin.to_str().unwrap()],
        true,
    );
    measure_daemon(&near, "in process", &floors, seconds);
    drop(near);

    let embedded_dir = dir.join("bare-embedded");
    let pin = Pin::new(PIN.into()).unwrap();
    EmbeddedToken::create(&embedded_dir, &pin).unwrap();
    let mut token = EmbeddedToken::open(&embedded_dir, &pin, Profile::load("embedded").unwrap()).unwrap();
    let mut floors = BTreeMap::new();
    for (n, algorithm) in (1..).zip(Algorithm::PAIRS) {
        let key = KeyRef::from([n; 16]);
        token
            .generate(&KeySpec { reference: key, label: "b".into(), algorithm, purpose: Purpose::Payment })
            .unwrap();
        let sessions = (0..2).map(|_| Box::new(token.clone()) as Box<dyn Token>).collect();
        let f = bare(sessions, key, algorithm, seconds);
        row(&format!("bare, embedded, {algorithm}"), "2 thr", &f, None);
        floors.insert(algorithm, f.rate);
    }
    let embedded = daemon(dir.join("embedded"), &["--profile", "embedded"], false);
    measure_daemon(&embedded, "embedded", &floors, seconds);
}
