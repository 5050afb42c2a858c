//! What a token with a log of its own wrote down, and what stands there that we did not ask for.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// One entry of a device's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    /// Its number; after 65535 comes 0.
    pub number: u16,
    /// The command, as the device numbers them.
    pub command: u8,
    /// Length of the command's data, bytes.
    pub length: u16,
    /// The authentication key whose session it came from; 65535 for none.
    pub session_key: u16,
    /// The key that was worked with.
    pub target_key: u16,
    /// The other key, where there are two.
    pub second_key: u16,
    /// First byte of the answer; below 128 it is an error, and nothing was done.
    pub result: u8,
    /// Milliseconds since the device was switched on, as it counts them.
    pub tick: u32,
}

/// Something that stands in the device's log, or lacks there, and is not our doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strange {
    /// For people.
    pub what: String,
    /// The entry, where it is one.
    pub entry: Option<DeviceEntry>,
}

/// How far a device's log was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Number of the last entry that was read.
    pub number: u16,
    /// Its digest: the next entry is chained to it.
    pub digest: [u8; 16],
}

/// What a look into the device's log came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// What was not our doing.
    pub strange: Vec<Strange>,
    /// How far the log was read, once it was.
    pub mark: Option<Mark>,
}

/// What a token was asked, in the terms of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// A signature or a MAC.
    Use,
    /// A key was made.
    Make,
    /// A key was removed.
    Remove,
    /// Data was put in, and older data removed.
    Keep,
    /// A check, which does all of these many times.
    Check,
}

/// What the next session with a device must know of the one before it, which ended without a last look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// How far the log was read.
    pub mark: Option<Mark>,
    /// What was asked since then, and may stand there.
    pub asked: Vec<Asked>,
    /// The log may have been read further than was told.
    pub unsure: bool,
}
