//! The file of a sealed PIN: what the TPM gave out, and what it was sealed to. Nothing in it is secret in clear, and
//! nothing in it is believed: the TPM decides, the file only helps to say why it refused.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::TpmError;
use super::commands::PCRS;

const VERSION: u32 = 1;

/// A sealed PIN is about 700 bytes; whatever is longer is none.
const MAX_FILE: u64 = 16 * 1024;

/// As it stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    nv_index: u32,
    counter: u64,
    pcr_bank: String,
    pcrs: BTreeMap<u8, String>,
    storage_root: String,
    public: String,
    private: String,
}

/// A sealed PIN.
pub struct Blob {
    /// Where the counter is.
    pub nv_index: u32,
    /// What the counter showed at sealing.
    pub counter: u64,
    /// What the PCRs held at sealing.
    pub pcrs: [[u8; 32]; 2],
    /// Name of the storage root key.
    pub root: Vec<u8>,
    /// Public part of the sealed object.
    pub public: Vec<u8>,
    /// Its private part, encrypted by the TPM.
    pub private: Vec<u8>,
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

impl Blob {
    fn from_raw(raw: &Raw) -> Option<Self> {
        let pcr = |n: u8| hex::decode(raw.pcrs.get(&n)?).ok()?.try_into().ok();
        let [first, second] = PCRS;
        (raw.version == VERSION && raw.pcr_bank == "sha256" && raw.pcrs.len() == PCRS.len()).then_some(())?;
        Some(Self {
            nv_index: raw.nv_index,
            counter: raw.counter,
            pcrs: [pcr(first)?, pcr(second)?],
            root: decoded(&raw.storage_root)?,
            public: decoded(&raw.public)?,
            private: decoded(&raw.private)?,
        })
    }

    /// Reads the file, with a bound.
    pub fn read(path: &Path) -> Result<Self, TpmError> {
        let unreadable = |source| TpmError::File { path: path.into(), source };
        let mut text = Vec::new();
        let file = fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE {
            return Err(TpmError::Damaged("it is too long"));
        }
        let raw: Raw = serde_json::from_slice(&text)
            .map_err(|_| TpmError::Damaged("it does not read as a sealed PIN"))?;
        Self::from_raw(&raw).ok_or(TpmError::Damaged("its fields are not those of a sealed PIN"))
    }

    /// Writes the file: whole or not at all, and for nobody else to read.
    pub fn write(&self, path: &Path) -> Result<(), TpmError> {
        let raw = Raw {
            version: VERSION,
            nv_index: self.nv_index,
            counter: self.counter,
            pcr_bank: "sha256".into(),
            pcrs: PCRS.into_iter().zip(self.pcrs.iter().map(hex::encode)).collect(),
            storage_root: STANDARD.encode(&self.root),
            public: STANDARD.encode(&self.public),
            private: STANDARD.encode(&self.private),
        };
        let failed = |source| TpmError::File { path: path.into(), source };
        let text = serde_json::to_string_pretty(&raw).map_err(|e| failed(e.into()))?;
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".new-{}", std::process::id()));
        let fresh = Path::new(&fresh);
        let put = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
            file.write_all(text.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(fresh, path)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        put().map_err(|source| {
            fs::remove_file(fresh).ok();
            failed(source)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn blob() -> Blob {
        Blob {
            nv_index: 0x0181_0c1a,
            counter: u64::MAX,
            pcrs: [[7; 32], [11; 32]],
            root: vec![1; 34],
            public: vec![2; 80],
            private: vec![3; 200],
        }
    }

    #[test]
    fn a_file_is_private_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin.sealed");
        for _ in 0..2 {
            blob().write(&path).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let back = Blob::read(&path).unwrap();
        assert_eq!((back.counter, back.pcrs, back.private), (u64::MAX, [[7; 32], [11; 32]], vec![3; 200]));
    }

    #[test]
    fn what_is_no_sealed_pin_is_damaged_and_never_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin.sealed");
        blob().write(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            "{}".into(),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("sha256", "sha1"),
            good.replace("\"7\"", "\"8\""),
            good.replace("0707", "zz"),
            good.replace("AwMD", "%"),
            good.replace("{\n", "{\n\"surprise\": 1,"),
            "x".repeat(20_000),
        ] {
            fs::write(&path, &bad).unwrap();
            assert!(matches!(Blob::read(&path), Err(TpmError::Damaged(_))), "{bad}");
        }
        assert!(matches!(Blob::read(&dir.path().join("none")), Err(TpmError::File { .. })));
    }
}
