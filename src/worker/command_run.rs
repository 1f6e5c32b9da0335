//! A command on its way through one delivery: its state, and its next step.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, warn};

use super::api_request::is_success;
use super::call::{Answered, Moment};
use super::engine::Engine;
use super::in_process_delays::InProcessDelays;
use super::outcome::{detail, identity, refused};
use super::permits::PermitRequest;
use crate::messages::event::Failure;
use crate::messages::ledger::Decision;
use crate::messages::{Command, EndKind, FailureReason, Incoming, Outcome, RetryState, Target};
use crate::policy::admission::{admit, age, passed_not_after};
use crate::policy::api_access::rate::{HELD_FOR, RATE_LIMITED};
use crate::policy::dry_run::CallMode;
use crate::policy::next_step::{Facts, NextStep, next_step, uses_up_an_attempt};
use crate::policy::outcome::{cut, outcome};
use crate::policy::settlement::{Settlement, wait_reason};
use crate::policy::verdict::{Verdict, is_ambiguous};

/// After this a delivery gets no further try: several slow ones would come near RabbitMQ's consumer
/// timeout of 30 minutes.
const LONGEST_IN_PROCESS: Duration = Duration::from_mins(1);

/// What a delivery does next.
pub(super) enum Step {
    Settle(Settlement),
    TryAgain(Duration),
}

/// A command that may be carried out, and its progress.
pub(super) struct CommandRun<'a> {
    pub(super) incoming: &'a Incoming,
    pub(super) engine: &'a Engine,
    pub(super) command: Command,
    pub(super) retry_state: RetryState,
    received: Instant,
    delays: InProcessDelays,
    pub(super) calls: u32,
}

impl<'a> CommandRun<'a> {
    /// Reads the command; returns a settlement if no call may be made for it, or not yet.
    pub(super) fn open(incoming: &'a Incoming, engine: &'a Engine) -> Result<Self, Settlement> {
        let Moment { time: now, instant: received } = Moment::now();
        let admitted = admit(incoming, |org| engine.allows(org), &engine.producers, now);
        let command = admitted.map_err(|refusal| refused(incoming, &refusal, received))?;
        let retry_state = initial_retry_state(incoming, engine.mode());
        let mut run = Self {
            incoming,
            engine,
            command,
            retry_state,
            received,
            delays: InProcessDelays::new(),
            calls: 0,
        };
        if let Some(cancelled) = run.cancelled() {
            return Err(cancelled);
        }
        let early = if run.permit_request().has_slot { HELD_FOR } else { Duration::ZERO };
        match run.retry_state.not_before.filter(|moment| *moment > now + early) {
            Some(moment) => Err(run.wait_until(moment, now)),
            None => Ok(run),
        }
    }

    /// Whether a call was made for it before, answered or not, as far as is known. A replayed
    /// command starts again. An archived task was admitted before: the release of a held copy would
    /// archive it again.
    pub(super) fn was_tried(&self) -> bool {
        let retry_state = &self.retry_state;
        self.calls > 0
            || retry_state.attempts > 0
            || retry_state.calls > 0
            || retry_state.purge_at.is_some()
            || retry_state.last_status.is_some()
            || (retry_state.ambiguous && retry_state.history.is_none())
    }

    pub(super) fn permit_request(&self) -> PermitRequest {
        let has_slot = self.retry_state.wait_reason() == Some(RATE_LIMITED);
        PermitRequest { was_tried: self.was_tried(), has_slot }
    }

    /// Its end without a further call: it was cancelled, or its producer's time limit has passed.
    pub(super) fn is_over(&mut self) -> Option<Settlement> {
        if let Some(cancelled) = self.cancelled() {
            return Some(cancelled);
        }
        if let Some(late) = self.outlives_its_limit() {
            return Some(late);
        }
        let detail = passed_not_after(&self.command, Timestamp::now())?;
        Some(self.dead_letter(FailureReason::Expired, &detail))
    }

    /// # A cancelled command ends without a further call
    ///
    /// The ledger is checked when a delivery arrives, and again before each of its calls, when
    /// everything in it has been read. If an earlier call may have had its effect, the event says
    /// so (`ambiguous`).
    fn cancelled(&self) -> Option<Settlement> {
        let id = || Outcome::command_id(self.incoming, Some(&self.command));
        let Decision { by, reason } = self.engine.ledger.cancelled(&self.command.target.org, id)?;
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let outcome = self.outcome(EndKind::Cancelled, None);
        let cancelled_by = Some(cut(&format!("{by}{why}")));
        Some(Settlement::Finish(Outcome { cancelled_by, ambiguous: self.may_be_done(), ..outcome }))
    }

