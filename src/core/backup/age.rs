//! The envelope of a backup: an age v1 file for one hybrid post-quantum recipient, `mlkem768x25519`. [clause 8.2.2]
//!
//! Source: <https://c2sp.org/age>. X-Wing from its crate, HPKE (RFC 9180, base mode, one message) and the file put together
//! from HKDF, HMAC and ChaCha20-Poly1305. What is kept for decades opens with any program that knows the format.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::primitives::checksum::Checksum;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use x_wing::{
    CIPHERTEXT_SIZE, Ciphertext, DecapsulationKeyRejectNonContrib, Decapsulator, ENCAPSULATION_KEY_SIZE,
    EncapsulationKey, KeyExport, TryDecapsulate,
};
use zeroize::Zeroizing;

use super::slip39::Wiped;
use crate::core::units::sha256;
use crate::secret::SecretBytes;

const VERSION: &[u8] = b"age-encryption.org/v1";
const KIND: &str = "mlkem768x25519";
const INFO: &[u8] = b"age-encryption.org/mlkem768x25519";
/// A chunk of the payload, and its tag.
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;
/// Random bytes that [`seal`] wants: file key, nonce of the payload, and those of X-Wing.
pub const RANDOM: usize = 16 + 16 + 64;

/// Why a file does not open. Each names what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    /// It is none, or of another version.
    #[error("it is no age file of version 1")]
    Version,
    /// Its head breaks the format.
    #[error("its head is damaged: {0}")]
    Head(&'static str),
    /// No recipient of it is this one.
    #[error("it was made for other shares")]
    NoMatch,
    /// Somebody added a recipient, or exchanged the kind.
    #[error("it is not for the quorum alone: {0}")]
    Recipients(&'static str),
    /// The head was changed.
    #[error("its head was changed: the MAC does not verify")]
    Mac,
    /// A part of the content was changed, cut off or moved.
    #[error("its content was changed, cut off or moved: part {0} does not verify")]
    Payload(u64),
    /// Too few random bytes, or a key that is none.
    #[error("it cannot be sealed: {0}")]
    Seal(&'static str),
}

/// Bech32 without its limit of length, as age uses it.
enum Long {}

impl Checksum for Long {
    type MidstateRepr = u32;
    type CorrectionField = <Bech32 as Checksum>::CorrectionField;
    const ROOT_GENERATOR: Self::CorrectionField = <Bech32 as Checksum>::ROOT_GENERATOR;
    const ROOT_EXPONENTS: core::ops::RangeInclusive<usize> = <Bech32 as Checksum>::ROOT_EXPONENTS;
    const CODE_LENGTH: usize = 4096;
    const CHECKSUM_LENGTH: usize = <Bech32 as Checksum>::CHECKSUM_LENGTH;
    const GENERATOR_SH: [u32; 5] = <Bech32 as Checksum>::GENERATOR_SH;
    const TARGET_RESIDUE: u32 = <Bech32 as Checksum>::TARGET_RESIDUE;
}

fn from_bech32(text: &str, prefix: &str) -> Option<Wiped> {
    let read = CheckedHrpstring::new::<Long>(text).ok()?;
    // Room before the first byte comes: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    bytes.extend(read.byte_iter());
    (read.hrp() == Hrp::parse(prefix).ok()?).then_some(bytes)
}

/// The public half of the quorum: whoever holds it can make backups, and open none.
#[derive(Clone)]
pub struct Recipient {
    key: EncapsulationKey,
    bytes: Vec<u8>,
}

impl Recipient {
    /// Reads `age1pq1…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = from_bech32(text, "age1pq")?;
        let key = EncapsulationKey::try_from(bytes.as_slice()).ok()?;
        (bytes.len() == ENCAPSULATION_KEY_SIZE).then(|| Self { key, bytes: bytes.to_vec() })
    }

    /// What a bundle calls its quorum: SHA-256 of the 1216 bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        sha256(&self.bytes)
    }

    /// `age1pq1…`, 1959 characters.
    pub fn text(&self) -> Result<String, AgeError> {
        let prefix = Hrp::parse("age1pq").map_err(|_| AgeError::Seal("its prefix"))?;
        bech32::encode_lower::<Long>(prefix, &self.bytes).map_err(|_| AgeError::Seal("its length"))
    }
}

