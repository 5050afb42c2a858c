//! Time that people are given, as it really went by: counted while the daemon was there to hear a no, on a clock that nobody
//! sets, and told by the log.
//!
//! The wall clock says when something was written down. How much time lies between two entries is what the log counted
//! between them: a clock that was set ahead adds nothing to it, and neither does a machine that was switched off.
#![forbid(unsafe_code)]

use super::units::Timestamp;

/// What the log counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elapsed {
    /// When it was written down, by the log's own time, and the count; both never fall.
    points: Vec<(Timestamp, i64)>,
}

impl Elapsed {
    /// The log tells the count. `false` when it falls, or is not dated after the one before, as it is in an honest log.
    pub fn told(&mut self, at: Timestamp, counted_ms: i64) -> bool {
        let (last_at, last) = self.points.last().copied().unwrap_or((at, counted_ms));
        let later = self.points.is_empty() || at > last_at;
        let good = counted_ms >= last && counted_ms >= 0 && later;
        if good {
            self.points.push((at, counted_ms));
        }
        good
    }

    /// The count as it stands; nothing before the log began to count.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.points.last().map_or(0, |point| point.1)
    }

    /// Whether the log counts at all: older ones do not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// How much is sure to have gone by since something that the log dates so. Before it began to count, its dates are
    /// all there is.
    // [clause 8.8-c] between two dates lies what was counted, however far apart a wall clock put them
    #[must_use]
    pub fn since(&self, date: Timestamp, now: Timestamp) -> i64 {
        let between = |from: Timestamp, to: Timestamp| to.0.saturating_sub(from.0).max(0);
        let Some((first_at, first)) = self.points.first().copied() else { return between(date, now) };
        let total = self.total();
        if date < first_at {
            return total.saturating_sub(first).saturating_add(between(date, first_at));
        }
        // What is dated between two counts is taken to be of the later one: never too much. Each count is dated after all
        // that stands before it, so that what bears its very date stands behind it.
        let at = self.points.partition_point(|point| point.0 <= date);
        self.points.get(at).map_or(0, |point| total.saturating_sub(point.1))
    }

    /// How many counts are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Takes back what was told after so many: the commit that was to hold it failed.
    pub fn forget_after(&mut self, len: usize) {
        self.points.truncate(len);
    }
}

/// The count of one run: what the log said when it began, and what a clock that nobody sets measured since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    before_ms: i64,
    began_ms: u64,
}

impl Counter {
    /// Goes on from what the log said last. What lies in between was counted by nobody.
    // [clause 8.8-c] a time in which nobody could say no is no time for a veto
    #[must_use]
    pub fn go_on(told_ms: i64, steady_ms: u64) -> Self {
        Self { before_ms: told_ms.max(0), began_ms: steady_ms }
    }

