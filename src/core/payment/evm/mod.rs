//! Ethereum transactions: legacy (EIP-155), EIP-2930, EIP-1559. Decoded, described, hashed, sealed.
//!
//! Refuses what it does not know: unprotected legacy, blobs (EIP-4844), set-code (EIP-7702), unknown fields,
//! non-canonical or trailing bytes. Never hashes bytes that do not re-encode to themselves.
#![forbid(unsafe_code)]

mod args;
mod json;
mod rlp;

use super::{Asset, Chain, Effect, Payment, ToSign};
use crate::core::units::{Address, U256, keccak256, sha256};
use crate::core::verify::{CheckedSignature, is_of_account};
use crate::refusal::Code;

/// Longest call data, bytes.
pub const MAX_INPUT: usize = 128 * 1024;
/// Most access-list slots.
pub const MAX_ACCESS: usize = 4096;

/// Why bytes or fields are no payment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaymentError {
    /// A field is missing.
    #[error("the transaction has no {0}")]
    Missing(&'static str),
    /// A field is not known.
    #[error("the transaction has a field {0:?} that is not known here, so what it does is not known either")]
    UnknownField(String),
    /// A field holds something wrong.
    #[error("{field} is wrong: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// Two fields contradict each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// A kind that is not signed here.
    #[error("transactions of type {0} are not signed here; send legacy with chain id, EIP-2930 or EIP-1559")]
    Kind(String),
    /// Not canonical RLP, or not a transaction.
    #[error("the bytes are no canonical unsigned transaction: {0}")]
    Encoding(&'static str),
    /// Amounts past 2^256-1.
    #[error("{0} is larger than 2^256-1")]
    Overflow(&'static str),
}

impl PaymentError {
    /// Its refusal code.
    #[must_use]
    pub fn code(&self) -> Code {
        Code::PaymentMalformed
    }
}

/// How the fee is bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fee {
    /// EIP-155 legacy: one price, wei per gas.
    Legacy {
        /// Wei per gas.
        gas_price: u128,
    },
    /// EIP-2930: one price, wei per gas.
    AccessList {
        /// Wei per gas.
        gas_price: u128,
    },
    /// EIP-1559: caps, wei per gas.
    Dynamic {
        /// Highest total, wei per gas.
        max_fee: u128,
        /// Highest tip, wei per gas.
        max_priority: u128,
    },
}

/// One entry of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessItem {
    /// The account.
    pub address: Address,
    /// Its storage slots.
    pub slots: Vec<[u8; 32]>,
}

/// A transaction before its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsignedTx {
    pub(super) chain: u64,
    pub(super) nonce: u64,
    pub(super) fee: Fee,
    pub(super) gas: u64,
    pub(super) to: Option<Address>,
    pub(super) value: U256,
    pub(super) input: Vec<u8>,
    pub(super) access: Vec<AccessItem>,
}

/// A transaction with its signature.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedTx {
    /// EIP-2718 bytes, ready to be broadcast.
    pub raw: Vec<u8>,
    /// Transaction hash.
    pub hash: [u8; 32],
    /// The fields as geth prints them.
    pub tx: serde_json::Value,
}

impl SignedTx {
    /// `0x` and the raw bytes.
    #[must_use]
    pub fn raw_hex(&self) -> String {
        format!("0x{}", hex::encode(&self.raw))
    }
}

const TRANSFER: [u8; 4] = [0xa9, 0x05, 0x9c, 0xbb];
const APPROVE: [u8; 4] = [0x09, 0x5e, 0xa7, 0xb3];
const TRANSFER_FROM: [u8; 4] = [0x23, 0xb8, 0x72, 0xdd];

impl UnsignedTx {
    /// Reads the unsigned bytes: nine-item EIP-155 list, or type byte and list.
    pub fn decode(bytes: &[u8]) -> Result<Self, PaymentError> {
        let tx = rlp::decode(bytes)?;
        tx.check()?;
        if tx.encode_unsigned() != bytes {
            return Err(PaymentError::Encoding("they do not re-encode to themselves"));
        }
        Ok(tx)
    }

    /// Reads a JSON-RPC transaction object; also gives its `from`.
    pub fn from_args(args: &serde_json::Value) -> Result<(Self, Option<Address>), PaymentError> {
        let (tx, from) = args::read(args)?;
        tx.check()?;
        Ok((tx, from))
    }

    fn check(&self) -> Result<(), PaymentError> {
        let wrong = |field, why: &str| Err(PaymentError::Field { field, why: why.to_owned() });
        if self.chain == 0 {
            return wrong(
                "chainId",
                "it must be above zero: without it the payment could be replayed on another chain",
            );
        }
        // EIP-2681
        if self.nonce == u64::MAX {
            return wrong("nonce", "2^64-1 can never be used (EIP-2681)");
        }
        // v of EIP-155 is 35 + 2 * chain id + parity
        if self.chain > (u64::MAX - 36) / 2 {
            return wrong("chainId", "it is too large for EIP-155");
        }
        if self.input.len() > MAX_INPUT {
            return wrong("input", "it is longer than 131072 bytes");
        }
        if let Fee::Dynamic { max_fee, max_priority } = self.fee
            && max_priority > max_fee
        {
            return wrong("maxPriorityFeePerGas", "it is above maxFeePerGas");
        }
        if self.access.iter().map(|a| a.slots.len().saturating_add(1)).sum::<usize>() > MAX_ACCESS {
            return wrong("accessList", "it has more than 4096 entries");
        }
        Ok(())
    }

