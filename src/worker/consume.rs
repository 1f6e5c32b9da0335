//! Consumes for as long as a session lasts, in turns, and spawns a task for each delivery.
//! `ramp_up` decides which kinds have their turn; `pause` handles the times when nothing is
//! consumed.

use std::future::pending;
use std::sync::{Arc, Mutex};

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::consumer_watch::ConsumerWatch;
use super::engine::{Engine, HEARTBEAT};
use super::handlers::process_delivery;
use super::ramp_up::{REDELIVERY_THRESHOLD, RampUp, Turn};
use super::session_end::SessionEnd;
use super::session_log::SessionLog;
use super::settle::Settler;
use crate::health::Component;
use crate::kind::Kind;
use crate::policy::api_access::Intake;
use crate::policy::consumer_health::HostSwitches;
use crate::rabbitmq::{BrokerError, BrokerSettings, Deliveries, Delivery, Session};

/// The consumption of one session.
pub(super) struct Consumption<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) session: &'a Session,
    settler: &'a Arc<Settler>,
    broker: &'a BrokerSettings,
    handlers: &'a TaskTracker,
    log: &'a SessionLog,
    watch: Arc<ConsumerWatch<'a>>,
    ramp_up: RampUp,
    has_consumed: bool,
}

/// Why a turn or a pause ended.
pub(super) enum TurnEnd {
    Draining,
    /// It is time for the next turn: commands may now be consumed differently.
    Over,
    Lost(String),
}

