//! Registers metrics: a single one, a family with one label, and a family by kind and another
//! label.

use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry};

use super::{KindLabel, Label};
use crate::kind::Kind;
use crate::messages::FailureReason;

/// Besides the kind's word for success and the reasons of dead letters.
const SETTLEMENTS: [&str; 8] = [
    "already_absent",
    "cancelled",
    "retry_later",
    "postponed",
    "held",
    "oversized",
    "returned",
    "dry_run",
];
/// Of `task.delete` alone: what `DELETE_MODE` adds.
const ARCHIVED_FIRST: [&str; 2] = ["pending", "archived"];

pub(super) fn add<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// One metric per label value, all present from the start, so that a rate sees the first event.
pub(super) fn labelled<M: Metric + TypedMetric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    label: &'static str,
    words: impl IntoIterator<Item = &'static str>,
) -> Family<Label, M> {
    let family: Family<Label, M> = add(registry, name, help);
    for word in words {
        drop(family.get_or_create(&[(label, word)]));
    }
    family
}

pub(super) fn by_kind(
    registry: &mut Registry,
    name: &str,
    help: &str,
    kinds: &[Kind],
    words_of: impl Fn(Kind) -> Vec<&'static str>,
) -> Family<KindLabel, Counter> {
    let family: Family<KindLabel, Counter> = add(registry, name, help);
    for kind in kinds.iter().copied() {
        for word in words_of(kind) {
            drop(family.get_or_create(&labels(kind, word)));
        }
    }
    family
}

/// Each word that a settled delivery of this kind may be counted with.
pub(super) fn settlements_of(kind: Kind) -> Vec<&'static str> {
    let ends = [kind.spec().outcome].into_iter().chain(SETTLEMENTS);
    let others = ARCHIVED_FIRST.into_iter().filter(|_| kind == Kind::TaskDelete);
    ends.chain(others).chain(FailureReason::ALL.map(FailureReason::as_str)).collect()
}

pub(super) fn labels(kind: Kind, verdict: &'static str) -> KindLabel {
    [("kind", kind.as_str()), ("verdict", verdict)]
}
