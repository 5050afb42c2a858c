//! Backups: made without anybody coming together, verified before a key may be used, destroyed with the key. [clause 8.2.2]
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::keys::now;
use super::seal::is_own;
use super::vault::{self, Place};
use super::{House, token_refusal};
use crate::config::{BackupConfig, Config};
use crate::core::backup::age::RANDOM;
use crate::core::backup::bundle::{self, Head, Wrapping, lock_mark};
use crate::core::backup::pkcs8;
use crate::core::backup::quorum::{Quorum, mixed, wrap_reference};
use crate::core::backup::vault::{Found, LockId};
use crate::core::key::copies::{CopyKind, KeyCopy};
use crate::core::key::policy::Backup;
use crate::core::key::{KeyRecord, KeyRef, Purpose, State};
use crate::core::units::{Name, Timestamp, sha256};
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;
use crate::store::{EntryKind, Store};
use crate::token::keeper::Keeper;

/// Under this name the store keeps what the ceremony left behind.
pub(super) const QUORUM: &str = "backup-quorum";
/// And every backup medium, for whoever restores.
pub(super) const QUORUM_FILE: &str = "quorum.json";

/// Backups, where the configuration switches them on.
pub struct Backups {
    pub(super) config: BackupConfig,
    pub(super) places: Vec<Place>,
    quorum: RwLock<Option<Arc<Quorum>>>,
    /// One thing at a time is done with vault and bundles.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// All places were seen to say the same since the start.
    settled: AtomicBool,
}

/// What the register knows of a bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) epoch: u32,
    /// SHA-256 of the file.
    pub(super) bundle: String,
    pub(super) file: String,
    /// What its lock is known again by.
    pub(super) lock: String,
    pub(super) made_ms: i64,
}

fn invalid(what: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BundleInvalid, what.to_string())
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
    Ok(bytes)
}

impl Backups {
    /// Opens the places of the vault; nothing is asked of their tokens yet.
    pub(super) async fn open(config: &Config, own: &Keeper, store: &Store) -> Result<Option<Self>, Refusal> {
        let kept =
            store.document(QUORUM).await.map_err(|e| Refusal::new(Code::StoreFailed, e.to_string()))?;
        let quorum: Option<Quorum> =
            kept.map(|text| serde_json::from_str(&text)).transpose().map_err(|e| {
                Refusal::new(Code::StoreFailed, format!("the quorum in force cannot be read: {e}"))
            })?;
        let Some(backup) = &config.backup else {
            // [clause 8.7.1-s] with the table gone from the configuration, a key would be called destroyed and its lock stay
            return match quorum {
                None => Ok(None),
                Some(_) => Err(Refusal::new(
                    Code::BackupOff,
                    "keys of this register are backed up, and the configuration has no [backup]: without it none could be destroyed",
                )),
            };
        };
        let mut places = Vec::new();
        for vault in &backup.vaults {
            let keeper = match &vault.token {
                None => own.clone(),
                Some(token) => {
                    let (backend, keeper) = super::start::backend(token)?;
                    Keeper::start(backend, super::pin::fetch(&token.pin)?, keeper)
                }
            };
            let own = vault.token.is_none();
            places.push(Place { name: vault.name.clone(), file: vault.file.clone(), keeper, own });
        }
        let quorum = RwLock::new(quorum.map(Arc::new));
        Ok(Some(Self {
            config: backup.clone(),
            places,
            quorum,
            turn: tokio::sync::Mutex::new(()),
            settled: AtomicBool::new(false),
        }))
    }

    pub(super) fn quorum(&self) -> Option<Arc<Quorum>> {
        self.quorum.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_quorum(&self, quorum: Quorum) {
        *self.quorum.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(quorum));
    }

    fn vaults(&self) -> Vec<String> {
        self.places.iter().map(|p| p.name.clone()).collect()
    }

    /// Ends the places that are not the daemon's own token.
    pub(super) fn stop(&self) {
        for place in self.places.iter().filter(|p| !p.own) {
            place.keeper.stop();
        }
    }
}

