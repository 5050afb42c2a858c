//! How an entry is written: a map in deterministic CBOR; those of older logs are a line of JSON. Both are read.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::key::{Origin, State};
use super::super::units::Timestamp;
use super::cbor;
use super::entry::EntryKind;

/// Longest entry, bytes (C2SP tlog-tiles: a 16-bit length).
pub const MAX_ENTRY: usize = 65_535;

/// What entries did not say yet when keys could come from nowhere else.
pub(super) fn generated() -> Origin {
    Origin::Generated
}

/// Nor where every key began.
pub(super) fn active() -> State {
    State::Active
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Format version.
    pub v: u32,
    /// Index in the log.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// Milliseconds since the epoch; never decreases.
    pub at_ms: i64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EntryKind,
}

impl Entry {
    /// The format of entries that are JSON: what logs before this one hold.
    pub const JSON: u32 = 1;
    /// The format of entries that are deterministic CBOR: what is written now.
    pub const CBOR: u32 = 2;

    /// The bytes that the log holds.
    pub fn encode(seq: u64, at: Timestamp, kind: &EntryKind) -> Result<Vec<u8>, String> {
        let mut value = serde_json::to_value(kind).map_err(|e| e.to_string())?;
        let map = value.as_object_mut().ok_or("an entry is no map")?;
        map.insert("v".into(), Self::CBOR.into());
        map.insert("seq".into(), seq.into());
        map.insert("at".into(), at.to_string().into());
        map.insert("at_ms".into(), at.0.into());
        cbor::encode(&value).map_err(|e| e.to_string())
    }

    /// The members of an entry, whichever its format: the first byte tells.
    // [clause 8.7.1-e] an entry has one form, so that its hash says what it says
    pub fn members(bytes: &[u8]) -> Result<Value, String> {
        if cbor::is_map(bytes) {
            cbor::decode(bytes).map_err(|e| e.to_string())
        } else {
            serde_json::from_slice(bytes).map_err(|e| e.to_string())
        }
    }

    /// Reads an entry as it stands in the log.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let entry: Self = if cbor::is_map(bytes) {
            serde_json::from_value(Self::members(bytes)?).map_err(|e| e.to_string())?
        } else {
            serde_json::from_slice(bytes).map_err(|e| e.to_string())?
        };
        let format = if cbor::is_map(bytes) { Self::CBOR } else { Self::JSON };
        if entry.v == format {
            Ok(entry)
        } else {
            Err(format!("its format is {}, and it is written as {format}", entry.v))
        }
    }

    /// Members that this program does not know, or reads otherwise than they are written: an entry has none.
    pub fn strangers(&self, written: &Value) -> Result<Vec<String>, String> {
        let read = serde_json::to_value(self).map_err(|e| e.to_string())?;
        let members = written.as_object().ok_or("it is no object")?;
        Ok(members.iter().filter(|(n, value)| read.get(n) != Some(value)).map(|(n, _)| n.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_an_entry_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), head in 0usize..3) {
            let head: &[u8] = [b"".as_slice(), b"{\"v\":1,", b"\xa5\x61v\x02"].get(head).copied().unwrap_or_default();
            prop_assert!(Entry::decode(&[head, &bytes].concat()).is_err());
        }

        #[test]
        fn texts_come_apart_and_go_together(text in "\\PC{0,20000}", more in 0usize..3) {
            let text = text.repeat(more + 1);
            let (mut whole, mut next) = (String::new(), 1);
            for kind in EntryKind::documents("policy", &text) {
                prop_assert!(Entry::encode(u64::MAX, Timestamp(i64::MAX), &kind).unwrap().len() < MAX_ENTRY);
                let EntryKind::Document { part, text, .. } = kind else { panic!("another kind") };
                prop_assert_eq!(part, next);
                next += 1;
                whole += &text;
            }
            prop_assert_eq!(whole, text);
        }
    }
}
