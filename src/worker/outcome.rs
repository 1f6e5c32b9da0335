//! The ends of a command without a call: a refusal, or a panic of the worker.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::call::Answered;
use super::engine::Engine;
use crate::messages::event::Failure;
use crate::messages::{Command, EndKind, FailureReason, Incoming, Outcome, RetryState};
use crate::policy::admission::{Refusal, age, first_seen};
use crate::policy::outcome::{cut, outcome};
use crate::policy::settlement::{Settlement, Wait};

/// The dead letter of a command that may not be carried out. An earlier delivery may have been
/// carried out: it had not expired yet, say. A malformed command never was.
pub(super) fn refused(incoming: &Incoming, refusal: &Refusal, received: Instant) -> Settlement {
    let failure = Failure { reason: refusal.reason, detail: cut(&refusal.detail) };
    let may_be_done = incoming.redelivered && refusal.reason != FailureReason::Malformed;
    let ambiguous = incoming.retry_state.ambiguous || may_be_done;
    let retry_state = RetryState { ambiguous, ..incoming.retry_state.clone() };
    let end = EndKind::DeadLettered;
    let (command, failure, took) = (refusal.command.as_ref(), Some(failure), received.elapsed());
    let outcome = outcome(incoming, command, &retry_state, end, failure, took);
    Settlement::DeadLetter(outcome, retry_state)
}

/// # A panic is not the fault of a command while its organisation is suspended
///
/// A call may have been made, so its result is ambiguous and an attempt is used up. In an outage no
/// attempt is used up: another command, or the outage itself, may have caused the panic.
pub(super) fn after_a_panic(incoming: &Incoming, engine: &Engine) -> Settlement {
    let now = Timestamp::now();
    let command = Command::decode(incoming.kind, &incoming.body).ok();
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
        let (failure, took) = (Some(failure), Duration::ZERO);
        let outcome = outcome(incoming, command.as_ref(), &retry_state, end, failure, took);
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
