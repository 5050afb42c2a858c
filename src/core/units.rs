//! The small values that travel everywhere: amounts, times, identifiers, addresses.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};
use sha3::{Digest, Keccak256};

/// 256-bit unsigned integer: amounts in base units (wei, token units). Arithmetic on it is always checked.
pub type U256 = ruint::aliases::U256;

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Whole seconds since the epoch.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Midnight, UTC, of a day written `2035-12-31`; `None` for what is no day of the years 1970 to 9999.
    #[must_use]
    pub fn parse_day(text: &str) -> Option<Self> {
        let digits = |part: &str, length| {
            (part.len() == length && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.parse::<i64>().ok())?
        };
        let mut parts = text.split('-');
        let (year, month, day) =
            (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
        if parts.next().is_some() || year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        // Days from civil, the inverse of what Display does; a day that is none comes back as another.
        let shifted_year = if month <= 2 { year - 1 } else { year };
        let (era, year_of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
        let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let days =
            era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
        let midnight = Self(days * 86_400_000);
        midnight.to_string().starts_with(text).then_some(midnight)
    }

    /// A moment written `2026-11-21T12:00:00Z`; `None` for what is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (day, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut parts = time.split(':').map(|part| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<i64>().ok())?
        });
        let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
        let whole = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
        let midnight = Self::parse_day(day)?;
        whole.then(|| midnight.plus((hour * 3600 + minute * 60 + second) * 1000))
    }

    /// This moment, `millis` later.
    #[must_use]
    pub fn plus(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// This moment, `millis` earlier.
    #[must_use]
    pub fn minus(self, millis: i64) -> Self {
        Self(self.0.saturating_sub(millis))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC, milliseconds (civil-from-days of the proleptic Gregorian calendar).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(86_400_000);
        let in_day = self.0.rem_euclid(86_400_000);
        let shifted = days.saturating_add(719_468);
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
        let (second, milli) = (in_day / 1000 % 60, in_day % 1000);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// A name that people chose (key, app, rule, asset, address book): 1 to 64 of `A-Z a-z 0-9 . _ -`; a key that rotation made
/// has `@` and its generation behind it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// Parses a name; `None` when it is empty, too long or holds another character.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        // What rotation made has the number of its generation behind it.
        let (base, generation) = text.split_once('@').map_or((text, None), |(b, g)| (b, Some(g)));
        let numbered = generation.is_none_or(|g| {
            !g.starts_with('0')
                && g.len() <= 6
                && g.parse::<u32>().is_ok_and(|n| n > 1)
                && !g.starts_with('+')
        });
        let fits = !base.is_empty() && base.len() <= 64 && base.bytes().all(good);
        (fits && numbered).then(|| Self(text.to_owned()))
    }

    /// The line of a key: its name without a generation.
    #[must_use]
    pub fn line(&self) -> Self {
        Self(self.0.split_once('@').map_or(self.0.as_str(), |(line, _)| line).to_owned())
    }

    /// The name of a later generation: `hot-1@2`.
    #[must_use]
    pub fn of_generation(line: &Self, generation: u32) -> Option<Self> {
        Self::parse(&format!("{line}@{generation}"))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a name is 1 to 64 of A-Z a-z 0-9 . _ -"))
    }
}

/// A 20-byte EVM address. Printed with the EIP-55 checksum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub [u8; 20]);

impl Address {
    /// Parses `0x` and 40 hex digits: all lower case, all upper case, or a right EIP-55 checksum.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x")?;
        let mut bytes = [0u8; 20];
        hex::decode_to_slice(digits, &mut bytes).ok()?;
        let address = Self(bytes);
        let lower = !digits.bytes().any(|b| b.is_ascii_uppercase());
        let upper = !digits.bytes().any(|b| b.is_ascii_lowercase());
        (lower || upper || address.to_string() == text).then_some(address)
    }

    /// `0x` and lower-case digits, as JSON-RPC clients compare it.
    #[must_use]
    pub fn lower_hex(&self) -> String {
        format!("0x{}", hex::encode(self.0))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = hex::encode(self.0);
        let hash = keccak256(digits.as_bytes());
        f.write_str("0x")?;
        for (i, c) in digits.chars().enumerate() {
            let byte = hash.get(i / 2).copied().unwrap_or(0);
            let nibble = if i % 2 == 0 { byte >> 4 } else { byte & 0x0f };
            let c = if nibble >= 8 { c.to_ascii_uppercase() } else { c };
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom(
                "an address is 0x and 40 hex digits with a right EIP-55 checksum, or one case",
            )
        })
    }
}

/// Keccak-256, as Ethereum uses it.
#[must_use]
pub fn keccak256(bytes: &[u8]) -> [u8; 32] {
    Keccak256::digest(bytes).into()
}

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    <sha2::Sha256 as sha2::Digest>::digest(bytes).into()
}

/// Reads a decimal string of base units; no sign, no separators, no empty text; `None` past 2^256-1.
#[must_use]
pub fn parse_decimal(text: &str) -> Option<U256> {
    if text.is_empty() || text.len() > 78 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    U256::from_str_radix(text, 10).ok()
}

/// Serde for amounts: a decimal string, so that no reader ever takes it for a float.
pub mod decimal {
    use super::{U256, parse_decimal};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the decimal string.
    pub fn serialize<S: Serializer>(value: &U256, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    /// Reads the decimal string.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<U256, D::Error> {
        let text = String::deserialize(d)?;
        parse_decimal(&text).ok_or_else(|| serde::de::Error::custom("expected a decimal string below 2^256"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eip55_vectors_of_the_eip() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        ] {
            let address = Address::parse(text).expect("valid");
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::parse(&text.to_lowercase()), Some(address));
            let broken = text.replacen("aA", "Aa", 1).replacen("fB", "Fb", 1).replacen("D1220A", "d1220A", 1);
            assert_eq!(Address::parse(&broken), None, "{broken}");
        }
    }

    #[test]
    fn times_print_as_rfc3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(1_709_210_096_789).to_string(), "2024-02-29T12:34:56.789Z");
        assert_eq!(Timestamp(-1).to_string(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn decimals_are_exact_and_bounded() {
        assert_eq!(
            parse_decimal("115792089237316195423570985008687907853269984665640564039457584007913129639935"),
            Some(U256::MAX)
        );
        for bad in [
            "",
            "-1",
            "1e3",
            "0x1",
            " 1",
            "115792089237316195423570985008687907853269984665640564039457584007913129639936",
        ] {
            assert_eq!(parse_decimal(bad), None, "{bad}");
        }
    }
}
