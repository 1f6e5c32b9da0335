//! One message, from top to bottom. Returns a [`Settlement`], never a `Result`: no path can lose the message.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jiff::Timestamp;
use tracing::{debug, error};

use super::engine::{Engine, Hold, floor, millis};
use super::in_process_delays::InProcessDelays;
use crate::messages::event::Failure;
use crate::messages::{Command, EndKind, FailureReason, Incoming, Outcome, Progress};
use crate::policy::admission::{Refusal, admit, age, expiry, first_seen};
use crate::policy::answer::Answer;
use crate::policy::org_gate::Held;
use crate::policy::retry_schedule::{Next, Rung};
use crate::policy::settlement::Settlement;
use crate::policy::verdict::Verdict;

const LONGEST_DETAIL: usize = 1024;

/// Decides the fate of one message, a panic on the way included.
// Neither this nor `survive` is `async`, which would keep the work twice in every job: as it was given, and as it is awaited.
pub fn handle(incoming: &Incoming, engine: &Engine) -> impl Future<Output = Settlement> {
    survive(carry_out(incoming, engine), incoming, engine)
}

fn survive(
    work: impl Future<Output = Settlement>,
    incoming: &Incoming,
    engine: &Engine,
) -> impl Future<Output = Settlement> {
    AssertUnwindSafe(work).catch_unwind().map(|end| {
        end.unwrap_or_else(|_| {
            error!(
                message_id = incoming.properties.message_id,
                "a command made the worker panic; it waits and will be tried again"
            );
            after_a_panic(incoming, engine)
        })
    })
}

async fn carry_out(incoming: &Incoming, engine: &Engine) -> Settlement {
    let mut case = match Case::open(incoming, engine) {
        Ok(case) => case,
        Err(settlement) => return settlement,
    };
    let mut delays = InProcessDelays::new();
    let org = case.command.org_id.clone();
    loop {
        let (place, trials) = match engine.place().await {
            Ok(place) => (place, engine.trials()),
            Err(hold) => return case.held(hold),
        };
        if let Some(detail) = case.expiry() {
            return case.dead_letter(FailureReason::Expired, &detail);
        }
        let call = match engine.may_call(&org, place) {
            Ok(call) => call,
            Err(Hold::Org(Held::Trial(longest))) if engine.trial_moves(trials, longest).await => continue,
            Err(hold) => return case.held(hold),
        };
        let (answer, verdict) = call.make(&case.command, &incoming.properties).await;
        case.record(verdict, &answer);
        let delay = match case.next(verdict, &answer, &mut delays) {
            Step::Settle(settlement) => return settlement,
            Step::Again(delay) => delay,
        };
        if !engine.sleep(delay).await {
            return case.retry_later();
        }
    }
}

enum Step {
    Settle(Settlement),
    Again(Duration),
}

/// A command that may be carried out, and how far it has come.
struct Case<'a> {
    incoming: &'a Incoming,
    engine: &'a Engine,
    command: Command,
    progress: Progress,
    received: Instant,
    calls: u32,
}

impl<'a> Case<'a> {
    fn open(incoming: &'a Incoming, engine: &'a Engine) -> Result<Self, Settlement> {
        let (now, received) = (Timestamp::now(), Instant::now());
        let admitted = admit(incoming, |org| engine.allows(org), engine.max_age(), now);
        let command = admitted.map_err(|refusal| refused(incoming, &refusal, received))?;
        let progress = incoming.progress.clone();
        let case = Self { incoming, engine, command, progress, received, calls: 0 };
        match case.progress.not_before {
            Some(moment) if moment > now => Err(case.postpone_until(moment, now)),
            _ => Ok(case),
        }
    }

    /// What the answer changes. What comes in while the breaker is open says nothing of the command, so costs nothing.
    fn record(&mut self, verdict: Verdict, answer: &Answer) {
        if self.is_new() {
            self.engine.metrics.count_first_answer(verdict);
        }
        let blames_the_world = verdict.counts_toward_the_breaker() && self.engine.next_probe().is_some();
        self.calls += 1;
        let spent = u32::from(verdict.spends_an_attempt() && !blames_the_world);
        // Saturating: the number came in a header that anybody may have written.
        self.progress.attempts = self.progress.attempts.saturating_add(spent);
        self.progress.ambiguous |= answer.leaves_doubt();
        self.progress.last_status = answer.status();
        self.progress.request_id = answer.request_id().map(str::to_owned);
        self.progress.not_before = None;
        debug!(
            org_id = %self.command.org_id, task_id = %self.command.task_id, attempt = self.progress.attempts,
            verdict = verdict.as_str(), "{}", answer.describe()
        );
    }

