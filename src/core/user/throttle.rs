//! How often a PIN may be tried, and when. Pure: the count comes from the store, the time from a clock that runs on.
#![forbid(unsafe_code)]

/// Tries without a wait.
pub const FREE: u32 = 5;
/// Wrong tries after which a user is suspended; a document may say fewer. NIST SP 800-63B allows a hundred.
pub const MOST: u32 = 10;
/// The first wait, milliseconds; each one after it is twice as long.
const FIRST_MS: u64 = 30_000;
/// The longest wait.
const LONGEST_MS: u64 = 3_600_000;

/// Whether a try is taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It is.
    Open,
    /// Not before so many milliseconds are over.
    Wait(u64),
    /// Never again, until an operator has looked.
    Closed,
}

/// How long to wait after so many tries that were not right, milliseconds.
#[must_use]
pub fn delay(failed: u32) -> u64 {
    match failed.checked_sub(FREE) {
        None => 0,
        Some(beyond) => 1u64
            .checked_shl(beyond)
            .and_then(|n| n.checked_mul(FIRST_MS))
            .unwrap_or(LONGEST_MS)
            .min(LONGEST_MS),
    }
}

/// Whether the next try is taken. `since` is the time since the last try of this run of the daemon, or since the run
/// began where there was none: whoever restarts it waits once more in full.
// [clause 8.2.3-e] the count is asked first, so that no wait and no restart gives a try beyond the last
#[must_use]
pub fn gate(failed: u32, most: u32, since: u64) -> Gate {
    if failed >= most.min(MOST) {
        return Gate::Closed;
    }
    match delay(failed).checked_sub(since) {
        None | Some(0) => Gate::Open,
        Some(left) => Gate::Wait(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.3-e] test
    #[test]
    fn five_are_free_then_each_wait_doubles_and_the_eleventh_never_comes() {
        let waits: Vec<u64> = (0..11).map(|n| delay(n) / 1000).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 30, 60, 120, 240, 480, 960]);
        assert_eq!(delay(40), LONGEST_MS);
        assert_eq!(delay(u32::MAX), LONGEST_MS);
        assert_eq!(gate(4, MOST, 0), Gate::Open);
        assert_eq!(gate(5, MOST, 0), Gate::Wait(30_000));
        assert_eq!(gate(5, MOST, 29_999), Gate::Wait(1));
        assert_eq!(gate(5, MOST, 30_000), Gate::Open);
        assert_eq!(gate(9, MOST, u64::MAX), Gate::Open);
        for most in [10, 11, u32::MAX] {
            assert_eq!(gate(10, most, u64::MAX), Gate::Closed, "no document allows more");
        }
        assert_eq!(gate(3, 3, u64::MAX), Gate::Closed, "a document may allow fewer");
    }
}
