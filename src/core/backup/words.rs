//! The words of SLIP-39, their checksum, and where a typing error is.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

/// The 1024 words, in their order (SLIP-0039, <https://github.com/satoshilabs/slips>). Four letters tell each apart.
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("wordlist.txt").lines().collect());

/// Words of the checksum.
pub(super) const CHECKSUM: usize = 3;

/// The word of an index below 1024.
pub(super) fn word(index: u16) -> &'static str {
    WORDS.get(usize::from(index)).copied().unwrap_or_default()
}

/// The index of a word that is written in full.
pub(super) fn index(word: &str) -> Option<u16> {
    WORDS.binary_search(&word).ok().and_then(|at| u16::try_from(at).ok())
}

/// The one word that was probably meant: with the same four letters, or one letter off.
pub(super) fn near(typed: &str) -> Option<&'static str> {
    let head = typed.get(..4);
    let mut close = WORDS.iter().filter(|w| w.get(..4) == head && head.is_some());
    if let (Some(word), None) = (close.next(), close.next()) {
        return Some(word);
    }
    let mut close = WORDS.iter().filter(|w| one_off(w.as_bytes(), typed.as_bytes()));
    match (close.next(), close.next()) {
        (Some(word), None) => Some(word),
        _ => None,
    }
}

/// Whether one letter was changed, added or left out, or two neighbours changed places.
fn one_off(word: &[u8], typed: &[u8]) -> bool {
    let same = word.iter().zip(typed).take_while(|(a, b)| a == b).count();
    let tail = |bytes: &[u8], from: usize| bytes.get(from..).map(<[u8]>::to_vec).unwrap_or_default();
    let (word, typed) = (tail(word, same), tail(typed, same));
    let swapped = match (word.as_slice(), typed.as_slice()) {
        ([a, b, rest @ ..], [c, d, other @ ..]) => a == d && b == c && rest == other,
        _ => false,
    };
    swapped || tail(&word, 1) == tail(&typed, 1) || tail(&word, 1) == typed || word == tail(&typed, 1)
}

/// One step of RS1024.
fn step(sum: u32, value: u16) -> u32 {
    const GENERATOR: [u32; 10] = [
        0x00e0_e040,
        0x01c1_c080,
        0x0383_8100,
        0x0707_0200,
        0x0e0e_0009,
        0x1c0c_2412,
        0x3808_6c24,
        0x3090_fc48,
        0x21b1_f890,
        0x03f3_f120,
    ];
    let high = sum >> 20;
    let shifted = ((sum & 0x000f_ffff) << 10) ^ u32::from(value);
    // The words are a secret: no branch on their bits.
    (0..)
        .zip(GENERATOR)
        .fold(shifted, |sum, (bit, term)| sum ^ (term & 0_u32.wrapping_sub((high >> bit) & 1)))
}

/// RS1024 of SLIP-39 over the customization string and the words: 1 when they belong together.
fn residue(custom: &[u8], indices: impl Iterator<Item = u16>) -> u32 {
    custom.iter().map(|b| u16::from(*b)).chain(indices).fold(1, step)
}

/// Whether the checksum at the end belongs to the words before it.
pub(super) fn verifies(custom: &[u8], indices: &[u16]) -> bool {
    residue(custom, indices.iter().copied()) == 1
}

/// The checksum to put behind the words.
pub(super) fn checksum(custom: &[u8], indices: &[u16]) -> [u16; CHECKSUM] {
    let sum = residue(custom, indices.iter().copied().chain([0; CHECKSUM])) ^ 1;
    [20, 10, 0].map(|shift| u16::try_from((sum >> shift) & 1023).unwrap_or(0))
}

/// Where the one wrong word is, counted from 1: the code tells up to one wrong word from all others.
pub(super) fn one_wrong(custom: &[u8], indices: &[u16]) -> Option<usize> {
    let wrong = residue(custom, indices.iter().copied()) ^ 1;
    // What each difference in one word comes to at the end; steps are linear, so that the other words do not matter.
    let mut comes_to: Vec<u32> = (0..1024).collect();
    for at in (1..=indices.len()).rev() {
        if comes_to.iter().skip(1).any(|sum| *sum == wrong) {
            return Some(at);
        }
        comes_to.iter_mut().for_each(|sum| *sum = step(*sum, 0));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_four_letters_tell_words_apart() {
        assert_eq!(WORDS.len(), 1024);
        assert!(WORDS.is_sorted());
        let mut heads: Vec<_> = WORDS.iter().map(|w| &w[..4]).collect();
        heads.dedup();
        assert_eq!(heads.len(), 1024);
        for (at, word) in WORDS.iter().enumerate() {
            assert_eq!(index(word).map(usize::from), Some(at));
        }
        assert_eq!((index("academi"), index("")), (None, None));
    }

    #[test]
    fn what_was_meant_is_found() {
        for (typed, meant) in
            [("academia", "academic"), ("acadmeic", "academic"), ("cademic", "academic"), ("zero", "zero")]
        {
            assert_eq!(near(typed), Some(meant), "{typed}");
        }
        assert_eq!((near("qqqqqq"), near("")), (None, None));
    }
}
