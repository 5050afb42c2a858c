//! Secrets: zeroized on drop, never printed, never copied.
//!
//! Decides nothing; guarantees that a value of these types has no `Debug`, `Display`, `Clone`, `Copy`,
//! `PartialEq` or `Serialize` (the doctests below would compile otherwise). [clause 8.2.5]
//!
//! ```compile_fail
//! let pin = claviger::secret::Pin::new("1234".to_owned()).unwrap();
//! println!("{pin:?}");
//! ```
//! ```compile_fail
//! let pin = claviger::secret::Pin::new("1234".to_owned()).unwrap();
//! let _again = pin.clone();
//! ```
#![forbid(unsafe_code)]

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest PIN or passphrase that is accepted, in bytes.
pub const MAX_PIN_BYTES: usize = 1024;

/// The user PIN of a token, or the passphrase of the embedded one.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Pin(Vec<u8>);

impl Pin {
    /// Takes the text over, without a trailing newline; `None` when it is empty or over [`MAX_PIN_BYTES`].
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let mut bytes = text.into_bytes();
        while matches!(bytes.last(), Some(b'\n' | b'\r')) {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.len() > MAX_PIN_BYTES {
            bytes.zeroize();
            return None;
        }
        Some(Self(bytes))
    }

    /// Takes bytes that were a [`Pin`] before; the caller wipes its own.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (!bytes.is_empty() && bytes.len() <= MAX_PIN_BYTES).then(|| Self(bytes.to_vec()))
    }

    /// The bytes, for the one call that hands them to the token.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Secret bytes of a fixed size.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretBytes<const N: usize>([u8; N]);

impl<const N: usize> SecretBytes<N> {
    /// Fills a new secret in place.
    pub fn fill<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self([0; N]);
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Takes a copy; the caller wipes its own.
    #[must_use]
    pub fn copy_of(bytes: &[u8; N]) -> Self {
        Self(*bytes)
    }

    /// The bytes, for the one call that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}
