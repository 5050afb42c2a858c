//! A reactivation: the one document that lowers a level. The device writes it, people sign it.
#![forbid(unsafe_code)]

use super::text::{digest, fields, hex32, moment, number, render};
use super::{Level, Scope};
use crate::core::approval::{Needs, Shown};
use crate::core::units::{Timestamp, sha256};

/// The first line.
pub const TITLE: &str = "clavigerd reactivation v1";
const FIELDS: [&str; 10] =
    ["deployment", "device", "epoch", "scope", "level", "lifts", "challenge", "asked by", "needs", "expires"];

/// What people sign to have a device go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reactivation {
    /// As the authority document names it.
    pub deployment: String,
    /// Device id, hex.
    pub device: String,
    /// The epoch that it ends.
    pub epoch: u32,
    /// What goes on.
    pub scope: Scope,
    /// From which level.
    pub level: Level,
    /// SHA-256 of the order that it lifts, hex.
    pub lifts: String,
    /// Drawn by this device for this once, hex.
    pub challenge: String,
    /// The user of the device who asked; nobody approves what they asked for.
    pub uid: u32,
    /// Whose voices it takes.
    pub needs: Needs,
    /// Until when.
    pub expires: Timestamp,
}

impl Reactivation {
    /// The text that is signed.
    // [clause 8.2.1-b] what is lifted, on which device, and for this once
    #[must_use]
    pub fn render(&self) -> String {
        let values = [
            self.deployment.clone(),
            self.device.clone(),
            self.epoch.to_string(),
            self.scope.to_string(),
            self.level.as_str().to_owned(),
            format!("sha256:{}", self.lifts),
            self.challenge.clone(),
            format!("uid {}", self.uid),
            format!("{} of {}", self.needs.quorum, self.needs.of),
            self.expires.to_string(),
        ];
        let named: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
        render(TITLE, &named)
    }

    /// Reads a text; anything but the very bytes of [`Self::render`] is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let [deployment, device, epoch, scope, level, lifts, challenge, uid, needs, expires] =
            fields(text, TITLE, FIELDS)?;
        let small = |text: &str| number(text).and_then(|n| u32::try_from(n).ok());
        let (quorum, of) = needs.split_once(" of ").ok_or("its needs are no N of GROUP")?;
        let read = Self {
            deployment: deployment.to_owned(),
            device: hex32(device).ok_or("its device is no 64 hex digits")?,
            epoch: small(epoch).ok_or("its epoch is no number")?,
            scope: Scope::parse(scope).ok_or("its scope is none of all, app:NAME, key:NAME")?,
            level: Level::parse(level).ok_or("its level is none of suspend, inactivate, wipe")?,
            lifts: digest(lifts).ok_or("what it lifts is no sha256:HASH")?,
            challenge: hex32(challenge).ok_or("its challenge is no 64 hex digits")?,
            uid: uid.strip_prefix("uid ").and_then(small).ok_or("who asked is no uid")?,
            needs: Needs { quorum: small(quorum).ok_or("its needs are no N of GROUP")?, of: of.to_owned() },
            expires: moment(expires).ok_or("its end is no time such as 2026-01-31T12:00:00.000Z")?,
        };
        if read.render() == text { Ok(read) } else { Err("it is not written as reactivations are".into()) }
    }

    /// The text, and whose voices over it count.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown { text: self.render(), needs: self.needs.clone() }
    }

    /// SHA-256 of the text, hex.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(sha256(self.render().as_bytes()))
    }
}
