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

/// Why a share is not one of a quorum's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrangeShare {
    /// What the ceremony wrote down of its shares is lost.
    #[error("nothing is known here of the shares of that ceremony")]
    Unrecorded,
    /// There is no such place in it.
    #[error("that ceremony gave out no share {share} of group {group}")]
    NoPlace {
        /// Counted from 1.
        group: u8,
        /// Counted from 1.
        share: u8,
    },
    /// Another one has its place.
    #[error("share {share} of group {group} is another one: this is of another ceremony")]
    Other {
        /// Counted from 1.
        group: u8,
        /// Counted from 1.
        share: u8,
    },
}

impl Quorum {
    /// Whether a share is the very one that the ceremony gave out; gives its commitment.
    // [clause 8.2.2-b] a custodian can show it years later, alone, and nobody learns anything
    pub fn is_share(&self, share: &Share) -> Result<String, StrangeShare> {
        if self.commitments.is_empty() {
            return Err(StrangeShare::Unrecorded);
        }
        let (group, number) = (share.group.saturating_add(1), share.member.saturating_add(1));
        let told = self.commitments.get(usize::from(share.group));
        let told = told.and_then(|g| g.get(usize::from(share.member)));
        let told = told.ok_or(StrangeShare::NoPlace { group, share: number })?;
        let made = commitment(self.epoch, share);
        if made == *told { Ok(made) } else { Err(StrangeShare::Other { group, share: number }) }
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
    fn a_share_is_known_again_and_one_of_another_ceremony_is_told_apart() {
        let made = |secret: u8, scheme: &Scheme| {
            let coins: Vec<u8> =
                (0..scheme.random_bytes(32)).map(|n| u8::try_from(n % 251).unwrap()).collect();
            super::super::slip39::split(scheme, &[secret; 32], b"", true, &coins).unwrap()
        };
        let (scheme, wider) = (Scheme::simple(2, 3), Scheme::simple(2, 4));
        let shares = made(1, &scheme);
        let quorum = |epoch, shares: &[Vec<Share>]| Quorum {
            epoch,
            recipient: String::new(),
            groups_needed: 1,
            groups: scheme.groups.clone(),
            commitments: shares.iter().map(|g| g.iter().map(|s| commitment(epoch, s)).collect()).collect(),
            made_ms: 0,
        };
        let ours = quorum(1, &shares);
        for share in &shares[0] {
            assert_eq!(ours.is_share(share).unwrap(), commitment(1, share));
            let again = Share::parse(&share.words()).unwrap();
            assert!(ours.is_share(&again).is_ok());
        }
        let other = StrangeShare::Other { group: 1, share: 2 };
        assert_eq!(ours.is_share(&made(2, &scheme)[0][1]), Err(other), "another secret");
        assert_eq!(quorum(2, &made(2, &scheme)).is_share(&shares[0][1]), Err(other), "an old sheet");
        let far = StrangeShare::NoPlace { group: 1, share: 4 };
        assert_eq!(ours.is_share(&made(1, &wider)[0][3]), Err(far));
        assert_eq!(quorum(1, &[]).is_share(&shares[0][0]), Err(StrangeShare::Unrecorded));
    }

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
