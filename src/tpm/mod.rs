//! A PIN that opens in one TPM only, after one boot state only, and only until a counter in it is raised.
//!
//! The PIN is sealed under the storage root key with the policy "NV counter equals what it showed at sealing, and PCRs 7
//! and 11 are what they were". The disk alone gives nothing; a disk of before a [`raise`] gives nothing in its own machine
//! either, because no TPM counts down. The talk with the TPM runs in a session salted by the storage root key, with the
//! PIN encrypted both ways and every answer under a MAC, so that a listener on the bus learns nothing and can bend
//! nothing. Who can send commands of his own on the bus of the rightly started machine is not stopped: the policy asks
//! for a state, not for a secret.
//!
//! The commands are spoken to the kernel's device directly: there are few, and a C library in the daemon's memory
//! would be a bigger risk than they are.
#![forbid(unsafe_code)]

mod blob;
mod commands;
mod device;
mod quote;
mod session;
mod wire;

use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::refusal::{Code, Refusal};
use crate::secret::Pin;
use blob::Blob;
use commands::{Counter, PCRS, Tpm, is_sealed, policy, rc};
use device::Device;
pub use quote::Quoted;

/// Longest PIN, bytes: a TPM seals 128, and one tells the length.
pub const MAX_PIN: usize = 127;

/// NV indexes that the TCG leaves to the owner of a machine.
pub const OWNER_INDEXES: std::ops::RangeInclusive<u32> = 0x0180_0000..=0x01bf_ffff;

/// Why there is no PIN.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The address names no TPM.
    #[error(
        "{0:?} is no address of a TPM: write device:/dev/tpmrm0, or swtpm:host=127.0.0.1,port=N or swtpm:path=SOCKET for a software TPM"
    )]
    Address(String),
    /// Nobody answers there.
    #[error("no TPM answers at {place}: {why}")]
    Absent {
        /// Its address.
        place: String,
        /// What the system says.
        why: String,
    },
    /// Another boot state.
    #[error(
        "the machine was started in another state than the one that the PIN was sealed in (changed: {0}); if that was intended, seal the PIN again"
    )]
    BootChanged(String),
    /// The counter was raised.
    #[error(
        "the counter {index:#010x} stands at {now}, the PIN was sealed at {sealed}: it was made useless on purpose, and only a new sealing by an operator brings it back"
    )]
    CounterRaised {
        /// Where.
        index: u32,
        /// What it showed at sealing.
        sealed: u64,
        /// What it shows.
        now: u64,
    },
    /// The counter is gone.
    #[error(
        "the TPM has no counter at {0:#010x}: it was deleted, and what was sealed to it stays closed for good"
    )]
    CounterMissing(u32),
    /// Something else is there.
    #[error("what the TPM holds at {0:#010x} is not a counter of ours; choose another index")]
    CounterForeign(u32),
    /// An index that is not the owner's.
    #[error(
        "{0:#010x} is outside 0x01800000 to 0x01bfffff, the indexes that belong to the owner of a machine"
    )]
    Index(u32),
    /// Another TPM.
    #[error("the PIN was sealed in another TPM, or this one was cleared since")]
    OtherTpm,
    /// The file is damaged.
    #[error("the sealed PIN is damaged or was changed: {0}")]
    Damaged(&'static str),
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Dictionary lockout.
    #[error(
        "the TPM refuses all passwords for a while, because somebody guessed too often (dictionary lockout)"
    )]
    LockedOut,
    /// The owner has a password.
    #[error("the TPM's owner has set a password, and this release does not ask for it")]
    OwnerPassword,
    /// No SHA-256 PCRs.
    #[error("the TPM keeps no SHA-256 PCRs; switch that bank on in the firmware")]
    Bank,
    /// Too long.
    #[error("the PIN is longer than {MAX_PIN} bytes, which is all that a TPM seals")]
    PinTooLong,
    /// The talk was disturbed.
    #[error("somebody stands between this machine and its TPM, or the TPM is broken: {0}")]
    Tampered(&'static str),
    /// The kernel gave no random bytes.
    #[error("no random bytes: {0}")]
    Randomness(String),
    /// Any other answer.
    #[error("the TPM refuses {command} with code {code:#05x}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The answer, without the number of a parameter.
        code: u32,
    },
}

