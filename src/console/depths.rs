//! How deep the queues are.

use std::collections::HashMap;

use super::Shared;
use crate::messages::names::LEDGER;
use crate::rabbitmq::topology::{self, Depth};

pub(super) type Depths = HashMap<String, Option<Depth>>;

/// Per queue; nothing while the broker is unreachable.
pub(super) async fn depths(shared: &Shared) -> Depths {
    let Ok(connection) = shared.watched.connection() else { return HashMap::new() };
    let mut queues = topology::queue_names(&shared.settings.topology);
    queues.retain(|queue| queue != LEDGER);
    topology::depths(&connection, queues).await.unwrap_or_default()
}

pub(super) fn depth(depths: &Depths, queue: &str) -> Option<u32> {
    depths.get(queue).copied().flatten().map(|depth| depth.ready)
}
