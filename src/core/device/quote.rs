//! A TPM's quote over the facts of a machine: made there, judged elsewhere, with the nonce of who asks.
//!
//! TPM 2.0 Library, Part 2, 10.12 (`TPMS_ATTEST`). What is signed binds the nonce, the facts and the PCRs together; it
//! says that this TPM signed them just now, not that the kernel told the truth about the facts.
#![forbid(unsafe_code)]

use p256::ecdsa::signature::Verifier;
use p256::ecdsa::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::Fact;
use crate::core::units::sha256;

/// The PCRs that are quoted: firmware, its extensions, boot loader, Secure Boot, kernel image.
pub const PCRS: [u8; 5] = [0, 2, 4, 7, 11];
/// Shortest and longest nonce, bytes.
pub const NONCES: std::ops::RangeInclusive<usize> = 16..=64;

const MAGIC: u32 = 0xff54_4347;
const QUOTE: u16 = 0x8018;
const SHA256: u16 = 0x000b;

/// A quote with all that it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// `claviger device quote v1`.
    pub format: String,
    /// What the verifier sent, hex.
    pub nonce: String,
    /// The facts, as they were found.
    pub facts: Vec<Fact>,
    /// The PCRs, in the order of [`PCRS`], hex.
    pub pcrs: Vec<String>,
    /// The TPM's signing key: a point of P-256, uncompressed, hex.
    pub key: String,
    /// `TPMS_ATTEST`, hex.
    pub attest: String,
    /// r and s, hex.
    pub signature: String,
}

/// The name of the format.
pub const FORMAT: &str = "claviger device quote v1";

/// What a quote was found to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The key that signed: trust it only when it is the one that was seen when the machine was set up.
    pub key: String,
    /// Milliseconds that the TPM has run; never goes back until it is cleared.
    pub clock_ms: u64,
    /// How often the machine was reset.
    pub resets: u32,
    /// Whether the clock is known not to have been set back.
    pub safe: bool,
    /// The TPM's firmware.
    pub firmware: String,
}

/// Why a quote is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// It cannot be read.
    #[error("the quote cannot be read: {0}")]
    Form(&'static str),
    /// Of another nonce, or of other facts.
    #[error("the quote is not over this nonce and these facts: it is an old one, or they were changed")]
    Other,
    /// Of other PCRs.
    #[error("the quote is not over these PCR values")]
    Pcrs,
    /// By another key than the one that is trusted.
    #[error("the quote is signed by another key: {0}")]
    Key(String),
    /// The signature does not verify.
    #[error("the signature of the quote does not verify")]
    Signature,
}

/// What the TPM is given to sign with the PCRs.
#[must_use]
pub fn qualifying(nonce: &[u8], facts: &[Fact]) -> [u8; 32] {
    let mut text = b"claviger device quote v1\n".to_vec();
    text.extend(sha256(nonce));
    text.extend(super::digest(facts));
    sha256(&text)
}

/// `TPML_PCR_SELECTION` of SHA-256 and [`PCRS`].
#[must_use]
pub fn selection() -> [u8; 10] {
    let mut bits = [0u8; 3];
    for pcr in PCRS {
        if let Some(byte) = bits.get_mut(usize::from(pcr / 8)) {
            *byte |= 1 << (pcr % 8);
        }
    }
    let [a, b, c] = bits;
    [0, 0, 0, 1, 0, 0x0b, 3, a, b, c]
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.array()?);
        self.take(usize::from(length))
    }
}

struct Attest<'a> {
    extra: &'a [u8],
    clock_ms: u64,
    resets: u32,
    safe: bool,
    firmware: u64,
    selection: &'a [u8],
    digest: &'a [u8],
}

fn read(attest: &[u8]) -> Option<Attest<'_>> {
    let mut r = Reader(attest);
    if u32::from_be_bytes(r.array()?) != MAGIC || u16::from_be_bytes(r.array()?) != QUOTE {
        return None;
    }
    r.sized()?;
    let extra = r.sized()?;
    let (clock, resets) = (u64::from_be_bytes(r.array()?), u32::from_be_bytes(r.array()?));
    let _restarts: [u8; 4] = r.array()?;
    let [safe] = r.array()?;
    let firmware = u64::from_be_bytes(r.array()?);
    let (selection, digest) = (r.take(10)?, r.sized()?);
    let whole = r.0.is_empty() && safe <= 1;
    whole.then_some(Attest { extra, clock_ms: clock, resets, safe: safe == 1, firmware, selection, digest })
}

