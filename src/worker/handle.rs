//! One message, from top to bottom. Returns a [`Settlement`], never a `Result`: no path can lose the message.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::error;

use super::command_run::{CommandRun, Step, after_a_panic};
use super::engine::Engine;
use super::stop::Stop;
use crate::messages::Incoming;
use crate::policy::settlement::Settlement;

/// Decides the disposition of one message, a panic on the way included.
pub async fn handle(incoming: &Incoming, engine: &Engine, stop: &Stop) -> Settlement {
    survive(carry_out(incoming, engine, stop), incoming, engine).await
}

async fn survive(
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

async fn carry_out(incoming: &Incoming, engine: &Engine, stop: &Stop) -> Settlement {
    let mut run = match CommandRun::open(incoming, engine) {
        Ok(run) => run,
        Err(settlement) => return settlement,
    };
    let org = run.command.target.org.clone();
    loop {
        let call = match engine.call(&org, run.was_tried(), stop).await {
            Ok(call) => call,
            Err(why) => return run.without_call(why),
        };
        if let Some(expired) = run.passed_not_after() {
            return expired;
        }
        let answered = call.make(&run.command, &incoming.properties).await;
        let delay = match run.after(&answered) {
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
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::credentials::{Credentials, CredentialsSource};
    use crate::health::Health;
    use crate::messages::RetryState;
    use crate::metrics::Metrics;
    use crate::policy::retry_schedule::{RetryDelays, RetrySchedule};
    use crate::policy::settlement::Wait;
    use crate::spans::Spans;
    use crate::tallyfy_api::{ApiSettings, TallyfyApi};
    use crate::worker::EngineSettings;

    fn engine() -> Engine {
        crate::tls_provider::install();
        let base_url = "http://127.0.0.1:9/api".parse().unwrap();
        let api = TallyfyApi::new(&ApiSettings {
            base_url,
            request_timeout: Duration::from_secs(1),
            proxy: None,
            ca_file: None,
        });
        let source = CredentialsSource::Fixed { orgs: Vec::new(), token: "t".into() };
        let delays =
            RetryDelays::new(vec![Duration::from_secs(5), Duration::from_mins(1)]).unwrap();
        let settings = EngineSettings {
            api: api.unwrap(),
            credentials: Arc::new(Credentials::load(source).unwrap()),
            schedule: RetrySchedule { max_attempts: 20, max_age: Duration::from_hours(24), delays },
            concurrency: 1,
            is_attended: false,
            spans: Spans::default(),
        };
        Engine::new(settings, Arc::new(Metrics::default()), Arc::new(Health::default()))
    }

    #[tokio::test]
    async fn a_panic_becomes_a_settlement_that_spends_an_attempt() {
        let retry_state = RetryState { attempts: 3, ..RetryState::default() };
        let incoming = Incoming { retry_state, ..Incoming::default() };
        let settlement = survive(async { panic!("on purpose") }, &incoming, &engine()).await;
        let Settlement::RetryLater(Wait { delay, retry_state, .. }) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!(
            (delay.name().as_str(), retry_state.attempts, retry_state.ambiguous),
            ("5s", 4, true)
        );
    }

    #[tokio::test]
    async fn a_command_that_always_makes_the_worker_panic_is_dead_lettered_in_the_end() {
        let retry_state = RetryState { attempts: 19, ..RetryState::default() };
        let incoming = Incoming { retry_state, ..Incoming::default() };
        let settlement = survive(async { panic!("on purpose") }, &incoming, &engine()).await;
        let Settlement::DeadLetter(outcome, retry_state) = settlement else {
            panic!("{settlement:?}")
        };
        assert_eq!(
            (outcome.failure.unwrap().reason.as_str(), retry_state.attempts),
            ("attempts_exhausted", 20)
        );
    }
}
