//! Keys: made in the token, registered only after the token proved them.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::{House, Keys, token_refusal};
use crate::core::key::{Algorithm, KeyRecord, KeyRef, Origin, Purpose, State};
use crate::core::payment::ToSign;
use crate::core::policy::books;
use crate::core::units::{Name, Timestamp};
use crate::core::verify::Verifier;
use crate::refusal::{Code, Refusal};
use crate::token::{KeySpec, TokenError};

/// The name of the key that signs checkpoints.
pub use crate::store::LOG_KEY;

/// The name, line and generation of a new key.
pub(super) struct Successor {
    pub(super) name: Name,
    pub(super) line: Name,
    pub(super) generation: u32,
}

/// Milliseconds since the epoch, now.
#[must_use]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// 16 random bytes for a new `CKA_ID`.
pub(super) fn fresh_reference() -> Result<KeyRef, Refusal> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Refusal::new(Code::Internal, format!("the kernel gives no random bytes: {e}")))?;
    Ok(KeyRef::from(bytes))
}

/// What people and programs see of a key.
#[must_use]
pub fn describe(record: &KeyRecord) -> Value {
    json!({
        "name": record.name,
        "account": record.account(),
        "address": record.public.evm_address(),
        "algorithm": record.public.algorithm(),
        "purpose": record.purpose,
        "state": record.state,
        "public_key": hex::encode(record.public.as_bytes()),
        "token_serial": record.token_serial,
        "token_id": record.reference.to_string(),
        "created": record.created.to_string(),
        "origin": record.origin,
        "line": record.line,
        "generation": record.generation,
        "since": record.since.to_string(),
        "activated": record.activated.map(|t| t.to_string()),
        "compromised": record.compromised.map(|t| t.to_string()),
        "destroying": record.destroying,
    })
}

/// What people and programs see of a signed book.
#[must_use]
pub fn describe_book(book: &books::SignedBook) -> Value {
    json!({
        "name": book.name,
        "file": book.file,
        "sha256": hex::encode(book.digest),
        "version": book.version,
        "entries": book.entries,
        "quorum": book.needs.quorum,
        "of": book.needs.of,
        "signed_by": book.people,
    })
}

impl House {
    /// Makes a key in the token and registers it.
    pub async fn create_key(
        &self,
        name: &str,
        algorithm: Algorithm,
        purpose: Purpose,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        self.trusted()?;
        let name = self.free_name(name)?;
        let line = name.clone();
        self.make(Successor { name, line, generation: 1 }, algorithm, purpose, uid).await
    }

    async fn make(
        &self,
        successor: Successor,
        algorithm: Algorithm,
        purpose: Purpose,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let record = self.make_silent(successor, algorithm, purpose, uid).await?;
        self.activate_if_wanted(&record).await
    }

    /// Makes and registers a key that does nothing yet.
    // [clause 8.2.5-a] the private half is made in the token, and leaves it for a backup or not at all
    pub(super) async fn make_silent(
        &self,
        successor: Successor,
        algorithm: Algorithm,
        purpose: Purpose,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        if !purpose.takes(algorithm) {
            let why = format!("a {purpose} key cannot be {algorithm}");
            return Err(Refusal::new(Code::KeyPurpose, why));
        }
        self.key_policy()
            .may_make(purpose, algorithm, self.life_now())
            .map_err(|why| Refusal::new(Code::KeyPolicyForbids, why))?;
        let description = self.keeper.describe().ok_or_else(|| {
            Refusal::new(Code::TokenGone, "the token is not connected, so no key can be made")
        })?;
        let reference = fresh_reference()?;
        let Successor { name, line, generation } = successor;
        let spec = KeySpec { reference, label: name.to_string(), algorithm, purpose };
        let public = match self.leaves_under(&line, purpose)? {
            None => self.keeper.generate(spec).await,
            Some(by) => self.keeper.make_for_backup(spec, by).await,
        }
        .map_err(|e| token_refusal(&e))?;
        let record = KeyRecord {
            line,
            generation,
            ..KeyRecord::new(
                name,
                reference,
                purpose,
                public,
                description.serial,
                Origin::Generated,
                self.life_now(),
            )
        };
        if algorithm.is_pair() && Verifier::new(&public).is_none() {
            self.discard(reference).await;
            return Err(token_refusal(&TokenError::Corrupt(
                "the new public key is no point of its curve".into(),
            )));
        }
        // The trial of its token stands in the log before the key does.
        self.write_events().await;
        if let Err(e) = self.store.insert_key(record.clone(), uid).await {
            self.discard(reference).await;
            return Err(self.store_refusal(&e));
        }
        self.load_keys().await?;
        tracing::info!(key = %record.name, account = record.account(), uid, "key created");
        Ok(record)
    }

