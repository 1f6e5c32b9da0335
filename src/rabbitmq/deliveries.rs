//! What the broker delivers to the consumers of some kinds, as plain data.

use std::future::ready;
use std::sync::Arc;

use futures_util::stream::{BoxStream, SelectAll, once};
use futures_util::{Stream, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel};

use super::broker_error::BrokerError;
use super::connection::in_time;
use super::delivery::Delivery;
use super::envelope::{self, X_UNREADABLE};
use crate::kind::Kind;
use crate::messages::Incoming;

/// A delivery or an error of the consumer of a kind, or its end.
type Event = (Kind, Option<lapin::Result<lapin::message::Delivery>>);

/// The consumers of some kinds, one for each.
pub struct Deliveries {
    consumers: SelectAll<BoxStream<'static, Event>>,
    tags: Vec<ShortString>,
    channel: Arc<Channel>,
}

impl Deliveries {
    pub(super) async fn begin(
        channel: &Arc<Channel>,
        kinds: &[Kind],
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let (mut consumers, mut tags) = (SelectAll::new(), Vec::new());
        for kind in kinds.iter().copied() {
            let failed = |source| BrokerError::Consume { queue: kind.queue(), source };
            // Before consuming: lapin's own buffer has no bound but this one.
            let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
            in_time(qos).await.map_err(failed)?;
            let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer =
                channel.basic_consume(kind.queue().into(), "".into(), options, arguments);
            let consumer = in_time(consumer).await.map_err(failed)?;
            tags.push(consumer.tag());
            consumers.push(events(kind, consumer).boxed());
        }
        Ok(Self { consumers, tags, channel: Arc::clone(channel) })
    }

    /// The next one.
    ///
    /// # Errors
    /// [`BrokerError::Lost`], or [`BrokerError::ConsumerEnded`] as soon as one of the consumers has ended: the others would go on
    /// without it, and nobody would notice.
    pub async fn next(&mut self) -> Result<Delivery, BrokerError> {
        match self.consumers.next().await {
            Some((kind, Some(delivery))) => delivery
                .map(|delivery| read(kind, delivery, &self.channel))
                .map_err(BrokerError::Lost),
            Some((kind, None)) => Err(BrokerError::ConsumerEnded { queue: kind.queue() }),
            None => Err(BrokerError::ConsumerEnded { queue: "any queue" }),
        }
    }

    /// Asks the broker to deliver no more, and returns what it has sent before.
    ///
    /// # Errors
    /// [`BrokerError::Lost`]: the channel is gone, or no answer has come in time.
    pub async fn cancel(self) -> Result<Prefetched, BrokerError> {
        for tag in &self.tags {
            let cancelled = self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            in_time(cancelled).await.map_err(BrokerError::Lost)?;
        }
        Ok(Prefetched(self))
    }
}

/// What the broker had sent before it was told to stop.
pub struct Prefetched(Deliveries);

impl Prefetched {
    /// The next one, until all consumers have ended or the channel is gone.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            match self.0.consumers.next().await? {
                (kind, Some(Ok(delivery))) => return Some(read(kind, delivery, &self.0.channel)),
                (_, Some(Err(_))) => return None,
                (_, None) => {}
            }
        }
    }
}

/// What a consumer delivers, and its end.
fn events(kind: Kind, consumer: lapin::Consumer) -> impl Stream<Item = Event> {
    let end = once(ready((kind, None)));
    consumer.map(move |delivery| (kind, Some(delivery))).chain(end)
}

fn read(kind: Kind, delivery: lapin::message::Delivery, channel: &Arc<Channel>) -> Delivery {
    let redelivered = delivery.redelivered;
    let incoming = |message: &BasicProperties, body| {
        let (properties, retry_state) = envelope::read(message);
        let fault = envelope::text(message, X_UNREADABLE);
        Incoming { kind, body, properties, retry_state, fault, redelivered }
    };
    Delivery::new(delivery, channel, incoming)
}
