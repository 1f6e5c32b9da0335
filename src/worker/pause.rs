//! The pauses in consuming: the worker waits for the broker, for an operator, or until an
//! organisation is due for a probe.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::consume::{Consumption, TurnEnd};
use super::engine::HEARTBEAT;
use crate::health::Component;

impl Consumption<'_> {
    /// No organisation may be called before `until`, so no consumer is attached. Unacknowledged
    /// commands wait for it too.
    pub(super) async fn pause(&self, until: Instant) -> TurnEnd {
        // The connection works; the organisations are the reason why nothing is consumed.
        self.engine.health.set(Component::Broker, None);
        self.engine.health.set(Component::Consumer, None);
        let mut changes = self.engine.permits.changes();
        while let Some(left) =
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.engine.health.heartbeat();
            tokio::select! {
                _ = changes.changed() => break,
                end = self.wait(left.min(HEARTBEAT)) => if let Some(end) = end { return end },
            }
        }
        TurnEnd::Over
    }

    /// Waits until the broker stops blocking publishers. Commands consumed meanwhile could not be
    /// settled.
    pub(super) async fn wait_for_the_broker(&self) -> TurnEnd {
        while let Some(reason) = self.session.blocked() {
            let what =
                format!("RabbitMQ is blocking publishers ({reason}); not consuming until it stops");
            if self.engine.health.set(Component::Blocked, Some(what.clone())) {
                warn!("{what}");
            }
            self.engine.health.heartbeat();
            if let Some(end) = self.wait(Duration::from_millis(100)).await {
                return end;
            }
        }
        tokio::select! {
            () = self.engine.draining.cancelled() => return TurnEnd::Draining,
            () = self.engine.alive_while(self.session.learn_user()) => {}
        }
        if self.session.blocked().is_some() {
            return TurnEnd::Over;
        }
        self.engine.health.set(Component::Blocked, None);
        info!("RabbitMQ accepts messages again");
        TurnEnd::Over
    }

    /// Waits until an operator resumes. Commands consumed meanwhile would only cycle through the
    /// delay queues.
    pub(super) async fn wait_for_the_operator(&self) -> TurnEnd {
        self.engine.health.set(Component::Broker, None);
        self.engine.health.set(Component::Consumer, None);
        let mut decisions = self.engine.ledger.changes();
        while self.engine.ledger.is_paused() {
            self.engine.health.heartbeat();
            tokio::select! {
                _ = decisions.changed() => {}
                end = self.wait(HEARTBEAT) => if let Some(end) = end { return end },
            }
        }
        TurnEnd::Over
    }

    async fn wait(&self, pause: Duration) -> Option<TurnEnd> {
        tokio::select! {
            () = self.engine.draining.cancelled() => Some(TurnEnd::Draining),
            () = self.session.lost.cancelled() => Some(TurnEnd::Lost(self.session.why_lost())),
            () = tokio::time::sleep(pause) => None,
        }
    }
}
