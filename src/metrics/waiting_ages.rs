//! The age of the oldest command that waits in a delay queue, by kind.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use jiff::Timestamp;

use super::Metrics;
use crate::kind::Kind;

impl Metrics {
    /// A command with this `first_seen` waits until then.
    pub fn waits(&self, kind: Kind, first_seen: Timestamp, until: Timestamp) {
        let mut ages = self.waiting_ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.entry(kind).or_default().waits(first_seen, until);
    }

    /// When the oldest waiting command of each kind was first seen.
    pub fn oldest_waiting(&self, now: Timestamp) -> BTreeMap<Kind, Timestamp> {
        let mut ages = self.waiting_ages.lock().unwrap_or_else(PoisonError::into_inner);
        ages.iter_mut().filter_map(|(kind, ages)| Some((*kind, ages.oldest(now)?))).collect()
    }

    pub(super) fn show_waiting(&self) {
        let (now, kinds) = (Timestamp::now(), self.oldest_waiting(Timestamp::now()));
        for kind in Kind::ALL {
            let Some(gauge) = self.oldest_waiting.get(&[("kind", kind.as_str())]) else { continue };
            let age = kinds.get(&kind).map(|since| now.duration_since(*since).as_secs_f64());
            gauge.set(age.unwrap_or_default());
        }
    }
}
