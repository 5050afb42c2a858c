//! What is to be paid, and what came back: read before it is sent, compared when it is signed.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::error::Error;
use crate::core::payment::evm::UnsignedTx;
use crate::core::proof::RequestId;
use crate::core::units::{Address, U256};

/// A payment: an account, and the transaction that it is to sign. It is also what makes asking twice harmless: the same
/// payment gives the same signature and is counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payment {
    from: Address,
    transaction: UnsignedTx,
}

/// The fields of an EIP-1559 transaction. Nothing is filled in: the daemon talks to no node.
///
/// ```
/// use claviger::client::{Address, Eip1559, Payment, U256};
///
/// let payment = Payment::try_from(Eip1559 {
///     from: Address::parse("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed").unwrap(),
///     chain: 1,
///     nonce: 7,
///     to: Address::parse("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359").unwrap(),
///     value: U256::from(10).pow(U256::from(18)),
///     gas: 21_000,
///     max_fee_per_gas: 30_000_000_000,
///     max_priority_fee_per_gas: 1_000_000_000,
///     data: Vec::new(),
/// })?;
/// assert_eq!(payment.account().to_string(), "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed");
/// # Ok::<(), claviger::client::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eip1559 {
    /// The account that pays.
    pub from: Address,
    /// Chain id.
    pub chain: u64,
    /// Nonce of the account.
    pub nonce: u64,
    /// Who is paid, or the contract that is called.
    pub to: Address,
    /// Wei.
    pub value: U256,
    /// Gas limit.
    pub gas: u64,
    /// Highest price, wei per gas.
    pub max_fee_per_gas: u128,
    /// Highest tip, wei per gas.
    pub max_priority_fee_per_gas: u128,
    /// Call data; empty for a transfer.
    pub data: Vec<u8>,
}

impl TryFrom<Eip1559> for Payment {
    type Error = Error;

    fn try_from(tx: Eip1559) -> Result<Self, Error> {
        Self::from_json(&json!({
            "type": "0x2",
            "from": tx.from.lower_hex(),
            "chainId": format!("{:#x}", tx.chain),
            "nonce": format!("{:#x}", tx.nonce),
            "to": tx.to.lower_hex(),
            "value": format!("{:#x}", tx.value),
            "gas": format!("{:#x}", tx.gas),
            "maxFeePerGas": format!("{:#x}", tx.max_fee_per_gas),
            "maxPriorityFeePerGas": format!("{:#x}", tx.max_priority_fee_per_gas),
            "input": format!("0x{}", hex::encode(tx.data)),
        }))
    }
}

impl Payment {
    /// From the transaction object of JSON-RPC: legacy with a chain id, EIP-2930 or EIP-1559, with its `from`. Read with
    /// the daemon's own eyes: what it would refuse as malformed is refused here.
    pub fn from_json(transaction: &Value) -> Result<Self, Error> {
        let (transaction, from) =
            UnsignedTx::from_args(transaction).map_err(|e| Error::Invalid(e.to_string()))?;
        let from = from.ok_or_else(|| Error::Invalid("the transaction has no from".into()))?;
        Ok(Self { from, transaction })
    }

    /// From the unsigned bytes (the nine items of EIP-155, or a type byte and a list), and the account that pays.
    pub fn from_unsigned(from: Address, bytes: &[u8]) -> Result<Self, Error> {
        let transaction = UnsignedTx::decode(bytes).map_err(|e| Error::Invalid(e.to_string()))?;
        Ok(Self { from, transaction })
    }

    /// The account that pays.
    #[must_use]
    pub fn account(&self) -> Address {
        self.from
    }

    /// What is signed.
    #[must_use]
    pub fn transaction(&self) -> &UnsignedTx {
        &self.transaction
    }

    /// The transaction object that is sent.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.transaction.to_args(self.from)
    }

    /// Reads what came back. What is not this payment, signed by its account, is not given out.
    // [clause 8.2.5-b] whoever sits on the socket, only a signature of what was asked for is taken
    pub(super) fn signed(&self, method: &'static str, reply: &Value) -> Result<SignedPayment, Error> {
        let wrong = |why: String| Error::Mismatch { method, why };
        let raw = reply
            .get("raw")
            .and_then(Value::as_str)
            .and_then(|text| text.strip_prefix("0x"))
            .and_then(|digits| hex::decode(digits).ok())
            .ok_or_else(|| wrong("there are no raw bytes in it".into()))?;
        let signed = self.transaction.signed_by(self.from, &raw).map_err(|e| wrong(e.to_string()))?;
        Ok(SignedPayment {
            raw: signed.raw,
            hash: signed.hash,
            transaction: signed.tx,
            request: reply.get("request").and_then(Value::as_str).and_then(RequestId::parse),
        })
    }
}

/// A signed payment: exactly what was asked for, and signed by the account that was to pay.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedPayment {
    /// The bytes to send to a node.
    pub raw: Vec<u8>,
    /// Transaction hash.
    pub hash: [u8; 32],
    /// The fields as geth prints them.
    pub transaction: Value,
    /// Its request in the daemon's log.
    pub request: Option<RequestId>,
}

