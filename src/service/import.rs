//! Keys that come in from elsewhere: agreed on, put into the token, looked at, and registered as what they are.
//! [clause 8.7.1]
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::keys::{describe, fresh_reference};
use super::{House, token_refusal};
use crate::core::approval::{Deed, Matter};
use crate::core::key::import::{Incoming, Source};
use crate::core::key::{KeyRecord, KeyRef, Origin, PublicKey, Purpose, State};
use crate::core::proof::RequestId;
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;
use crate::token::{KeySpec, Past, TokenError};

/// How long it is tried to take a key out again.
const PATIENCE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(200);

/// What is asked for.
pub struct Import {
    /// The name that the key gets.
    pub name: String,
    /// Its one purpose.
    pub purpose: Purpose,
    /// The public half that whoever asks has seen.
    pub public: PublicKey,
    /// What it was kept in, as they say.
    pub source: Source,
    /// The private half; without it, it is only looked whether it would be taken.
    pub private: Option<SecretBytes<32>>,
}

/// What nobody can show about a key that was outside, in words.
fn unproven(past: Option<&Past>) -> Vec<String> {
    let mut words = vec!["its value was outside of the token, and copies of it may be elsewhere".to_owned()];
    if past.is_some_and(|p| !p.fixed) {
        words.push("whoever has the PIN may change its attributes".to_owned());
    }
    words
}

/// Whether a key that was put in is protected like one that was made inside.
fn protected(past: &Past) -> Result<(), Refusal> {
    let uses = format!("has other uses too: it {}", past.other_uses.join(", "));
    let checks = [
        (past.sensitive, "can be read"),
        (past.kept, "can leave the token"),
        (past.other_uses.is_empty(), uses.as_str()),
    ];
    match checks.into_iter().find(|(good, _)| !good) {
        None => Ok(()),
        Some((_, why)) => Err(Refusal::new(
            Code::KeyUnprotected,
            format!("the key that was put in {why}; it was taken out again"),
        )),
    }
}

impl House {
    /// Puts a key into the token that was outside. Without the private half it says whether it would.
    // [clause 8.7.1-o] it never counts as made in the token, and what comes in is what was shown and agreed on
    pub async fn import_key(&self, asked: Import, uid: u32) -> Result<Value, Refusal> {
        let _one_at_a_time = self.changes.lock().await;
        let Import { name, purpose, public, source, private } = asked;
        let name = self.free_name(&name)?;
        let algorithm = public.algorithm();
        if !purpose.takes(algorithm) {
            return Err(Refusal::new(Code::KeyPurpose, format!("a {purpose} key cannot be {algorithm}")));
        }
        self.key_policy()
            .may_import(purpose, algorithm, self.life_now())
            .map_err(|why| Refusal::new(Code::KeyPolicyForbids, why))?;
        self.never_seen(&public)?;
        self.not_shredded(&public).await?;
        if purpose == Purpose::Payment {
            self.keeper.fit_for_payments().map_err(|e| token_refusal(&e))?;
        }
        let incoming = private.map(|private| Incoming::new(algorithm, private)).transpose()?;
        if incoming.as_ref().is_some_and(|i| i.public() != public) {
            let why = "the private half that came does not belong to the public half that was shown";
            return Err(Refusal::new(Code::ImportOther, why));
        }
        let account = public.evm_address().map_or_else(|| hex::encode(public.as_bytes()), |a| a.to_string());
        let deed = Deed::Import {
            key: name.clone(),
            public: hex::encode(public.as_bytes()),
            reason: format!("{} comes in for {purpose}, account {account}", source.as_str()),
        };
        let agreed = self.agreed(Matter::Import, deed, unproven(None), uid).await?;
        let Some(incoming) = incoming else {
            return Ok(json!({"ready": true, "name": name, "account": account, "unproven": unproven(None)}));
        };
        let record = self.put(name, purpose, incoming, source).await?;
        self.enter(record, agreed, uid).await.map(|record| describe(&record))
    }

