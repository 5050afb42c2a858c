//! A beacon: has the orders that people signed, gives them to the devices that ask, and gives leases to those against which
//! nothing stands. Believed by nobody: what it gives is worth its signatures, and what devices say of themselves is hearsay.
//!
//! Speaks plain HTTP to a TLS proxy on the same machine. Keeps files, one folder a device; nothing secret but the key of
//! leases, which `ssh-keygen -Y sign` uses.
#![forbid(unsafe_code)]

mod http;
mod shelf;

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use claviger::core::approval::Authority;
use serde_json::{Value, json};

use http::Request;
use shelf::Shelf;

/// Most connections at once.
const MOST: usize = 256;
/// Longest time that an answer is held back.
const LONGEST_WAIT: u64 = 30;

/// Has orders, gives leases.
#[derive(Parser)]
#[command(name = "claviger-beacon", version, about)]
struct Arguments {
    /// Where to listen; a loopback address behind a TLS proxy.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Folder for orders, receipts, and what devices said.
    #[arg(long)]
    dir: PathBuf,
    /// The authority document: orders that its revokers did not sign are not taken in.
    #[arg(long)]
    authority: PathBuf,
    /// Key of leases, for ssh-keygen; no leases are given without.
    #[arg(long)]
    lease_key: Option<PathBuf>,
    /// How long a lease runs, seconds.
    #[arg(long, default_value_t = 14_400)]
    lease_seconds: u64,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("claviger-beacon: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    if !arguments.listen.ip().is_loopback() {
        return Err("listen on a loopback address, and put a TLS proxy in front".into());
    }
    let text = std::fs::read_to_string(&arguments.authority)
        .map_err(|e| format!("{}: {e}", arguments.authority.display()))?;
    let authority = Authority::parse(&text).map_err(|e| format!("{}: {e}", arguments.authority.display()))?;
    let shelf =
        Arc::new(Shelf::open(arguments.dir, authority, arguments.lease_key, arguments.lease_seconds)?);
    let listener = TcpListener::bind(arguments.listen).map_err(|e| format!("{}: {e}", arguments.listen))?;
    note(&format!("claviger-beacon listens on {}", listener.local_addr().map_err(|e| e.to_string())?));
    let running = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let counted = Counted(Arc::clone(&running));
        if running.fetch_add(1, Ordering::AcqRel) >= MOST {
            continue;
        }
        let shelf = Arc::clone(&shelf);
        let served = std::thread::Builder::new().spawn(move || {
            let _counted = counted;
            if let Some(request) = http::read(&mut stream) {
                let (status, kind, body) = answer(&shelf, &request);
                http::write(&mut stream, status, kind, &body);
            }
        });
        if let Err(e) = served {
            note(&format!("no thread for a connection: {e}"));
        }
    }
    Ok(())
}

/// A line for the operator; one that nobody reads is no reason to stop.
fn note(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Counts a connection as long as it is served, however that ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn told(outcome: Result<Value, String>) -> (u16, &'static str, String) {
    match outcome {
        Ok(value) => (200, "application/json", value.to_string()),
        Err(why) => (400, "application/json", json!({"error": why}).to_string()),
    }
}

fn answer(shelf: &Shelf, request: &Request) -> (u16, &'static str, String) {
    let body = || serde_json::from_str::<Value>(&request.body).map_err(|e| e.to_string());
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/ask") => told(body().and_then(|asked| ask(shelf, &asked))),
        ("POST", "/v1/orders") => told(body().and_then(|paper| shelf.take_in(&paper))),
        ("GET", "/v1/devices") => told(shelf.devices().map(Value::Array)),
        ("GET", "/") => (200, "text/html; charset=utf-8", page(&shelf.devices().unwrap_or_default())),
        _ => (404, "application/json", json!({"error": "there is nothing here"}).to_string()),
    }
}

/// A device asks: it gets the orders that it does not know, and a lease when nothing stands against it.
fn ask(shelf: &Shelf, asked: &Value) -> Result<Value, String> {
    let device = shelf.heard_from(asked)?;
    let wait = asked.get("wait").and_then(Value::as_u64).unwrap_or(0).min(LONGEST_WAIT);
    let until = Instant::now() + Duration::from_secs(wait);
    loop {
        let orders = shelf.orders_for(&device, asked)?;
        if !orders.is_empty() || Instant::now() >= until {
            let wants = asked.get("lease").filter(|lease| lease.is_object());
            let lease = wants.map(|wanted| shelf.lease(&device, wanted)).transpose();
            if let Err(why) = &lease {
                note(&format!("no lease for {device}: {why}"));
            }
            return Ok(json!({"orders": orders, "lease": lease.ok().flatten()}));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A table for people.
fn page(devices: &[Value]) -> String {
    let columns = ["device", "deployment", "level", "epoch", "orders", "lease_left", "version", "seen"];
    let cell = |device: &Value, name: &str| match device.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => escaped(text),
        Some(other) => escaped(&other.to_string()),
    };
    let row = |tag: &str, cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|c| format!("<{tag}>{c}</{tag}>")).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let heads = row("th", columns.iter().map(|c| c.replace('_', " ")).collect());
    let rows: Vec<String> =
        devices.iter().map(|device| row("td", columns.iter().map(|c| cell(device, c)).collect())).collect();
    let rows = rows.concat();
    format!(
        "<!doctype html><title>Claviger beacon</title><style>body{{font:14px sans-serif}}td,th{{padding:4px 12px;text-align:left;border-bottom:1px solid #ccc}}</style>\n<h1>Devices</h1><p>What devices say of themselves is not signed; their receipts are.</p>\n<table>{heads}{rows}</table>\n"
    )
}
