//! A session of our own (SCP03) for the device's log and options.
//!
//! The crate reads them up to the first command that it does not know (those for AES keys, and newer ones) and says
//! nothing of the rest; and it cannot close a session.
#![forbid(unsafe_code)]

use std::sync::Arc;

use aes_08::cipher::block_padding::Iso7816;
use aes_08::cipher::{BlockDecryptMut, BlockEncrypt, BlockEncryptMut, KeyInit, KeyIvInit};
use aes_08::{Aes128, Block};
use cmac::{Cmac, Mac};
use subtle::ConstantTimeEq;
use yubihsm::authentication;
use zeroize::Zeroizing;

use super::wire::{ANSWER, ERROR, Wire};
use super::{TokenError, refusal};

const CREATE_SESSION: u8 = 0x03;
const AUTHENTICATE_SESSION: u8 = 0x04;
const SESSION_MESSAGE: u8 = 0x05;
const CLOSE_SESSION: u8 = 0x40;
/// What keys and cryptograms are derived for.
const CARD_CRYPTOGRAM: u8 = 0x00;
const HOST_CRYPTOGRAM: u8 = 0x01;
const S_ENC: u8 = 0x04;
const S_MAC: u8 = 0x06;
const S_RMAC: u8 = 0x07;
const MAC: usize = 8;
/// Messages under one set of session keys.
const MOST_MESSAGES: u32 = 1 << 20;

type Key = Zeroizing<[u8; 16]>;

/// An authenticated session. Any error ends it.
pub(super) struct Channel {
    wire: Arc<Wire>,
    id: u8,
    enc: Key,
    mac: Key,
    rmac: Key,
    chain: [u8; 16],
    counter: u32,
    broken: bool,
}

fn corrupt(why: &str) -> TokenError {
    TokenError::Corrupt(format!("the YubiHSM's session: {why}"))
}

