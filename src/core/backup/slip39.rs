//! SLIP-39: a secret in shares of words, so that a threshold of them gives it back and fewer do not. [clause 8.2.2]
//!
//! Shamir's sharing over GF(256), twice: the secret among groups, each group's part among its members. A 32-byte secret
//! makes shares of 33 words. Source: <https://github.com/satoshilabs/slips/blob/master/slip-0039.md>.
#![forbid(unsafe_code)]

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::gf256::interpolate;
use super::words;

/// Bytes that are wiped when they are dropped.
pub type Wiped = Zeroizing<Vec<u8>>;

/// Shares of a group, and groups.
pub const MOST: u8 = 16;
/// The highest iteration exponent that is taken: 2^8 times 10,000 rounds are seconds, 2^15 times are many minutes.
pub const HIGHEST_EXPONENT: u8 = 8;
/// The iteration exponent of new shares, as the reference makes them.
const EXPONENT: u8 = 1;
const DIGEST_AT: u8 = 254;
const SECRET_AT: u8 = 255;
const DIGEST: usize = 4;
/// Words before the value: identifier and exponent, then the share's place.
const HEAD: usize = 4;
/// Words of the shortest share: 128 bits.
const SHORTEST: usize = 20;
/// Words of the longest that is taken: 512 bits.
const LONGEST: usize = 59;

/// Why words are no share, or shares give no secret. Holds no word: what is typed may be nearly right, and stays secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// It stands in no list.
    #[error("word {at} is not in the list")]
    Word {
        /// Counted from 1.
        at: usize,
        /// What was probably meant: for the eyes of the one who types, and nobody's log.
        near: Option<&'static str>,
    },
    /// Too few or too many words, or a number that cannot be.
    #[error("these are {0} words; a share of this kind has 33")]
    Length(usize),
    /// The checksum does not verify.
    #[error("{}", match .at {
        Some(at) => format!("word {at} is wrong"),
        None => "several words are wrong, or stand in a wrong order".to_owned(),
    })]
    Checksum {
        /// The one wrong word, where one explains it.
        at: Option<usize>,
    },
    /// The bits that fill the last word are not zero, or thresholds and counts contradict each other.
    #[error("it says of itself what cannot be: {0}")]
    Nonsense(&'static str),
    /// More work than any share of ours asks for.
    #[error("its iteration exponent is {0}; more than {HIGHEST_EXPONENT} is not taken")]
    Exponent(u8),
    /// Not all belong to the same secret, or say the same about it.
    #[error("share {at} belongs to another set: its {what} is another one")]
    Stranger {
        /// Counted from 1, as they were given.
        at: usize,
        /// In words.
        what: &'static str,
    },
    /// The same share twice.
    #[error("share {at} was given twice")]
    Twice {
        /// Counted from 1, as they were given.
        at: usize,
    },
    /// Not enough shares of a group.
    #[error("group {group} has {have} shares of the {need} that it needs")]
    Few {
        /// Counted from 1.
        group: u8,
        /// Given.
        have: u8,
        /// Threshold.
        need: u8,
    },
    /// Not enough groups.
    #[error("shares of {have} groups were given, and {need} groups are needed")]
    FewGroups {
        /// With enough shares.
        have: u8,
        /// Threshold.
        need: u8,
    },
    /// They do not give the secret that was split.
    #[error("the shares do not give the secret that was split: one was changed")]
    Digest,
    /// No such sharing can be made.
    #[error("it cannot be shared like this: {0}")]
    Scheme(&'static str),
}

/// How many groups are needed, and of each group `(threshold, shares)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Groups that are needed.
    pub groups_needed: u8,
    /// `(threshold, shares)` of each.
    pub groups: Vec<(u8, u8)>,
}

/// One share. Its value is wiped, and it does not print.
pub struct Share {
    set: Set,
    /// Which group, from 0.
    pub group: u8,
    /// Which share of the group, from 0: its coordinate.
    pub member: u8,
    /// Shares of the group that are needed.
    pub threshold: u8,
    value: Wiped,
}

/// What all shares of a secret have in common.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Set {
    identifier: u16,
    extendable: bool,
    exponent: u8,
    groups_needed: u8,
    groups: u8,
}

impl Set {
    fn custom(self) -> &'static [u8] {
        if self.extendable { b"shamir_extendable" } else { b"shamir" }
    }
}

/// Reads numbers of so many bits from words of ten.
struct Bits<'a> {
    words: &'a [u16],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> u8 {
        let mut value = 0;
        for _ in 0..count {
            let word = self.words.get(self.at / 10).copied().unwrap_or(0);
            let shift = 9_usize.saturating_sub(self.at % 10);
            value = (value << 1) | u8::from((word >> shift) & 1 == 1);
            self.at = self.at.saturating_add(1);
        }
        value
    }
}

