//! What is being paid: one file a chain. Decode, describe, digest, put the signature back. [clause 8.4.3]
//!
//! Invariant: bytes that were not decoded and re-encoded exactly are never signed.
#![forbid(unsafe_code)]

pub mod evm;
pub mod message;

use serde::{Deserialize, Serialize};

use super::units::{Address, U256, decimal, sha256};

/// What a key signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSign {
    /// A 32-byte hash for ECDSA, computed here from decoded content, never taken from a caller.
    Prehash([u8; 32]),
    /// The whole message, for Ed25519.
    Message(Vec<u8>),
}

impl ToSign {
    /// The digest that ties the proofs of one request together: SHA-256 of what the token is handed.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        match self {
            Self::Prehash(hash) => sha256(hash),
            Self::Message(message) => sha256(message),
        }
    }

    /// The bytes that the token is handed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Prehash(hash) => hash,
            Self::Message(message) => message,
        }
    }
}

/// A chain, as CAIP-2 names it; EVM chains only for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Chain(pub u64);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "eip155:{}", self.0)
    }
}

impl Chain {
    /// Parses `eip155:N`, N in decimal without leading zeros, above zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id: u64 = text.strip_prefix("eip155:")?.parse().ok()?;
        (id > 0 && format!("eip155:{id}") == text).then_some(Self(id))
    }
}

impl Serialize for Chain {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Chain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a chain is eip155:N"))
    }
}

/// What moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asset {
    /// The chain's own coin, in wei.
    Native,
    /// An ERC-20 token by its contract, in its base units.
    Erc20(Address),
}

impl std::fmt::Display for Asset {
    /// `native`, or `erc20:0x…`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Erc20(contract) => write!(f, "erc20:{contract}"),
        }
    }
}

impl Serialize for Asset {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Asset {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match text.strip_prefix("erc20:").map(Address::parse) {
            None if text == "native" => Ok(Self::Native),
            Some(Some(contract)) => Ok(Self::Erc20(contract)),
            _ => Err(serde::de::Error::custom("an asset is native or erc20:0x…")),
        }
    }
}

/// What a transaction does with money, as far as its bytes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Effect {
    /// Money of the key's account goes to `to`.
    Transfer {
        /// What.
        asset: Asset,
        /// Whom.
        to: Address,
        /// How much, base units.
        #[serde(with = "decimal")]
        amount: U256,
    },
    /// ERC-20 `approve`: `spender` may take up to `amount`, now or later.
    Approve {
        /// What.
        asset: Asset,
        /// Who may take.
        spender: Address,
        /// How much, base units.
        #[serde(with = "decimal")]
        amount: U256,
    },
    /// ERC-20 `transferFrom`: money that `owner` granted goes to `to`.
    TransferFrom {
        /// What.
        asset: Asset,
        /// Whose.
        owner: Address,
        /// Whom.
        to: Address,
        /// How much, base units.
        #[serde(with = "decimal")]
        amount: U256,
    },
    /// Any other call: what it does is not known.
    ContractCall {
        /// The contract.
        contract: Address,
        /// First four bytes of the call data; `None` when there are fewer.
        #[serde(serialize_with = "selector_hex", deserialize_with = "hex_selector", default)]
        selector: Option<[u8; 4]>,
        /// Coin sent along, wei.
        #[serde(with = "decimal")]
        value: U256,
    },
    /// A new contract is made.
    ContractCreation {
        /// Coin sent along, wei.
        #[serde(with = "decimal")]
        value: U256,
    },
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde's serialize_with demands"
)]
fn selector_hex<S: serde::Serializer>(selector: &Option<[u8; 4]>, s: S) -> Result<S::Ok, S::Error> {
    match selector {
        Some(bytes) => s.collect_str(&format_args!("0x{}", hex::encode(bytes))),
        None => s.serialize_none(),
    }
}

fn hex_selector<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<[u8; 4]>, D::Error> {
    let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
    let mut selector = [0; 4];
    text.strip_prefix("0x")
        .and_then(|digits| hex::decode_to_slice(digits, &mut selector).ok())
        .ok_or_else(|| serde::de::Error::custom("a selector is 0x and 8 hex digits"))?;
    Ok(Some(selector))
}

/// A decoded payment: who, what, to whom, how much, at what highest fee.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Where.
    pub chain: Chain,
    /// The account that pays, derived from the key.
    pub from: Address,
    /// What it does.
    pub effect: Effect,
    /// Highest possible fee, wei: gas limit times fee cap.
    #[serde(with = "decimal")]
    pub max_fee: U256,
    /// Fee cap per gas, wei.
    #[serde(with = "decimal")]
    pub fee_per_gas: U256,
    /// The account's nonce.
    pub nonce: u64,
}

impl Effect {
    /// Asset and amount that leave, or may leave, the account; `None` for a plain creation or call without value.
    #[must_use]
    pub fn debit(&self) -> Option<(Asset, U256)> {
        match *self {
            Self::Transfer { asset, amount, .. }
            | Self::Approve { asset, amount, .. }
            | Self::TransferFrom { asset, amount, .. } => Some((asset, amount)),
            Self::ContractCall { value, .. } | Self::ContractCreation { value } => {
                (!value.is_zero()).then_some((Asset::Native, value))
            }
        }
    }

    /// The party that gets the money or the grant.
    #[must_use]
    pub fn counterparty(&self) -> Option<Address> {
        match *self {
            Self::Transfer { to, .. } | Self::TransferFrom { to, .. } => Some(to),
            Self::Approve { spender, .. } => Some(spender),
            Self::ContractCall { contract, .. } => Some(contract),
            Self::ContractCreation { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_says_of_a_payment_is_read_back_as_it_was() {
        let (a, b) = (Address([0xab; 20]), Address([0xcd; 20]));
        let amount = U256::MAX;
        for effect in [
            Effect::Transfer { asset: Asset::Native, to: a, amount },
            Effect::Transfer { asset: Asset::Erc20(b), to: a, amount: U256::ZERO },
            Effect::Approve { asset: Asset::Erc20(b), spender: a, amount },
            Effect::TransferFrom { asset: Asset::Erc20(b), owner: a, to: b, amount },
            Effect::ContractCall { contract: a, selector: Some([1, 2, 3, 0xff]), value: amount },
            Effect::ContractCall { contract: a, selector: None, value: U256::ZERO },
            Effect::ContractCreation { value: amount },
        ] {
            let payment = Payment {
                chain: Chain(1),
                from: b,
                effect,
                max_fee: amount,
                fee_per_gas: U256::ONE,
                nonce: u64::MAX,
            };
            let text = serde_json::to_string(&payment).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::from_value::<Payment>(value).unwrap(), payment, "{text}");
        }
    }
}
