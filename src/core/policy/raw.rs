//! The policy text as TOML holds it, with the place of each value.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::super::units::{Address, Name};
use super::rule::{Act, Kind};
use crate::core::proof::Tier;

pub(super) type Words = Option<Vec<Spanned<String>>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) schema: Spanned<u32>,
    #[serde(default)]
    pub(super) assets: BTreeMap<Name, Spanned<RawAsset>>,
    /// Names and addresses, or what file holds them and who signs it.
    #[serde(default)]
    pub(super) books: BTreeMap<Name, Spanned<BTreeMap<String, Spanned<toml::Value>>>>,
    pub(super) sweep: Option<Spanned<RawSweep>>,
    pub(super) tripwire: Option<Spanned<RawTripwire>>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTripwire {
    pub(super) refusals: Option<u32>,
    pub(super) new_destinations: Option<u32>,
    pub(super) within: Option<Spanned<String>>,
    pub(super) amount_factor: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSweep {
    pub(super) to: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAsset {
    pub(super) chain: Spanned<String>,
    pub(super) erc20: Option<Spanned<Address>>,
    #[serde(default)]
    pub(super) native: bool,
    pub(super) decimals: Spanned<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub(super) id: Spanned<Name>,
    pub(super) effect: Kind,
    pub(super) acts: Option<Spanned<Vec<Act>>>,
    pub(super) keys: Words,
    pub(super) apps: Words,
    pub(super) chains: Words,
    pub(super) assets: Words,
    pub(super) to: Option<Spanned<RawTo>>,
    pub(super) per_tx: Option<Spanned<RawMax>>,
    pub(super) fee: Option<Spanned<RawMax>>,
    #[serde(default)]
    pub(super) window: Vec<Spanned<RawWindow>>,
    pub(super) time: Option<Spanned<RawTime>>,
    #[serde(default)]
    pub(super) calls: Vec<Spanned<RawCall>>,
    pub(super) replacement: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) approve: Vec<Spanned<RawApprove>>,
    pub(super) tier: Option<Spanned<Tier>>,
    pub(super) new_destination: Option<Spanned<RawNew>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawApprove {
    pub(super) above: Option<String>,
    pub(super) quorum: u32,
    pub(super) of: Name,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNew {
    pub(super) delay: String,
    pub(super) max: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTo {
    pub(super) allow: Words,
    #[serde(default)]
    pub(super) deny: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMax {
    pub(super) max: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWindow {
    pub(super) len: String,
    pub(super) max: Option<String>,
    pub(super) count: Option<u64>,
    pub(super) scope: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTime {
    pub(super) tz: String,
    pub(super) days: Option<String>,
    pub(super) hours: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCall {
    pub(super) contract: Address,
    pub(super) selector: String,
}
