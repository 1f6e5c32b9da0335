//! Carries out a settlement, always in this order: publish, wait for the confirm, acknowledge. The
//! only place that acks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::engine::Engine;
use super::publish_outage::{PublishOutage, Stuck};
use super::settle_log::report;
use crate::failpoint::{self, Failpoint};
use crate::kind::Kind;
use crate::messages::{Incoming, Publication};
use crate::metrics::Metrics;
use crate::policy::admission::{age, first_seen};
use crate::policy::consumer_health::HostSwitches;
use crate::policy::settlement::Settlement;
use crate::rabbitmq::{Delivery, PublishError, Session};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const MIRROR_WITHIN: Duration = Duration::from_secs(2);
/// A RabbitMQ channel passes acknowledgements on to a quorum queue in the background, without
/// saying when, and loses the pending ones when it closes: up to 62 commands were redelivered after
/// a drain under load (RabbitMQ 4.0, measured).
pub(super) const ACKNOWLEDGEMENTS_ARRIVE: Duration = Duration::from_millis(300);

/// Settles the deliveries of one session.
pub struct Settler {
    session: Arc<Session>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    publish_outage: Arc<PublishOutage>,
    host_switches: Arc<Mutex<HostSwitches>>,
    /// There is no mirror: an older version declared the topology.
    has_no_mirror: AtomicBool,
}

/// The result of a publication.
enum Published {
    Confirmed,
    /// It can never be published in this form.
    TooLarge,
    /// It was not published, because the session is lost.
    NotAtAll,
}

impl Settler {
    /// A settler that publishes over this session until it is lost.
    pub(super) fn new(
        session: Arc<Session>,
        engine: Arc<Engine>,
        (publish_outage, host_switches): (Arc<PublishOutage>, Arc<Mutex<HostSwitches>>),
    ) -> Self {
        publish_outage.session_begins();
        let metrics = Arc::clone(&engine.metrics);
        Self {
            session,
            engine,
            metrics,
            publish_outage,
            host_switches,
            has_no_mirror: AtomicBool::new(false),
        }
    }

    /// Tells when the session is lost.
    pub fn session_lost(&self) -> CancellationToken {
        self.session.lost.clone()
    }

    /// Tells the broker the disposition of a delivery.
    ///
    /// # A message is not acknowledged before its outcome is confirmed
    ///
    /// Every publication is confirmed before the delivery is acknowledged. Without a confirm the
    /// delivery stays unacknowledged, and the publish is retried for as long as the session lives.
    /// When the session dies, the broker redelivers the command, and the repeat is harmless: a
    /// second DELETE finds a 404, and a second event has the same id. The same holds for the
    /// records of its calls in the audit stream.
    pub async fn settle(&self, delivery: Delivery, settlement: &Settlement, received: Instant) {
        let kind = delivery.incoming().kind;
        if matches!(settlement, Settlement::Requeue) {
            delivery.nack_requeue().await;
            self.metrics.count_command(kind, settlement.as_str());
            return;
        }
        let incoming = delivery.incoming();
        // All calls of this delivery are among them.
        let recorded = self.engine.audit.last();
        let mut is_too_large = matches!(settlement, Settlement::Reject(_));
        for mut publication in settlement.publications(incoming, Timestamp::now()) {
            let mut span = self.engine.spans.publication(&mut publication);
            match self.publish_until_confirmed(&publication).await {
                Published::Confirmed => self.mirror(kind, &publication).await,
                Published::TooLarge => {
                    span.failed("too_large");
                    is_too_large = true;
                }
                Published::NotAtAll => {
                    span.failed("session_lost");
                    debug!("a delivery is left to the broker, which will deliver it again");
                    return;
                }
            }
        }
        if let Some(moved) = settlement.moved_by_rabbitmq(incoming, Timestamp::now()) {
            self.mirror(kind, &moved).await;
        }
        tokio::select! {
            biased;
            () = self.engine.audit.confirmed(recorded) => {}
            () = self.session.lost.cancelled() => return,
        }
        self.note_ages(incoming, settlement, received);
        report(incoming, settlement);
        self.metrics.count_command(kind, label(settlement));
        failpoint::hit(Failpoint::BeforeAck).await;
        let is_known =
            if is_too_large { delivery.reject().await } else { delivery.acknowledge().await };
        let result = if is_known { "acknowledged" } else { "lost" };
        failpoint::hit(Failpoint::AfterAck).await;
        self.metrics.count_acknowledgement(result);
        self.metrics.last_settled.set(Timestamp::now().as_duration().as_secs_f64());
    }

    fn note_ages(&self, incoming: &Incoming, settlement: &Settlement, received: Instant) {
        let kind = incoming.kind;
        if let Settlement::RetryLater(wait) | Settlement::Postpone(wait) = settlement {
            let now = Timestamp::now();
            self.metrics.waits(kind, first_seen(incoming, now), now + wait.delay.wait());
        }
        if settlement.is_end() {
            let age = age(incoming, Timestamp::now()).max(received.elapsed());
            self.metrics.ended(kind, age);
        }
    }

