//! The machine under the daemon: looked at while it runs, and nothing is signed on one that is not as it must be.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::House;
use crate::config::Config;
use crate::core::device::{Demand, Fact, Verdict, digest, quote};
use crate::device::{Device, Expected};
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;

/// The newest look.
struct Sample {
    facts: Vec<Fact>,
    digest: [u8; 32],
    broken: Vec<String>,
    at: Instant,
}

/// What is known about the machine now.
pub struct DeviceWatch {
    device: Device,
    every: Duration,
    sample: Mutex<Sample>,
}

impl DeviceWatch {
    /// Looks for the first time. What is required and cannot be told here is refused at once: it would never pass.
    // [clause 8.2.4-f] a demand that this machine cannot answer is found when it is made
    pub(super) fn start(config: &Config, config_file: &Path) -> Result<Self, Refusal> {
        let expected = Expected { binary: config.device.binary, pcrs: config.device.pcrs.clone() };
        let device = Device::new(Path::new("/"), config_file, expected);
        let facts = device.look();
        let unknowable = config.device.demands.unknowable(&facts);
        if !unknowable.is_empty() {
            return Err(Refusal::new(Code::DeviceUnfit, unknowable.join("; ")));
        }
        let sample = Sample {
            digest: digest(&facts),
            broken: config.device.demands.broken(&facts),
            facts,
            at: Instant::now(),
        };
        Ok(Self { device, every: config.device.every, sample: Mutex::new(sample) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sample> {
        self.sample.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SHA-256 of the newest look.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.lock().digest
    }
}

impl House {
    /// Nothing is signed on a machine that is not as it must be, nor by an old look at it.
    // [clause 8.2.4-f] asked before every use of a key
    pub(super) fn device_is_fit(&self) -> Result<(), Refusal> {
        let sample = self.device.lock();
        if let Some(why) = sample.broken.first() {
            return Err(Refusal::new(Code::DeviceUnfit, why.clone()));
        }
        let demanded = self.config.device.demands.0.values().any(|d| *d == Demand::Require);
        if demanded && sample.at.elapsed() > self.device.every.saturating_mul(3) {
            let age = sample.at.elapsed().as_secs();
            return Err(Refusal::new(
                Code::DeviceUnfit,
                format!("the machine was last looked at {age} s ago"),
            ));
        }
        Ok(())
    }

    /// The newest look in short, for a beacon: hearsay there, unless a TPM signed it.
    pub(super) fn device_verdict(&self) -> Value {
        let sample = self.device.lock();
        let broken = sample.broken.len();
        drop(sample);
        json!({"fit": self.device_is_fit().is_ok(), "broken": broken, "digest": hex::encode(self.device.digest())})
    }

    /// Looks again; what changed is written down.
    pub async fn look_at_device(&self) {
        let facts = self.device.device.look();
        let new = Sample {
            digest: digest(&facts),
            broken: self.config.device.demands.broken(&facts),
            facts,
            at: Instant::now(),
        };
        let (changed, old) = {
            let mut sample = self.device.lock();
            let changed = sample.digest != new.digest;
            let (hash, lines) = (new.digest, changes(&sample.facts, &new.facts, &self.config.device.demands));
            *sample = new;
            (changed.then_some(hash), lines)
        };
        for line in &old {
            tracing::warn!("the machine changed: {line}");
        }
        if changed.is_some() {
            self.write_device_down().await;
        }
    }

    /// What the machine is, in the log: at the start, and whenever it changed. Intents name it by its digest.
    pub(super) async fn write_device_down(&self) {
        let entry = {
            let sample = self.device.lock();
            EntryKind::Device {
                digest: hex::encode(sample.digest),
                facts: json!(sample.facts),
                broken: sample.broken.clone(),
            }
        };
        if let Err(e) = self.store.append(entry).await {
            tracing::error!("what the machine is could not be written down: {e}");
        }
    }

    /// Looks at the machine until the daemon stops.
    pub async fn keep_looking(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.device.every) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            self.look_at_device().await;
        }
    }

    /// For operators: each fact, what is made of it, and what to do about it. Looks afresh.
    pub async fn device_facts(&self) -> Value {
        self.look_at_device().await;
        let sample = self.device.lock();
        let demands = &self.config.device.demands;
        let facts: Vec<Value> = sample
            .facts
            .iter()
            .map(|f| {
                let advice = (f.verdict != Verdict::Pass).then(|| f.name.advice());
                json!({"name": f.name, "verdict": f.verdict, "found": f.found, "demand": demands.of(f.name), "advice": advice})
            })
            .collect();
        json!({"fit": sample.broken.is_empty(), "broken": sample.broken, "digest": hex::encode(sample.digest), "facts": facts})
    }
}

impl House {
    /// The facts, quoted by the TPM with a verifier's nonce.
    pub async fn device_quote(&self, nonce: &str) -> Result<Value, Refusal> {
        let wrong = |why: String| Refusal::new(Code::InvalidParams, why);
        let bytes =
            hex::decode(nonce).ok().filter(|b| quote::NONCES.contains(&b.len())).ok_or_else(|| {
                wrong("a nonce is 16 to 64 bytes in hex, drawn by who will judge the quote".into())
            })?;
        let tcti = self.config.device.tpm.clone().ok_or_else(|| {
            wrong("device.tpm names no TPM: write device:/dev/tpmrm0 there, and restart".into())
        })?;
        self.look_at_device().await;
        let facts = self.device.lock().facts.clone();
        let qualifying = quote::qualifying(&bytes, &facts);
        let made = tokio::task::spawn_blocking(move || super::pin::quote(&tcti, &qualifying))
            .await
            .map_err(|e| Refusal::new(Code::Internal, e.to_string()))??;
        let signature = quote::raw_signature(&made.signature)
            .ok_or_else(|| Refusal::new(Code::TpmRefused, "the TPM signed with another algorithm"))?;
        let quote = quote::Quote {
            format: quote::FORMAT.into(),
            nonce: nonce.to_ascii_lowercase(),
            facts,
            pcrs: made.pcrs.iter().map(hex::encode).collect(),
            key: hex::encode(&made.key),
            attest: hex::encode(&made.attest),
            signature: hex::encode(signature),
        };
        Ok(json!(quote))
    }
}

/// What is said of a change: facts that nobody ignores.
fn changes(old: &[Fact], new: &[Fact], demands: &crate::core::device::Demands) -> Vec<String> {
    new.iter()
        .filter(|f| demands.of(f.name) != Demand::Ignore)
        .filter_map(|f| {
            let before = old.iter().find(|o| o.name == f.name)?;
            (before != f).then(|| {
                format!(
                    "{} was {} ({}), is {} ({})",
                    f.name.as_str(),
                    before.verdict.as_str(),
                    before.found,
                    f.verdict.as_str(),
                    f.found
                )
            })
        })
        .collect()
}
