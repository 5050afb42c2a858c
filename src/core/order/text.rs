//! The form that all these documents share: ASCII, a title, one `field: value` a line in a fixed order, nothing more.
#![forbid(unsafe_code)]

use crate::core::units::Timestamp;

/// Longest document, bytes.
pub(super) const LONGEST: usize = 4096;

/// The values of a document that has exactly these fields.
pub(super) fn fields<'a, const N: usize>(
    text: &'a str,
    title: &str,
    names: [&str; N],
) -> Result<[&'a str; N], String> {
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || matches!(b, b' ' | b'\n')) {
        return Err("it holds something else than printable ASCII and newlines".into());
    }
    let mut lines = text.strip_suffix('\n').ok_or("it does not end with a newline")?.split('\n');
    if lines.next() != Some(title) {
        return Err(format!("its first line is not {title:?}"));
    }
    let mut values = [""; N];
    for (value, name) in values.iter_mut().zip(names) {
        let line = lines.next().unwrap_or_default();
        *value = line
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(": "))
            .ok_or_else(|| format!("where {name:?} belongs stands {line:?}"))?;
    }
    match lines.next() {
        None => Ok(values),
        Some(line) => Err(format!("{line:?} follows its last field")),
    }
}

/// The inverse of [`fields`].
pub(super) fn render(title: &str, fields: &[(&str, String)]) -> String {
    let lines = fields.iter().map(|(name, value)| format!("{name}: {value}\n"));
    std::iter::once(format!("{title}\n")).chain(lines).collect()
}

/// What stands in one line of a person's own words.
pub(super) fn words(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 200 && text.trim() == text;
    if fits && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        Ok(text.to_owned())
    } else {
        Err("a reason is one line of 1 to 200 ASCII characters".into())
    }
}

/// A number without sign or needless zeros.
pub(super) fn number(text: &str) -> Option<u64> {
    let n: u64 = text.parse().ok()?;
    (n.to_string() == text).then_some(n)
}

/// 32 bytes as lower-case hex.
pub(super) fn hex32(text: &str) -> Option<String> {
    let good = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    good.then(|| text.to_owned())
}

/// `sha256:` and 32 bytes as hex.
pub(super) fn digest(text: &str) -> Option<String> {
    hex32(text.strip_prefix("sha256:")?)
}

/// RFC 3339, UTC, milliseconds: exactly as a [`Timestamp`] prints.
pub(super) fn moment(text: &str) -> Option<Timestamp> {
    let day = Timestamp::parse_day(text.get(..10)?)?;
    let part = |at: std::ops::Range<usize>| text.get(at)?.parse::<i64>().ok();
    let (hour, minute, second, milli) = (part(11..13)?, part(14..16)?, part(17..19)?, part(20..23)?);
    let at = day.plus(((hour * 60 + minute) * 60 + second) * 1000 + milli);
    (at.to_string() == text).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_printed() {
        for ms in [0, 1, 1_709_210_096_789, 4_102_444_800_000] {
            assert_eq!(moment(&Timestamp(ms).to_string()), Some(Timestamp(ms)));
        }
        for bad in ["", "2024-02-30T00:00:00.000Z", "2024-02-29T24:00:00.000Z", "2024-02-29 12:34:56.789Z"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_document_has_its_fields_in_their_order_and_nothing_else() {
        let read = |text: &str| fields(text, "t v1", ["a", "b"]).map(|v| v.map(str::to_owned));
        assert_eq!(read("t v1\na: 1\nb: 2\n").unwrap(), ["1", "2"]);
        for bad in [
            "",
            "t v1\n",
            "t v2\na: 1\nb: 2\n",
            "t v1\nb: 2\na: 1\n",
            "t v1\na: 1\nb: 2",
            "t v1\na: 1\nb: 2\n\n",
            "t v1\na: 1\nb: 2\nc: 3\n",
            "t v1\r\na: 1\r\nb: 2\r\n",
            "t v1\na:1\nb: 2\n",
            "t v1\na: \u{e4}\nb: 2\n",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert!(fields(&format!("t v1\na: {}\n", "x".repeat(LONGEST)), "t v1", ["a"]).is_err());
    }
}
