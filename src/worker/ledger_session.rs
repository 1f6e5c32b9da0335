//! Keeps the ledger current for as long as a session lasts: reads the records of all workers, and
//! writes those of this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, warn};

use super::engine::Engine;
use super::status::worker_state;
use crate::health::Component;
use crate::messages::held::{self, Held};
use crate::messages::ledger::{LedgerEntry, LedgerRecord, Scope, WorkerState};
use crate::messages::{Publication, time};
use crate::policy::brakes::Brakes;
use crate::policy::guard::Trip;
use crate::rabbitmq::Session;
use crate::rabbitmq::ledger::LedgerReader;

/// Records that are published at once.
const AT_ONCE: usize = 16;
/// The worker that saw a trip has reported it by then, if it is alive.
const UNREPORTED_AFTER: SignedDuration = SignedDuration::from_secs(30);
const REPORT_EVERY: Duration = Duration::from_mins(1);
/// How soon a change is published.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The next record of a ledger that has not been read to its end.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// The latest trip of each guard that was reported in this session: its offset, and its time,
/// because a ledger that was created again has the same offsets again.
#[derive(Default)]
struct Reported(Mutex<HashMap<Scope, (u64, Timestamp)>>);

impl Reported {
    fn is_first_report(&self, scope: &Scope, trip: &Trip) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let trip = (trip.offset, trip.since);
        reported.insert(scope.clone(), trip) != Some(trip)
    }
}

/// Reads and writes until it is aborted, which is when the session has ended.
pub(super) async fn follow_ledger(session: Arc<Session>, engine: Arc<Engine>) {
    let reported = Reported::default();
    tokio::join!(
        read(&session, &engine, &reported),
        write(&session, &engine),
        publish_worker_state(&session, &engine, &reported)
    );
}

async fn read(session: &Arc<Session>, engine: &Arc<Engine>, reported: &Reported) {
    loop {
        let why = match session.read_ledger(engine.ledger.open()).await {
            Ok(mut reader) => read_on(&mut reader, (session, engine, reported)).await,
            Err(error) => error.to_string(),
        };
        engine.ledger.close();
        // Declares a queue again that was deleted, if that is this worker's task.
        session.declare_again().await;
        let reason = format!("the ledger cannot be read, so nothing is deleted: {why}");
        if engine.health.set(Component::Ledger, Some(reason.clone()))
            && !session.lost.is_cancelled()
        {
            error!("{reason}");
        }
        sleep(TRY_AGAIN_AFTER).await;
    }
}

/// Returns why it cannot go on.
///
/// # A ledger that was deleted and created again is read from its first record
///
/// The stream that is there may not be the one that was read before: then the next record never
/// comes. What was read is forgotten, and all that is there is read.
async fn read_on(
    reader: &mut LedgerReader,
    (session, engine, reported): (&Arc<Session>, &Arc<Engine>, &Reported),
) -> String {
    loop {
        let next = if engine.ledger.is_current() {
            reader.next().await
        } else if let Ok(next) = timeout(READ_WITHIN, reader.next()).await {
            next
        } else {
            engine.ledger.forget();
            return format!("nothing came within {READ_WITHIN:?}");
        };
        match next {
            Ok((offset, record)) => {
                let to_report = engine.ledger.apply(offset, record);
                show_health(engine);
                for (scope, trip) in to_report {
                    report_trip(scope, &trip, (session, engine, reported));
                }
                engine.show_brakes();
            }
            Err(error) => return error.to_string(),
        }
    }
}

/// Publishes this worker's state as soon as the ledger has been read, then about once a minute and
/// when it has changed.
async fn publish_worker_state(session: &Arc<Session>, engine: &Arc<Engine>, reported: &Reported) {
    let mut changes = engine.ledger.changes();
    while !engine.ledger.is_current() {
        // The sender is the engine's own.
        let _ = changes.changed().await;
    }
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut published: Option<(Instant, WorkerState)> = None;
    loop {
        ticks.tick().await;
        show_health(engine);
        let now = Timestamp::now();
        let state = worker_state(engine, now);
        let is_due = published
            .as_ref()
            .is_none_or(|(at, published)| at.elapsed() >= REPORT_EVERY || state.differs(published));
        if is_due {
            published = Some((Instant::now(), state.clone()));
            engine.ledger.publish_state(state);
        }
        for (scope, trip) in engine.ledger.with(Brakes::unannounced) {
            if now.duration_since(trip.since) > UNREPORTED_AFTER {
                report_trip(scope, &trip, (session, engine, reported));
            }
        }
    }
}

