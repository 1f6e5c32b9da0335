//! What the worker does while it does not consume: it waits for the broker, or until an organisation is due for a probe.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::consume::{End, HEARTBEAT, Worker};
use crate::health::Component;
use crate::rabbitmq::Session;

impl Worker {
    /// No organisation may be called before `until`, so no consumer is attached. What is unacknowledged waits for it too.
    pub(super) async fn pause(&self, session: &Session, until: Instant) -> End {
        // The connection is there; the organisations say why nothing is consumed.
        self.engine.health.set(Component::Broker, None);
        let mut changes = self.engine.permits.changes();
        while let Some(left) =
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.engine.health.heartbeat();
            tokio::select! {
                _ = changes.changed() => break,
                end = self.wait(session, left.min(HEARTBEAT)) => if let Some(end) = end { return end },
            }
        }
        End::IntakeChanged
    }

    /// Waits until the broker stops blocking publishers. What would be consumed meanwhile could not be settled.
    pub(super) async fn wait_for_the_broker(&self, session: &Session) -> End {
        while let Some(reason) = session.blocked() {
            let what =
                format!("RabbitMQ is blocking publishers ({reason}); not consuming until it stops");
            if self.engine.health.set(Component::Blocked, Some(what.clone())) {
                warn!("{what}");
            }
            self.engine.health.heartbeat();
            if let Some(end) = self.wait(session, Duration::from_millis(100)).await {
                return end;
            }
        }
        self.engine.health.set(Component::Blocked, None);
        info!("RabbitMQ accepts messages again");
        End::IntakeChanged
    }

    async fn wait(&self, session: &Session, pause: Duration) -> Option<End> {
        tokio::select! {
            () = self.engine.draining.cancelled() => Some(End::Draining),
            () = session.lost.cancelled() => Some(End::Lost("the connection is gone".to_owned())),
            () = tokio::time::sleep(pause) => None,
        }
    }
}
