//! When a beacon is asked again: at once after an answer that it held, and never in a tight loop. [clause 8.2.1]
//!
//! Pure, in milliseconds. A beacon that holds its answers is asked without a pause, so that an order is on its way the
//! moment it is there; one that answers at once with nothing, or with something each time, sets no pace of its own.
#![forbid(unsafe_code)]

/// An answer that took this long was held: asking again at once is asking once a second at most.
const HELD_MS: u64 = 1000;
/// What a question at once after an answer at once costs, and how much of it is saved up: sixteen in a row, then one a second,
/// so that many orders one after the other are all there soon.
const COST_MS: u64 = 1000;
const SAVED_MS: u64 = 16 * COST_MS;
/// First and longest rest after a beacon that could not be asked: one that comes back is noticed within seconds.
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 5000;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An answer with an order or a lease in it.
    Carried,
    /// An answer without.
    Nothing,
    /// No answer.
    Failed,
}

/// How often one beacon is asked.
#[derive(Clone, Debug)]
pub struct Pace {
    every_ms: u64,
    failures: u32,
    /// Time that went by and was not spent on questions at once.
    saved_ms: u64,
}

/// `ms` and a fifth more or less, so that a fleet does not knock together.
fn spread(ms: u64, drawn: u8) -> u64 {
    ms * 4 / 5 + ms * 2 / 5 * u64::from(drawn) / 255
}

impl Pace {
    /// `every_ms` is the rest where the beacon holds nothing.
    #[must_use]
    pub fn new(every_ms: u64) -> Self {
        Self { every_ms, failures: 0, saved_ms: SAVED_MS }
    }

    /// How long to rest after an answer that took so long; `drawn` is random.
    #[must_use]
    pub fn rest(&mut self, asked: Asked, took_ms: u64, drawn: u8) -> u64 {
        if asked == Asked::Failed {
            let doubled = FIRST_MS << self.failures.min(8);
            self.failures = self.failures.saturating_add(1);
            // Half of it is drawn: those who lost the same beacon at once do not all come back at once.
            let longest = doubled.min(LONGEST_MS);
            return longest / 2 + longest / 2 * u64::from(drawn) / 255;
        }
        self.failures = 0;
        self.saved_ms = self.saved_ms.saturating_add(took_ms).min(SAVED_MS);
        if took_ms >= HELD_MS {
            return 0;
        }
        if asked == Asked::Carried {
            let rest = COST_MS.saturating_sub(self.saved_ms);
            self.saved_ms = self.saved_ms.saturating_sub(COST_MS);
            return rest;
        }
        let rest = spread(self.every_ms, drawn);
        self.saved_ms = self.saved_ms.saturating_add(rest).min(SAVED_MS);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.1-a] test
    #[test]
    fn what_is_held_is_asked_again_at_once_and_a_beacon_that_comes_back_is_noticed() {
        let mut pace = Pace::new(60_000);
        assert_eq!(pace.rest(Asked::Nothing, 15_000, 255), 0, "held to its end");
        assert_eq!(pace.rest(Asked::Carried, 40, 0), 0, "receipts go back at once");
        let mut before = 0;
        for n in 0..40 {
            let (least, most) = (pace.clone().rest(Asked::Failed, 3, 0), pace.rest(Asked::Failed, 3, 255));
            assert!(least >= FIRST_MS / 2 && most <= LONGEST_MS && least < most && most >= before, "{n}");
            before = most;
        }
        assert_eq!(before, LONGEST_MS);
        assert_eq!(pace.rest(Asked::Nothing, 15_000, 7), 0);
        assert_eq!(pace.rest(Asked::Failed, 3, 255), FIRST_MS, "it begins anew");
    }

    // [clause 8.2.1-a] test
    #[test]
    fn many_orders_one_after_the_other_leave_no_device_deaf() {
        let mut pace = Pace::new(60_000);
        let rests: Vec<u64> = (0..100).map(|_| pace.rest(Asked::Carried, 20, 255)).collect();
        assert!(rests.iter().take(16).all(|rest| *rest == 0), "{rests:?}");
        assert!(rests.iter().all(|rest| *rest <= COST_MS), "{rests:?}");
        // Orders and leases that come every second or so, each held for less: they never use it up.
        let mut pace = Pace::new(60_000);
        assert!((0..1000).all(|_| pace.rest(Asked::Carried, 700, 255) <= 300));
    }

    #[test]
    fn no_beacon_makes_this_device_ask_in_a_tight_loop() {
        let asks_in_an_hour = |asked, took: u64, every| {
            let (mut pace, mut clock, mut asks) = (Pace::new(every), 0, 0);
            while clock < 3_600_000 {
                clock += took + pace.rest(asked, took, 128);
                asks += 1;
            }
            asks
        };
        assert!(asks_in_an_hour(Asked::Nothing, 0, 60_000) <= 61, "nothing at once");
        let hostile = asks_in_an_hour(Asked::Carried, 0, 60_000);
        assert!(hostile <= 3600 + 17, "something at once, each time: {hostile}");
        assert!(asks_in_an_hour(Asked::Nothing, HELD_MS, 60_000) <= 3600);
        assert!(asks_in_an_hour(Asked::Failed, 0, 60_000) <= 1000);
    }
}
