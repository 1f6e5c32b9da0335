//! A command on its way through one delivery: what is known of it, and what becomes of it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::debug;

use super::call::{Answered, NoCall};
use super::engine::{Engine, millis};
use super::in_process_delays::InProcessDelays;
use super::permits::Refused;
use crate::messages::event::Failure;
use crate::messages::{Command, End, EndKind, FailureReason, Incoming, Outcome, RetryState};
use crate::metrics::NO_TOKEN;
use crate::policy::admission::{Refusal, admit, age, first_seen, passed_not_after};
use crate::policy::next_step::{Facts, NextStep, next_step, uses_up_an_attempt};
use crate::policy::retry_schedule::RetryDelay;
use crate::policy::settlement::{Settlement, Wait, wait_reason};
use crate::policy::verdict::Verdict;

const LONGEST_DETAIL: usize = 1024;
/// After this a delivery has no further try: several slow ones would come near RabbitMQ's consumer timeout of 30 minutes.
const LONGEST_IN_PROCESS: Duration = Duration::from_mins(1);

/// What a delivery does next.
pub(super) enum Step {
    Settle(Settlement),
    TryAgain(Duration),
}

/// A command that may be carried out, and how far it has come.
pub(super) struct CommandRun<'a> {
    incoming: &'a Incoming,
    engine: &'a Engine,
    pub(super) command: Command,
    retry_state: RetryState,
    received: Instant,
    delays: InProcessDelays,
    calls: u32,
}

impl<'a> CommandRun<'a> {
    /// Reads the command; a settlement where no call may be made for it, or not yet.
    pub(super) fn open(incoming: &'a Incoming, engine: &'a Engine) -> Result<Self, Settlement> {
        let (now, received) = (Timestamp::now(), Instant::now());
        let admitted = admit(incoming, |org| engine.allows(org), now);
        let command = admitted.map_err(|refusal| refused(incoming, &refusal, received))?;
        let retry_state = incoming.retry_state.clone();
        let run = Self {
            incoming,
            engine,
            command,
            retry_state,
            received,
            delays: InProcessDelays::new(),
            calls: 0,
        };
        match run.retry_state.not_before.filter(|moment| *moment > now) {
            Some(moment) => Err(run.wait_until(moment, now)),
            None => Ok(run),
        }
    }

    /// Somebody has called for it before, as far as anybody can know.
    pub(super) fn was_tried(&self) -> bool {
        let retry_state = &self.retry_state;
        self.calls > 0
            || retry_state.attempts > 0
            || retry_state.last_status.is_some()
            || retry_state.ambiguous
    }

    /// Its dead letter, where its producer's time limit has passed.
    pub(super) fn passed_not_after(&self) -> Option<Settlement> {
        let detail = passed_not_after(&self.command, Timestamp::now())?;
        Some(self.dead_letter(FailureReason::Expired, &detail))
    }

    /// What follows an answer.
    pub(super) fn after(&mut self, answered: &Answered) -> Step {
        self.record(answered);
        let facts = Facts {
            kind: self.incoming.kind,
            may_be_done: self.may_be_done(),
            spent: self.retry_state.attempts,
            age: self.age(),
            retry_after: answered.retry_after,
            is_outage: self.is_outage(answered),
            is_draining: self.engine.draining.is_cancelled(),
            is_clock_wrong: self.engine.is_clock_wrong(),
            next_delay: self.delays.next().filter(|_| self.received.elapsed() < LONGEST_IN_PROCESS),
        };
        let reason = wait_reason(answered.verdict);
        Step::Settle(match next_step(answered.verdict, &facts, &self.engine.schedule) {
            NextStep::TryAgain(delay) => return Step::TryAgain(delay),
            NextStep::Finish { end, is_verified } => self.finish(end, is_verified),
            NextStep::RetryLater(delay) => {
                Settlement::RetryLater(self.wait(delay, "attempt_failed", facts.retry_after))
            }
            NextStep::Postpone(delay) => self.postpone(delay, reason, facts.retry_after),
            NextStep::DeadLetter(reason) => {
                self.dead_letter(reason, &self.detail(reason, answered))
            }
        })
    }

