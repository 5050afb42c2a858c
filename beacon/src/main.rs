//! A beacon: has the orders that people signed, gives them to the devices that ask, and gives leases to those against which
//! nothing stands. Believed by nobody: what it gives is worth its signatures, and what devices say of themselves is hearsay.
//!
//! TLS 1.3 for devices anywhere, plain HTTP for the page, metrics and proxies on this machine; one task a connection, so
//! that a fleet may wait for its answers. Nothing secret is here but the key of leases, which `ssh-keygen -Y sign` uses.
#![forbid(unsafe_code)]

mod config;
mod db;
mod metrics;
mod page;
mod routes;
mod serve;
mod shelf;
mod sign;
mod tls;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Parser;
use claviger::core::approval::Authority;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use config::Config;
use routes::Beacon;
use shelf::Shelf;

/// How often what devices said is written down.
const FLUSH: Duration = Duration::from_secs(10);
/// How long answers under way may take when the beacon stops.
const GRACE: Duration = Duration::from_secs(5);
/// Open files besides connections.
const OTHER_FILES: usize = 64;

/// Has orders, gives leases.
#[derive(Parser)]
#[command(name = "claviger-beacon", version, about)]
struct Arguments {
    /// Its configuration (config/beacon.toml).
    #[arg(long, default_value = "/etc/claviger-beacon/beacon.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            note(&format!("claviger-beacon: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for the operator; one that nobody reads is no reason to stop.
fn note(line: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut config = Config::read(&arguments.config)?;
    let text = std::fs::read_to_string(&config.authority)
        .map_err(|e| format!("{}: {e}", config.authority.display()))?;
    let authority = Authority::parse(&text).map_err(|e| format!("{}: {e}", config.authority.display()))?;
    let files = open_files().unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    if config.limits.connections > files {
        note(&format!("the limit of open files leaves room for {files} connections"));
        config.limits.connections = files;
    }
    let tls = config.tls.as_ref().map(tls::server).transpose()?;
    let tls = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let config = Arc::new(config);
    let shelf = Arc::new(Shelf::open(Arc::clone(&config), authority)?);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let served = runtime.block_on(serve_all(config, Arc::clone(&shelf), tls));
    runtime.shutdown_timeout(GRACE);
    served.and(shelf.flush())
}

/// The soft limit of this process.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

async fn bound(address: std::net::SocketAddr, how: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await.map_err(|e| format!("{address}: {e}"))?;
    note(&format!(
        "claviger-beacon listens with {how} on {}",
        listener.local_addr().map_err(|e| e.to_string())?
    ));
    Ok(listener)
}

async fn serve_all(config: Arc<Config>, shelf: Arc<Shelf>, tls: Option<TlsAcceptor>) -> Result<(), String> {
    let (end, stop) = watch::channel(false);
    let beacon = Arc::new(Beacon {
        config: Arc::clone(&config),
        shelf: Arc::clone(&shelf),
        metrics: metrics::Metrics::default(),
        peers: serve::Peers::default(),
    });
    // Asked for before anybody is told that it is ready.
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;
    if let Some(address) = config.plain {
        let listener = bound(address, "HTTP").await?;
        tokio::spawn(serve::accept(listener, None, Arc::clone(&beacon), stop.clone()));
    }
    if let (Some(found), Some(tls)) = (&config.tls, tls) {
        let listener = bound(found.listen, "TLS").await?;
        tokio::spawn(serve::accept(listener, Some(tls), Arc::clone(&beacon), stop.clone()));
    }
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(FLUSH) => {
                let shelf = Arc::clone(&shelf);
                if let Ok(Err(why)) = tokio::task::spawn_blocking(move || shelf.flush()).await {
                    note(&why);
                }
            }
        }
    }
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    end.send_replace(true);
    let began = Instant::now();
    while beacon.metrics.connections.load(Ordering::Relaxed) > 0 && began.elapsed() < GRACE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