/// The secret of the quorum. Wiped; does not print.
pub struct Identity(SecretBytes<32>);

impl Identity {
    /// The 32 bytes that the shares give.
    #[must_use]
    pub fn new(secret: SecretBytes<32>) -> Self {
        Self(secret)
    }

    /// Reads `AGE-SECRET-KEY-PQ-1…`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = from_bech32(text, "age-secret-key-pq-")?;
        Some(Self(SecretBytes::copy_of(bytes.as_slice().try_into().ok()?)))
    }

    /// `AGE-SECRET-KEY-PQ-1…`, for programs that take the identity as a text.
    pub fn text(&self) -> Result<Zeroizing<String>, AgeError> {
        let prefix = Hrp::parse("AGE-SECRET-KEY-PQ-").map_err(|_| AgeError::Seal("its prefix"))?;
        let mut text = Zeroizing::new(String::with_capacity(128));
        bech32::encode_upper_to_fmt::<Long, String>(&mut text, prefix, self.0.expose())
            .map_err(|_| AgeError::Seal("its length"))?;
        Ok(text)
    }

    /// The public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        let secret = DecapsulationKeyRejectNonContrib::from(*self.0.expose());
        let key = secret.encapsulation_key().clone();
        let bytes = key.to_bytes().to_vec();
        Recipient { key, bytes }
    }

    /// A further key from the same root, for one use that `info` names.
    pub fn derive(&self, info: &[u8]) -> Result<SecretBytes<32>, AgeError> {
        SecretBytes::fill(|out| Hkdf::<Sha256>::new(None, self.0.expose()).expand(info, out))
            .map_err(|_| AgeError::Seal("a key of it"))
    }
}

/// The key of HPKE's one message (RFC 9180, 5.1) with its nonce, for KEM 0x647a, HKDF-SHA256 and ChaCha20-Poly1305.
fn schedule(shared: &[u8]) -> Option<(SecretBytes<32>, [u8; 12])> {
    const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\x00\x03";
    let extract = |salt: &[u8], label: &[u8], input: &[u8]| {
        let mut labelled = Zeroizing::new(Vec::with_capacity(64 + input.len()));
        for part in [b"HPKE-v1", SUITE, label, input] {
            labelled.extend_from_slice(part);
        }
        Hkdf::<Sha256>::extract(Some(salt), &labelled)
    };
    let (psk, info) = (extract(b"", b"psk_id_hash", b"").0, extract(b"", b"info_hash", INFO).0);
    let context = [&[0], psk.as_slice(), info.as_slice()].concat();
    let (_, secret) = extract(shared, b"secret", b"");
    let expand = |label: &[u8], out: &mut [u8]| {
        let length = u16::try_from(out.len()).unwrap_or(0).to_be_bytes();
        secret.expand_multi_info(&[&length, b"HPKE-v1", SUITE, label, &context], out)
    };
    let key = SecretBytes::fill(|out| expand(b"key", out)).ok()?;
    let mut nonce = [0; 12];
    expand(b"base_nonce", &mut nonce).ok()?;
    Some((key, nonce))
}

fn derived(file_key: &[u8], salt: &[u8], info: &[u8]) -> Result<SecretBytes<32>, AgeError> {
    SecretBytes::fill(|out| Hkdf::<Sha256>::new(Some(salt), file_key).expand(info, out))
        .map_err(|_| AgeError::Head("its keys"))
}

fn mac_of(file_key: &[u8], head: &[u8]) -> Result<Hmac<Sha256>, AgeError> {
    let key = derived(file_key, b"", b"header")?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).map_err(|_| AgeError::Head("its keys"))?;
    mac.update(head);
    Ok(mac)
}

fn chunk_nonce(count: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce.iter_mut().skip(3).zip(count.to_be_bytes()).for_each(|(to, from)| *to = from);
    nonce[11] = u8::from(last);
    nonce.into()
}

fn stream(file_key: &[u8], nonce: &[u8]) -> Result<ChaCha20Poly1305, AgeError> {
    Ok(ChaCha20Poly1305::new(derived(file_key, nonce, b"payload")?.expose().into()))
}

