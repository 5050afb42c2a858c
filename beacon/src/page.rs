//! The page for people: every device in a row, rendered here, without a script. Whatever came from outside is escaped.
#![forbid(unsafe_code)]

use std::fmt::Write;

use claviger::core::order::Level;
use serde_json::Value;

use crate::config::Config;
use crate::shelf::Row;

/// Rows of one page.
const ROWS: usize = 1000;
const STYLE: &str = include_str!("page.css");

/// What is asked for after the question mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    show: String,
    search: String,
    page: usize,
}

/// How many devices there are of each kind.
#[derive(Default)]
pub struct Counts {
    total: usize,
    running: usize,
    suspended: usize,
    inactivated: usize,
    wiped: usize,
    unheard: usize,
    /// Silent for too long.
    pub stale: usize,
    /// Machines that are not as they must be.
    pub unfit: usize,
    /// Orders without a receipt.
    pub unanswered: usize,
    waiting: usize,
}

fn state(row: &Row) -> &'static str {
    match (row.level, row.silent_ms) {
        (Some(level), _) => level.as_str(),
        (None, Some(_)) => "running",
        (None, None) => "unheard",
    }
}

fn word(state: &str) -> &str {
    match state {
        "suspend" => "suspended",
        "inactivate" => "inactivated",
        "wipe" => "wiped",
        "unheard" => "never heard",
        other => other,
    }
}

fn is_unfit(row: &Row) -> bool {
    row.facts.as_ref().is_some_and(|facts| !facts.fit)
}

impl Counts {
    /// Counts.
    pub fn of(rows: &[Row]) -> Self {
        let mut counts = Self { total: rows.len(), ..Self::default() };
        for row in rows {
            match state(row) {
                "running" => counts.running += 1,
                "suspend" => counts.suspended += 1,
                "inactivate" => counts.inactivated += 1,
                "wipe" => counts.wiped += 1,
                _ => counts.unheard += 1,
            }
            counts.stale += usize::from(row.stale && row.silent_ms.is_some());
            counts.unfit += usize::from(is_unfit(row));
            counts.waiting += usize::from(row.unanswered > 0);
            counts.unanswered += row.unanswered;
        }
        counts
    }

    /// By level.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, usize)> {
        [
            ("running", self.running),
            (Level::Suspend.as_str(), self.suspended),
            (Level::Inactivate.as_str(), self.inactivated),
            (Level::Wipe.as_str(), self.wiped),
            ("unheard", self.unheard),
        ]
        .into_iter()
    }
}

/// The bytes that `%41` and `+` stand for.
fn decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let pair = match after {
            [high, low, ..] if *first == b'%' => digit(high).zip(digit(low)),
            _ => None,
        };
        match pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => out.push(if *first == b'+' { b' ' } else { *first }),
        }
    }
    out
}

fn fields(text: &str) -> impl Iterator<Item = (&str, String)> {
    text.split('&').filter_map(|field| {
        let (name, value) = field.split_once('=')?;
        Some((name, String::from_utf8_lossy(&decoded(value)).into_owned()))
    })
}

impl Query {
    /// Reads it; what is not known is left out.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for (name, value) in fields(text) {
            match name {
                "show" => query.show = value,
                "q" => query.search = value.chars().take(200).collect(),
                "page" => query.page = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        query
    }

    fn takes(&self, row: &Row) -> bool {
        let shown = match self.show.as_str() {
            "" => true,
            "stale" => row.stale && row.silent_ms.is_some(),
            "unfit" => is_unfit(row),
            "unanswered" => row.unanswered > 0,
            other => state(row) == other,
        };
        let search = self.search.to_lowercase();
        let is_in = |text: &str| text.to_lowercase().contains(&search);
        shown && (is_in(&row.device) || row.name.as_deref().is_some_and(is_in) || is_in(&row.version))
    }

    fn link(&self, show: &str, page: usize) -> String {
        let search: String = self.search.bytes().map(|b| format!("%{b:02X}")).collect();
        format!("/?show={show}&amp;q={search}&amp;page={page}")
    }
}

/// What a form sent: the document with its newlines, and each signature.
pub fn uploaded(body: &[u8]) -> Result<(String, Vec<String>), String> {
    const END: &str = "-----END SSH SIGNATURE-----";
    let body = std::str::from_utf8(body).map_err(|e| e.to_string())?;
    // A browser sends each newline as two bytes, and people leave the last one out.
    let field = |name: &str| {
        let found = fields(body).find(|(found, _)| *found == name);
        found.map(|(_, value)| value.replace("\r\n", "\n").trim().to_owned()).unwrap_or_default()
    };
    let signatures: Vec<String> = field("signatures")
        .split_inclusive(END)
        .filter(|part| part.ends_with(END))
        .map(|part| format!("{}\n", part.trim()))
        .collect();
    if signatures.is_empty() {
        return Err("there is no signature: paste what ssh-keygen -Y sign wrote".into());
    }
    Ok((format!("{}\n", field("order")), signatures))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // What turns the direction of writing around would make one name look like another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}'..='\u{200f}' => {
                out.push('\u{fffd}');
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn time(ms: i64) -> String {
    match ms / 1000 {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} days", s / 86_400),
    }
}

fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\n<style>{STYLE}</style></head>\n"
    )
}

fn cells(row: &Row) -> String {
    let state = state(row);
    let (short, rest) = row.device.split_at_checked(12).unwrap_or((&row.device, ""));
    let id = format!(
        "<code title=\"{0}\">{1}{2}</code>",
        escaped(&row.device),
        escaped(short),
        if rest.is_empty() { "" } else { "…" }
    );
    let name = row.name.as_deref().map_or_else(String::new, |name| format!("<b>{}</b> ", escaped(name)));
    let mut level = format!("<span class=\"mark {state}\">{}</span>", word(state));
    if let Some(ordered) = row.ordered {
        let _ =
            write!(level, " <span class=\"note\">{} ordered, not heard yet</span>", word(ordered.as_str()));
    }
    let seen = match row.silent_ms {
        None => "<span class=\"quiet\">never</span>".to_owned(),
        Some(_) if row.here => "<span class=\"good\">connected</span>".to_owned(),
        Some(ms) if row.stale => format!("<span class=\"bad\">{} ago, stale</span>", time(ms)),
        Some(ms) => format!("{} ago", time(ms)),
    };
    let lease = match (row.lease_left, &row.no_lease) {
        (Some(left), None) => time(left * 1000),
        (Some(left), Some(why)) => {
            format!("{}, <span class=\"note\">no other: {}</span>", time(left * 1000), escaped(why))
        }
        (None, Some(why)) => format!("<span class=\"note\">none: {}</span>", escaped(why)),
        (None, None) => "<span class=\"quiet\">none</span>".to_owned(),
    };
    let facts = match &row.facts {
        None => "<span class=\"quiet\">not told</span>",
        Some(facts) if facts.fit => "<span class=\"good\">fit</span>",
        Some(_) => "<span class=\"bad\">unfit</span>",
    };
    let orders = match (row.orders, row.unanswered) {
        (0, _) => "<span class=\"quiet\">none</span>".to_owned(),
        (all, 0) => format!("{all}, receipts {}", row.receipts),
        (all, open) => format!("{all}, <span class=\"note\">{open} unanswered</span>"),
    };
    let all = [
        name + &id,
        level,
        seen,
        lease,
        facts.to_owned(),
        orders,
        row.epoch.to_string(),
        escaped(&row.version),
    ];
    all.iter().fold(String::new(), |text, cell| text + "<td>" + cell + "</td>")
}

