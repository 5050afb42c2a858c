//! Orders and leases that come by themselves: from a directory, and from a beacon that is asked. [clause 8.2.1]
//!
//! Whoever holds these ways up holds orders up: what stops a device that hears nothing any more is its lease.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::House;
use crate::carrier::{self, Asker, Found, Way};
use crate::config::Beacon;
use crate::core::order::{Asked, Order, Pace};
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal, Retry};
use crate::store::EntryKind;

/// How often the directory is looked into, and a wipe gone on with.
const LOOK: Duration = Duration::from_secs(1);
/// How long a beacon may hold an answer back until there is something to say, seconds. A way that went dead without a word
/// is noticed after this and [`PATIENCE`].
const LONG_POLL: u64 = 15;
/// How long it may take besides.
const PATIENCE: Duration = Duration::from_secs(6);
/// Orders that a beacon is told are known here; it sends the others.
const MOST_KNOWN: usize = 1000;
/// Orders that were refused, of which it is told as well: it need not offer them again and again.
const MOST_REFUSED: usize = 64;

/// What a beacon answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    orders: Vec<Paper>,
    lease: Option<Paper>,
}

/// A document with its signatures.
#[derive(Deserialize)]
struct Paper {
    text: String,
    signatures: Vec<String>,
}

fn print_of(text: &str, signatures: &[String]) -> [u8; 32] {
    let parts = std::iter::once(text).chain(signatures.iter().map(String::as_str));
    sha256(&parts.flat_map(|p| [&p.len().to_be_bytes(), p.as_bytes()].concat()).collect::<Vec<u8>>())
}

impl House {
    /// Hears a document from elsewhere than the socket: what it is refused for stands in the log all the same.
    async fn heard_from(
        &self,
        paper: (&str, &[String]),
        carrier: &'static str,
        place: String,
    ) -> Result<Value, Refusal> {
        let outcome = self.carry(paper.0, paper.1, carrier).await;
        if let Err(refusal) = &outcome {
            tracing::warn!("not heard from {place}: {refusal}");
            self.metrics.refusal(refusal.code.as_str());
            if let Some(suppressed) = self.strangers.admit(self.clock_ms()) {
                let what = Some("order".to_owned());
                let entry = EntryKind::refusal(None, None, place, what, refusal, suppressed);
                if let Err(e) = self.store.append(entry).await {
                    tracing::error!("a refusal ({refusal}) could not be written down: {e}");
                }
            }
        }
        outcome
    }

