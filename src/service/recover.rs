//! Recovery: a quorum, the bundles and one place of the vault give the keys back, into a fresh token. [clause 8.2.2]
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::backup::{Made, QUORUM_FILE, random};
use super::keys::{describe, now};
use super::vault;
use super::{House, token_refusal};
use crate::core::backup::age::Identity;
use crate::core::backup::bundle::{self, Head, lock_mark};
use crate::core::backup::quorum::{Quorum, WRAP_INFO, commitment, wrap_reference};
use crate::core::backup::slip39::Share;
use crate::core::backup::vault::{Found, Table};
use crate::core::key::{KeyRecord, KeyRef, Origin, State};
use crate::core::units::{Timestamp, sha256};
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use crate::store::{Because, EntryKind};
use crate::token::KeySpec;

fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(bundle::LONGEST as u64 + 1).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|e| Refusal::new(Code::BundleInvalid, format!("{}: {e}", path.display())))
}

/// What the ceremony left beside the bundles, where it is of this quorum.
fn beside(files: &[PathBuf], identity: &Identity) -> Option<Quorum> {
    files.iter().filter_map(|f| f.parent()).find_map(|dir| {
        let quorum: Quorum = serde_json::from_slice(&read(&dir.join(QUORUM_FILE)).ok()?).ok()?;
        (quorum.recipient()?.id() == identity.recipient().id()).then_some(quorum)
    })
}

