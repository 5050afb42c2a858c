//! Keys that were in the token before: found, judged, taken over with what is unproven about them; and the inventory that
//! must equal the token's objects. [clause 8.7.1]
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{House, token_refusal};
use crate::core::approval::{Deed, Matter};
use crate::core::key::{KeyRecord, KeyRef, Origin, Purpose, State};
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::token::{Object, Past};

/// What cannot be shown about a key's past, in words.
fn unproven(past: &Past) -> Vec<String> {
    [
        (past.local, "it may have been made outside of the token"),
        (past.always_sensitive, "its value may have been readable once"),
        (past.never_extractable, "it may have left the token once"),
        (past.fixed, "whoever has the PIN may change its attributes"),
    ]
    .into_iter()
    .filter(|(proven, _)| !proven)
    .map(|(_, words)| words.to_owned())
    .chain(past.narrowed.iter().map(|what| format!("until it was taken over it could do more: it {what}")))
    .collect()
}

impl House {
    /// Takes a key over that is in the token already.
    // [clause 8.2.5-a] what is not protected now is not taken; what was not always is written down for good
    pub async fn adopt_key(
        &self,
        name: &str,
        id: &str,
        purpose: Purpose,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        self.trusted()?;
        let name = self.free_name(name)?;
        let reference = KeyRef::parse(id).ok_or_else(|| {
            Refusal::new(Code::InvalidParams, "the id of a key is its CKA_ID in hex, 1 to 32 bytes")
        })?;
        let description = self
            .keeper
            .describe()
            .ok_or_else(|| Refusal::new(Code::TokenGone, "the token is not connected"))?;
        let refused = |e| token_refusal(&e);
        let public = self.keeper.find(reference).await.map_err(refused)?.ok_or_else(|| {
            Refusal::new(Code::KeyUnknown, format!("the token has no whole key with the id {reference}"))
        })?;
        let algorithm = public.algorithm();
        if !purpose.takes(algorithm) {
            return Err(Refusal::new(Code::KeyPurpose, format!("a {purpose} key cannot be {algorithm}")));
        }
        self.key_policy()
            .may_make(purpose, algorithm, self.life_now())
            .map_err(|why| Refusal::new(Code::KeyPolicyForbids, why))?;
        if purpose == Purpose::Payment {
            self.keeper.fit_for_payments().map_err(refused)?;
        }
        self.not_shredded(&public).await?;
        let past = self.keeper.past(reference).await.map_err(refused)?;
        let unprotected =
            |why: &str| Err(Refusal::new(Code::KeyUnprotected, format!("the key {reference} {why}")));
        if !past.sensitive {
            return unprotected("can be read");
        }
        if !past.kept {
            return unprotected("can leave the token");
        }
        if !past.other_uses.is_empty() {
            return unprotected(&format!("has other uses too: it {}", past.other_uses.join(", ")));
        }
        self.keeper.prove_possession(reference, public).await.map_err(refused)?;
        let deed = Deed::Import {
            key: name.clone(),
            public: hex::encode(public.as_bytes()),
            reason: format!("{reference} of token {} is taken over for {purpose}", description.serial),
        };
        let agreed = self.agreed(Matter::Import, deed, unproven(&past), uid).await?;
        let origin = Origin::Adopted { unproven: unproven(&past) };
        let record =
            KeyRecord::new(name, reference, purpose, public, description.serial, origin, self.life_now());
        self.store.insert_key(record.clone(), uid).await.map_err(|e| self.store_refusal(&e))?;
        self.made(agreed).await?;
        self.load_keys().await?;
        tracing::info!(key = %record.name, account = record.account(), uid, "key taken over");
        self.activate_if_wanted(&record).await
    }

