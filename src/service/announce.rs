//! What comes into force is written down before it is: the text, then the entry that names it.
#![forbid(unsafe_code)]

use super::{House, Rules};
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::store::{EntryKind, Text};

impl House {
    /// Whether there was such a document before.
    async fn was_kept(&self, name: &'static str) -> Result<bool, Refusal> {
        let kept = self.store.document(name).await.map_err(|e| self.store_refusal(&e))?;
        Ok(kept.is_some_and(|text| !text.is_empty()))
    }

    /// Writes down which documents come into force, and keeps their texts; all of them when there were none before. Says
    /// whether everything is as it was.
    pub(super) async fn keep_documents(
        &self,
        old: Option<&Rules>,
        new: &Rules,
        class: &str,
        uid: u32,
    ) -> Result<bool, Refusal> {
        let hash = |text: &str| hex::encode(sha256(text.as_bytes()));
        let mut entries = Vec::new();
        // People first: a policy's books are read with them.
        let named = match old {
            Some(old) => old.authority_text != new.authority_text,
            None => new.authority_text.is_some() || self.was_kept("authority").await?,
        };
        if named {
            // The absence of a document is the empty text.
            let text = new.authority_text.clone().unwrap_or_default();
            let people = new.authority.as_ref().map_or(0, |a| a.people().len());
            entries.push((
                EntryKind::Authority { hash: hash(&text), people, uid, kept: None },
                "authority",
                text,
            ));
        }
        let named = match old {
            Some(old) => old.users_text != new.users_text,
            None => new.users_text.is_some() || self.was_kept("users").await?,
        };
        if named {
            let text = new.users_text.clone().unwrap_or_default();
            let users = new.users.as_ref().map_or(0, |u| u.all().len());
            entries.push((EntryKind::Users { hash: hash(&text), users, uid, kept: None }, "users", text));
        }
        if old.is_none_or(|o| o.policy_text != new.policy_text || o.policy.hash() != new.policy.hash()) {
            // An auditor reads the policy with the very books that it came into force with.
            let mut books = Vec::new();
            for book in &new.books {
                let text = serde_json::to_string(book)
                    .map_err(|e| Refusal::new(Code::PolicyInvalid, e.to_string()))?;
                books.push(hash(&text));
                self.store.keep_text("book", text).await.map_err(|e| self.store_refusal(&e))?;
            }
            let (of, length) = (new.policy.hash(), new.policy_text.len());
            let entry = EntryKind::policy(of, length, uid, class.to_owned()).with_books(books);
            entries.push((entry, "policy", new.policy_text.clone()));
        }
        if old.is_none_or(|o| o.key_policy_text != new.key_policy_text) {
            let entry = EntryKind::KeyPolicy { hash: hash(&new.key_policy_text), uid, kept: None };
            entries.push((entry, "key-policy", new.key_policy_text.clone()));
        }
        let as_before = entries.is_empty();
        for (entry, name, text) in entries {
            self.announce(Text { what: name, text, beside: None }, entry).await?;
        }
        if old.is_none_or(|o| o.apps_text != new.apps_text || o.memory != new.memory) {
            // The file and what is remembered beside it are in force together, or neither.
            let beside = Some(("registrations", new.memory.render()));
            let entry = EntryKind::apps(new.apps.hash(), new.apps.all().len(), uid);
            self.announce(Text { what: "apps", text: new.apps_text.clone(), beside }, entry).await?;
            return Ok(false);
        }
        Ok(as_before)
    }

    async fn announce(&self, text: Text, entry: EntryKind) -> Result<(), Refusal> {
        self.store.announce(text, entry).await.map_err(|e| self.store_refusal(&e))
    }
}