impl SignedPayment {
    /// The bytes to send to a node, `0x` and hex digits.
    #[must_use]
    pub fn raw_hex(&self) -> String {
        format!("0x{}", hex::encode(&self.raw))
    }

    /// The transaction hash, `0x` and hex digits.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        format!("0x{}", hex::encode(self.hash))
    }
}

/// How a payment stands that one did not wait for.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It is signed.
    Signed(Box<SignedPayment>),
    /// It is not decided yet: wait for it again, or cancel it.
    Pending(RequestId),
}

impl Standing {
    /// The signed payment, if it is there.
    #[must_use]
    pub fn signed(self) -> Option<SignedPayment> {
        match self {
            Self::Signed(signed) => Some(*signed),
            Self::Pending(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::SigningKey;
    use k256::ecdsa::signature::hazmat::PrehashSigner;

    use crate::core::key::PublicKey;
    use crate::core::payment::ToSign;
    use crate::core::verify::Verifier;

    fn account() -> (SigningKey, PublicKey, Address) {
        let key = SigningKey::from_slice(&[0x46; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        let public = PublicKey::Secp256k1(point.as_bytes().try_into().unwrap());
        let address = public.evm_address().unwrap();
        (key, public, address)
    }

    /// The four kinds of fields that transactions differ in.
    fn payments(from: Address) -> Vec<Payment> {
        let base = json!({"from": from, "to": "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359", "value": "0x5",
            "gas": "0x5208", "nonce": "0x80", "chainId": "0x7a69"});
        let list = json!([{"address": "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359", "storageKeys": [format!("0x{}", "07".repeat(32))]}]);
        let with = |fields: Value| {
            let mut args = base.clone();
            for (name, value) in fields.as_object().unwrap() {
                args[name] = value.clone();
            }
            Payment::from_json(&args).unwrap()
        };
        vec![
            with(json!({"gasPrice": "0x1", "data": "0x0102"})),
            with(json!({"gasPrice": "0x0", "accessList": list})),
            with(json!({"maxFeePerGas": "0x3b9aca00", "maxPriorityFeePerGas": "0x0", "accessList": list})),
            with(
                json!({"maxFeePerGas": "0x3b9aca00", "maxPriorityFeePerGas": "0x1", "to": null, "input": "0x60"}),
            ),
        ]
    }

    fn sign(payment: &Payment) -> Vec<u8> {
        let (key, public, _) = account();
        let hash = payment.transaction.signing_hash();
        let raw: k256::ecdsa::Signature = key.sign_prehash(&hash).unwrap();
        let checked = Verifier::new(&public).unwrap().check(&ToSign::Prehash(hash), &raw.to_bytes().into());
        payment.transaction.sealed(&checked.unwrap()).unwrap().raw
    }

    fn reply(raw: &[u8]) -> Value {
        json!({"raw": format!("0x{}", hex::encode(raw)), "request": RequestId(9).to_string(), "status": "signed"})
    }

    // [clause 8.2.5-b] test
    #[test]
    fn only_the_payment_itself_signed_by_its_account_is_taken() {
        let (_, _, from) = account();
        let payments = payments(from);
        for (n, payment) in payments.iter().enumerate() {
            let raw = sign(payment);
            let signed = payment.signed("m", &reply(&raw)).unwrap();
            assert_eq!((signed.raw.as_slice(), signed.request), (raw.as_slice(), Some(RequestId(9))));
            assert_eq!(signed.hash_hex(), signed.transaction["hash"]);
            // Each other payment, and the same in the name of another account.
            for (m, other) in payments.iter().enumerate() {
                assert_eq!(other.signed("m", &reply(&raw)).is_ok(), n == m);
            }
            let other = Payment { from: Address([9; 20]), ..payment.clone() };
            assert!(other.signed("m", &reply(&raw)).unwrap_err().to_string().contains("account"));
            // Any bit, and any byte more or less.
            for at in 0..raw.len() {
                let mut bent = raw.clone();
                bent[at] ^= 1;
                assert!(payment.signed("m", &reply(&bent)).is_err(), "byte {at} of payment {n}");
            }
            assert!(payment.signed("m", &reply(&raw[..raw.len() - 1])).is_err());
            assert!(payment.signed("m", &reply(&[raw.as_slice(), &[0]].concat())).is_err());
        }
        for nothing in [json!({}), json!({"raw": "0x"}), json!({"raw": "00"}), json!(null)] {
            assert!(payments[0].signed("m", &nothing).is_err());
        }
    }

    #[test]
    fn what_is_sent_is_what_was_meant() {
        let (_, _, from) = account();
        for payment in payments(from) {
            assert_eq!(Payment::from_json(&payment.to_json()).unwrap(), payment);
            let bytes = payment.transaction.encode_unsigned();
            assert_eq!(Payment::from_unsigned(from, &bytes).unwrap(), payment);
        }
        let nobody = json!({"to": "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359", "gas": "0x1", "nonce": "0x0",
            "chainId": "0x1", "gasPrice": "0x1"});
        assert!(matches!(Payment::from_json(&nobody), Err(Error::Invalid(why)) if why.contains("from")));
    }
}
