//! Recovery: a quorum, the bundles and one place of the vault give the keys back, into a fresh token. [clause 8.2.2]
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::backup::{Made, QUORUM_FILE};
use super::keys::{describe, now};
use super::vault;
use super::{House, token_refusal};
use crate::core::backup::age::Identity;
use crate::core::backup::bundle::{self, Head, lock_mark};
use crate::core::backup::quorum::{Quorum, WRAP_INFO, commitment, wrap_reference};
use crate::core::backup::slip39::Share;
use crate::core::backup::vault::{Found, LockId, Table};
use crate::core::key::copies::{CopyKind, KeyCopy};
use crate::core::key::{KeyRecord, KeyRef, Origin, PublicKey, State};
use crate::core::units::{Name, Timestamp, sha256};
use crate::refusal::{Code, Refusal};
use crate::secret::{Pin, SecretBytes};
use crate::store::{Because, EntryKind, Restored};
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

/// How a recovery is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// The old token may be in other hands: payment keys that come back sweep, and nothing else.
    pub sweep_only: bool,
}

/// What stands behind it in the progress of a recovery.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bundles that were looked at.
    pub done: usize,
    /// All of them.
    pub of: usize,
    /// Keys that came back.
    pub restored: usize,
}

/// Under which id a key comes back: always the same one, so that what a run that was cut off left in the token is found by
/// the next, and by whoever destroys the key.
// [clause 8.2.2-g] no second copy of a key stays in the token, wherever a run ends
pub(super) fn reference_of(public: &PublicKey) -> KeyRef {
    let id = sha256(format!("claviger/restored/v1 {}", LockId::of(public)).as_bytes());
    KeyRef::from(id.first_chunk::<16>().copied().unwrap_or_default())
}

/// What became of one bundle.
enum Outcome {
    /// It came back.
    Restored(Box<KeyRecord>),
    /// It had come back before.
    There(Name),
}

/// What every bundle of a run needs.
struct Run<'a> {
    identity: &'a Identity,
    under: SecretBytes<32>,
    by: KeyRef,
    table: Table,
    /// What the register knew when it began, and what came back since.
    known: HashMap<PublicKey, KeyRecord>,
    manner: Manner,
    uid: u32,
}

