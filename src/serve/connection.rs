//! One connection: reads messages, runs requests side by side, writes each reply as it is ready.
//!
//! Bounds: requests in flight (reading stops there), bytes, depth, time for the rest of a begun message, time for
//! the reader to take a reply. A slow or half-open peer costs this connection and nothing else.
#![forbid(unsafe_code)]

use std::future::Future;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::refusal::{Code, Refusal};
use crate::service::{Chunk, receive};
use crate::wire::frame::{FrameError, Limits, Splitter};
use crate::wire::rpc::{self, Dialect, Message, Request};

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request of this connection's peer.
    fn call(&self, request: Request) -> impl Future<Output = Result<Value, Refusal>> + Send;
    /// Whether what was read came from this connection's peer, and brought nothing else.
    fn admit(&self, chunk: &Chunk) -> Result<(), Refusal>;
    /// Told of a message that could not be read, for the metrics.
    fn unreadable(&self, refusal: &Refusal);
}

/// Bounds of one connection.
#[derive(Clone)]
pub struct Bounds {
    /// Of one message.
    pub frame: Limits,
    /// Requests of a batch.
    pub batch: usize,
    /// Requests in flight here.
    pub in_flight: usize,
    /// Requests in flight everywhere.
    pub total: Arc<Semaphore>,
    /// Patience.
    pub stall: Duration,
}