impl Share {
    /// Reads the words of a share; says where the wrong one is.
    // [clause 8.2.2-b] what a custodian typed is checked word by word, and the wrong word is pointed at
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let mut indices = Zeroizing::new(Vec::with_capacity(LONGEST));
        for (at, word) in text.split_ascii_whitespace().enumerate() {
            let at = at.saturating_add(1);
            if at > LONGEST {
                return Err(ShareError::Length(text.split_ascii_whitespace().count()));
            }
            let word = Zeroizing::new(word.to_ascii_lowercase());
            let found = words::index(&word);
            indices.push(found.ok_or_else(|| ShareError::Word { at, near: words::near(&word) })?);
        }
        let filling = indices.len().saturating_sub(HEAD + words::CHECKSUM).saturating_mul(10) % 16;
        if indices.len() < SHORTEST || filling > 8 {
            return Err(ShareError::Length(indices.len()));
        }
        let mut bits = Bits { words: &indices, at: 0 };
        let identifier = (u16::from(bits.take(7)) << 8) | u16::from(bits.take(8));
        let (extendable, exponent) = (bits.take(1) == 1, bits.take(4));
        let (group, groups_needed, groups) = (bits.take(4), bits.take(4) + 1, bits.take(4) + 1);
        let (member, threshold) = (bits.take(4), bits.take(4) + 1);
        let set = Set { identifier, extendable, exponent, groups_needed, groups };
        if !words::verifies(set.custom(), &indices) {
            return Err(ShareError::Checksum { at: words::one_wrong(set.custom(), &indices) });
        }
        if groups_needed > groups {
            return Err(ShareError::Nonsense("it needs more groups than there are"));
        }
        if group >= groups {
            return Err(ShareError::Nonsense("it is of a group that does not exist"));
        }
        if bits.take(filling) != 0 {
            return Err(ShareError::Nonsense("the bits that fill its last word are not zero"));
        }
        let length = indices.len().saturating_sub(HEAD + words::CHECKSUM).saturating_mul(10) / 8;
        let length = length - length % 2;
        let value = (0..length).map(|_| bits.take(8)).collect();
        Ok(Self { set, group, member, threshold, value: Zeroizing::new(value) })
    }

    /// Its words, lower case, one space between.
    #[must_use]
    pub fn words(&self) -> Zeroizing<String> {
        let Set { identifier, extendable, exponent, groups_needed, groups } = self.set;
        let value_words = self.value.len().saturating_mul(8).div_ceil(10);
        let mut indices = Zeroizing::new(Vec::with_capacity(HEAD + value_words + words::CHECKSUM));
        let id = (u32::from(identifier) << 5) | (u32::from(extendable) << 4) | u32::from(exponent & 15);
        let place = [self.group, groups_needed - 1, groups - 1, self.member, self.threshold - 1];
        let place = place.iter().fold(0_u32, |sum, part| (sum << 4) | u32::from(part & 15));
        for pair in [id, place] {
            indices.extend([(pair >> 10) & 1023, pair & 1023].map(|w| u16::try_from(w).unwrap_or(0)));
        }
        // The value stands at the end of its words, behind zeros.
        let (mut held, mut bits) =
            (0_u32, value_words.saturating_mul(10).saturating_sub(self.value.len() * 8));
        for byte in self.value.iter() {
            held = (held << 8) | u32::from(*byte);
            bits += 8;
            if bits >= 10 {
                bits -= 10;
                indices.push(u16::try_from((held >> bits) & 1023).unwrap_or(0));
            }
        }
        let sum = words::checksum(self.set.custom(), &indices);
        indices.extend(sum);
        let mut text = Zeroizing::new(String::with_capacity(indices.len().saturating_mul(9)));
        for (at, index) in indices.iter().enumerate() {
            if at > 0 {
                text.push(' ');
            }
            text.push_str(words::word(*index));
        }
        text
    }

    /// How many shares of how many groups the secret needs: `(groups needed, groups)`.
    #[must_use]
    pub fn groups(&self) -> (u8, u8) {
        (self.set.groups_needed, self.set.groups)
    }

    /// What all shares of one secret begin with: 15 bits that are no secret.
    #[must_use]
    pub fn identifier(&self) -> u16 {
        self.set.identifier
    }
}

/// Random bytes that were drawn before.
struct Drawn<'a>(&'a [u8]);

impl<'a> Drawn<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ShareError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(ShareError::Scheme("random bytes are lacking"))?;
        self.0 = rest;
        Ok(taken)
    }
}

impl Scheme {
    /// One group: `threshold` of `shares`.
    #[must_use]
    pub fn simple(threshold: u8, shares: u8) -> Self {
        Self { groups_needed: 1, groups: vec![(threshold, shares)] }
    }

