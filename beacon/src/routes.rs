//! What is asked, and what is answered.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::{Config, is_hash};
use crate::metrics::{Metrics, count};
use crate::page;
use crate::serve::Peers;
use crate::shelf::{Ask, Shelf};
use crate::sign;

/// Longest body, bytes, and how long it may take to come.
const LONGEST_BODY: usize = 512 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that an answer is held back, seconds.
const LONGEST_WAIT: u64 = 30;

/// The running beacon.
pub struct Beacon {
    /// Frozen.
    pub config: Arc<Config>,
    /// Orders and devices.
    pub shelf: Arc<Shelf>,
    /// Counters.
    pub metrics: Metrics,
    /// Who is connected.
    pub peers: Peers,
}

/// Which way a request came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// From this machine: everything.
    Plain,
    /// From anywhere: what devices and revokers need. Who has which device is not told there.
    Tls,
}

type Reply = Response<Full<Bytes>>;

/// A document with its signatures.
#[derive(Deserialize)]
struct Paper {
    text: String,
    signatures: Vec<String>,
}

fn reply(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let headers = [
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ];
    for (name, value) in headers {
        reply.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    reply
}

fn told(outcome: Result<Value, String>) -> Reply {
    match outcome {
        Ok(value) => reply(StatusCode::OK, "application/json", value.to_string()),
        Err(why) => reply(StatusCode::BAD_REQUEST, "application/json", json!({"error": why}).to_string()),
    }
}

async fn body(request: Request<Incoming>) -> Result<Bytes, String> {
    let whole = Limited::new(request.into_body(), LONGEST_BODY).collect();
    let whole = tokio::time::timeout(PATIENCE, whole).await.map_err(|_| "the request does not end")?;
    Ok(whole.map_err(|e| e.to_string())?.to_bytes())
}

async fn read<T: serde::de::DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    serde_json::from_slice(&body(request).await?).map_err(|e| e.to_string())
}

/// Runs what blocks where it blocks nobody.
async fn aside<T: Send + 'static>(
    beacon: &Beacon,
    what: impl FnOnce(&Shelf) -> T + Send + 'static,
) -> Result<T, String> {
    let shelf = Arc::clone(&beacon.shelf);
    tokio::task::spawn_blocking(move || what(&shelf)).await.map_err(|e| e.to_string())
}

/// Answers one request.
pub async fn answer(
    beacon: &Beacon,
    door: Door,
    request: Request<Incoming>,
    stop: watch::Receiver<bool>,
) -> Reply {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let here = door == Door::Plain;
    let reply = match (method, path.as_str()) {
        (Method::POST, "/v1/ask") => ask(beacon, request, stop).await,
        (Method::POST, "/v1/orders") => match read::<Paper>(request).await {
            Ok(paper) => told(take_in(beacon, paper.text, paper.signatures).await),
            Err(why) => told(Err(why)),
        },
        (Method::GET, "/healthz") => reply(StatusCode::OK, "text/plain", "ok\n".into()),
        (Method::GET, "/") if here => {
            let query = page::Query::parse(request.uri().query().unwrap_or_default());
            let rows = beacon.shelf.rows();
            let html = page::render(&rows, &query, &beacon.config, beacon.shelf.beat_age());
            reply(StatusCode::OK, "text/html; charset=utf-8", html)
        }
        (Method::GET, "/v1/devices") if here => told(Ok(json!(beacon.shelf.rows()))),
        (Method::GET, "/metrics") if here => {
            let counts = page::Counts::of(&beacon.shelf.rows());
            let text = beacon.metrics.render(&counts, beacon.shelf.beat_age().map(|(age, _)| age));
            reply(StatusCode::OK, "text/plain; version=0.0.4", text)
        }
        (Method::GET, path) if here && path.starts_with("/v1/receipts/") => receipt(beacon, path).await,
        (Method::POST, "/v1/heartbeat") if here => match read::<Paper>(request).await {
            Ok(paper) => told(take_beat(beacon, paper.text, paper.signatures).await),
            Err(why) => told(Err(why)),
        },
        (Method::POST, "/upload") if here => upload(beacon, request).await,
        _ => reply(
            StatusCode::NOT_FOUND,
            "application/json",
            json!({"error": "there is nothing here"}).to_string(),
        ),
    };
    if reply.status().is_client_error() {
        count(&beacon.metrics.refused);
    }
    reply
}

async fn take_in(beacon: &Beacon, text: String, signatures: Vec<String>) -> Result<Value, String> {
    let taken = aside(beacon, move |shelf| shelf.take_in(&text, &signatures)).await??;
    count(&beacon.metrics.orders);
    crate::note(&format!("an order was taken in: {taken}"));
    Ok(taken)
}

