//! An order: what it says, and the bytes that are signed.
#![forbid(unsafe_code)]

use super::text::{digest, fields, hex32, moment, number, render, words};
use super::{Level, Scope};
use crate::core::units::{Timestamp, sha256};

/// The first line.
pub const TITLE: &str = "clavigerd order v1";
const FIELDS: [&str; 9] =
    ["deployment", "device", "epoch", "number", "level", "scope", "issued", "previous", "reason"];

/// An order to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// As the authority document names it.
    pub deployment: String,
    /// Device id, hex.
    pub device: String,
    /// How often the device was reactivated, and one: a reactivation makes all older orders void.
    pub epoch: u32,
    /// Counts the orders of an epoch, from 1.
    pub number: u64,
    /// How far.
    pub level: Level,
    /// What.
    pub scope: Scope,
    /// When it was written; told, and decides nothing.
    pub issued: Timestamp,
    /// SHA-256 of the order before, hex, so that a lost one is missed.
    pub previous: Option<String>,
    /// Why, in a person's words.
    pub reason: String,
}

impl Order {
    /// The text that is signed: always the same bytes for the same order.
    #[must_use]
    pub fn render(&self) -> String {
        let values = [
            self.deployment.clone(),
            self.device.clone(),
            self.epoch.to_string(),
            self.number.to_string(),
            self.level.as_str().to_owned(),
            self.scope.to_string(),
            self.issued.to_string(),
            self.previous.as_ref().map_or_else(|| "none".to_owned(), |h| format!("sha256:{h}")),
            self.reason.clone(),
        ];
        let named: Vec<(&str, String)> = FIELDS.into_iter().zip(values).collect();
        render(TITLE, &named)
    }

    /// Reads a text; anything but the very bytes of [`Self::render`] is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let [deployment, device, epoch, count, level, scope, issued, previous, reason] =
            fields(text, TITLE, FIELDS)?;
        let order = Self {
            deployment: deployment.to_owned(),
            device: hex32(device).ok_or("its device is no 64 hex digits")?,
            epoch: number(epoch)
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .ok_or("its epoch is no number from 1 on")?,
            number: number(count).filter(|n| *n > 0).ok_or("its number is none from 1 on")?,
            level: Level::parse(level).ok_or("its level is none of suspend, inactivate, wipe")?,
            scope: Scope::parse(scope).ok_or("its scope is none of all, app:NAME, key:NAME")?,
            issued: moment(issued).ok_or("its issued is no time such as 2026-01-31T12:00:00.000Z")?,
            previous: match previous {
                "none" => None,
                hash => Some(digest(hash).ok_or("its previous is neither none nor sha256:HASH")?),
            },
            reason: words(reason)?,
        };
        order.check()?;
        if order.render() == text { Ok(order) } else { Err("it is not written as orders are".into()) }
    }

    /// What no order can ask for.
    pub fn check(&self) -> Result<(), String> {
        words(&self.reason)?;
        match (&self.scope, self.level) {
            (Scope::App(_), Level::Wipe) => Err("an app has no keys of its own that could be wiped".into()),
            _ => Ok(()),
        }
    }

    /// SHA-256 of the text, hex: its name.
    #[must_use]
    pub fn hash(&self) -> String {
        hex::encode(sha256(self.render().as_bytes()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::core::units::Name;
    use proptest::prelude::*;

    pub(in super::super) fn order(number: u64, level: Level, scope: Scope) -> Order {
        Order {
            deployment: "d".into(),
            device: "a".repeat(64),
            epoch: 1,
            number,
            level,
            scope,
            issued: Timestamp(1_700_000_000_000),
            previous: None,
            reason: "lost".into(),
        }
    }

    #[test]
    fn an_order_reads_like_this() {
        let text = order(1, Level::Inactivate, Scope::All).render();
        let expected = format!(
            "clavigerd order v1\ndeployment: d\ndevice: {}\nepoch: 1\nnumber: 1\nlevel: inactivate\nscope: all\nissued: 2023-11-14T22:13:20.000Z\nprevious: none\nreason: lost\n",
            "a".repeat(64)
        );
        assert_eq!(text, expected);
        assert_eq!(Order::parse(&text).unwrap(), order(1, Level::Inactivate, Scope::All));
        for (from, to) in [
            ("number: 1", "number: 01"),
            ("number: 1", "number: 0"),
            ("number: 1", "number: 18446744073709551616"),
            ("epoch: 1", "epoch: 4294967296"),
            ("level: inactivate", "level: active"),
            ("scope: all", "scope: ALL"),
            ("scope: all", "scope: key:hot@2"),
            ("previous: none", "previous: sha256:00"),
            ("reason: lost", "reason: "),
            ("reason: lost", "reason:  lost"),
            ("scope: all", "scope: app:x\nlevel: wipe"),
        ] {
            assert!(Order::parse(&text.replace(from, to)).is_err(), "{to}");
        }
        let app = Scope::App(Name::parse("web").unwrap());
        assert!(Order::parse(&order(1, Level::Wipe, app).render()).is_err());
    }

    proptest! {
        // [clause 8.2.3-b] test
        #[test]
        fn what_is_read_is_written_again_the_same(text in "clavigerd order v1\n(([a-z]{1,8}: .{0,9}\n){9}|.{0,99})") {
            if let Ok(order) = Order::parse(&text) {
                prop_assert_eq!(order.render(), text);
            }
        }

        #[test]
        fn orders_survive_the_way_to_text_and_back(
            epoch in 1..u32::MAX, number in 1..u64::MAX, level in 0..3usize, scope in 0..3usize,
            issued in 0..4_000_000_000_000i64, previous in proptest::option::of(any::<[u8; 32]>()),
            reason in "[!-~]([ -~]{0,80}[!-~])?",
        ) {
            let name = Name::parse("hot-1").unwrap();
            let scope = [Scope::All, Scope::App(name.clone()), Scope::Key(name)][scope].clone();
            let mut told = order(number, Level::ALL[level], scope);
            (told.epoch, told.issued, told.reason) = (epoch, Timestamp(issued), reason);
            told.previous = previous.map(hex::encode);
            if told.check().is_ok() {
                prop_assert_eq!(Order::parse(&told.render()), Ok(told));
            }
        }
    }
}