    fn record(&mut self, answered: &Answered) {
        let Answered { answer, verdict, .. } = answered;
        if self.is_new() {
            self.engine.metrics.count_first_answer(self.incoming.kind, *verdict);
        }
        self.calls += 1;
        // Saturating: the number came in a header that anybody may have written.
        let spent = u32::from(uses_up_an_attempt(*verdict, self.is_outage(answered)));
        self.retry_state.attempts = self.retry_state.attempts.saturating_add(spent);
        self.retry_state.ambiguous |= answer.leaves_doubt();
        self.retry_state.last_status = answer.status();
        self.retry_state.request_id = answer.request_id().map(str::to_owned);
        self.retry_state.not_before = None;
        debug!(
            kind = %self.command.target.kind, org_id = %self.command.target.org, id = %self.command.target.id, attempt = self.retry_state.attempts,
            verdict = verdict.as_str(), "{}", answer.describe()
        );
    }

    /// # A list that somebody waits for comes to an end
    ///
    /// The worker lets a command wait out any outage. `delete` has nobody to wait for it: there a failure uses up an attempt even while
    /// its organisation is suspended, and what has none left is reported as failed.
    fn is_outage(&self, answered: &Answered) -> bool {
        let counts_all_the_same = self.engine.is_attended && answered.verdict == Verdict::Transient;
        answered.is_outage && !counts_all_the_same
    }

    /// An earlier call may have had its effect. After a crash nobody knows whether the worker that had this delivery before has made
    /// its call.
    fn may_be_done(&self) -> bool {
        self.retry_state.ambiguous || self.incoming.redelivered
    }

    fn is_new(&self) -> bool {
        self.calls == 0
            && self.incoming.retry_state.first_seen.is_none()
            && !self.incoming.redelivered
    }

    fn detail(&self, reason: FailureReason, answered: &Answered) -> String {
        let last = answered.answer.describe();
        match reason {
            FailureReason::Expired => {
                let since = first_seen(self.incoming, Timestamp::now());
                format!("older than MAX_AGE since {since}; last answer: {last}")
            }
            _ => last,
        }
    }

    /// No call may be made now.
    pub(super) fn without_call(&mut self, why: NoCall) -> Settlement {
        let schedule = &self.engine.schedule;
        let (reason, min_delay) = match why {
            NoCall::Refused(Refused::Stopped) if self.calls == 0 => return Settlement::Requeue,
            NoCall::Refused(Refused::Stopped) => return self.retry_later(),
            NoCall::Refused(Refused::Crowded) => {
                return self.postpone(schedule.shortest(Duration::ZERO), "slow_organisation", None);
            }
            NoCall::Refused(Refused::Suspended(reason, retry_in)) => {
                (reason.as_str(), Some(retry_in))
            }
            NoCall::Refused(Refused::BreakerOpen(retry_in)) => ("breaker_open", Some(retry_in)),
            NoCall::NoToken => (NO_TOKEN, None),
        };
        self.postpone(schedule.postpone(self.age(), min_delay.unwrap_or_default()), reason, None)
    }

    /// A drain or a lost session has cut the tries of this delivery short.
    pub(super) fn retry_later(&mut self) -> Settlement {
        let delay = self.engine.schedule.retry(self.retry_state.attempts, Duration::ZERO);
        Settlement::RetryLater(self.wait(delay, "attempt_failed", None))
    }

    fn postpone(
        &mut self,
        delay: RetryDelay,
        reason: &'static str,
        retry_after: Option<Duration>,
    ) -> Settlement {
        Settlement::Postpone(self.wait(delay, reason, retry_after))
    }

    fn wait(
        &mut self,
        delay: RetryDelay,
        reason: &'static str,
        retry_after: Option<Duration>,
    ) -> Wait {
        let is_news = self.retry_state.wait_reason.as_deref() != Some(reason);
        if is_news {
            self.engine.permits.with(|access, _| access.count_waiting(&self.command.target.org));
        }
        self.retry_state.wait_reason = Some(reason.to_owned());
        self.retry_state.not_before =
            retry_after.and_then(|wait| Timestamp::now().checked_add(wait).ok());
        Wait {
            delay,
            retry_state: self.retry_state.clone(),
            is_news,
            command: Some(self.identity()),
        }
    }

