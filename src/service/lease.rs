//! Leases: where the authority document asks for one, nothing is signed without. [clause 8.2.1]
#![forbid(unsafe_code)]

use std::sync::{MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::House;
use super::keys::now;
use crate::core::log::orders::OrderEvent;
use crate::core::order::lease::LeaseBook;
use crate::core::order::{LEASE, Lease, LeaseRequest, LeaseTerms, judge};
use crate::core::units::sha256;
use crate::refusal::{Code, Refusal};
use crate::store::EntryKind;
use crate::sys;

impl House {
    fn lease_terms(&self) -> Option<LeaseTerms> {
        self.rules().authority.as_ref().and_then(|a| a.orders()?.lease.clone())
    }

    fn lease_book(&self) -> MutexGuard<'_, LeaseBook> {
        self.orders.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a lease runs, where one is asked for.
    // [clause 8.2.1-d] cut off, the device stops by itself, and goes on by itself with a fresh lease
    pub(super) fn lease_runs(&self) -> Result<(), Refusal> {
        let rules = self.rules();
        let terms = rules.authority.as_ref().and_then(|a| a.orders()?.lease.as_ref()).filter(|t| t.required);
        let Some(terms) = terms else { return Ok(()) };
        let epoch = self.orders.gate().standing.epoch();
        let clock = sys::boot_clock_ms().map_err(|e| Refusal::new(Code::LeaseMissing, e.to_string()))?;
        match self.lease_book().left(terms, epoch, clock) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Code::LeaseMissing, "this device has no lease that runs")),
        }
    }

    /// Asks for a lease; the request that was open before is void.
    pub fn lease_request(&self) -> Result<Value, Refusal> {
        let (deployment, device) = self.device_id()?;
        if self.lease_terms().is_none() {
            let why = "[orders] of the authority document names no lease key: no lease is asked for";
            return Err(Refusal::new(Code::LeaseRefused, why));
        }
        let mut drawn = [0u8; 32];
        getrandom::fill(&mut drawn).map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let standing = &self.orders.gate().standing;
        let asked = sys::boot_clock_ms().map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let request = LeaseRequest {
            nonce: hex::encode(drawn),
            boot: self.orders.boot.clone(),
            epoch: standing.epoch(),
            asked,
        };
        let told = json!({
            "deployment": deployment,
            "device": device,
            "epoch": request.epoch,
            "boot": request.boot,
            "nonce": request.nonce,
            "level": standing.level(&crate::core::order::Scope::All),
            "latest": standing.last(),
            "version": env!("CARGO_PKG_VERSION"),
            "namespace": LEASE,
        });
        self.lease_book().ask(request);
        Ok(told)
    }

    /// Takes a lease that somebody carried here.
    pub(super) async fn take_lease(&self, text: &str, signatures: &[String]) -> Result<Value, Refusal> {
        let malformed = |why| Refusal::new(Code::OrderMalformed, format!("it is no lease: {why}"));
        let lease = Lease::parse(text).map_err(malformed)?;
        let (deployment, device) = self.device_id()?;
        judge::addressed(&lease.deployment, &lease.device, (&deployment, &device))?;
        let rules = self.rules();
        let ([signature], Some(authority)) = (signatures, rules.authority.as_ref()) else {
            return Err(Refusal::new(Code::OrderMalformed, "a lease bears one signature"));
        };
        let terms = judge::lease(authority, &lease, signature)?;
        let clock = sys::boot_clock_ms().map_err(|e| Refusal::new(Code::Internal, e.to_string()))?;
        let gate = self.orders.gate();
        let left = self.lease_book().take(&lease, &terms, clock, |order| gate.standing.knows(order))?;
        let entry = EntryKind::Order(OrderEvent::Leased {
            seconds: left / 1000,
            lease: hex::encode(sha256(text.as_bytes())),
        });
        self.store.append(entry).await.map_err(|e| self.store_refusal(&e))?;
        if let Some(off) = self.lease_book().clock_differs(now()) {
            tracing::warn!(
                "the clock of this machine is {} s behind that of the leases' issuer",
                -off / 1000
            );
        }
        Ok(json!({"lease": "taken", "seconds": left / 1000}))
    }

    /// Whether one is asked for, and how long it runs.
    pub(super) fn lease_status(&self) -> Value {
        let Some(terms) = self.lease_terms() else { return Value::Null };
        let epoch = self.orders.gate().standing.epoch();
        let left = sys::boot_clock_ms().ok().and_then(|clock| self.lease_book().left(&terms, epoch, clock));
        json!({
            "required": terms.required,
            "seconds_left": left.map(|ms| ms / 1000),
            "clock_behind_seconds": self.lease_book().clock_differs(now()).map(|off| -off / 1000),
        })
    }

    /// In how many milliseconds it is time to ask for another one; none where no lease is known of.
    pub(super) fn lease_due_in(&self) -> Option<u64> {
        self.lease_terms()?;
        let epoch = self.orders.gate().standing.epoch();
        Some(sys::boot_clock_ms().map_or(0, |clock| self.lease_book().due_in(epoch, clock)))
    }
}
