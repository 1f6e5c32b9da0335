//! The ends of a command without a call: a refusal, or a panic of the worker. And the outcome that
//! is reported for any end.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::call::Answered;
use super::engine::{Engine, millis};
use crate::messages::event::Failure;
use crate::messages::ledger::Decision;
use crate::messages::{Command, End, EndKind, FailureReason, Incoming, Outcome, RetryState};
use crate::policy::admission::{Refusal, age, first_seen};
use crate::policy::settlement::{Settlement, Wait};

const LONGEST_DETAIL: usize = 1024;

/// The dead letter of a command that may not be carried out. An earlier delivery may have been
/// carried out: it had not expired yet, say. A malformed command never was.
pub(super) fn refused(incoming: &Incoming, refusal: &Refusal, received: Instant) -> Settlement {
    let failure = Failure { reason: refusal.reason, detail: cut(&refusal.detail) };
    let may_be_done = incoming.redelivered && refusal.reason != FailureReason::Malformed;
    let ambiguous = incoming.retry_state.ambiguous || may_be_done;
    let retry_state = RetryState { ambiguous, ..incoming.retry_state.clone() };
    let end = EndKind::DeadLettered;
    let outcome =
        outcome(incoming, refusal.command.as_ref(), &retry_state, end, Some(failure), received);
    Settlement::DeadLetter(outcome, retry_state)
}

/// The dead letter of a command that the guard has held and a person has rejected.
pub fn rejected_by_a_person(incoming: &Incoming, decision: &Decision) -> Settlement {
    let why = decision.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let reason = FailureReason::GuardRejected;
    let failure = Failure { reason, detail: cut(&format!("rejected by {}{why}", decision.by)) };
    let command = Command::decode(incoming.kind, &incoming.body).ok();
    let retry_state = incoming.retry_state.clone();
    let end = EndKind::DeadLettered;
    let (failure, now) = (Some(failure), Instant::now());
    let outcome = outcome(incoming, command.as_ref(), &retry_state, end, failure, now);
    Settlement::DeadLetter(outcome, retry_state)
}

/// # A panic is not the fault of a command while its organisation is suspended
///
/// A call may have been made, so its result is in doubt and an attempt is used up. In an outage no
/// attempt is used up: another command, or the outage itself, may have caused the panic.
pub(super) fn after_a_panic(incoming: &Incoming, engine: &Engine) -> Settlement {
    let now = Timestamp::now();
    let command =
        Command::decode(incoming.kind, &incoming.body).ok().filter(|_| incoming.fault.is_none());
    let is_outage = command.as_ref().is_some_and(|command| {
        engine.permits.with(|access, _| access.is_outage(&command.target.org))
    });
    let attempts = incoming.retry_state.attempts.saturating_add(u32::from(!is_outage));
    let first_seen = Some(first_seen(incoming, now));
    let retry_state =
        RetryState { attempts, ambiguous: true, first_seen, ..incoming.retry_state.clone() };
    if attempts >= engine.schedule.max_attempts && !is_outage {
        let reason = FailureReason::AttemptsExhausted;
        let failure =
            Failure { reason, detail: "the worker panicked at its last attempt".to_owned() };
        let end = EndKind::DeadLettered;
        let outcome =
            outcome(incoming, command.as_ref(), &retry_state, end, Some(failure), Instant::now());
        return Settlement::DeadLetter(outcome, retry_state);
    }
    let delay = engine.schedule.postpone(age(incoming, now), Duration::ZERO);
    let command = command.map(|command| identity(incoming, command));
    Settlement::RetryLater(Wait { delay, retry_state, is_news: true, command })
}

/// The command's id and the command.
pub(super) fn identity(incoming: &Incoming, command: Command) -> (String, Command) {
    (Outcome::command_id(incoming, Some(&command)), command)
}

/// The reported outcome of a command.
pub(super) fn outcome(
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
        cancelled_by: None,
        request_id: retry_state.request_id.clone(),
    }
}

/// Why a command is dead-lettered after an answer, for a person.
pub(super) fn detail(incoming: &Incoming, reason: FailureReason, answered: &Answered) -> String {
    let last = answered.answer.describe();
    match reason {
        FailureReason::Expired => {
            let since = first_seen(incoming, answered.at.time);
            format!("older than MAX_AGE since {since}; last answer: {last}")
        }
        _ => last,
    }
}

/// At most [`LONGEST_DETAIL`] bytes, on one line: a header table over 128 KiB would close the
/// connection.
pub(super) fn cut(detail: &str) -> String {
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
