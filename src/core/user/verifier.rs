//! What is kept of a PIN: an HMAC of the token over Argon2id of it. Without the token the record tells nothing, and no
//! guess can be tried; without the PIN the token tells nothing.
#![forbid(unsafe_code)]

use argon2::{Algorithm, Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::core::units::{Name, sha256};
use crate::secret::{Pin, SecretBytes};

/// RFC 9106, section 4, second recommended option, with one lane: 64 MiB, three passes.
const MEMORY_KIB: u32 = 65_536;
const PASSES: u32 = 3;
/// What a record may ask for at most, so that a changed one cannot take the memory.
const MOST_KIB: u32 = 1_048_576;
const MOST_PASSES: u32 = 16;
/// Shortest PIN that is enrolled, characters.
pub const SHORTEST: usize = 6;
/// Separates these MACs from all others that the key could make.
const CONTEXT: &[u8] = b"claviger-user-v1";

/// What Argon2id made of a PIN.
pub type Derived = SecretBytes<32>;

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The PIN.
    Right,
    /// The PIN of somebody who is being forced.
    Duress,
    /// Neither.
    Wrong,
}

/// The record that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verifier {
    v: u32,
    memory_kib: u32,
    passes: u32,
    salt: String,
    /// The token's key that the MAC is under.
    pub pepper: Name,
    tag: String,
    /// Of the second PIN; random bytes where there is none, so that the record does not tell.
    duress: String,
}

/// Whether a PIN is one: long enough, and not one character again and again.
pub fn acceptable(pin: &Pin) -> Result<(), String> {
    let bytes = pin.expose();
    if bytes.len() < SHORTEST {
        return Err(format!("a PIN has at least {SHORTEST} characters"));
    }
    if bytes.windows(2).all(|w| w.first() == w.last()) {
        return Err("a PIN is not one character again and again".into());
    }
    Ok(())
}

fn derive(pin: &Pin, salt: &[u8], memory_kib: u32, passes: u32) -> Result<Derived, String> {
    let params = Params::new(memory_kib, passes, 1, Some(32)).map_err(|e| e.to_string())?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    Derived::fill(|out| argon.hash_password_into(pin.expose(), salt, out)).map_err(|e| e.to_string())
}

/// What the token makes a MAC of.
#[must_use]
pub fn peppered(user: &str, derived: &Derived) -> Zeroizing<Vec<u8>> {
    // The name, of at most 64 characters, cannot run into what follows: its length stands before it.
    let length = u8::try_from(user.len()).unwrap_or(u8::MAX);
    Zeroizing::new([CONTEXT, &[length], user.as_bytes(), derived.expose()].concat())
}

/// Argon2id with the parameters of new records: for those who have no record, so that they take as long.
pub fn derive_fresh(pin: &Pin, salt: &[u8; 16]) -> Result<Derived, String> {
    derive(pin, salt, MEMORY_KIB, PASSES)
}

impl Verifier {
    /// A new record. `duress` is the second PIN's tag, or random bytes.
    #[must_use]
    pub fn new(salt: &[u8; 16], pepper: Name, tag: &[u8; 32], duress: &[u8; 32]) -> Self {
        Self {
            v: 1,
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            salt: hex::encode(salt),
            pepper,
            tag: hex::encode(tag),
            duress: hex::encode(duress),
        }
    }

    /// Reads a record; refuses one that asks for more than this program would ever spend.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let costs = (8..=MOST_KIB).contains(&read.memory_kib) && (1..=MOST_PASSES).contains(&read.passes);
        if read.v != 1 || !costs {
            return Err("the record of a PIN is of another version".into());
        }
        Ok(read)
    }

    /// As it is kept.
    pub fn render(&self) -> Result<String, String> {
        serde_json::to_string(self).map_err(|e| e.to_string())
    }

    /// SHA-256 of a record, as the log names it.
    #[must_use]
    pub fn hash(text: &str) -> String {
        hex::encode(sha256(text.as_bytes()))
    }

    /// Argon2id with the parameters of this record.
    pub fn derive(&self, pin: &Pin) -> Result<Derived, String> {
        let salt = hex::decode(&self.salt).map_err(|e| e.to_string())?;
        derive(pin, &salt, self.memory_kib, self.passes)
    }

    /// Compares, in constant time and both of them whatever the first says.
    #[must_use]
    pub fn compare(&self, made: &[u8; 32]) -> Told {
        let same = |text: &str| hex::decode(text).is_ok_and(|bytes| bool::from(bytes.as_slice().ct_eq(made)));
        let (right, duress) = (same(&self.tag), same(&self.duress));
        match (right, duress) {
            (true, _) => Told::Right,
            (false, true) => Told::Duress,
            (false, false) => Told::Wrong,
        }
    }

    /// Whether it was made with less than new ones are, or under a key that has a successor.
    #[must_use]
    pub fn is_old(&self, pepper: &Name) -> bool {
        (self.memory_kib, self.passes) != (MEMORY_KIB, PASSES) || self.pepper != *pepper
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::new(text.to_owned()).unwrap()
    }

    #[test]
    fn a_record_tells_right_from_wrong_and_is_read_back() {
        let pepper = Name::parse("pepper").unwrap();
        let record = Verifier::new(&[1; 16], pepper.clone(), &[2; 32], &[3; 32]);
        assert_eq!(Verifier::parse(&record.render().unwrap()), Ok(record.clone()));
        assert_eq!(record.compare(&[2; 32]), Told::Right);
        assert_eq!(record.compare(&[3; 32]), Told::Duress);
        assert_eq!(record.compare(&[4; 32]), Told::Wrong);
        assert!(!record.is_old(&pepper));
        assert!(record.is_old(&Name::parse("pepper@2").unwrap()), "after a rotation of the token's key");
        assert!(Verifier { memory_kib: 1024, ..record.clone() }.is_old(&pepper));
        for greedy in [Verifier { memory_kib: u32::MAX, ..record.clone() }, Verifier { passes: 99, ..record }]
        {
            assert!(Verifier::parse(&greedy.render().unwrap()).is_err());
        }
    }

    #[test]
    fn each_pin_and_each_user_has_a_mac_of_their_own() {
        let pepper = Name::parse("pepper").unwrap();
        let cheap =
            Verifier { memory_kib: 256, passes: 2, ..Verifier::new(&[1; 16], pepper, &[0; 32], &[0; 32]) };
        let other = Verifier { salt: hex::encode([2; 16]), ..cheap.clone() };
        let (a, b) = (cheap.derive(&pin("123456")).unwrap(), cheap.derive(&pin("123457")).unwrap());
        assert_eq!(a.expose(), cheap.derive(&pin("123456")).unwrap().expose());
        assert_ne!(a.expose(), b.expose());
        assert_ne!(a.expose(), other.derive(&pin("123456")).unwrap().expose(), "another salt");
        assert_ne!(peppered("anna", &a), peppered("ben", &a));
        assert_ne!(peppered("anna", &a), peppered("anna", &b));
        assert!(acceptable(&pin("12345")).is_err() && acceptable(&pin("111111")).is_err());
        assert!(acceptable(&pin("123456")).is_ok());
    }
}