    /// The next step after an answer.
    pub(super) fn after(&mut self, answered: Answered) -> Step {
        let step = self.decide(&answered);
        answered.request.end(matches!(&step, Step::Settle(settlement) if is_success(settlement)));
        step
    }

    fn decide(&mut self, answered: &Answered) -> Step {
        self.record(answered);
        let at = answered.at;
        let facts = Facts {
            kind: self.incoming.kind,
            may_be_done: self.may_be_done(),
            spent: self.retry_state.attempts,
            age: self.age(at),
            retry_after: answered.retry_after,
            is_outage: self.is_outage(answered),
            is_draining: self.engine.draining.is_cancelled(),
            is_clock_wrong: self.engine.is_clock_wrong(),
            next_delay: self.delays.next().filter(|_| self.held_for(at) < LONGEST_IN_PROCESS),
        };
        let reason = wait_reason(answered.verdict);
        if self.engine.mode() == CallMode::Look {
            return self.after_look(answered, &facts);
        }
        let next = next_step(answered.verdict, &facts, &self.engine.schedule);
        if let Some(settlement) = self.after_undo(answered, &next) {
            return Step::Settle(settlement);
        }
        Step::Settle(match next {
            NextStep::TryAgain(delay) => return Step::TryAgain(delay),
            NextStep::Finish { end, is_verified } => self.finish(end, is_verified),
            NextStep::RetryLater(delay) => {
                Settlement::RetryLater(self.wait(delay, "attempt_failed", facts.retry_after, at))
            }
            NextStep::Postpone(delay) => self.postpone(delay, reason, facts.retry_after, at),
            NextStep::DeadLetter(reason) => {
                let detail = detail(self.incoming, reason, answered);
                self.dead_letter(reason, &detail)
            }
        })
    }

    fn record(&mut self, answered: &Answered) {
        let Answered { answer, verdict, .. } = answered;
        if self.is_new() {
            let Target { org, kind, .. } = &self.command.target;
            if self.engine.metrics.count_first_answer(org, *kind, *verdict) {
                warn!(%kind, org_id = %org, "organisation sees absences only: its last twenty new commands found nothing to delete");
            }
        }
        self.calls += 1;
        self.retry_state.calls = self.retry_state.calls.saturating_add(1);
        // Saturating: the number comes from a header that anyone may have written.
        let spent = u32::from(self.uses_up_an_attempt(answered));
        self.retry_state.attempts = self.retry_state.attempts.saturating_add(spent);
        self.retry_state.is_dry_run = self.engine.mode() == CallMode::Look;
        self.retry_state.ambiguous |=
            answered.was_destructive && is_ambiguous(self.incoming.kind, answer, *verdict);
        self.retry_state.last_status = answer.status();
        self.retry_state.request_id = answer.request_id().map(str::to_owned);
        self.retry_state.not_before = None;
        debug!(
            kind = %self.command.target.kind, org_id = %self.command.target.org, id = %self.command.target.id, attempt = self.retry_state.attempts,
            verdict = verdict.as_str(), "{}", answer.describe()
        );
    }

    /// # A list that a person waits for comes to an end
    ///
    /// The worker lets a command wait out any outage. The `delete` command cannot: there a failure
    /// uses up an attempt even while its organisation is suspended, and a command without attempts
    /// left is reported as failed.
    fn is_outage(&self, answered: &Answered) -> bool {
        let counts_all_the_same = self.engine.is_attended && answered.verdict == Verdict::Transient;
        answered.is_outage && !counts_all_the_same
    }

    fn uses_up_an_attempt(&self, answered: &Answered) -> bool {
        let (kind, is_outage) = (self.incoming.kind, self.is_outage(answered));
        uses_up_an_attempt(kind, self.may_be_done(), answered.verdict, is_outage)
    }

    /// Whether an earlier call may have had its effect. After a crash it is unknown whether the
    /// previous worker made its call.
    pub(super) fn may_be_done(&self) -> bool {
        self.retry_state.ambiguous || self.incoming.redelivered
    }

    /// # Ambiguity outlives the delivery that caused it
    ///
    /// A copy of the command is no longer a redelivery. If "not found" is a failure or is held, the
    /// copy must be marked as ambiguous.
    pub(super) fn keep_ambiguity(&mut self) {
        let matters =
            self.incoming.kind.fails_when_not_found() || self.retry_state.purge_at.is_some();
        self.retry_state.ambiguous |= self.incoming.redelivered && matters;
    }

    fn is_new(&self) -> bool {
        self.calls == 0
            && self.incoming.retry_state.first_seen.is_none()
            && !self.incoming.redelivered
    }

