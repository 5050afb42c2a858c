//! The latch: a number outside the disk that only rises. A state that knows less than it shows is an old copy. [clause 8.2.1]
//!
//! A third kind belongs here, between the two: small data that the token itself keeps, for machines without a TPM.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::rules::write_atomically;
use crate::config::LatchPlace;
use crate::core::order::Level;
use crate::refusal::Refusal;

/// A number that only rises.
pub(super) trait Latch: Send + Sync {
    /// What it shows; 0 where nothing was ever written.
    fn read(&self) -> Result<u64, String>;
    /// Raises it to this at least.
    fn raise_to(&self, value: u64) -> Result<(), String>;
    /// Whether it is moved for this: some wear out, or close more than one wants closed.
    fn moves_for(&self, level: Option<Level>) -> bool;
    /// Whether a value that this state knows nothing of can be somebody else's doing.
    fn may_be_shared(&self) -> bool;
}

/// The latch that is configured.
pub(super) fn of(place: &LatchPlace) -> Box<dyn Latch> {
    match place {
        LatchPlace::File(path) => Box::new(FileLatch(path.clone())),
        LatchPlace::Tpm { nv_index, tcti } => Box::new(TpmLatch { nv_index: *nv_index, tcti: tcti.clone() }),
    }
}

const TITLE: &str = "clavigerd latch v1\nshows: ";

/// A file. Whoever puts back the disk that it is on puts it back too: keep it on another one.
struct FileLatch(PathBuf);

impl Latch for FileLatch {
    fn read(&self) -> Result<u64, String> {
        let text = match std::fs::read_to_string(&self.0) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|e| format!("{}: {e}", self.0.display()))?,
        };
        let value = text.strip_prefix(TITLE).and_then(|rest| rest.strip_suffix('\n')?.parse::<u64>().ok());
        // [clause 8.2.1-c] what cannot be read is not taken for nothing
        value
            .filter(|v| format!("{TITLE}{v}\n") == text)
            .ok_or_else(|| format!("{} is damaged", self.0.display()))
    }

    fn raise_to(&self, value: u64) -> Result<(), String> {
        if self.read()? >= value {
            return Ok(());
        }
        write_atomically(&self.0, format!("{TITLE}{value}\n").as_bytes())
            .map_err(|e| format!("{} cannot be written: {e}", self.0.display()))
    }

    fn moves_for(&self, _level: Option<Level>) -> bool {
        true
    }

    fn may_be_shared(&self) -> bool {
        false
    }
}

/// The counter that sealed PINs hang on: raised, it closes them for good, and the machine starts without a PIN.
struct TpmLatch {
    nv_index: u32,
    tcti: String,
}

/// A counter is never moved further than this at once.
const MOST_STEPS: u64 = 8;

impl Latch for TpmLatch {
    fn read(&self) -> Result<u64, String> {
        super::pin::counter(&self.tcti, self.nv_index).map_err(|r: Refusal| r.to_string())
    }

    fn raise_to(&self, value: u64) -> Result<(), String> {
        for _ in 0..MOST_STEPS {
            if self.read()? >= value {
                return Ok(());
            }
            super::pin::raise(&self.tcti, self.nv_index).map_err(|r| r.to_string())?;
        }
        Err(format!("the counter stands further below {value} than it is ever moved"))
    }

    fn moves_for(&self, level: Option<Level>) -> bool {
        level >= Some(Level::Inactivate)
    }

    fn may_be_shared(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // [clause 8.2.1-c] test
    #[test]
    fn a_file_latch_only_rises_and_a_damaged_one_is_not_read_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latch");
        let latch = FileLatch(path.clone());
        assert_eq!(latch.read(), Ok(0));
        latch.raise_to(3).unwrap();
        latch.raise_to(2).unwrap();
        assert_eq!(latch.read(), Ok(3));
        for bad in [
            "",
            "clavigerd latch v1\nshows: 03\n",
            "clavigerd latch v1\nshows: 3",
            "clavigerd latch v1\nshows: -1\n",
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(latch.read().is_err(), "{bad:?}");
            assert!(latch.raise_to(9).is_err(), "{bad:?}");
        }
    }
}