impl House {
    pub(super) fn backups(&self) -> Result<&Backups, Refusal> {
        self.backup.as_ref().ok_or_else(|| Refusal::new(Code::BackupOff, "no backups are made here"))
    }

    pub(super) fn backup_quorum(&self) -> Result<Arc<Quorum>, Refusal> {
        self.backups()?
            .quorum()
            .ok_or_else(|| Refusal::new(Code::QuorumMissing, "no quorum has come together yet"))
    }

    /// Whether the key policy wants keys of this line and purpose backed up. The daemon's own keys are there before any
    /// quorum is, and a new register begins with new ones.
    fn wants_backup(&self, line: &Name, purpose: Purpose) -> bool {
        let policy = self.key_policy();
        !is_own(line)
            && line.as_str() != super::user::PEPPER
            && policy.rule(purpose).is_some_and(|rule| rule.backup == Backup::BeforeUse)
    }

    /// Under which key a new key of this line may leave the token; `None` when it shall not.
    // [clause 8.2.2-d] whether a key may leave is settled when it is made
    pub(super) fn leaves_under(&self, line: &Name, purpose: Purpose) -> Result<Option<KeyRef>, Refusal> {
        if self.backup.is_none() || !self.wants_backup(line, purpose) {
            return Ok(None);
        }
        let quorum = self.backup_quorum()?;
        quorum
            .recipient()
            .map(|r| Some(wrap_reference(&r)))
            .ok_or_else(|| Refusal::new(Code::Internal, "the quorum's public half in force is none"))
    }

    /// Objects in the daemon's token that no key record explains, and backups do.
    pub(super) fn explained(&self) -> Vec<KeyRef> {
        let Some(backups) = &self.backup else { return Vec::new() };
        let wrapping = backups.quorum().and_then(|q| q.recipient()).map(|r| wrap_reference(&r));
        let roots = backups.places.iter().filter(|p| p.own).filter_map(Place::root);
        wrapping.into_iter().chain(roots).collect()
    }

    pub(super) async fn bundle_of(&self, key: &KeyRecord) -> Result<Option<Made>, Refusal> {
        let text = self.store.bundle(key.name.clone()).await.map_err(|e| self.store_refusal(&e))?;
        text.map(|t| serde_json::from_str(&t)).transpose().map_err(|e| {
            Refusal::new(
                Code::StoreFailed,
                format!("what is known of the bundle of {} cannot be read: {e}", key.name),
            )
        })
    }

    /// Sees to it that a key has a bundle of the quorum in force, made and verified.
    // [clause 8.2.2-e] no key is active before it can be restored, where the key policy asks for that
    pub(super) async fn ensure_backed_up(&self, key: &KeyRecord) -> Result<(), Refusal> {
        if self.leaves_under(&key.line, key.purpose)?.is_none() {
            return Ok(());
        }
        if self.bundle_of(key).await?.is_some_and(|m| self.backup_quorum().is_ok_and(|q| q.epoch == m.epoch))
        {
            return Ok(());
        }
        self.back_up(key).await.map(drop).map_err(|refusal| match refusal.code {
            Code::TokenRefused => Refusal::new(
                Code::BackupMissing,
                format!("no bundle of key {} can be made: {}", key.name, refusal.sentence),
            ),
            _ => refusal,
        })
    }

