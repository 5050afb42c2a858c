//! What the log says of the copies of a key: noted, to be gone by a time, gone, overdue.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::super::key::copies::CopyKind;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum CopyEvent {
    /// All are gone, and the key with them.
    Certified {
        /// Key.
        key: String,
        /// What is certified, word by word.
        text: String,
    },
    /// There is one.
    Noted {
        /// Key.
        key: String,
        /// What it is.
        what: CopyKind,
        /// Where.
        place: String,
        /// What it is known again by.
        mark: String,
        /// The operator who told of it; the daemon itself when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
    },
    /// Its key is being destroyed: it has to be gone by then.
    Due {
        /// Key.
        key: String,
        /// What it is.
        what: CopyKind,
        /// Where.
        place: String,
        /// When: RFC 3339, UTC.
        due: String,
    },
    /// It is gone.
    Gone {
        /// Key.
        key: String,
        /// What it was.
        what: CopyKind,
        /// Where.
        place: String,
        /// `daemon`, or the operator whose word it is.
        by: String,
        /// How.
        how: String,
    },
    /// Its time is over, and it is not gone.
    Overdue {
        /// Key.
        key: String,
        /// What it is.
        what: CopyKind,
        /// Where.
        place: String,
        /// When it had to be gone: RFC 3339, UTC.
        due: String,
    },
}
