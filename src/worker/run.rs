//! Supervises the sessions with the broker: opens one, consumes from it, opens the next when it is
//! lost, and drains at the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::audit_session::write_audit;
use super::consume::Consumption;
use super::depths;
use super::engine::Engine;
use super::handlers::count_down;
use super::ledger_session::follow_ledger;
use super::publish_outage::PublishOutage;
use super::session_end::SessionEnd;
use super::session_log::SessionLog;
use super::settle::{ACKNOWLEDGEMENTS_ARRIVE, Settler};
use super::undeliverable;
use crate::health::Component;
use crate::kind::Kind;
use crate::policy::consumer_health::HostSwitches;
use crate::rabbitmq::{BrokerError, BrokerSettings, Memory, Session};

const FIRST_RECONNECT: Duration = Duration::from_millis(200);
/// After a session that lasted this long the next pause is short again.
const STABLE: Duration = Duration::from_secs(10);

/// A consumer of commands, with the handlers of its deliveries.
pub struct Worker {
    engine: Arc<Engine>,
    broker: BrokerSettings,
    handlers: TaskTracker,
    /// Handlers of undeliverable commands, which do not count against the others.
    undeliverable: TaskTracker,
    log: SessionLog,
    memory: Arc<Memory>,
    publish_outage: Arc<PublishOutage>,
    host_switches: Arc<Mutex<HostSwitches>>,
    /// See [`RampUp::suspect`](super::ramp_up::RampUp::suspect).
    suspect: Mutex<Option<Kind>>,
}

impl Worker {
    /// A worker that has not started yet.
    pub fn new(engine: Arc<Engine>, broker: BrokerSettings) -> Self {
        Self {
            publish_outage: PublishOutage::new(&engine.metrics, &engine.health),
            engine,
            broker,
            handlers: TaskTracker::new(),
            undeliverable: TaskTracker::new(),
            log: SessionLog::new(),
            memory: Arc::default(),
            host_switches: Arc::default(),
            suspect: Mutex::default(),
        }
    }

