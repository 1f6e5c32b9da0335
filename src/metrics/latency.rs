//! How long commands take from their first delivery to their end, waits included.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Label, Metrics};
use crate::kind::Kind;

/// From a call that is answered at once to an outage of a week.
const BUCKETS: [f64; 18] = [
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0,
    43_200.0, 86_400.0, 259_200.0, 604_800.0,
];

pub(super) fn latencies(registry: &mut Registry, kinds: &[Kind]) -> Family<Label, Histogram> {
    let family = Family::<Label, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
    for kind in kinds {
        drop(family.get_or_create(&[("kind", kind.as_str())]));
    }
    let help = "From the first delivery of a command to its end";
    registry.register("command_latency_seconds", help, family.clone());
    family
}

impl Metrics {
    /// A command has ended, this long after its first delivery.
    pub fn ended(&self, kind: Kind, age: Duration) {
        self.latencies.get_or_create(&[("kind", kind.as_str())]).observe(age.as_secs_f64());
    }
}
