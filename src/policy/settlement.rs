//! What the broker must be told about one delivery, as data. `worker::settle` carries it out.

use jiff::Timestamp;

use super::admission::first_seen;
use super::retry_schedule::Rung;
use crate::messages::{Incoming, Outcome, Progress, Publication};

/// The fate of one delivery. Every path through `worker::handle` ends in one.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a delivery without a settlement stays unacknowledged until the connection ends"]
pub enum Settlement {
    /// The task is gone: publish the event.
    Finish(Outcome),
    /// An attempt has failed: wait in a queue, one attempt poorer.
    RetryLater(Rung, Progress),
    /// Nothing that is the command's fault: wait in a queue, no attempt spent.
    Postpone(Rung, Progress),
    /// It cannot succeed: dead letter and event.
    DeadLetter(Outcome, Progress),
    /// Not begun: back to the work queue.
    Return,
}

impl Settlement {
    /// What must be published and confirmed, in this order, before the delivery is acknowledged.
    pub fn publications(&self, incoming: &Incoming, now: Timestamp) -> Vec<Publication> {
        let first_seen = first_seen(incoming, now);
        match self {
            Self::Finish(outcome) => vec![event(outcome, incoming, now)],
            Self::RetryLater(rung, progress) | Self::Postpone(rung, progress) => {
                vec![Publication::waiting_copy(incoming, rung.queue(), progress, first_seen)]
            }
            Self::DeadLetter(outcome, progress) => {
                let why =
                    outcome.failure.as_ref().map_or(("", ""), |f| (f.reason.as_str(), f.detail.as_str()));
                vec![
                    Publication::dead_letter(incoming, progress, first_seen, why, now),
                    event(outcome, incoming, now),
                ]
            }
            Self::Return => Vec::new(),
        }
    }

    /// The word that metrics and logs use.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Finish(outcome) | Self::DeadLetter(outcome, _) => outcome.outcome.as_str(),
            Self::RetryLater(..) => "retry_later",
            Self::Postpone(..) => "postponed",
            Self::Return => "returned",
        }
    }
}

fn event(outcome: &Outcome, incoming: &Incoming, now: Timestamp) -> Publication {
    let id = outcome.event_id();
    let body = outcome.event_body(&id, now);
    Publication::event(incoming, outcome.outcome.event_type(), id, body)
}