async fn write(session: &Session, engine: &Engine) {
    loop {
        let records = engine.ledger.outbox().await;
        let written = stream::iter(records).map(|record| write_one(session, engine, record));
        written.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

async fn write_one(session: &Session, engine: &Engine, record: LedgerRecord) {
    match session.publisher().publish(&Publication::ledger_record(&record)).await {
        Ok(()) => {
            engine.ledger.written();
            if !matches!(record.entry, LedgerEntry::Worker(_)) {
                engine.metrics.count_publish("confirmed");
            }
            show_health(engine);
        }
        Err(error) => {
            engine.metrics.count_publish(error.as_str());
            let reason =
                format!("the ledger cannot be written, so nothing new is deleted: {error}");
            if engine.health.set(Component::Ledger, Some(reason.clone())) {
                error!("{reason}");
            }
            sleep(TRY_AGAIN_AFTER).await;
            engine.ledger.not_written(record);
        }
    }
}

fn show_health(engine: &Engine) {
    if !engine.ledger.is_in_order() {
        return;
    }
    let reason = engine.ledger.unknown_until().map(|end| {
        let end = time::text(end);
        format!("the ledger has dropped records of the guard's window, so nothing new is deleted until {end}")
    });
    if engine.health.set(Component::Ledger, reason.clone())
        && let Some(reason) = reason
    {
        error!("{reason}");
    }
}

/// # A trip is reported even if the worker that saw it dies
///
/// The ledger says whether the event has been published. Each worker that starts publishes the
/// events that nobody has, and every worker looks for them every few seconds.
fn report_trip(
    scope: Scope,
    trip: &Trip,
    (session, engine, reported): (&Arc<Session>, &Arc<Engine>, &Reported),
) {
    if !reported.is_first_report(&scope, trip) {
        return;
    }
    let limit = trip.limit;
    warn!(
        org_id = %scope.org_id, kind = %scope.kind, max_deletes = limit.max_deletes, window_s = limit.window_s,
        "the mass-deletion guard has tripped: what comes for this organisation and kind is held until an operator decides (guard list)"
    );
    announce(scope, trip, session, engine);
}

fn announce(scope: Scope, trip: &Trip, session: &Arc<Session>, engine: &Arc<Engine>) {
    let (session, engine) = (Arc::clone(session), Arc::clone(engine));
    let (held, offset) = (Held::new(&scope, trip.since, trip.limit), trip.offset);
    tokio::spawn(async move {
        loop {
            let mut event = held::event(&held, offset, Timestamp::now());
            let mut span = engine.spans.publication(&mut event);
            if session.publisher().publish(&event).await.is_ok() {
                return engine.ledger.announced(scope);
            }
            span.failed("not_confirmed");
            drop(span);
            tokio::select! {
                () = session.lost.cancelled() => return,
                () = sleep(TRY_AGAIN_AFTER) => {}
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::messages::ledger::GuardLimit;

    #[test]
    fn a_trip_is_reported_once_in_a_session_and_the_next_one_again() {
        let reported = Reported::default();
        let scope = |org: &str| Scope {
            org_id: org.to_owned().try_into().unwrap(),
            kind: Kind::TaskDelete,
        };
        let trip = |offset| Trip {
            offset,
            since: Timestamp::UNIX_EPOCH,
            limit: GuardLimit { max_deletes: 500, window_s: 3600 },
            writer: "w1".to_owned(),
            is_announced: false,
        };
        assert!(reported.is_first_report(&scope("north"), &trip(7)));
        assert!(!reported.is_first_report(&scope("north"), &trip(7)), "its event does not get out");
        assert!(reported.is_first_report(&scope("south"), &trip(7)));
        assert!(reported.is_first_report(&scope("north"), &trip(9)), "released, and tripped again");
        let later = Trip { since: Timestamp::MAX, ..trip(9) };
        assert!(reported.is_first_report(&scope("north"), &later), "in a ledger created again");
    }
}
