//! Encrypted key files: PKCS#8 with PBES2, and Ethereum keystores of version 3.
//!
//! Both say themselves how much work it is to open them: what would take more memory or time than any tool writes is
//! refused before it is begun.
#![forbid(unsafe_code)]

use ctr::cipher::{KeyIvInit, StreamCipher};
use pkcs8::pkcs5::pbes2::Kdf;
use pkcs8::pkcs5::{self, EncryptionScheme};
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef, SecretDocument};
use serde::Deserialize;
use sha2::Sha256;
use sha3::{Digest, Keccak256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::super::Algorithm;
use crate::core::units::Address;
use crate::refusal::{Code, Refusal};
use crate::secret::SecretBytes;

/// Longest file, bytes.
const LONGEST: usize = 64 * 1024;
/// Most memory of scrypt, bytes: four times what geth's standard takes.
const MOST_MEMORY: u128 = 1 << 30;
/// Most passes of scrypt.
const MOST_PASSES: u32 = 16;
/// Most rounds of PBKDF2.
const MOST_ROUNDS: u32 = 10_000_000;

fn malformed(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::ImportMalformed, why)
}

fn wrong_passphrase() -> Refusal {
    Refusal::new(Code::ImportPassphrase, "the passphrase does not open this file")
}

fn fits(file: &[u8]) -> Result<(), Refusal> {
    if file.len() > LONGEST {
        return Err(malformed(format!("the file has {} bytes; no key file has {LONGEST}", file.len())));
    }
    Ok(())
}

fn bounded_scrypt(n: u64, r: u32, p: u32) -> Result<(), Refusal> {
    if u128::from(n) * u128::from(r) * 128 > MOST_MEMORY || p > MOST_PASSES {
        return Err(malformed(format!("scrypt with n = {n}, r = {r}, p = {p} is more than is tried here")));
    }
    Ok(())
}

fn bounded_rounds(rounds: u32) -> Result<(), Refusal> {
    if rounds > MOST_ROUNDS {
        return Err(malformed(format!("PBKDF2 with {rounds} rounds is more than is tried here")));
    }
    Ok(())
}

/// The DER inside of a file, which may be PEM.
fn der_of(file: &[u8]) -> Result<SecretDocument, Refusal> {
    if file.first() == Some(&0x30) {
        return SecretDocument::try_from(file).map_err(|_| malformed("the file is cut, or no PKCS#8"));
    }
    let text = std::str::from_utf8(file).map_err(|_| malformed("the file is neither PEM nor DER"))?;
    match SecretDocument::from_pem(text.trim()) {
        Ok(("ENCRYPTED PRIVATE KEY", der)) => Ok(der),
        Ok((label, _)) => {
            let label: String = label.chars().take(40).collect();
            Err(malformed(format!(
                "the file holds a {label:?}; an encrypted one is wanted: openssl pkcs8 -topk8 -in FILE"
            )))
        }
        Err(_) => Err(malformed("the file is no PEM")),
    }
}

pub(super) fn pkcs8(algorithm: Algorithm, file: &[u8], passphrase: &str) -> Result<SecretBytes<32>, Refusal> {
    fits(file)?;
    let der = der_of(file)?;
    let sealed = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes())
        .map_err(|_| malformed("the file is no encrypted PKCS#8 that is known here (PBES2)"))?;
    let EncryptionScheme::Pbes2(scheme) = &sealed.encryption_algorithm else {
        return Err(malformed("the file is encrypted as PKCS#5 did it before PBES2: write it anew"));
    };
    match &scheme.kdf {
        Kdf::Pbkdf2(of) => bounded_rounds(of.iteration_count)?,
        Kdf::Scrypt(of) => {
            bounded_scrypt(of.cost_parameter, of.block_size.into(), of.parallelization.into())?;
        }
        _ => return Err(malformed("the file names a way to its key that is not known here")),
    }
    let opened = sealed.decrypt(passphrase).map_err(|e| match e {
        // A wrong key gives a wrong padding, or bytes that are no key.
        pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_) => {
            wrong_passphrase()
        }
        _ => malformed("the file is encrypted in a way that is not known here"),
    })?;
    let info = PrivateKeyInfoRef::try_from(opened.as_bytes()).map_err(|_| wrong_passphrase())?;
    let other = || malformed(format!("the file holds no {algorithm} key"));
    Ok(match algorithm {
        Algorithm::Secp256k1 => {
            let key = k256::SecretKey::try_from(info).map_err(|_| other())?;
            SecretBytes::copy_of(&Zeroizing::new(key.to_bytes().into()))
        }
        Algorithm::P256 => {
            let key = p256::SecretKey::try_from(info).map_err(|_| other())?;
            SecretBytes::copy_of(&Zeroizing::new(key.to_bytes().into()))
        }
        Algorithm::Ed25519 => {
            let key = ed25519_dalek::SigningKey::try_from(info).map_err(|_| other())?;
            SecretBytes::copy_of(&Zeroizing::new(key.to_bytes()))
        }
        Algorithm::Aes256Gcm | Algorithm::HmacSha256 | Algorithm::Aes256Kw => return Err(other()),
    })
}

