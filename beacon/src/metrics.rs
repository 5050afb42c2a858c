//! `/metrics`, as Prometheus reads it.
#![forbid(unsafe_code)]

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::page::Counts;

/// Counters since the start.
#[derive(Default)]
pub struct Metrics {
    /// Questions.
    pub asks: AtomicU64,
    /// Orders taken in.
    pub orders: AtomicU64,
    /// Orders given out.
    pub carried: AtomicU64,
    /// Leases given.
    pub leases: AtomicU64,
    /// Leases that could not be signed.
    pub unsigned: AtomicU64,
    /// Answers with a refusal.
    pub refused: AtomicU64,
    /// Connections that were turned away, for want of room or of a good TLS handshake.
    pub turned_away: AtomicU64,
    /// Connections now.
    pub connections: AtomicU64,
}

/// One more.
pub fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// The text.
    pub fn render(&self, counts: &Counts, beat_age_ms: Option<i64>) -> String {
        let mut text = String::new();
        let mut all = |name: &str, kind: &str, help: &str, rows: &[(&str, u64)]| {
            let _ =
                writeln!(text, "# HELP claviger_beacon_{name} {help}\n# TYPE claviger_beacon_{name} {kind}");
            for (label, value) in rows {
                let _ = writeln!(text, "claviger_beacon_{name}{label} {value}");
            }
        };
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        all("asks_total", "counter", "Questions of devices.", &[("", of(&self.asks))]);
        all("orders_taken_total", "counter", "Orders taken in.", &[("", of(&self.orders))]);
        all("orders_given_total", "counter", "Orders given out.", &[("", of(&self.carried))]);
        let leases =
            [("{outcome=\"given\"}", of(&self.leases)), ("{outcome=\"unsigned\"}", of(&self.unsigned))];
        all("leases_total", "counter", "Leases.", &leases);
        all("refused_total", "counter", "Requests that were refused.", &[("", of(&self.refused))]);
        all(
            "turned_away_total",
            "counter",
            "Connections that were turned away.",
            &[("", of(&self.turned_away))],
        );
        all("connections", "gauge", "Connections now.", &[("", of(&self.connections))]);
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let levels: Vec<(String, u64)> =
            counts.levels().map(|(level, n)| (format!("{{level=\"{level}\"}}"), number(n))).collect();
        let levels: Vec<(&str, u64)> = levels.iter().map(|(label, n)| (label.as_str(), *n)).collect();
        all("devices", "gauge", "Devices by the level that they say they have.", &levels);
        all(
            "devices_stale",
            "gauge",
            "Devices that were not heard for too long.",
            &[("", number(counts.stale))],
        );
        all(
            "devices_unfit",
            "gauge",
            "Devices that say their machine is not as it must be.",
            &[("", number(counts.unfit))],
        );
        all("orders_unanswered", "gauge", "Orders without a receipt.", &[("", number(counts.unanswered))]);
        if let Some(age) = beat_age_ms {
            let seconds = u64::try_from(age / 1000).unwrap_or(0);
            all("heartbeat_age_seconds", "gauge", "Age of the newest sign of life.", &[("", seconds)]);
        }
        text
    }
}