    /// Nobody has called for it before, as far as anybody can know.
    fn is_new(&self) -> bool {
        self.calls == 0 && self.incoming.progress.first_seen.is_none() && !self.incoming.redelivered
    }

    fn next(&mut self, verdict: Verdict, answer: &Answer, delays: &mut InProcessDelays) -> Step {
        let floor = floor(answer, Timestamp::now());
        Step::Settle(match verdict {
            Verdict::Deleted => self.finish(EndKind::Deleted),
            Verdict::AlreadyAbsent => self.finish(EndKind::AlreadyAbsent),
            Verdict::Forbidden => self.dead_letter(FailureReason::Forbidden, &answer.describe()),
            Verdict::Rejected => self.dead_letter(FailureReason::Rejected, &answer.describe()),
            Verdict::Throttled | Verdict::Unauthorized | Verdict::Misdirected => self.postpone(floor),
            Verdict::Transient | Verdict::Unreachable if self.engine.next_probe().is_some() => {
                self.postpone(floor)
            }
            Verdict::Transient | Verdict::Unreachable => {
                let spent = self.progress.attempts;
                match self.engine.schedule.after_failure(verdict, spent, self.age(), floor, delays.next()) {
                    Next::Again(delay) => return Step::Again(delay),
                    Next::Wait(rung) if verdict.spends_an_attempt() => self.retry_later_on(rung, floor),
                    Next::Wait(rung) => self.wait(rung, floor),
                    Next::Exhausted => self.dead_letter(FailureReason::AttemptsExhausted, &answer.describe()),
                }
            }
        })
    }

    fn expiry(&self) -> Option<String> {
        expiry(&self.command, self.incoming, self.engine.max_age(), Timestamp::now())
    }

    fn held(mut self, hold: Hold) -> Settlement {
        match hold {
            Hold::Draining if self.calls == 0 => Settlement::Return,
            Hold::Draining => self.retry_later(),
            Hold::Org(Held::For(wait)) => self.postpone(Some(wait)),
            Hold::Org(Held::Trial(_)) | Hold::BreakerOpen | Hold::NoCredential => self.postpone(None),
        }
    }

    /// A drain has cut the tries of this delivery short.
    fn retry_later(&mut self) -> Settlement {
        let no_sleep = None;
        match self.engine.schedule.after_failure(
            Verdict::Transient,
            self.progress.attempts,
            self.age(),
            None,
            no_sleep,
        ) {
            Next::Wait(rung) => self.retry_later_on(rung, None),
            Next::Again(_) | Next::Exhausted => self.postpone(None),
        }
    }

    fn retry_later_on(&mut self, rung: Rung, floor: Option<Duration>) -> Settlement {
        self.progress.not_before = moment_after(floor);
        Settlement::RetryLater(rung, self.progress.clone())
    }

    fn postpone(&mut self, floor: Option<Duration>) -> Settlement {
        self.wait(self.engine.schedule.postpone(self.age(), floor.unwrap_or_default()), floor)
    }

    fn wait(&mut self, rung: Rung, floor: Option<Duration>) -> Settlement {
        self.progress.not_before = moment_after(floor);
        Settlement::Postpone(rung, self.progress.clone())
    }

    fn postpone_until(&self, moment: Timestamp, now: Timestamp) -> Settlement {
        let rung = self.engine.schedule.hold(moment.duration_since(now).unsigned_abs());
        Settlement::Postpone(rung, self.progress.clone())
    }

    fn finish(&self, end: EndKind) -> Settlement {
        // After a crash nobody knows whether the worker that had this delivery before has made its call.
        let unknown_past = end == EndKind::AlreadyAbsent && self.incoming.redelivered;
        let ambiguous = self.progress.ambiguous || unknown_past;
        Settlement::Finish(Outcome { ambiguous, ..self.outcome(end, None) })
    }

    fn dead_letter(&self, reason: FailureReason, detail: &str) -> Settlement {
        let failure = Failure { reason, detail: cut(detail) };
        Settlement::DeadLetter(self.outcome(EndKind::DeadLettered, Some(failure)), self.progress.clone())
    }

    fn outcome(&self, end: EndKind, failure: Option<Failure>) -> Outcome {
        outcome(self.incoming, Some(&self.command), &self.progress, end, failure, self.received)
    }

    fn age(&self) -> Duration {
        age(self.incoming, Timestamp::now()).max(self.received.elapsed())
    }
}