fn cmac(key: &[u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = <Cmac<Aes128> as KeyInit>::new(key.into());
    parts.iter().for_each(|part| Mac::update(&mut mac, part));
    mac.finalize().into_bytes().into()
}

/// SP 800-108 in counter mode over AES-CMAC, as SCP03 has it.
fn derive(key: &[u8; 16], constant: u8, context: &[u8; 16], bits: u16) -> Key {
    let [high, low] = bits.to_be_bytes();
    Zeroizing::new(cmac(key, &[&[0; 11], &[constant, 0, high, low, 1], context]))
}

fn framed(command: u8, parts: &[&[u8]]) -> Result<Vec<u8>, TokenError> {
    let length = u16::try_from(parts.iter().map(|p| p.len()).sum::<usize>())
        .map_err(|_| TokenError::Unsupported("the command is too long for the device".into()))?;
    let mut frame = vec![command];
    frame.extend(length.to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    Ok(frame)
}

/// The data of an answer, or the device's refusal.
fn opened(command: u8, answer: &[u8]) -> Result<&[u8], TokenError> {
    match answer.split_first_chunk::<3>() {
        Some(([ERROR, _, _], [code])) => Err(refusal(*code)),
        Some(([code, high, low], data))
            if *code == (command | ANSWER)
                && data.len() == usize::from(u16::from_be_bytes([*high, *low])) =>
        {
            Ok(data)
        }
        _ => Err(corrupt("the answer is to another question")),
    }
}

/// A command that needs no session.
pub(super) fn plain(wire: &Wire, command: u8, data: &[u8]) -> Result<Vec<u8>, TokenError> {
    let answer = wire.exchange(&framed(command, &[data])?)?;
    opened(command, &answer).map(<[u8]>::to_vec)
}

impl Channel {
    /// Opens a session.
    pub(super) fn open(
        wire: &Arc<Wire>,
        key_id: u16,
        long: &authentication::Key,
    ) -> Result<Self, TokenError> {
        let halves = long.as_secret_slice().split_first_chunk::<16>();
        let Some((enc, mac)) = halves.and_then(|(enc, rest)| Some((enc, rest.first_chunk::<16>()?))) else {
            return Err(corrupt("the authentication key has a wrong length"));
        };
        let mut context = [0; 16];
        let (ours, theirs) = context.split_at_mut(8);
        getrandom::fill(ours)
            .map_err(|e| TokenError::Gone(format!("the kernel gives no random bytes: {e}")))?;
        let mut asked = key_id.to_be_bytes().to_vec();
        asked.extend_from_slice(ours);
        let told = plain(wire, CREATE_SESSION, &asked)?;
        let Some(([id], challenge, cryptogram)) = told
            .split_first_chunk::<1>()
            .and_then(|(id, rest)| rest.split_first_chunk::<8>().map(|(c, rest)| (id, c, rest)))
        else {
            return Err(corrupt("its beginning is too short"));
        };
        theirs.copy_from_slice(challenge);
        let mut channel = Self {
            wire: Arc::clone(wire),
            id: *id,
            enc: derive(enc, S_ENC, &context, 128),
            mac: derive(mac, S_MAC, &context, 128),
            rmac: derive(mac, S_RMAC, &context, 128),
            chain: [0; 16],
            counter: 1,
            broken: false,
        };
        let expected = derive(&channel.mac, CARD_CRYPTOGRAM, &context, 64);
        if !bool::from(expected.first_chunk::<8>().map_or(&[][..], |c| c).ct_eq(cryptogram)) {
            return Err(TokenError::Locked("the device does not know this password".into()));
        }
        let own = derive(&channel.mac, HOST_CRYPTOGRAM, &context, 64);
        let own = own.first_chunk::<8>().copied().unwrap_or_default();
        let frame = channel.signed(AUTHENTICATE_SESSION, &own)?;
        let answer = wire.exchange(&frame)?;
        if !opened(AUTHENTICATE_SESSION, &answer)?.is_empty() {
            return Err(corrupt("more came than an acceptance"));
        }
        Ok(channel)
    }

    /// A frame with the MAC that chains it to all before it.
    fn signed(&mut self, command: u8, body: &[u8]) -> Result<Vec<u8>, TokenError> {
        let mut frame = framed(command, &[&[self.id], body, &[0; MAC]])?;
        frame.truncate(frame.len().saturating_sub(MAC));
        self.chain = cmac(&self.mac, &[&self.chain, &frame]);
        frame.extend(self.chain.iter().take(MAC));
        Ok(frame)
    }

    /// Runs a command in the session. A refusal leaves the session as it is, anything else ends it.
    pub(super) fn command(&mut self, command: u8, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        if self.broken || self.counter >= MOST_MESSAGES {
            return Err(TokenError::Gone("the YubiHSM's session has ended".into()));
        }
        self.broken = true;
        let inner = self.message(&framed(command, &[data])?)?;
        self.broken = false;
        opened(command, &inner).map(|data| Zeroizing::new(data.to_vec()))
    }

    fn message(&mut self, inner: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let mut iv = Block::from(u128::from(self.counter).to_be_bytes());
        <Aes128 as KeyInit>::new((&*self.enc).into()).encrypt_block(&mut iv);
        let body =
            cbc::Encryptor::<Aes128>::new((&*self.enc).into(), &iv).encrypt_padded_vec_mut::<Iso7816>(inner);
        let frame = self.signed(SESSION_MESSAGE, &body)?;
        let answer = self.wire.exchange(&frame)?;
        opened(SESSION_MESSAGE, &answer)?;
        let (signed, mac) = answer.split_at(answer.len().saturating_sub(MAC));
        let expected = cmac(&self.rmac, &[&self.chain, signed]);
        if !bool::from(expected.first_chunk::<MAC>().map_or(&[][..], |c| c).ct_eq(mac)) {
            return Err(corrupt("an answer was changed on its way"));
        }
        let Some(([_, _, _, id], body)) = signed.split_first_chunk::<4>() else {
            return Err(corrupt("an answer is too short"));
        };
        if *id != self.id {
            return Err(corrupt("an answer belongs to another session"));
        }
        self.counter += 1;
        cbc::Decryptor::<Aes128>::new((&*self.enc).into(), &iv)
            .decrypt_padded_vec_mut::<Iso7816>(body)
            .map(Zeroizing::new)
            .map_err(|_| corrupt("an answer is not padded"))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // The device has sixteen sessions; one that is not closed is held for thirty seconds more.
        if !self.broken
            && let Err(e) = self.command(CLOSE_SESSION, &[])
        {
            tracing::debug!("a session with the YubiHSM was not closed: {e}");
        }
    }
}
