//! The PIN: fetched from where the configuration says, and sealed in a TPM for later.
//!
//! Without the feature `tpm` each of these refuses and says how to get a build that does not.
#![forbid(unsafe_code)]

use std::path::Path;

use serde_json::Value;

use crate::config::PinSource;
use crate::refusal::{Code, Refusal};
use crate::secret::Pin;

/// Where the counter is when nobody says otherwise.
pub const NV_INDEX: u32 = 0x0181_0c1a;

/// Fetches the PIN; `None` when it comes by `claviger unlock`.
pub fn fetch(source: &PinSource) -> Result<Option<Pin>, Refusal> {
    match source {
        PinSource::Tpm { file, tcti } => tpm::unseal(file, tcti).map(Some),
        PinSource::File(_) | PinSource::Credential(_) | PinSource::Unlock => {
            source.read().map_err(|e| Refusal::new(Code::TokenLocked, e.to_string()))
        }
    }
}

/// Whether this program knows a TPM: to be asked before a person is asked for a PIN.
pub fn available() -> Result<(), Refusal> {
    tpm::available()
}

/// Seals a PIN into a file, and tells what it was sealed to.
pub fn seal(pin: &Pin, tcti: &str, nv_index: u32, file: &Path) -> Result<Value, Refusal> {
    tpm::seal(pin, tcti, nv_index, file)
}

/// Makes every PIN useless that was sealed to this counter so far.
pub fn raise(tcti: &str, nv_index: u32) -> Result<Value, Refusal> {
    tpm::raise(tcti, nv_index)
}

/// What a TPM signed.
pub struct Quoted {
    /// Its key.
    pub key: Vec<u8>,
    /// What it signed.
    pub attest: Vec<u8>,
    /// How.
    pub signature: Vec<u8>,
    /// The PCRs.
    pub pcrs: Vec<Vec<u8>>,
}

/// Has the TPM quote its PCRs with a digest.
pub fn quote(tcti: &str, qualifying: &[u8; 32]) -> Result<Quoted, Refusal> {
    tpm::quote(tcti, qualifying)
}

/// Whether a sealed PIN would open now; the PIN is wiped unseen.
pub fn check(file: &Path, tcti: &str) -> Result<(), Refusal> {
    tpm::unseal(file, tcti).map(drop)
}

#[cfg(feature = "tpm")]
mod tpm {
    use super::{Path, Pin, Quoted, Refusal, Value};
    use crate::core::device::quote::{PCRS, selection};
    use crate::tpm;
    use serde_json::json;

    #[expect(clippy::unnecessary_wraps, reason = "a build without the feature refuses here")]
    pub fn available() -> Result<(), Refusal> {
        Ok(())
    }

    pub fn unseal(file: &Path, tcti: &str) -> Result<Pin, Refusal> {
        Ok(tpm::unseal(file, tcti)?)
    }

    pub fn seal(pin: &Pin, tcti: &str, nv_index: u32, file: &Path) -> Result<Value, Refusal> {
        let sealed = tpm::seal(pin, tcti, nv_index, file)?;
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
        let mut told =
            json!({"file": file, "nv_index": format!("{nv_index:#010x}"), "counter": sealed.counter});
        if let (Some(map), false) = (told.as_object_mut(), sealed.blank.is_empty()) {
            map.insert("blank_pcrs".into(), json!(sealed.blank));
        }
        Ok(told)
    }

    pub fn quote(tcti: &str, qualifying: &[u8; 32]) -> Result<Quoted, Refusal> {
        let count = u32::try_from(PCRS.len()).unwrap_or(0);
        let made = tpm::quote(tcti, qualifying, &selection(), count)?;
        Ok(Quoted { key: made.key, attest: made.attest, signature: made.signature, pcrs: made.pcrs })
    }

    pub fn raise(tcti: &str, nv_index: u32) -> Result<Value, Refusal> {
        let counter = tpm::raise(tcti, nv_index)?;
        Ok(json!({"nv_index": format!("{nv_index:#010x}"), "counter": counter}))
    }
}

#[cfg(not(feature = "tpm"))]
mod tpm {
    use super::{Code, Path, Pin, Quoted, Refusal, Value};

    pub fn available() -> Result<(), Refusal> {
        not_built()
    }

    fn not_built<T>() -> Result<T, Refusal> {
        Err(Refusal::new(Code::TpmNotBuilt, "this program knows no TPM: build it with --features tpm"))
    }

    pub fn unseal(_: &Path, _: &str) -> Result<Pin, Refusal> {
        not_built()
    }

    pub fn seal(_: &Pin, _: &str, _: u32, _: &Path) -> Result<Value, Refusal> {
        not_built()
    }

    pub fn raise(_: &str, _: u32) -> Result<Value, Refusal> {
        not_built()
    }

    pub fn quote(_: &str, _: &[u8; 32]) -> Result<Quoted, Refusal> {
        not_built()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn without_the_feature_each_use_is_refused_with_the_way_out() {
            let pin = Pin::new("1234".to_owned()).unwrap();
            let file = Path::new("/nonexistent/pin.sealed");
            for refusal in [
                available().unwrap_err(),
                unseal(file, "device").map(drop).unwrap_err(),
                seal(&pin, "device", super::super::NV_INDEX, file).map(drop).unwrap_err(),
                raise("device", super::super::NV_INDEX).map(drop).unwrap_err(),
            ] {
                assert_eq!(refusal.code, Code::TpmNotBuilt);
                assert!(refusal.sentence.contains("--features tpm"));
            }
        }
    }
}
