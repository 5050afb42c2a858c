//! Entries of what they tell, cut where they would be too long.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::super::units::sha256;
use super::entry::EntryKind;
use crate::refusal::Refusal;

/// Longest sentence that is kept, bytes.
const MAX_SENTENCE: usize = 2048;
/// Longest part of a text, bytes: fits an entry even where each character is written with six.
const MAX_PART: usize = 8192;

fn clipped(text: &str) -> String {
    let mut end = text.len().min(MAX_SENTENCE);
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default().to_owned()
}

impl EntryKind {
    /// See [`EntryKind::Start`].
    #[must_use]
    pub fn start(version: &str, boot_id: &str, pid: u32) -> Self {
        Self::Start { version: version.to_owned(), boot_id: boot_id.to_owned(), pid }
    }

    /// See [`EntryKind::Stop`].
    #[must_use]
    pub fn stop() -> Self {
        Self::Stop {}
    }

    /// See [`EntryKind::Policy`].
    #[must_use]
    pub fn policy(hash: [u8; 32], bytes: usize, uid: u32, class: String) -> Self {
        Self::Policy { hash: hex::encode(hash), bytes, uid, class, kept: None, books: Vec::new() }
    }

    /// The same, of a document whose text is kept under the first SHA-256; of apps, what is remembered under the second.
    #[must_use]
    pub fn keeping(mut self, texts: &[String]) -> Self {
        if let Self::Apps { registrations, .. } = &mut self {
            *registrations = texts.get(1).cloned();
        }
        if let Self::Policy { kept, .. }
        | Self::KeyPolicy { kept, .. }
        | Self::Authority { kept, .. }
        | Self::Apps { kept, .. }
        | Self::Users { kept, .. } = &mut self
        {
            *kept = texts.first().cloned();
        }
        self
    }

    /// A text in parts that fit an entry, whatever they hold.
    // [clause 8.7.1-e] what was in force is in the log word by word, and not as a hash alone
    #[must_use]
    pub fn documents(what: &str, text: &str) -> Vec<Self> {
        let hash = hex::encode(sha256(text.as_bytes()));
        let (mut parts, mut rest) = (Vec::new(), text);
        while rest.len() > MAX_PART {
            let end = (0..=MAX_PART).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
            let (part, more) = rest.split_at(end);
            parts.push(part);
            rest = more;
        }
        parts.push(rest);
        let count = parts.len();
        (1..)
            .zip(parts)
            .map(|(part, text)| Self::Document {
                what: what.to_owned(),
                hash: hash.clone(),
                part,
                parts: count,
                text: text.to_owned(),
            })
            .collect()
    }

    /// The same, of a policy with signed books.
    #[must_use]
    pub fn with_books(mut self, hashes: Vec<String>) -> Self {
        if let Self::Policy { books, .. } = &mut self {
            *books = hashes;
        }
        self
    }

    /// See [`EntryKind::Apps`].
    #[must_use]
    pub fn apps(hash: [u8; 32], count: usize, uid: u32) -> Self {
        Self::Apps { hash: hex::encode(hash), count, uid, kept: None, registrations: None }
    }

    /// See [`EntryKind::Failed`].
    #[must_use]
    pub fn failed(request: String, code: &str, sentence: &str) -> Self {
        Self::Failed { request, code: code.to_owned(), sentence: clipped(sentence) }
    }

    /// See [`EntryKind::Refusal`].
    #[must_use]
    pub fn refusal(
        request: Option<String>,
        app: Option<String>,
        caller: String,
        account: Option<String>,
        refusal: &Refusal,
        suppressed: u64,
    ) -> Self {
        Self::Refusal {
            request,
            app,
            caller: Some(clipped(&caller)),
            account,
            code: refusal.code.as_str().to_owned(),
            clause: refusal.code.clause().to_owned(),
            sentence: clipped(&refusal.sentence),
            rule: refusal.rule.clone(),
            act: None,
            tier: None,
            suppressed,
        }
    }

    /// See [`EntryKind::Alarm`].
    #[must_use]
    pub fn alarm(what: &str, about: &str, sentence: &str) -> Self {
        Self::Alarm { what: what.to_owned(), about: about.to_owned(), sentence: clipped(sentence) }
    }

    /// See [`EntryKind::Operator`].
    #[must_use]
    pub fn operator(uid: u32, act: &str, detail: Value) -> Self {
        Self::Operator { uid, act: act.to_owned(), detail }
    }
}