    /// Whether such a sharing can be made.
    pub fn check(&self) -> Result<(), ShareError> {
        let count = u8::try_from(self.groups.len()).unwrap_or(u8::MAX);
        let wrong = |why| Err(ShareError::Scheme(why));
        if count == 0 || count > MOST {
            return wrong("there are 1 to 16 groups");
        }
        if self.groups_needed == 0 || self.groups_needed > count {
            return wrong("it needs no group, or more than there are");
        }
        for (threshold, shares) in &self.groups {
            if *threshold == 0 || threshold > shares || *shares > MOST {
                return wrong("a group has 1 to 16 shares, and needs at least one and at most all of them");
            }
            if *threshold == 1 && *shares > 1 {
                return wrong("several copies of a share that is enough alone are one share: make it 1 of 1");
            }
        }
        Ok(())
    }

    /// How many random bytes [`split`] wants for a secret of this length.
    #[must_use]
    pub fn random_bytes(&self, secret: usize) -> usize {
        let one = |threshold: u8| match threshold {
            0 | 1 => 0,
            more => usize::from(more - 1).saturating_mul(secret).saturating_sub(DIGEST),
        };
        let members = self.groups.iter().map(|(threshold, _)| one(*threshold));
        2_usize.saturating_add(one(self.groups_needed)).saturating_add(members.sum())
    }
}

fn digest(random: &[u8], secret: &[u8]) -> Result<[u8; DIGEST], ShareError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(random).map_err(|_| ShareError::Digest)?;
    mac.update(secret);
    mac.finalize().into_bytes().first_chunk().copied().ok_or(ShareError::Digest)
}

/// Shares 0 to `count - 1` of a secret: random ones first, the rest on the curve through them, the digest and the secret.
fn share_out(
    threshold: u8,
    count: u8,
    secret: &[u8],
    drawn: &mut Drawn<'_>,
) -> Result<Vec<Wiped>, ShareError> {
    let copy = |bytes: &[u8]| Zeroizing::new(bytes.to_vec());
    if threshold == 1 {
        return Ok((0..count).map(|_| copy(secret)).collect());
    }
    let free = threshold - 2;
    let mut shares = Vec::with_capacity(usize::from(count));
    for _ in 0..free {
        shares.push(copy(drawn.take(secret.len())?));
    }
    let random = drawn.take(secret.len().saturating_sub(DIGEST))?;
    let mut checked = Zeroizing::new(Vec::with_capacity(secret.len()));
    checked.extend(digest(random, secret)?);
    checked.extend(random);
    let mut rest = Vec::new();
    {
        let mut points: Vec<(u8, &[u8])> = (0..).zip(shares.iter().map(|s| s.as_slice())).collect();
        points.push((DIGEST_AT, &checked));
        points.push((SECRET_AT, secret));
        for at in free..count {
            let mut share = Zeroizing::new(vec![0; secret.len()]);
            interpolate(&points, at, &mut share);
            rest.push(share);
        }
    }
    shares.append(&mut rest);
    Ok(shares)
}

fn gather(threshold: u8, points: &[(u8, &[u8])]) -> Result<Wiped, ShareError> {
    let (_, first) = points.first().ok_or(ShareError::Digest)?;
    if threshold == 1 {
        return Ok(Zeroizing::new(first.to_vec()));
    }
    let (mut secret, mut checked) =
        (Zeroizing::new(vec![0; first.len()]), Zeroizing::new(vec![0; first.len()]));
    interpolate(points, SECRET_AT, &mut secret);
    interpolate(points, DIGEST_AT, &mut checked);
    let (sum, random) = checked.split_first_chunk::<DIGEST>().ok_or(ShareError::Digest)?;
    let right: bool = digest(random, &secret)?.ct_eq(sum).into();
    if right { Ok(secret) } else { Err(ShareError::Digest) }
}

/// The four rounds of the cipher that carries the passphrase; `rounds` in the order of the direction.
fn cipher(set: Set, passphrase: &[u8], text: &[u8], rounds: [u8; 4]) -> Wiped {
    let (left, right) = text.split_at(text.len() / 2);
    let (mut left, mut right) = (Zeroizing::new(left.to_vec()), Zeroizing::new(right.to_vec()));
    for round in rounds {
        let mut password = Zeroizing::new(vec![round]);
        password.extend_from_slice(passphrase);
        let mut salt = Zeroizing::new(Vec::new());
        if !set.extendable {
            salt.extend(b"shamir");
            salt.extend(set.identifier.to_be_bytes());
        }
        salt.extend_from_slice(&right);
        let mut made = Zeroizing::new(vec![0; right.len()]);
        pbkdf2::pbkdf2_hmac::<Sha256>(&password, &salt, 2500 << set.exponent, &mut made);
        left.iter_mut().zip(made.iter()).for_each(|(to, from)| *to ^= from);
        std::mem::swap(&mut left, &mut right);
    }
    let mut joined = Zeroizing::new(Vec::with_capacity(text.len()));
    joined.extend_from_slice(&right);
    joined.extend_from_slice(&left);
    joined
}