    /// It has been told to wait until then, and comes too early.
    fn wait_until(&self, moment: Timestamp, now: Timestamp) -> Settlement {
        let delay = self.engine.schedule.shortest(moment.duration_since(now).unsigned_abs());
        let command = Some(self.identity());
        Settlement::Postpone(Wait {
            delay,
            retry_state: self.retry_state.clone(),
            is_news: false,
            command,
        })
    }

    fn identity(&self) -> (String, Command) {
        let id = Outcome::command_id(self.incoming, Some(&self.command));
        (id, self.command.clone())
    }

    fn finish(&self, end: EndKind, is_verified: bool) -> Settlement {
        let ambiguous = if end == EndKind::AlreadyAbsent {
            self.may_be_done()
        } else {
            self.retry_state.ambiguous
        };
        Settlement::Finish(Outcome { ambiguous, verified: is_verified, ..self.outcome(end, None) })
    }

    fn dead_letter(&self, reason: FailureReason, detail: &str) -> Settlement {
        let failure = Failure { reason, detail: cut(detail) };
        Settlement::DeadLetter(
            self.outcome(EndKind::DeadLettered, Some(failure)),
            self.retry_state.clone(),
        )
    }

    fn outcome(&self, end: EndKind, failure: Option<Failure>) -> Outcome {
        outcome(self.incoming, Some(&self.command), &self.retry_state, end, failure, self.received)
    }

    fn age(&self) -> Duration {
        age(self.incoming, Timestamp::now()).max(self.received.elapsed())
    }
}

fn refused(incoming: &Incoming, refusal: &Refusal, received: Instant) -> Settlement {
    let failure = Failure { reason: refusal.reason, detail: cut(&refusal.detail) };
    let retry_state = incoming.retry_state.clone();
    let end = EndKind::DeadLettered;
    let outcome =
        outcome(incoming, refusal.command.as_ref(), &retry_state, end, Some(failure), received);
    Settlement::DeadLetter(outcome, retry_state)
}

/// A call may have been made, so an attempt is used up and the past is in doubt.
pub(super) fn after_a_panic(incoming: &Incoming, engine: &Engine) -> Settlement {
    let now = Timestamp::now();
    let attempts = incoming.retry_state.attempts.saturating_add(1);
    let first_seen = Some(first_seen(incoming, now));
    let retry_state =
        RetryState { attempts, ambiguous: true, first_seen, ..incoming.retry_state.clone() };
    if attempts >= engine.schedule.max_attempts {
        let reason = FailureReason::AttemptsExhausted;
        let failure =
            Failure { reason, detail: "the worker panicked at its last attempt".to_owned() };
        let end = EndKind::DeadLettered;
        let outcome = outcome(incoming, None, &retry_state, end, Some(failure), Instant::now());
        return Settlement::DeadLetter(outcome, retry_state);
    }
    let delay = engine.schedule.postpone(age(incoming, now), Duration::ZERO);
    Settlement::RetryLater(Wait { delay, retry_state, is_news: true, command: None })
}

fn outcome(
    incoming: &Incoming,
    command: Option<&Command>,
    retry_state: &RetryState,
    end: EndKind,
    failure: Option<Failure>,
    received: Instant,
) -> Outcome {
    Outcome {
        command_id: Outcome::command_id(incoming, command),
        target: command.map(|command| command.target.clone()),
        outcome: End { kind: incoming.kind, how: end },
        attempts: retry_state.attempts,
        ambiguous: retry_state.ambiguous,
        verified: true,
        http_status: retry_state.last_status,
        requested_by: command.and_then(|command| command.requested_by.clone()),
        reason: command.and_then(|command| command.reason.clone()),
        published_by: incoming.properties.published_by.clone(),
        duration_ms: millis(received.elapsed()),
        failure,
        request_id: retry_state.request_id.clone(),
    }
}

/// At most [`LONGEST_DETAIL`] bytes, on one line: a header table over 128 KiB would close the connection.
fn cut(detail: &str) -> String {
    let mut line: String = detail.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.truncate(line.floor_char_boundary(LONGEST_DETAIL));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_one_line_of_at_most_1_kib_cut_between_characters() {
        assert_eq!(cut("a\r\nb"), "a  b");
        assert_eq!(cut(&"é".repeat(600)).len(), 1024);
        assert_eq!(cut(&format!("x{}", "é".repeat(600))).len(), 1023);
    }
}
