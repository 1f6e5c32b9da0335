//! The outcome that is reported for the end of a command.

use std::time::Duration;

use super::settlement::Settlement;
use crate::messages::event::Failure;
use crate::messages::ledger::Decision;
use crate::messages::{
    Command, End, EndKind, EventSubject, FailureReason, Incoming, Outcome, RetryState,
};

const LONGEST_DETAIL: usize = 1024;

/// The reported outcome of a command.
pub(crate) fn outcome(
    incoming: &Incoming,
    command: Option<&Command>,
    retry_state: &RetryState,
    end: EndKind,
    failure: Option<Failure>,
    took: Duration,
) -> Outcome {
    Outcome {
        command_id: Outcome::command_id(incoming, command),
        target: command.map(|command| command.target.clone()),
        subject: EventSubject::of(incoming.kind, command, &incoming.body),
        outcome: End { kind: incoming.kind, how: end },
        attempts: retry_state.attempts,
        ambiguous: retry_state.ambiguous,
        verified: true,
        http_status: retry_state.last_status,
        requested_by: command.and_then(|command| command.requested_by.clone()),
        reason: command.and_then(|command| command.reason.clone()),
        published_by: incoming.properties.published_by.clone(),
        duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        failure,
        cancelled_by: None,
        request_id: retry_state.request_id.clone(),
    }
}

/// The dead letter of a command that the guard has held and a person has rejected.
pub(crate) fn rejected_by_a_person(incoming: &Incoming, decision: &Decision) -> Settlement {
    let why = decision.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let reason = FailureReason::GuardRejected;
    let failure = Failure { reason, detail: cut(&format!("rejected by {}{why}", decision.by)) };
    let command = Command::decode(incoming.kind, &incoming.body).ok();
    let retry_state = incoming.retry_state.clone();
    let end = EndKind::DeadLettered;
    let (failure, took) = (Some(failure), Duration::ZERO);
    let outcome = outcome(incoming, command.as_ref(), &retry_state, end, failure, took);
    Settlement::DeadLetter(outcome, retry_state)
}

/// At most [`LONGEST_DETAIL`] bytes, on one line: a header table over 128 KiB would close the
/// connection.
pub(crate) fn cut(detail: &str) -> String {
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
