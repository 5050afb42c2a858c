//! A session with a TPM that a listener on the bus cannot read: its key comes from a salt that only the storage root key
//! of that TPM can open, and every answer carries a MAC under it.
//!
//! TPM 2.0 Library, Part 1: 11.4.10 (KDFs), 19.6 (sessions), 21 (parameter encryption), C.6.1 (salts).
#![forbid(unsafe_code)]

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToSec1Point;
use p256::{PublicKey, SecretKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::TpmError;
use super::wire::{Reader, Writer};

/// The session goes on after the command.
pub const CONTINUE: u8 = 0x01;
/// The first parameter of the command is encrypted: the TPM decrypts it.
pub const DECRYPT: u8 = 0x20;
/// The first parameter of the answer is encrypted by the TPM.
pub const ENCRYPT: u8 = 0x40;

type Key = Zeroizing<[u8; 32]>;

/// Fresh bytes from the kernel.
pub fn nonce() -> Result<[u8; 32], TpmError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|e| TpmError::Randomness(e.to_string()))?;
    Ok(nonce)
}

/// SHA-256 over parts.
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<Hmac<Sha256>, TpmError> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).map_err(|_| TpmError::Tampered("the session has no key"))?;
    for part in parts {
        mac.update(part);
    }
    Ok(mac)
}

/// KDFa (SP 800-108, counter mode) for up to 32 bytes, which are one round of HMAC-SHA256.
fn kdf_a(key: &[u8], label: &[u8], u: &[u8], v: &[u8], bits: u32) -> Result<Key, TpmError> {
    let round = mac(key, &[&1_u32.to_be_bytes(), label, &[0], u, v, &bits.to_be_bytes()])?;
    Ok(Zeroizing::new(round.finalize().into_bytes().into()))
}

/// A salt for the key of a session, and what the TPM needs to find the same one.
pub struct Salt {
    secret: Key,
    /// Goes into the command that starts the session.
    pub sealed: Vec<u8>,
}

impl Salt {
    /// Agrees on a salt with the holder of the key at this point: one-pass ECDH, then KDFe.
    pub fn agree(x: &[u8], y: &[u8]) -> Result<Self, TpmError> {
        let odd = || TpmError::Tampered("the storage root key is no point of its curve");
        let theirs_x = padded(x).ok_or_else(odd)?;
        let theirs_y = padded(y).ok_or_else(odd)?;
        let sec1: Vec<u8> = [&[4][..], &theirs_x, &theirs_y].concat();
        let theirs = PublicKey::from_sec1_bytes(&sec1).map_err(|_| odd())?;
        let ours = loop {
            // All but 2^-32 of 32-byte strings are keys of P-256.
            let bytes = Zeroizing::new(nonce()?);
            if let Ok(key) = SecretKey::from_slice(&*bytes) {
                break key;
            }
        };
        let point = ours.public_key().to_sec1_point(false);
        let (Some(our_x), Some(our_y)) = (point.x(), point.y()) else { return Err(odd()) };
        let shared = diffie_hellman(ours.to_nonzero_scalar(), theirs.as_affine());
        let secret =
            digest(&[&1_u32.to_be_bytes(), shared.raw_secret_bytes(), b"SECRET\0", our_x, &theirs_x]);
        let sealed = Writer::new().sized(our_x).sized(our_y).bytes().to_vec();
        Ok(Self { secret: Zeroizing::new(secret), sealed })
    }
}

/// A TPM may leave leading zeros of a coordinate out; both sides hash it at full length.
fn padded(coordinate: &[u8]) -> Option<[u8; 32]> {
    let mut full = [0; 32];
    let gap = full.len().checked_sub(coordinate.len())?;
    full.get_mut(gap..)?.copy_from_slice(coordinate);
    Some(full)
}

/// A salted session, not bound to any object.
pub struct Session {
    /// Its number in the TPM.
    pub handle: u32,
    key: Key,
    theirs: Vec<u8>,
    ours: [u8; 32],
}

impl Session {
    /// The session that the TPM has just started.
    pub fn new(handle: u32, salt: Salt, ours: [u8; 32], theirs: &[u8]) -> Result<Self, TpmError> {
        let key = kdf_a(&*salt.secret, b"ATH", theirs, &ours, 256)?;
        Ok(Self { handle, key, theirs: theirs.to_vec(), ours })
    }

    /// Encrypts the first parameter where that is asked for, and gives the session's part of the command.
    pub fn authorise(
        &mut self,
        attributes: u8,
        code: u32,
        names: &[&[u8]],
        parameters: &mut [u8],
    ) -> Result<Writer, TpmError> {
        self.ours = nonce()?;
        if attributes & DECRYPT != 0 {
            let (key, iv) = self.cipher(&self.ours, &self.theirs)?;
            cfb(&key, iv, first_parameter(parameters)?, true);
        }
        let mut asked = Sha256::new();
        asked.update(code.to_be_bytes());
        names.iter().for_each(|name| asked.update(name));
        asked.update(&*parameters);
        let asked: [u8; 32] = asked.finalize().into();
        let tag = mac(&*self.key, &[&asked, &self.ours, &self.theirs, &[attributes]])?;
        let tag = tag.finalize().into_bytes();
        Ok(Writer::new().u32(self.handle).sized(&self.ours).u8(attributes).sized(&tag))
    }

