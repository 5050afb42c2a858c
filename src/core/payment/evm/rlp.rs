//! RLP of the three transaction kinds. Strict: canonical integers, exact lengths, nothing after the end.
#![forbid(unsafe_code)]

use alloy_rlp::{BufMut, Decodable, Encodable, Header};

use super::{AccessItem, Fee, PaymentError, UnsignedTx};
use crate::core::units::{Address, U256};

/// What the signature adds.
pub(super) struct Seal {
    pub(super) r: [u8; 32],
    pub(super) s: [u8; 32],
    pub(super) odd: bool,
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    bytes.encode(out);
}

fn put_to(out: &mut Vec<u8>, to: Option<&Address>) {
    put_bytes(out, to.map_or(&[], |a| a.0.as_slice()));
}

fn list(out: &mut Vec<u8>, body: &[u8]) {
    Header { list: true, payload_length: body.len() }.encode(out);
    out.put_slice(body);
}

fn put_access(out: &mut Vec<u8>, access: &[AccessItem]) {
    let mut items = Vec::new();
    for item in access {
        let mut slots = Vec::new();
        for slot in &item.slots {
            put_bytes(&mut slots, slot);
        }
        let mut body = Vec::new();
        put_bytes(&mut body, &item.address.0);
        list(&mut body, &slots);
        list(&mut items, &body);
    }
    list(out, &items);
}

/// Encodes; without a seal this is what is hashed for signing.
pub(super) fn encode(tx: &UnsignedTx, seal: Option<&Seal>) -> Vec<u8> {
    let mut body = Vec::with_capacity(128 + tx.input.len());
    let legacy = matches!(tx.fee, Fee::Legacy { .. });
    if !legacy {
        tx.chain.encode(&mut body);
    }
    tx.nonce.encode(&mut body);
    match tx.fee {
        Fee::Legacy { gas_price } | Fee::AccessList { gas_price } => gas_price.encode(&mut body),
        Fee::Dynamic { max_fee, max_priority } => {
            max_priority.encode(&mut body);
            max_fee.encode(&mut body);
        }
    }
    tx.gas.encode(&mut body);
    put_to(&mut body, tx.to.as_ref());
    tx.value.encode(&mut body);
    put_bytes(&mut body, &tx.input);
    if !legacy {
        put_access(&mut body, &tx.access);
    }
    match (seal, legacy) {
        (None, false) => {}
        (None, true) => {
            // EIP-155: chain id, 0, 0
            tx.chain.encode(&mut body);
            0u64.encode(&mut body);
            0u64.encode(&mut body);
        }
        (Some(seal), _) => {
            let v = if legacy {
                // The chain id was bounded when the transaction was read.
                tx.chain.saturating_mul(2).saturating_add(35 + u64::from(seal.odd))
            } else {
                u64::from(seal.odd)
            };
            v.encode(&mut body);
            U256::from_be_bytes(seal.r).encode(&mut body);
            U256::from_be_bytes(seal.s).encode(&mut body);
        }
    }
    let mut out = Vec::with_capacity(body.len() + 10);
    match tx.fee {
        Fee::Legacy { .. } => {}
        Fee::AccessList { .. } => out.push(1),
        Fee::Dynamic { .. } => out.push(2),
    }
    list(&mut out, &body);
    out
}

fn take<T: Decodable>(buf: &mut &[u8], what: &'static str) -> Result<T, PaymentError> {
    T::decode(buf).map_err(|_| PaymentError::Encoding(what))
}

fn take_list<'a>(buf: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], PaymentError> {
    Header::decode_bytes(buf, true).map_err(|_| PaymentError::Encoding(what))
}

fn take_bytes<'a>(buf: &mut &'a [u8], what: &'static str) -> Result<&'a [u8], PaymentError> {
    Header::decode_bytes(buf, false).map_err(|_| PaymentError::Encoding(what))
}

