//! Numbers and sized fields as a TPM writes them: big-endian, a length in front of what has one.
//!
//! Reading is bounded: a field that says it is longer than what is there gives `None`, never a panic.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

/// Longest command or answer that a TPM knows, bytes.
pub const MAX_MESSAGE: usize = 4096;

/// Builds a message. Wiped when dropped: it may have held a PIN before it was encrypted.
pub struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// Room for the longest message is taken at once: a buffer that grows leaves copies of itself behind.
    #[must_use]
    pub fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(MAX_MESSAGE)))
    }

    /// One byte.
    #[must_use]
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Two bytes.
    #[must_use]
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes with their length in front (TPM2B). All callers stay far below 64 KiB; more would be cut, and refused.
    #[must_use]
    pub fn sized(self, bytes: &[u8]) -> Self {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX)).raw(bytes)
    }

    /// What was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What was written, to be encrypted in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Takes a message apart, from the front.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// That many bytes as they are.
    pub fn raw(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.raw(1)?.first().copied()
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.raw(2)?.first_chunk().map(|b| u16::from_be_bytes(*b))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.raw(4)?.first_chunk().map(|b| u32::from_be_bytes(*b))
    }

    /// Bytes with their length in front (TPM2B).
    pub fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.raw(length.into())
    }

    /// What is left.
    #[must_use]
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_longer_than_the_message_is_none() {
        let text = Writer::new().u16(7).sized(b"abc").u32(9).u8(1);
        let mut reader = Reader::new(text.bytes());
        assert_eq!(reader.u16(), Some(7));
        assert_eq!(reader.sized(), Some(&b"abc"[..]));
        assert_eq!(reader.u32(), Some(9));
        assert_eq!(reader.u16(), None);
        assert_eq!(Reader::new(&[0, 4, 1, 2, 3]).sized(), None);
        assert_eq!(Reader::new(&[]).u8(), None);
    }
}
