//! Health of a source of random bytes: the two tests of NIST SP 800-90B, section 4.4. [clause 8.7.2]
//!
//! A token hands out conditioned bytes, so they are held to eight bits of entropy each; with a chance of 2^-40 for a
//! false alarm per sample, a generator that is stuck or repeats itself is found within a few bytes, or one window.
#![forbid(unsafe_code)]

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Repetition count test: `1 + ceil(40 / 8)` equal bytes in a row.
const REPETITIONS: u32 = 6;
/// Adaptive proportion test: samples of a window, for sources of more than one bit.
const WINDOW: u32 = 512;
/// The least count `c` for which `P(X >= c) <= 2^-40`, with `X - 1` binomial (511, 2^-8).
const PROPORTION: u32 = 20;
/// Bytes that a source must give before any are used (SP 800-90B, 4.3).
pub const STARTUP: usize = 1024;
/// Most bytes of one request: HKDF gives 255 blocks.
pub const LONGEST: usize = 4096;

/// Why a source is not trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// The same byte over and over.
    Repetition,
    /// One byte far too often.
    Proportion,
}

impl fmt::Display for Unhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repetition => "it gave the same byte six times in a row",
            Self::Proportion => "it gave one byte twenty times in 512",
        })
    }
}

/// The state of both tests. A failure is final.
#[derive(Default)]
pub struct Health {
    failed: Option<Unhealthy>,
    last: Option<u8>,
    repeated: u32,
    sample: u8,
    seen: u32,
    same: u32,
}

impl Health {
    /// Tests the next bytes of the source.
    // [clause 8.7.2-c] a source that repeats itself gives nothing any more
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Unhealthy> {
        for byte in bytes {
            if self.failed.is_some() {
                break;
            }
            self.step(*byte);
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn step(&mut self, byte: u8) {
        self.repeated = if self.last == Some(byte) { self.repeated + 1 } else { 1 };
        self.last = Some(byte);
        if self.repeated >= REPETITIONS {
            self.failed = Some(Unhealthy::Repetition);
        }
        if self.seen == 0 {
            (self.sample, self.same) = (byte, 1);
        } else if byte == self.sample {
            self.same += 1;
            if self.same >= PROPORTION {
                self.failed = Some(Unhealthy::Proportion);
            }
        }
        self.seen = (self.seen + 1) % WINDOW;
    }
}

/// Bytes from a seed: HKDF-Expand (RFC 5869). `None` for a length that it does not give.
#[must_use]
pub fn expand(seed: &[u8; 32], length: usize) -> Option<Zeroizing<Vec<u8>>> {
    if length == 0 || length > LONGEST {
        return None;
    }
    let mut out = Zeroizing::new(vec![0; length]);
    Hkdf::<Sha256>::from_prk(seed).ok()?.expand(b"claviger random, version 1", &mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.7.2-c] test
    #[test]
    fn stuck_and_biased_sources_are_found_and_stay_found() {
        let mut stuck = Health::default();
        assert_eq!(stuck.feed(&[7; 5]), Ok(()));
        assert_eq!(stuck.feed(&[7]), Err(Unhealthy::Repetition));
        assert_eq!(stuck.feed(&[1, 2, 3]), Err(Unhealthy::Repetition), "a failure is final");

        let mut biased = Health::default();
        let every_tenth: Vec<u8> = (0..=u8::MAX)
            .cycle()
            .take(1024)
            .enumerate()
            .map(|(n, b)| if n % 10 == 0 { 9 } else { b })
            .collect();
        assert_eq!(biased.feed(&every_tenth), Err(Unhealthy::Proportion));

        let mut short = Health::default();
        let period_of_twenty: Vec<u8> = (0..20).cycle().take(512).collect();
        assert_eq!(short.feed(&period_of_twenty), Err(Unhealthy::Proportion));
    }

    #[test]
    fn a_good_source_passes_a_long_time() {
        let mut health = Health::default();
        let mut bytes = vec![0; 1 << 20];
        getrandom::fill(&mut bytes).unwrap();
        assert_eq!(health.feed(&bytes), Ok(()));
    }

    #[test]
    fn the_cutoff_is_the_least_that_keeps_false_alarms_below_one_in_two_to_the_forty() {
        // Tail of a binomial of 511 trials with p = 1/256, summed from above.
        let p = 1.0f64 / 256.0;
        let tail = |from: u32| -> f64 {
            (from..=511)
                .map(|k| {
                    let choose: f64 =
                        (0..k).map(|i| (f64::from(511 - i) / f64::from(k - i)).ln()).sum::<f64>();
                    (choose + f64::from(k) * p.ln() + f64::from(511 - k) * (1.0 - p).ln()).exp()
                })
                .sum()
        };
        let bound = (-40.0f64).exp2();
        assert!(tail(PROPORTION - 1) <= bound);
        assert!(tail(PROPORTION - 2) > bound);
    }

    #[test]
    fn expansion_is_rfc_5869_and_bounded() {
        assert!(expand(&[1; 32], 0).is_none());
        assert!(expand(&[1; 32], LONGEST + 1).is_none());
        let long = expand(&[1; 32], 100).unwrap();
        assert_eq!(expand(&[1; 32], 32).unwrap().as_slice(), &long[..32]);
        assert_ne!(expand(&[2; 32], 32).unwrap().as_slice(), &long[..32]);
    }
}