    /// A key that is known, or was, is not taken; asked again where it is written down.
    // [clause 8.7.1-h] before anything is put into the token
    fn never_seen(&self, public: &PublicKey) -> Result<(), Refusal> {
        let Some(key) = self.keys().all().into_iter().find(|k| k.record.public == *public) else {
            return Ok(());
        };
        let known = &key.record;
        Err(if known.state == State::Destroyed {
            let why = format!("this very key was {}, which was destroyed: it never comes back", known.name);
            Refusal::new(Code::KeyTombstone, why)
        } else {
            let why = format!(
                "this very key is registered as {} for {} ({}), and a key has one purpose and one life",
                known.name,
                known.purpose,
                known.state.as_str()
            );
            Refusal::new(Code::KeyExists, why)
        })
    }

    /// Into the token, and looked at there. Whatever is wrong, it is taken out again.
    async fn put(
        &self,
        name: Name,
        purpose: Purpose,
        incoming: Incoming,
        source: Source,
    ) -> Result<KeyRecord, Refusal> {
        let description = self
            .keeper
            .describe()
            .ok_or_else(|| Refusal::new(Code::TokenGone, "the token is not connected"))?;
        let (reference, public) = (fresh_reference()?, incoming.public());
        let spec = KeySpec { reference, label: name.to_string(), algorithm: incoming.algorithm(), purpose };
        let looked = async {
            let refused = |e: TokenError| token_refusal(&e);
            let (found, past) = self.keeper.import(spec, incoming.into_private()).await.map_err(refused)?;
            if found != public {
                let why = "the token shows another public half than the one that was put in".to_owned();
                return Err(refused(TokenError::Corrupt(why)));
            }
            protected(&past)?;
            self.keeper.prove_possession(reference, public).await.map_err(refused)?;
            Ok(past)
        };
        match looked.await {
            Ok(past) => {
                let origin = Origin::Imported { source, unproven: unproven(Some(&past)) };
                let now = self.life_now();
                Ok(KeyRecord::new(name, reference, purpose, public, description.serial, origin, now))
            }
            Err(refusal) => Err(self.take_out(refusal, reference).await),
        }
    }

    /// Registers it, or takes it out of the token again.
    async fn enter(
        &self,
        record: KeyRecord,
        agreed: Option<RequestId>,
        uid: u32,
    ) -> Result<KeyRecord, Refusal> {
        if let Err(e) = self.store.insert_key(record.clone(), uid).await {
            return Err(self.take_out(self.store_refusal(&e), record.reference).await);
        }
        self.load_keys().await?;
        self.made(agreed).await?;
        tracing::info!(key = %record.name, account = record.account(), uid, "key imported");
        self.activate_if_wanted(&record).await
    }

    /// Takes a key out again that is not registered. A call that was given up may have been carried out, and a token that
    /// went away meanwhile comes back: so it is looked for a while.
    async fn take_out(&self, mut because: Refusal, reference: KeyRef) -> Refusal {
        let until = Instant::now() + PATIENCE;
        loop {
            let gone = match self.keeper.find(reference).await {
                Ok(None) => Ok(()),
                _ => self.keeper.destroy(reference).await,
            };
            match gone {
                Ok(()) => return because,
                Err(e) if e.is_no_verdict() && Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Err(e) => {
                    tracing::error!("the unregistered pair {reference} may be in the token: {e}");
                    because.sentence.push_str(&format!(
                        "; it may be in the token still, as {reference}: see claviger token inventory"
                    ));
                    return because;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.7.1-o] test
    #[test]
    fn what_a_token_does_not_protect_is_not_kept() {
        let good = Past { sensitive: true, kept: true, fixed: true, ..Past::default() };
        assert!(protected(&good).is_ok());
        for bad in [
            Past { sensitive: false, ..good.clone() },
            Past { kept: false, ..good.clone() },
            Past { other_uses: vec!["decrypts".into()], ..good.clone() },
        ] {
            assert_eq!(protected(&bad).unwrap_err().code, Code::KeyUnprotected);
        }
        assert_eq!(unproven(Some(&good)).len(), 1);
        assert_eq!(unproven(Some(&Past { fixed: false, ..good })).len(), 2);
    }
}