async fn take_beat(beacon: &Beacon, text: String, signatures: Vec<String>) -> Result<Value, String> {
    let [signature] = signatures.try_into().map_err(|_| "a sign of life bears one signature")?;
    aside(beacon, move |shelf: &Shelf| {
        let signature: String = signature;
        shelf.take_beat(&text, &signature)
    })
    .await?
}

async fn receipt(beacon: &Beacon, path: &str) -> Reply {
    let order = path.trim_start_matches("/v1/receipts/").to_owned();
    if !is_hash(&order) {
        return told(Err("an order is named by 64 hex digits".into()));
    }
    match aside(beacon, move |shelf| shelf.receipt(&order)).await {
        Ok(Some(text)) => reply(StatusCode::OK, "application/json", text),
        Ok(None) => {
            reply(StatusCode::NOT_FOUND, "application/json", json!({"error": "none is here"}).to_string())
        }
        Err(why) => told(Err(why)),
    }
}

/// The form of the page: an order that was signed elsewhere, or a sign of life.
async fn upload(beacon: &Beacon, request: Request<Incoming>) -> Reply {
    let outcome = async {
        let (text, signatures) = page::uploaded(&body(request).await?)?;
        if text.starts_with(claviger::core::order::heartbeat::TITLE) {
            take_beat(beacon, text, signatures).await
        } else {
            take_in(beacon, text, signatures).await
        }
    };
    let (status, html) = match outcome.await {
        Ok(taken) => (StatusCode::OK, page::outcome(&Ok(taken))),
        Err(why) => (StatusCode::BAD_REQUEST, page::outcome(&Err(why))),
    };
    reply(status, "text/html; charset=utf-8", html)
}

/// A device that waits; it is no longer there when this goes, however it goes.
struct Waits<'a>(&'a Shelf, String);

impl<'a> Waits<'a> {
    fn new(shelf: &'a Shelf, device: &str) -> Self {
        shelf.waits(device, true);
        Self(shelf, device.to_owned())
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waits(&self.1, false);
    }
}

/// A device asks: it gets the orders that it does not know, and a lease when nothing stands against it.
async fn ask(beacon: &Beacon, request: Request<Incoming>, mut stop: watch::Receiver<bool>) -> Reply {
    count(&beacon.metrics.asks);
    let heard = async {
        let ask: Arc<Ask> = Arc::new(read(request).await?);
        let wake = beacon.shelf.hear(&ask)?;
        if !ask.receipts.is_empty() {
            // What a device answered is on disk before it hears that it arrived.
            let kept = Arc::clone(&ask);
            aside(beacon, move |shelf| shelf.keep_receipts(&kept)).await??;
        }
        Ok::<_, String>((ask, wake))
    };
    let (ask, wake) = match heard.await {
        Ok(heard) => heard,
        Err(why) => return told(Err(why)),
    };
    let _waits = Waits::new(&beacon.shelf, &ask.device);
    let until = tokio::time::Instant::now() + Duration::from_secs(ask.wait.min(LONGEST_WAIT));
    let mut may_lease = true;
    loop {
        // Made before it is looked whether there is something: nothing is missed in between.
        let mut woken = std::pin::pin!(wake.notified());
        woken.as_mut().enable();
        let orders = beacon.shelf.orders_for(&ask);
        let lease = if may_lease { lease(beacon, &ask).await } else { None };
        // A key that does not sign is not asked again and again.
        may_lease &= !matches!(lease, Some(Err(())));
        let lease = lease.and_then(Result::ok);
        if !orders.is_empty() || lease.is_some() {
            orders.iter().for_each(|_| count(&beacon.metrics.carried));
            return told(Ok(json!({"orders": orders, "lease": lease})));
        }
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep_until(until) => return told(Ok(json!({"orders": [], "lease": null}))),
            // No answer rather than an empty one: the device comes back within seconds.
            _ = stop.wait_for(|s| *s) => {
                let why = json!({"error": "the beacon stops"}).to_string();
                return reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", why);
            }
        }
    }
}

/// A lease, if the device asks for one and may have it; an error where none could be signed.
async fn lease(beacon: &Beacon, ask: &Ask) -> Option<Result<Value, ()>> {
    let text = beacon.shelf.lease(ask, ask.lease.as_ref()?).ok()?;
    let key = &beacon.config.leases.as_ref()?.key;
    match sign::lease(key, &text).await {
        Ok(signature) => {
            count(&beacon.metrics.leases);
            Some(Ok(json!({"text": text, "signatures": [signature]})))
        }
        Err(why) => {
            count(&beacon.metrics.unsigned);
            crate::note(&format!("no lease for {}: {why}", ask.device));
            Some(Err(()))
        }
    }
}