/// The page.
pub fn render(rows: &[Row], query: &Query, config: &Config, beat: Option<(i64, String)>) -> String {
    let counts = Counts::of(rows);
    let found: Vec<&Row> = rows.iter().filter(|row| query.takes(row)).collect();
    let pages = found.len().div_ceil(ROWS).max(1);
    let page = query.page.min(pages - 1);
    let mut html = head("Claviger beacon");
    html += "<body>\n<header><h1>Devices</h1><nav>\n";
    let chips = [
        ("", "all", counts.total),
        ("running", "running", counts.running),
        ("suspend", "suspended", counts.suspended),
        ("inactivate", "inactivated", counts.inactivated),
        ("wipe", "wiped", counts.wiped),
        ("unheard", "never heard", counts.unheard),
        ("stale", "stale", counts.stale),
        ("unfit", "unfit", counts.unfit),
        ("unanswered", "orders unanswered", counts.waiting),
    ];
    for (show, word, count) in chips {
        let on = if query.show == show { " on" } else { "" };
        let _ = writeln!(
            html,
            "<a class=\"chip {show}{on}\" href=\"{}\"><b>{count}</b> {word}</a>",
            query.link(show, 0)
        );
    }
    let _ = write!(
        html,
        "</nav>\n<form method=\"get\" action=\"/\"><input type=\"hidden\" name=\"show\" value=\"{}\"><input name=\"q\" value=\"{}\" placeholder=\"name, id or version\" aria-label=\"search\"><button>Search</button></form>\n",
        escaped(&query.show),
        escaped(&query.search)
    );
    if let Some(most) = config.leases.as_ref().and_then(|leases| leases.heartbeat_ms) {
        let (class, told) = match beat {
            Some((age, person)) if age <= most => (
                "good",
                format!(
                    "sign of life by {} {} ago; leases end {} after it",
                    escaped(&person),
                    time(age.max(0)),
                    time(most)
                ),
            ),
            Some((age, _)) => ("bad", format!("no sign of life for {}: no leases are given", time(age))),
            None => ("bad", "no sign of life was ever given: no leases are given".to_owned()),
        };
        let _ = writeln!(html, "<p class=\"{class}\">{told}</p>");
    }
    html += "</header>\n<table>\n<thead><tr><th>Device</th><th>Level</th><th>Last seen</th><th>Lease</th><th>Machine</th><th>Orders</th><th>Epoch</th><th>Software</th></tr></thead>\n<tbody>\n";
    for row in found.iter().skip(page * ROWS).take(ROWS) {
        let stale = if row.stale { " stale" } else { "" };
        let _ = writeln!(html, "<tr class=\"{}{stale}\">{}</tr>", state(row), cells(row));
    }
    html += "</tbody></table>\n";
    if found.is_empty() {
        html += "<p class=\"quiet\">No device is like that.</p>\n";
    }
    if pages > 1 {
        html += "<nav class=\"pages\">";
        for n in 0..pages {
            let on = if n == page { " on" } else { "" };
            let _ = write!(
                html,
                "<a class=\"chip{on}\" href=\"{}\">{}</a>",
                query.link(&escaped(&query.show), n),
                n + 1
            );
        }
        html += "</nav>\n";
    }
    html += "<section><h2>Hand in an order</h2>\n<p>Signed elsewhere, with <code>ssh-keygen -Y sign -n clavigerd-order@v1</code>. Without a revoker's signature it is not taken. A sign of life (<code>claviger order heartbeat</code>) goes in here as well.</p>\n<form class=\"upload\" method=\"post\" action=\"/upload\"><label>Order<textarea name=\"order\" rows=\"10\" required></textarea></label><label>Signatures, one after the other<textarea name=\"signatures\" rows=\"10\" required></textarea></label><button>Hand in</button></form></section>\n<footer>What devices say of themselves is not signed; their receipts are. This page stops and starts nothing.</footer>\n</body></html>\n";
    html
}

/// What became of an upload.
pub fn outcome(of: &Result<Value, String>) -> String {
    let (class, told) = match of {
        Ok(taken) => ("good", format!("Taken in: {}", escaped(&taken.to_string()))),
        Err(why) => ("bad", format!("Not taken in: {}", escaped(why))),
    };
    format!(
        "{}<body><header><h1>Orders</h1></header><p class=\"{class}\">{told}</p><p><a href=\"/\">Back to the devices</a></p></body></html>\n",
        head("Claviger beacon")
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop where they cannot go on")]

    use super::*;

    #[test]
    fn forms_and_questions_are_read_and_bad_ones_do_no_harm() {
        assert_eq!(decoded("a+b%3Cc%zz%4"), b"a b<c%zz%4");
        let query = Query::parse("show=wipe&q=till+4%26&page=3&x&y=%");
        assert_eq!(query, Query { show: "wipe".into(), search: "till 4&".into(), page: 3 });
        assert_eq!(query.link("", 1), "/?show=&amp;q=%74%69%6C%6C%20%34%26&amp;page=1");
        let sent = "order=a%0D%0Ab&signatures=-----BEGIN+SSH+SIGNATURE-----%0D%0AAA%0D%0A-----END+SSH+SIGNATURE-----%0D%0A-----BEGIN+SSH+SIGNATURE-----%0D%0ABB%0D%0A-----END+SSH+SIGNATURE-----";
        let (text, signatures) = uploaded(sent.as_bytes()).unwrap();
        assert_eq!((text.as_str(), signatures.len()), ("a\nb\n", 2));
        assert_eq!(
            signatures.last().unwrap(),
            "-----BEGIN SSH SIGNATURE-----\nBB\n-----END SSH SIGNATURE-----\n"
        );
        assert!(uploaded(b"order=a&signatures=").is_err() && uploaded(&[0xff]).is_err());
    }

    #[test]
    fn nothing_from_outside_is_markup() {
        assert_eq!(
            escaped("<a href='x' b=\"y\">&\u{202e}\u{7}"),
            "&lt;a href=&#39;x&#39; b=&quot;y&quot;&gt;&amp;\u{fffd}\u{fffd}"
        );
        let told: Vec<String> = [5_000, 65_000, 7_500_000, 300_000_000].map(time).into();
        assert_eq!(told, ["5 s", "1 min", "2 h 5 min", "3 days"]);
    }
}
