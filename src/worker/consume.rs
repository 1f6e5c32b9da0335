//! The loop: connect, consume, hand each delivery to a job of its own; rebuild when the broker is lost, probe while the
//! breaker is open, drain at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::Channel;
use lapin::options::BasicCancelOptions;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::engine::Engine;
use super::handle::handle;
use super::settle::Settler;
use crate::health::Part;
use crate::rabbitmq::{BrokerError, BrokerSettings, Delivery, Session, consumer, topology};
use crate::seams::{self, Seam};

const TURN: Duration = Duration::from_secs(1);
const FIRST_RECONNECT: Duration = Duration::from_millis(200);
const LONGEST_RECONNECT: Duration = Duration::from_secs(10);
/// # A message that kills the client library's connection does not drag its neighbours along
///
/// Some messages cannot be parsed (a `message_id` that is no UTF-8, say), and their delivery ends the connection, each time,
/// until the queue's delivery limit moves them to the dead letters. What was prefetched with it counts a delivery too. So after
/// a session that lived shorter than this, the next one takes one message at a time for this long.
const STABLE: Duration = Duration::from_secs(10);
const DEPTHS_EVERY: Duration = Duration::from_secs(10);

/// A consumer of commands, with its jobs.
pub struct Worker {
    engine: Arc<Engine>,
    broker: BrokerSettings,
    jobs: TaskTracker,
    /// The last session died young: the next one consumes one at a time for a while.
    cautious: AtomicBool,
    /// The kind of trouble that the log has last told of.
    trouble: Mutex<Option<&'static str>>,
}

enum End {
    Draining,
    BreakerOpen,
    BreakerClosed,
    Calm,
    Lost(String),
}

impl Worker {
    /// A worker that has not begun.
    pub fn new(engine: Arc<Engine>, broker: BrokerSettings) -> Self {
        Self {
            engine,
            broker,
            jobs: TaskTracker::new(),
            cautious: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// Works until the engine drains; then finishes what is in flight within `grace`. A lost broker is rebuilt for ever.
    pub async fn run(&self, grace: Duration) {
        let mut pause = FIRST_RECONNECT;
        while !self.engine.draining.is_cancelled() {
            match self.open_session().await {
                Some(Ok(session)) => {
                    let opened = Instant::now();
                    self.work(session, grace).await;
                    let was_stable = opened.elapsed() >= STABLE;
                    self.cautious.store(!was_stable, Ordering::Relaxed);
                    pause = if was_stable { FIRST_RECONNECT } else { pause };
                }
                Some(Err(error)) => self.not_connected(error.kind(), &error.to_string()),
                None => break,
            }
            self.engine.health.turn();
            self.engine.sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RECONNECT);
        }
        self.finish_jobs(grace).await;
    }

    async fn open_session(&self) -> Option<Result<Session, BrokerError>> {
        tokio::select! {
            () = self.engine.draining.cancelled() => None,
            session = Session::open(&self.broker) => Some(session),
        }
    }

    async fn work(&self, session: Session, grace: Duration) {
        let settler = Settler::new(
            session.publisher().clone(),
            session.lost.clone(),
            Arc::clone(&self.engine.metrics),
            Arc::clone(&self.engine.health),
        );
        // Held until the jobs are done: lapin closes a channel whose last handle is dropped, and acknowledgements with it.
        let channel = session.consuming_channel().await;
        let depths = self.watch_depths(&session).await;
        let end = match &channel {
            Ok(channel) => self.consume_and_probe(&session, channel, &settler).await,
            Err(error) => Err(error.to_string()),
        };
        depths.abort();
        if let Err(error) = end {
            session.lost.cancel();
            self.engine.metrics.reconnects.inc();
            self.not_connected("lost", &error);
        } else {
            self.finish_jobs(grace).await;
        }
        session.close().await;
    }

    /// Goes back and forth between consuming and probing until the end.
    async fn consume_and_probe(
        &self,
        session: &Session,
        channel: &Channel,
        settler: &Settler,
    ) -> Result<(), String> {
        loop {
            let end = if self.engine.next_probe().is_some() {
                self.probe(session, channel, settler).await
            } else {
                self.consume(session, channel, settler).await
            };
            self.engine.metrics.consumer_attached.set(0);
            match end {
                End::Lost(why) => return Err(why),
                End::Draining => return Ok(()),
                End::BreakerOpen | End::BreakerClosed | End::Calm => {}
            }
        }
    }

    async fn consume(&self, session: &Session, channel: &Channel, settler: &Settler) -> End {
        let cautious = self.cautious.swap(false, Ordering::Relaxed);
        let prefetch = if cautious { 1 } else { self.broker.prefetch };
        let mut deliveries = match consumer::consume(channel, prefetch).await {
            Ok(consumer) => consumer,
            Err(error) => return End::Lost(error.to_string()),
        };
        self.connected(prefetch);
        let calm = tokio::time::sleep(STABLE);
        tokio::pin!(calm);
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            tokio::select! {
                biased;
                () = self.engine.draining.cancelled() => break End::Draining,
                () = session.lost.cancelled() => return End::Lost("the connection is gone".to_owned()),
                () = self.engine.breaker_opened.notified() => break End::BreakerOpen,
                () = &mut calm, if cautious => break End::Calm,
                _ = turns.tick() => self.engine.health.turn(),
                delivery = deliveries.next() => match delivery {
                    Some(Ok(delivery)) => drop(self.begin(delivery.into(), settler)),
                    Some(Err(error)) => return End::Lost(error.to_string()),
                    None => return End::Lost("the broker has ended the consumer".to_owned()),
                },
            }
        };
        if let Err(error) = channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await {
            return End::Lost(error.to_string());
        }
        self.empty(deliveries, settler).await;
        end
    }