    /// Looks into the directory, and goes on with a wipe, until the daemon stops.
    pub async fn keep_orders(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut seen: HashMap<PathBuf, [u8; 32]> = HashMap::new();
        loop {
            self.go_on_wiping().await;
            if let Some(directory) = self.config.orders.directory.clone() {
                match tokio::task::spawn_blocking(move || carrier::look_into(&directory)).await {
                    Ok(Ok(found)) => self.take_in(found, &mut seen).await,
                    Ok(Err(e)) => tracing::debug!("the directory of orders cannot be read: {e}"),
                    Err(e) => tracing::error!("the directory of orders: {e}"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    async fn take_in(&self, found: Vec<Found>, seen: &mut HashMap<PathBuf, [u8; 32]>) {
        seen.retain(|path, _| found.iter().any(|f| f.path == *path));
        for paper in found {
            let print = print_of(&paper.text, &paper.signatures);
            if seen.get(&paper.path) == Some(&print) {
                continue;
            }
            let place = format!("the file {}", paper.path.display());
            let outcome = self.heard_from((&paper.text, &paper.signatures), "directory", place).await;
            // What may be taken a moment later is tried again then.
            if !matches!(&outcome, Err(r) if r.code.retry() == Retry::Later || r.code == Code::StoreFailed) {
                seen.insert(paper.path.clone(), print);
            }
            if let Ok(told) = outcome {
                let mut receipt = paper.path.into_os_string();
                receipt.push(".receipt");
                // The medium may be read-only; the receipt stands in the database as well.
                if let Err(e) =
                    std::fs::write(&receipt, format!("{:#}\n", told.get("receipt").unwrap_or(&told)))
                {
                    tracing::debug!("{}: {e}", receipt.display());
                }
            }
        }
    }

    /// Asks the beacon for orders and leases until the daemon stops.
    // [clause 8.2.1-a] an order that is at the beacon is here at once: a question is always open there
    pub async fn keep_asking(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(beacon) = self.config.orders.beacon.clone() else { return };
        let every = u64::try_from(beacon.every.as_millis()).unwrap_or(u64::MAX);
        let (mut pace, mut line, mut quiet) = (Pace::new(every), Line::default(), false);
        loop {
            let began = Instant::now();
            // Only the asking is broken off: what was answered is heard to its end.
            let answer = tokio::select! {
                answer = self.ask_beacon(&beacon, &mut line) => answer,
                () = self.orders.woken.notified() => {
                    line.refused.clear();
                    continue;
                }
                _ = stop.wait_for(|s| *s) => return,
            };
            let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let asked = match answer {
                Ok(answer) => {
                    quiet = false;
                    self.take_answer(&beacon, answer, &mut line).await
                }
                Err(why) => {
                    // The next question reads the certificates again.
                    line.asker = None;
                    if quiet {
                        tracing::debug!("the beacon: {why}");
                    } else {
                        tracing::warn!("the beacon: {why}");
                    }
                    quiet = true;
                    Asked::Failed
                }
            };
            let mut drawn = [0u8; 1];
            if getrandom::fill(&mut drawn).is_err() {
                tracing::debug!("no spread: the kernel gives no random bytes");
            }
            let mut rest = pace.rest(asked, took, drawn[0]);
            if let Some(due) = self.lease_due_in().filter(|due| *due > 0) {
                rest = rest.min(due);
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(rest)) => {}
                () = self.orders.woken.notified() => line.refused.clear(),
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    async fn ask_beacon(&self, beacon: &Beacon, line: &mut Line) -> Result<Answer, String> {
        let (deployment, device) = self.device_id().map_err(|r| r.sentence)?;
        let due = self.lease_due_in();
        let lease = (due == Some(0)).then(|| self.lease_request().map_err(|r| r.sentence)).transpose()?;
        // Held no longer than until the next lease is asked for.
        let wait = due.filter(|due| *due > 0).map_or(LONG_POLL, |due| due.div_ceil(1000).min(LONG_POLL));
        let standing = self.orders.gate().standing.clone();
        let known = standing.known().rev().take(MOST_KNOWN);
        let known: Vec<&str> = known.chain(line.refused.iter().map(String::as_str)).collect();
        let body = json!({
            "deployment": deployment,
            "device": device,
            "epoch": standing.epoch(),
            "level": standing.level(&crate::core::order::Scope::All),
            "known": known,
            "wait": wait,
            "lease": lease,
            "lease_left": self.lease_status().get("seconds_left"),
            "facts": self.device_verdict(),
            "version": env!("CARGO_PKG_VERSION"),
            "receipts": line.receipts,
        });
        let asker = line.asker.take().map_or_else(|| Asker::new(&way(beacon)), Ok)?;
        line.asker = Some(asker.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for: a daemon that stops does not wait for a beacon.
        std::thread::Builder::new()
            .name("beacon".into())
            .spawn(move || {
                let patience = Duration::from_secs(wait) + PATIENCE;
                drop(tell.send(asker.ask(&body.to_string(), patience)));
            })
            .map_err(|e| e.to_string())?;
        let text = told.await.map_err(|e| e.to_string())??;
        serde_json::from_str(&text).map_err(|e| format!("it answers nonsense: {e}"))
    }

    /// Hears what a beacon answered; keeps what the orders were answered with for the next question.
    async fn take_answer(&self, beacon: &Beacon, answer: Answer, line: &mut Line) -> Asked {
        let carried = !answer.orders.is_empty() || answer.lease.is_some();
        let mut again = false;
        line.receipts.clear();
        for paper in answer.orders.iter().take(carrier::MOST) {
            let place = format!("the beacon {}", beacon.url);
            match self.heard_from((&paper.text, &paper.signatures), "beacon", place).await {
                Ok(told) => line.receipts.push(told),
                Err(r) if r.code.retry() == Retry::Later || r.code == Code::StoreFailed => again = true,
                Err(_) => line.refuses(&paper.text),
            }
        }
        if let Some(paper) = answer.lease {
            let place = format!("the beacon {}", beacon.url);
            drop(self.heard_from((&paper.text, &paper.signatures), "beacon", place).await);
        }
        match (again, carried) {
            (true, _) => Asked::Failed,
            (false, true) => Asked::Carried,
            (false, false) => Asked::Nothing,
        }
    }
}

/// What is kept between two questions to the beacon.
#[derive(Default)]
struct Line {
    asker: Option<Asker>,
    /// The answers to its orders.
    receipts: Vec<Value>,
    /// Orders of it that did not count. Forgotten when the rules may have changed: what counts is judged then.
    refused: Vec<String>,
}

impl Line {
    fn refuses(&mut self, text: &str) {
        let Ok(order) = Order::parse(text) else { return };
        if self.refused.len() >= MOST_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push(order.hash());
    }
}

fn way(beacon: &Beacon) -> Way {
    Way {
        url: beacon.url.clone(),
        ca: beacon.ca.clone(),
        own: beacon.own.clone(),
        proxy: beacon.proxy.clone(),
        post_quantum_only: beacon.post_quantum_only,
    }
}
