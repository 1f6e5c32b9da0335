//! The loop: connect, consume, hand each delivery to a spawned task of its own; rebuild when the broker is lost, drain at the end.
//! What happens while nothing shall be consumed is in `pause`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::Channel;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::depths;
use super::engine::Engine;
use super::handlers::{count_down, process_delivery};
use super::session_log::SessionLog;
use super::settle::Settler;
use crate::health::Component;
use crate::policy::api_access::Intake;
use crate::rabbitmq::{BrokerError, BrokerSettings, Deliveries, Delivery, Session, consumer};

pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
const FIRST_RECONNECT: Duration = Duration::from_millis(200);
const LONGEST_RECONNECT: Duration = Duration::from_secs(10);
/// After a session that could consume: what ended it may be a message, whose end must not take long (see [`REDELIVERY_THRESHOLD`]).
const LONGEST_AFTER_CONSUMING: Duration = Duration::from_secs(1);
/// A channel of RabbitMQ hands acknowledgements on to a quorum queue in the background, tells nobody when, and forgets with its end
/// those that it still has: up to 62 commands were delivered again after a drain under load (RabbitMQ 4.0, measured).
const ACKNOWLEDGEMENTS_ARRIVE: Duration = Duration::from_millis(300);
const STABLE: Duration = Duration::from_secs(10);
/// # A message that kills the client library's connection does not drag its neighbours along
///
/// Some messages cannot be parsed (a `message_id` that is no UTF-8, say), and their delivery ends the connection, each time,
/// until the queue's delivery limit moves them to the dead letters. What was unacknowledged with it counts a delivery too, here
/// and at every worker that it reaches. So each session begins with one message at a time, and takes more when one comes
/// that was not redelivered this often: the neighbours of such a message are then dealt with one by one, far from the limit.
/// The broker counts the redeliveries, so that this holds across workers and restarts.
const REDELIVERY_THRESHOLD: u32 = 4;

/// A consumer of commands, with the handlers of its deliveries.
pub struct Worker {
    pub(super) engine: Arc<Engine>,
    broker: BrokerSettings,
    handlers: TaskTracker,
    log: SessionLog,
}

/// Why one way of taking commands in has ended.
pub(super) enum End {
    Draining,
    /// Commands may be taken in another way now.
    IntakeChanged,
    /// A command came that was hardly ever redelivered.
    RampUp,
    Lost(String),
}

impl Worker {
    /// A worker that has not begun.
    pub fn new(engine: Arc<Engine>, broker: BrokerSettings) -> Self {
        Self { engine, broker, handlers: TaskTracker::new(), log: SessionLog::new() }
    }

    /// Works until the engine drains; then finishes what is in flight within `grace`, which counts from the drain's begin. A lost broker
    /// is rebuilt indefinitely.
    pub async fn run(&self, grace: Duration) {
        let over = CancellationToken::new();
        let counting = tokio::spawn(count_down(self.engine.draining.clone(), grace, over.clone()));
        let mut pause = FIRST_RECONNECT;
        while !self.engine.draining.is_cancelled() {
            let opening = Instant::now();
            let longest = match self.open_session().await {
                Some(Ok(session)) => self.work(session, &over).await,
                Some(Err(error)) => {
                    let why = error.to_string();
                    self.not_consuming(&why, self.log.not_connected(error.kind(), &why));
                    LONGEST_RECONNECT
                }
                None => break,
            };
            self.engine.health.heartbeat();
            pause = if opening.elapsed() < STABLE { pause.min(longest) } else { FIRST_RECONNECT };
            self.engine.sleep(pause).await;
            pause *= 2;
        }
        self.finish_handlers(&over).await;
        counting.abort();
    }

    async fn open_session(&self) -> Option<Result<Session, BrokerError>> {
        tokio::select! {
            () = self.engine.draining.cancelled() => None,
            session = Session::open(&self.broker) => Some(session),
        }
    }

    /// Returns the longest pause before the next session.
    async fn work(&self, session: Session, over: &CancellationToken) -> Duration {
        let session = Arc::new(session);
        let settler = Arc::new(Settler::new(
            Arc::clone(&session),
            Arc::clone(&self.engine.metrics),
            Arc::clone(&self.engine.health),
        ));
        // Held until the session is closed: with its last handle lapin closes a channel, and acknowledgements that are still on
        // their way to the queue are forgotten (`ACKNOWLEDGEMENTS_ARRIVE`).
        let channel = session.consuming_channel().await;
        let depths = depths::watch(&session, &self.engine.metrics, &self.broker.topology);
        let end = match &channel {
            Ok(channel) => self.consume_until_lost(&session, channel, &settler).await,
            Err(error) => Err((LONGEST_RECONNECT, error.to_string())),
        };
        depths.abort();
        let longest = match end {
            Ok(()) => {
                self.finish_handlers(over).await;
                tokio::time::sleep(ACKNOWLEDGEMENTS_ARRIVE).await;
                Duration::ZERO
            }
            Err((longest, why)) => {
                session.lost.cancel();
                self.engine.metrics.reconnects.inc();
                self.not_consuming(&why, self.log.lost(&why));
                longest
            }
        };
        session.close().await;
        longest
    }

