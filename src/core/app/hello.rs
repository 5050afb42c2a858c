//! The greeting of a connection: a nonce that only the program which read the answer knows, and a number for each
//! request that is taken once.
//!
//! Bytes that were written before an `exec` carry the right process id; only the nonce tells them apart.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::refusal::{Code, Refusal};

/// The most numbers that may be missing below the highest.
const MOST_AHEAD: u64 = 65_536;
/// The most numbers that are kept: taken, and above one that is missing.
const MOST_KEPT: usize = 65_536;

/// What a request shows for itself: the member `claviger` beside `jsonrpc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What `claviger_hello` gave.
    pub nonce: [u8; 16],
    /// From 1 on, each once.
    pub seq: u64,
}

/// The greeting of one connection.
#[derive(Debug)]
pub struct Hello {
    nonce: [u8; 16],
    said: bool,
    /// All numbers up to this one were taken.
    floor: u64,
    above: BTreeSet<u64>,
}

impl Hello {
    /// Of a connection that was accepted just now; the nonce is random.
    #[must_use]
    pub fn new(nonce: [u8; 16]) -> Self {
        Self { nonce, said: false, floor: 0, above: BTreeSet::new() }
    }

    /// The peer asks for the nonce: from now on each request must show it.
    pub fn say(&mut self) -> [u8; 16] {
        self.said = true;
        self.nonce
    }

    /// Whether this request is proven to come from the program that read the nonce.
    // [clause 8.2.4-e] after a hello nothing is taken without the nonce, and nothing twice
    pub fn admit(&mut self, proof: Option<Proof>) -> Result<bool, Refusal> {
        let refuse = |why: &str| Err(Refusal::new(Code::AppNonce, why));
        let Some(proof) = proof else {
            return if self.said {
                refuse("this connection has said hello, and the request shows no nonce")
            } else {
                Ok(false)
            };
        };
        // Compared without haste: whoever guesses has one try for each request, and 128 bits to guess.
        if !self.said || proof.nonce != self.nonce {
            return refuse("the nonce is not the one that this connection was given");
        }
        if proof.seq <= self.floor || self.above.contains(&proof.seq) {
            return refuse(&format!("request number {} was taken already", proof.seq));
        }
        if proof.seq - self.floor > MOST_AHEAD || self.above.len() >= MOST_KEPT {
            return refuse(&format!("request number {} is too far ahead of {}", proof.seq, self.floor));
        }
        self.above.insert(proof.seq);
        while self.above.remove(&self.floor.saturating_add(1)) {
            self.floor = self.floor.saturating_add(1);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.4-e] test
    #[test]
    fn after_a_hello_each_request_shows_the_nonce_and_a_number_that_is_new() {
        let mut hello = Hello::new([7; 16]);
        let proof = |seq| Some(Proof { nonce: [7; 16], seq });
        assert!(!hello.admit(None).unwrap(), "clients that know no hello are served");
        assert!(hello.admit(proof(1)).is_err(), "nobody was told the nonce yet");
        assert_eq!(hello.say(), [7; 16]);
        for seq in [2, 1, 4, 3, 5] {
            assert!(hello.admit(proof(seq)).unwrap());
            assert_eq!(hello.admit(proof(seq)).unwrap_err().code, Code::AppNonce);
        }
        assert!(hello.above.is_empty());
        assert!(hello.admit(None).is_err());
        assert!(hello.admit(Some(Proof { nonce: [8; 16], seq: 6 })).is_err());
        assert!(hello.admit(proof(0)).is_err());
        assert!(hello.admit(proof(u64::MAX)).is_err());
        assert!(hello.admit(proof(6)).unwrap());
    }
}
