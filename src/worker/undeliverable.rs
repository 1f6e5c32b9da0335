//! Gives each command that RabbitMQ itself removed from its work queue a dead letter and an event,
//! like every other end.
//!
//! It makes no call, so neither the breaker nor a suspension delays it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::engine::Engine;
use super::settle::{ACKNOWLEDGEMENTS_ARRIVE, Settler};
use crate::health::Component;
use crate::messages::event::Failure;
use crate::messages::{Command, EndKind, FailureReason, RetryState, Undeliverable};
use crate::policy::outcome::{cut, outcome};
use crate::policy::settlement::Settlement;
use crate::rabbitmq::{BrokerError, BrokerSettings, Delivery, Session, UndeliverableQueues};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Consumes them for as long as a session with the broker lasts.
pub(super) async fn consume(
    engine: Arc<Engine>,
    settler: Arc<Settler>,
    (broker, session): (BrokerSettings, Arc<Session>),
) {
    let stop = engine.stop(settler.session_lost());
    let mut pause = FIRST_PAUSE;
    let mut has_failed = false;
    let is_known = async {
        session.becomes_unblocked().await;
        session.learn_user().await;
    };
    tokio::select! { () = stop.requested() => {} () = is_known => {} }
    while !stop.is_requested() {
        let opened = tokio::select! {
            () = stop.requested() => break,
            opened = UndeliverableQueues::open(&broker, &session) => opened,
        };
        let error = match opened {
            Ok(queues) => {
                if engine.health.set(Component::Undeliverable, None) {
                    info!("undeliverable commands are consumed again");
                }
                (pause, has_failed) = (FIRST_PAUSE, false);
                until_lost(queues, &engine, &settler).await
            }
            Err(error) => Some(error),
        };
        let Some(error) = error else { break };
        // The first failure may be the end of the session, which is about to be reported, or a
        // message that ends connections.
        if has_failed {
            let why = format!("undeliverable commands wait: {error}");
            if engine.health.set(Component::Undeliverable, Some(why.clone())) {
                warn!("{why}");
            }
        }
        has_failed = true;
        tokio::select! { () = stop.requested() => {} () = sleep(pause) => {} }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    engine.health.set(Component::Undeliverable, None);
}

/// `None` if told to stop, with nothing unacknowledged.
async fn until_lost(
    mut queues: UndeliverableQueues,
    engine: &Engine,
    settler: &Settler,
) -> Option<BrokerError> {
    let stop = engine.stop(settler.session_lost());
    let mut last_settled = None;
    let error = loop {
        let delivery = tokio::select! {
            biased;
            () = stop.requested() => break None,
            delivery = queues.next() => delivery,
        };
        match delivery {
            Ok(delivery) => {
                process_delivery(delivery, engine, settler).await;
                last_settled = Some(Instant::now());
            }
            Err(error) => break Some(error),
        }
    };
    if last_settled.is_some_and(|settled: Instant| settled.elapsed() < ACKNOWLEDGEMENTS_ARRIVE) {
        sleep(ACKNOWLEDGEMENTS_ARRIVE).await;
    }
    queues.close().await;
    error
}

async fn process_delivery(delivery: Delivery<Undeliverable>, engine: &Engine, settler: &Settler) {
    let (_unacknowledged, received) = (engine.metrics.received(), Instant::now());
    let settlement = dead_letter(&delivery.message, received);
    let mut delivery = delivery.map(|message| message.incoming);
    let queue = delivery.incoming().kind.undeliverable_queue();
    let (arrival, properties) = delivery.arrival();
    let mut span = engine.spans.delivery(queue.clone(), arrival, properties);
    span.decided(&settlement);
    settler.settle(delivery, &settlement, received).await;
    engine.metrics.observe_process(queue, settlement.error_type(), received.elapsed());
}

/// # A poison command may have been called for
///
/// It was delivered again and again, and calls may have been made. So its event and its dead letter
/// say `ambiguous`: after a replay, a missing object may be the result of one of those calls.
fn dead_letter(message: &Undeliverable, received: Instant) -> Settlement {
    let Undeliverable { incoming, cause } = message;
    let too_large = incoming.fault.as_deref().filter(|_| incoming.is_oversized);
    let Failure { reason, detail } = cause.failure(too_large);
    let failure = Failure { reason, detail: cut(&detail) };
    let ambiguous = incoming.retry_state.ambiguous || reason == FailureReason::Poison;
    let retry_state = RetryState { ambiguous, ..incoming.retry_state.clone() };
    let command = Command::decode(incoming.kind, &incoming.body).ok();
    let end = EndKind::DeadLettered;
    let (failure, took) = (Some(failure), received.elapsed());
    let outcome = outcome(incoming, command.as_ref(), &retry_state, end, failure, took);
    if incoming.is_oversized {
        return Settlement::Reject(Some(outcome));
    }
    Settlement::DeadLetter(outcome, retry_state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Cause, Incoming};

    fn ended(cause: Cause, body: &str) -> (String, bool, Option<String>) {
        let incoming = Incoming { body: body.into(), ..Incoming::default() };
        let settlement = dead_letter(&Undeliverable { incoming, cause }, Instant::now());
        let Settlement::DeadLetter(outcome, retry_state) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!(outcome.ambiguous, retry_state.ambiguous);
        let reason = outcome.failure.unwrap().reason.as_str().to_owned();
        (reason, outcome.ambiguous, outcome.target.map(|target| target.to_string()))
    }

    #[test]
    fn a_command_with_an_unreadable_property_still_says_what_it_was_for() {
        let body = br#"{"org_id":"a","task_id":"t"}"#.to_vec();
        let fault = Some("its correlation_id is not UTF-8: \\xff".to_owned());
        let [readable, unreadable] = [None, fault].map(|fault| {
            let incoming = Incoming { body: body.clone(), fault, ..Incoming::default() };
            let cause = Cause::Moved("expired".to_owned());
            let settlement = dead_letter(&Undeliverable { incoming, cause }, Instant::now());
            let Settlement::DeadLetter(outcome, _) = settlement else { panic!("{settlement:?}") };
            outcome
        });
        assert_eq!(unreadable.target.as_ref().unwrap().to_string(), "a/t");
        let id = readable.event_id();
        assert_eq!(unreadable.event_id(), id, "the success of a replay supersedes it");
    }

    #[test]
    fn a_poison_command_may_have_been_called_for() {
        let command = r#"{"org_id":"a","task_id":"t"}"#;
        let moved = |word: &str| ended(Cause::Moved(word.to_owned()), command);
        let target = || Some("a/t".to_owned());
        assert_eq!(moved("delivery_limit"), ("poison".to_owned(), true, target()));
        assert_eq!(moved("expired"), ("expired_in_queue".to_owned(), false, target()));
        assert_eq!(
            ended(Cause::Moved("expired".to_owned()), "no command"),
            ("expired_in_queue".to_owned(), false, None)
        );
    }
}
