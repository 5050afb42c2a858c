//! Leases: short permissions, so that a device that is cut off stops by itself. [clause 8.2.1]
//!
//! Time is that of the machine since it was switched on, sleep included, and counts from when the lease was *asked for*:
//! an answer that is held back gains nothing. No wall clock lengthens one.
#![forbid(unsafe_code)]

use super::LeaseTerms;
use super::text::{digest, fields, hex32, moment, number, render};
use crate::core::units::Timestamp;
use crate::refusal::{Code, Refusal};

/// The first line.
pub const TITLE: &str = "clavigerd lease v1";
const FIELDS: [&str; 8] =
    ["deployment", "device", "epoch", "boot", "nonce", "seconds", "latest order", "issued"];
/// A wall clock that differs from the lease's by more than this is told, milliseconds.
pub const DIFFERS_MS: i64 = 300_000;

/// A permission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// As the authority document names it.
    pub deployment: String,
    /// Device id, hex.
    pub device: String,
    /// Of the device, when it asked.
    pub epoch: u32,
    /// Boot id of its kernel.
    pub boot: String,
    /// Drawn by the device for this once, hex.
    pub nonce: String,
    /// How long, from when it was asked for.
    pub seconds: u64,
    /// SHA-256 of the newest order that the issuer knows, hex: no lease goes past an order.
    pub latest: Option<String>,
    /// When it was written, by the issuer's clock.
    pub issued: Timestamp,
}

fn is_boot(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

impl Lease {
    /// The text that is signed.
    #[must_use]
    pub fn render(&self) -> String {
        let values = [
            self.deployment.clone(),
            self.device.clone(),
            self.epoch.to_string(),
            self.boot.clone(),
            self.nonce.clone(),
            self.seconds.to_string(),
            self.latest.as_ref().map_or_else(|| "none".to_owned(), |h| format!("sha256:{h}")),
            self.issued.to_string(),
        ];
        let named: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
        render(TITLE, &named)
    }

    /// Reads a text; anything but the very bytes of [`Self::render`] is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let [deployment, device, epoch, boot, nonce, seconds, latest, issued] = fields(text, TITLE, FIELDS)?;
        let read = Self {
            deployment: deployment.to_owned(),
            device: hex32(device).ok_or("its device is no 64 hex digits")?,
            epoch: number(epoch).and_then(|n| u32::try_from(n).ok()).ok_or("its epoch is no number")?,
            boot: Some(boot).filter(|b| is_boot(b)).ok_or("its boot is no boot id")?.to_owned(),
            nonce: hex32(nonce).ok_or("its nonce is no 64 hex digits")?,
            seconds: number(seconds).ok_or("its seconds are no number")?,
            latest: match latest {
                "none" => None,
                hash => Some(digest(hash).ok_or("its latest order is neither none nor sha256:HASH")?),
            },
            issued: moment(issued).ok_or("its issued is no time such as 2026-01-31T12:00:00.000Z")?,
        };
        if read.render() == text { Ok(read) } else { Err("it is not written as leases are".into()) }
    }
}

/// What a device asks for a lease with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Drawn for this once, hex.
    pub nonce: String,
    /// Boot id of the kernel.
    pub boot: String,
    /// The device's epoch.
    pub epoch: u32,
    /// Milliseconds since the machine was switched on, when it was asked.
    pub asked: u64,
}

/// How long a lease runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Running {
    until: u64,
    length: u64,
    epoch: u32,
    issued: Timestamp,
}

/// What a device holds: nothing of it survives the machine, and a restart asks anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseBook {
    open: Option<LeaseRequest>,
    running: Option<Running>,
}

impl LeaseBook {
    /// A request was made; it takes the place of one before it.
    pub fn ask(&mut self, request: LeaseRequest) {
        self.open = Some(request);
    }

    /// The request that is open.
    #[must_use]
    pub fn open(&self) -> Option<&LeaseRequest> {
        self.open.as_ref()
    }

    /// Takes a lease whose signature was checked; gives for how many milliseconds from now on it runs.
    // [clause 8.2.1-d] for the nonce of this boot alone, once, and no longer than the authority document says
    pub fn take(
        &mut self,
        lease: &Lease,
        terms: &LeaseTerms,
        now: u64,
        knows: impl Fn(&str) -> bool,
    ) -> Result<u64, Refusal> {
        let refuse = |why: String| Err(Refusal::new(Code::LeaseRefused, why));
        let Some(asked) = &self.open else {
            return refuse("this device waits for no lease, or had the answer already".into());
        };
        if lease.nonce != asked.nonce || lease.boot != asked.boot {
            return refuse("it answers another request than the last one of this boot".into());
        }
        if lease.epoch != asked.epoch {
            return refuse(format!("it is for epoch {}, and this is epoch {}", lease.epoch, asked.epoch));
        }
        if let Some(latest) = lease.latest.as_ref().filter(|latest| !knows(latest)) {
            return refuse(format!("its issuer knows order {latest}, which has not arrived here"));
        }
        let length = lease.seconds.checked_mul(1000).filter(|ms| *ms <= terms.max_ttl_ms);
        let Some(length) = length else {
            return refuse(format!(
                "{} s are more than the {} s of the authority document",
                lease.seconds,
                terms.max_ttl_ms / 1000
            ));
        };
        let until = asked.asked.saturating_add(length);
        if until <= now {
            return refuse("its time is over: the answer took longer than it lasts".into());
        }
        self.running = Some(Running { until, length, epoch: lease.epoch, issued: lease.issued });
        self.open = None;
        Ok(until - now)
    }