impl House {
    /// Restores what the files hold, and is missing. Each key is answered for by itself: one that is refused stops no other.
    /// A run that was cut off is begun again in the same way, and goes on where that one was.
    // [clause 8.2.2-g] what is there is left alone, what is not comes back, and each step is durable before the next
    pub async fn recover(
        &self,
        identity: &Identity,
        shares: &[Share],
        files: &[PathBuf],
        officer: Option<&Pin>,
        (manner, uid): (Manner, u32),
        tell: &(dyn Fn(Progress) + Sync),
    ) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let backups = self.backups()?;
        let id = identity.recipient().id();
        let by = wrap_reference(&identity.recipient());
        match backups.quorum() {
            Some(ours) if ours.recipient().map(|r| r.id()) == Some(id) => {
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
        self.clear_trials().await.map_err(|e| token_refusal(&e))?;
        let table = {
            let _turn = backups.turn.lock().await;
            vault::apply(&backups.places, |_| ()).await?
        };
        let under = identity.derive(WRAP_INFO).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let known = self.keys().all().iter().map(|k| (k.record.public, k.record.clone())).collect();
        let mut run = Run { identity, under, by, table, known, manner, uid };
        let (mut rows, mut restored, mut there) = (Vec::new(), 0_usize, 0_usize);
        for (done, path) in (1..).zip(files) {
            let row = match self.restore_one(&mut run, path).await {
                Ok(Outcome::Restored(record)) => {
                    restored += 1;
                    json!({"file": path, "restored": true, "key": describe(&record)})
                }
                Ok(Outcome::There(key)) => {
                    there += 1;
                    json!({"file": path, "restored": false, "there": true, "key": {"name": key}})
                }
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
            };
            rows.push(row);
            tell(Progress { done, of: files.len(), restored });
        }
        self.load_keys().await?;
        Ok(json!({"quorum": hex::encode(id), "restored": restored, "there": there, "of": files.len(),
            "sweep_only": manner.sweep_only, "bundles": rows, "unknown_shares": self.unknown(shares)}))
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

    async fn restore_one(&self, run: &mut Run<'_>, path: &Path) -> Result<Outcome, Refusal> {
        let invalid = |what: String| Refusal::new(Code::BundleInvalid, format!("{}: {what}", path.display()));
        let refused = |e| token_refusal(&e);
        let file = read(path)?;
        let opened = bundle::open(run.identity, &file).map_err(|e| invalid(e.to_string()))?;
        let head = opened.head.clone();
        let (Some(public), Some(id)) = (head.public(), head.lock()) else {
            return Err(invalid("its public key is none".into()));
        };
        // [clause 8.7.1-x] the register's tombstones count as the vault's do: either may be lost, or older
        let known = run.known.get(&public).cloned();
        if let Some(known) = &known {
            if known.state == State::Destroyed || known.destroying {
                let why = format!("key {} was destroyed on purpose", head.key);
                return Err(Refusal::new(Code::KeyShredded, why));
            }
            if self.keeper.find(known.reference).await.map_err(refused)? == Some(public) {
                return Ok(Outcome::There(head.key));
            }
        }
        // [clause 8.7.1-s] the vault is asked, and not the register alone: that may be lost, or older
        let lock = match run.table.find(id) {
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
        let reference = reference_of(&public);
        match self.keeper.find(reference).await {
            Ok(None) => {}
            Err(e) if e.is_no_verdict() => return Err(refused(e)),
            // What stands there by leave of the register is not touched, whatever it is.
            _ if known.as_ref().is_some_and(|k| k.reference == reference) => {
                let why = format!("the token holds something else in the place of key {}", head.key);
                return Err(Refusal::new(Code::KeyExists, why));
            }
            // What a run that was cut off put there, half a pair too, is no key of the register's: it comes in anew.
            Ok(Some(_)) | Err(_) => self.keeper.destroy(reference).await.map_err(refused)?,
        }
        let spec = KeySpec {
            reference,
            label: head.key.to_string(),
            algorithm: head.algorithm,
            purpose: head.purpose,
        };
        let came = self.keeper.unwrap_from_backup(spec, run.by, &run.under, public, wrapped.to_vec()).await;
        let came = came.map_err(refused)?;
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
            self.keeper.prove_possession(reference, public).await.map_err(refused)?;
            self.take_restored(run, &head, public, known.as_ref(), &made).await
        }
        .await;
        if proved.is_err()
            && let Err(e) = self.keeper.destroy(reference).await
        {
            tracing::error!("the unregistered pair {reference} stays in the token: {e}");
        }
        let record = proved?;
        run.known.insert(public, record.clone());
        Ok(Outcome::Restored(Box::new(record)))
    }

    async fn take_restored(
        &self,
        run: &Run<'_>,
        head: &Head,
        public: PublicKey,
        known: Option<&KeyRecord>,
        made: &Made,
    ) -> Result<KeyRecord, Refusal> {
        let reference = reference_of(&public);
        let serial = self.keeper.describe().map(|d| d.serial).unwrap_or_default();
        let origin = Origin::Restored { from_serial: head.token_serial.clone() };
        let at = self.life_now();
        let suspect = (run.manner.sweep_only).then_some(at);
        let fresh = KeyRecord {
            line: head.line.clone(),
            generation: head.generation,
            state: State::Suspended,
            created: Timestamp(head.created_ms),
            compromised: suspect,
            ..KeyRecord::new(head.key.clone(), reference, head.purpose, public, serial.clone(), origin, at)
        };
        let entry = EntryKind::KeyRestored {
            key: head.key.to_string(),
            public: head.public.clone(),
            from_serial: head.token_serial.clone(),
            token_serial: serial.clone(),
            reference: reference.to_string(),
            bundle: made.bundle.clone(),
            uid: run.uid,
            sweep_only: run.manner.sweep_only,
        };
        let because = Because {
            actor: format!("operator {}", run.uid),
            reason: "it came back from a backup, and people start it again".into(),
            policy: self.key_policy().hash(),
        };
        // A token that was lost may be found again: it holds a copy until somebody gives a receipt for it.
        let lost = |serial: &str, id: String| KeyCopy::new(CopyKind::Token, serial.to_owned(), id, at);
        let mut copies = vec![lost(&head.token_serial, "-".into())];
        copies.extend(known.map(|k| lost(&k.token_serial, k.reference.to_string())));
        copies.retain(|c| c.place != serial && !c.place.is_empty());
        copies.dedup_by(|a, b| a.place == b.place);
        let (bundle, data, places) = self.bundle_entry(&fresh, made)?;
        copies.extend(places);
        let restored = Restored { record: fresh.clone(), entry, bundle, data, copies };
        self.store.restore_key(restored, because, run.uid).await.map_err(|e| self.store_refusal(&e))??;
        Ok(match known {
            Some(known) => KeyRecord { reference, token_serial: serial, ..known.clone() },
            None => fresh,
        })
    }
}
