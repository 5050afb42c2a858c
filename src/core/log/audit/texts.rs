//! Texts that were in force: put together from their parts, and found by their hash.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::super::super::units::sha256;
use super::{CHANGING_MS, Findings, Place, Rule};

/// Texts by their hash, in hex.
#[derive(Default)]
pub(super) struct Texts {
    known: HashMap<String, String>,
    /// What is being put together: hash, next part, parts, text.
    coming: Option<(String, usize, usize, String)>,
    /// The log holds texts from some entry on.
    kept: bool,
}

impl Texts {
    pub(super) fn with(texts: &[String]) -> Self {
        let known = texts.iter().map(|t| (hex::encode(sha256(t.as_bytes())), t.clone())).collect();
        Self { known, ..Self::default() }
    }

    pub(super) fn part(
        &mut self,
        place: Place,
        hash: String,
        part: usize,
        parts: usize,
        text: &str,
        found: &mut Findings,
    ) {
        self.kept = true;
        let coming = match self.coming.take() {
            None if part == 1 => Some((hash, String::new())),
            Some((of, next, all, so_far)) if of == hash && next == part && all == parts => {
                Some((hash, so_far))
            }
            _ => None,
        };
        let Some((hash, so_far)) = coming.filter(|_| part <= parts) else {
            found.breach(Rule::Text, place.index, "this is no next part of a text");
            return;
        };
        let so_far = so_far + text;
        if part < parts {
            self.coming = Some((hash, part + 1, parts, so_far));
        } else if hex::encode(sha256(so_far.as_bytes())) == hash {
            self.known.insert(hash, so_far);
        } else {
            found.breach(Rule::Text, place.index, "the text has another hash than it says");
        }
    }

    /// The text of a hash that is announced. A log that keeps texts keeps all of them.
    pub(super) fn find(
        &mut self,
        place: Place,
        what: &str,
        hash: &str,
        found: &mut Findings,
    ) -> Option<&String> {
        if let Some((_, next, parts, _)) = self.coming.take() {
            found.breach(Rule::Text, place.index, format!("part {next} of {parts} of a text never came"));
        }
        let text = self.known.get(hash);
        if text.is_none() {
            let why = format!("the text of the {what} {hash} does not stand in the log");
            if self.kept {
                found.breach(Rule::Text, place.index, why);
            } else {
                found.unproven(Rule::Text, place.index, why);
            }
        }
        text
    }
}

/// What is in force of one sort, and what was until a moment ago.
pub(super) struct InForce<T> {
    now: Option<(String, Option<T>)>,
    before: Option<(String, Option<T>)>,
    since_ms: i64,
}

/// What a hash stood for at a moment.
pub(super) enum Stood<'a, T> {
    /// It was not in force.
    Not,
    /// It was, and its text is not there, or cannot be read.
    Unread,
    /// This.
    Known(&'a mut T),
}

impl<T> Default for InForce<T> {
    fn default() -> Self {
        Self { now: None, before: None, since_ms: 0 }
    }
}

impl<T> InForce<T> {
    /// Another one is announced.
    pub(super) fn announce(&mut self, place: Place, hash: &str, read: impl FnOnce() -> Option<T>) {
        if self.now.as_ref().is_none_or(|(of, value)| of != hash || value.is_none()) {
            self.before = self.now.take();
            self.now = Some((hash.to_owned(), read()));
            self.since_ms = place.ms;
        }
    }

    /// Nothing was announced yet.
    pub(super) fn is_empty(&self) -> bool {
        self.now.is_none()
    }

    /// What was announced last.
    pub(super) fn latest(&self) -> Option<&T> {
        self.now.as_ref().and_then(|(_, value)| value.as_ref())
    }

    /// A start: what was in force is announced anew.
    pub(super) fn forget(&mut self) {
        (self.now, self.before) = (None, None);
    }

    /// What this hash stood for at that moment.
    pub(super) fn at(&mut self, place: Place, hash: &str) -> Stood<'_, T> {
        let changing = place.ms.saturating_sub(self.since_ms) <= CHANGING_MS;
        let now = self.now.as_mut().filter(|(of, _)| of == hash);
        let before = self.before.as_mut().filter(|(of, _)| changing && of == hash);
        match now.or(before) {
            None => Stood::Not,
            Some((_, None)) => Stood::Unread,
            Some((_, Some(value))) => Stood::Known(value),
        }
    }

    /// Whether something holds of what is in force, or was until a moment ago. What nobody can read holds.
    pub(super) fn holds(&self, place: Place, test: impl Fn(&T) -> bool) -> bool {
        let changing = place.ms.saturating_sub(self.since_ms) <= CHANGING_MS;
        let before = self.before.as_ref().filter(|_| changing);
        [self.now.as_ref(), before].into_iter().flatten().any(|(_, value)| value.as_ref().is_none_or(&test))
    }

    /// Both, to be kept up to date.
    pub(super) fn each(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.now, &mut self.before].into_iter().flatten().filter_map(|(_, value)| value.as_mut())
    }
}
