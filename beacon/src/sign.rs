//! The stock ssh-keygen signs leases; the key never comes into this program, and may be one of an agent or a token.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use claviger::core::order::LEASE;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

/// Signatures under way at once.
const AT_ONCE: usize = 4;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE);
const PATIENCE: Duration = Duration::from_secs(10);

/// Signs one lease.
pub async fn lease(key: &Path, text: &str) -> Result<String, String> {
    let _room = ROOM.acquire().await.map_err(|e| e.to_string())?;
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", LEASE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| format!("ssh-keygen: {e}"))?;
    let mut input = child.stdin.take().ok_or("ssh-keygen takes nothing")?;
    input.write_all(text.as_bytes()).await.map_err(|e| format!("ssh-keygen: {e}"))?;
    drop(input);
    let done = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let done = done.map_err(|_| "ssh-keygen does not answer")?.map_err(|e| format!("ssh-keygen: {e}"))?;
    if !done.status.success() {
        return Err("ssh-keygen did not sign".into());
    }
    String::from_utf8(done.stdout).map_err(|e| e.to_string())
}