    pub(super) fn identity(&self) -> (String, Command) {
        identity(self.incoming, self.command.clone())
    }

    fn finish(&self, end: EndKind, is_verified: bool) -> Settlement {
        let ambiguous = if end == EndKind::AlreadyAbsent {
            self.may_be_done()
        } else {
            self.retry_state.ambiguous
        };
        Settlement::Finish(Outcome { ambiguous, verified: is_verified, ..self.outcome(end, None) })
    }

    /// # A dead letter of a redelivered command says that it may be done
    ///
    /// The worker that had this delivery before may have made its call, and may have published its
    /// success.
    pub(super) fn dead_letter(&mut self, reason: FailureReason, detail: &str) -> Settlement {
        self.retry_state.ambiguous |= self.incoming.redelivered;
        let failure = Failure { reason, detail: cut(detail) };
        Settlement::DeadLetter(
            self.outcome(EndKind::DeadLettered, Some(failure)),
            self.retry_state.clone(),
        )
    }

    pub(super) fn outcome(&self, end: EndKind, failure: Option<Failure>) -> Outcome {
        let (command, took) = (Some(&self.command), self.received.elapsed());
        outcome(self.incoming, command, &self.retry_state, end, failure, took)
    }

    pub(super) fn age(&self, at: Moment) -> Duration {
        age(self.incoming, at.time).max(self.held_for(at))
    }

    fn held_for(&self, at: Moment) -> Duration {
        at.instant.saturating_duration_since(self.received)
    }
}

