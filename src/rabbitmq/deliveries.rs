//! The broker's deliveries to the consumers of some kinds, as plain data.

use std::future::ready;

use futures_util::stream::{BoxStream, SelectAll, once};
use futures_util::{Stream, StreamExt};
use lapin::BasicProperties;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::acks::Acknowledger;
use super::broker_error::BrokerError;
use super::cause;
use super::connection::in_time;
use super::delivery::Delivery;
use super::envelope::{self, X_UNREADABLE};
use super::own_user::Trust;
use crate::kind::Kind;
use crate::messages::{Cause, Incoming, RetryState, Undeliverable, names};

/// A delivery or an error from the consumer of a kind, or its end.
type Event = (Kind, Option<lapin::Result<lapin::message::Delivery>>);

/// Which queue of a kind is consumed, and how its messages are read.
pub(super) struct Source<M> {
    queue: fn(Kind) -> String,
    read: fn(Kind, &BasicProperties, Incoming) -> M,
    /// Whether only a worker can have published a message.
    is_of_a_worker: fn(Kind, &BasicProperties) -> bool,
}

/// The work queues.
pub(super) const COMMANDS: Source<Incoming> = Source {
    queue: |kind| kind.queue().to_owned(),
    read: |_, properties, incoming| command(properties, incoming),
    is_of_a_worker: |_, _| false,
};

/// The commands that RabbitMQ itself removed from the work queues.
pub(super) const UNDELIVERABLE: Source<Undeliverable> = Source {
    queue: Kind::undeliverable_queue,
    read: |kind, properties, incoming| {
        let cause = cause::read(kind, properties);
        let failed_at = cause.failed_at();
        Undeliverable { incoming: Incoming { failed_at, ..incoming }, cause }
    },
    // An older worker's dead letters also come this way and have no user id.
    is_of_a_worker: |kind, properties| {
        matches!(cause::read(kind, properties), Cause::Written { .. })
    },
};

/// The consumers of some kinds, one for each.
pub struct Deliveries<M = Incoming> {
    consumers: SelectAll<BoxStream<'static, Event>>,
    tags: Vec<ShortString>,
    acknowledger: Acknowledger,
    source: Source<M>,
    trust: Trust,
}

impl<M> Deliveries<M> {
    pub(super) async fn begin(
        acknowledger: &Acknowledger,
        source: Source<M>,
        kinds: &[Kind],
        prefetch: u16,
        trust: Trust,
    ) -> Result<Self, BrokerError> {
        let channel = acknowledger.channel();
        let (mut consumers, mut tags) = (SelectAll::new(), Vec::new());
        for kind in kinds.iter().copied() {
            let queue = (source.queue)(kind);
            let failed = |source| BrokerError::Consume { queue: queue.clone(), source };
            // Set before consuming: nothing else bounds lapin's own buffer.
            let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
            in_time(qos).await.map_err(failed)?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer =
                channel.basic_consume(queue.as_str().into(), "".into(), options, arguments);
            let consumer = in_time(consumer).await.map_err(failed)?;
            tags.push(consumer.tag());
            consumers.push(events(kind, consumer).boxed());
        }
        Ok(Self { consumers, tags, acknowledger: acknowledger.clone(), source, trust })
    }

    /// The next one.
    ///
    /// # Errors
    /// [`BrokerError::Lost`], or [`BrokerError::ConsumerEnded`] as soon as one of the consumers has
    /// ended: the others would continue without it, and nobody would notice.
    pub async fn next(&mut self) -> Result<Delivery<M>, BrokerError> {
        match self.consumers.next().await {
            Some((kind, Some(delivery))) => {
                delivery.map(|delivery| self.read(kind, delivery)).map_err(BrokerError::Lost)
            }
            Some((kind, None)) => {
                Err(BrokerError::ConsumerEnded { queue: (self.source.queue)(kind) })
            }
            None => Err(BrokerError::ConsumerEnded { queue: "any queue".to_owned() }),
        }
    }

    /// Asks the broker to stop delivering, and returns the deliveries that it had already sent.
    ///
    /// # Errors
    /// [`BrokerError::Lost`]: the channel is gone, or there was no answer in time.
    pub async fn cancel(self) -> Result<Prefetched<M>, BrokerError> {
        for tag in &self.tags {
            let cancelled = self
                .acknowledger
                .channel()
                .basic_cancel(tag.clone(), BasicCancelOptions::default());
            in_time(cancelled).await.map_err(BrokerError::Lost)?;
        }
        Ok(Prefetched(self))
    }