    /// Checks that the answer is the TPM's own, then decrypts its first parameter where that was asked for.
    pub fn accept(
        &mut self,
        asked: u8,
        code: u32,
        parameters: &mut [u8],
        area: &mut Reader<'_>,
    ) -> Result<(), TpmError> {
        let short = TpmError::Tampered("its answer is cut short");
        let (Some(theirs), Some(attributes), Some(tag)) = (area.sized(), area.u8(), area.sized()) else {
            return Err(short);
        };
        let answered = digest(&[&0_u32.to_be_bytes(), &code.to_be_bytes(), parameters]);
        mac(&*self.key, &[&answered, theirs, &self.ours, &[attributes]])?
            .verify_slice(tag)
            .map_err(|_| TpmError::Tampered("its answer does not carry the session's MAC"))?;
        self.theirs = theirs.to_vec();
        if asked & ENCRYPT != 0 {
            // Under the MAC, so this is the TPM saying that it sent a parameter in clear.
            if attributes & ENCRYPT == 0 {
                return Err(TpmError::Tampered("its answer is not encrypted"));
            }
            let (key, iv) = self.cipher(&self.theirs, &self.ours)?;
            cfb(&key, iv, first_parameter(parameters)?, false);
        }
        Ok(())
    }

    fn cipher(&self, newer: &[u8], older: &[u8]) -> Result<(Zeroizing<[u8; 16]>, [u8; 16]), TpmError> {
        let both = kdf_a(&*self.key, b"CFB", newer, older, 256)?;
        let (mut key, mut iv) = (Zeroizing::new([0; 16]), [0; 16]);
        for ((to, iv), (from, next)) in key.iter_mut().zip(&mut iv).zip(both.iter().zip(both.iter().skip(16)))
        {
            (*to, *iv) = (*from, *next);
        }
        Ok((key, iv))
    }
}

/// The bytes of the first parameter, without its length, which stays in clear.
fn first_parameter(parameters: &mut [u8]) -> Result<&mut [u8], TpmError> {
    let short = TpmError::Tampered("its answer is cut short");
    let Some((length, rest)) = parameters.split_first_chunk_mut() else { return Err(short) };
    rest.get_mut(..u16::from_be_bytes(*length).into()).ok_or(short)
}

/// AES-128 in CFB mode, in place.
fn cfb(key: &[u8; 16], iv: [u8; 16], text: &mut [u8], encrypt: bool) {
    let aes = Aes128::new(key.into());
    let mut stream = iv.into();
    for block in text.chunks_mut(16) {
        aes.encrypt_block(&mut stream);
        for (byte, pad) in block.iter_mut().zip(stream.iter_mut()) {
            let before = *byte;
            *byte ^= *pad;
            // The next block is chained to the ciphertext.
            *pad = if encrypt { *byte } else { before };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cfb_is_that_of_sp_800_38a() {
        let key: [u8; 16] = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").unwrap().try_into().unwrap();
        let iv: [u8; 16] = hex::decode("000102030405060708090a0b0c0d0e0f").unwrap().try_into().unwrap();
        let clear = hex::decode("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").unwrap();
        let mut text = clear.clone();
        cfb(&key, iv, &mut text, true);
        assert_eq!(hex::encode(&text), "3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        cfb(&key, iv, &mut text, false);
        assert_eq!(text, clear);
    }

    #[test]
    fn an_answer_without_the_sessions_mac_is_not_believed() {
        let salt = Salt { secret: Zeroizing::new([1; 32]), sealed: Vec::new() };
        let mut session = Session::new(2, salt, [3; 32], &[4; 32]).unwrap();
        let area = Writer::new().sized(&[5; 32]).u8(0).sized(&[6; 32]);
        let mut parameters = *b"\0\x04text";
        let judged = session.accept(ENCRYPT, 0x15e, &mut parameters, &mut Reader::new(area.bytes()));
        assert!(matches!(judged, Err(TpmError::Tampered(_))));
        assert_eq!(&parameters, b"\0\x04text");
        let judged = session.accept(0, 0x15e, &mut parameters, &mut Reader::new(&[0, 32]));
        assert!(matches!(judged, Err(TpmError::Tampered(_))));
    }

    #[test]
    fn a_salt_needs_a_point_of_the_curve() {
        assert!(matches!(Salt::agree(&[1; 32], &[1; 32]), Err(TpmError::Tampered(_))));
        assert!(matches!(Salt::agree(&[1; 33], &[1; 32]), Err(TpmError::Tampered(_))));
    }
}
