//! What it costs to know who asks: pinning a connection, the full check, the quick check; in this process, and by the
//! attestor in a process of its own, as the daemon does it.
//!
//! `cargo bench --bench caller`. Three apps: a static one, this program, and python3 with what it loads.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench that cannot go on stops")]

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;

use claviger::caller::{Eyes, Peer, child, executable_digest};
use claviger::core::app::Apps;
use claviger::core::units::Timestamp;

const ROUNDS: usize = 3000;
const PYTHON: &str = "import socket,ssl,hashlib,ctypes,json,sqlite3,time,sys\ns=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);time.sleep(600)";
const STATIC: &str = "#include <sys/socket.h>\n#include <sys/un.h>\n#include <string.h>\n#include <unistd.h>\nint main(int n, char **a) { struct sockaddr_un to = { .sun_family = AF_UNIX }; strncpy(to.sun_path, a[1], 100); int s = socket(AF_UNIX, SOCK_STREAM, 0); if (connect(s, (void *)&to, sizeof to)) return 1; sleep(600); return 0; }";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn measure(mut one: impl FnMut()) -> (f64, f64) {
    let mut samples: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            one();
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    (samples[ROUNDS / 2], samples[ROUNDS * 99 / 100])
}

fn areas(pid: u32) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    maps.lines().filter(|l| l.contains("r-xp")).count()
}

fn main() -> ExitCode {
    if let Some(code) = child::run_if_asked() {
        return code;
    }
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).map(String::as_str) == Some("--idle") {
        let _stream = UnixStream::connect(&words[2]).unwrap();
        loop {
            std::thread::park();
        }
    }
    let target = Path::new(env!("CARGO_BIN_EXE_clavigerd")).parent().unwrap();
    let dir = tempfile::Builder::new().prefix("bench.").tempdir_in(target).unwrap();
    let fixed = dir.path().join("static");
    let mut compiler = Command::new("cc")
        .args(["-static", "-O1", "-x", "c", "-o"])
        .arg(&fixed)
        .arg("-")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(STATIC.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());

    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let me = std::env::current_exe().unwrap();
    let mut apps: [(&str, Command); 3] = [
        ("static", Command::new(&fixed)),
        ("small, libc", Command::new(me)),
        ("python3", Command::new("python3")),
    ];
    apps[1].1.arg("--idle");
    apps[2].1.args(["-c", PYTHON]);
    println!(
        "{:<14} {:<10} {:>6} {:>16} {:>16} {:>16}",
        "app", "looked at", "areas", "pin us", "full us", "quick us"
    );
    let eyes = [("here", Eyes::open()), ("apart", Eyes::apart().unwrap())];
    for (name, command) in &mut apps {
        let running = Running(command.arg(&socket).stdin(Stdio::null()).spawn().unwrap());
        let (stream, _) = listener.accept().unwrap();
        let exe = std::fs::read_link(format!("/proc/{}/exe", running.0.id())).unwrap();
        let digest = hex::encode(executable_digest(&exe).unwrap());
        let uid = claviger::service::effective_uid();
        let path = exe.to_str().unwrap();
        let text = format!("[[app]]\nid = \"app\"\npath = {path:?}\nsha256 = {digest:?}\nuid = {uid}\n");
        let registered = Apps::parse(&text).unwrap();
        for (place, eyes) in &eyes {
            let pin = || Peer::pin(stream.as_fd(), eyes, &registered).unwrap();
            let pinned = measure(|| drop(pin()));
            let peer = pin();
            let now = Timestamp(0);
            let full = measure(|| drop(peer.vouch(&registered, [0; 32], now).unwrap()));
            let quick = measure(|| peer.still().unwrap());
            let cell = |(p50, p99): (f64, f64)| format!("{p50:.1} / {p99:.1}");
            println!(
                "{name:<14} {place:<10} {:>6} {:>16} {:>16} {:>16}",
                areas(running.0.id()),
                cell(pinned),
                cell(full),
                cell(quick)
            );
        }
    }
    println!("p50 / p99 of {ROUNDS} rounds; digests are kept, as after the first request");
    ExitCode::SUCCESS
}
