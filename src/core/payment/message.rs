//! EIP-191 personal messages (version 0x45). The prefix keeps them apart from every transaction.
#![forbid(unsafe_code)]

use crate::core::units::keccak256;
use crate::core::verify::CheckedSignature;

/// Longest message, bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// A message longer than [`MAX_MESSAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is longer than 65536 bytes")]
pub struct TooLong;

/// A message to be signed under EIP-191.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonalMessage(Vec<u8>);

impl PersonalMessage {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > MAX_MESSAGE { Err(TooLong) } else { Ok(Self(bytes)) }
    }

    /// Length, bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keccak-256 of prefix, decimal length and message.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut text = format!("\x19Ethereum Signed Message:\n{}", self.0.len()).into_bytes();
        text.extend_from_slice(&self.0);
        keccak256(&text)
    }

    /// `r || s || v`, v = 27 or 28.
    #[must_use]
    pub fn signature_bytes(&self, signature: &CheckedSignature) -> Vec<u8> {
        let mut out = Vec::with_capacity(65);
        out.extend_from_slice(&signature.r());
        out.extend_from_slice(&signature.s());
        out.push(27 + u8::from(signature.y_odd()));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_known_example() {
        // eth_account: encode_defunct(text="hello world")
        let message = PersonalMessage::new(b"hello world".to_vec()).unwrap();
        assert_eq!(
            hex::encode(message.hash()),
            "d9eba16ed0ecae432b71fe008c98cc872bb4cc214d3220a36f365326cf807d68"
        );
        assert!(PersonalMessage::new(vec![0; MAX_MESSAGE + 1]).is_err());
    }
}