    /// How long signing may go on, milliseconds; none when it may not.
    // [clause 8.2.1-d] the end comes by itself, on a clock that nobody sets
    #[must_use]
    pub fn left(&self, terms: &LeaseTerms, epoch: u32, now: u64) -> Option<u64> {
        let running = self.running.as_ref().filter(|r| r.epoch == epoch)?;
        running.until.saturating_add(terms.grace_ms).checked_sub(now).filter(|left| *left > 0)
    }

    /// In how many milliseconds it is time to ask for another one: when half of what was given is over, or nothing runs.
    #[must_use]
    pub fn due_in(&self, epoch: u32, now: u64) -> u64 {
        let running = self.running.as_ref().filter(|r| r.epoch == epoch);
        running.map_or(0, |r| (r.until - r.length / 2).saturating_sub(now))
    }

    /// How far the wall clock is from the issuer's, when that is worth telling; negative when it is behind.
    #[must_use]
    pub fn clock_differs(&self, wall: Timestamp) -> Option<i64> {
        let off = wall.0.saturating_sub(self.running.as_ref()?.issued.0);
        // Ahead is what it is while a lease runs; only behind tells of a clock that was set back.
        (off < -DIFFERS_MS).then_some(off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::approval::sshsig::SshKey;

    fn terms() -> LeaseTerms {
        let line = include_str!("../../../tests/vectors/sshsig/alice.pub");
        LeaseTerms { key: SshKey::parse(line).unwrap(), max_ttl_ms: 60_000, grace_ms: 5_000, required: true }
    }

    fn request(nonce: char, asked: u64) -> LeaseRequest {
        let boot = "0123abcd-0000-0000-0000-000000000000".to_owned();
        LeaseRequest { nonce: nonce.to_string().repeat(64), boot, epoch: 1, asked }
    }

    fn answer(request: &LeaseRequest, seconds: u64) -> Lease {
        Lease {
            deployment: "d".into(),
            device: "a".repeat(64),
            epoch: request.epoch,
            boot: request.boot.clone(),
            nonce: request.nonce.clone(),
            seconds,
            latest: None,
            issued: Timestamp(1_700_000_000_000),
        }
    }

    // [clause 8.2.1-d] test
    #[test]
    fn a_lease_runs_from_when_it_was_asked_for_and_answers_one_request_once() {
        let (terms, first) = (terms(), request('1', 1_000));
        let mut book = LeaseBook::default();
        let take = |book: &mut LeaseBook, lease: &Lease, now| {
            book.take(lease, &terms, now, |_| false).map_err(|r| r.code)
        };
        let refused = Err(Code::LeaseRefused);
        assert_eq!(take(&mut book, &answer(&first, 60), 2_000), refused, "nobody asked");
        book.ask(first.clone());
        assert_eq!(take(&mut book, &answer(&first, 61), 2_000), refused, "longer than the terms");
        assert_eq!(take(&mut book, &answer(&first, u64::MAX), 2_000), refused);
        assert_eq!(take(&mut book, &answer(&request('2', 0), 60), 2_000), refused, "another nonce");
        let mut other = answer(&first, 60);
        other.boot = "ffffffff-0000-0000-0000-000000000000".into();
        assert_eq!(take(&mut book, &other, 2_000), refused, "another boot");
        let mut later = answer(&first, 60);
        later.latest = Some("e".repeat(64));
        assert_eq!(take(&mut book, &later, 2_000), refused, "an order is on its way");
        assert_eq!(take(&mut book, &answer(&first, 60), 61_000), refused, "held back until it was over");
        assert_eq!(take(&mut book, &answer(&first, 60), 31_000), Ok(30_000), "held back for half of it");
        assert_eq!(take(&mut book, &answer(&first, 60), 31_000), refused, "twice");
        assert_eq!(book.left(&terms, 1, 60_999), Some(5_001));
        assert_eq!(book.left(&terms, 1, 65_999), Some(1), "the grace");
        assert_eq!(book.left(&terms, 1, 66_000), None);
        assert_eq!(book.left(&terms, 2, 31_000), None, "after a reactivation it asks anew");
        book.ask(request('2', 70_000));
        take(&mut book, &answer(&request('2', 70_000), 60), 70_001).unwrap();
        assert_eq!(book.left(&terms, 1, 70_001), Some(64_999), "it resumes by itself");
        assert_eq!((book.due_in(1, 70_001), book.due_in(1, 99_999), book.due_in(1, 100_000)), (29_999, 1, 0));
        assert_eq!((book.due_in(2, 70_001), LeaseBook::default().due_in(1, 0)), (0, 0), "nothing runs");
        // Only a clock that was set back is strange; none of them counts.
        assert_eq!(book.clock_differs(Timestamp(1_700_000_000_000 - 600_000)), Some(-600_000));
        assert_eq!(book.clock_differs(Timestamp(1_900_000_000_000)), None);
    }

    #[test]
    fn a_lease_reads_as_it_was_written() {
        let lease = answer(&request('3', 0), 14_400);
        assert_eq!(Lease::parse(&lease.render()), Ok(lease.clone()));
        for (from, to) in [
            ("seconds: 14400", "seconds: 14400.0"),
            ("boot: 0", "boot: G"),
            ("latest order: none", "latest order: "),
        ] {
            assert!(Lease::parse(&lease.render().replace(from, to)).is_err(), "{to}");
        }
    }
}
