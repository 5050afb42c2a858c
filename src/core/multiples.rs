//! Prepared multiples of one public point: what makes checking a key's signatures cheap after the first few.
//!
//! All of it is public, so that time may depend on it. A key is prepared when it has shown that it is used, and at most
//! [`MOST`] keys of a process are: 200 kB each, whatever the number of keys.
#![forbid(unsafe_code)]

use std::ops::Add;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Width of a digit, bits.
const WIDTH: usize = 6;
const DIGITS: usize = 256usize.div_ceil(WIDTH);
const PER_DIGIT: usize = (1 << WIDTH) - 1;
/// Most keys that are prepared.
const MOST: u32 = 64;
/// A key is prepared at this use: preparing costs about thirty checks.
const AFTER: u32 = 16;

static PREPARED: AtomicU32 = AtomicU32::new(0);

/// `k * 2^(6 i) * Q` for each digit position `i` and each `k` from 1 to 63, as affine points.
pub(super) struct Multiples<A>(Vec<A>);

impl<A: Copy> Multiples<A> {
    /// All multiples of `q`; `normalize` makes affine points of projective ones.
    fn new<P>(q: P, normalize: impl FnOnce(&[P]) -> Vec<A>) -> Self
    where
        P: Copy + Add<P, Output = P>,
    {
        let mut points = Vec::with_capacity(DIGITS * PER_DIGIT);
        let mut base = q;
        for _ in 0..DIGITS {
            let mut multiple = base;
            for _ in 0..PER_DIGIT {
                points.push(multiple);
                multiple = multiple + base;
            }
            base = multiple;
        }
        Self(normalize(&points))
    }

    /// `start + scalar * Q`; the scalar is big-endian.
    pub(super) fn add<P: Add<A, Output = P>>(&self, start: P, scalar: &[u8; 32]) -> P {
        let mut sum = start;
        for (row, position) in self.0.chunks_exact(PER_DIGIT).zip(0..) {
            let digit = digit(scalar, position);
            if let Some(multiple) = digit.checked_sub(1).and_then(|n| row.get(n)) {
                sum = sum + *multiple;
            }
        }
        sum
    }
}

/// Digit `position` of a big-endian number, the lowest being 0.
fn digit(scalar: &[u8; 32], position: usize) -> usize {
    let bit = position * WIDTH;
    let byte = |n: usize| scalar.iter().rev().nth(n).copied().map_or(0, usize::from);
    let pair = byte(bit / 8) | (byte(bit / 8 + 1) << 8);
    (pair >> (bit % 8)) & PER_DIGIT
}

/// The multiples of a key, made once it has been used often enough.
pub(super) struct Prepared<A> {
    uses: AtomicU32,
    multiples: OnceLock<Multiples<A>>,
}

impl<A: Copy> Prepared<A> {
    pub(super) fn new() -> Self {
        Self { uses: AtomicU32::new(0), multiples: OnceLock::new() }
    }

    /// The multiples, when this key has them by now.
    pub(super) fn get<P>(&self, q: P, normalize: impl FnOnce(&[P]) -> Vec<A>) -> Option<&Multiples<A>>
    where
        P: Copy + Add<P, Output = P>,
    {
        if let Some(multiples) = self.multiples.get() {
            return Some(multiples);
        }
        // Only the use that reaches the number prepares: the others go on without.
        let uses = self.uses.fetch_add(1, Ordering::Relaxed);
        if uses != AFTER || PREPARED.fetch_add(1, Ordering::Relaxed) >= MOST {
            return None;
        }
        Some(self.multiples.get_or_init(|| Multiples::new(q, normalize)))
    }

    #[cfg(test)]
    pub(super) fn now<P>(&self, q: P, normalize: impl FnOnce(&[P]) -> Vec<A>)
    where
        P: Copy + Add<P, Output = P>,
    {
        self.multiples.get_or_init(|| Multiples::new(q, normalize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn digits_put_together_are_the_number() {
        let number: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7 + 3).unwrap());
        let mut back = [0u8; 40];
        for position in 0..DIGITS {
            let d = digit(&number, position);
            for bit in 0..WIDTH {
                let place = position * WIDTH + bit;
                back[place / 8] |= u8::try_from((d >> bit) & 1).unwrap() << (place % 8);
            }
        }
        back[..32].reverse();
        assert_eq!((&back[..32], &back[32..]), (&number[..], &[0u8; 8][..]));
    }

    macro_rules! agrees {
        ($curve:ident, $seed:expr, $scalar:expr) => {{
            use $curve::elliptic_curve::Group;
            use $curve::elliptic_curve::group::Curve;
            use $curve::elliptic_curve::ops::Reduce;
            use $curve::{AffinePoint, FieldBytes, ProjectivePoint, Scalar};
            let q = ProjectivePoint::generator()
                * <Scalar as Reduce<FieldBytes>>::reduce(&FieldBytes::from($seed));
            let scalar = <Scalar as Reduce<FieldBytes>>::reduce(&FieldBytes::from($scalar));
            let multiples: Multiples<AffinePoint> =
                Multiples::new(q, |points| points.iter().map(Curve::to_affine).collect());
            let sum = multiples.add(ProjectivePoint::GENERATOR, &scalar.to_bytes().into());
            prop_assert_eq!(sum, ProjectivePoint::GENERATOR + q * scalar);
        }};
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_the_librarys_multiplication(seed in any::<[u8; 32]>(), scalar in any::<[u8; 32]>()) {
            agrees!(k256, seed, scalar);
            agrees!(p256, seed, scalar);
        }
    }
}
