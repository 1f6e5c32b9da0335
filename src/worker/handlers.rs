//! The spawned task of one delivery, from its receipt to its settlement; and the time limit of a
//! drain for all of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::handle::handle;
use super::settle::Settler;
use crate::failpoint::{self, Failpoint};
use crate::rabbitmq::Delivery;

/// Decides the disposition of a delivery, and settles it.
pub(super) async fn process_delivery(
    mut delivery: Delivery,
    engine: Arc<Engine>,
    settler: Arc<Settler>,
) {
    let (_unacknowledged, received) = (engine.metrics.received(), Instant::now());
    failpoint::hit(Failpoint::AfterReceive).await;
    let queue = delivery.incoming().kind.queue();
    let (arrival, properties) = delivery.arrival();
    let mut span = engine.spans.delivery(queue, arrival, properties);
    let settlement =
        handle(delivery.incoming(), &engine, &engine.stop(settler.session_lost())).await;
    span.decided(&settlement);
    settler.settle(delivery, &settlement, received).await;
    engine.metrics.observe_process(queue, settlement.error_type(), received.elapsed());
}

/// Fires `over` when the grace has passed since the drain began.
pub(super) async fn count_down(
    draining: CancellationToken,
    grace: Duration,
    over: CancellationToken,
) {
    draining.cancelled().await;
    tokio::time::sleep(grace).await;
    over.cancel();
}
