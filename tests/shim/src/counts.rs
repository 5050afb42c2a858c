//! The log of calls: one line `pid function rv how unix_ms`, each appended by one write.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::process;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::calls::Function;

static PATH: OnceLock<Option<OsString>> = OnceLock::new();

/// Opened anew for each line, so that a test may remove or rename the file at any time.
pub fn note(function: Function, rv: &str, how: &str) {
    let Some(path) = PATH.get_or_init(|| env::var_os("SHIM_COUNTS")) else { return };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_millis());
    let line = format!("{} {} {rv} {how} {now}\n", process::id(), function.name());
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(why) = written {
        eprintln!("fault-shim: SHIM_COUNTS: {why}");
    }
}