impl House {
    /// Restores what the files hold. Each key is answered for by itself: one that is refused stops no other.
    pub async fn recover(
        &self,
        identity: &Identity,
        shares: &[Share],
        files: &[PathBuf],
        officer: Option<&Pin>,
        uid: u32,
    ) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let backups = self.backups()?;
        let id = identity.recipient().id();
        match backups.quorum() {
            Some(ours) if ours.recipient().map(|r| r.id()) == Some(id) => {
                let by = wrap_reference(&identity.recipient());
                // The token may be a fresh one.
                if self.keeper.find(by).await.map_err(|e| token_refusal(&e))?.is_none() {
                    self.take_quorum(identity, &ours, officer, uid).await?;
                }
            }
            Some(_) => {
                let why = "these shares are of another quorum than the one in force here";
                return Err(Refusal::new(Code::SharesLacking, why));
            }
            None => {
                let quorum = match beside(files, identity) {
                    Some(quorum) => quorum,
                    None => Quorum {
                        epoch: 1,
                        recipient: identity
                            .recipient()
                            .text()
                            .map_err(|e| Refusal::new(Code::Internal, e.to_string()))?,
                        groups_needed: shares.first().map_or(1, |s| s.groups().0),
                        groups: Vec::new(),
                        commitments: Vec::new(),
                        made_ms: now().0,
                    },
                };
                self.take_quorum(identity, &quorum, officer, uid).await?;
            }
        }
        let table = {
            let _turn = backups.turn.lock().await;
            vault::apply(&backups.places, |_| ()).await?
        };
        let mut rows = Vec::new();
        for path in files {
            let outcome = self.restore_one(identity, &table, path, uid).await;
            rows.push(match outcome {
                Ok(record) => json!({"file": path, "restored": true, "key": describe(&record)}),
                Err(refusal) => {
                    tracing::error!("{}: {refusal}", path.display());
                    let entry = EntryKind::operator(
                        uid,
                        "restore-refused",
                        json!({"file": path, "code": refusal.code.as_str(), "sentence": refusal.sentence}),
                    );
                    self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
                    json!({"file": path, "restored": false, "code": refusal.code.as_str(),
                        "sentence": refusal.sentence, "advice": refusal.code.advice()})
                }
            });
        }
        self.load_keys().await?;
        let restored = rows.iter().filter(|r| r.get("restored") == Some(&json!(true))).count();
        Ok(json!({"quorum": hex::encode(id), "restored": restored, "of": files.len(), "bundles": rows,
            "unknown_shares": self.unknown(shares)}))
    }

    /// Shares that give the secret and are not among those that the ceremony committed to.
    fn unknown(&self, shares: &[Share]) -> Vec<usize> {
        let Some(quorum) = self.backup.as_ref().and_then(super::backup::Backups::quorum) else {
            return Vec::new();
        };
        if quorum.commitments.is_empty() {
            return Vec::new();
        }
        let known =
            |s: &Share| quorum.commitments.iter().flatten().any(|c| *c == commitment(quorum.epoch, s));
        (1..).zip(shares).filter(|(_, share)| !known(share)).map(|(at, _)| at).collect()
    }

    async fn restore_one(
        &self,
        identity: &Identity,
        table: &Table,
        path: &Path,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let invalid = |what: String| Refusal::new(Code::BundleInvalid, format!("{}: {what}", path.display()));
        let file = read(path)?;
        let opened = bundle::open(identity, &file).map_err(|e| invalid(e.to_string()))?;
        let head = opened.head.clone();
        let (Some(public), Some(id)) = (head.public(), head.lock()) else {
            return Err(invalid("its public key is none".into()));
        };
        // [clause 8.7.1-s] the vault is asked, not the register: that may be lost, or older
        let lock = match table.find(id) {
            Found::Lock(lock) => lock,
            Found::Gone(at) => {
                let why = format!("key {} was destroyed with its backups at {at}", head.key);
                return Err(Refusal::new(Code::KeyShredded, why));
            }
            Found::Nothing => {
                let why = format!("no place of the vault holds the lock of key {}", head.key);
                return Err(Refusal::new(Code::VaultFailed, why));
            }
        };
        let wrapped = opened.unlock(lock).map_err(|e| invalid(e.to_string()))?;
        if let Some(known) = self.keys().all().into_iter().find(|k| k.record.public == public) {
            if known.record.state == State::Destroyed || known.record.destroying {
                let why = format!("key {} was destroyed on purpose", head.key);
                return Err(Refusal::new(Code::KeyShredded, why));
            }
            let there = self.keeper.find(known.record.reference).await.map_err(|e| token_refusal(&e))?;
            if there.is_some() {
                return Err(Refusal::new(
                    Code::KeyExists,
                    format!("key {} is in the token already", head.key),
                ));
            }
        }
        let reference = KeyRef::from(random::<16>()?);
        let spec = KeySpec {
            reference,
            label: head.key.to_string(),
            algorithm: head.algorithm,
            purpose: head.purpose,
        };
        let by = wrap_reference(&identity.recipient());
        let under = identity.derive(WRAP_INFO).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let came = self.keeper.unwrap_from_backup(spec, by, &under, public, wrapped.to_vec()).await;
        let came = came.map_err(|e| token_refusal(&e))?;
        let made = Made {
            epoch: head.epoch,
            bundle: hex::encode(sha256(&file)),
            file: path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            lock: lock_mark(lock),
            made_ms: head.made_ms,
        };
        // [clause 8.2.2-f] it is the same key when its public half is, and it signs a fresh challenge in the token
        let proved = async {
            if came != public {
                return Err(invalid("what came out of it is another key than it says".into()));
            }
            self.keeper.prove_possession(reference, public).await.map_err(|e| token_refusal(&e))?;
            self.take_restored(&head, reference, &made, uid).await
        }
        .await;
        if proved.is_err()
            && let Err(e) = self.keeper.destroy(reference).await
        {
            tracing::error!("the unregistered pair {reference} stays in the token: {e}");
        }
        proved
    }

    async fn take_restored(
        &self,
        head: &Head,
        reference: KeyRef,
        made: &Made,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let public = head.public().ok_or_else(|| Refusal::new(Code::Internal, "its public key is none"))?;
        let serial = self.keeper.describe().map(|d| d.serial).unwrap_or_default();
        let origin = Origin::Restored { from_serial: head.token_serial.clone() };
        let record = KeyRecord {
            line: head.line.clone(),
            generation: head.generation,
            state: State::Suspended,
            created: Timestamp(head.created_ms),
            since: self.life_now(),
            ..KeyRecord::new(
                head.key.clone(),
                reference,
                head.purpose,
                public,
                serial.clone(),
                origin,
                self.life_now(),
            )
        };
        let entry = EntryKind::KeyRestored {
            key: head.key.to_string(),
            public: head.public.clone(),
            from_serial: head.token_serial.clone(),
            token_serial: serial,
            reference: reference.to_string(),
            bundle: made.bundle.clone(),
            uid,
        };
        let because = Because {
            actor: format!("operator {uid}"),
            reason: "it came back from a backup, and people start it again".into(),
            policy: self.key_policy().hash(),
        };
        self.store
            .restore_key(record.clone(), entry, because, uid)
            .await
            .map_err(|e| self.store_refusal(&e))??;
        self.register_bundle(&record, made).await?;
        self.load_keys().await?;
        self.keys()
            .exact(&record.name)
            .map(|k| k.record.clone())
            .ok_or_else(|| Refusal::new(Code::Internal, "the key that came back is not in the register"))
    }
}
