//! The unacknowledged deliveries: how many there are, and since when.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use super::Metrics;

/// When a delivery arrived, and a number that distinguishes deliveries of the same moment.
pub(super) type Received = (Instant, u64);

/// An unacknowledged delivery.
pub struct Unacknowledged<'a> {
    metrics: &'a Metrics,
    pub(super) received: Received,
}

impl Drop for Unacknowledged<'_> {
    fn drop(&mut self) {
        self.metrics.lock_unacknowledged().remove(&self.received);
    }
}

impl Metrics {
    /// A delivery has arrived. The returned guard lasts as long as it is unacknowledged.
    pub fn received(&self) -> Unacknowledged<'_> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let received = (Instant::now(), NUMBER.fetch_add(1, Ordering::Relaxed));
        self.lock_unacknowledged().insert(received);
        Unacknowledged { metrics: self, received }
    }

    fn lock_unacknowledged(&self) -> MutexGuard<'_, BTreeSet<Received>> {
        self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show_unacknowledged(&self) {
        let (number, oldest) = {
            let unacknowledged = self.lock_unacknowledged();
            (
                unacknowledged.len(),
                unacknowledged.first().map(|(since, _)| since.elapsed().as_secs_f64()),
            )
        };
        self.deliveries_unsettled.set(i64::try_from(number).unwrap_or(i64::MAX));
        self.oldest_delivery_age.set(oldest.unwrap_or(0.0));
    }
}
