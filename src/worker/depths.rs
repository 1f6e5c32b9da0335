//! How much lies ready in each queue, for the metrics, for as long as a session lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::metrics::Metrics;
use crate::rabbitmq::Session;
use crate::rabbitmq::topology::{self, Topology};

const EVERY: Duration = Duration::from_secs(10);

/// Looks until it is aborted: a broker that is slow to answer does not end it, or the figures would stand still.
pub(super) fn watch(
    session: &Arc<Session>,
    metrics: &Arc<Metrics>,
    topology: &Topology,
) -> JoinHandle<()> {
    let (session, metrics) = (Arc::clone(session), Arc::clone(metrics));
    let queues = topology::queue_names(topology);
    tokio::spawn(async move {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A queue that is missing closes the channel: a new one each time.
            let Ok(channel) = session.consuming_channel().await else { continue };
            for queue in &queues {
                let Ok(ready) = topology::depth(&channel, queue).await else { break };
                metrics.set_queue(queue, ready);
            }
        }
    })
}
