//! Entries as CBOR, core deterministic encoding (RFC 8949, section 4.2.1): a value has one form, and no other is read.
//!
//! Of CBOR there is what JSON has without fractions: integers of 64 bits, text, booleans, null, arrays, maps with text for
//! names. No tags, no floats, no indefinite lengths, no byte strings.
#![forbid(unsafe_code)]

use serde_json::{Map, Value};

/// Deepest nesting that is read or written.
const DEEPEST: usize = 32;

/// Why a value was not written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// A number with a fraction.
    #[error("it holds a number that is no integer of 64 bits")]
    Number,
    /// Nested too deeply.
    #[error("it is nested too deeply")]
    Deep,
    /// The bytes end inside a value.
    #[error("it is cut")]
    Cut,
    /// Bytes follow the value.
    #[error("bytes follow its end")]
    Trailing,
    /// Another form of something that has a shorter one, or names out of order or twice.
    #[error("it is not in the one form that its value has")]
    NotDeterministic,
    /// Something that entries do not hold.
    #[error("it holds a kind of item that no entry has")]
    Kind,
    /// Text that is no UTF-8.
    #[error("its text is no UTF-8")]
    Text,
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

fn head(major: u8, n: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    let bytes = n.to_be_bytes();
    match n {
        0..24 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 0x18, bytes[7]]),
        0x100..=0xffff => out.extend_from_slice(&[major | 0x19, bytes[6], bytes[7]]),
        0x1_0000..=0xffff_ffff => {
            out.push(major | 0x1a);
            out.extend_from_slice(&n.to_be_bytes()[4..]);
        }
        _ => {
            out.push(major | 0x1b);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Names in the order of their encodings: the shorter first, then byte by byte.
fn before(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// Writes a value.
pub fn encode(value: &Value) -> Result<Vec<u8>, CborError> {
    let mut out = Vec::with_capacity(512);
    write(value, 0, &mut out)?;
    Ok(out)
}

fn write(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), CborError> {
    if depth > DEEPEST {
        return Err(CborError::Deep);
    }
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => head(UNSIGNED, n, out),
            // The complement of a negative number is what CBOR writes.
            (None, Some(n)) => head(NEGATIVE, (!n).cast_unsigned(), out),
            (None, None) => return Err(CborError::Number),
        },
        Value::String(text) => {
            head(TEXT, text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            head(ARRAY, items.len() as u64, out);
            items.iter().try_for_each(|item| write(item, depth + 1, out))?;
        }
        Value::Object(members) => {
            head(MAP, members.len() as u64, out);
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| before(a, b));
            for (name, value) in sorted {
                head(TEXT, name.len() as u64, out);
                out.extend_from_slice(name.as_bytes());
                write(value, depth + 1, out)?;
            }
        }
    }
    Ok(())
}

/// Whether bytes begin like a map of CBOR; an entry of JSON begins with a brace.
#[must_use]
pub fn is_map(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| b >> 5 == MAP)
}

/// Reads a value that is in its one form, and nothing behind it.
pub fn decode(bytes: &[u8]) -> Result<Value, CborError> {
    let mut rest = bytes;
    let value = read(&mut rest, 0)?;
    if rest.is_empty() { Ok(value) } else { Err(CborError::Trailing) }
}

fn take<'a>(rest: &mut &'a [u8], n: u64) -> Result<&'a [u8], CborError> {
    let n = usize::try_from(n).map_err(|_| CborError::Cut)?;
    let (taken, after) = rest.split_at_checked(n).ok_or(CborError::Cut)?;
    *rest = after;
    Ok(taken)
}

/// Major type and argument of an item.
fn read_head(rest: &mut &[u8]) -> Result<(u8, u64), CborError> {
    let first = *take(rest, 1)?.first().ok_or(CborError::Cut)?;
    let (major, short) = (first >> 5, first & 0x1f);
    let (width, least) = match short {
        0..=23 => return Ok((major, u64::from(short))),
        24 => (1, 24),
        25 => (2, 0x100),
        26 => (4, 0x1_0000),
        27 => (8, 0x1_0000_0000),
        // Reserved, and indefinite lengths.
        _ => return Err(CborError::Kind),
    };
    let n = take(rest, width)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    if n < least { Err(CborError::NotDeterministic) } else { Ok((major, n)) }
}

fn read_text(rest: &mut &[u8], length: u64) -> Result<String, CborError> {
    std::str::from_utf8(take(rest, length)?).map(str::to_owned).map_err(|_| CborError::Text)
}

