//! What a worker was asked, for the log that its token keeps: the next worker must know, when this one dies.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use super::lock;
use super::message::Request;
use crate::token::audit::{Asked, Handover, Mark};
use crate::token::profile::Profile;

#[derive(Default)]
struct Page {
    mark: Option<Mark>,
    next: u64,
    asked: Vec<(u64, Asked)>,
    under_way: Vec<u64>,
    /// This worker has told how far it had read.
    told: bool,
}

/// What was asked since the token's log was last read, and may stand there. Empty for tokens without a log.
pub(super) struct Ledger(Option<Mutex<Page>>);

impl Ledger {
    /// What the worker before this one was asked stays asked until the log was read.
    pub(super) fn of(profile: &Profile, handover: &Handover) -> Self {
        Self(profile.own_log.then(|| {
            let asked = (0..).zip(handover.asked.iter().copied()).collect::<Vec<_>>();
            let next = asked.len() as u64;
            Mutex::new(Page { mark: handover.mark, next, asked, ..Page::default() })
        }))
    }

    pub(super) fn handover(&self) -> Handover {
        let Some(page) = &self.0 else { return Handover::default() };
        let page = lock(page);
        // A worker reads on by itself while it works.
        let unsure = !page.told || !page.asked.is_empty();
        Handover { mark: page.mark, asked: page.asked.iter().map(|(_, asked)| *asked).collect(), unsure }
    }

    /// Notes what is asked before it goes out.
    pub(super) fn begin(&self, request: &Request) -> Option<u64> {
        let asked = match request {
            // Of a secret key its check value is made anew.
            Request::Sign { .. } | Request::Mac { .. } | Request::Find(_) => Asked::Use,
            Request::Generate(_) => Asked::Make,
            Request::Destroy(_) => Asked::Remove,
            Request::KeepData { .. } => Asked::Keep,
            Request::Check => Asked::Check,
            _ => return None,
        };
        let mut page = lock(self.0.as_ref()?);
        let number = page.next;
        page.next += 1;
        page.asked.push((number, asked));
        page.under_way.push(number);
        Some(number)
    }

    /// It has ended, and is known to have been done or not.
    pub(super) fn over(&self, number: u64) {
        if let Some(page) = &self.0 {
            lock(page).under_way.retain(|n| *n != number);
        }
    }

    /// What has ended by now will have been read when the log was.
    pub(super) fn settled(&self) -> Vec<u64> {
        let Some(page) = &self.0 else { return Vec::new() };
        let page = lock(page);
        page.asked.iter().map(|(n, _)| *n).filter(|n| !page.under_way.contains(n)).collect()
    }

    /// The log was read up to the mark after all these had ended.
    pub(super) fn read(&self, settled: &[u64], mark: Option<Mark>) {
        if let Some(page) = &self.0 {
            let mut page = lock(page);
            page.asked.retain(|(n, _)| !settled.contains(n));
            page.mark = mark;
            page.told = true;
        }
    }
}