impl From<TpmError> for Refusal {
    fn from(error: TpmError) -> Self {
        let code = match &error {
            TpmError::Absent { .. } => Code::TpmAbsent,
            TpmError::BootChanged(_) => Code::TpmBootChanged,
            TpmError::CounterRaised { .. } | TpmError::CounterMissing(_) => Code::TpmInactivated,
            TpmError::OtherTpm => Code::TpmOther,
            TpmError::Damaged(_) | TpmError::File { .. } => Code::TpmBlobDamaged,
            TpmError::LockedOut => Code::TpmLockedOut,
            TpmError::Address(_)
            | TpmError::CounterForeign(_)
            | TpmError::Index(_)
            | TpmError::OwnerPassword
            | TpmError::Bank
            | TpmError::PinTooLong
            | TpmError::Tampered(_)
            | TpmError::Randomness(_)
            | TpmError::Refused { .. } => Code::TpmRefused,
        };
        Self::new(code, error.to_string())
    }
}

/// What a PIN was sealed to.
pub struct Sealed {
    /// What the counter shows.
    pub counter: u64,
    /// PCRs in which nothing was measured: they tell no two boots apart.
    pub blank: Vec<u8>,
}

/// All of one size, so that the file does not tell how long the PIN is.
fn framed(pin: &Pin) -> Result<Zeroizing<[u8; MAX_PIN + 1]>, TpmError> {
    let mut frame = Zeroizing::new([0; MAX_PIN + 1]);
    let (first, rest) = frame.split_first_mut().ok_or(TpmError::PinTooLong)?;
    *first = u8::try_from(pin.expose().len()).map_err(|_| TpmError::PinTooLong)?;
    rest.get_mut(..pin.expose().len()).ok_or(TpmError::PinTooLong)?.copy_from_slice(pin.expose());
    Ok(frame)
}

fn unframed(frame: &[u8]) -> Option<Pin> {
    let (length, rest) = frame.split_first()?;
    Pin::from_bytes(rest.get(..usize::from(*length))?)
}

fn connect(address: &str) -> Result<Tpm, TpmError> {
    Device::open(address).map(Tpm::new)
}

/// Seals a PIN to this TPM, this boot state and the counter's value, and writes the file once it was seen to open.
pub fn seal(pin: &Pin, address: &str, nv_index: u32, path: &Path) -> Result<Sealed, TpmError> {
    let frame = framed(pin)?;
    if !OWNER_INDEXES.contains(&nv_index) {
        return Err(TpmError::Index(nv_index));
    }
    let mut tpm = connect(address)?;
    let root = tpm.root()?;
    let counter = tpm.start_counter(nv_index)?;
    let value = tpm.value(&counter)?;
    let pcrs = tpm.pcrs()?;
    let (public, private) = tpm.seal(&root, &policy(&counter, value, &pcrs), &*frame)?;
    drop(tpm);
    let blob = Blob { nv_index, counter: value, pcrs, root: root.name, public, private };
    let again = open(&mut connect(address)?, &blob)?;
    if !bool::from(again.expose().ct_eq(pin.expose())) {
        return Err(TpmError::Tampered("it gives another PIN than it was given"));
    }
    blob.write(path)?;
    let blank = PCRS.into_iter().zip(pcrs).filter(|(_, pcr)| *pcr == [0; 32]).map(|(n, _)| n).collect();
    Ok(Sealed { counter: value, blank })
}

/// Quotes PCRs with a digest; `selection` is a `TPML_PCR_SELECTION` of `count` PCRs of the SHA-256 bank.
pub fn quote(
    address: &str,
    qualifying: &[u8; 32],
    selection: &[u8; 10],
    count: u32,
) -> Result<Quoted, TpmError> {
    connect(address)?.quote(qualifying, selection, count)
}

