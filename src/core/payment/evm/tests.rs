use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::key::PublicKey;
use crate::core::payment::ToSign;
use crate::core::verify::Verifier;

fn base() -> serde_json::Value {
    json!({"from": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "to": "0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359",
        "value": "0x5", "gas": "0x5208", "maxFeePerGas": "0xb2d05e00", "maxPriorityFeePerGas": "0x3b9aca00",
        "nonce": "0x0", "chainId": "0x7a69"})
}

fn with(field: &str, value: serde_json::Value) -> serde_json::Value {
    let mut args = base();
    args[field] = value;
    args
}

fn from() -> Address {
    Address([9; 20])
}

#[test]
fn the_example_of_eip155_hashes_and_seals_as_the_eip_says() {
    let args = json!({"nonce": "0x9", "gasPrice": "0x4a817c800", "gas": "0x5208", "chainId": "0x1",
        "to": "0x3535353535353535353535353535353535353535", "value": "0xde0b6b3a7640000"});
    let (tx, _) = UnsignedTx::from_args(&args).unwrap();
    assert_eq!(
        hex::encode(tx.encode_unsigned()),
        "ec098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080018080"
    );
    assert_eq!(
        hex::encode(tx.signing_hash()),
        "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"
    );
    let key = k256::ecdsa::SigningKey::from_slice(&[0x46; 32]).unwrap();
    let public =
        PublicKey::Secp256k1(key.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap());
    let to_sign = ToSign::Prehash(tx.signing_hash());
    let raw: k256::ecdsa::Signature =
        k256::ecdsa::signature::hazmat::PrehashSigner::sign_prehash(&key, &tx.signing_hash()).unwrap();
    let checked = Verifier::new(&public).unwrap().check(&to_sign, &raw.to_bytes().into()).unwrap();
    let signed = tx.sealed(&checked).unwrap();
    let (other, _) = UnsignedTx::from_args(&base()).unwrap();
    assert!(other.sealed(&checked).is_err());
    assert_eq!(
        hex::encode(&signed.raw),
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    );
    assert_eq!(signed.tx["v"], "0x25");
}

