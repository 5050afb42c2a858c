//! The daemon. Thin: reads the configuration, sets up log lines, runs.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use claviger::config::Config;
use claviger::service::Eyes;

/// Keeps payment-signing keys in a token and signs for wallet apps over a local socket.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Configuration file.
    #[arg(long, default_value = "/etc/claviger/clavigerd.toml")]
    config: PathBuf,
    /// Accept a state directory that does not survive power loss (tests only).
    #[arg(long)]
    allow_volatile: bool,
}

fn main() -> ExitCode {
    if let Some(code) =
        claviger::caller::child::run_if_asked().or_else(claviger::token::worker::host::run_if_asked)
    {
        return code;
    }
    let arguments = Arguments::parse();
    let mut config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("clavigerd: {e}");
            return ExitCode::from(2);
        }
    };
    config.allow_volatile |= arguments.allow_volatile;
    let lines = tracing_subscriber::fmt()
        .with_max_level(config.log.level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if config.log.json {
        lines.json().init();
    } else {
        lines.init();
    }
    if let Err(e) = claviger::sys::raise_descriptor_limit() {
        tracing::warn!("the limit of open descriptors stays as it is: {e}");
    }
    // First of all, while there is one thread and nothing is loaded: the privileges go with it.
    let eyes = match Eyes::apart() {
        Ok(eyes) => eyes,
        Err(e) => {
            tracing::error!("nobody looks at those who ask: {e}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(e) = claviger::sys::harden_process() {
        tracing::error!("the process could not be hardened: {e}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("no runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(claviger::serve::daemon::run(config, eyes)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!("{why}");
            ExitCode::FAILURE
        }
    }
}
