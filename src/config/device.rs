//! `[device]`: what is demanded of the machine.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::core::device::fresh::Fresh;
use crate::core::device::{Demand, Demands, Name};
use crate::core::payment::{Asset, Chain};
use crate::core::units::parse_decimal;

/// What is demanded of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// How often it is looked at.
    pub every: Duration,
    /// What is made of each fact.
    pub demands: Demands,
    /// SHA-256 of the released program.
    pub binary: Option<[u8; 32]>,
    /// PCRs of a good boot.
    pub pcrs: Vec<(u8, [u8; 32])>,
    /// The TPM that quotes.
    pub tpm: Option<String>,
    /// Payments before which it is looked at anew.
    pub fresh: Fresh,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFresh {
    chain: Chain,
    asset: Asset,
    amount: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    every_seconds: Option<u64>,
    binary: Option<String>,
    tpm: Option<String>,
    #[serde(default)]
    pcrs: BTreeMap<String, String>,
    #[serde(default)]
    require: Vec<Name>,
    #[serde(default)]
    warn: Vec<Name>,
    #[serde(default)]
    ignore: Vec<Name>,
    #[serde(default)]
    fresh_from: Vec<RawFresh>,
}

fn fresh(raw: Vec<RawFresh>) -> Result<Fresh, String> {
    let mut amounts = BTreeMap::new();
    for RawFresh { chain, asset, amount } in raw {
        let what = format!("device.fresh_from of {chain} {asset}");
        let read = parse_decimal(&amount).ok_or_else(|| {
            format!("{what}: {amount:?} must be a decimal number of base units below 2^256, as a string")
        })?;
        if amounts.insert((chain, asset), read).is_some() {
            return Err(format!("{what} stands twice"));
        }
    }
    Ok(Fresh(amounts))
}

fn digest(what: &str, text: &str) -> Result<[u8; 32], String> {
    let text = text.strip_prefix("sha256:").unwrap_or(text);
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).map_err(|_| format!("{what} is 64 hex digits of a SHA-256"))?;
    Ok(out)
}

impl RawDevice {
    pub(super) fn resolve(self) -> Result<DeviceConfig, String> {
        let mut demands = BTreeMap::new();
        for (names, demand) in
            [(self.require, Demand::Require), (self.warn, Demand::Warn), (self.ignore, Demand::Ignore)]
        {
            for name in names {
                if demands.insert(name, demand).is_some() {
                    return Err(format!(
                        "device: {} stands twice under require, warn and ignore",
                        name.as_str()
                    ));
                }
            }
        }
        let every = self.every_seconds.unwrap_or(30);
        if !(1..=3600).contains(&every) {
            return Err(format!("device.every_seconds = {every} is outside 1 to 3600"));
        }
        let mut pcrs = Vec::new();
        for (index, value) in &self.pcrs {
            let number: u8 = index
                .parse()
                .ok()
                .filter(|n| *n < 24)
                .ok_or_else(|| format!("device.pcrs: {index:?} is no PCR; they go from 0 to 23"))?;
            pcrs.push((number, digest(&format!("device.pcrs.{index}"), value)?));
        }
        Ok(DeviceConfig {
            every: Duration::from_secs(every),
            demands: Demands(demands),
            binary: self.binary.as_deref().map(|b| digest("device.binary", b)).transpose()?,
            pcrs,
            tpm: self.tpm,
            fresh: fresh(self.fresh_from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_that_contradict_themselves_are_refused() {
        let read = |text: &str| {
            toml::from_str::<RawDevice>(text).map_err(|e| e.to_string()).and_then(RawDevice::resolve)
        };
        assert_eq!(read("").unwrap().every, Duration::from_secs(30));
        let good = read("require = [\"swap\"]\nignore = [\"bpf\"]\npcrs = { 7 = \"00\" }");
        assert!(good.unwrap_err().contains("64 hex"));
        for (text, why) in [
            ("require = [\"swap\"]\nwarn = [\"swap\"]", "twice"),
            ("require = [\"sunshine\"]", "unknown variant"),
            ("every_seconds = 0", "outside"),
            ("pcrs = { x = \"00\" }", "no PCR"),
            ("binary = \"xyz\"", "64 hex"),
            ("mood = 1", "unknown field"),
            ("fresh_from = [{ chain = \"eip155:1\", asset = \"gold\", amount = \"1\" }]", "an asset is"),
            ("fresh_from = [{ chain = \"eip155:1\", asset = \"native\", amount = \"much\" }]", "base units"),
            (
                "[[fresh_from]]\nchain = \"eip155:1\"\nasset = \"native\"\namount = \"1\"\n[[fresh_from]]\nchain = \"eip155:1\"\nasset = \"native\"\namount = \"2\"",
                "twice",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert_eq!(read("require = [\"swap\"]").unwrap().demands.of(Name::Swap), Demand::Require);
    }
}
