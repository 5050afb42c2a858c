//! The quorum: what a ceremony left behind for everybody to see. [clause 8.2.2]
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use hkdf::Hkdf;
use sha2::Sha256;

use super::age::Recipient;
use super::slip39::{Scheme, Share};
use crate::core::key::KeyRef;
use crate::core::units::sha256;
use crate::secret::SecretBytes;

/// What the wrapping key of the token is derived for.
pub const WRAP_INFO: &[u8] = b"claviger/backup-wrap/v1";

/// Public: the daemon, the log and every backup medium hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quorum {
    /// Which ceremony, from 1.
    pub epoch: u32,
    /// `age1pq1…`.
    pub recipient: String,
    /// Groups that are needed.
    pub groups_needed: u8,
    /// `(threshold, shares)` of each group.
    pub groups: Vec<(u8, u8)>,
    /// [`commitment`] of each share, group by group, hex. Empty where the shares are known and their record is lost.
    pub commitments: Vec<Vec<String>>,
    /// When, milliseconds since the epoch.
    pub made_ms: i64,
}

impl Quorum {
    /// Its public half.
    #[must_use]
    pub fn recipient(&self) -> Option<Recipient> {
        Recipient::parse(&self.recipient)
    }

    /// The sharing.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        Scheme { groups_needed: self.groups_needed, groups: self.groups.clone() }
    }
}

/// Where the wrapping key of a quorum stands in every token that holds it.
#[must_use]
pub fn wrap_reference(recipient: &Recipient) -> KeyRef {
    let mut id = *b"claviger-wrap\0\0\0";
    id.iter_mut().skip(13).zip(recipient.id()).for_each(|(to, from)| *to = from);
    KeyRef::from(id)
}

/// What is written down of a share: a custodian can show that it is still the one, and nobody learns anything from it.
// [clause 8.2.2-b] each share is committed to when it is made; 256 random bits are guessed by nobody
#[must_use]
pub fn commitment(epoch: u32, share: &Share) -> String {
    let mut bound = Zeroizing::new(Vec::with_capacity(512));
    bound.extend_from_slice(b"claviger/share/v1 ");
    bound.extend_from_slice(&epoch.to_be_bytes());
    bound.extend_from_slice(&[share.group, share.member]);
    bound.extend_from_slice(share.words().as_bytes());
    hex::encode(sha256(&bound))
}

/// A secret of two sources: as good as the better of them. `None` when the token gave too little.
// [clause 8.2.2-b] neither a token whose generator is weak nor a kernel that is known decides a secret alone
#[must_use]
pub fn mixed(token: &[u8], kernel: &[u8; 32], what_for: &[u8]) -> Option<SecretBytes<32>> {
    if token.len() < 32 {
        return None;
    }
    SecretBytes::fill(|out| Hkdf::<Sha256>::new(Some(kernel), token).expand(what_for, out)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.2-b] test
    #[test]
    fn a_secret_depends_on_both_sources_and_on_its_use() {
        let one = mixed(&[1; 32], &[2; 32], b"a").unwrap();
        for other in [
            mixed(&[3; 32], &[2; 32], b"a"),
            mixed(&[1; 32], &[3; 32], b"a"),
            mixed(&[1; 32], &[2; 32], b"b"),
        ] {
            assert_ne!(one.expose(), other.unwrap().expose());
        }
        assert!(mixed(&[1; 31], &[2; 32], b"a").is_none());
    }
}