/// Seals for the quorum. `random` is used once and never again.
// [clause 8.2.2-c] a backup is made with the public half alone: nobody has to come together for it
pub fn seal(recipient: &Recipient, plain: &[u8], random: &[u8; RANDOM]) -> Result<Vec<u8>, AgeError> {
    let (file_key, rest) = random.split_at(16);
    let (nonce, rest) = rest.split_at(16);
    let coins: &[u8; 64] = rest.try_into().map_err(|_| AgeError::Seal("random bytes are lacking"))?;
    let (encapsulated, shared) = recipient.key.encapsulate_deterministic(coins.into());
    let shared = Zeroizing::new(shared.0);
    let (key, hpke_nonce) = schedule(&*shared).ok_or(AgeError::Seal("its keys"))?;
    let failed = |_| AgeError::Seal("the cipher");
    let body =
        ChaCha20Poly1305::new(key.expose().into()).encrypt(&hpke_nonce.into(), file_key).map_err(failed)?;
    let mut file = VERSION.to_vec();
    file.extend(format!("\n-> {KIND} {}\n", STANDARD_NO_PAD.encode(encapsulated)).into_bytes());
    file.extend(format!("{}\n---", STANDARD_NO_PAD.encode(body)).into_bytes());
    let mac = mac_of(file_key, &file)?.finalize().into_bytes();
    file.extend(format!(" {}\n", STANDARD_NO_PAD.encode(mac)).into_bytes());
    file.extend(nonce);
    let cipher = stream(file_key, nonce)?;
    let count = plain.chunks(CHUNK).len().max(1);
    for at in 0..count {
        let part = plain.chunks(CHUNK).nth(at).unwrap_or_default();
        let nonce = chunk_nonce(at as u64, at + 1 == count);
        file.extend(cipher.encrypt(&nonce, part).map_err(failed)?);
    }
    Ok(file)
}

struct Stanza<'a> {
    arguments: Vec<&'a str>,
    body: Vec<u8>,
}

struct Head<'a> {
    stanzas: Vec<Stanza<'a>>,
    /// Everything that the MAC is over.
    covered: &'a [u8],
    mac: [u8; 32],
    /// Nonce and parts.
    payload: &'a [u8],
}

/// One line and the rest behind it.
fn line(bytes: &[u8]) -> Result<(&str, &[u8]), AgeError> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(AgeError::Head("it is cut off"))?;
    let (line, rest) = bytes.split_at(end);
    let line = std::str::from_utf8(line).map_err(|_| AgeError::Head("it is no text"))?;
    Ok((line, rest.get(1..).unwrap_or_default()))
}

fn canonical(text: &str) -> Result<Vec<u8>, AgeError> {
    STANDARD_NO_PAD.decode(text).map_err(|_| AgeError::Head("a part is no canonical base64"))
}

fn head(file: &[u8]) -> Result<Head<'_>, AgeError> {
    let mut rest = file.strip_prefix(VERSION).and_then(|r| r.strip_prefix(b"\n")).ok_or(AgeError::Version)?;
    let mut stanzas = Vec::new();
    loop {
        let (first, after) = line(rest)?;
        if let Some(mac) = first.strip_prefix("---") {
            let mac = mac.strip_prefix(' ').ok_or(AgeError::Head("it has no MAC"))?;
            let mac = canonical(mac)?.try_into().map_err(|_| AgeError::Head("its MAC has a wrong length"))?;
            let covered = file.len().saturating_sub(rest.len()).saturating_add(3);
            let covered = file.get(..covered).unwrap_or_default();
            if stanzas.is_empty() {
                return Err(AgeError::Head("it has no recipient"));
            }
            return Ok(Head { stanzas, covered, mac, payload: after });
        }
        let arguments = first.strip_prefix("-> ").ok_or(AgeError::Head("a line is no recipient"))?;
        let arguments: Vec<&str> = arguments.split(' ').collect();
        if arguments.iter().any(|a| a.is_empty() || !a.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(AgeError::Head("a recipient has a malformed argument"));
        }
        let mut encoded = String::new();
        rest = after;
        loop {
            let (part, after) = line(rest)?;
            rest = after;
            encoded.push_str(part);
            match part.len() {
                64 => {}
                0..64 => break,
                _ => return Err(AgeError::Head("a line of a recipient is too long")),
            }
        }
        stanzas.push(Stanza { arguments, body: canonical(&encoded)? });
    }
}