/// Serves until the peer leaves, breaks a bound, or `stop` turns true; requests in flight are finished first.
pub async fn run<H: Handler>(
    stream: UnixStream,
    handler: Arc<H>,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) {
    let (reader, mut writer) = stream.into_split();
    let (replies, mut outbox) = mpsc::channel::<Vec<u8>>(bounds.in_flight);
    let (gone, mut is_gone) = watch::channel(false);
    let stall = bounds.stall;
    let writing = tokio::spawn(async move {
        while let Some(line) = outbox.recv().await {
            match timeout(stall, writer.write_all(&line)).await {
                Ok(Ok(())) => {}
                // The peer left, or does not read: its replies are dropped with the connection.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        gone.send_replace(true);
    });

    let slots = Arc::new(Semaphore::new(bounds.in_flight));
    let mut splitter = Splitter::new(bounds.frame);
    // What passes through may hold a PIN or a key.
    let mut chunk = Zeroizing::new(vec![0; 16 * 1024]);
    'reading: loop {
        loop {
            match splitter.take() {
                Ok(Some(message)) => {
                    let slot = tokio::select! {
                        slot = Arc::clone(&slots).acquire_owned() => slot,
                        _ = is_gone.changed() => break 'reading,
                    };
                    let Ok(slot) = slot else { break 'reading };
                    let (handler, replies, bounds) = (Arc::clone(&handler), replies.clone(), bounds.clone());
                    tokio::spawn(async move {
                        answer(Zeroizing::new(message), &handler, &bounds, &replies).await;
                        drop(slot);
                    });
                }
                Ok(None) => break,
                Err(error) => {
                    last_words(frame_refusal(error), handler.as_ref(), &replies).await;
                    break 'reading;
                }
            }
        }
        let read = async {
            let socket = reader.as_ref();
            // One sender at a time: the kernel does not join what different processes wrote.
            let read = socket.async_io(Interest::READABLE, || receive(socket.as_fd(), &mut chunk));
            if splitter.is_midway() {
                timeout(stall, read).await.unwrap_or(Ok(Chunk::default()))
            } else {
                read.await
            }
        };
        let read = tokio::select! {
            read = read => read,
            _ = stop.wait_for(|s| *s) => break,
            _ = is_gone.changed() => break,
        };
        let Ok(read) = read else { break };
        if let Err(refusal) = handler.admit(&read) {
            last_words(refusal, handler.as_ref(), &replies).await;
            break;
        }
        if read.length == 0 {
            break;
        }
        splitter.feed(chunk.get(..read.length).unwrap_or_default());
    }
    drop(replies);
    // The writer ends when the last request in flight has been answered.
    if writing.await.is_err() {
        tracing::error!("a connection's writer panicked");
    }
}

/// Says why the connection ends.
async fn last_words<H: Handler>(refusal: Refusal, handler: &H, replies: &mpsc::Sender<Vec<u8>>) {
    handler.unreadable(&refusal);
    let line = rpc::line(&rpc::error(&Value::Null, &refusal, Dialect::Native));
    if replies.send(line).await.is_err() {
        tracing::debug!("the peer left before it could be told why its connection ends");
    }
}

fn frame_refusal(error: FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge(_) => Code::TooLarge,
        FrameError::TooDeep(_) => Code::TooDeep,
        FrameError::NotAMessage(_) => Code::ParseError,
    };
    Refusal::new(code, format!("{error}; the connection is closed"))
}

async fn answer<H: Handler>(
    message: Zeroizing<Vec<u8>>,
    handler: &Arc<H>,
    bounds: &Bounds,
    replies: &mpsc::Sender<Vec<u8>>,
) {
    let line = match rpc::parse(&message, bounds.batch) {
        Err(refusal) => {
            handler.unreadable(&refusal);
            Some(rpc::line(&rpc::error(&Value::Null, &refusal, Dialect::Native)))
        }
        Ok(Message::Single(item)) => one(item, handler, bounds).await.map(|v| rpc::line(&v)),
        Ok(Message::Batch(items)) => {
            let mut tasks = JoinSet::new();
            for (index, item) in items.into_iter().enumerate() {
                let (handler, bounds) = (Arc::clone(handler), bounds.clone());
                tasks.spawn(async move { (index, one(item, &handler, &bounds).await) });
            }
            let mut done: Vec<_> = tasks.join_all().await;
            done.sort_by_key(|(index, _)| *index);
            let replies: Vec<Value> = done.into_iter().filter_map(|(_, reply)| reply).collect();
            (!replies.is_empty()).then(|| rpc::line(&json!(replies)))
        }
    };
    if let Some(line) = line
        && replies.send(line).await.is_err()
    {
        tracing::debug!("the peer left before its reply");
    }
}

async fn one<H: Handler>(
    item: Result<Request, (Value, Refusal)>,
    handler: &Arc<H>,
    bounds: &Bounds,
) -> Option<Value> {
    let request = match item {
        Ok(request) => request,
        Err((id, refusal)) => {
            handler.unreadable(&refusal);
            return Some(rpc::error(&id, &refusal, Dialect::Native));
        }
    };
    let (id, dialect) = (request.id.clone(), Dialect::of(&request.method));
    let outcome = match bounds.total.try_acquire() {
        Ok(_permit) => handler.call(request).await,
        Err(_) => Err(Refusal::new(Code::Busy, "too many requests are in flight in this daemon")),
    };
    let id = id?;
    Some(match outcome {
        Ok(value) => rpc::result(&id, &value),
        Err(refusal) => rpc::error(&id, &refusal, dialect),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};

    struct Echo;

    impl Handler for Echo {
        async fn call(&self, request: Request) -> Result<Value, Refusal> {
            if request.method == "slow" {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if request.method == "big" {
                return Ok(json!("x".repeat(100_000)));
            }
            Ok(json!(request.method))
        }
        fn admit(&self, _: &Chunk) -> Result<(), Refusal> {
            Ok(())
        }
        fn unreadable(&self, _: &Refusal) {}
    }

    fn start(
        in_flight: usize,
        stall: Duration,
    ) -> (UnixStream, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let (client, server) = UnixStream::pair().unwrap();
        let (stop, stopping) = watch::channel(false);
        let bounds = Bounds {
            frame: Limits { max_bytes: 4096, max_depth: 8 },
            batch: 4,
            in_flight,
            total: Arc::new(Semaphore::new(100)),
            stall,
        };
        (client, stop, tokio::spawn(run(server, Arc::new(Echo), bounds, stopping)))
    }

    #[tokio::test]
    async fn replies_come_out_of_order_by_id_and_after_half_close() {
        let (client, _stop, task) = start(8, Duration::from_secs(5));
        let (r, mut w) = client.into_split();
        w.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"slow\"}{\"jsonrpc\":\"2.0\",\"id\":\"b\",\"method\":\"fast\"}[{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"c\"},{\"jsonrpc\":\"2.0\",\"method\":\"note\"}]").await.unwrap();
        w.shutdown().await.unwrap();
        let mut lines = tokio::io::BufReader::new(r).lines();
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            seen.push(line);
        }
        assert_eq!(seen.len(), 3);
        assert!(seen[2].contains("slow"), "{seen:?}");
        assert!(seen.iter().any(|l| l.starts_with('[')));
        task.await.unwrap();
    }

    // [clause 8.2.3-b] test
    #[tokio::test]
    async fn a_peer_that_does_not_read_or_finish_costs_only_its_connection() {
        let (mut client, _stop, task) = start(2, Duration::from_millis(100));
        for _ in 0..64 {
            if client.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"big\"}\n").await.is_err() {
                break;
            }
        }
        timeout(Duration::from_secs(5), task).await.expect("ended by itself").unwrap();
        let (mut client, _stop, task) = start(2, Duration::from_millis(100));
        client.write_all(b"{\"jsonrpc\":").await.unwrap();
        timeout(Duration::from_secs(5), task).await.expect("ended by itself").unwrap();
    }

    #[tokio::test]
    async fn a_broken_frame_is_told_and_the_connection_ends() {
        let (mut client, _stop, task) = start(2, Duration::from_secs(1));
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("parse_error"), "{text}");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn stop_finishes_what_is_in_flight() {
        let (mut client, stop, task) = start(2, Duration::from_secs(1));
        client.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"slow\"}\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stop.send_replace(true);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("\"slow\""), "{text}");
        task.await.unwrap();
    }
}