fn take_access(buf: &mut &[u8]) -> Result<Vec<AccessItem>, PaymentError> {
    let mut items = take_list(buf, "the access list is no list")?;
    let mut access = Vec::new();
    while !items.is_empty() {
        let mut item = take_list(&mut items, "an access list item is no list")?;
        let address = take_bytes(&mut item, "an access list address is wrong")?;
        let address = Address(
            address
                .try_into()
                .map_err(|_| PaymentError::Encoding("an access list address is not 20 bytes"))?,
        );
        let mut keys = take_list(&mut item, "access list slots are no list")?;
        if !item.is_empty() {
            return Err(PaymentError::Encoding("an access list item has too many parts"));
        }
        let mut slots = Vec::new();
        while !keys.is_empty() {
            let slot = take_bytes(&mut keys, "an access list slot is wrong")?;
            slots.push(
                slot.try_into().map_err(|_| PaymentError::Encoding("an access list slot is not 32 bytes"))?,
            );
        }
        access.push(AccessItem { address, slots });
    }
    Ok(access)
}

/// Decodes the unsigned form.
pub(super) fn decode(bytes: &[u8]) -> Result<UnsignedTx, PaymentError> {
    let (kind, mut rest) = match bytes.split_first() {
        Some((0xc0.., _)) => (0, bytes),
        Some((kind @ (1 | 2), rest)) => (*kind, rest),
        Some((kind, _)) => return Err(PaymentError::Kind(format!("0x{kind:02x}"))),
        None => return Err(PaymentError::Encoding("there are none")),
    };
    let mut body = take_list(&mut rest, "the outer list is broken")?;
    if !rest.is_empty() {
        return Err(PaymentError::Encoding("bytes stand after the end"));
    }
    let buf = &mut body;
    let mut chain = if kind == 0 { 0 } else { take(buf, "the chain id is wrong")? };
    let nonce = take(buf, "the nonce is wrong")?;
    let fee = match kind {
        0 => Fee::Legacy { gas_price: take(buf, "the gas price is wrong")? },
        1 => Fee::AccessList { gas_price: take(buf, "the gas price is wrong")? },
        _ => {
            let max_priority = take(buf, "the priority fee is wrong")?;
            Fee::Dynamic { max_fee: take(buf, "the fee cap is wrong")?, max_priority }
        }
    };
    let gas = take(buf, "the gas limit is wrong")?;
    let to = match take_bytes(buf, "the destination is wrong")? {
        [] => None,
        to => Some(Address(
            to.try_into().map_err(|_| PaymentError::Encoding("the destination is not 20 bytes"))?,
        )),
    };
    let value = take(buf, "the value is wrong")?;
    let input = take_bytes(buf, "the call data is wrong")?.to_vec();
    let access = if kind == 0 { Vec::new() } else { take_access(buf)? };
    if kind == 0 {
        if buf.is_empty() {
            return Err(PaymentError::Encoding(
                "it has no chain id (EIP-155), so it could be replayed on any chain",
            ));
        }
        chain = take(buf, "the chain id is wrong")?;
        let zeros: (u64, u64) = (take(buf, "EIP-155 wants a zero")?, take(buf, "EIP-155 wants a zero")?);
        if zeros != (0, 0) {
            return Err(PaymentError::Encoding("it is signed already"));
        }
    }
    if !buf.is_empty() {
        return Err(PaymentError::Encoding("the list has too many items"));
    }
    Ok(UnsignedTx { chain, nonce, fee, gas, to, value, input, access })
}

/// What the signature added to this transaction, in its signed form.
pub(super) fn seal(tx: &UnsignedTx, signed: &[u8]) -> Result<Seal, PaymentError> {
    let (kind, fields) = match tx.fee {
        Fee::Legacy { .. } => (None, 6),
        Fee::AccessList { .. } => (Some(1), 8),
        Fee::Dynamic { .. } => (Some(2), 9),
    };
    let mut rest = match kind {
        None => signed,
        Some(kind) => signed.strip_prefix(&[kind]).ok_or(PaymentError::Encoding("it is of another type"))?,
    };
    let mut body = take_list(&mut rest, "the outer list is broken")?;
    for _ in 0..fields {
        let broken = PaymentError::Encoding("the list has too few items");
        let field = Header::decode(&mut body).map_err(|_| broken.clone())?;
        body = body.get(field.payload_length..).ok_or(broken)?;
    }
    let v: u64 = take(&mut body, "v is wrong")?;
    let (r, s): (U256, U256) = (take(&mut body, "r is wrong")?, take(&mut body, "s is wrong")?);
    let even = if kind.is_some() { 0 } else { tx.chain.saturating_mul(2).saturating_add(35) };
    let odd = match v.checked_sub(even) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(PaymentError::Encoding("v is of another chain, or no parity")),
    };
    Ok(Seal { r: r.to_be_bytes(), s: s.to_be_bytes(), odd })
}
