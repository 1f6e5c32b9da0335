//! Dead letters: fetched one by one, from the broker library's types to plain data, and removed only when told to.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::AMQPValue;

use super::broker_error::BrokerError;
use super::connection::Connection;
use super::delivery::Delivery;
use super::envelope::{self, X_UNREADABLE};
use super::queue_reader::QueueReader;
use crate::kind::Kind;
use crate::messages::{DeadLetter, names};

/// Fetches the dead letters of a kind one by one. They go back to their queue when the reader ends, unless they were acknowledged.
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

    /// Fetches the next dead letter, if there is one, and says how many are left behind it.
    ///
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub async fn next(&self) -> Result<Option<(Delivery<DeadLetter>, u32)>, BrokerError> {
        self.queue
            .next(|properties: &BasicProperties, body| read(self.kind, properties, body))
            .await
    }

    /// How many lie ready in the queue; `None` if the broker does not say.
    pub async fn ready(&self) -> Option<u32> {
        self.queue.ready().await
    }

    /// Puts back all that was fetched and not settled, and closes the channel.
    pub async fn close(self) {
        self.queue.close().await;
    }
}

fn read(kind: Kind, message: &BasicProperties, body: Vec<u8>) -> DeadLetter {
    let (properties, retry_state) = envelope::read(message);
    let text = |name: &str| envelope::text(message, name);
    let fault = text(X_UNREADABLE);
    let time = text(names::X_FAILED_AT).and_then(|time| time.parse().ok());
    let (reason, detail) = match text(names::X_FAILURE_REASON) {
        Some(reason) => (reason, text(names::X_FAILURE_DETAIL).unwrap_or_default()),
        None => (names::POISON.to_owned(), moved_by_the_broker(message)),
    };
    let failed_at = time.or_else(|| moved_at(message));
    DeadLetter { kind, body, properties, retry_state, reason, detail, failed_at, fault }
}

fn moved_by_the_broker(message: &BasicProperties) -> String {
    let why =
        envelope::text(message, "x-first-death-reason").unwrap_or_else(|| "unknown".to_owned());
    format!("RabbitMQ itself moved it here, for: {why}")
}

/// `x-death` is a list of tables, the latest first; whole seconds.
fn moved_at(message: &BasicProperties) -> Option<Timestamp> {
    let AMQPValue::FieldArray(deaths) = message.headers().as_ref()?.inner().get("x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    let AMQPValue::Timestamp(seconds) = death.inner().get("time")? else { return None };
    Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Properties, RetryState};
    use lapin::types::{FieldArray, FieldTable};

    #[test]
    fn a_letter_is_the_same_after_it_was_published_again() {
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
        assert_eq!(read(Kind::TagDelete, &envelope::write(&copy), copy.body.to_vec()), dead_letter);
    }

    #[test]
    fn what_the_broker_moved_is_poison_and_died_when_it_was_moved() {
        let (mut death, mut headers) = (FieldTable::default(), FieldTable::default());
        death.insert("time".into(), AMQPValue::Timestamp(1_800_000_000));
        let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        headers
            .insert("x-first-death-reason".into(), AMQPValue::LongString("delivery_limit".into()));
        let dead_letter =
            read(Kind::TaskDelete, &BasicProperties::default().with_headers(headers), Vec::new());
        assert_eq!(
            (dead_letter.reason.as_str(), dead_letter.failed_at),
            ("poison", Timestamp::from_second(1_800_000_000).ok())
        );
        assert!(dead_letter.detail.contains("delivery_limit"), "{}", dead_letter.detail);
    }
}
