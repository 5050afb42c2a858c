//! Heartbeats: somebody in charge says that they still are. Without one a beacon gives no leases. [clause 8.2.1]
//!
//! It starts nothing and lifts nothing: where it is missing, devices that need a lease stop.
#![forbid(unsafe_code)]

use super::text::{fields, moment, render};
use crate::core::units::Timestamp;

/// The first line.
pub const TITLE: &str = "claviger heartbeat v1";

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// As the authority document names it.
    pub deployment: String,
    /// When it was written: an old one says nothing about now.
    pub issued: Timestamp,
}

impl Heartbeat {
    /// The text that is signed.
    #[must_use]
    pub fn render(&self) -> String {
        render(TITLE, &[("deployment", self.deployment.clone()), ("issued", self.issued.to_string())])
    }

    /// Reads a text; anything but the very bytes of [`Self::render`] is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let [deployment, issued] = fields(text, TITLE, ["deployment", "issued"])?;
        let read = Self {
            deployment: deployment.to_owned(),
            issued: moment(issued).ok_or("its issued is no time such as 2026-01-31T12:00:00.000Z")?,
        };
        if read.render() == text { Ok(read) } else { Err("it is not written as heartbeats are".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_its_very_bytes() {
        let beat = Heartbeat { deployment: "d".into(), issued: Timestamp(1_700_000_000_000) };
        assert_eq!(Heartbeat::parse(&beat.render()).unwrap(), beat);
        for bad in [
            "",
            "claviger heartbeat v1\ndeployment: d\n",
            "claviger heartbeat v1\ndeployment: d\nissued: now\n",
        ] {
            assert!(Heartbeat::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Heartbeat::parse(&format!("{}reason: x\n", beat.render())).is_err());
    }
}
