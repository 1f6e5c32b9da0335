//! Watches the ready messages of each queue for the metrics, for as long as a session lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Metrics;
use crate::rabbitmq::Session;

const EVERY: Duration = Duration::from_secs(10);

/// Looks until it is aborted. A slow answer from the broker does not end it, because the figures
/// would freeze.
pub(super) fn watch(session: &Arc<Session>, metrics: &Arc<Metrics>) -> JoinHandle<()> {
    let (session, metrics) = (Arc::clone(session), Arc::clone(metrics));
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for (queue, ready) in session.queue_depths().await {
                metrics.set_queue(&queue, ready);
            }
        }
    })
}