fn read(rest: &mut &[u8], depth: usize) -> Result<Value, CborError> {
    if depth > DEEPEST {
        return Err(CborError::Deep);
    }
    if let Some(first @ (FALSE | TRUE | NULL)) = rest.first().copied() {
        take(rest, 1)?;
        return Ok(if first == NULL { Value::Null } else { Value::Bool(first == TRUE) });
    }
    let (major, n) = read_head(rest)?;
    match major {
        UNSIGNED => Ok(n.into()),
        NEGATIVE => {
            let complement = i64::try_from(n).map_err(|_| CborError::Number)?;
            Ok((!complement).into())
        }
        TEXT => read_text(rest, n).map(Value::String),
        ARRAY => {
            // Grows with what is there, not with what is said.
            let mut items = Vec::new();
            for _ in 0..n {
                items.push(read(rest, depth + 1)?);
            }
            Ok(Value::Array(items))
        }
        MAP => {
            let (mut members, mut last): (_, Option<String>) = (Map::new(), None);
            for _ in 0..n {
                let (TEXT, length) = read_head(rest)? else { return Err(CborError::Kind) };
                let name = read_text(rest, length)?;
                if last.as_ref().is_some_and(|last| before(last, &name).is_ge()) {
                    return Err(CborError::NotDeterministic);
                }
                let value = read(rest, depth + 1)?;
                last = Some(name.clone());
                members.insert(name, value);
            }
            Ok(Value::Object(members))
        }
        _ => Err(CborError::Kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn bytes(digits: &str) -> Vec<u8> {
        hex::decode(digits).unwrap()
    }

    #[test]
    fn the_examples_of_the_specification_are_written_and_read_as_they_stand_there() {
        // RFC 8949, appendix A.
        for (value, digits) in [
            (json!(0), "00"),
            (json!(23), "17"),
            (json!(24), "1818"),
            (json!(100), "1864"),
            (json!(1000), "1903e8"),
            (json!(1_000_000), "1a000f4240"),
            (json!(1_000_000_000_000u64), "1b000000e8d4a51000"),
            (json!(u64::MAX), "1bffffffffffffffff"),
            (json!(-1), "20"),
            (json!(-10), "29"),
            (json!(-1000), "3903e7"),
            (json!(i64::MIN), "3b7fffffffffffffff"),
            (json!(false), "f4"),
            (json!(true), "f5"),
            (json!(null), "f6"),
            (json!("IETF"), "6449455446"),
            (json!("\u{6c34}"), "63e6b0b4"),
            (json!([1, [2, 3], [4, 5]]), "8301820203820405"),
            (json!({"a": 1, "b": [2, 3]}), "a26161016162820203"),
            // Section 4.2.1: the shorter name first.
            (json!({"aa": 2, "b": 1}), "a261620162616102"),
        ] {
            assert_eq!(hex::encode(encode(&value).unwrap()), digits, "{value}");
            assert_eq!(decode(&bytes(digits)), Ok(value), "{digits}");
        }
        assert_eq!(encode(&json!(1.5)), Err(CborError::Number));
    }

    // [clause 8.7.1-e] test
    #[test]
    fn another_form_of_the_same_value_is_not_read() {
        for (digits, error) in [
            ("1817", CborError::NotDeterministic),
            ("1900ff", CborError::NotDeterministic),
            ("1a0000ffff", CborError::NotDeterministic),
            ("1b00000000ffffffff", CborError::NotDeterministic),
            ("7803414243", CborError::NotDeterministic),
            ("a2616201616102", CborError::NotDeterministic),
            ("a2616101616102", CborError::NotDeterministic),
            ("a262616102616201", CborError::NotDeterministic),
            ("9f01ff", CborError::Kind),
            ("7f6161ff", CborError::Kind),
            ("bfff", CborError::Kind),
            ("1c", CborError::Kind),
            ("f93c00", CborError::Kind),
            ("fb3ff0000000000000", CborError::Kind),
            ("f7", CborError::Kind),
            ("c000", CborError::Kind),
            ("4101", CborError::Kind),
            ("a10102", CborError::Kind),
            ("3bffffffffffffffff", CborError::Number),
            ("61ff", CborError::Text),
            ("0000", CborError::Trailing),
            ("", CborError::Cut),
            ("62aa", CborError::Cut),
            ("9bffffffffffffffff", CborError::Cut),
            ("7bffffffffffffffff", CborError::Cut),
        ] {
            assert_eq!(decode(&bytes(digits)), Err(error), "{digits}");
        }
        assert_eq!(decode(&[0x81; 100]), Err(CborError::Deep));
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::vec(("[a-c]{0,4}", inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            prop_assert_eq!(decode(&encode(&value).unwrap()), Ok(value));
        }

        // [clause 8.7.1-e] test
        #[test]
        fn any_bytes_are_refused_or_are_the_one_form_of_their_value(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(encode(&value).unwrap(), bytes);
            }
        }

        #[test]
        fn a_value_with_one_byte_changed_is_refused_or_another(value in values(), at in any::<usize>(), change in 1u8..) {
            let mut bytes = encode(&value).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= change;
            if let Ok(other) = decode(&bytes) {
                prop_assert_ne!(&other, &value);
                prop_assert_eq!(encode(&other).unwrap(), bytes);
            }
        }
    }
}
