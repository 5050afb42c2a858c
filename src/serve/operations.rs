//! Parameters of what keys of the other purposes do.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::named;
use super::wallet::hex_bytes;
use crate::core::login::Login;
use crate::core::units::Name;
use crate::refusal::{Code, Refusal};
use crate::service::operate::Asked;

/// `0x` bytes of a parameter; the text is wiped.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Bytes(Zeroizing<Vec<u8>>);

impl TryFrom<String> for Bytes {
    type Error = String;

    fn try_from(mut text: String) -> Result<Self, String> {
        let bytes = hex_bytes(&text).map(Zeroizing::new).map_err(|r| r.sentence);
        text.zeroize();
        bytes.map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoginParams {
    key: Name,
    audience: String,
    challenge: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EncryptParams {
    key: Name,
    plaintext: Bytes,
    aad: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecryptParams {
    key: Name,
    ciphertext: Bytes,
    aad: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MacParams {
    key: Name,
    data: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyParams {
    key: Name,
    data: Bytes,
    mac: Bytes,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RandomParams {
    key: Name,
    bytes: usize,
}

fn plain(bytes: Option<Bytes>) -> Vec<u8> {
    bytes.map(|b| b.0.to_vec()).unwrap_or_default()
}

/// The key and what it is asked, from a method's parameters.
pub(super) fn read(method: &str, params: Value) -> Result<(Name, Asked), Refusal> {
    Ok(match method {
        "claviger_signLogin" => {
            let p: LoginParams = named(params)?;
            let login = Login::new(&p.audience, &p.challenge.0)
                .map_err(|e| Refusal::new(Code::InvalidParams, e.to_string()))?;
            (p.key, Asked::Login(login))
        }
        "claviger_encrypt" => {
            let p: EncryptParams = named(params)?;
            (p.key, Asked::Encrypt { plain: p.plaintext.0, aad: plain(p.aad) })
        }
        "claviger_decrypt" => {
            let p: DecryptParams = named(params)?;
            (p.key, Asked::Decrypt { sealed: p.ciphertext.0.to_vec(), aad: plain(p.aad) })
        }
        "claviger_mac" => {
            let p: MacParams = named(params)?;
            (p.key, Asked::Mac(p.data.0))
        }
        "claviger_verifyMac" => {
            let p: VerifyParams = named(params)?;
            let mac = p.mac.0.as_slice().try_into().map_err(|_| {
                Refusal::new(Code::InvalidParams, "an HMAC-SHA256 has 32 bytes; cut ones are not taken")
            })?;
            (p.key, Asked::VerifyMac { data: p.data.0, mac })
        }
        "claviger_random" => {
            let p: RandomParams = named(params)?;
            (p.key, Asked::Random(p.bytes))
        }
        _ => return Err(Refusal::new(Code::Internal, format!("{method} is listed and not served"))),
    })
}