    /// Makes a bundle, opens it again as far as that goes without the quorum, and writes it everywhere.
    // [clause 8.2.2-c] nobody is asked: the quorum's public half is enough
    pub(super) async fn back_up(&self, key: &KeyRecord) -> Result<Value, Refusal> {
        let backups = self.backups()?;
        let quorum = self.backup_quorum()?;
        let recipient = quorum
            .recipient()
            .ok_or_else(|| Refusal::new(Code::Internal, "the quorum's public half in force is none"))?;
        let by = wrap_reference(&recipient);
        let _turn = backups.turn.lock().await;
        let refused = |e| token_refusal(&e);
        // What cannot leave is found out before anything is written.
        let wrapped = self.keeper.wrap_for_backup(key.reference, by).await.map_err(refused)?;
        let lock = self.lock_for(key).await?;
        let head = Head {
            key: key.name.clone(),
            line: key.line.clone(),
            generation: key.generation,
            purpose: key.purpose,
            algorithm: key.public.algorithm(),
            public: hex::encode(key.public.as_bytes()),
            created_ms: key.created.0,
            token_serial: key.token_serial.clone(),
            epoch: quorum.epoch,
            quorum: hex::encode(recipient.id()),
            wrapping: Wrapping::of(key.public.algorithm()),
            made_ms: now().0,
        };
        let coins = zeroize::Zeroizing::new(random::<RANDOM>()?);
        let file =
            bundle::seal(&recipient, &head, &wrapped, &lock, random::<12>()?, &coins).map_err(invalid)?;
        // [clause 8.2.2-e] verified is what opens again down to the token's own wrapping of this very key
        let again = bundle::read_back(&file, &coins).map_err(invalid)?;
        if again.head != head {
            return Err(invalid("what was sealed is not what comes out"));
        }
        let inner = again.unlock(&lock).map_err(invalid)?;
        // The token cannot unwrap by itself, and shall not: that this wrapping comes back was proved when the quorum was
        // there. RFC 5649 makes the same of the same key, so that a second wrapping shows what came out.
        let second = self.keeper.wrap_for_backup(key.reference, by).await.map_err(refused)?;
        if *inner != second || !pkcs8::may_be(key.public.algorithm(), second.len()) {
            return Err(invalid("what came out of the bundle is not what the token wraps"));
        }
        let made = Made {
            epoch: quorum.epoch,
            bundle: hex::encode(sha256(&file)),
            file: format!("{}.e{}.bundle", key.name, quorum.epoch),
            lock: lock_mark(&lock),
            made_ms: head.made_ms,
        };
        self.mark_directories(&quorum)?;
        for dir in &backups.config.directories {
            let path = dir.join(&made.file);
            let failed = |e: std::io::Error| invalid(format!("{} was not written: {e}", path.display()));
            vault::replace(&path, &file).map_err(failed)?;
            if std::fs::read(&path).map_err(failed)? != file {
                return Err(invalid(format!("{} is not what was written there", path.display())));
            }
        }
        self.register_bundle(key, &made).await?;
        tracing::info!(key = %key.name, epoch = made.epoch, "bundle made and verified");
        Ok(json!({"key": key.name, "epoch": made.epoch, "bundle": made.bundle, "file": made.file}))
    }

    /// The files of a bundle, one in each directory.
    pub(super) fn bundles_of(&self, made: &Made) -> Result<Vec<KeyCopy>, Refusal> {
        let directories = self.backups()?.config.directories.iter();
        let copy = |dir: &PathBuf| {
            let place = dir.join(&made.file).to_string_lossy().into_owned();
            KeyCopy::new(CopyKind::Bundle, place, made.bundle.clone(), Timestamp(made.made_ms))
        };
        Ok(directories.map(copy).collect())
    }

    /// Every directory says whose bundles it holds: so that an empty mount point is not taken for it.
    fn mark_directories(&self, quorum: &Quorum) -> Result<(), Refusal> {
        let text = serde_json::to_string(quorum).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        for dir in &self.backups()?.config.directories {
            let path = dir.join(QUORUM_FILE);
            if !path.is_file() {
                vault::replace(&path, format!("{text}\n").as_bytes())
                    .map_err(|e| invalid(format!("{} was not written: {e}", path.display())))?;
            }
        }
        Ok(())
    }

    /// Writes down that there is a bundle, and where.
    pub(super) async fn register_bundle(&self, key: &KeyRecord, made: &Made) -> Result<(), Refusal> {
        let (entry, data, copies) = self.bundle_entry(key, made)?;
        self.store.put_bundle(key.name.clone(), entry, data, copies).await.map_err(|e| self.store_refusal(&e))
    }

