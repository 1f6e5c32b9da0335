//! What the worker does while it does not consume: it waits for the broker, or fetches one command at a time as a probe.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::Channel;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::consume::{End, TURN, Worker};
use super::settle::Settler;
use crate::health::Part;
use crate::rabbitmq::{Session, consumer};

const EVERY_ORG_HELD: &str = "paused: every organisation is throttled or its token is not accepted";

impl Worker {
    /// While the breaker is open or every organisation is held: fetches one command whenever a probe is due.
    ///
    /// # Nothing cycles through the queues while nothing can be done
    ///
    /// No consumer is attached. What was in hand when the pause began waits in a wait queue and then in the work queue.
    pub(super) async fn probe(
        &self,
        session: &Session,
        channel: &Arc<Channel>,
        settler: &Arc<Settler>,
    ) -> End {
        let end = self.probe_until_the_pause_ends(session, channel, settler).await;
        if matches!(end, End::PauseEnds) && self.engine.health.set(Part::Organisations, None) {
            info!("the pause is over");
        }
        end
    }

    async fn probe_until_the_pause_ends(
        &self,
        session: &Session,
        channel: &Arc<Channel>,
        settler: &Arc<Settler>,
    ) -> End {
        while let Some(due) = self.engine.paused_until() {
            // Also where the breaker has closed meanwhile, and a gate keeps on what it began.
            if self.engine.next_probe().is_none()
                && self.engine.health.set(Part::Organisations, Some(EVERY_ORG_HELD.to_owned()))
            {
                warn!("{EVERY_ORG_HELD}");
            }
            // The connection is there; the breaker or the gates say why nothing is consumed.
            self.engine.health.set(Part::Broker, None);
            self.engine.health.turn();
            let left = due.saturating_duration_since(Instant::now());
            if let Some(end) = self.wait(session, left.clamp(Duration::from_millis(10), TURN)).await {
                return end;
            }
            if Instant::now() < due {
                continue;
            }
            let nothing_there = match consumer::get_one(channel).await {
                Ok(Some(delivery)) => self.wait_for(self.begin(delivery, settler), session).await,
                Ok(None) => self.wait(session, TURN).await,
                Err(error) => Some(End::Lost(error.to_string())),
            };
            if let Some(end) = nothing_there {
                return end;
            }
        }
        End::PauseEnds
    }

    /// Waits until the broker takes messages again. What would be consumed meanwhile could not be settled.
    pub(super) async fn wait_for_the_broker(&self, session: &Session) -> End {
        while let Some(reason) = session.blocked() {
            let what = format!("RabbitMQ takes no messages ({reason}); not consuming until it does");
            if self.engine.health.set(Part::Blocked, Some(what.clone())) {
                warn!("{what}");
            }
            self.engine.health.turn();
            if let Some(end) = self.wait(session, Duration::from_millis(100)).await {
                return end;
            }
        }
        self.engine.health.set(Part::Blocked, None);
        info!("RabbitMQ takes messages again");
        End::PauseEnds
    }

    /// Waits until a probe is settled; a drain or a lost broker does not wait for it.
    async fn wait_for(&self, mut probe: JoinHandle<()>, session: &Session) -> Option<End> {
        loop {
            tokio::select! {
                end = self.wait(session, TURN) => match end {
                    Some(end) => return Some(end),
                    None => self.engine.health.turn(),
                },
                _ = &mut probe => return None,
            }
        }
    }

    async fn wait(&self, session: &Session, pause: Duration) -> Option<End> {
        tokio::select! {
            () = self.engine.draining.cancelled() => Some(End::Draining),
            () = session.lost.cancelled() => Some(End::Lost("the connection is gone".to_owned())),
            () = tokio::time::sleep(pause) => None,
        }
    }
}
