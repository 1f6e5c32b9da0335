//! Deliveries: from the broker library's types to plain data, and the one way to settle each.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::SelectAll;
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};

use super::connection::{BrokerError, in_time};
use super::envelope;
use super::message_header::X_UNREADABLE;
use crate::kind::Kind;
use crate::messages::{Incoming, Properties};

/// An unacknowledged message. It is not `Clone` and every way out consumes it, so it is settled at most once, and only this
/// file makes one, so on the channel it came from. (lapin's own `Acker` would start a job of the runtime for each.)
#[derive(Debug)]
pub struct Delivery {
    incoming: Incoming,
    redeliveries: u32,
    channel: Arc<Channel>,
    tag: u64,
}

impl Delivery {
    /// What it says.
    pub fn incoming(&self) -> &Incoming {
        &self.incoming
    }

    /// What is carried to everything that is published about it.
    pub fn properties_mut(&mut self) -> &mut Properties {
        &mut self.incoming.properties
    }

    /// How often the broker has taken it back from a worker, as a quorum queue counts it.
    pub fn delivery_count(&self) -> u32 {
        self.redeliveries
    }

    /// Tells the broker to forget it; `false` where the broker could not be told, or was not told in time.
    #[must_use]
    pub async fn acknowledge(self) -> bool {
        in_time(self.channel.basic_ack(self.tag, BasicAckOptions::default())).await.is_ok()
    }

    /// Has the broker move it to the dead letters as it is; `false` as for [`Delivery::acknowledge`].
    #[must_use]
    pub async fn reject(self) -> bool {
        in_time(self.channel.basic_reject(self.tag, BasicRejectOptions { requeue: false }))
            .await
            .is_ok()
    }

    /// Puts it back into the queue; `false` as for [`Delivery::acknowledge`] (the broker then does so by itself).
    pub async fn nack_requeue(self) -> bool {
        let options = BasicNackOptions { requeue: true, multiple: false };
        in_time(self.channel.basic_nack(self.tag, options)).await.is_ok()
    }

    fn new(kind: Kind, delivery: lapin::message::Delivery, channel: &Arc<Channel>) -> Self {
        let (properties, retry_state) = envelope::read(&delivery.properties);
        let fault = envelope::text(&delivery.properties, X_UNREADABLE);
        let (body, redelivered) = (delivery.data, delivery.redelivered);
        let incoming = Incoming { kind, body, properties, retry_state, fault, redelivered };
        // On a first delivery the header can only be the producer's.
        let redeliveries =
            if delivery.redelivered { envelope::delivery_count(&delivery.properties) } else { 0 };
        Self { incoming, redeliveries, channel: Arc::clone(channel), tag: delivery.delivery_tag }
    }
}

/// What the broker delivers to the consumers of some kinds, one for each.
pub struct Deliveries {
    consumers: SelectAll<OfKind>,
    tags: Vec<ShortString>,
    channel: Arc<Channel>,
}

/// A consumer, and the kind of what it delivers.
struct OfKind {
    kind: Kind,
    consumer: Consumer,
}

impl Stream for OfKind {
    type Item = (Kind, lapin::Result<lapin::message::Delivery>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let kind = self.kind;
        let next = self.consumer.poll_next_unpin(context);
        next.map(|delivery| delivery.map(|delivery| (kind, delivery)))
    }
}

impl Deliveries {
    /// The next one; `None` when all consumers have ended.
    ///
    /// # Errors
    /// The channel is gone.
    pub async fn next(&mut self) -> Option<lapin::Result<Delivery>> {
        let (kind, delivery) = self.consumers.next().await?;
        Some(delivery.map(|delivery| Delivery::new(kind, delivery, &self.channel)))
    }

    /// Asks the broker to deliver no more. What it has sent before still comes.
    ///
    /// # Errors
    /// The channel is gone, or no answer has come in time.
    pub async fn cancel(&self) -> lapin::Result<()> {
        for tag in &self.tags {
            in_time(self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default())).await?;
        }
        Ok(())
    }
}

/// Starts consuming; at most `prefetch` deliveries of each kind are unsettled at a time.
///
/// # Errors
/// [`BrokerError::Consume`].
pub async fn consume(
    channel: &Arc<Channel>,
    kinds: &[Kind],
    prefetch: u16,
) -> Result<Deliveries, BrokerError> {
    let (mut consumers, mut tags) = (SelectAll::new(), Vec::new());
    for kind in kinds.iter().copied() {
        let failed = |source| BrokerError::Consume { queue: kind.queue(), source };
        // Before consuming: lapin's own buffer has no bound but this one.
        let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        in_time(qos).await.map_err(failed)?;
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = channel.basic_consume(kind.queue().into(), "".into(), options, arguments);
        let consumer = in_time(consumer).await.map_err(failed)?;
        tags.push(consumer.tag());
        consumers.push(OfKind { kind, consumer });
    }
    Ok(Deliveries { consumers, tags, channel: Arc::clone(channel) })
}
