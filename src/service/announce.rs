//! What comes into force goes into the log with its text, before it is in force.
#![forbid(unsafe_code)]

use super::{House, Rules};
use crate::core::app::Apps;
use crate::core::approval::Authority;
use crate::core::key::policy::KeyPolicy;
use crate::refusal::Refusal;
use crate::store::{EntryKind, Text};

impl House {
    async fn announce(&self, what: &'static str, text: &str, entry: EntryKind) -> Result<(), Refusal> {
        let announced = self.store.announce(Text { what, text }, entry).await;
        announced.map(drop).map_err(|e| self.store_refusal(&e))
    }

    /// At a start: everything that is in force from here on.
    pub(super) async fn announce_all(&self, rules: &Rules, uid: u32) -> Result<(), Refusal> {
        self.announce_policy(rules, "start".into(), uid).await?;
        self.announce_key_policy(&self.key_policy(), uid).await?;
        self.announce_apps(&rules.apps, uid).await?;
        match rules.authority.as_deref() {
            Some(authority) => self.announce_authority(Some(authority), uid).await,
            None => Ok(()),
        }
    }

    pub(super) async fn announce_policy(
        &self,
        rules: &Rules,
        class: String,
        uid: u32,
    ) -> Result<(), Refusal> {
        let entry = EntryKind::policy(rules.policy.hash(), rules.policy_text.len(), uid, class);
        self.announce("policy", &rules.policy_text, entry).await
    }

    pub(super) async fn announce_key_policy(&self, policy: &KeyPolicy, uid: u32) -> Result<(), Refusal> {
        let entry = EntryKind::KeyPolicy { hash: hex::encode(policy.hash()), uid };
        self.announce("key-policy", policy.text(), entry).await
    }

    pub(super) async fn announce_apps(&self, apps: &Apps, uid: u32) -> Result<(), Refusal> {
        let entry = EntryKind::apps(apps.hash(), apps.all().len(), uid);
        self.announce("apps", apps.text(), entry).await
    }

    /// `None`: nobody approves any more.
    pub(super) async fn announce_authority(
        &self,
        authority: Option<&Authority>,
        uid: u32,
    ) -> Result<(), Refusal> {
        let Some(authority) = authority else {
            let entry = EntryKind::Authority { hash: String::new(), people: 0, uid };
            return self.store.append(entry).await.map(drop).map_err(|e| self.store_refusal(&e));
        };
        let people = authority.people().len();
        let entry = EntryKind::Authority { hash: hex::encode(authority.hash()), people, uid };
        self.announce("authority", authority.text(), entry).await
    }
}