/// Opens a sealed PIN.
pub fn unseal(path: &Path, address: &str) -> Result<Pin, TpmError> {
    let blob = Blob::read(path)?;
    open(&mut connect(address)?, &blob)
}

// [clause 8.2.5-d] the TPM decides: whatever the file says, it is asked, and what is looked at afterwards only tells why
fn open(tpm: &mut Tpm, blob: &Blob) -> Result<Pin, TpmError> {
    let root = tpm.root()?;
    if root.name != blob.root {
        return Err(TpmError::OtherTpm);
    }
    if !is_sealed(&blob.public) {
        return Err(TpmError::Damaged("its public part is not ours"));
    }
    let object = match tpm.load(&root, &blob.public, &blob.private) {
        // A format-one code: what is wrong is in what was sent.
        Err(TpmError::Refused { code, .. }) if code & 0x80 != 0 => {
            return Err(TpmError::Damaged("the TPM does not take it for its own"));
        }
        other => other?,
    };
    let counter = tpm.counter(blob.nv_index)?.ok_or(TpmError::CounterMissing(blob.nv_index))?;
    let frame = tpm
        .fulfil(&root, &counter, blob.counter)
        .and_then(|mut session| tpm.unseal(object, &blob.public, &mut session));
    match frame {
        Err(TpmError::Refused { code: rc::POLICY | rc::POLICY_FAIL | rc::PCR_CHANGED, .. }) => {
            Err(why_closed(tpm, blob, &counter)?)
        }
        Err(e) => Err(e),
        Ok(frame) => unframed(&frame).ok_or(TpmError::Damaged("what it holds is no PIN")),
    }
}

/// Why the policy is not fulfilled.
fn why_closed(tpm: &mut Tpm, blob: &Blob, counter: &Counter) -> Result<TpmError, TpmError> {
    let value = tpm.value(counter)?;
    if value != blob.counter {
        return Ok(TpmError::CounterRaised { index: blob.nv_index, sealed: blob.counter, now: value });
    }
    let now = tpm.pcrs()?;
    let changed: Vec<String> = PCRS
        .into_iter()
        .zip(now.iter().zip(&blob.pcrs))
        .filter(|(_, (now, then))| now != then)
        .map(|(n, _)| {
            format!("PCR {n}, {}", if n == 7 { "Secure Boot and its keys" } else { "the kernel image" })
        })
        .collect();
    Ok(if changed.is_empty() {
        TpmError::Damaged("its parts do not belong together")
    } else {
        TpmError::BootChanged(changed.join("; "))
    })
}

/// Counts up by one: everything that was sealed to the counter before stays closed for good. Gives the new value.
pub fn raise(address: &str, nv_index: u32) -> Result<u64, TpmError> {
    let mut tpm = connect(address)?;
    let counter = tpm.counter(nv_index)?.ok_or(TpmError::CounterMissing(nv_index))?;
    tpm.increment(nv_index)?;
    tpm.value(&counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_of_one_size_and_give_the_pin_back() {
        for text in ["1", "123456", &"x".repeat(MAX_PIN)] {
            let frame = framed(&Pin::new(text.to_owned()).unwrap()).unwrap();
            assert_eq!(unframed(&*frame).unwrap().expose(), text.as_bytes());
        }
        let long = Pin::new("x".repeat(MAX_PIN + 1)).unwrap();
        assert!(matches!(framed(&long), Err(TpmError::PinTooLong)));
        assert!(matches!(framed(&Pin::new("x".repeat(300)).unwrap()), Err(TpmError::PinTooLong)));
        assert!(unframed(&[]).is_none());
        assert!(unframed(&[0, 1]).is_none());
        assert!(unframed(&[3, 1, 2]).is_none());
    }

    #[test]
    fn a_lockout_and_the_rest_have_their_codes() {
        assert_eq!(Refusal::from(TpmError::LockedOut).code, Code::TpmLockedOut);
        assert_eq!(Refusal::from(TpmError::CounterMissing(1)).code, Code::TpmInactivated);
        assert_eq!(Refusal::from(TpmError::OwnerPassword).code, Code::TpmRefused);
    }
}
