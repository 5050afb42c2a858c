//! Start and stop: opens state and token, loads the rules, keeps the checkpoints coming.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::house::Strangers;
use super::inactivate::Orders;
use super::ledger::PolicyLedger;
use super::metrics::Metrics;
use super::pending::Pending;
use super::{House, Keys, store_code};
use crate::caller::Eyes;
use crate::config::{Config, TokenConfig};
use crate::core::key::policy::LifeClock;
use crate::refusal::{Code, Refusal};
use crate::store::{EntryKind, Store, StoreConfig};
use crate::sys;
use crate::token::keeper::{Backend, Keeper, KeeperConfig, Whereabouts};
use crate::token::profile::Profile;

/// How often the head of a growing log is signed.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Deadline of a token call where neither configuration nor profile names one.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a token configuration stands for.
pub fn backend(config: &TokenConfig) -> Result<(Backend, KeeperConfig), Refusal> {
    let wrong = |why: String| Refusal::new(Code::TokenRefused, why);
    let profile = Profile::load(&config.profile).map_err(|e| wrong(e.to_string()))?;
    // Two sessions are the keeper's own: the one that keeps the login, and the one that looks around.
    let most = if profile.max_sessions == 0 { usize::MAX } else { profile.max_sessions.saturating_sub(2) };
    let keeper = KeeperConfig {
        workers: config.workers.min(most).max(1),
        queue: config.queue,
        call_timeout: config
            .timeout
            .or(profile.call_timeout_ms.map(Duration::from_millis))
            .unwrap_or(CALL_TIMEOUT),
        sign_ahead: !profile.own_log,
    };
    // This program as it runs: its file may have been replaced since.
    let worker = (!config.in_process).then(|| PathBuf::from("/proc/self/exe"));
    let place = Whereabouts {
        module: config.module.clone(),
        label: config.label.clone(),
        serial: config.serial.clone(),
        directory: config.directory.clone(),
        connector: config.connector.clone(),
    };
    let backend = Backend::resolve(profile, place, worker).map_err(|e| wrong(e.to_string()))?;
    Ok((backend, keeper))
}