impl<'a> Consumption<'a> {
    pub(super) fn new(
        engine: &'a Arc<Engine>,
        (session, settler): (&'a Session, &'a Arc<Settler>),
        (broker, handlers, log): (&'a BrokerSettings, &'a TaskTracker, &'a SessionLog),
        host_switches: &'a Mutex<HostSwitches>,
        suspect: Option<Kind>,
    ) -> Self {
        let ramp_up = RampUp::new(&broker.topology.kinds, suspect);
        Self {
            engine,
            session,
            settler,
            broker,
            handlers,
            log,
            watch: Arc::new(ConsumerWatch::new(session, &engine.health, host_switches, handlers)),
            ramp_up,
            has_consumed: false,
        }
    }

    /// Consumes and pauses in turn until the drain, or until the broker is lost. Also returns the
    /// kind to blame for a loss.
    pub(super) async fn until_end(mut self) -> (SessionEnd, Option<Kind>) {
        let end = self.take_turns().await;
        (end, self.ramp_up.suspect())
    }

    async fn take_turns(&mut self) -> SessionEnd {
        loop {
            let end = match self.engine.permits.intake() {
                _ if self.session.blocked().is_some() => self.wait_for_the_broker().await,
                _ if self.engine.ledger.is_paused() => self.wait_for_the_operator().await,
                Intake::Paused(until) => self.pause(until).await,
                intake @ (Intake::Bulk | Intake::Probing) => self.take_turn(intake).await,
            };
            self.engine.metrics.consumer_attached.set(0);
            match end {
                TurnEnd::Over => {}
                TurnEnd::Draining => return SessionEnd::Draining,
                // Ending the session here would abandon the work in flight. Later deliveries are
                // requeued at its end in any case.
                TurnEnd::Lost(why)
                    if self.engine.draining.is_cancelled() && self.session.can_settle() =>
                {
                    warn!(
                        "draining, and the broker does not answer; it requeues what it still delivers: {why}"
                    );
                    return SessionEnd::Draining;
                }
                TurnEnd::Lost(why) if self.has_consumed => return SessionEnd::Lost(why),
                TurnEnd::Lost(why) => return SessionEnd::NeverConsumed(why),
            }
        }
    }

    async fn take_turn(&mut self, intake: Intake) -> TurnEnd {
        let turn = self.ramp_up.next_turn();
        let prefetch = if turn.is_alone { 1 } else { self.prefetch(intake) };
        let consume = self.session.consume(&turn.kinds, prefetch);
        let mut deliveries = match self.engine.alive_while(consume).await {
            Ok(deliveries) => deliveries,
            Err(error) => return TurnEnd::Lost(error.to_string()),
        };
        self.has_consumed = true;
        self.report_consuming();
        let end = self.consume(&mut deliveries, (&turn, prefetch), intake).await;
        if let TurnEnd::Lost(_) = end {
            return end;
        }
        // Deliveries that the broker had sent before it was told to stop: `handle` settles each
        // without a call (requeued in a drain, or moved to a delay queue if its organisation is
        // suspended).
        match self.engine.alive_while(deliveries.cancel()).await {
            Ok(mut prefetched) => {
                while let Some(delivery) = prefetched.next().await {
                    self.spawn_handler(delivery);
                }
                end
            }
            Err(error) => TurnEnd::Lost(error.to_string()),
        }
    }

    /// Deliveries of each kind that may be unacknowledged at once.
    fn prefetch(&self, intake: Intake) -> u16 {
        match intake {
            Intake::Bulk => self.broker.prefetch,
            Intake::Probing | Intake::Paused(_) => {
                let of_each = self
                    .engine
                    .permits
                    .probe_window()
                    .div_ceil(self.broker.topology.kinds.len().max(1));
                u16::try_from(of_each).unwrap_or(self.broker.prefetch)
            }
        }
    }

    async fn consume(
        &mut self,
        deliveries: &mut Deliveries,
        (turn, prefetch): (&Turn, u16),
        intake: Intake,
    ) -> TurnEnd {
        let mut heartbeats = interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.engine.permits.changes();
        let mut decisions = self.engine.ledger.changes();
        let mut is_empty = true;
        // Each of these ends the loop when it resolves, so one of each is enough for all
        // deliveries.
        let (draining, lost) = (self.engine.draining.cancelled(), self.session.lost.cancelled());
        let (blocked, time_is_up) = (self.session.becomes_blocked(), end_of(turn));
        tokio::pin!(draining, lost, blocked, time_is_up);
        // Observations of one turn count in the next.
        let watch = Arc::clone(&self.watch);
        let mut given_up = Box::pin(watch.until_given_up(&turn.kinds, prefetch));
        loop {
            tokio::select! {
                biased;
                () = &mut draining => return TurnEnd::Draining,
                () = &mut lost => return TurnEnd::Lost(self.session.why_lost()),
                () = &mut given_up => return TurnEnd::Lost(self.session.why_lost()),
                () = &mut blocked => return TurnEnd::Over,
                () = &mut time_is_up => {
                    if is_empty {
                        self.proved(turn);
                    }
                    return TurnEnd::Over;
                }
                _ = heartbeats.tick() => self.engine.health.heartbeat(),
                _ = changes.changed() => {}
                _ = decisions.changed() => {}
                delivery = deliveries.next() => match delivery {
                    Ok(delivery) => {
                        is_empty = false;
                        watch.received.count(delivery.incoming().kind);
                        let is_harmless = delivery.delivery_count() < REDELIVERY_THRESHOLD;
                        self.spawn_handler(delivery);
                        if turn.is_alone && is_harmless {
                            self.proved(turn);
                            return TurnEnd::Over;
                        }
                        continue;
                    }
                    Err(error) => return self.consumer_ended(&error),
                },
            }
            if self.engine.permits.intake() != intake || self.engine.ledger.is_paused() {
                return TurnEnd::Over;
            }
        }
    }

    fn consumer_ended(&self, error: &BrokerError) -> TurnEnd {
        self.session.has_ended_consumers(error);
        TurnEnd::Lost(error.to_string())
    }

    /// The kind that this turn consumed alone may be consumed in bulk from now on.
    fn proved(&mut self, turn: &Turn) {
        for kind in turn.kinds.iter().filter(|_| turn.is_alone) {
            self.ramp_up.proved(*kind);
        }
    }

    fn spawn_handler(&self, delivery: Delivery) {
        let (engine, settler) = (Arc::clone(self.engine), Arc::clone(self.settler));
        // Boxed: the future has several kilobytes, and the runtime would move it six times.
        self.handlers.spawn(Box::pin(process_delivery(delivery, engine, settler)));
    }

    /// Reports that commands are consumed: log, metrics, health.
    fn report_consuming(&self) {
        self.engine.metrics.consumer_attached.set(1);
        let kinds = &self.broker.topology.kinds;
        let queue = kinds.iter().map(|kind| kind.queue()).collect::<Vec<_>>().join(",");
        let prefetch = self.broker.prefetch;
        let had_trouble = self.engine.health.set(Component::Broker, None);
        // The previous session may have been waiting for this when it was lost.
        self.engine.health.set(Component::Blocked, None);
        if let Some(why) = self.log.consuming() {
            warn!(queue, prefetch, "consuming again; the session before was lost: {why}");
        } else if had_trouble {
            info!(queue, prefetch, "consuming");
        }
    }
}

async fn end_of(turn: &Turn) {
    match turn.lasts {
        Some(lasts) => sleep(lasts).await,
        None => pending().await,
    }
}
