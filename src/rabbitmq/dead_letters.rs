//! Fetches dead letters one by one, converts them from the broker library's types to plain data,
//! and removes them only on request.

use lapin::BasicProperties;

use super::broker_error::BrokerError;
use super::cause;
use super::connection::Connection;
use super::delivery::Delivery;
use super::envelope::{self, X_UNREADABLE};
use super::queue_reader::QueueReader;
use crate::kind::Kind;
use crate::messages::event::Failure;
use crate::messages::{Cause, DeadLetter, Malformed};

/// Fetches the dead letters of a kind one by one. Unacknowledged ones go back to their queue when
/// the reader ends.
pub struct DeadLetterReader {
    kind: Kind,
    queue: QueueReader,
}

impl DeadLetterReader {
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub async fn open(connection: &Connection, kind: Kind) -> Result<Self, BrokerError> {
        Ok(Self { kind, queue: QueueReader::open(connection, kind.dead_letter_queue()).await? })
    }

    /// Fetches the next dead letter, if there is one, with the number of those behind it.
    ///
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub async fn next(&mut self) -> Result<Option<(Delivery<DeadLetter>, u32)>, BrokerError> {
        let kind = self.kind;
        self.queue.next(|properties: &BasicProperties, body| read(kind, properties, body)).await
    }

    /// A copy of one of them is in the queue.
    pub fn is_copied(&mut self) {
        self.queue.is_copied();
    }

    /// Those that RabbitMQ has delivered although they were not fetched.
    pub fn ahead(&mut self) -> Vec<Delivery<DeadLetter>> {
        let kind = self.kind;
        self.queue.ahead(|properties: &BasicProperties, body| read(kind, properties, body))
    }

    /// Requeues everything fetched but not settled, and closes the channel.
    pub async fn close(self) {
        self.queue.close().await;
    }
}

pub(super) fn read(kind: Kind, message: &BasicProperties, body: Vec<u8>) -> DeadLetter {
    let fault = envelope::text(message, X_UNREADABLE);
    let cause = cause::read(kind, message);
    // Only workers and operators can publish there. A message that RabbitMQ moved may have its
    // producer's headers.
    let believed = !matches!(cause, Cause::Moved(_));
    let (properties, retry_state) = envelope::read(message, believed);
    let failed_at = cause.failed_at().or_else(|| cause::moved_at(message));
    let (reason, detail) = match cause {
        // A reason that only another version knows is shown unchanged.
        Cause::Written { reason, detail, .. } => (reason, detail),
        other => {
            let too_large = Malformed::too_large(&body).map(|malformed| malformed.to_string());
            let Failure { reason, detail } = other.failure(too_large.as_deref());
            (reason.as_str().to_owned(), detail)
        }
    };
    DeadLetter { kind, body, properties, retry_state, reason, detail, failed_at, fault }
}

#[cfg(test)]
mod tests {
    use super::super::cause::samples::moved;
    use super::*;
    use crate::messages::{Properties, RetryState, names};
    use jiff::Timestamp;

    #[test]
    fn a_dead_letter_is_the_same_after_it_was_published_again() {
        let text = |text: &str| Some(text.to_owned());
        let properties = Properties {
            message_id: text("m"),
            correlation_id: text("c"),
            content_type: text("application/json"),
            traceparent: text("00-1-2-01"),
            tracestate: text("a=b"),
            published_by: text("billing"),
        };
        let retry_state = RetryState {
            attempts: 7,
            calls: 9,
            ambiguous: true,
            first_seen: "2026-11-23T10:00:00Z".parse().ok(),
            last_status: Some(503),
            wait_reasons: None,
            history: text("died of expired; replayed by ann"),
            ..RetryState::default()
        };
        let dead_letter = DeadLetter {
            kind: Kind::TagDelete,
            body: b"\xff\x00".to_vec(),
            properties,
            retry_state,
            reason: "attempts_exhausted".to_owned(),
            detail: "HTTP 503".to_owned(),
            failed_at: "2026-11-23T10:05:00.123Z".parse().ok(),
            fault: None,
        };
        let copy = dead_letter.again();
        assert_eq!(
            read(Kind::TagDelete, &envelope::write(&copy, "operator"), copy.body.to_vec()),
            dead_letter
        );
    }

    #[test]
    fn what_the_broker_moved_is_poison_and_died_when_it_was_moved_whatever_its_headers_say() {
        let forged = [
            (names::X_FAILURE_REASON, "forbidden"),
            (names::X_FAILURE_DETAIL, "says who?"),
            (names::X_FAILED_AT, "2099-01-01T00:00:00Z"),
        ];
        let message = moved(&[("task.delete", "delivery_limit")], &forged);
        let dead_letter = read(Kind::TaskDelete, &message, Vec::new());
        assert_eq!(
            (dead_letter.reason.as_str(), dead_letter.failed_at),
            ("poison", Timestamp::from_second(1_800_000_000).ok())
        );
        assert!(dead_letter.detail.contains("delivery_limit"), "{}", dead_letter.detail);
    }
}