    /// The unsigned bytes, as they are hashed.
    #[must_use]
    pub fn encode_unsigned(&self) -> Vec<u8> {
        rlp::encode(self, None)
    }

    /// Keccak-256 of the unsigned bytes: what the key signs.
    #[must_use]
    pub fn signing_hash(&self) -> [u8; 32] {
        keccak256(&self.encode_unsigned())
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> Chain {
        Chain(self.chain)
    }

    /// The account nonce.
    #[must_use]
    pub fn nonce(&self) -> u64 {
        self.nonce
    }

    /// Fee cap, wei per gas.
    fn fee_per_gas(&self) -> u128 {
        match self.fee {
            Fee::Legacy { gas_price } | Fee::AccessList { gas_price } => gas_price,
            Fee::Dynamic { max_fee, .. } => max_fee,
        }
    }

    /// What it does with the money of `from`.
    // [clause 8.4.3-a] the bytes decide what a payment is; what they do not say clearly is a contract call
    pub fn payment(&self, from: Address) -> Result<Payment, PaymentError> {
        let fee_per_gas = U256::from(self.fee_per_gas());
        let max_fee =
            fee_per_gas.checked_mul(U256::from(self.gas)).ok_or(PaymentError::Overflow("the highest fee"))?;
        max_fee.checked_add(self.value).ok_or(PaymentError::Overflow("value and highest fee together"))?;
        Ok(Payment {
            chain: self.chain(),
            from,
            effect: self.effect(),
            max_fee,
            fee_per_gas,
            nonce: self.nonce,
        })
    }

    fn effect(&self) -> Effect {
        let Some(to) = self.to else { return Effect::ContractCreation { value: self.value } };
        if self.input.is_empty() {
            return Effect::Transfer { asset: Asset::Native, to, amount: self.value };
        }
        let call = Effect::ContractCall {
            contract: to,
            selector: self.input.first_chunk().copied(),
            value: self.value,
        };
        if !self.value.is_zero() {
            return call;
        }
        erc20(to, &self.input).unwrap_or(call)
    }

    /// What a fee bump must leave alone: chain, nonce, destination, value, call data, access list.
    #[must_use]
    pub fn content_digest(&self) -> [u8; 32] {
        let fee = Fee::Dynamic { max_fee: 0, max_priority: 0 };
        sha256(&rlp::encode(&Self { fee, gas: 0, ..self.clone() }, None))
    }

    /// The transaction object that a wallet sends for it: what [`Self::from_args`] reads.
    #[must_use]
    pub fn to_args(&self, from: Address) -> serde_json::Value {
        json::args(self, from)
    }

    /// Reads signed bytes that must be those of this very transaction, signed by this account.
    pub fn signed_by(&self, account: Address, raw: &[u8]) -> Result<SignedTx, PaymentError> {
        let seal = rlp::seal(self, raw)?;
        // Written again from what was asked for: a byte that differs anywhere is found by this one comparison.
        if rlp::encode(self, Some(&seal)) != raw {
            return Err(PaymentError::Conflict("the signed bytes are those of another transaction"));
        }
        if !is_of_account(account, &self.signing_hash(), (&seal.r, &seal.s), seal.odd) {
            return Err(PaymentError::Conflict("the signature is not that of the account that was to pay"));
        }
        let hash = keccak256(raw);
        Ok(SignedTx { tx: json::describe(self, &seal, &hash), raw: raw.to_vec(), hash })
    }

    /// Puts the signature in; refuses one that was made for other bytes.
    pub fn sealed(&self, signature: &CheckedSignature) -> Result<SignedTx, PaymentError> {
        if *signature.digest() != ToSign::Prehash(self.signing_hash()).digest() {
            return Err(PaymentError::Conflict("the signature was made for another transaction"));
        }
        let seal = rlp::Seal { r: signature.r(), s: signature.s(), odd: signature.y_odd() };
        let raw = rlp::encode(self, Some(&seal));
        let hash = keccak256(&raw);
        Ok(SignedTx { tx: json::describe(self, &seal, &hash), raw, hash })
    }
}

/// ERC-20 calls with exactly the words that the standard gives them.
fn erc20(contract: Address, input: &[u8]) -> Option<Effect> {
    let (selector, words) = input.split_first_chunk::<4>()?;
    let words: Vec<&[u8; 32]> = {
        let (chunks, rest) = words.as_chunks::<32>();
        if !rest.is_empty() {
            return None;
        }
        chunks.iter().collect()
    };
    let asset = Asset::Erc20(contract);
    let amount = |word: &[u8; 32]| U256::from_be_bytes(*word);
    match (*selector, words.as_slice()) {
        (TRANSFER, [to, value]) => {
            Some(Effect::Transfer { asset, to: word_address(to)?, amount: amount(value) })
        }
        (APPROVE, [spender, value]) => {
            Some(Effect::Approve { asset, spender: word_address(spender)?, amount: amount(value) })
        }
        (TRANSFER_FROM, [owner, to, value]) => Some(Effect::TransferFrom {
            asset,
            owner: word_address(owner)?,
            to: word_address(to)?,
            amount: amount(value),
        }),
        _ => None,
    }
}

fn word_address(word: &[u8; 32]) -> Option<Address> {
    let (zeros, address) = word.split_first_chunk::<12>()?;
    (zeros == &[0; 12]).then(|| address.try_into().ok().map(Address)).flatten()
}

#[cfg(test)]
mod tests;
