//! What is seen from outside: counters and latencies in Prometheus form. Holds no amounts, names or secrets.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The stages of the signing path, as they are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Step 5: what is being paid.
    Decode,
    /// Step 2: who is asking.
    Caller,
    /// Steps 7 and 8: decided and written down.
    Reserve,
    /// Step 9: the caller again.
    Recheck,
    /// Step 10: the token.
    Sign,
    /// Step 11: verified in software.
    Verify,
    /// Step 12: the outcome written down.
    Record,
    /// All of it.
    Whole,
}

impl Stage {
    /// The stages in their order.
    pub const ALL: [Self; 8] = [
        Self::Decode,
        Self::Caller,
        Self::Reserve,
        Self::Recheck,
        Self::Sign,
        Self::Verify,
        Self::Record,
        Self::Whole,
    ];

    /// Label value.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Caller => "caller",
            Self::Reserve => "reserve",
            Self::Recheck => "recheck",
            Self::Sign => "sign",
            Self::Verify => "verify",
            Self::Record => "record",
            Self::Whole => "whole",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutsideLabels {
    to: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// The daemon's metrics.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    refusals: Family<CodeLabels, Counter>,
    stages: Vec<Histogram>,
    outside_lag: Family<OutsideLabels, Gauge>,
    outside_alarm: Family<OutsideLabels, Gauge>,
    outside_failures: Family<OutsideLabels, Counter>,
    /// 1 when the token can be used.
    pub token_usable: Gauge,
    /// 1 when the token did what nobody asked for, until an operator has looked.
    pub token_strange: Gauge,
    /// 1 when the state directory is known to be the one that was left.
    pub state_confirmed: Gauge,
    /// Entries of the log that the token's anchor does not know of yet; -1 when it holds none.
    pub anchor_behind: Gauge,
    /// Times that the token was initialised again.
    pub token_reinits: Gauge<u64, AtomicU64>,
    /// Requests waiting for the token.
    pub token_queue: Gauge,
    /// Requests waiting for the writer.
    pub store_queue: Gauge,
    /// Entries in the log.
    pub log_entries: Gauge,
    /// Keys that tripwires suspended.
    pub tripwires: Counter,
    /// Keys whose end is overdue.
    pub keys_overdue: Gauge,
    /// How far an order stops this device: 0 to 3.
    pub inactivation: Gauge,
    /// Copies of keys that have to go and are not gone.
    pub copies_left: Gauge,
    /// Those of them whose time is over.
    pub copies_overdue: Gauge,
    /// Keys that could not be restored from everywhere, when it was looked last; -1 before.
    pub backups_wrong: Gauge,
    /// Sessions of users.
    pub user_sessions: Gauge,
    /// Tries of PINs, by outcome.
    user_tries: Family<OutcomeLabels, Counter>,
    /// Times that Argon2id ran for a PIN: once for each try, whoever tries.
    pub user_hashes: Counter,
    /// Payments that waited for their user.
    pub user_steps: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("claviger");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests by method and outcome", requests.clone());
        let refusals = Family::<CodeLabels, Counter>::default();
        registry.register("refusals", "Refusals by code", refusals.clone());
        let family = Family::<StageLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(10e-6, 2.0, 20))
        });
        registry.register_with_unit(
            "stage_latency",
            "Latency by stage of the signing path",
            Unit::Seconds,
            family.clone(),
        );
        let stages = Stage::ALL
            .iter()
            .map(|s| family.get_or_create(&StageLabels { stage: s.as_str() }).clone())
            .collect();
        let outside_lag = Family::<OutsideLabels, Gauge>::default();
        registry.register("outside_lag", "Entries that a sink or witness is behind", outside_lag.clone());
        let outside_alarm = Family::<OutsideLabels, Gauge>::default();
        registry.register(
            "outside_alarm",
            "1 when a sink is too far behind, or a witness refuses",
            outside_alarm.clone(),
        );
        let outside_failures = Family::<OutsideLabels, Counter>::default();
        registry.register(
            "outside_failures",
            "Times that entries or checkpoints did not go out",
            outside_failures.clone(),
        );
        let token_usable = Gauge::default();
        registry.register("token_usable", "1 when the token can be used", token_usable.clone());
        let token_strange = Gauge::default();
        registry.register(
            "token_strange",
            "1 when the token did what nobody asked for, until an operator has looked",
            token_strange.clone(),
        );
        let state_confirmed = Gauge::default();
        registry.register(
            "state_confirmed",
            "1 when the state directory is known to be the one that was left",
            state_confirmed.clone(),
        );
        let anchor_behind = Gauge::default();
        registry.register(
            "anchor_behind_entries",
            "Entries of the log that the token was not told of yet; -1 when it holds no anchor",
            anchor_behind.clone(),
        );
        let token_reinits = Gauge::<u64, AtomicU64>::default();
        registry.register(
            "token_reinitialisations",
            "Times the token was initialised again",
            token_reinits.clone(),
        );
        let token_queue = Gauge::default();
        registry.register("token_queue_depth", "Requests waiting for the token", token_queue.clone());
        let store_queue = Gauge::default();
        registry.register("store_queue_depth", "Requests waiting for the writer", store_queue.clone());
        let log_entries = Gauge::default();
        registry.register("log_entries", "Entries in the log", log_entries.clone());
        let tripwires = Counter::default();
        registry.register("tripwires", "Keys that tripwires suspended", tripwires.clone());
        let keys_overdue = Gauge::default();
        registry.register("keys_overdue", "Keys whose end is overdue", keys_overdue.clone());
        let inactivation = Gauge::default();
        registry.register(
            "inactivation_level",
            "0 in order, 1 suspended, 2 inactivated, 3 wiped",
            inactivation.clone(),
        );
        let copies_left = Gauge::default();
        registry.register(
            "copies_left",
            "Copies of keys that have to go and are not gone",
            copies_left.clone(),
        );
        let copies_overdue = Gauge::default();
        registry.register("copies_overdue", "Those of them whose time is over", copies_overdue.clone());
        let backups_wrong = Gauge::default();
        registry.register(
            "backups_wrong",
            "Keys with a copy or a lock that is missing or changed; -1 before it was looked",
            backups_wrong.clone(),
        );
        let user_sessions = Gauge::default();
        registry.register("user_sessions", "Sessions of users", user_sessions.clone());
        let user_tries = Family::<OutcomeLabels, Counter>::default();
        registry.register("user_tries", "Tries of PINs, by outcome", user_tries.clone());
        let user_hashes = Counter::default();
        registry.register("user_hashes", "Times that Argon2id ran for a PIN", user_hashes.clone());
        let user_steps = Counter::default();
        registry.register("user_steps", "Payments that waited for their user", user_steps.clone());
        Self {
            registry,
            requests,
            refusals,
            stages,
            outside_lag,
            outside_alarm,
            outside_failures,
            token_usable,
            token_strange,
            state_confirmed,
            anchor_behind,
            token_reinits,
            token_queue,
            store_queue,
            log_entries,
            tripwires,
            keys_overdue,
            inactivation,
            copies_left,
            copies_overdue,
            backups_wrong,
            user_sessions,
            user_tries,
            user_hashes,
            user_steps,
        }
    }
}