    fn read(&self, kind: Kind, delivery: lapin::message::Delivery) -> Delivery<M> {
        let redelivered = delivery.redelivered;
        Delivery::new(delivery, &self.acknowledger, |message, body| {
            let is_trusted = self.trust.believes(message);
            let believed = is_trusted || (self.source.is_of_a_worker)(kind, message);
            let mut incoming = incoming((kind, redelivered), message, body, believed);
            if !is_trusted {
                // Who published it is only what the broker has validated.
                incoming.properties.published_by =
                    message.user_id().as_ref().map(ToString::to_string);
            }
            (self.source.read)(kind, message, incoming)
        })
    }
}

/// The deliveries that the broker had sent before it was told to stop.
pub struct Prefetched<M = Incoming>(Deliveries<M>);

impl<M> Prefetched<M> {
    /// The next one, until all consumers have ended or the channel is gone.
    pub async fn next(&mut self) -> Option<Delivery<M>> {
        loop {
            match self.0.consumers.next().await? {
                (kind, Some(Ok(delivery))) => return Some(self.0.read(kind, delivery)),
                (_, Some(Err(_))) => return None,
                (_, None) => {}
            }
        }
    }
}

/// A consumer's deliveries, and its end.
fn events(kind: Kind, consumer: lapin::Consumer) -> impl Stream<Item = Event> {
    let end = once(ready((kind, None)));
    consumer.map(move |delivery| (kind, Some(delivery))).chain(end)
}

/// # A dead letter that was moved back to its work queue starts again
///
/// A shovel keeps its headers and the worker's user. It is treated like a replay: nothing of it was
/// tried, so the guard counts it.
fn command(properties: &BasicProperties, incoming: Incoming) -> Incoming {
    let is_dead_letter = [names::X_FAILED_AT, names::X_FAILURE_REASON]
        .into_iter()
        .any(|name| envelope::text(properties, name).is_some());
    if !is_dead_letter || incoming.retry_state == RetryState::default() {
        return incoming;
    }
    let RetryState { ambiguous, history, .. } = incoming.retry_state;
    let history = history.or_else(|| Some("moved back from the dead letters".to_owned()));
    let retry_state = RetryState { ambiguous, history, ..RetryState::default() };
    Incoming { retry_state, ..incoming }
}

/// A message as plain data, with the content of our own headers if they are `believed`.
pub(super) fn incoming(
    (kind, redelivered): (Kind, bool),
    message: &BasicProperties,
    body: Vec<u8>,
    believed: bool,
) -> Incoming {
    let (properties, retry_state) = envelope::read(message, believed);
    let fault = envelope::text(message, X_UNREADABLE);
    let is_oversized = envelope::is_oversized(message);
    Incoming {
        kind,
        body,
        properties,
        retry_state,
        fault,
        is_oversized,
        redelivered,
        failed_at: None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::messages::Publication;

    #[test]
    fn a_dead_letter_that_was_moved_back_to_its_work_queue_starts_again() {
        let now = Timestamp::UNIX_EPOCH;
        let retry_state = RetryState {
            attempts: 20,
            calls: 20,
            ambiguous: true,
            last_status: Some(503),
            first_seen: Some(now),
            ..RetryState::default()
        };
        let original = Incoming::default();
        let read = |publication: &Publication<'_>| {
            let message = envelope::write(publication, "worker");
            let incoming = incoming((Kind::TaskDelete, false), &message, Vec::new(), true);
            (COMMANDS.read)(Kind::TaskDelete, &message, incoming).retry_state
        };
        let why = ("attempts_exhausted", "HTTP 503");
        let moved = read(&Publication::dead_letter(&original, &retry_state, now, why, now));
        assert!(moved.ambiguous && moved.history.is_some());
        let rest = RetryState { ambiguous: false, history: None, ..moved };
        assert_eq!(rest, RetryState::default());
        let waiting = Publication::waiting_copy(&original, "q".into(), &retry_state, now);
        assert_eq!(read(&waiting), retry_state);
    }
}