    async fn discard(&self, reference: KeyRef) {
        if let Err(e) = self.keeper.destroy(reference).await {
            tracing::error!("the unregistered pair {reference} stays in the token: {e}");
        }
    }

    /// Reads the key records again.
    pub(super) async fn load_keys(&self) -> Result<(), Refusal> {
        let records = self.store.keys().await.map_err(|e| self.store_refusal(&e))?;
        // What may be gone, or is to go, is no sign of the token.
        let there = |r: &&KeyRecord| r.state != State::Destroyed && !r.destroying;
        self.keeper.expect_keys(records.iter().filter(there).map(|r| (r.reference, r.public)).collect());
        let keys = Arc::new(Keys::prepare(records, &self.keys())?);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The key that signs checkpoints; made at the first start.
    pub async fn log_key(&self, uid: u32) -> Result<Arc<super::Key>, Refusal> {
        let name = Name::parse(LOG_KEY)
            .ok_or_else(|| Refusal::new(Code::Internal, "the log key's name is no name"))?;
        if let Some(key) = self.keys().by_name(&name) {
            return Ok(key);
        }
        self.create_key(LOG_KEY, Algorithm::Ed25519, Purpose::Integrity, uid).await?;
        self.keys().by_name(&name).ok_or_else(|| Refusal::new(Code::Internal, "the log key is gone"))
    }

    /// Signs the head of the log when it has grown since the last checkpoint.
    // [clause 8.7.1-e] what the log holds is signed by a key that lives in the token
    pub async fn checkpoint(&self) -> Result<bool, Refusal> {
        use crate::core::log::checkpoint;
        self.confirm().await?;
        let key = self.log_key(0).await?;
        let origin = &self.config.log.origin;
        let head = self.store.log_head();
        if head.size == 0 || self.store.checkpointed_size() >= head.size {
            return Ok(false);
        }
        let body = checkpoint::body(origin, head.size, &head.root);
        let note = self.signed_note(&key, &body).await?;
        self.store.save_checkpoint(head.size, note).await.map_err(|e| self.store_refusal(&e))?;
        Ok(true)
    }

    /// A text of the daemon's own, signed by the key of the log (C2SP signed-note). Its first line says what it is, and is
    /// no log's name.
    pub(super) async fn sign_note(&self, text: &str) -> Result<String, Refusal> {
        self.confirm().await?;
        let key = self.log_key(0).await?;
        self.signed_note(&key, text).await
    }

    /// A note signed by the key of the log: a checkpoint, or a receipt. Neither can be read as the other.
    pub(super) async fn signed_note(&self, key: &super::Key, body: &str) -> Result<String, Refusal> {
        let raw = self.keeper.sign_checkpoint(&key.record, body).await.map_err(|e| token_refusal(&e))?;
        let to_sign = ToSign::Message(body.as_bytes().to_vec());
        let _checked = key.verifier()?.check(&to_sign, &raw).map_err(|e| {
            let why = format!("the token's signature by the key of the log does not verify: {e}");
            Refusal::new(Code::SignatureInvalid, why)
        })?;
        let origin = &self.config.log.origin;
        Ok(crate::core::log::checkpoint::note(body, origin, key.record.public.as_bytes(), &raw))
    }

    /// The verifier key of the log, as C2SP signed-note writes it.
    pub async fn log_verifier_key(&self) -> Result<String, Refusal> {
        let key = self.log_key(0).await?;
        Ok(crate::core::log::checkpoint::verifier_key(&self.config.log.origin, key.record.public.as_bytes()))
    }
}
