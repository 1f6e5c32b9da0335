//! Handles one message from start to finish. Returns a [`Settlement`], never a `Result`, so no path
//! can lose the message.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::error;

use super::command_run::{CommandRun, Step};
use super::engine::Engine;
use super::outcome::after_a_panic;
use super::stop::Stop;
use crate::messages::Incoming;
use crate::policy::settlement::Settlement;

/// Decides the disposition of one message, even if a panic occurs on the way.
///
/// # A body that was left out is never published
///
/// A message whose body was too large to keep cannot be a command. RabbitMQ moves the original
/// unchanged, and the consumer of undeliverable commands publishes its event. No other part of the
/// worker sees such a message.
pub async fn handle(incoming: &Incoming, engine: &Engine, stop: &Stop) -> Settlement {
    if incoming.is_oversized {
        return Settlement::Reject(None);
    }
    catch_panic(process(incoming, engine, stop), incoming, engine).await
}

async fn catch_panic(
    work: impl Future<Output = Settlement>,
    incoming: &Incoming,
    engine: &Engine,
) -> Settlement {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        error!(
            message_id = incoming.properties.message_id,
            "a command made the worker panic; it waits and will be tried again"
        );
        after_a_panic(incoming, engine)
    })
}

async fn process(incoming: &Incoming, engine: &Engine, stop: &Stop) -> Settlement {
    let mut run = match CommandRun::open(incoming, engine) {
        Ok(run) => run,
        Err(settlement) => return settlement,
    };
    let target = run.command.target.clone();
    loop {
        let call = match engine.call(&target, run.permit_request(), stop).await {
            Ok(call) => call,
            Err(why) => return run.without_call(why),
        };
        if let Some(over) = run.is_over() {
            return over;
        }
        let answered = call.make(&run.command, incoming, run.retry_state.calls).await;
        let delay = match run.after(answered) {
            Step::Settle(settlement) => return settlement,
            Step::TryAgain(delay) => delay,
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.requested() => return run.retry_later(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::messages::{OrgId, RetryState};
    use crate::policy::api_access::{CommandKey, Feedback};
    use crate::policy::settlement::Wait;
    use crate::policy::verdict::Verdict;
    use crate::worker::engine::samples::engine;

    async fn panicking(attempts: u32, engine: &Engine) -> Settlement {
        let retry_state = RetryState { attempts, ..RetryState::default() };
        let body = br#"{"org_id":"a","task_id":"t1"}"#.to_vec();
        let incoming = Incoming { body, retry_state, ..Incoming::default() };
        catch_panic(async { panic!("on purpose") }, &incoming, engine).await
    }

    #[tokio::test]
    async fn a_body_that_was_left_out_is_never_published() {
        let incoming = Incoming { is_oversized: true, ..Incoming::default() };
        let (draining, session_lost) = <(CancellationToken, CancellationToken)>::default();
        let settlement = handle(&incoming, &engine(), &Stop { draining, session_lost }).await;
        assert_eq!(settlement, Settlement::Reject(None));
        assert_eq!(settlement.publications(&incoming, Timestamp::now()), []);
    }

    #[tokio::test]
    async fn a_panic_becomes_a_settlement_that_spends_an_attempt() {
        let settlement = panicking(3, &engine()).await;
        let Settlement::RetryLater(Wait { delay, retry_state, command, .. }) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!(
            (delay.name().as_str(), retry_state.attempts, retry_state.ambiguous),
            ("5s", 4, true)
        );
        assert_eq!(command.unwrap().1.target.id.as_str(), "t1");
    }

    #[tokio::test]
    async fn a_command_that_always_makes_the_worker_panic_is_dead_lettered_by_its_own_name_in_the_end()
     {
        let settlement = panicking(19, &engine()).await;
        let Settlement::DeadLetter(outcome, retry_state) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!(outcome.target.map(|target| target.to_string()).as_deref(), Some("a/t1"));
        assert_eq!(
            (outcome.failure.unwrap().reason.as_str(), retry_state.attempts),
            ("attempts_exhausted", 20)
        );
    }

    #[tokio::test]
    async fn a_panic_dead_letters_nothing_while_its_organisation_is_suspended() {
        let (engine, org) = (engine(), OrgId::try_from("a".to_owned()).unwrap());
        engine.permits.with(|access, now| {
            let permit = access.admit(&org, false, now).unwrap();
            let feedback =
                Feedback { command: CommandKey(1), verdict: Verdict::Throttled, retry_after: None };
            let _ = access.record(&org, permit, feedback, Instant::now());
        });
        let settlement = panicking(19, &engine).await;
        let Settlement::RetryLater(Wait { retry_state, .. }) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!((retry_state.attempts, retry_state.ambiguous), (19, true));
    }
}
