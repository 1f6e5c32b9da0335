//! The metrics for operators. No label carries an organisation's or a task's id.

mod families;
mod health_gauges;
mod latency;
mod process;
mod queue_depths;
mod standard;
mod text;
mod unacknowledged;
mod waiting_ages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::families::{add, by_kind, labelled, labels, settlements_of};
use self::latency::latencies;
use self::standard::Standard;
pub use self::standard::{RequestEnd, Server};
use self::unacknowledged::Received;
pub use self::unacknowledged::Unacknowledged;
use crate::health::Component;
use crate::kind::Kind;
use crate::policy::absent_only::AbsentOnly;
use crate::policy::api_access::SuspendReason;
use crate::policy::verdict::Verdict;
use crate::policy::waiting_ages::WaitingAges;

/// One label and its value: `[("verdict", "deleted")]`. On a command's path both are constants of
/// the program.
pub type Label = [(&'static str, &'static str); 1];
/// The kind of command, and another label.
type KindLabel = [(&'static str, &'static str); 2];
/// By queue; the names depend on settings.
type QueueGauges = Family<[(&'static str, String); 1], Gauge>;
/// By kind and delay.
type DelayGauges = Family<[(&'static str, String); 2], Gauge>;
/// The reason for an allowed organisation without a token.
pub const NO_TOKEN: &str = "no_token";

const PREFIX: &str = "tallyfy_delete_worker";
const PUBLISHES: [&str; 6] =
    ["confirmed", "rejected", "returned", "timeout", "too_large", "broken"];
const ACKNOWLEDGEMENTS: [&str; 2] = ["acknowledged", "lost"];
const CALL_BUCKETS: [f64; 12] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

/// All metrics of one worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    commands: Family<KindLabel, Counter>,
    answers: Family<KindLabel, Counter>,
    calls: Family<Label, Histogram>,
    latencies: Family<Label, Histogram>,
    standard: Standard,
    publishes: Family<Label, Counter>,
    acknowledgements: Family<Label, Counter>,
    waiting: DelayGauges,
    queues: QueueGauges,
    first_answers: Family<KindLabel, Counter>,
    absent_only: Mutex<AbsentOnly>,
    only_absent: Family<Label, Gauge>,
    not_ready: Family<Label, Gauge>,
    suspended: Family<Label, Gauge>,
    pub rate_limit_waits: Family<Label, Counter>,
    held: Family<Label, Gauge>,
    paused: Family<Label, Gauge>,
    deliveries_unsettled: Gauge,
    oldest_delivery_age: Gauge<f64, AtomicU64>,
    oldest_waiting: Family<Label, Gauge<f64, AtomicU64>>,
    waiting_ages: Mutex<BTreeMap<Kind, WaitingAges>>,
    depths: Mutex<BTreeMap<String, u32>>,
    unacknowledged: Mutex<BTreeSet<Received>>,
    pub calls_in_flight: Gauge,
    pub ambiguous_answers: Counter,
    /// Reconnects to the broker.
    pub reconnects: Counter,
    pub breaker_open: Gauge,
    pub breaker_opened: Counter,
    ready: Gauge,
    /// 1 while nothing is deleted because the operator chose a dry run.
    pub dry_run: Gauge,
    /// Seconds since 1970 when the oldest token in force was written.
    pub oldest_credential: Gauge<f64, AtomicU64>,
    pub consumer_attached: Gauge,
    pub publisher_up: Gauge,
    /// Seconds since 1970 of the last settled delivery.
    pub last_settled: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(&[Kind::default()])
    }
}

impl Metrics {
    /// Creates the metrics with a zero per kind, so that a rate sees the first event.
    #[expect(clippy::too_many_lines, reason = "a list, one metric after the other")]
    pub fn new(kinds: &[Kind]) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let r = &mut registry;
        r.register(
            "build",
            "Version of the worker",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let verdicts = Verdict::ALL.map(Verdict::as_str);
        let verdicts_of = |_| verdicts.to_vec();
        let reasons = SuspendReason::ALL.map(SuspendReason::as_str).into_iter().chain([NO_TOKEN]);
        let calls =
            Family::<Label, Histogram>::new_with_constructor(|| Histogram::new(CALL_BUCKETS));
        r.register(
            "api_call_duration_seconds",
            "Calls of the API, by class of the answer",
            calls.clone(),
        );
        Self {
            calls,
            latencies: latencies(r, kinds),
            standard: Standard::default(),
            commands: by_kind(
                r,
                "commands",
                "Deliveries settled, by verdict",
                kinds,
                settlements_of,
            ),
            answers: by_kind(
                r,
                "api_answers",
                "Answers of the API, by what they mean",
                kinds,
                verdicts_of,
            ),
            first_answers: by_kind(
                r,
                "first_answers",
                "Answers to the first call of a new command, by meaning",
                kinds,
                verdicts_of,
            ),
            absent_only: Mutex::default(),
            only_absent: labelled(
                r,
                "organisations_only_absent",
                "Organisations whose new commands find nothing to delete, one after the other",
                "kind",
                kinds.iter().map(|kind| kind.as_str()),
            ),
            ambiguous_answers: add(
                r,
                "ambiguous_answers",
                "Calls whose answer was lost after sending",
            ),
            publishes: labelled(
                r,
                "publishes",
                "Publishes, by what the broker said",
                "result",
                PUBLISHES,
            ),
            acknowledgements: labelled(
                r,
                "acknowledgements",
                "Acknowledgements, by result",
                "result",
                ACKNOWLEDGEMENTS,
            ),
            waiting: add(r, "waiting_commands", "Commands in a delay queue, by delay"),
            queues: add(r, "queue_messages", "Messages ready in a queue"),
            calls_in_flight: add(r, "calls_in_flight", "Calls under way"),
            deliveries_unsettled: add(r, "deliveries_unsettled", "Unacknowledged deliveries"),
            oldest_delivery_age: add(
                r,
                "oldest_delivery_age_seconds",
                "Age of the oldest unacknowledged delivery",
            ),
            oldest_waiting: labelled(
                r,
                "oldest_waiting_command_age_seconds",
                "Age of the oldest command that this worker has sent to a delay queue",
                "kind",
                kinds.iter().map(|kind| kind.as_str()),
            ),
            waiting_ages: Mutex::default(),
            depths: Mutex::default(),
            unacknowledged: Mutex::default(),
            reconnects: add(r, "reconnects", "Reconnects to the broker"),
            breaker_open: add(r, "breaker_open", "1 while the circuit breaker is open"),
            breaker_opened: add(r, "breaker_opened", "Times that the circuit breaker has opened"),
            suspended: labelled(
                r,
                "organisations_held",
                "Organisations suspended",
                "reason",
                reasons,
            ),
            held: labelled(
                r,
                "guard_tripped",
                "Organisations whose commands the mass-deletion guard holds",
                "kind",
                kinds.iter().map(|kind| kind.as_str()),
            ),
            paused: labelled(
                r,
                "paused",
                "1 while all organisations are paused, and how many are paused by themselves",
                "scope",
                ["all", "organisations"],
            ),
            oldest_credential: add(
                r,
                "oldest_credential_timestamp_seconds",
                "When the oldest token was written",
            ),
            rate_limit_waits: labelled(
                r,
                "rate_limit_waits",
                "Waits for a token of the rate limit, by place",
                "where",
                ["memory", "delay_queue"],
            ),
            consumer_attached: add(r, "consumer_attached", "1 while consuming"),
            publisher_up: add(r, "publisher_up", "1 while publishes are confirmed"),
            ready: add(r, "ready", "1 while /readyz answers 200"),
            not_ready: labelled(
                r,
                "not_ready",
                "1 for each reason why /readyz answers 503",
                "reason",
                Component::ALL.map(Component::as_str),
            ),
            dry_run: add(r, "dry_run", "1 in a dry run, which deletes nothing"),
            last_settled: add(r, "last_settled_timestamp_seconds", "Time of the last settlement"),
            registry,
        }
    }
}

impl Metrics {
    /// A delivery has been settled.
    pub fn count_command(&self, kind: Kind, verdict: &'static str) {
        self.commands.get_or_create(&labels(kind, verdict)).inc();
    }

    /// The API has answered one call.
    pub fn count_call(&self, kind: Kind, verdict: Verdict, class: &'static str, took: Duration) {
        self.answers.get_or_create(&labels(kind, verdict.as_str())).inc();
        self.calls.get_or_create(&[("class", class)]).observe(took.as_secs_f64());
    }

    pub fn count_publish(&self, result: &'static str) {
        self.publishes.get_or_create(&[("result", result)]).inc();
    }

    /// A delivery was acknowledged or otherwise settled at the broker, or that failed.
    pub fn count_acknowledgement(&self, result: &'static str) {
        self.acknowledgements.get_or_create(&[("result", result)]).inc();
    }

    /// All metrics, as OpenMetrics.
    pub fn render(&self) -> String {
        self.show_unacknowledged();
        self.show_waiting();
        self.show_absent_only();
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, self.standard.registry()))
            .and_then(|()| encode_eof(&mut text));
        text
    }

    /// All metrics, in the text format of Prometheus.
    pub fn render_text(&self) -> String {
        text::of_openmetrics(&self.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unacknowledged_delivery_is_the_one_whose_age_is_reported() {
        let metrics = Metrics::default();
        let text = |name: &str| {
            let (text, name) = (metrics.render(), format!("{PREFIX}_{name} "));
            text.lines().find_map(|line| Some(line.strip_prefix(&name)?.to_owned())).unwrap()
        };
        let value = |name: &str| text(name).parse::<f64>().unwrap();
        let nothing = ["0".to_owned(), "0.0".to_owned()];
        assert_eq!(["deliveries_unsettled", "oldest_delivery_age_seconds"].map(text), nothing);
        let first = metrics.received();
        let second = metrics.received();
        let age = value("oldest_delivery_age_seconds");
        assert!(age > 0.0 && age <= first.received.0.elapsed().as_secs_f64());
        drop(first);
        assert!(value("oldest_delivery_age_seconds") <= second.received.0.elapsed().as_secs_f64());
        assert_eq!(text("deliveries_unsettled"), "1");
        drop(second);
        assert_eq!(["deliveries_unsettled", "oldest_delivery_age_seconds"].map(text), nothing);
    }
}
