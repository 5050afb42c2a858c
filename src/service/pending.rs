//! Requests that an app does not want to wait for: it gets an id, asks for the outcome later, or cancels.
//!
//! Bounded, and forgotten ten minutes after they end; the log and the same-payload rule keep the outcome for good.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::sign::Signed;
use crate::core::proof::RequestId;
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};

/// Most requests that are kept.
const MOST: usize = 4096;
/// How long an outcome can be asked for.
const KEPT: Duration = Duration::from_secs(600);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const CANCELLED: u8 = 2;

/// Lets a request be cancelled until its reservation begins.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicU8>);

impl Cancel {
    /// Past this point nothing can be cancelled; refuses when it was cancelled before.
    pub(super) fn begin(&self) -> Result<(), Refusal> {
        match self.0.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(BEGUN) => Ok(()),
            Err(_) => Err(Refusal::new(Code::Cancelled, "the request was cancelled before it was reserved")),
        }
    }

    fn cancel(&self) -> bool {
        self.0.compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

type Outcome = Option<Result<Signed, Refusal>>;

struct Slot {
    app: Name,
    cancel: Cancel,
    outcome: watch::Receiver<Outcome>,
    ended: Option<Instant>,
}

/// The table of requests that run in the background.
#[derive(Default)]
pub struct Pending(Mutex<HashMap<RequestId, Slot>>);

impl Pending {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<RequestId, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a slot; the sender tells the outcome.
    pub fn open(&self, request: RequestId, app: Name) -> Result<(Cancel, watch::Sender<Outcome>), Refusal> {
        let mut slots = self.slots();
        let now = Instant::now();
        for slot in slots.values_mut() {
            if slot.ended.is_none() && slot.outcome.borrow().is_some() {
                slot.ended = Some(now);
            }
        }
        slots.retain(|_, s| s.ended.is_none_or(|at| now.duration_since(at) < KEPT));
        if slots.len() >= MOST {
            return Err(Refusal::new(Code::Busy, format!("{MOST} requests are being waited for")));
        }
        let (tell, outcome) = watch::channel(None);
        let cancel = Cancel::default();
        slots.insert(request, Slot { app, cancel: cancel.clone(), outcome, ended: None });
        Ok((cancel, tell))
    }

    fn of(&self, request: RequestId, app: &Name) -> Result<(Cancel, watch::Receiver<Outcome>), Refusal> {
        self.slots()
            .get(&request)
            .filter(|s| &s.app == app)
            .map(|s| (s.cancel.clone(), s.outcome.clone()))
            .ok_or_else(|| {
                Refusal::new(
                    Code::RequestUnknown,
                    format!("{request} is no request of this app that can be waited for"),
                )
            })
    }

    /// Waits for the outcome; `None` when it is still pending after `patience`.
    pub async fn wait(&self, request: RequestId, app: &Name, patience: Duration) -> Result<Outcome, Refusal> {
        let (_, mut outcome) = self.of(request, app)?;
        match tokio::time::timeout(patience, outcome.wait_for(Option::is_some)).await {
            Err(_) => Ok(None),
            Ok(Ok(told)) => Ok(told.clone()),
            Ok(Err(_)) => Err(Refusal::new(Code::Internal, "the request ended without an outcome")),
        }
    }

    /// Cancels when nothing was reserved yet; says whether it did.
    pub fn cancel(&self, request: RequestId, app: &Name) -> Result<bool, Refusal> {
        Ok(self.of(request, app)?.0.cancel())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.4.3-b] test
    #[tokio::test]
    async fn cancelling_works_until_the_reservation_and_only_for_its_app() {
        let pending = Pending::default();
        let (me, other) = (Name::parse("me").unwrap(), Name::parse("other").unwrap());
        let (cancel, tell) = pending.open(RequestId(1), me.clone()).unwrap();
        assert_eq!(pending.cancel(RequestId(1), &other).unwrap_err().code, Code::RequestUnknown);
        assert!(pending.wait(RequestId(1), &me, Duration::from_millis(5)).await.unwrap().is_none());
        assert!(pending.cancel(RequestId(1), &me).unwrap());
        assert_eq!(cancel.begin().unwrap_err().code, Code::Cancelled);
        let (cancel, _tell) = pending.open(RequestId(2), me.clone()).unwrap();
        cancel.begin().unwrap();
        assert!(!pending.cancel(RequestId(2), &me).unwrap());
        tell.send_replace(Some(Err(Refusal::new(Code::Cancelled, "x"))));
        assert!(pending.wait(RequestId(1), &me, Duration::from_secs(1)).await.unwrap().is_some());
    }
}
