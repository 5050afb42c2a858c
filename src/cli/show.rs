//! Tables for people.
#![forbid(unsafe_code)]

use serde_json::Value;

/// A table with a header; columns as wide as their widest cell.
#[must_use]
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + 2));
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// The text of one member, empty when absent.
#[must_use]
pub fn text(value: &Value, member: &str) -> String {
    match value.get(member) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.to_string(),
    }
}

/// Name and value lines of an object, nested objects indented.
#[must_use]
pub fn fields(value: &Value) -> String {
    fn walk(value: &Value, indent: usize, out: &mut String) {
        let Some(map) = value.as_object() else { return };
        for (name, value) in map {
            let pad = " ".repeat(indent);
            match value {
                Value::Object(_) => {
                    out.push_str(&format!("{pad}{name}:\n"));
                    walk(value, indent + 2, out);
                }
                Value::Null => {}
                Value::String(s) => out.push_str(&format!("{pad}{name}: {s}\n")),
                other => out.push_str(&format!("{pad}{name}: {other}\n")),
            }
        }
    }
    let mut out = String::new();
    walk(value, 0, &mut out);
    out
}

/// The table of keys.
#[must_use]
pub fn keys(value: &Value) -> String {
    let rows: Vec<Vec<String>> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|k| {
            let mut row: Vec<String> =
                ["name", "algorithm", "purpose", "state"].iter().map(|m| text(k, m)).collect();
            // A key that was outside, or may have been, is seen at the first glance.
            row.push(k.get("origin").map(|o| text(o, "kind")).unwrap_or_default());
            row.push(text(k, "account"));
            row
        })
        .collect();
    table(&["NAME", "ALGORITHM", "PURPOSE", "STATE", "ORIGIN", "ACCOUNT"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_key_comes_from_is_in_the_table() {
        let key = serde_json::json!([{"name": "old", "origin": {"kind": "imported"}, "account": "0x1"}]);
        assert!(keys(&key).contains("imported"));
    }

    #[test]
    fn columns_line_up() {
        let text = table(&["A", "LONG"], &[vec!["xyz".into(), "1".into()], vec!["b".into(), "2".into()]]);
        assert_eq!(text, "A    LONG\nxyz  1\nb    2\n");
    }
}
