//! Serves the metrics over HTTP/1.0 on a Unix socket or a loopback port: one answer, whatever is asked with GET.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::config::{MetricsListen, SocketConfig};
use crate::service::House;

const PATIENCE: Duration = Duration::from_secs(5);

/// Serves until `stop`.
pub async fn run(
    listen: MetricsListen,
    house: Arc<House>,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let slots = Arc::new(Semaphore::new(8));
    match listen {
        MetricsListen::Unix(path) => {
            let listener =
                super::listener::bind(&SocketConfig { path: path.clone(), mode: 0o660, group: None })?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        spawn(stream, &house, &slots);
                    },
                    _ = stop.wait_for(|s| *s) => break,
                }
            }
            super::listener::unlink(&path);
        }
        MetricsListen::Loopback(address) => {
            let listener = tokio::net::TcpListener::bind(address).await?;
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        spawn(stream, &house, &slots);
                    },
                    _ = stop.wait_for(|s| *s) => break,
                }
            }
        }
    }
    Ok(())
}

fn spawn<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    house: &Arc<House>,
    slots: &Arc<Semaphore>,
) {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        let house = Arc::clone(house);
        tokio::spawn(async move {
            if timeout(PATIENCE, answer(stream, &house)).await.is_err() {
                tracing::debug!("a metrics reader was too slow");
            }
            drop(slot);
        });
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, house: &House) -> std::io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") && head.len() < 8192 {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let (status, body) = if head.starts_with(b"GET ") {
        house.refresh_gauges();
        ("200 OK", house.metrics.render())
    } else {
        ("405 Method Not Allowed", "only GET\n".to_owned())
    };
    let reply = format!(
        "HTTP/1.0 {status}\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}
