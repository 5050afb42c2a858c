//! Orders and leases that come by themselves: from a directory, and from a beacon that is asked. [clause 8.2.1]
//!
//! Whoever holds these ways up holds orders up: what stops a device that hears nothing any more is its lease.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::House;
use crate::carrier::{self, Found};
use crate::config::Beacon;
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal, Retry};
use crate::store::EntryKind;

/// How often the directory is looked into, and a wipe gone on with.
const LOOK: Duration = Duration::from_secs(1);
/// How long a beacon may hold an answer back until there is something to say.
const LONG_POLL: Duration = Duration::from_secs(25);
/// How long it may take besides.
const PATIENCE: Duration = Duration::from_secs(15);
/// Orders that a beacon is told are known here; it sends the others.
const MOST_KNOWN: usize = 200;

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
    pub async fn keep_asking(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(beacon) = self.config.orders.beacon.clone() else { return };
        let (mut quiet, mut receipts) = (false, Vec::new());
        loop {
            // Only the asking is broken off: what was answered is heard to its end.
            let answer = tokio::select! {
                answer = self.ask_beacon(&beacon, &receipts) => answer,
                () = self.orders.woken.notified() => continue,
                _ = stop.wait_for(|s| *s) => return,
            };
            let taken = match answer {
                Ok(answer) => {
                    receipts = self.take_answer(&beacon, answer).await;
                    Ok(())
                }
                Err(why) => Err(why),
            };
            match taken {
                Ok(()) => quiet = false,
                Err(why) if quiet => tracing::debug!("the beacon: {why}"),
                Err(why) => {
                    tracing::warn!("the beacon: {why}");
                    quiet = true;
                }
            }
            // A spread of a fifth keeps a fleet from knocking together.
            let mut drawn = [0u8; 1];
            if getrandom::fill(&mut drawn).is_err() {
                tracing::debug!("no spread: the kernel gives no random bytes");
            }
            let rest = beacon.every.mul_f64(0.8 + f64::from(drawn[0]) / 255.0 * 0.4);
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.orders.woken.notified() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
        }
    }

    async fn ask_beacon(&self, beacon: &Beacon, receipts: &[Value]) -> Result<Answer, String> {
        let (deployment, device) = self.device_id().map_err(|r| r.sentence)?;
        let due = self.lease_is_due();
        let lease = due.then(|| self.lease_request().map_err(|r| r.sentence)).transpose()?;
        let standing = self.orders.gate().standing.clone();
        // With a lease to be had the answer is wanted at once.
        let wait = if due || !receipts.is_empty() { 0 } else { LONG_POLL.as_secs() };
        let known: Vec<String> = standing.known().rev().take(MOST_KNOWN).map(str::to_owned).collect();
        let body = json!({
            "deployment": deployment,
            "device": device,
            "epoch": standing.epoch(),
            "level": standing.level(&crate::core::order::Scope::All),
            "known": known,
            "wait": wait,
            "lease": lease,
            "lease_left": self.lease_status().get("seconds_left"),
            "version": env!("CARGO_PKG_VERSION"),
            "receipts": receipts,
        });
        let (url, ca) = (format!("{}/v1/ask", beacon.url), beacon.ca.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for: a daemon that stops does not wait for a beacon.
        std::thread::Builder::new()
            .name("beacon".into())
            .spawn(move || {
                drop(tell.send(carrier::ask(&url, ca.as_deref(), &body.to_string(), LONG_POLL + PATIENCE)));
            })
            .map_err(|e| e.to_string())?;
        let text = told.await.map_err(|e| e.to_string())??;
        serde_json::from_str(&text).map_err(|e| format!("it answers nonsense: {e}"))
    }

    /// Hears what a beacon answered; gives what the orders were answered with.
    async fn take_answer(&self, beacon: &Beacon, answer: Answer) -> Vec<Value> {
        let mut receipts = Vec::new();
        for paper in answer.orders.iter().take(carrier::MOST) {
            let place = format!("the beacon {}", beacon.url);
            if let Ok(told) = self.heard_from((&paper.text, &paper.signatures), "beacon", place).await {
                receipts.push(told);
            }
        }
        if let Some(paper) = answer.lease {
            let place = format!("the beacon {}", beacon.url);
            drop(self.heard_from((&paper.text, &paper.signatures), "beacon", place).await);
        }
        receipts
    }
}
