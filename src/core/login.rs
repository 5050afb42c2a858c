//! Login challenges: what an authentication key signs, and what can never be a payment. [clause 8.7.2]
//!
//! The message begins with a byte that begins no transaction of any chain and no text, and names what it is. ECDSA keys
//! sign its SHA-256, Ed25519 keys the whole of it.
#![forbid(unsafe_code)]

use super::key::Algorithm;
use super::payment::ToSign;
use super::units::sha256;

/// First bytes of every login message. 0xff is no UTF-8, no EVM transaction type, no length of a list in RLP that fits
/// its content, and the version byte that Solana reserves for what is not a transaction.
pub const PREFIX: &[u8] = b"\xffclaviger login, version 1\n";

/// What a key signs to show that it is the private half of its public one: random bytes under a name of their own.
#[must_use]
pub fn possession(algorithm: Algorithm, random: &[u8; 32]) -> ToSign {
    let message =
        [b"\xffclaviger proof of possession, version 1\n".as_slice(), hex::encode(random).as_bytes()]
            .concat();
    match algorithm {
        Algorithm::Ed25519 => ToSign::Message(message),
        _ => ToSign::Prehash(sha256(&message)),
    }
}

/// Shortest challenge, bytes: a guessable one could be answered before it is asked.
pub const SHORTEST: usize = 16;
/// Longest challenge, bytes.
pub const LONGEST: usize = 256;

/// Why a challenge is not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The audience is no line of printable ASCII.
    #[error("the audience must be 1 to 255 printable ASCII characters, such as https://example.org")]
    Audience,
    /// The challenge has a wrong length.
    #[error("the challenge must have 16 to 256 bytes")]
    Challenge,
}

/// A challenge, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    audience: String,
    challenge: Vec<u8>,
}

impl Login {
    /// Takes both, when they are such that the message can be read in one way only.
    pub fn new(audience: &str, challenge: &[u8]) -> Result<Self, LoginError> {
        let printable = audience.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !printable || audience.is_empty() || audience.len() > 255 {
            return Err(LoginError::Audience);
        }
        if !(SHORTEST..=LONGEST).contains(&challenge.len()) {
            return Err(LoginError::Challenge);
        }
        Ok(Self { audience: audience.to_owned(), challenge: challenge.to_vec() })
    }

    /// Who asks.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Prefix, audience, a newline, the challenge in hex.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        [PREFIX, self.audience.as_bytes(), b"\n", hex::encode(&self.challenge).as_bytes()].concat()
    }

    /// What the token is handed.
    #[must_use]
    pub fn to_sign(&self, algorithm: Algorithm) -> ToSign {
        match algorithm {
            Algorithm::Ed25519 => ToSign::Message(self.message()),
            _ => ToSign::Prehash(sha256(&self.message())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::payment::evm::UnsignedTx;
    use crate::core::payment::message::PersonalMessage;
    use proptest::prelude::*;

    #[test]
    fn only_one_line_and_unguessable_challenges_are_taken() {
        for audience in ["", "a b", "a\n", "ä", &"a".repeat(256)] {
            assert_eq!(Login::new(audience, &[0; 32]), Err(LoginError::Audience), "{audience:?}");
        }
        for length in [0, 15, 257] {
            assert_eq!(Login::new("a", &vec![0; length]), Err(LoginError::Challenge));
        }
    }

    proptest! {
        // [clause 8.7.2-b] test
        #[test]
        fn a_login_is_never_a_payment_nor_a_message(
            audience in "[!-~]{1,40}", challenge in proptest::collection::vec(any::<u8>(), 16..=256),
        ) {
            let login = Login::new(&audience, &challenge).unwrap();
            let bytes = login.message();
            prop_assert!(UnsignedTx::decode(&bytes).is_err());
            prop_assert!(std::str::from_utf8(&bytes).is_err());
            let ToSign::Prehash(hash) = login.to_sign(Algorithm::Secp256k1) else { panic!("no prehash") };
            prop_assert_ne!(hash, PersonalMessage::new(bytes.clone()).unwrap().hash());
            // Read back in one way only.
            let text = String::from_utf8(bytes[PREFIX.len()..].to_vec()).unwrap();
            let (a, c) = text.split_once('\n').unwrap();
            prop_assert_eq!((a, hex::decode(c).unwrap()), (audience.as_str(), challenge));
        }
    }
}