    /// A name that no key has, or why it cannot be had.
    pub(super) fn free_name(&self, name: &str) -> Result<Name, Refusal> {
        let name = Name::parse(name).filter(|n| !n.as_str().contains('@')).ok_or_else(|| {
            Refusal::new(Code::InvalidParams, "a key's name is 1 to 64 of A-Z a-z 0-9 . _ -")
        })?;
        if name.as_str() == super::seal::STATE_KEY {
            return Err(Refusal::new(Code::KeyExists, format!("{name} is the daemon's own name")));
        }
        if self.keys().by_name(&name).is_some() {
            return Err(Refusal::new(Code::KeyExists, format!("a key named {name} exists already")));
        }
        Ok(name)
    }

    /// Compares the token's objects with the keys that are registered.
    pub async fn inventory(&self) -> Result<Value, Refusal> {
        let objects = self.keeper.inventory().await.map_err(|e| token_refusal(&e))?;
        // The anchor is ours, and no key.
        let anchor = super::anchor::label(&self.config.log.origin);
        let keyless = |o: &Object| !matches!(o.kind.as_str(), "private" | "public" | "secret");
        let objects: Vec<Object> =
            objects.into_iter().filter(|o| !(keyless(o) && o.label == anchor)).collect();
        let records: Vec<KeyRecord> = self.keys().all().iter().map(|k| k.record.clone()).collect();
        let mut compared = compare(&objects, &records, &self.explained());
        if let Some(map) = compared.as_object_mut() {
            map.insert("objects".into(), json!(objects.len()));
            map.insert("keys".into(), json!(records.len()));
        }
        Ok(compared)
    }
}

/// Strangers are objects that no record explains; missing are records that no object bears out.
fn compare(objects: &[Object], records: &[KeyRecord], explained: &[KeyRef]) -> Value {
    let records_of = records.iter().filter(|r| r.state != State::Destroyed).map(|r| r.reference);
    let known: BTreeSet<String> =
        records_of.chain(explained.iter().copied()).map(|reference| reference.to_string()).collect();
    let there: BTreeSet<&str> = objects
        .iter()
        .filter(|o| matches!(o.kind.as_str(), "private" | "secret"))
        .map(|o| o.id.as_str())
        .collect();
    let strangers: Vec<&Object> = objects.iter().filter(|o| !known.contains(&o.id)).collect();
    let missing: Vec<&Name> = records
        .iter()
        .filter(|r| r.state != State::Destroyed && !there.contains(r.reference.to_string().as_str()))
        .map(|r| &r.name)
        .collect();
    json!({"equal": strangers.is_empty() && missing.is_empty(), "strangers": strangers, "missing": missing})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::key::PublicKey;
    use crate::core::units::Timestamp;

    #[test]
    fn strangers_and_missing_keys_are_told_apart() {
        let record = |name: &str, byte, state| KeyRecord {
            state,
            ..KeyRecord::new(
                Name::parse(name).unwrap(),
                KeyRef::from([byte; 16]),
                Purpose::Payment,
                PublicKey::Ed25519([byte; 32]),
                String::new(),
                Origin::Generated,
                Timestamp(0),
            )
        };
        let object = |kind: &str, byte: u8| Object {
            kind: kind.into(),
            id: hex::encode([byte; 16]),
            label: String::new(),
        };
        let records = [
            record("here", 1, State::Active),
            record("half", 2, State::Active),
            record("gone", 3, State::Destroyed),
        ];
        let objects = [object("private", 1), object("public", 1), object("public", 2), object("secret", 9)];
        let told = compare(&objects, &records, &[]);
        assert_eq!(told["equal"], false);
        assert_eq!(told["missing"], json!(["half"]));
        assert_eq!(told["strangers"][0]["id"], hex::encode([9; 16]));
        assert_eq!(told["strangers"].as_array().unwrap().len(), 1);
        assert_eq!(compare(&objects[..2], &records[..1], &[])["equal"], true);
    }

    #[test]
    fn what_a_token_does_not_say_is_unproven() {
        assert_eq!(unproven(&Past::default()).len(), 4);
        let good = Past {
            local: true,
            always_sensitive: true,
            never_extractable: true,
            fixed: true,
            ..Past::default()
        };
        assert!(unproven(&good).is_empty());
    }
}
