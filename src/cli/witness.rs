//! `claviger witness`: a second Claviger that watches the logs of others only grow.
#![forbid(unsafe_code)]

use std::io::Write;
use std::net::TcpListener;

use super::arguments::WitnessCommand;
use super::{Failure, Output, audit};
use crate::service::witnessing::Witness;

/// Runs the command. Serving ends when it is ended.
pub fn run(command: WitnessCommand) -> Result<Output, Failure> {
    let WitnessCommand::Serve { dir, name, listen, log } = command;
    let logs = audit::keys(&log, false).map_err(Failure::plain)?;
    let told = |e: std::io::Error| Failure::plain(format!("{}: {e}", dir.display()));
    let witness = Witness::open(&dir, &name, logs).map_err(told)?;
    let listener = TcpListener::bind(&listen)
        .map_err(|e| Failure::plain(format!("{listen} cannot be listened on: {e}")))?;
    let at = listener.local_addr().map_err(Failure::plain)?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{at}\n{}", witness.vkey())
        .and_then(|()| out.flush())
        .map_err(Failure::plain)?;
    witness.serve(&listener).map_err(told)?;
    Err(Failure::plain("the witness ended"))
}
