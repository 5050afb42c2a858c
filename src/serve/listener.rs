//! Listeners: bind or adopt sockets, pin who connects, bound the number of connections.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::SocketConfig;
use crate::service::{House, Peer};

/// Binds the socket with its mode and group, replacing a stale file but never a live daemon's.
pub fn bind(config: &SocketConfig) -> io::Result<UnixListener> {
    if let Some(parent) = config.path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if config.path.exists() {
        if std::os::unix::net::UnixStream::connect(&config.path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another daemon answers on {}", config.path.display()),
            ));
        }
        std::fs::remove_file(&config.path)?;
    }
    // Bound under a private name first, so that the socket never stands with a wrong mode.
    let fresh = config.path.with_extension("new");
    if fresh.exists() {
        std::fs::remove_file(&fresh)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
    if let Some(group) = config.group {
        crate::service::change_group(&fresh, group)?;
    }
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(config.mode))?;
    // Adopted before it can be found: since Linux 6.16 what is written to a connection carries its sender only if the
    // listener asked for that when the connection was made, and whoever came earlier would be refused.
    let listener = adopt(listener.into())?;
    std::fs::rename(&fresh, &config.path)?;
    Ok(listener)
}

/// Takes a listening socket that the service manager passed.
pub fn adopt(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    // On the listener, so that what is accepted has it before its first byte is read.
    crate::service::stamp_messages(listener.as_fd())?;
    UnixListener::from_std(listener)
}

/// Accepts until `stop`, handing each pinned connection to `serve`; then waits for those that are open.
pub async fn accept<F, Fut>(
    name: &'static str,
    listener: UnixListener,
    most: usize,
    house: Arc<House>,
    mut stop: watch::Receiver<bool>,
    serve: F,
) where
    F: Fn(UnixStream, Arc<Peer>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let serve = Arc::new(serve);
    let slots = Arc::new(Semaphore::new(most));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        while let Some(ended) = open.try_join_next() {
            if let Err(e) = ended {
                tracing::error!(socket = name, "a connection's task failed: {e}");
            }
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(socket = name, "accept failed: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        // Over the bound, the newcomer is closed at once: those that are served stay served.
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(socket = name, "refused a connection: {most} are open already");
            continue;
        };
        let (house, serve) = (Arc::clone(&house), Arc::clone(&serve));
        open.spawn(async move {
            let pinned = match stream.as_fd().try_clone_to_owned() {
                Ok(fd) => tokio::task::spawn_blocking(move || house.pin(fd.as_fd())).await,
                Err(e) => Ok(Err(e)),
            };
            match pinned {
                Ok(Ok(peer)) => serve(stream, Arc::new(peer)).await,
                Ok(Err(e)) => tracing::warn!(socket = name, "a peer could not be identified: {e}"),
                Err(e) => tracing::error!(socket = name, "identifying a peer failed: {e}"),
            }
            drop(slot);
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Removes the socket file at the end.
pub fn unlink(path: &Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("{} could not be removed: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn who_connects_in_the_moment_that_the_socket_appears_is_known_too() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..1000 {
            let path = dir.path().join(format!("{round}.sock"));
            let config = SocketConfig { path: path.clone(), mode: 0o600, group: None };
            let client = std::thread::spawn(move || {
                loop {
                    if let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&path) {
                        stream.write_all(b"at once").unwrap();
                        return stream;
                    }
                }
            });
            let listener = bind(&config).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let client = client.join().unwrap();
            let chunk = crate::service::receive(stream.as_fd(), &mut [0; 16]).unwrap();
            let own = i32::try_from(std::process::id()).unwrap();
            assert_eq!(chunk.sender.map(|s| s.pid), Some(own), "round {round}");
            drop(client);
        }
    }
}