impl House {
    /// Opens everything. The token may be absent or locked: then the daemon serves and says so.
    pub async fn open(config: Config, eyes: Eyes) -> Result<Arc<Self>, Refusal> {
        let state = |why: String| Refusal::new(Code::StoreFailed, why);
        std::fs::create_dir_all(&config.state_dir)
            .map_err(|e| state(format!("{} cannot be made: {e}", config.state_dir.display())))?;
        let magic = sys::file_system_magic(&config.state_dir).map_err(|e| state(e.to_string()))?;
        let store = Store::open(StoreConfig {
            dir: config.state_dir.clone(),
            allow_volatile: config.allow_volatile,
            fs_magic: magic,
        })
        .map_err(|e| Refusal::new(store_code(&e), e.to_string()))?;
        let (rules, key_policy, mut differing, heard) =
            super::rules::at_start(&config, &store, eyes.host()).await?;
        let device = super::device::DeviceWatch::start(&config, &rules)?;
        differing.extend(heard.iter().filter_map(super::registry::Heard::note));
        store
            .swap_ledger(Box::new(PolicyLedger::new(Arc::clone(&rules.policy))))
            .await
            .map_err(|e| state(e.to_string()))?;
        let (backend, keeper_config) = backend(&config.token)?;
        let orders = Orders::open(&config, &store).await?;
        // [clause 8.2.1-a] what stood when the daemon ended stands when it starts: no PIN is fetched, no token opened
        let closed = orders.closed();
        let pin = match (&closed, super::inactivate::wiping(&orders)) {
            (Some(_), _) => None,
            (None, false) => super::pin::fetch(&config.token.pin)?,
            // A wipe takes the PIN away before it is done: then the operator may hand it over.
            (None, true) => super::pin::fetch(&config.token.pin).unwrap_or_else(|refusal| {
                tracing::error!("the wipe waits for claviger unlock: {refusal}");
                None
            }),
        };
        let keeper = Keeper::start(backend, pin, keeper_config);
        if let Some(refusal) = closed {
            keeper.bar(&refusal.sentence);
        }
        let backup = super::backup::Backups::open(&config, &keeper, &store).await?;
        let latest = store.now().await.map_err(|e| state(e.to_string()))?;
        let epoch = store.found().epoch;
        let mut run_id = [0; 8];
        getrandom::fill(&mut run_id).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let house = Arc::new(Self {
            config,
            store,
            keeper,
            backup,
            metrics: Metrics::default(),
            pending: Pending::default(),
            eyes,
            presence: super::user::Presence::new(sys::since_boot()),
            started: Instant::now(),
            strangers: Strangers::default(),
            health: Mutex::default(),
            rules: RwLock::new(Arc::new(rules)),
            keys: RwLock::new(Arc::new(Keys::default())),
            key_policy: RwLock::new(Arc::new(key_policy)),
            life: Mutex::new((LifeClock::new(latest), Instant::now())),
            switch: tokio::sync::RwLock::new(()),
            changes: tokio::sync::Mutex::new(()),
            differing: Mutex::new(differing),
            orders,
            device,
            outside: super::outbox::Outside::default(),
            stopping: false.into(),
            left: Mutex::default(),
            backups_seen: Mutex::default(),
            standing: RwLock::default(),
            confirmed: false.into(),
            confirming: tokio::sync::Mutex::new(()),
            anchored: Mutex::default(),
            unsealed_tries: AtomicU64::new(0),
            epoch: AtomicU64::new(epoch),
            run_id: u64::from_be_bytes(run_id),
            requests: AtomicU64::new(0),
        });
        house.load_keys().await?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let in_force = house.rules();
        let uid = sys::effective_uid();
        let entry = EntryKind::start(env!("CARGO_PKG_VERSION"), boot.trim(), std::process::id());
        house.store.append(entry).await.map_err(|e| house.store_refusal(&e))?;
        house.write_device_down().await;
        house.keep_documents(None, &in_force, "start", uid).await?;
        house.write_heard(&heard, uid).await?;
        Ok(house)
    }

    /// Signs the log's head while it grows, until the daemon stops.
    pub async fn keep_checkpoints(self: Arc<Self>, mut stop: tokio::sync::watch::Receiver<bool>) {
        let mut quiet = false;
        loop {
            let settled = match self.confirm().await {
                Ok(()) => self.checkpoint().await,
                Err(refusal) => Err(refusal),
            };
            if settled.is_ok()
                && let Err(refusal) = self.advance_anchor(false).await
            {
                tracing::debug!("the anchor was not written: {refusal}");
            }
            match settled {
                Ok(_) => quiet = false,
                Err(refusal) if quiet => tracing::debug!("no checkpoint: {refusal}"),
                Err(refusal) => {
                    tracing::warn!("no checkpoint: {refusal}");
                    quiet = true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
                () = self.keeper.noticed() => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            self.write_events().await;
        }
    }

    /// What the keeper noticed about the token goes into the log.
    pub(super) async fn write_events(&self) {
        for event in self.keeper.take_events() {
            if let Err(e) = self.store.append(super::report::entry(event)).await {
                tracing::error!("what happened to the token could not be written down: {e}");
            }
        }
    }

    /// The last words: a stop entry, a checkpoint over it, and everything closed.
    pub async fn finish(&self) {
        self.write_events().await;
        if let Err(e) = self.store.count().await {
            tracing::error!("the time that went by could not be written down: {e}");
        }
        if let Err(e) = self.store.append(EntryKind::stop()).await {
            tracing::error!("the stop could not be written down: {e}");
        }
        if let Err(refusal) = self.checkpoint().await {
            tracing::warn!("no last checkpoint: {refusal}");
        }
        if let Some(backups) = &self.backup {
            backups.stop();
        }
        // The last word of this run stands in the token: a copy that was made during it is found when it is put back.
        if self.trusted().is_ok()
            && let Err(refusal) = self.advance_anchor(true).await
        {
            tracing::warn!("the token was not told how long the log is: {refusal}");
        }
        self.keeper.stop();
        self.store.close().await;
    }
}
