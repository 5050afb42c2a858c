//! Public vectors: Wycheproof for what a token may return, ethereum/tests for what a transaction is.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop where they cannot go on"
)]

use std::path::{Path, PathBuf};

use alloy_rlp::{Encodable, Header};
use claviger::core::key::{Algorithm, PublicKey};
use claviger::core::payment::ToSign;
use claviger::core::payment::evm::UnsignedTx;
use claviger::core::units::{keccak256, sha256};
use claviger::core::verify::Verifier;
use serde_json::Value;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

/// Whether R's x coordinate was reduced by the order to give r.
fn above_the_order(algorithm: Algorithm, public: &[u8], to_sign: &ToSign, signature: &[u8]) -> bool {
    macro_rules! reduced {
        ($curve:ident) => {{
            use $curve::ecdsa::{RecoveryId, Signature, VerifyingKey};
            let signature = Signature::from_slice(signature).unwrap().normalize_s();
            let key = VerifyingKey::from_sec1_bytes(public).unwrap();
            [false, true].into_iter().any(|odd| {
                VerifyingKey::recover_from_prehash(to_sign.as_bytes(), &signature, RecoveryId::new(odd, true))
                    .is_ok_and(|k| k == key)
            })
        }};
    }
    match algorithm {
        Algorithm::Secp256k1 => reduced!(k256),
        Algorithm::P256 => reduced!(p256),
        _ => false,
    }
}

/// Runs one Wycheproof file; gives how many were accepted and refused.
fn wycheproof(file: &str, algorithm: Algorithm, key_member: &str) -> (u32, u32) {
    let (mut accepted, mut refused) = (0, 0);
    for group in json(&vectors().join(file))["testGroups"].as_array().unwrap() {
        let key = &group["publicKey"];
        let raw = bytes(if key[key_member].is_string() { &key[key_member] } else { &key["pk"] });
        let verifier = PublicKey::from_bytes(algorithm, &raw).as_ref().and_then(Verifier::new).unwrap();
        for case in group["tests"].as_array().unwrap() {
            let message = bytes(&case["msg"]);
            let to_sign = match algorithm {
                Algorithm::Ed25519 => ToSign::Message(message),
                _ => ToSign::Prehash(sha256(&message)),
            };
            // What is not 64 bytes never gets this far.
            let outcome =
                <[u8; 64]>::try_from(bytes(&case["sig"])).map(|raw| verifier.check(&to_sign, &raw).is_ok());
            let good = outcome == Ok(true);
            match case["result"].as_str().unwrap() {
                // R above the order: valid by the book, but Ethereum's v cannot express it, so it is refused.
                "valid" if !good => {
                    assert!(above_the_order(algorithm, &raw, &to_sign, &bytes(&case["sig"])), "{case}");
                    refused += 1;
                }
                "valid" => accepted += 1,
                "invalid" => {
                    assert!(!good, "accepted an invalid signature: {case}");
                    refused += 1;
                }
                _ => {}
            }
        }
    }
    (accepted, refused)
}

// [clause 8.2.5-b] test
#[test]
fn wycheproof_signatures_are_judged_right() {
    let k1 = wycheproof("ecdsa_secp256k1_sha256_p1363_test.json", Algorithm::Secp256k1, "uncompressed");
    let p256 = wycheproof("ecdsa_secp256r1_sha256_p1363_test.json", Algorithm::P256, "uncompressed");
    let ed = wycheproof("ed25519_test.json", Algorithm::Ed25519, "pk");
    for (accepted, refused) in [k1, p256, ed] {
        assert!(accepted > 50 && refused > 40, "{k1:?} {p256:?} {ed:?}");
    }
}

/// Runs one Wycheproof file of wrapped keys under 256-bit keys; gives how many were accepted and refused.
fn wrapped(
    file: &str,
    short: impl Fn(&[u8]) -> bool,
    wrap: impl Fn(&[u8; 32], &[u8]) -> Option<Vec<u8>>,
    unwrap: impl Fn(&[u8; 32], &[u8]) -> Option<Vec<u8>>,
) -> (u32, u32) {
    let (mut accepted, mut refused) = (0, 0);
    for group in json(&vectors().join(file))["testGroups"].as_array().unwrap() {
        if group["keySize"] != 256 {
            continue;
        }
        for case in group["tests"].as_array().unwrap() {
            let key: [u8; 32] = bytes(&case["key"]).try_into().unwrap();
            let (plain, sealed) = (bytes(&case["msg"]), bytes(&case["ct"]));
            match case["result"].as_str().unwrap() {
                "valid" => {
                    assert_eq!(wrap(&key, &plain).as_ref(), Some(&sealed), "{case}");
                    assert_eq!(unwrap(&key, &sealed).as_ref(), Some(&plain), "{case}");
                    accepted += 1;
                }
                "invalid" => {
                    // The library takes less than RFC 3394's two blocks; no key of ours is so short.
                    let unwrapped = unwrap(&key, &sealed).filter(|key| !short(key));
                    assert_ne!(unwrapped.as_ref(), Some(&plain), "{case}");
                    refused += 1;
                }
                _ => {}
            }
        }
    }
    (accepted, refused)
}

