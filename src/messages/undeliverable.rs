//! A message that reached the dead letters without a worker's publish: who put it there, and why.
//! Plain data.

use jiff::Timestamp;

use super::Incoming;
use super::event::Failure;
use super::failure_reason::FailureReason;

/// One delivery from a queue of undeliverable commands.
#[derive(Debug, Clone)]
pub struct Undeliverable {
    /// The command, as it was in its work queue.
    pub incoming: Incoming,
    pub cause: Cause,
}

/// Why a message is among the dead letters, as far as its headers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// RabbitMQ removed it from its queue, for this reason (RabbitMQ's own word).
    Moved(String),
    /// A worker recorded it.
    Written { reason: String, detail: String, failed_at: Option<Timestamp> },
    /// No header says so.
    Unknown,
}

impl Cause {
    /// The reason and the detail of the dead letter and of its event. `too_large` is set for a body
    /// that is too large for a command; a worker lets RabbitMQ move that one.
    pub fn failure(&self, too_large: Option<&str>) -> Failure {
        let (reason, detail) = match self {
            Self::Moved(word) => match word.as_str() {
                "delivery_limit" => (
                    FailureReason::Poison,
                    "RabbitMQ moved it: it was delivered again and again, and never acknowledged (delivery_limit)".to_owned(),
                ),
                "expired" => (
                    FailureReason::ExpiredInQueue,
                    "RabbitMQ moved it: its expiration passed before a worker had it".to_owned(),
                ),
                _ if too_large.is_some() => {
                    (FailureReason::Malformed, too_large.unwrap_or_default().to_owned())
                }
                word => {
                    (FailureReason::Undeliverable, format!("RabbitMQ moved it, for: {word}"))
                }
            },
            Self::Written { reason, detail, .. } => (
                FailureReason::named(reason).unwrap_or(FailureReason::Undeliverable),
                detail.clone(),
            ),
            Self::Unknown => (
                FailureReason::Undeliverable,
                "neither RabbitMQ nor a worker has written down why it is here".to_owned(),
            ),
        };
        Failure { reason, detail }
    }

    /// When it failed, if a worker has recorded that.
    pub fn failed_at(&self) -> Option<Timestamp> {
        match self {
            Self::Written { failed_at, .. } => *failed_at,
            Self::Moved(_) | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rabbitmq_moved_has_a_reason_of_its_own_and_never_one_of_the_api() {
        let reason = |cause: Cause| cause.failure(None).reason.as_str();
        let moved = |word: &str| reason(Cause::Moved(word.to_owned()));
        assert_eq!(moved("delivery_limit"), "poison");
        assert_eq!(moved("expired"), "expired_in_queue");
        assert_eq!(moved("rejected"), "undeliverable", "the API has refused nothing");
        assert_eq!(reason(Cause::Unknown), "undeliverable");
        let large = Cause::Moved("rejected".to_owned()).failure(Some("its body has 65537 bytes"));
        assert_eq!(large.reason.as_str(), "malformed");
        assert_eq!(large.detail, "its body has 65537 bytes");
    }

    #[test]
    fn what_a_worker_wrote_down_stays_as_it_is() {
        let written = |reason: &str| {
            let (reason, detail) = (reason.to_owned(), "HTTP 403".to_owned());
            Cause::Written { reason, detail, failed_at: None }.failure(None)
        };
        let known = written("forbidden");
        assert_eq!((known.reason.as_str(), known.detail.as_str()), ("forbidden", "HTTP 403"));
        assert_eq!(written("boredom").reason.as_str(), "undeliverable");
    }
}
