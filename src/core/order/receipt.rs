//! What a device answers an order with: a note signed by the key of its log, checked without the device.
#![forbid(unsafe_code)]

use super::text::{digest, fields, hex32, moment, number, render};
use crate::core::log::checkpoint::{CheckpointError, Head, verify, verify_note};
use crate::core::units::Timestamp;

/// The first line.
pub const TITLE: &str = "clavigerd receipt v1";
const FIELDS: [&str; 9] =
    ["device", "order", "heard", "scope", "level", "epoch", "log index", "time", "done"];

/// That an order was heard, and what was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Device id, hex.
    pub device: String,
    /// SHA-256 of the order, hex.
    pub order: String,
    /// raised, noted, equivocal.
    pub heard: String,
    /// What it is about.
    pub scope: String,
    /// The level from now on.
    pub level: String,
    /// The epoch that it was heard in.
    pub epoch: u32,
    /// Where it stands in the log.
    pub index: u64,
    /// When, by the device's clock.
    pub at: Timestamp,
    /// What was done at once, in words: nothing that was not.
    pub done: String,
}

/// Why a receipt is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// A note does not verify.
    #[error("{0}")]
    Note(#[from] CheckpointError),
    /// What it says is not what a receipt says.
    #[error("it is no receipt: {0}")]
    Text(String),
    /// The head of the log that comes with it is from before.
    #[error("the checkpoint covers {0} entries, and the order is entry {1}")]
    NotCovered(u64, u64),
}

impl Receipt {
    /// The text that is signed.
    #[must_use]
    pub fn render(&self) -> String {
        let values = [
            self.device.clone(),
            format!("sha256:{}", self.order),
            self.heard.clone(),
            self.scope.clone(),
            self.level.clone(),
            self.epoch.to_string(),
            self.index.to_string(),
            self.at.to_string(),
            self.done.clone(),
        ];
        let named: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
        render(TITLE, &named)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let [device, order, heard, scope, level, epoch, index, at, done] = fields(text, TITLE, FIELDS)?;
        Ok(Self {
            device: hex32(device).ok_or("its device is no 64 hex digits")?,
            order: digest(order).ok_or("its order is no sha256:HASH")?,
            heard: heard.to_owned(),
            scope: scope.to_owned(),
            level: level.to_owned(),
            epoch: number(epoch).and_then(|n| u32::try_from(n).ok()).ok_or("its epoch is no number")?,
            index: number(index).ok_or("its index is no number")?,
            at: moment(at).ok_or("its time is none")?,
            done: done.to_owned(),
        })
    }

    /// Verifies a receipt and the checkpoint over it, under the key that is trusted for this log.
    // [clause 8.2.1-f] nobody but the token of that device can have written it
    pub fn verify(note: &str, head: &str, vkey: &str) -> Result<(Self, Head), ReceiptError> {
        let receipt = Self::parse(&verify_note(note, vkey)?).map_err(ReceiptError::Text)?;
        let head = verify(head, vkey)?;
        if head.size <= receipt.index {
            return Err(ReceiptError::NotCovered(head.size, receipt.index));
        }
        Ok((receipt, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::log::checkpoint;
    use ed25519_dalek::{Signer, SigningKey};

    // [clause 8.2.1-f] test
    #[test]
    fn a_receipt_verifies_offline_and_any_change_is_found() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let public = key.verifying_key().to_bytes();
        let vkey = checkpoint::verifier_key("log.example", &public);
        let note = |text: &str| {
            checkpoint::note(text, "log.example", &public, &key.sign(text.as_bytes()).to_bytes())
        };
        let receipt = Receipt {
            device: "a".repeat(64),
            order: "b".repeat(64),
            heard: "raised".into(),
            scope: "all".into(),
            level: "inactivate".into(),
            epoch: 1,
            index: 7,
            at: Timestamp(1_700_000_000_000),
            done: "no signature comes out".into(),
        };
        let (signed, head) = (note(&receipt.render()), note(&checkpoint::body("log.example", 8, &[9; 32])));
        assert_eq!(Receipt::verify(&signed, &head, &vkey).unwrap().0, receipt);
        let old = note(&checkpoint::body("log.example", 7, &[9; 32]));
        assert_eq!(Receipt::verify(&signed, &old, &vkey), Err(ReceiptError::NotCovered(7, 7)));
        assert!(Receipt::verify(&signed.replace("inactivate", "suspend"), &head, &vkey).is_err());
        assert!(Receipt::verify(&head, &head, &vkey).is_err(), "a checkpoint is no receipt");
        assert!(checkpoint::verify(&signed, &vkey).is_err(), "a receipt is no checkpoint");
        let other = checkpoint::verifier_key(
            "log.example",
            &SigningKey::from_bytes(&[6; 32]).verifying_key().to_bytes(),
        );
        assert!(Receipt::verify(&signed, &head, &other).is_err());
    }
}