/// # A look of a dry run does not count as a call
///
/// Its looks use up attempts of the dry run only. Afterwards the command counts as new, so that the
/// guard counts it.
fn initial_retry_state(incoming: &Incoming, mode: CallMode) -> RetryState {
    let retry_state = &incoming.retry_state;
    if !retry_state.is_dry_run || mode == CallMode::Look {
        return retry_state.clone();
    }
    RetryState {
        first_seen: retry_state.first_seen,
        history: retry_state.history.clone(),
        purge_at: retry_state.purge_at,
        ..RetryState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::policy::api_access::{Denied, SuspendReason};
    use crate::policy::settlement::Wait;
    use crate::worker::engine::samples::engine;
    use crate::worker::permission::NoCall;
    use crate::worker::permits::Refused;

    fn incoming(age: Duration, redelivered: bool) -> Incoming {
        let retry_state =
            RetryState { first_seen: Some(Timestamp::now() - age), ..RetryState::default() };
        let body = br#"{"org_id":"a","task_id":"t1"}"#.to_vec();
        Incoming { body, retry_state, redelivered, ..Incoming::default() }
    }

    fn waits(settlement: Settlement) -> Wait {
        let Settlement::Postpone(wait) = settlement else { panic!("{settlement:?}") };
        wait
    }

    fn denied(reason: SuspendReason, retry_after: Option<Duration>) -> NoCall {
        let retry_in = Duration::from_secs(1);
        NoCall::Refused(Refused::Denied(Denied::Suspended { reason, retry_in, retry_after }))
    }

    #[test]
    fn no_number_of_restarts_makes_a_waiting_command_a_dead_letter() {
        let engine = engine();
        let stopped = |redelivered| {
            let incoming = incoming(Duration::ZERO, redelivered);
            CommandRun::open(&incoming, &engine)
                .unwrap()
                .without_call(NoCall::Refused(Refused::Stopped))
        };
        assert_eq!(stopped(false), Settlement::Requeue);
        let wait = waits(stopped(true));
        assert_eq!(
            (wait.delay.name().as_str(), wait.retry_state.wait_reason()),
            ("5s", Some("draining"))
        );
    }

    #[test]
    fn what_steps_aside_for_its_slow_organisation_again_waits_as_long_as_it_is_old() {
        let (engine, incoming) = (engine(), incoming(Duration::from_mins(10), false));
        let mut run = CommandRun::open(&incoming, &engine).unwrap();
        let mut aside = || waits(run.without_call(NoCall::Refused(Refused::Crowded)));
        let (first, second) = (aside(), aside());
        assert_eq!((first.delay.name().as_str(), first.is_news), ("5s", true));
        assert_eq!((second.delay.name().as_str(), second.is_news), ("1m", false));
    }

    #[test]
    fn what_waits_for_a_throttled_organisation_carries_the_end_of_the_retry_after() {
        let (engine, incoming) = (engine(), incoming(Duration::ZERO, false));
        let mut run = CommandRun::open(&incoming, &engine).unwrap();
        let pause = Duration::from_secs(30);
        let not_before = waits(run.without_call(denied(SuspendReason::Throttled, Some(pause))))
            .retry_state
            .not_before;
        let left = not_before.unwrap().duration_since(Timestamp::now()).unsigned_abs();
        assert!(left <= pause && left > pause / 2, "{left:?}");
        let wait = waits(run.without_call(denied(SuspendReason::Unauthorized, None)));
        assert_eq!((wait.retry_state.not_before, wait.is_news), (None, true));
        assert!(
            !waits(run.without_call(denied(SuspendReason::Throttled, None))).is_news,
            "reported before"
        );
    }

    fn of_a_process(redelivered: bool) -> Incoming {
        let body = br#"{"org_id":"a","process_id":"p1"}"#.to_vec();
        Incoming { kind: Kind::ProcessDelete, body, ..incoming(Duration::ZERO, redelivered) }
    }

    #[tokio::test]
    async fn ambiguity_outlives_the_delivery_that_caused_it() {
        let engine = engine();
        for (incoming, expected) in [
            (of_a_process(true), true),
            (of_a_process(false), false),
            (incoming(Duration::ZERO, true), false),
        ] {
            let mut run = CommandRun::open(&incoming, &engine).ok().unwrap();
            let wait = waits(run.without_call(denied(SuspendReason::Failing, None)));
            assert_eq!(wait.retry_state.ambiguous, expected, "{incoming:?}");
        }
    }

    #[test]
    fn the_guard_counts_no_command_that_was_called_for_before_even_if_nothing_answered() {
        let engine = engine();
        let was_tried = |retry_state: RetryState| {
            let incoming = Incoming { retry_state, ..incoming(Duration::ZERO, false) };
            CommandRun::open(&incoming, &engine).ok().unwrap().was_tried()
        };
        let state = RetryState::default;
        assert!(was_tried(RetryState { calls: 1, ..state() }), "a refused connection");
        let purge_at = Some(Timestamp::now());
        assert!(was_tried(RetryState { purge_at, ..state() }), "archived, so admitted before");
        let history = Some("replayed".to_owned());
        assert!(!was_tried(RetryState { ambiguous: true, history, ..state() }));
        assert!(!was_tried(RetryState { calls: 3, is_dry_run: true, ..state() }));
        assert!(was_tried(RetryState { purge_at, is_dry_run: true, ..state() }));
    }

    #[test]
    fn a_drain_makes_no_archived_task_ambiguous_that_was_not_looked_at() {
        let engine = engine();
        let mut incoming = incoming(Duration::ZERO, false);
        incoming.retry_state.purge_at = Some(Timestamp::now());
        let mut run = CommandRun::open(&incoming, &engine).ok().unwrap();
        let wait = waits(run.without_call(NoCall::Refused(Refused::Stopped)));
        assert!(!wait.retry_state.ambiguous && wait.retry_state.purge_at.is_some());
    }

    #[tokio::test]
    async fn a_drain_makes_no_command_ambiguous_that_was_not_called_for() {
        let (engine, incoming) = (engine(), of_a_process(false));
        let mut run = CommandRun::open(&incoming, &engine).ok().unwrap();
        let wait = waits(run.without_call(NoCall::Refused(Refused::Stopped)));
        assert!(!wait.retry_state.ambiguous);
    }

    #[tokio::test]
    async fn a_dead_letter_of_a_redelivered_command_says_that_it_may_be_done() {
        let engine = engine();
        let dead = |incoming: &Incoming| {
            let mut run = CommandRun::open(incoming, &engine).ok().unwrap();
            match run.dead_letter(FailureReason::Forbidden, "HTTP 403") {
                Settlement::DeadLetter(outcome, retry_state) => {
                    (outcome.ambiguous, retry_state.ambiguous)
                }
                other => panic!("{other:?}"),
            }
        };
        for redelivered in [true, false] {
            let expected = (redelivered, redelivered);
            assert_eq!(dead(&incoming(Duration::ZERO, redelivered)), expected);
            assert_eq!(dead(&of_a_process(redelivered)), expected);
        }
        let late = br#"{"org_id":"a","task_id":"t1","not_after":"2020-01-01T00:00:00Z"}"#.to_vec();
        for (body, expected) in [(late, true), (b"no command".to_vec(), false)] {
            let refused = Incoming { body, ..incoming(Duration::ZERO, true) };
            let Err(Settlement::DeadLetter(outcome, _)) = CommandRun::open(&refused, &engine)
            else {
                panic!("refused");
            };
            assert_eq!(outcome.ambiguous, expected, "{:?}", outcome.failure);
        }
    }
}