fn refused(incoming: &Incoming, refusal: &Refusal, received: Instant) -> Settlement {
    let failure = Failure { reason: refusal.reason, detail: cut(&refusal.detail) };
    let progress = incoming.progress.clone();
    let end = EndKind::DeadLettered;
    let outcome = outcome(incoming, refusal.command.as_ref(), &progress, end, Some(failure), received);
    Settlement::DeadLetter(outcome, progress)
}

fn outcome(
    incoming: &Incoming,
    command: Option<&Command>,
    progress: &Progress,
    end: EndKind,
    failure: Option<Failure>,
    received: Instant,
) -> Outcome {
    Outcome {
        command_id: Outcome::command_id(incoming.properties.message_id.as_deref(), command, &incoming.body),
        org_id: command.map(|command| command.org_id.to_string()),
        task_id: command.map(|command| command.task_id.to_string()),
        outcome: end,
        attempts: progress.attempts,
        ambiguous: progress.ambiguous,
        http_status: progress.last_status,
        requested_by: command.and_then(|command| command.requested_by.clone()),
        reason: command.and_then(|command| command.reason.clone()),
        published_by: incoming.properties.published_by.clone(),
        duration_ms: millis(received.elapsed()),
        failure,
        request_id: progress.request_id.clone(),
    }
}

/// A call may have been made, so an attempt is spent and the past is in doubt; in the end `MAX_AGE` ends it.
fn after_a_panic(incoming: &Incoming, engine: &Engine) -> Settlement {
    let now = Timestamp::now();
    let attempts = incoming.progress.attempts.saturating_add(1);
    let first_seen = Some(first_seen(incoming, now));
    let progress = Progress { attempts, ambiguous: true, first_seen, ..incoming.progress.clone() };
    Settlement::RetryLater(engine.schedule.postpone(age(incoming, now), Duration::ZERO), progress)
}

fn moment_after(floor: Option<Duration>) -> Option<Timestamp> {
    floor.and_then(|wait| Timestamp::now().checked_add(wait).ok())
}

/// At most [`LONGEST_DETAIL`] bytes, on one line: a header table over 128 KiB would close the connection.
fn cut(detail: &str) -> String {
    let mut line: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(LONGEST_DETAIL));
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::credentials::{Credentials, CredentialsSource};
    use crate::health::Health;
    use crate::metrics::Metrics;
    use crate::policy::circuit_breaker::BreakerSettings;
    use crate::policy::retry_schedule::{Ladder, RetrySchedule};
    use crate::spans::Spans;
    use crate::tallyfy_api::{ApiSettings, TallyfyApi};
    use crate::worker::EngineSettings;

    fn engine() -> Engine {
        let base_url = "http://127.0.0.1:9/api".parse().unwrap();
        let api = TallyfyApi::new(&ApiSettings {
            base_url,
            request_timeout: Duration::from_secs(1),
            proxy: None,
            ca_file: None,
        });
        let source = CredentialsSource::Fixed { orgs: Vec::new(), token: "t".into() };
        let ladder = Ladder::new(vec![Duration::from_secs(5), Duration::from_mins(1)]).unwrap();
        let settings = EngineSettings {
            api: api.unwrap(),
            credentials: Arc::new(Credentials::load(source).unwrap()),
            schedule: RetrySchedule { max_attempts: 20, max_age: Duration::from_hours(24), ladder },
            breaker: BreakerSettings::default(),
            concurrency: 1,
            spans: Spans::default(),
        };
        Engine::new(settings, Arc::new(Metrics::default()), Arc::new(Health::default()))
    }

    #[tokio::test]
    async fn a_panic_becomes_a_settlement_that_spends_an_attempt() {
        let progress = Progress { attempts: 3, ..Progress::default() };
        let incoming = Incoming { progress, ..Incoming::default() };
        let settlement = survive(async { panic!("on purpose") }, &incoming, &engine()).await;
        let Settlement::RetryLater(rung, progress) = settlement else { panic!("{settlement:?}") };
        assert_eq!((rung.name().as_str(), progress.attempts, progress.ambiguous), ("5s", 4, true));
    }

    #[test]
    fn a_detail_is_one_line_of_at_most_1_kib_cut_between_characters() {
        assert_eq!(cut("a\r\nb"), "a  b");
        assert_eq!(cut(&"é".repeat(600)).len(), 1024);
        assert_eq!(cut(&format!("x{}", "é".repeat(600))).len(), 1023);
    }
}
