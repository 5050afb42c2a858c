//! The machine under the daemon: looked at while it runs, and nothing is signed on one that is not as it must be.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{House, Rules};
use crate::config::Config;
use crate::core::device::{Demand, Fact, Verdict, digest, quote};
use crate::core::payment::Payment;
use crate::core::units::sha256;
use crate::device::{Device, Expected};
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;

/// How long a look may take: it reads a few dozen small files.
const PATIENCE: Duration = Duration::from_secs(2);

/// The newest look.
struct Sample {
    facts: Vec<Fact>,
    digest: [u8; 32],
    broken: Vec<String>,
    at: Instant,
}

/// What is known about the machine now.
pub struct DeviceWatch {
    device: Arc<Device>,
    every: Duration,
    sample: Mutex<Sample>,
    /// One look at a time: a file that does not answer holds one thread and no more.
    looking: Arc<tokio::sync::Mutex<()>>,
}

/// The files of rules, and SHA-256 of what is in force of each.
fn files(config: &Config, rules: &Rules) -> Vec<(PathBuf, [u8; 32])> {
    let one = |file: &Path, text: &str| (file.to_owned(), sha256(text.as_bytes()));
    let maybe = |file: &Option<PathBuf>, text: Option<&String>| {
        file.as_deref().map(|file| one(file, text.map_or("", String::as_str)))
    };
    let always = [one(&config.policy_file, &rules.policy_text), one(&config.apps_file, &rules.apps_text)];
    let others = [
        maybe(&config.keys_file, Some(&rules.key_policy_text)),
        maybe(&config.authority_file, rules.authority_text.as_ref()),
        maybe(&config.users_file, rules.users_text.as_ref()),
    ];
    always.into_iter().chain(others.into_iter().flatten()).collect()
}

impl DeviceWatch {
    /// Looks for the first time. What is required and cannot be told here is refused at once: it would never pass.
    // [clause 8.2.4-f] a demand that this machine cannot answer is found when it is made
    pub(super) fn start(config: &Config, rules: &Rules) -> Result<Self, Refusal> {
        let expected = Expected { binary: config.device.binary, pcrs: config.device.pcrs.clone() };
        let device = Device::new(Path::new("/"), &config.file, expected);
        device.in_force(files(config, rules));
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
        let (device, every) = (Arc::new(device), config.device.every);
        Ok(Self { device, every, sample: Mutex::new(sample), looking: Arc::default() })
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
        if self.demands() && sample.at.elapsed() > self.device.every.saturating_mul(3) {
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

    /// Looks at the machine anew before a payment that is not small; it must be as it must be now.
    // [clause 8.2.4-q] a sample is good enough for what the deployment says is small, and for nothing else
    pub(super) async fn fresh_device(&self, payment: &Payment) -> Result<(), Refusal> {
        if !self.config.device.fresh.concerns(payment) {
            return Ok(());
        }
        self.on_a_fit_device().await
    }

    /// The machine as it is now, when somebody unlocks something.
    // [clause 8.2.4-q] nobody types a PIN for a machine that is not as it must be
    pub(super) async fn on_a_fit_device(&self) -> Result<(), Refusal> {
        match self.look_at_device().await {
            Err(refusal) if self.demands() => Err(refusal),
            _ => self.device_is_fit(),
        }
    }

    /// Other rules are in force: files are held against them from now on.
    pub(super) async fn rules_in_force(&self) {
        self.device.device.in_force(files(&self.config, &self.rules()));
        self.look_or_tell().await;
    }

    /// Whether something is demanded of the machine.
    fn demands(&self) -> bool {
        self.config.device.demands.0.values().any(|d| *d == Demand::Require)
    }

    /// Looks again, within a bound; what changed is written down. Where it takes longer, what was known stays.
    pub async fn look_at_device(&self) -> Result<(), Refusal> {
        let look = async {
            let turn = Arc::clone(&self.device.looking).lock_owned().await;
            let device = Arc::clone(&self.device.device);
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                device.look()
            })
            .await
        };
        let facts = tokio::time::timeout(PATIENCE, look).await;
        let slow = || format!("the machine could not be looked at within {} s", PATIENCE.as_secs());
        let facts = facts
            .map_err(|_| Refusal::new(Code::DeviceUnfit, slow()))?
            .map_err(|e| Refusal::new(Code::Internal, format!("the look at the machine failed: {e}")))?;
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
        Ok(())
    }

    /// Looks again, for those who go on either way.
    async fn look_or_tell(&self) {
        if let Err(refusal) = self.look_at_device().await {
            tracing::warn!("{refusal}");
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
            self.look_or_tell().await;
        }
    }

    /// For operators: each fact, what is made of it, and what to do about it. Looks afresh.
    pub async fn device_facts(&self) -> Value {
        self.look_or_tell().await;
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
        self.look_at_device().await?;
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