    /// What the broker had sent before it was told to stop: `handle` puts each where it belongs (in a drain back, and while
    /// the breaker is open into a wait queue, both without a call).
    async fn empty(&self, mut deliveries: lapin::Consumer, settler: &Settler) {
        while let Some(Ok(delivery)) = deliveries.next().await {
            drop(self.begin(delivery.into(), settler));
        }
    }

    fn begin(&self, delivery: Delivery, settler: &Settler) -> JoinHandle<()> {
        self.jobs.spawn(carry_out(delivery, Arc::clone(&self.engine), settler.clone()))
    }

    /// Waits until a probe is settled; a drain or a lost broker does not wait for it.
    async fn wait_for(&self, mut probe: JoinHandle<()>, session: &Session) -> Option<End> {
        loop {
            tokio::select! {
                () = self.engine.draining.cancelled() => return Some(End::Draining),
                () = session.lost.cancelled() => return Some(End::Lost("the connection is gone".to_owned())),
                _ = &mut probe => return None,
                () = tokio::time::sleep(TURN) => self.engine.health.turn(),
            }
        }
    }

    /// While the breaker is open: fetches one command at a time when a probe is due.
    async fn probe(&self, session: &Session, channel: &Channel, settler: &Settler) -> End {
        while let Some(probe_at) = self.engine.next_probe() {
            self.engine.health.turn();
            let pause =
                probe_at.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(10), TURN);
            tokio::select! {
                () = self.engine.draining.cancelled() => return End::Draining,
                () = session.lost.cancelled() => return End::Lost("the connection is gone".to_owned()),
                () = tokio::time::sleep(pause) => {}
            }
            if Instant::now() < probe_at {
                continue;
            }
            match consumer::get_one(channel).await {
                Ok(Some(delivery)) => {
                    let probe = self.begin(delivery, settler);
                    if let Some(end) = self.wait_for(probe, session).await {
                        return end;
                    }
                }
                Ok(None) => tokio::time::sleep(TURN).await,
                Err(error) => return End::Lost(error.to_string()),
            }
        }
        End::BreakerClosed
    }

    async fn finish_jobs(&self, grace: Duration) {
        self.engine.health.turn();
        let first_time = self.jobs.close();
        if first_time && timeout(grace, self.jobs.wait()).await.is_err() {
            warn!(
                unsettled = self.jobs.len(),
                "SHUTDOWN_GRACE is over; what is unsettled goes back to the queue and will be delivered again"
            );
        }
    }

    fn connected(&self, prefetch: u16) {
        self.engine.metrics.consumer_attached.set(1);
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.engine.health.set(Part::Broker, None) {
            info!(queue = crate::messages::names::WORK_QUEUE, prefetch, "consuming");
        }
    }

    fn not_connected(&self, kind: &'static str, why: &str) {
        self.engine.metrics.consumer_attached.set(0);
        self.engine.metrics.publisher_up.set(0);
        self.engine.health.set(Part::Broker, Some(format!("not consuming: {why}")));
        if self.trouble.lock().unwrap_or_else(PoisonError::into_inner).replace(kind) != Some(kind) {
            warn!("not consuming, trying again until it works: {why}");
        }
    }

    async fn watch_depths(&self, session: &Session) -> JoinHandle<()> {
        let channel = session.consuming_channel().await;
        let (engine, topology) = (Arc::clone(&self.engine), self.broker.topology.clone());
        tokio::spawn(async move {
            let Ok(channel) = channel else { return };
            let mut ticks = interval(DEPTHS_EVERY);
            loop {
                ticks.tick().await;
                for queue in topology::queue_names(&topology) {
                    let Ok(ready) = topology::depth(&channel, &queue).await else { return };
                    engine.metrics.set_queue(&queue, ready);
                }
            }
        })
    }
}

async fn carry_out(delivery: Delivery, engine: Arc<Engine>, settler: Settler) {
    engine.metrics.deliveries_unsettled.inc();
    seams::pass(Seam::AfterReceive).await;
    let settlement = handle(delivery.incoming(), &engine).await;
    settler.settle(delivery, settlement).await;
    engine.metrics.deliveries_unsettled.dec();
}