    /// The count, given the steady clock. That clock falls in a copy of a machine alone, where nothing is added.
    #[must_use]
    pub fn at(self, steady_ms: u64) -> i64 {
        let run = i64::try_from(steady_ms.saturating_sub(self.began_ms)).unwrap_or(i64::MAX);
        self.before_ms.saturating_add(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: i64 = 86_400_000;

    fn counted(points: &[(i64, i64)]) -> Elapsed {
        let mut elapsed = Elapsed::default();
        for (at, count) in points {
            assert!(elapsed.told(Timestamp(*at), *count));
        }
        elapsed
    }

    // [clause 8.8-c] test
    #[test]
    fn a_clock_that_is_set_ahead_adds_nothing() {
        // Half an hour was counted, while the wall clock went two days ahead.
        let elapsed = counted(&[(0, 0), (600_000, 600_000), (2 * DAY, 1_800_000)]);
        let now = Timestamp(2 * DAY);
        assert_eq!(elapsed.since(Timestamp(-1), now), 1_800_001);
        assert_eq!(elapsed.since(Timestamp(599_999), now), 1_200_000);
        assert_eq!(
            elapsed.since(Timestamp(600_000), now),
            0,
            "it stands behind the count that bears its date"
        );
        assert_eq!(elapsed.since(Timestamp(700_000), now), 0, "between two counts the later one is taken");
        assert_eq!(elapsed.since(now, now), 0);
        assert_eq!(elapsed.since(Timestamp(3 * DAY), Timestamp(9 * DAY)), 0, "nothing was counted since");
        // An older log goes by its dates, and by the count from there on.
        assert_eq!(Elapsed::default().since(Timestamp(5), Timestamp(9)), 4);
        assert_eq!(Elapsed::default().since(Timestamp(9), Timestamp(5)), 0);
        assert_eq!(counted(&[(100, 0), (DAY, 7)]).since(Timestamp(40), Timestamp(DAY)), 67);
    }

    #[test]
    fn a_count_never_falls_and_a_commit_that_failed_is_taken_back() {
        let mut elapsed = counted(&[(10, 5)]);
        assert!(!elapsed.told(Timestamp(20), 4) && !elapsed.told(Timestamp(10), 6));
        assert!(!Elapsed::default().told(Timestamp(1), -1));
        let (before, len) = (elapsed.clone(), elapsed.len());
        assert!(elapsed.told(Timestamp(11), 8) && elapsed.told(Timestamp(30), 9));
        assert_eq!(elapsed.total(), 9);
        elapsed.forget_after(len);
        assert_eq!(elapsed, before);
        elapsed.forget_after(0);
        assert!(elapsed.is_empty());
    }

    /// What happens to a machine.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The daemon is there for so long, and writes the count down, or dies before.
        Runs(u32, bool),
        /// The machine, or the daemon, is down for so long; the steady clock begins anew.
        Down(u32, bool),
        /// Somebody sets the wall clock.
        Sets(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..1_000_000u32, any::<bool>()).prop_map(|(ms, kept)| Step::Runs(ms, kept)),
            (0..1_000_000u32, any::<bool>()).prop_map(|(ms, boot)| Step::Down(ms, boot)),
            (-3 * DAY..3 * DAY).prop_map(Step::Sets),
        ]
    }

    proptest! {
        // [clause 8.8-c] test
        #[test]
        fn the_count_is_never_more_than_the_time_that_the_daemon_was_there(
            steps in proptest::collection::vec(step(), 0..40))
        {
            let (mut elapsed, mut log_ms, mut wall, mut steady) = (Elapsed::default(), 0, 1000 * DAY, 77u64);
            let mut counter = Counter::go_on(0, steady);
            // What is dated, with the time that the daemon was there since.
            let mut dated: Vec<(Timestamp, i64)> = Vec::new();
            let mut there = 0i64;
            for step in steps {
                match step {
                    Step::Runs(ms, kept) => {
                        (wall, steady) = (wall + i64::from(ms), steady + u64::from(ms));
                        there += i64::from(ms);
                        // The log's own time never falls.
                        log_ms = wall.max(log_ms);
                        dated.push((Timestamp(log_ms), there));
                        if kept {
                            log_ms += 1;
                            prop_assert!(elapsed.told(Timestamp(log_ms), counter.at(steady)));
                        }
                    }
                    Step::Down(ms, boot) => {
                        wall += i64::from(ms);
                        steady = if boot { 3 } else { steady + u64::from(ms) };
                        counter = Counter::go_on(elapsed.total(), steady);
                    }
                    Step::Sets(by) => wall += by,
                }
                prop_assert!(elapsed.total() <= there);
                prop_assert!(counter.at(steady) <= there && counter.at(steady) >= elapsed.total());
                for (date, at) in &dated {
                    let first = elapsed.points.first().map_or(Timestamp(i64::MAX), |p| p.0);
                    // Before the first count the dates are believed.
                    if *date > first {
                        prop_assert!(elapsed.since(*date, Timestamp(log_ms)) <= there - at);
                    }
                }
            }
        }
    }
}