    /// Consumes and pauses in turn until the drain, or until the broker is lost: then says why, and the longest pause.
    async fn consume_until_lost(
        &self,
        session: &Session,
        channel: &Arc<Channel>,
        settler: &Arc<Settler>,
    ) -> Result<(), (Duration, String)> {
        let (mut is_ramped_up, mut longest) = (false, LONGEST_RECONNECT);
        loop {
            let intake = self.engine.permits.intake();
            let end = match intake {
                _ if session.blocked().is_some() => self.wait_for_the_broker(session).await,
                Intake::Paused(until) => self.pause(session, until).await,
                Intake::Bulk | Intake::Probing => {
                    match consumer::consume(
                        channel,
                        &self.broker.topology.kinds,
                        self.prefetch(intake, is_ramped_up),
                    )
                    .await
                    {
                        Ok(deliveries) => {
                            longest = LONGEST_AFTER_CONSUMING;
                            self.consume(session, settler, deliveries, (intake, is_ramped_up)).await
                        }
                        Err(error) => End::Lost(error.to_string()),
                    }
                }
            };
            self.engine.metrics.consumer_attached.set(0);
            match end {
                // A session that ended here would throw away what is in flight. What still comes is requeued with its end in any case.
                End::Lost(why)
                    if self.engine.draining.is_cancelled() && is_alive(session, channel) =>
                {
                    warn!(
                        "draining, and the broker does not answer; it takes back what it still delivers: {why}"
                    );
                    return Ok(());
                }
                End::Lost(why) => return Err((longest, why)),
                End::Draining => return Ok(()),
                End::RampUp => is_ramped_up = true,
                End::IntakeChanged => {}
            }
        }
    }

    /// Deliveries that may be unacknowledged at once.
    fn prefetch(&self, intake: Intake, is_ramped_up: bool) -> u16 {
        match intake {
            _ if !is_ramped_up => 1,
            Intake::Bulk => self.broker.prefetch,
            Intake::Probing | Intake::Paused(_) => {
                u16::try_from(self.engine.permits.probe_window()).unwrap_or(self.broker.prefetch)
            }
        }
    }

    async fn consume(
        &self,
        session: &Session,
        settler: &Arc<Settler>,
        mut deliveries: Deliveries,
        (intake, is_ramped_up): (Intake, bool),
    ) -> End {
        self.connected();
        let mut heartbeats = interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.engine.permits.changes();
        // Each ends the loop when it comes about, so that one of each is enough for all deliveries.
        let (draining, lost) = (self.engine.draining.cancelled(), session.lost.cancelled());
        let blocked = session.becomes_blocked();
        tokio::pin!(draining, lost, blocked);
        let end = loop {
            tokio::select! {
                biased;
                () = &mut draining => break End::Draining,
                () = &mut lost => return End::Lost("the connection is gone".to_owned()),
                () = &mut blocked => break End::IntakeChanged,
                _ = heartbeats.tick() => self.engine.health.heartbeat(),
                _ = changes.changed() => {}
                delivery = deliveries.next() => match delivery {
                    Some(Ok(delivery)) => {
                        let is_well = delivery.delivery_count() < REDELIVERY_THRESHOLD;
                        self.spawn_handler(delivery, settler);
                        if !is_ramped_up && is_well {
                            break End::RampUp;
                        }
                        continue;
                    }
                    Some(Err(error)) => return End::Lost(error.to_string()),
                    None => return End::Lost("the broker has ended the consumer".to_owned()),
                },
            }
            if self.engine.permits.intake() != intake {
                break End::IntakeChanged;
            }
        };
        if let Err(error) = deliveries.cancel().await {
            return End::Lost(error.to_string());
        }
        self.drain_prefetched(deliveries, settler).await;
        end
    }

    /// What the broker had sent before it was told to stop: `handle` puts each where it belongs (in a drain back, and of an
    /// organisation that is suspended into a delay queue, both without a call).
    async fn drain_prefetched(&self, mut deliveries: Deliveries, settler: &Arc<Settler>) {
        while let Some(Ok(delivery)) = deliveries.next().await {
            self.spawn_handler(delivery, settler);
        }
    }

    fn spawn_handler(&self, delivery: Delivery, settler: &Arc<Settler>) {
        let (engine, settler) = (Arc::clone(&self.engine), Arc::clone(settler));
        // Boxed: a future of some kilobytes, which the runtime would move six times.
        self.handlers.spawn(Box::pin(process_delivery(delivery, engine, settler)));
    }

    async fn finish_handlers(&self, over: &CancellationToken) {
        self.engine.health.heartbeat();
        let first_time = self.handlers.close();
        if !first_time {
            return;
        }
        tokio::select! {
            biased;
            () = self.handlers.wait() => {}
            () = over.cancelled() => warn!(
                unsettled = self.handlers.len(),
                "SHUTDOWN_GRACE is over; what is unsettled goes back to the queue and will be delivered again"
            ),
        }
    }

    fn connected(&self) {
        self.engine.metrics.consumer_attached.set(1);
        let kinds = &self.broker.topology.kinds;
        let queue = kinds.iter().map(|kind| kind.queue()).collect::<Vec<_>>().join(",");
        let prefetch = self.broker.prefetch;
        let had_trouble = self.engine.health.set(Component::Broker, None);
        // What the session before was waiting for when it was lost.
        self.engine.health.set(Component::Blocked, None);
        if let Some(why) = self.log.consuming() {
            warn!(queue, prefetch, "consuming again; the session before was lost: {why}");
        } else if had_trouble {
            info!(queue, prefetch, "consuming");
        }
    }

    fn not_consuming(&self, why: &str, line: Option<String>) {
        self.engine.metrics.consumer_attached.set(0);
        self.engine.metrics.publisher_up.set(0);
        self.engine.health.set(Component::Broker, Some(format!("not consuming: {why}")));
        if let Some(line) = line {
            warn!("not consuming, trying again until it works: {line}");
        }
    }
}

/// Whether what is unacknowledged can still be settled.
fn is_alive(session: &Session, channel: &Channel) -> bool {
    !session.lost.is_cancelled() && channel.status().connected()
}