/// The file key, where this stanza is for the identity; `None` where it is for another.
fn unwrap(identity: &Identity, stanza: &Stanza<'_>) -> Result<Option<Wiped>, AgeError> {
    let (Some(&KIND), rest) = (stanza.arguments.first(), stanza.arguments.get(1..).unwrap_or_default())
    else {
        return Ok(None);
    };
    let [encapsulated] = rest else {
        return Err(AgeError::Head("a recipient has too many arguments, or too few"));
    };
    let encapsulated: [u8; CIPHERTEXT_SIZE] = canonical(encapsulated)?
        .try_into()
        .map_err(|_| AgeError::Head("a recipient's share has a wrong length"))?;
    if stanza.body.len() != 32 {
        return Err(AgeError::Head("a recipient's file key has a wrong length"));
    }
    let secret = DecapsulationKeyRejectNonContrib::from(*identity.0.expose());
    let shared = secret
        .try_decapsulate(&Ciphertext::from(encapsulated))
        .map_err(|_| AgeError::Head("a recipient's share is of low order"))?;
    let shared = Zeroizing::new(shared.0);
    let (key, nonce) = schedule(&*shared).ok_or(AgeError::Head("its keys"))?;
    let opened = ChaCha20Poly1305::new(key.expose().into()).decrypt(&nonce.into(), stanza.body.as_slice());
    Ok(opened.ok().map(Zeroizing::new))
}

fn payload(head: &Head<'_>, file_key: &[u8]) -> Result<Wiped, AgeError> {
    // [clause 8.2.2-c] nothing is read of what the MAC does not cover
    mac_of(file_key, head.covered)?.verify_slice(&head.mac).map_err(|_| AgeError::Mac)?;
    let (nonce, parts) = head.payload.split_at_checked(16).ok_or(AgeError::Head("it is cut off"))?;
    let cipher = stream(file_key, nonce)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(parts.len()));
    let count = parts.chunks(CHUNK + TAG).len();
    if count == 0 {
        return Err(AgeError::Payload(0));
    }
    for (at, part) in (0_u64..).zip(parts.chunks(CHUNK + TAG)) {
        let last = at.saturating_add(1) == count as u64;
        let opened = cipher.decrypt(&chunk_nonce(at, last), part).map_err(|_| AgeError::Payload(at))?;
        let opened = Zeroizing::new(opened);
        if opened.is_empty() && at > 0 {
            return Err(AgeError::Payload(at));
        }
        plain.extend_from_slice(&opened);
    }
    Ok(plain)
}

/// Opens a file that has the identity among its recipients.
pub fn open(identity: &Identity, file: &[u8]) -> Result<Wiped, AgeError> {
    let head = head(file)?;
    let mut found = None;
    for stanza in &head.stanzas {
        found = found.or(unwrap(identity, stanza)?);
    }
    payload(&head, &found.ok_or(AgeError::NoMatch)?)
}

/// Opens a file of ours: for the quorum, and for nobody else. A second recipient is somebody who reads along.
// [clause 8.2.2-c] a bundle with another recipient, or a weaker kind of one, is refused
pub fn open_alone(identity: &Identity, file: &[u8]) -> Result<Wiped, AgeError> {
    alone(&head(file)?)?;
    open(identity, file)
}

fn alone(head: &Head<'_>) -> Result<(), AgeError> {
    match head.stanzas.as_slice() {
        [one] if one.arguments.first() == Some(&KIND) => Ok(()),
        [_] => Err(AgeError::Recipients("its recipient is of another kind")),
        _ => Err(AgeError::Recipients("it has several recipients")),
    }
}

/// Whether this is the head of a file of ours, as far as that can be seen without the identity.
#[must_use]
pub fn is_for_a_quorum(file: &[u8]) -> bool {
    head(file).is_ok_and(|head| alone(&head).is_ok())
}

/// Reads back what was just sealed, by the file key that is still at hand: all but the recipient's own part.
pub fn read_back(file: &[u8], random: &[u8; RANDOM]) -> Result<Wiped, AgeError> {
    let head = head(file)?;
    alone(&head)?;
    payload(&head, random.first_chunk::<16>().map_or(&[], |k| k.as_slice()))
}

#[cfg(test)]
pub(super) fn open_by_file_key(file: &[u8], file_key: &[u8]) -> Result<Wiped, AgeError> {
    payload(&head(file)?, file_key)
}