#[derive(Deserialize)]
struct Keystore {
    version: u32,
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    ciphertext: String,
    cipherparams: CipherParams,
    mac: String,
    #[serde(flatten)]
    kdf: KeystoreKdf,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum KeystoreKdf {
    Scrypt { n: u64, r: u32, p: u32, dklen: u32, salt: String },
    Pbkdf2 { c: u32, prf: String, dklen: u32, salt: String },
}

/// 32 bytes: an AES-128 key, then the key of the MAC.
fn stretched(kdf: &KeystoreKdf, passphrase: &str) -> Result<SecretBytes<32>, Refusal> {
    let (KeystoreKdf::Scrypt { dklen, salt, .. } | KeystoreKdf::Pbkdf2 { dklen, salt, .. }) = kdf;
    let salt = hex::decode(salt).map_err(|_| malformed("the keystore's salt is no hex"))?;
    if *dklen != 32 {
        return Err(malformed(format!("the keystore derives {dklen} bytes, and version 3 wants 32")));
    }
    match kdf {
        KeystoreKdf::Scrypt { n, r, p, .. } => {
            bounded_scrypt(*n, *r, *p)?;
            let log_n = u8::try_from(n.trailing_zeros()).ok().filter(|_| n.is_power_of_two());
            let params = log_n.and_then(|log_n| scrypt::Params::new(log_n, *r, *p).ok());
            let params = params.ok_or_else(|| malformed("the keystore's scrypt parameters are none"))?;
            SecretBytes::fill(|out| scrypt::scrypt(passphrase.as_bytes(), &salt, &params, out))
                .map_err(|_| malformed("the keystore's scrypt parameters are none"))
        }
        KeystoreKdf::Pbkdf2 { c, prf, .. } => {
            bounded_rounds(*c)?;
            if prf != "hmac-sha256" {
                return Err(malformed("the keystore's PBKDF2 is not with hmac-sha256"));
            }
            SecretBytes::fill(|out| {
                pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), &salt, *c, out);
                Ok(())
            })
        }
    }
}

/// The key, and the address that the file names.
pub(super) fn keystore(file: &[u8], passphrase: &str) -> Result<(SecretBytes<32>, Option<Address>), Refusal> {
    fits(file)?;
    let Keystore { version, address, crypto } =
        serde_json::from_slice(file).map_err(|_| malformed("the file is no Ethereum keystore"))?;
    if version != 3 || crypto.cipher != "aes-128-ctr" {
        return Err(malformed("the file is no keystore of version 3 with aes-128-ctr"));
    }
    let hex = |text: &str| hex::decode(text).ok();
    let iv: Option<[u8; 16]> = hex(&crypto.cipherparams.iv).and_then(|iv| iv.try_into().ok());
    let sealed: Option<[u8; 32]> = hex(&crypto.ciphertext).and_then(|c| c.try_into().ok());
    let (Some(iv), Some(sealed), Some(mac)) = (iv, sealed, hex(&crypto.mac)) else {
        return Err(malformed("the keystore's iv, ciphertext or mac is not as long as it must be"));
    };
    let said = match address {
        None => None,
        Some(text) => {
            let bytes = hex(text.trim_start_matches("0x")).and_then(|a| a.try_into().ok());
            Some(Address(bytes.ok_or_else(|| malformed("the keystore's address is none"))?))
        }
    };
    let key = stretched(&crypto.kdf, passphrase)?;
    let (cipher_key, mac_key) = key.expose().split_at(16);
    let made = Keccak256::new().chain_update(mac_key).chain_update(sealed).finalize();
    if !bool::from(made.as_slice().ct_eq(&mac)) {
        return Err(wrong_passphrase());
    }
    let mut cipher = ctr::Ctr128BE::<aes::Aes128>::new_from_slices(cipher_key, &iv)
        .map_err(|_| malformed("the keystore's key is none"))?;
    let private = SecretBytes::fill(|out| {
        out.copy_from_slice(&sealed);
        cipher.try_apply_keystream(out)
    });
    Ok((private.map_err(|_| malformed("the keystore's text is too long"))?, said))
}
