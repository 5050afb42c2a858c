//! The field with 256 elements of SLIP-39 (that of AES), without tables and without branches on secrets.
#![forbid(unsafe_code)]

use std::hint::black_box;

/// All ones for an odd number, else zero; the optimiser does not see that it is one of two.
fn mask(bit: u8) -> u8 {
    black_box(0_u8.wrapping_sub(bit & 1))
}

/// The product modulo `x^8 + x^4 + x^3 + x + 1`.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    let (mut left, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= left & mask(b >> bit);
        left = (left << 1) ^ (0x1b & mask(left >> 7));
    }
    product
}

/// `a^254`: the inverse, and zero for zero.
pub(super) fn inverse(a: u8) -> u8 {
    let mut power = a;
    for _ in 0..6 {
        power = mul(mul(power, power), a);
    }
    mul(power, power)
}

/// The value at `x` of the polynomial through `points` of distinct coordinates, byte by byte into `out`.
pub(super) fn interpolate(points: &[(u8, &[u8])], x: u8, out: &mut [u8]) {
    out.fill(0);
    for (at, value) in points {
        // Coordinates are no secret: only values are.
        let (mut over, mut under) = (1, 1);
        for (other, _) in points.iter().filter(|(other, _)| other != at) {
            over = mul(over, x ^ other);
            under = mul(under, at ^ other);
        }
        let basis = mul(over, inverse(under));
        for (to, from) in out.iter_mut().zip(value.iter()) {
            *to ^= mul(*from, basis);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_product_and_every_inverse_is_that_of_the_schoolbook() {
        let slow = |a: u8, b: u8| {
            let mut wide = 0_u16;
            for bit in 0..8 {
                if b & (1 << bit) != 0 {
                    wide ^= u16::from(a) << bit;
                }
            }
            for bit in (8..16).rev() {
                if wide & (1 << bit) != 0 {
                    wide ^= 0x11b << (bit - 8);
                }
            }
            u8::try_from(wide).unwrap()
        };
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow(a, b));
            }
            assert_eq!(mul(a, inverse(a)), u8::from(a != 0));
        }
    }
}
