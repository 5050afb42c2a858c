//! A software TPM of its own for a test, a few commands that a stranger would send to it, and a listener on its bus.
//! Shares no code with `src/tpm`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use claviger::refusal::Refusal;
use claviger::secret::Pin;
use claviger::tpm;

pub const INDEX: u32 = 0x0181_0c1a;
const OWNER: u32 = 0x4000_0001;
const LOCKOUT: u32 = 0x4000_000a;

/// Whether a test can run here; says so when not.
pub fn missing() -> bool {
    let found = Command::new("swtpm").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        eprintln!("skipped: swtpm is missing (Debian package: swtpm)");
    }
    missing
}

pub struct Swtpm {
    child: Child,
    pub dir: tempfile::TempDir,
    pub address: String,
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(dir: &Path) -> Child {
    std::fs::create_dir_all(dir.join("state")).unwrap();
    for name in ["tpm", "control"] {
        std::fs::remove_file(dir.join(name)).ok();
    }
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.join("state").display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", dir.join("tpm").display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", dir.join("control").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !(listens(&dir.join("tpm")) && listens(&dir.join("control"))) {
        assert!(began.elapsed() < Duration::from_secs(10), "swtpm does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// Whether somebody listens there, without a connection, which the TPM might take for its client's.
fn listens(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|fields| {
        // __SO_ACCEPTCON
        fields.last() == Some(&path) && fields[3] == "00010000"
    })
}

impl Swtpm {
    /// A new TPM, with a seed of its own.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = launch(dir.path());
        let address = format!("swtpm:path={}", dir.path().join("tpm").display());
        Self { child, dir, address }
    }

    fn stop(&mut self) {
        // Its state is written at each change, so that this is no worse than a power cut.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Switches the machine off and on: PCRs start anew, what is kept stays.
    pub fn reboot(&mut self) {
        self.stop();
        self.child = launch(self.dir.path());
    }

    pub fn blob(&self) -> PathBuf {
        let dir = self.dir.path().join("etc");
        std::fs::create_dir_all(&dir).unwrap();
        dir.join("pin.sealed")
    }

    /// Sends a command with the empty password and gives the answer's code.
    fn send(&self, code: u32, handles: &[u32], rest: &[u8]) -> u32 {
        let mut body: Vec<u8> = handles.iter().flat_map(|h| h.to_be_bytes()).collect();
        body.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0, 0]);
        body.extend(rest);
        let mut command = vec![0x80, 2];
        command.extend(u32::try_from(body.len() + 10).unwrap().to_be_bytes());
        command.extend(code.to_be_bytes());
        command.extend(body);
        let mut stream = UnixStream::connect(self.dir.path().join("tpm")).unwrap();
        stream.write_all(&command).unwrap();
        let mut answer = [0; 4096];
        assert!(stream.read(&mut answer).unwrap() >= 10);
        u32::from_be_bytes(answer[6..10].try_into().unwrap())
    }

    /// Something else is started or set than before.
    pub fn extend(&self, pcr: u32) {
        let rest = [&[0, 0, 0, 1, 0, 0x0b][..], &[0x5a; 32]].concat();
        assert_eq!(self.send(0x182, &[pcr], &rest), 0);
    }

    /// The owner may delete a counter, and nothing tells whoever relied on it.
    pub fn delete_counter(&self) {
        assert_eq!(self.send(0x122, &[OWNER, INDEX], &[]), 0);
    }

    /// Defines something at the index that is no counter of ours.
    pub fn define_ordinary(&self) {
        let public = [&INDEX.to_be_bytes()[..], &[0, 0x0b, 0x02, 0x06, 0, 0x02, 0, 0, 0, 8]].concat();
        let rest = [&[0, 0, 0, 14][..], &public].concat();
        assert_eq!(self.send(0x12a, &[OWNER], &rest), 0);
    }

    /// As after too many wrong guesses: nothing that the dictionary lockout guards opens any more.
    pub fn lock_out(&self) {
        assert_eq!(self.send(0x13a, &[LOCKOUT], &[0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0]), 0);
    }

    /// Sets a password for the owner.
    pub fn own(&self) {
        assert_eq!(self.send(0x129, &[OWNER], &[0, 3, b'a', b'b', b'c']), 0);
    }

    pub fn seal(&self, pin: &str) -> u64 {
        let pin = Pin::new(pin.to_owned()).unwrap();
        tpm::seal(&pin, &self.address, INDEX, &self.blob()).unwrap().counter
    }

    pub fn unseal(&self) -> Result<String, Refusal> {
        self.unseal_at(&self.blob())
    }

    pub fn unseal_at(&self, blob: &Path) -> Result<String, Refusal> {
        let pin = tpm::unseal(blob, &self.address)?;
        Ok(String::from_utf8(pin.expose().to_vec()).unwrap())
    }

    /// The code and the sentence with which the PIN is refused.
    pub fn refused(&self) -> (&'static str, String) {
        let refusal = self.unseal().unwrap_err();
        (refusal.code.as_str(), refusal.sentence)
    }
}

/// Stands between the daemon and the TPM: writes everything down, and may bend an answer.
pub struct Listener {
    pub address: String,
    heard: Arc<Mutex<Vec<u8>>>,
    bend: Arc<AtomicBool>,
}

impl Listener {
    pub fn between(swtpm: &Swtpm) -> Self {
        let path = swtpm.dir.path().join("listener");
        let real = swtpm.dir.path().join("tpm");
        let listener = UnixListener::bind(&path).unwrap();
        let (heard, bend) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (ours, bending) = (Arc::clone(&heard), Arc::clone(&bend));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                let mut tpm = UnixStream::connect(&real).unwrap();
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    ours.lock().unwrap().extend(&buffer[..count]);
                    let unseal = buffer[6..10] == [0, 0, 1, 0x5e];
                    tpm.write_all(&buffer[..count]).unwrap();
                    let count = tpm.read(&mut buffer).unwrap();
                    ours.lock().unwrap().extend(&buffer[..count]);
                    if unseal && bending.load(Ordering::SeqCst) {
                        // One bit of the encrypted PIN.
                        buffer[17] ^= 1;
                    }
                    if client.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
            }
        });
        Self { address: format!("swtpm:path={}", path.display()), heard, bend }
    }

    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }

    pub fn bend(&self) {
        self.bend.store(true, Ordering::SeqCst);
    }
}

/// Whether some bytes stand in a file below a folder.
pub fn found_below(dir: &Path, bytes: &[u8]) -> Option<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        if path.is_dir() {
            found_below(&path, bytes)
        } else {
            contains(&std::fs::read(&path).unwrap_or_default(), bytes).then_some(path)
        }
    })
}

pub fn contains(text: &[u8], bytes: &[u8]) -> bool {
    text.windows(bytes.len()).any(|window| window == bytes)
}