    /// # A dead letter that is too large for the broker does not stay unacknowledged indefinitely
    ///
    /// The limit may be lowered while a command is in its queue (`RabbitMQ` 4 allows an eighth of
    /// the size that 3 did). The copy with our headers is then always refused, but the broker's own
    /// dead-lettering moves the original unchanged, at least once.
    async fn publish_until_confirmed(&self, publication: &Publication<'_>) -> Published {
        let mut stuck: Option<Stuck> = None;
        let mut pause = FIRST_PAUSE;
        while self.may_publish().await {
            let error = match self.session.publisher().publish(publication).await {
                Ok(()) => {
                    self.metrics.count_publish("confirmed");
                    stuck.map_or_else(|| self.publish_outage.confirmed(), Stuck::confirmed);
                    return Published::Confirmed;
                }
                Err(error) => error,
            };
            self.metrics.count_publish(error.as_str());
            if matches!(error, PublishError::TooLarge(_)) && publication.is_dead_letter() {
                warn!("{error}; the original goes to the dead letters without our headers");
                return Published::TooLarge;
            }
            if self.session.blocked().is_none() && !self.session.lost.is_cancelled() {
                let what = format!("cannot publish to {}: {error}", publication.exchange);
                match &stuck {
                    Some(stuck) => stuck.failed_again(&what),
                    None => stuck = Some(self.publish_outage.begin(&what)),
                }
                self.give_up_a_mute_broker(&error, what);
                self.redeclare(&error).await;
                tokio::select! { () = self.session.lost.cancelled() => {} () = tokio::time::sleep(pause) => {} }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        Published::NotAtAll
    }

    /// Also writes a confirmed dead letter to the mirror. The mirror is only for looking, so a
    /// failure does not delay the command for long.
    async fn mirror(&self, kind: Kind, publication: &Publication<'_>) {
        let Some(record) = publication.mirrored(kind) else { return };
        if self.has_no_mirror.load(Ordering::Relaxed) {
            return;
        }
        let written = timeout(MIRROR_WITHIN, self.session.publisher().publish(&record)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(PublishError::Returned(_))) => {
                self.has_no_mirror.store(true, Ordering::Relaxed);
                info!(
                    "there is no {}, run `setup`: the console sees no new dead letters",
                    kind.mirror()
                );
            }
            Ok(Err(error)) => warn!("a dead letter is not in {}: {error}", kind.mirror()),
            Err(_) => warn!(
                "a dead letter is not in {}: no confirm within {MIRROR_WITHIN:?}",
                kind.mirror()
            ),
        }
    }

    /// # A publish without a confirm ends the session
    ///
    /// The session's node may have lost the others, and then it never sends a confirm. Unconfirmed
    /// commands are not acknowledged, so they are delivered again, at another host.
    fn give_up_a_mute_broker(&self, error: &PublishError, what: String) {
        let is_due = matches!(error, PublishError::TimedOut) && {
            self.host_switches.lock().unwrap_or_else(PoisonError::into_inner).is_due(Instant::now())
        };
        if is_due {
            self.session.give_up(what);
        }
    }

    /// Waits while the broker is blocking publishers; `false` when the session is lost.
    async fn may_publish(&self) -> bool {
        if self.session.blocked().is_some() {
            tokio::select! {
                () = self.session.lost.cancelled() => {}
                () = self.session.becomes_unblocked() => {}
            }
        }
        !self.session.lost.is_cancelled()
    }

    /// A queue, an exchange or a binding may be gone because someone has deleted it.
    async fn redeclare(&self, error: &PublishError) {
        if matches!(error, PublishError::Returned(_) | PublishError::Broken(_)) {
            self.session.declare_again().await;
        }
    }
}

fn label(settlement: &Settlement) -> &'static str {
    match settlement {
        Settlement::DeadLetter(outcome, _) | Settlement::Reject(Some(outcome)) => {
            outcome.failure.as_ref().map_or("dead_lettered", |f| f.reason.as_str())
        }
        other => other.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::event::{Failure, samples};
    use crate::messages::{DryRun, EndKind, FailureReason, Outcome, Pending, RetryState, Would};
    use crate::policy::retry_schedule::RetryDelays;
    use crate::policy::settlement::Wait;

    #[test]
    fn a_dead_letter_is_counted_by_its_reason_and_what_else_there_is_by_its_word() {
        let failure = Some(Failure { reason: FailureReason::Expired, detail: String::new() });
        let dead = |failure| {
            let outcome = Outcome { failure, ..samples::outcome(EndKind::DeadLettered) };
            Settlement::DeadLetter(outcome, RetryState::default())
        };
        let finish = Settlement::Finish(samples::outcome(EndKind::AlreadyAbsent));
        let labels = [dead(failure), dead(None), finish, Settlement::Requeue]
            .map(|settlement| label(&settlement));
        assert_eq!(labels, ["expired", "dead_lettered", "already_absent", "returned"]);
    }

    #[test]
    fn each_settlement_is_counted_from_zero() {
        use EndKind::{AlreadyAbsent, Archived, Cancelled, Done};
        let ends = [Done, AlreadyAbsent, Cancelled, Archived].map(samples::outcome);
        let pending = Pending::of(samples::outcome(Archived), Timestamp::UNIX_EPOCH);
        let look = Would::End { how: Done, is_verified: true };
        let delay = RetryDelays::new(vec![Duration::from_secs(5)]).unwrap().all()[0];
        let retry_state = RetryState::default();
        let wait = Wait { delay, retry_state: retry_state.clone(), is_news: false, command: None };
        let others = [
            Settlement::RetryLater(wait.clone()),
            Settlement::Postpone(wait),
            Settlement::Reject(None),
            Settlement::DryRun(DryRun::of(samples::outcome(Done), look, "")),
            Settlement::Undo(pending, retry_state.clone()),
            Settlement::Hold(retry_state),
            Settlement::Requeue,
        ];
        let at_the_start = Metrics::default().render();
        for settlement in ends.map(Settlement::Finish).into_iter().chain(others) {
            let series = format!("verdict=\"{}\"}} 0\n", label(&settlement));
            assert!(at_the_start.contains(&series), "{series}");
        }
    }
}