impl Quote {
    /// Judges it: over this nonce, by this key where one is named.
    // [clause 8.2.4-g] a machine convinces another one by what its TPM signs, not by its own word
    pub fn judge(&self, nonce: &[u8], trusted: Option<&str>) -> Result<Judged, QuoteError> {
        let form = QuoteError::Form;
        if self.format != FORMAT || self.pcrs.len() != PCRS.len() {
            return Err(form("it is of another format"));
        }
        if trusted.is_some_and(|t| !t.eq_ignore_ascii_case(&self.key)) {
            return Err(QuoteError::Key(self.key.clone()));
        }
        let hex = |text: &str, what| hex::decode(text).map_err(|_| QuoteError::Form(what));
        let attest = hex(&self.attest, "attest is not hex")?;
        let said = read(&attest).ok_or(form("attest is no quote of a TPM"))?;
        let key = VerifyingKey::from_sec1_bytes(&hex(&self.key, "key is not hex")?)
            .map_err(|_| form("the key is no point of P-256"))?;
        let signature = Signature::from_slice(&hex(&self.signature, "signature is not hex")?)
            .map_err(|_| form("the signature is not 64 bytes of r and s"))?;
        key.verify(&attest, &signature).map_err(|_| QuoteError::Signature)?;
        if said.extra != qualifying(nonce, &self.facts) {
            return Err(QuoteError::Other);
        }
        let mut pcrs = Vec::new();
        for pcr in &self.pcrs {
            pcrs.extend(hex(pcr, "a PCR is not hex")?);
        }
        if said.selection != selection() || said.digest != sha256(&pcrs) {
            return Err(QuoteError::Pcrs);
        }
        Ok(Judged {
            key: self.key.clone(),
            clock_ms: said.clock_ms,
            resets: said.resets,
            safe: said.safe,
            firmware: format!("{:016x}", said.firmware),
        })
    }
}

/// `r || s` of a `TPMT_SIGNATURE` by ECDSA with SHA-256.
#[must_use]
pub fn raw_signature(of: &[u8]) -> Option<[u8; 64]> {
    let mut r = Reader(of);
    if u16::from_be_bytes(r.array()?) != 0x0018 || u16::from_be_bytes(r.array()?) != SHA256 {
        return None;
    }
    let (first, second) = (r.sized()?, r.sized()?);
    let mut out = [0; 64];
    // A TPM may leave zeroes in front out.
    let (left, right) = out.split_at_mut(32);
    for (to, from) in [(left, first), (right, second)] {
        to.get_mut(32_usize.checked_sub(from.len())?..)?.copy_from_slice(from);
    }
    r.0.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::super::{Name, Verdict};
    use super::*;
    use p256::ecdsa::signature::Signer;

    fn facts() -> Vec<Fact> {
        vec![Fact { name: Name::Swap, verdict: Verdict::Pass, found: "none".into() }]
    }

    fn made(nonce: &[u8]) -> Quote {
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let pcrs = [[0u8; 32]; 5];
        let sized = |b: &[u8]| [&u16::try_from(b.len()).unwrap().to_be_bytes(), b].concat();
        let attest = [
            &MAGIC.to_be_bytes()[..],
            &QUOTE.to_be_bytes(),
            &sized(b"signer"),
            &sized(&qualifying(nonce, &facts())),
            &5u64.to_be_bytes(),
            &2u32.to_be_bytes(),
            &1u32.to_be_bytes(),
            &[1],
            &9u64.to_be_bytes(),
            &selection(),
            &sized(&sha256(&pcrs.concat())),
        ]
        .concat();
        let signature: Signature = secret.sign(&attest);
        Quote {
            format: FORMAT.into(),
            nonce: hex::encode(nonce),
            facts: facts(),
            pcrs: pcrs.iter().map(hex::encode).collect(),
            key: hex::encode(secret.verifying_key().to_sec1_point(false).as_bytes()),
            attest: hex::encode(&attest),
            signature: hex::encode(signature.to_bytes()),
        }
    }

    // [clause 8.2.4-g] test
    #[test]
    fn a_quote_is_worth_something_for_its_nonce_facts_pcrs_and_key_alone() {
        let nonce = [3; 16];
        let quote = made(&nonce);
        let judged = quote.judge(&nonce, Some(&quote.key)).unwrap();
        assert_eq!((judged.clock_ms, judged.resets, judged.safe), (5, 2, true));
        assert_eq!(quote.judge(&[4; 16], None), Err(QuoteError::Other));
        assert!(matches!(quote.judge(&nonce, Some("04")), Err(QuoteError::Key(_))));
        let with = |change: &dyn Fn(&mut Quote)| {
            let mut other = quote.clone();
            change(&mut other);
            other.judge(&nonce, None)
        };
        assert_eq!(with(&|q| q.facts[0].verdict = Verdict::Fail), Err(QuoteError::Other));
        assert_eq!(with(&|q| q.facts.clear()), Err(QuoteError::Other));
        assert_eq!(with(&|q| q.pcrs[2] = "11".repeat(32)), Err(QuoteError::Pcrs));
        assert_eq!(with(&|q| q.signature = "11".repeat(64)), Err(QuoteError::Signature));
        assert_eq!(with(&|q| q.attest.push_str("00")), Err(QuoteError::Form("attest is no quote of a TPM")));
        let bytes = hex::decode(&quote.attest).unwrap();
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(with(&|q| q.attest = hex::encode(&bent)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn signatures_of_a_tpm_are_read_with_their_zeroes() {
        let of = |r: &[u8], s: &[u8]| {
            let sized = |b: &[u8]| [&u16::try_from(b.len()).unwrap().to_be_bytes(), b].concat();
            [&[0, 0x18, 0, 0x0b][..], &sized(r), &sized(s)].concat()
        };
        let read = raw_signature(&of(&[1; 31], &[2; 32])).unwrap();
        assert_eq!((read[0], read[1], read[32]), (0, 1, 2));
        assert_eq!(raw_signature(&of(&[1; 33], &[2; 32])), None);
        assert_eq!(raw_signature(&[0, 0x18]), None);
        assert_eq!(raw_signature(&[of(&[1; 32], &[2; 32]), vec![0]].concat()), None);
    }
}
