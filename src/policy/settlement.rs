//! How one delivery is settled at the broker, as data. `worker::settle` carries it out.

use jiff::Timestamp;

use super::admission::first_seen;
use super::retry_schedule::RetryDelay;
use super::verdict::Verdict;
use crate::messages::{
    Command, DryRun, HeaderValue, Incoming, Outcome, Pending, Publication, RetryState, names,
};

/// A wait in a delay queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Wait {
    /// For how long.
    pub delay: RetryDelay,
    /// The progress of the command, with the reason for the wait.
    pub retry_state: RetryState,
    /// It has not waited for this reason before, which is worth a log line.
    pub is_news: bool,
    /// The command's id and the command, if it could be read.
    pub command: Option<(String, Command)>,
}

impl Wait {
    /// The age of a command stands still while it waits because an operator has paused it.
    fn count_from(&self, first_seen: Timestamp) -> Timestamp {
        if self.retry_state.wait_reason() != Some(PAUSED) {
            return first_seen;
        }
        first_seen.saturating_add(self.delay.wait()).unwrap_or(Timestamp::MAX)
    }
}

/// Why a command waits while an operator has paused it.
pub const PAUSED: &str = "paused";

/// Why a command waits after such an answer: the word of the suspension that follows, if any.
pub fn wait_reason(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Throttled => "throttled",
        Verdict::Unauthorized => "unauthorized",
        Verdict::Misdirected | Verdict::NotReached | Verdict::UnverifiedAbsence => "misdirected",
        _ => "failing",
    }
}

/// The disposition of one delivery. Every path through `worker::handle` ends in one.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a delivery without a settlement stays unacknowledged until the connection ends"]
pub enum Settlement {
    /// The task is gone: publish the event.
    Finish(Outcome),
    /// An attempt has failed and is used up: wait in a delay queue.
    RetryLater(Wait),
    /// Not the command's fault: wait in a delay queue, with no attempt used up.
    Postpone(Wait),
    /// It cannot succeed: dead letter and event.
    DeadLetter(Outcome, RetryState),
    /// It cannot be published again, so RabbitMQ itself moves it on unchanged; with the event, if
    /// there is one.
    Reject(Option<Outcome>),
    /// A dry run has looked at the object: publish the event that says what would have happened.
    DryRun(DryRun),
    /// The task is archived: publish a copy that comes back when the undo window ends, and the
    /// event.
    Undo(Pending, RetryState),
    /// The guard has tripped: hold it until a person decides.
    Hold(RetryState),
    /// Not started: requeue it.
    Requeue,
}

impl Settlement {
    /// The messages to publish and have confirmed, in this order, before the delivery is
    /// acknowledged.
    pub fn publications<'a>(&self, incoming: &'a Incoming, now: Timestamp) -> Vec<Publication<'a>> {
        let first_seen = first_seen(incoming, now);
        match self {
            Self::Finish(outcome) | Self::Reject(Some(outcome)) => {
                vec![event(outcome, incoming, now)]
            }
            Self::RetryLater(wait) | Self::Postpone(wait) => {
                let first_seen = wait.count_from(first_seen);
                vec![Publication::waiting_copy(
                    incoming,
                    incoming.kind.delay_queue(&wait.delay.name()),
                    &wait.retry_state,
                    first_seen,
                )]
            }
            Self::DeadLetter(outcome, retry_state) => {
                let why = outcome
                    .failure
                    .as_ref()
                    .map_or(("", ""), |f| (f.reason.as_str(), f.detail.as_str()));
                let failed_at = incoming.failed_at.unwrap_or(now);
                vec![
                    Publication::dead_letter(incoming, retry_state, first_seen, why, failed_at),
                    event(outcome, incoming, now),
                ]
            }
            Self::Hold(retry_state) => {
                vec![Publication::held_copy(incoming, retry_state, first_seen, now)]
            }
            Self::Undo(pending, retry_state) => {
                // Its age counts from the moment when it is due to be deleted.
                let first_seen = retry_state.purge_at.unwrap_or(now);
                let queue = incoming.kind.undo_queue();
                vec![
                    Publication::waiting_copy(incoming, queue, retry_state, first_seen),
                    pending.event(incoming, now),
                ]
            }
            Self::DryRun(dry_run) => vec![dry_run.event(incoming, now)],
            Self::Reject(None) | Self::Requeue => Vec::new(),
        }
    }

    /// The dead letter that RabbitMQ makes from a command that it moves itself, without the body.
    /// For the mirror, which RabbitMQ does not write to.
    pub fn moved_by_rabbitmq<'a>(
        &self,
        incoming: &'a Incoming,
        now: Timestamp,
    ) -> Option<Publication<'a>> {
        let Self::Reject(Some(outcome)) = self else { return None };
        let failure = outcome.failure.as_ref()?;
        let why = (failure.reason.as_str(), failure.detail.as_str());
        let first_seen = first_seen(incoming, now);
        let moved = Publication::dead_letter(incoming, &incoming.retry_state, first_seen, why, now);
        let fault = "the body is in the queue alone: it is too large for a command".to_owned();
        let mut headers = moved.headers;
        headers.push((names::X_UNREADABLE, HeaderValue::Text(fault)));
        Some(Publication { headers, ..moved })
    }

    /// Whether the command has come to its end.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Finish(_) | Self::DeadLetter(..) | Self::Reject(Some(_)) | Self::DryRun(_)
        )
    }

    /// Why the command failed, if this is its end and a failure: the word that spans and metrics
    /// use.
    pub fn error_type(&self) -> Option<&'static str> {
        match self {
            Self::Finish(outcome) | Self::DeadLetter(outcome, _) | Self::Reject(Some(outcome)) => {
                outcome.failure.as_ref().map(|failure| failure.reason.as_str())
            }
            Self::Reject(None) => Some("oversized"),
            _ => None,
        }
    }

    /// The word that metrics and logs use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Finish(outcome) | Self::DeadLetter(outcome, _) | Self::Reject(Some(outcome)) => {
                outcome.outcome.as_str()
            }
            Self::Reject(None) => "oversized",
            Self::RetryLater(..) => "retry_later",
            Self::Postpone(..) => "postponed",
            Self::DryRun(_) => "dry_run",
            Self::Undo(..) => "pending",
            Self::Hold(_) => "held",
            Self::Requeue => "returned",
        }
    }
}

