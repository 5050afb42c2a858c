//! A beacon with its people, for tests.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use claviger::core::approval::Authority;
use claviger::core::order::{Level, Order, Scope};
use claviger::core::units::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, NamedGroup, RootCertStore, StreamOwned};
use serde_json::{Value, json};

pub const BOOT: &str = "0123abcd-0000-0000-0000-000000000000";
pub const PLAIN: &str = "[listen]\nplain = \"127.0.0.1:0\"\n";

pub fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tls").join(name)
}

pub fn ssh_keygen_is_here() -> bool {
    Command::new("ssh-keygen").arg("-?").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

pub struct Rig {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    /// What it listens on, in the order in which it says so.
    pub addresses: Vec<String>,
    pub authority: Authority,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Rig {
    /// gina may stop, alice is in charge of starting again; `config` comes after what every beacon needs.
    pub fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = |who: &str| {
            let file = dir.path().join(who);
            let words = ["-q", "-t", "ed25519", "-N", "", "-C", who, "-f", file.to_str().unwrap()];
            assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
            std::fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned()
        };
        let (gina, alice, lease) = (key("gina"), key("alice"), key("lease"));
        key("mallory");
        let document = format!(
            "schema = 1\ndeployment = \"test-1\"\nfiles_allowed = true\n[orders]\nrevokers = [\"guards\"]\n[orders.lease]\nkey = \"{lease}\"\n[quorum.authority]\nquorum = 1\nof = \"ops\"\n[[person]]\nid = \"gina\"\ngroups = [\"guards\"]\nkeys = [\"{gina}\"]\n[[person]]\nid = \"alice\"\ngroups = [\"ops\"]\nkeys = [\"{alice}\"]\n"
        );
        let authority = Authority::parse(&document).unwrap();
        std::fs::write(dir.path().join("authority.toml"), document).unwrap();
        let text = format!("authority = \"authority.toml\"\nstate = \"state\"\n{config}");
        std::fs::write(dir.path().join("beacon.toml"), text).unwrap();
        let mut rig = Self { dir, child: None, addresses: Vec::new(), authority };
        rig.run();
        rig
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_claviger-beacon"));
        command.arg("--config").arg(self.dir.path().join("beacon.toml")).stderr(Stdio::piped());
        command
    }

    /// Starts it again; it must listen on as many addresses as its configuration says.
    pub fn run(&mut self) {
        let text = std::fs::read_to_string(self.dir.path().join("beacon.toml")).unwrap();
        let wanted = text.lines().filter(|l| l.starts_with("plain = ") || l.starts_with("tls = ")).count();
        let mut child = self.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        self.addresses.clear();
        while self.addresses.len() < wanted {
            let line = lines.next().expect("the beacon has ended").unwrap();
            if let Some((_, address)) = line.split_once(" on ") {
                self.addresses.push(address.to_owned());
            }
        }
        // What it says later is read, so that it is never stuck.
        std::thread::spawn(move || lines.for_each(drop));
        self.child = Some(child);
    }

    /// What it says when it does not start.
    pub fn refuses(&mut self) -> String {
        self.kill();
        let out = self.command().output().unwrap();
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// As a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// As systemd does; how long it took.
    pub fn stop(&mut self) -> Duration {
        let began = std::time::Instant::now();
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(child.wait().unwrap().success());
        began.elapsed()
    }

    pub fn sign(&self, who: &str, namespace: &str, text: &str) -> String {
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "sign", "-n", namespace, "-f"])
            .arg(self.dir.path().join(who))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    }

    pub fn asked(&self, method: &str, path: &str, body: &str) -> (u16, Value, String) {
        over(TcpStream::connect(&self.addresses[0]).unwrap(), method, path, body)
    }

    /// A question of a device, with what is said besides.
    pub fn ask(&self, device: &str, more: &Value) -> (u16, Value, String) {
        self.asked("POST", "/v1/ask", &question(device, more).to_string())
    }

    /// Hands an order in.
    pub fn put(&self, order: &Order, who: &str) -> u16 {
        let text = order.render();
        let paper = json!({"text": text, "signatures": [self.sign(who, "clavigerd-order@v1", &text)]});
        self.asked("POST", "/v1/orders", &paper.to_string()).0
    }
}

pub fn question(device: &str, more: &Value) -> Value {
    let mut body = json!({"deployment": "test-1", "device": device, "epoch": 1, "version": "<b>"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

pub fn order(device: &str, number: u64, scope: Scope) -> Order {
    Order {
        deployment: "test-1".into(),
        device: device.to_owned(),
        epoch: 1,
        number,
        level: Level::Suspend,
        scope,
        issued: Timestamp(1_700_000_000_000),
        previous: None,
        reason: "lost".into(),
    }
}

pub fn over(stream: impl Read + Write, method: &str, path: &str, body: &str) -> (u16, Value, String) {
    try_over(stream, method, path, body).unwrap()
}

/// One request on a connection of its own; an error where the connection ends without an answer.
pub fn try_over(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, Value, String), String> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .map_err(|e| e.to_string())?;
    stream.flush().map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).ok_or("no status")?.parse().map_err(|_| "no status")?;
    Ok((status, serde_json::from_str(body).unwrap_or_default(), body.to_owned()))
}

/// `[listen]` with TLS.
pub fn tls(more: &str) -> String {
    let path = |name: &str| vectors(name).canonicalize().unwrap().display().to_string();
    format!(
        "[listen]\n{more}tls = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
        path("server.pem"),
        path("server.key")
    )
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects by one of these groups (any, when none are named), with a certificate or without.
pub fn tls_client(groups: &[NamedGroup], own: bool) -> impl Fn(&str) -> Result<Tls, String> {
    let certificate = |name: &str| CertificateDer::from_pem_file(vectors(name)).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| groups.is_empty() || groups.contains(&group.name()));
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = Arc::new(if own {
        let key = PrivateKeyDer::from_pem_file(vectors("client.key")).unwrap();
        builder.with_client_auth_cert(vec![certificate("client.pem")], key).unwrap()
    } else {
        builder.with_no_client_auth()
    });
    move |address| {
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = TcpStream::connect(address).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        session.complete_io(&mut stream).map_err(|e| e.to_string())?;
        Ok(StreamOwned::new(session, stream))
    }
}