// [clause 8.4.3-a] test
#[test]
fn fields_that_are_missing_unknown_or_contradict_are_refused_by_name() {
    for field in ["gas", "nonce", "chainId", "maxFeePerGas", "maxPriorityFeePerGas"] {
        let why = UnsignedTx::from_args(&with(field, serde_json::Value::Null)).unwrap_err().to_string();
        assert!(why.contains(field), "{why}");
    }
    for (field, value) in [
        ("surprise", json!("0x1")),
        ("gasPrice", json!("0x1")),
        ("type", json!("0x3")),
        ("type", json!("0x4")),
        ("type", json!("0x0")),
        ("blobs", json!([])),
        ("authorizationList", json!([])),
        ("value", json!(5)),
        ("value", json!("5")),
        ("value", json!("0x05")),
        ("value", json!("0x")),
        ("value", json!(format!("0x1{}", "0".repeat(64)))),
        ("nonce", json!("0xffffffffffffffff")),
        ("nonce", json!("0x10000000000000000")),
        ("chainId", json!("0x0")),
        ("to", json!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD")),
        ("to", json!("0x12")),
        ("input", json!("0x123")),
        ("accessList", json!([{"address": "0x12"}])),
        ("maxPriorityFeePerGas", json!("0xffffffffff")),
        ("gasLimit", json!("0x1")),
    ] {
        assert!(UnsignedTx::from_args(&with(field, value.clone())).is_err(), "{field} = {value}");
    }
    let mut both = with("data", json!("0x01"));
    both["input"] = json!("0x02");
    assert!(UnsignedTx::from_args(&both).is_err());
    both["input"] = json!("0x01");
    assert!(UnsignedTx::from_args(&both).is_ok());
}

#[test]
fn erc20_calls_are_the_payments_that_they_are() {
    let word = |n: u8| format!("{}{}", "0".repeat(24), format!("{n:02x}").repeat(20));
    let amount = format!("{:064x}", 77);
    let effect = |input: String, value: &str| {
        let mut args = with("input", json!(input));
        args["value"] = json!(value);
        UnsignedTx::from_args(&args).unwrap().0.payment(from()).unwrap().effect
    };
    let contract = Address::parse("0xfb6916095ca1df60bb79ce92ce3ea74c37c5d359").unwrap();
    let asset = Asset::Erc20(contract);
    let (to, amount_n) = (Address([0x11; 20]), U256::from(77));
    assert_eq!(
        effect(format!("0xa9059cbb{}{amount}", word(0x11)), "0x0"),
        Effect::Transfer { asset, to, amount: amount_n }
    );
    assert_eq!(
        effect(format!("0x095ea7b3{}{amount}", word(0x11)), "0x0"),
        Effect::Approve { asset, spender: to, amount: amount_n }
    );
    assert_eq!(
        effect(format!("0x23b872dd{}{}{amount}", word(0x22), word(0x11)), "0x0"),
        Effect::TransferFrom { asset, owner: Address([0x22; 20]), to, amount: amount_n }
    );
    let dirty = format!("0xa9059cbb01{}{amount}", &word(0x11)[2..]);
    for (input, value) in [
        (dirty, "0x0"),
        (format!("0xa9059cbb{}{amount}00", word(0x11)), "0x0"),
        (format!("0xa9059cbb{}", word(0x11)), "0x0"),
        (format!("0xa9059cbb{}{amount}", word(0x11)), "0x1"),
        ("0xdeadbeef".into(), "0x0"),
        ("0xde".into(), "0x0"),
    ] {
        assert!(matches!(effect(input.clone(), value), Effect::ContractCall { .. }), "{input}");
    }
    let (tx, _) = UnsignedTx::from_args(&with("to", serde_json::Value::Null)).unwrap();
    assert!(matches!(tx.payment(from()).unwrap().effect, Effect::ContractCreation { .. }));
}

// [clause 8.4.3-b] test
#[test]
fn only_the_fee_may_change_in_a_fee_bump() {
    let digest = |field: &str, value| UnsignedTx::from_args(&with(field, value)).unwrap().0.content_digest();
    let plain = UnsignedTx::from_args(&base()).unwrap().0.content_digest();
    for (field, value) in
        [("maxFeePerGas", "0xffffffffff"), ("gas", "0x6000"), ("maxPriorityFeePerGas", "0x1")]
    {
        assert_eq!(digest(field, json!(value)), plain, "{field}");
    }
    let same_selector = [digest("input", json!("0x0102030405")), digest("input", json!("0x0102030406"))];
    assert_ne!(same_selector[0], same_selector[1]);
    for (field, value) in [
        ("value", "0x6"),
        ("nonce", "0x1"),
        ("chainId", "0x1"),
        ("to", "0x1111111111111111111111111111111111111111"),
    ] {
        assert_ne!(digest(field, json!(value)), plain, "{field}");
    }
}

#[test]
fn amounts_past_the_end_are_refused() {
    let mut args = with("value", json!(format!("0x{}", "f".repeat(64))));
    let (tx, _) = UnsignedTx::from_args(&args).unwrap();
    assert_eq!(tx.payment(from()).unwrap_err(), PaymentError::Overflow("value and highest fee together"));
    args["value"] = json!("0x0");
    args["maxFeePerGas"] = json!(format!("0x{}", "f".repeat(32)));
    args["gas"] = json!("0xffffffffffffffff");
    let (tx, _) = UnsignedTx::from_args(&args).unwrap();
    assert!(tx.payment(from()).is_ok());
}

#[test]
fn signed_or_unprotected_or_trailing_bytes_are_refused() {
    let (tx, _) = UnsignedTx::from_args(&base()).unwrap();
    let mut bytes = tx.encode_unsigned();
    assert_eq!(UnsignedTx::decode(&bytes), Ok(tx));
    bytes.push(0);
    assert!(UnsignedTx::decode(&bytes).is_err());
    for text in [
        "",
        "03c0",
        "c0",
        "e9098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a764000080",
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83",
    ] {
        assert!(UnsignedTx::decode(&hex::decode(text).unwrap()).is_err(), "{text}");
    }
}

fn any_tx() -> impl Strategy<Value = UnsignedTx> {
    let fee = prop_oneof![
        any::<u128>().prop_map(|gas_price| Fee::Legacy { gas_price }),
        any::<u128>().prop_map(|gas_price| Fee::AccessList { gas_price }),
        (any::<u128>(), any::<u128>())
            .prop_map(|(a, b)| Fee::Dynamic { max_fee: a.max(b), max_priority: a.min(b) }),
    ];
    let access = proptest::collection::vec(
        (any::<[u8; 20]>(), proptest::collection::vec(any::<[u8; 32]>(), 0..3))
            .prop_map(|(a, slots)| AccessItem { address: Address(a), slots }),
        0..3,
    );
    (
        (1..u64::MAX / 4, 0..u64::MAX, fee, any::<u64>()),
        (
            any::<Option<[u8; 20]>>(),
            any::<[u8; 32]>(),
            proptest::collection::vec(any::<u8>(), 0..100),
            access,
        ),
    )
        .prop_map(|((chain, nonce, fee, gas), (to, value, input, access))| UnsignedTx {
            chain,
            nonce,
            fee,
            gas,
            to: to.map(Address),
            value: U256::from_be_bytes(value),
            input,
            access: if matches!(fee, Fee::Legacy { .. }) { Vec::new() } else { access },
        })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_to_the_same(tx in any_tx()) {
        prop_assert_eq!(UnsignedTx::decode(&tx.encode_unsigned()), Ok(tx));
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..4) {
        let _outcome = UnsignedTx::decode(&bytes);
        let mut typed = vec![kind];
        typed.extend(bytes);
        let _outcome = UnsignedTx::decode(&typed);
    }

    #[test]
    fn a_flipped_bit_never_keeps_the_hash(tx in any_tx(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = tx.encode_unsigned();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = UnsignedTx::decode(&bytes) {
            prop_assert_ne!(other.signing_hash(), tx.signing_hash());
        }
    }
}