fn event<'a>(outcome: &Outcome, incoming: &'a Incoming, now: Timestamp) -> Publication<'a> {
    let id = outcome.event_id();
    let body = outcome.event_body(&id, now);
    Publication::event(incoming, outcome.outcome.event_type(), id, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::event::{Failure, samples};
    use crate::messages::{EndKind, FailureReason};
    use crate::policy::retry_schedule::RetryDelays;
    use std::sync::LazyLock;
    use std::time::Duration;

    const NOW: &str = "2026-11-23T10:00:00Z";
    static COMMAND: LazyLock<Incoming> =
        LazyLock::new(|| Incoming { body: b"as it came".to_vec(), ..Incoming::default() });

    fn dead() -> Settlement {
        let failure = Some(Failure { reason: FailureReason::Rejected, detail: "HTTP 422".into() });
        let outcome = Outcome { failure, ..samples::outcome(EndKind::DeadLettered) };
        Settlement::DeadLetter(outcome, RetryState::default())
    }

    fn waits() -> [Settlement; 2] {
        let delay = RetryDelays::new(vec![Duration::from_secs(5)]).unwrap().all()[0];
        let retry_state = RetryState { attempts: 2, ..RetryState::default() };
        let wait = Wait { delay, retry_state, is_news: true, command: None };
        [Settlement::RetryLater(wait.clone()), Settlement::Postpone(wait)]
    }

    fn published(settlement: &Settlement) -> Vec<Publication<'static>> {
        settlement.publications(&COMMAND, NOW.parse().unwrap())
    }

    fn addresses(settlement: &Settlement) -> Vec<String> {
        published(settlement).iter().map(|p| format!("{} {}", p.exchange, p.routing_key)).collect()
    }

    #[test]
    fn each_settlement_publishes_its_part_and_a_dead_letter_comes_before_its_event() {
        for end in [EndKind::Done, EndKind::AlreadyAbsent] {
            assert_eq!(
                addresses(&Settlement::Finish(samples::outcome(end))),
                ["task.events task.deleted"]
            );
        }
        assert_eq!(
            addresses(&dead()),
            ["task.dlx task.delete.dead", "task.events task.delete_failed"]
        );
        for wait in waits() {
            assert_eq!(addresses(&wait), ["task.retry task.delete.wait.5s"]);
            assert_eq!(&*published(&wait)[0].body, b"as it came");
        }
        assert_eq!(published(&Settlement::Requeue), []);
    }

    #[test]
    fn the_age_of_a_command_stands_still_while_its_organisation_is_paused() {
        let first_seen = |reason: &str| {
            let delay = RetryDelays::new(vec![Duration::from_secs(5)]).unwrap().all()[0];
            let mut retry_state = RetryState::default();
            retry_state.note_wait(reason);
            let wait = Wait { delay, retry_state, is_news: true, command: None };
            let headers = published(&Settlement::Postpone(wait)).remove(0).headers;
            headers.into_iter().find_map(|(name, value)| (name == "x-first-seen").then_some(value))
        };
        let at = |time: &str| Some(HeaderValue::Text(time.to_owned()));
        assert_eq!(first_seen("failing"), at("2026-11-23T10:00:00.000Z"));
        assert_eq!(first_seen(PAUSED), at("2026-11-23T10:00:05.000Z"));
    }

    #[test]
    fn an_event_is_known_by_the_id_of_its_end() {
        let outcome = samples::outcome(EndKind::Done);
        let event = &published(&Settlement::Finish(outcome.clone()))[0];
        assert_eq!(event.message_id, Some(outcome.event_id()));
        assert_eq!(event.body, outcome.event_body(&outcome.event_id(), NOW.parse().unwrap()));
    }

    #[test]
    fn a_settlement_has_one_word() {
        let finish = Settlement::Finish(samples::outcome(EndKind::AlreadyAbsent));
        let [retry, postpone] = waits();
        let words = [finish, dead(), retry, postpone, Settlement::Requeue]
            .map(|settlement| settlement.as_str());
        assert_eq!(
            words,
            ["already_absent", "dead_lettered", "retry_later", "postponed", "returned"]
        );
    }
}
