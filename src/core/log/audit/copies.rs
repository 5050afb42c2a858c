//! The copies of each key: none is forgotten when it is called destroyed, and what is certified is what the log tells.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::super::super::approval::text::ascii;
use super::super::super::key::State;
use super::super::super::key::copies::{CopyKind, is_certificate, told};
use super::super::copies::CopyEvent;
use super::lives::Lives;
use super::{Findings, Place, Rule};

/// One copy, as far as the log tells.
#[derive(Default)]
struct Told {
    due: bool,
    /// By whom, and how.
    gone: Option<(String, String)>,
}

/// The copies of one key.
#[derive(Default)]
pub(super) struct Copies {
    all: BTreeMap<(CopyKind, String), Told>,
    /// A bundle was made of it.
    pub(super) backed: bool,
    /// Where a certificate stands.
    certified: bool,
}

impl Copies {
    /// A copy that is not gone.
    pub(super) fn left(&self) -> Option<String> {
        let left = self.all.iter().find(|(_, told)| told.gone.is_none());
        left.map(|((what, place), _)| format!("{what} {place}"))
    }

    /// It was destroyed copy by copy, and nothing certifies that.
    pub(super) fn uncertified(&self) -> bool {
        !self.all.is_empty() && !self.certified
    }

    /// The lines of a certificate, as they must stand there; the times between are not told here.
    fn certifies(&self, text: &str) -> bool {
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("- ")).collect();
        lines.len() == self.all.len()
            && self.all.iter().all(|((what, place), told)| {
                let Some((by, how)) = &told.gone else { return false };
                let (head, tail) =
                    (format!("- {what} {} (", ascii(place)), format!(", {}: {}", ascii(by), ascii(how)));
                lines.iter().any(|l| l.starts_with(&head) && l.ends_with(&tail))
            })
    }
}

impl Lives {
    // [clause 8.7.1-p] a copy is noted, is to go, and goes, in this order; the auditor counts all of them
    pub(super) fn copy(&mut self, place: Place, event: CopyEvent, found: &mut Findings) {
        let mut wrong = |what: String| found.breach(Rule::KeyDestroyed, place.index, what);
        let (key, what, at) = match &event {
            CopyEvent::Noted { key, what, place: at, .. }
            | CopyEvent::Due { key, what, place: at, .. }
            | CopyEvent::Gone { key, what, place: at, .. }
            | CopyEvent::Overdue { key, what, place: at, .. } => (key, what, at),
            CopyEvent::Certified { key, text } => return self.certified(place, key, text, found),
        };
        let Some((state, destroying, copies)) = self.copies_of(key) else {
            return wrong(format!("there is a copy of key {key}, which was never made"));
        };
        let slot = (*what, at.clone());
        match &event {
            CopyEvent::Certified { .. } => {}
            CopyEvent::Noted { .. } if state == State::Destroyed => {
                wrong(format!("a copy of key {key} was noted after it was destroyed"));
            }
            CopyEvent::Noted { .. } => {
                copies.all.insert(slot, Told::default());
            }
            _ if !destroying => wrong(format!("a copy of key {key} was to go, and the key was not")),
            CopyEvent::Due { .. } => copies.all.entry(slot).or_default().due = true,
            CopyEvent::Gone { by, how, .. } => match copies.all.get_mut(&slot) {
                Some(told) if told.due && told.gone.is_none() => {
                    told.gone = Some((by.clone(), how.clone()));
                }
                _ => wrong(format!("the {what} {at} of key {key} is gone, and nothing was to go there")),
            },
            CopyEvent::Overdue { .. } => {
                if copies.all.get(&slot).is_none_or(|told| !told.due || told.gone.is_some()) {
                    wrong(format!("the {what} {at} of key {key} is overdue, and nothing was to go there"));
                }
            }
        }
    }

    // [clause 8.7.1-p] a certificate says what the entries before it say
    pub(super) fn certified(&mut self, place: Place, key: &str, text: &str, found: &mut Findings) {
        let public = told(text, "public").unwrap_or_default();
        let same = self.is_key(key, public) && told(text, "key") == Some(key);
        let right_behind = self.moved_at(key).is_some_and(|at| at.checked_add(1) == Some(place.index));
        let good = is_certificate(text)
            && same
            && right_behind
            && self.copies_of(key).is_some_and(|(state, _, copies)| {
                copies.certified = true;
                state == State::Destroyed && copies.certifies(text)
            });
        if !good {
            let what = format!("the certificate of key {key} does not say what the log says");
            found.breach(Rule::KeyDestroyed, place.index, what);
        }
    }
}