/// Splits a secret of 16 to 64 bytes, group by group. `random` holds [`Scheme::random_bytes`] bytes, used once.
// [clause 8.2.2-a] fewer shares than the threshold say nothing about the secret but whether a guess of all its bits may be
// right (the 32-bit digest), whatever is computed
pub fn split(
    scheme: &Scheme,
    secret: &[u8],
    passphrase: &[u8],
    extendable: bool,
    random: &[u8],
) -> Result<Vec<Vec<Share>>, ShareError> {
    scheme.check()?;
    if !(16..=64).contains(&secret.len()) || secret.len() % 2 == 1 {
        return Err(ShareError::Scheme("a secret has 16 to 64 bytes, an even number"));
    }
    if !passphrase.iter().all(|b| (32..127).contains(b)) {
        return Err(ShareError::Scheme("a passphrase is printable ASCII"));
    }
    let mut drawn = Drawn(random);
    let id = <[u8; 2]>::try_from(drawn.take(2)?).unwrap_or_default();
    let set = Set {
        identifier: u16::from_be_bytes(id) & 0x7fff,
        extendable,
        exponent: EXPONENT,
        groups_needed: scheme.groups_needed,
        groups: u8::try_from(scheme.groups.len()).unwrap_or(MOST),
    };
    let sealed = cipher(set, passphrase, secret, [0, 1, 2, 3]);
    let parts = share_out(set.groups_needed, set.groups, &sealed, &mut drawn)?;
    let mut all = Vec::with_capacity(parts.len());
    for ((group, part), (threshold, count)) in (0..).zip(&parts).zip(&scheme.groups) {
        let values = share_out(*threshold, *count, part, &mut drawn)?;
        let share = |(member, value)| Share { set, group, member, threshold: *threshold, value };
        all.push((0..).zip(values).map(share).collect());
    }
    Ok(all)
}

/// Gives the secret back. More shares than needed are held against each other, so that a wrong one is found.
pub fn combine(shares: &[Share], passphrase: &[u8]) -> Result<Wiped, ShareError> {
    let first = shares.first().ok_or(ShareError::FewGroups { have: 0, need: 1 })?;
    if first.set.exponent > HIGHEST_EXPONENT {
        return Err(ShareError::Exponent(first.set.exponent));
    }
    for (at, share) in (1..).zip(shares) {
        let stranger = |what| Err(ShareError::Stranger { at, what });
        let (one, other) = (first.set, share.set);
        if (one.identifier, one.extendable, one.exponent)
            != (other.identifier, other.extendable, other.exponent)
        {
            return stranger("beginning");
        }
        if one != other {
            return stranger("number of groups");
        }
        if share.value.len() != first.value.len() {
            return stranger("length");
        }
        let before = shares.iter().take(at - 1).filter(|s| s.group == share.group);
        for same in before {
            if same.threshold != share.threshold {
                return stranger("threshold");
            }
            if same.member == share.member {
                return Err(ShareError::Twice { at });
            }
        }
    }
    let mut parts: Vec<(u8, Wiped)> = Vec::new();
    let mut lacking = None;
    for group in 0..first.set.groups {
        let members: Vec<&Share> = shares.iter().filter(|s| s.group == group).collect();
        let Some(need) = members.first().map(|s| s.threshold) else { continue };
        let have = u8::try_from(members.len()).unwrap_or(MOST);
        if have < need {
            lacking = lacking.or(Some(ShareError::Few { group: group + 1, have, need }));
            continue;
        }
        if need == 1 && have > 1 {
            return Err(ShareError::Nonsense("a group of one share has several"));
        }
        let points: Vec<(u8, &[u8])> = members.iter().map(|s| (s.member, s.value.as_slice())).collect();
        parts.push((group, gather(need, &points)?));
    }
    let (have, need) = (u8::try_from(parts.len()).unwrap_or(MOST), first.set.groups_needed);
    if have < need {
        return Err(lacking.unwrap_or(ShareError::FewGroups { have, need }));
    }
    if need == 1 && have > 1 && parts.windows(2).any(|two| matches!(two, [a, b] if a.1 != b.1)) {
        return Err(ShareError::Digest);
    }
    let points: Vec<(u8, &[u8])> = parts.iter().map(|(group, part)| (*group, part.as_slice())).collect();
    let sealed = gather(need, &points)?;
    Ok(cipher(first.set, passphrase, &sealed, [3, 2, 1, 0]))
}