    /// Works until the engine drains, then finishes the work in flight within `grace`, counted from
    /// the start of the drain. Reconnects to a lost broker indefinitely.
    pub async fn run(&self, grace: Duration) {
        let over = CancellationToken::new();
        let counting = tokio::spawn(count_down(self.engine.draining.clone(), grace, over.clone()));
        let mut pause = FIRST_RECONNECT;
        while !self.engine.draining.is_cancelled() {
            let opening = Instant::now();
            let Some(opened) = self.open_session().await else { break };
            let longest = match opened {
                Ok(session) => self.work(session, &over).await.longest_pause(),
                Err(error) => {
                    let end = SessionEnd::NotOpened(error);
                    self.report(&end);
                    end.longest_pause()
                }
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
        let open = Box::pin(Session::open(&self.broker, &self.memory));
        tokio::select! {
            () = self.engine.draining.cancelled() => None,
            session = self.engine.alive_while(open) => Some(session),
        }
    }

    /// Consumes until the session ends, and closes it when the work in flight is settled or cannot
    /// be settled.
    async fn work(&self, session: Session, over: &CancellationToken) -> SessionEnd {
        let engine = &self.engine;
        let session = Arc::new(session);
        let settler = Arc::new(Settler::new(
            Arc::clone(&session),
            Arc::clone(engine),
            (Arc::clone(&self.publish_outage), Arc::clone(&self.host_switches)),
        ));
        let depths = depths::watch(&session, &engine.metrics);
        self.undeliverable.spawn(undeliverable::consume(
            Arc::clone(engine),
            Arc::clone(&settler),
            (self.broker.clone(), Arc::clone(&session)),
        ));
        let ledger = tokio::spawn(follow(
            Arc::clone(&session),
            Arc::clone(engine),
            Arc::clone(&self.publish_outage),
        ));
        let consumption = Consumption::new(
            engine,
            (&session, &settler),
            (&self.broker, &self.handlers, &self.log),
            &self.host_switches,
            *self.lock_suspect(),
        );
        let (end, suspect) = consumption.until_end().await;
        *self.lock_suspect() = suspect;
        depths.abort();
        if let SessionEnd::Draining = end {
            self.finish_handlers(over).await;
            tokio::time::sleep(ACKNOWLEDGEMENTS_ARRIVE).await;
        } else {
            session.lost.cancel();
            engine.metrics.reconnects.inc();
            self.report(&end);
            ledger.abort();
            engine.ledger.close();
            // The next session does not wait for a host that may be dead.
            tokio::spawn(async move { session.close().await });
            return end;
        }
        ledger.abort();
        engine.ledger.close();
        session.close().await;
        end
    }

    fn lock_suspect(&self) -> MutexGuard<'_, Option<Kind>> {
        self.suspect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn finish_handlers(&self, over: &CancellationToken) {
        self.engine.health.heartbeat();
        let first_time = self.handlers.close();
        if !first_time {
            return;
        }
        self.undeliverable.close();
        let finished = async { tokio::join!(self.handlers.wait(), self.undeliverable.wait()) };
        tokio::select! {
            biased;
            _ = self.engine.alive_while(finished) => {}
            () = over.cancelled() => warn!(
                unsettled = self.handlers.len(),
                "SHUTDOWN_GRACE is over; unsettled deliveries go back to the queue and will be redelivered"
            ),
        }
    }

    /// Reports why nothing is consumed: log, metrics, health.
    fn report(&self, end: &SessionEnd) {
        let (why, line) = match end {
            SessionEnd::Draining => return,
            SessionEnd::NotOpened(error) => {
                let why = error.to_string();
                let line = self.log.not_connected(error.kind(), &why);
                (why, line)
            }
            SessionEnd::NeverConsumed(why) | SessionEnd::Lost(why) => {
                (why.clone(), self.log.lost(why))
            }
        };
        self.engine.metrics.consumer_attached.set(0);
        self.engine.metrics.publisher_up.set(0);
        self.engine.health.set(Component::Broker, Some(format!("not consuming: {why}")));
        if let Some(line) = line {
            warn!("not consuming, trying again until it works: {line}");
        }
    }
}

/// Follows the streams that all workers share, and the broker's alarms, until it is aborted.
async fn follow(session: Arc<Session>, engine: Arc<Engine>, publish_outage: Arc<PublishOutage>) {
    tokio::join!(
        follow_ledger(Arc::clone(&session), Arc::clone(&engine)),
        write_audit(&session, &engine),
        follow_alarms(&session, &publish_outage)
    );
}

/// Reports that nothing can be published while the broker is blocking publishers.
async fn follow_alarms(session: &Session, publish_outage: &PublishOutage) {
    loop {
        session.becomes_blocked().await;
        publish_outage.blocked();
        session.becomes_unblocked().await;
        if session.lost.is_cancelled() {
            return;
        }
        publish_outage.session_begins();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::rabbitmq::tls::TlsFiles;
    use crate::rabbitmq::topology::{Provision, Topology};
    use crate::worker::engine::samples;

    /// Every request that opens a session has a time limit, but a slow broker may use up most of
    /// each.
    #[tokio::test]
    async fn a_session_that_takes_long_to_open_is_no_loop_that_hangs() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}/", mute.local_addr().unwrap());
        let topology = Topology {
            provision: Provision::Check,
            kinds: vec![Kind::TaskDelete],
            delays: Vec::new(),
            audit_retention: Duration::from_hours(1),
            undo_window: None,
        };
        let tls = TlsFiles::default();
        let broker = BrokerSettings {
            url: url.parse().unwrap(),
            tls,
            topology,
            prefetch: 1,
            trusted_users: Vec::new(),
        };
        let engine = Arc::new(samples::engine());
        let worker = Worker::new(Arc::clone(&engine), broker);
        let opening = Duration::from_millis(3500);
        let _ = tokio::time::timeout(opening, worker.run(Duration::ZERO)).await;
        assert!(engine.health.silent_for() < opening / 2, "{:?}", engine.health.silent_for());
        engine.draining.cancel();
    }
}
