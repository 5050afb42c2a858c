//! Small data of the embedded token: a sealed file of its own for each label. It lies on the disk where the token lies.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::{HEADER, TokenError, corrupt, gone, random};
use crate::core::units::sha256;

pub(super) fn name(label: &str) -> String {
    let hash = sha256(label.as_bytes());
    format!("{}.data", hex::encode(hash.first_chunk::<8>().unwrap_or(&[0; 8])))
}

fn bound(label: &str) -> Vec<u8> {
    format!("claviger data v1 {label}").into_bytes()
}

pub(super) fn seal(cipher: &XChaCha20Poly1305, label: &str, bytes: &[u8]) -> Result<Vec<u8>, TokenError> {
    let nonce = random::<24>()?;
    let payload = Payload { msg: bytes, aad: &bound(label) };
    let body = cipher.encrypt(&XNonce::from(nonce), payload).map_err(corrupt)?;
    Ok([nonce.as_slice(), &body].concat())
}

pub(super) fn read(dir: &Path, cipher: &XChaCha20Poly1305, label: &str) -> Result<Vec<Vec<u8>>, TokenError> {
    let path = dir.join(name(label));
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound && dir.join(HEADER).exists() => return Ok(Vec::new()),
        Err(e) => return Err(gone(&path, &e)),
    };
    // What does not open was not written by this token, and is as good as none.
    let opened = text.split_first_chunk::<24>().and_then(|(nonce, body)| {
        cipher.decrypt(&XNonce::from(*nonce), Payload { msg: body, aad: &bound(label) }).ok()
    });
    Ok(opened.into_iter().collect())
}
