//! The numbers that an operator sees. No label carries an organisation's or a task's id.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::messages::names::WAIT_QUEUE_PREFIX;
use crate::policy::verdict::Verdict;

/// One label, whose name the field gives: `[("verdict", "deleted")]`.
type Label = [(&'static str, String); 1];
type Counters = Family<Label, Counter>;
type Gauges = Family<Label, Gauge>;

const PREFIX: &str = "tallyfy_delete_worker";
const CALL_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

/// All metrics of one worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    commands: Counters,
    answers: Counters,
    calls: Family<Label, Histogram>,
    publishes: Counters,
    acknowledgements: Counters,
    waiting: Gauges,
    queues: Gauges,
    /// HTTP calls under way.
    pub calls_in_flight: Gauge,
    /// Deliveries in our hands.
    pub deliveries_unsettled: Gauge,
    /// Times that the connections were made anew.
    pub reconnects: Counter,
    /// 1 while the breaker is open.
    pub breaker_open: Gauge,
    /// Organisations whose gate is closed.
    pub gates_closed: Gauge,
    /// 1 while a consumer is attached.
    pub consumer_attached: Gauge,
    /// 1 while publishes are confirmed.
    pub publisher_up: Gauge,
    /// Seconds since 1970 of the last settled delivery.
    pub last_settled: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut r = Registry::with_prefix(PREFIX);
        Self {
            commands: add(&mut r, "commands", "Deliveries settled, by verdict", Counters::default()),
            answers: add(&mut r, "api_answers", "Answers of the API, by what they mean", Counters::default()),
            calls: add(
                &mut r,
                "api_call_duration_seconds",
                "Calls of the API, by class of the answer",
                Family::new_with_constructor(|| Histogram::new(CALL_BUCKETS)),
            ),
            publishes: add(&mut r, "publishes", "Publishes, by what the broker said", Counters::default()),
            acknowledgements: add(
                &mut r,
                "acknowledgements",
                "Acknowledgements, by result",
                Counters::default(),
            ),
            waiting: add(&mut r, "waiting_commands", "Commands in a wait queue, by rung", Gauges::default()),
            queues: add(&mut r, "queue_messages", "Messages ready in a queue", Gauges::default()),
            calls_in_flight: add(&mut r, "calls_in_flight", "Calls under way", Gauge::default()),
            deliveries_unsettled: add(&mut r, "deliveries_unsettled", "Deliveries in hand", Gauge::default()),
            reconnects: add(&mut r, "reconnects", "Connections to the broker made anew", Counter::default()),
            breaker_open: add(
                &mut r,
                "breaker_open",
                "1 while the circuit breaker is open",
                Gauge::default(),
            ),
            gates_closed: add(
                &mut r,
                "organisations_held",
                "Organisations throttled or unauthorized",
                Gauge::default(),
            ),
            consumer_attached: add(&mut r, "consumer_attached", "1 while consuming", Gauge::default()),
            publisher_up: add(&mut r, "publisher_up", "1 while publishes are confirmed", Gauge::default()),
            last_settled: add(
                &mut r,
                "last_settled_timestamp_seconds",
                "Time of the last settlement",
                Gauge::default(),
            ),
            registry: r,
        }
        .with_zeros()
    }
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A delivery has been settled.
    pub fn count_command(&self, verdict: &str) {
        self.commands.get_or_create(&[("verdict", verdict.to_owned())]).inc();
    }

    /// The API has answered one call.
    pub fn count_call(&self, verdict: Verdict, class: &str, took: Duration) {
        self.answers.get_or_create(&[("verdict", verdict.as_str().to_owned())]).inc();
        self.calls.get_or_create(&[("class", class.to_owned())]).observe(took.as_secs_f64());
    }

    /// A publish has come to its end.
    pub fn count_publish(&self, result: &str) {
        self.publishes.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// The broker was told to forget a delivery, or could not be told.
    pub fn count_acknowledgement(&self, result: &str) {
        self.acknowledgements.get_or_create(&[("result", result.to_owned())]).inc();
    }

    /// What lies ready in a queue; in a wait queue, by its rung.
    pub fn set_queue(&self, queue: &str, messages: u32) {
        if let Some(rung) = queue.strip_prefix(WAIT_QUEUE_PREFIX) {
            self.waiting.get_or_create(&[("rung", rung.to_owned())]).set(messages.into());
        }
        self.queues.get_or_create(&[("queue", queue.to_owned())]).set(messages.into());
    }

    /// All of them as `OpenMetrics` text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// So that a rate can be taken from the first event on.
    fn with_zeros(self) -> Self {
        for verdict in Verdict::ALL {
            drop(self.answers.get_or_create(&[("verdict", verdict.as_str().to_owned())]));
        }
        for verdict in ["deleted", "already_absent", "retry_later", "postponed"] {
            drop(self.commands.get_or_create(&[("verdict", verdict.to_owned())]));
        }
        for result in ["confirmed", "rejected", "returned", "timeout", "broken"] {
            drop(self.publishes.get_or_create(&[("result", result.to_owned())]));
        }
        self
    }
}