// [clause 8.7.2-b] test
#[test]
fn wycheproof_wrapped_keys_are_judged_right() {
    use aes_kw::{KeyInit, KwAes256, KwpAes256};
    let room = |bytes: &[u8]| vec![0; bytes.len() + 32];
    let kw = wrapped(
        "aes_wrap_test.json",
        |key| key.len() < 16,
        |key, plain| {
            let mut out = room(plain);
            KwAes256::new(key.into()).wrap_key(plain, &mut out).ok().map(<[u8]>::to_vec)
        },
        |key, sealed| {
            let mut out = room(sealed);
            KwAes256::new(key.into()).unwrap_key(sealed, &mut out).ok().map(<[u8]>::to_vec)
        },
    );
    let kwp = wrapped(
        "aes_kwp_test.json",
        <[u8]>::is_empty,
        |key, plain| {
            let mut out = room(plain);
            KwpAes256::new(key.into()).wrap_key(plain, &mut out).ok().map(<[u8]>::to_vec)
        },
        |key, sealed| {
            let mut out = room(sealed);
            KwpAes256::new(key.into()).unwrap_key(sealed, &mut out).ok().map(<[u8]>::to_vec)
        },
    );
    for (accepted, refused) in [kw, kwp] {
        assert!(accepted > 5 && refused > 20, "{kw:?} {kwp:?}");
    }
}

/// The items of an RLP list, each with its header.
fn items(mut list: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut body = Header::decode_bytes(&mut list, true).ok().filter(|_| list.is_empty())?;
    let mut out = Vec::new();
    while !body.is_empty() {
        let before = body;
        let header = Header::decode(&mut body).ok()?;
        body = body.get(header.payload_length..)?;
        out.push(before[..before.len() - body.len()].to_vec());
    }
    Some(out)
}

fn number(item: &[u8]) -> Option<u64> {
    let mut rest = item;
    alloy_rlp::Decodable::decode(&mut rest).ok()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let body = items.concat();
    let mut out = Vec::new();
    Header { list: true, payload_length: body.len() }.encode(&mut out);
    out.extend(body);
    out
}

struct Split {
    unsigned: Vec<u8>,
    odd: bool,
    rs: [u8; 64],
}

/// Takes a signed transaction apart into what was signed, and the signature.
fn split(signed: &[u8]) -> Option<Split> {
    let typed = matches!(signed.first()?, 1 | 2);
    let mut parts = items(if typed { signed.get(1..)? } else { signed })?;
    let at = parts.len().checked_sub(3)?;
    let tail = parts.split_off(at);
    let v = number(&tail[0])?;
    let odd = if typed { v == 1 } else { v.checked_sub(35)? % 2 == 1 };
    if typed && v > 1 {
        return None;
    }
    let unsigned = if typed {
        [&signed[..1], &list(&parts)].concat()
    } else {
        let mut chain = Vec::new();
        ((v - 35) / 2).encode(&mut chain);
        parts.extend([chain, vec![0x80], vec![0x80]]);
        list(&parts)
    };
    let mut rs = [0; 64];
    for (half, item) in [(0, &tail[1]), (32, &tail[2])] {
        let mut rest = item.as_slice();
        let scalar: claviger::core::units::U256 = alloy_rlp::Decodable::decode(&mut rest).ok()?;
        rs[half..half + 32].copy_from_slice(&scalar.to_be_bytes::<32>());
    }
    Some(Split { unsigned, odd, rs })
}

/// The sender that we find, when everything is as a payment must be.
fn sender(signed: &[u8]) -> Option<String> {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    let split = split(signed)?;
    let tx = UnsignedTx::decode(&split.unsigned).ok()?;
    tx.payment(claviger::core::units::Address([0; 20])).ok()?;
    let signature = Signature::from_slice(&split.rs).ok()?;
    let key =
        VerifyingKey::recover_from_prehash(&tx.signing_hash(), &signature, RecoveryId::new(split.odd, false))
            .ok()?;
    let public = PublicKey::from_bytes(Algorithm::Secp256k1, key.to_sec1_point(false).as_bytes())?;
    // EIP-2: what we check comes out low; a high s is not the same transaction.
    let checked = Verifier::new(&public)?.check(&ToSign::Prehash(tx.signing_hash()), &split.rs).ok()?;
    let sealed = tx.sealed(&checked).ok()?;
    (sealed.raw == signed && sealed.hash == keccak256(signed))
        .then(|| public.evm_address().unwrap().lower_hex())
}

// [clause 8.4.3-a] test
#[test]
fn ethereum_transactions_are_understood_as_the_chain_does() {
    let (mut good, mut bad, mut unprotected) = (0, 0, 0);
    for folder in ["ttEIP1559", "ttEIP2930", "ttSignature", "ttVValue"] {
        for file in std::fs::read_dir(vectors().join("ethereum-tests").join(folder)).unwrap() {
            let path = file.unwrap().path();
            for (name, case) in json(&path).as_object().unwrap() {
                let Some(text) = case["txbytes"].as_str() else { continue };
                let Ok(signed) = hex::decode(text.trim_start_matches("0x")) else { continue };
                let ours = sender(&signed);
                match case["result"]["London"]["sender"].as_str() {
                    // Legacy without a chain id is valid on the chain and refused here.
                    Some(_) if split(&signed).is_none_or(|s| UnsignedTx::decode(&s.unsigned).is_err()) => {
                        assert_eq!(ours, None, "{name}");
                        unprotected += 1;
                    }
                    Some(theirs) => {
                        assert_eq!(ours.as_deref(), Some(theirs), "{name}");
                        good += 1;
                    }
                    None => {
                        // Limits of a block are not ours to know; everything else that the chain refuses, we refuse.
                        let why = case["result"]["London"]["exception"].to_string();
                        assert!(
                            ours.is_none()
                                || why.contains("INVALID_CHAINID")
                                || why.contains("INTRINSIC_GAS")
                                || why.contains("INITCODE")
                                || why.contains("GAS_ALLOWANCE")
                                || why.contains("TYPE_NOT_SUPPORTED"),
                            "{name}: {why}"
                        );
                        bad += 1;
                    }
                }
            }
        }
    }
    assert!(good >= 10 && bad >= 15, "{good} good, {bad} bad, {unprotected} unprotected");
}
