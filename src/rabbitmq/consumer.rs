//! Deliveries: from the broker library's types to plain data, and the one way to settle each.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::connection::{BrokerError, in_time};
use super::envelope;
use super::message_header::X_UNREADABLE;
use crate::messages::{Incoming, Properties, names};

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

    fn new(delivery: lapin::message::Delivery, channel: &Arc<Channel>) -> Self {
        let (properties, retry_state) = envelope::read(&delivery.properties);
        let fault = envelope::text(&delivery.properties, X_UNREADABLE);
        let (body, redelivered) = (delivery.data, delivery.redelivered);
        let incoming = Incoming { body, properties, retry_state, fault, redelivered };
        // On a first delivery the header can only be the producer's.
        let redeliveries =
            if delivery.redelivered { envelope::delivery_count(&delivery.properties) } else { 0 };
        Self { incoming, redeliveries, channel: Arc::clone(channel), tag: delivery.delivery_tag }
    }
}

/// What the broker delivers to one consumer.
pub struct Deliveries {
    consumer: Consumer,
    channel: Arc<Channel>,
}

impl Deliveries {
    /// The next one; `None` when the consumer has ended.
    ///
    /// # Errors
    /// The channel is gone.
    pub async fn next(&mut self) -> Option<lapin::Result<Delivery>> {
        let delivery = self.consumer.next().await?;
        Some(delivery.map(|delivery| Delivery::new(delivery, &self.channel)))
    }

    /// Asks the broker to deliver no more. What it has sent before still comes.
    ///
    /// # Errors
    /// The channel is gone, or no answer has come in time.
    pub async fn cancel(&self) -> lapin::Result<()> {
        in_time(self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default())).await
    }
}

fn failed(source: lapin::Error) -> BrokerError {
    BrokerError::Consume { source }
}

/// Starts consuming; at most `prefetch` deliveries are unsettled at a time.
///
/// # Errors
/// [`BrokerError::Consume`].
pub async fn consume(channel: &Arc<Channel>, prefetch: u16) -> Result<Deliveries, BrokerError> {
    // Before consuming: lapin's own buffer has no bound but this one.
    in_time(channel.basic_qos(prefetch, BasicQosOptions { global: false }))
        .await
        .map_err(failed)?;
    let options = BasicConsumeOptions::default();
    let consumer =
        channel.basic_consume(names::WORK_QUEUE.into(), "".into(), options, FieldTable::default());
    Ok(Deliveries {
        consumer: in_time(consumer).await.map_err(failed)?,
        channel: Arc::clone(channel),
    })
}