impl Metrics {
    /// Counts an answered request. `method` must be one that exists, so that strangers cannot grow the table.
    pub fn request(&self, method: &str, outcome: &'static str) {
        self.requests.get_or_create(&RequestLabels { method: method.to_owned(), outcome }).inc();
    }

    /// Counts a refusal.
    pub fn refusal(&self, code: &'static str) {
        self.refusals.get_or_create(&CodeLabels { code }).inc();
    }

    /// Counts a try of a PIN: `right`, `wrong` or `kept-out`. Duress counts as right: whoever forces somebody may look.
    pub fn user_try(&self, outcome: &'static str) {
        self.user_tries.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// How far a sink or a witness is.
    pub fn outside(&self, to: &str, lag: i64, alarmed: bool) {
        let labels = OutsideLabels { to: to.to_owned() };
        self.outside_lag.get_or_create(&labels).set(lag);
        self.outside_alarm.get_or_create(&labels).set(i64::from(alarmed));
    }

    /// Counts what did not go out.
    pub fn export_failed(&self, to: &str) {
        self.outside_failures.get_or_create(&OutsideLabels { to: to.to_owned() }).inc();
    }

    /// Times a stage.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// The exposition text (OpenMetrics).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.push_str("# the metrics could not be rendered\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_each_family() {
        let metrics = Metrics::default();
        metrics.request("eth_accounts", "ok");
        metrics.refusal("over_limit");
        metrics.stage(Stage::Sign, Duration::from_micros(300));
        let text = metrics.render();
        for part in [
            "claviger_requests_total{method=\"eth_accounts\",outcome=\"ok\"} 1",
            "claviger_refusals_total{code=\"over_limit\"} 1",
            "claviger_stage_latency_seconds_count{stage=\"sign\"} 1",
            "# EOF",
        ] {
            assert!(text.contains(part), "{part} is missing from\n{text}");
        }
    }
}