    /// What is written down of a bundle: its entry, what the register keeps, and its copies.
    pub(super) fn bundle_entry(
        &self,
        key: &KeyRecord,
        made: &Made,
    ) -> Result<(EntryKind, String, Vec<KeyCopy>), Refusal> {
        let backups = self.backups()?;
        let entry = EntryKind::BackupMade {
            key: key.name.to_string(),
            epoch: made.epoch,
            bundle: made.bundle.clone(),
            lock: made.lock.clone(),
            vaults: backups.vaults(),
            copies: backups.config.directories.len(),
        };
        let data = serde_json::to_string(made).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let mut copies = self.bundles_of(made)?;
        copies.extend(
            backups
                .vaults()
                .into_iter()
                .map(|name| KeyCopy::new(CopyKind::Vault, name, made.lock.clone(), Timestamp(made.made_ms))),
        );
        Ok((entry, data, copies))
    }

    /// The lock of a key, durable in every place of the vault before it locks anything.
    async fn lock_for(&self, key: &KeyRecord) -> Result<SecretBytes<32>, Refusal> {
        let backups = self.backups()?;
        let id = LockId::of(&key.public);
        let drawn = self.keeper.draw(32).await.map_err(|e| token_refusal(&e))?;
        let kernel = zeroize::Zeroizing::new(random::<32>()?);
        let fresh = mixed(&drawn, &kernel, b"claviger/lock/v1")
            .ok_or_else(|| Refusal::new(Code::Internal, "the token gave too few random bytes"))?;
        let table = vault::apply(&backups.places, |table| table.put(id, fresh)).await?;
        match table.find(id) {
            Found::Lock(lock) => Ok(SecretBytes::copy_of(lock.expose())),
            Found::Gone(at) => {
                Err(Refusal::new(Code::KeyShredded, format!("key {} was destroyed at {at}", key.name)))
            }
            Found::Nothing => {
                Err(Refusal::new(Code::Internal, "the lock that was put into the vault is not there"))
            }
        }
    }

    /// Once after each start: what a crash left half done in the vault is brought to its end.
    pub(super) async fn settle_vault(&self) {
        let Some(backups) = &self.backup else { return };
        if backups.settled.load(Ordering::Acquire) || backups.quorum().is_none() {
            return;
        }
        let _turn = backups.turn.lock().await;
        match vault::apply(&backups.places, |_| ()).await {
            Ok(table) => {
                let (locks, gone) = table.counts();
                tracing::info!(locks, gone, places = backups.places.len(), "the vault is in order");
                backups.settled.store(true, Ordering::Release);
            }
            Err(refusal) => tracing::error!("the vault is not in order: {refusal}"),
        }
    }

    /// Keys that shall have a bundle.
    pub(super) fn backed_up(&self) -> Vec<KeyRecord> {
        let wanted = |k: &KeyRecord| {
            k.state != State::Destroyed && !k.destroying && self.wants_backup(&k.line, k.purpose)
        };
        self.keys().all().iter().map(|k| k.record.clone()).filter(wanted).collect()
    }

    /// Which keys have a bundle.
    pub async fn backup_list(&self) -> Result<Value, Refusal> {
        let quorum = self.backup_quorum()?;
        let mut rows = Vec::new();
        for key in self.backed_up() {
            let made = self.bundle_of(&key).await?;
            rows.push(json!({
                "key": key.name,
                "state": key.state,
                "backed_up": made.as_ref().is_some_and(|m| m.epoch == quorum.epoch),
                "epoch": made.as_ref().map(|m| m.epoch),
                "file": made.as_ref().map(|m| &m.file),
                "bundle": made.as_ref().map(|m| &m.bundle),
                "at": made.as_ref().map(|m| Timestamp(m.made_ms).to_string()),
            }));
        }
        Ok(json!({
            "epoch": quorum.epoch,
            "quorum": quorum.recipient().map(|r| hex::encode(r.id())),
            "groups_needed": quorum.groups_needed,
            "groups": quorum.groups,
            "vaults": self.backups()?.vaults(),
            "keys": rows,
        }))
    }

    /// Makes a fresh bundle of a key.
    pub async fn backup_make(&self, name: &str) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let key = self.backed_up().into_iter().find(|k| k.name.as_str() == name && !k.destroying);
        let key = key.ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Refusal::new(Code::KeyUnknown, format!("there is no key {shown:?} that is backed up here"))
        })?;
        self.back_up(&key).await
    }
}
