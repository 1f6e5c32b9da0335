//! An unacknowledged message, and the only way to settle it: for the worker and for operators who
//! look at dead letters.

use lapin::BasicProperties;
use lapin::options::{BasicNackOptions, BasicRejectOptions};
use lapin::types::ShortString;

use super::acks::Acknowledger;
use super::connection::in_time;
use super::envelope;
use crate::messages::{Arrival, Incoming, Properties};

/// An unacknowledged message. It is not `Clone`, and every way to settle it consumes it, so it is
/// settled at most once, on the channel that it came from. (lapin's own `Acker` would spawn a task
/// for each.) If it is dropped, the broker requeues it when its channel ends.
#[derive(Debug)]
pub struct Delivery<M = Incoming> {
    /// Its content.
    pub message: M,
    redeliveries: u32,
    acknowledger: Acknowledger,
    exchange: ShortString,
    routing_key: ShortString,
    tag: u64,
}

impl<M> Delivery<M> {
    /// Only this folder creates one, from a delivery over this channel.
    pub(super) fn new(
        delivery: lapin::message::Delivery,
        acknowledger: &Acknowledger,
        read: impl FnOnce(&BasicProperties, Vec<u8>) -> M,
    ) -> Self {
        // On a first delivery the header can only be the producer's.
        let redeliveries =
            if delivery.redelivered { envelope::delivery_count(&delivery.properties) } else { 0 };
        Self {
            message: read(&delivery.properties, delivery.data),
            redeliveries,
            acknowledger: acknowledger.clone(),
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            tag: delivery.delivery_tag,
        }
    }

    /// How often it was requeued before, as a quorum queue counts it.
    pub fn delivery_count(&self) -> u32 {
        self.redeliveries
    }

    /// The same delivery with other content.
    pub fn map<N>(self, read: impl FnOnce(M) -> N) -> Delivery<N> {
        let Self { message, redeliveries, acknowledger, exchange, routing_key, tag } = self;
        Delivery { message: read(message), redeliveries, acknowledger, exchange, routing_key, tag }
    }

    /// Acknowledges it; `false` if the broker could not be told, or not in time.
    #[must_use]
    pub async fn acknowledge(self) -> bool {
        self.acknowledger.acknowledge(self.tag).await
    }

    /// Rejects it, so that the broker moves it to the dead letters unchanged; `false` as for
    /// [`Delivery::acknowledge`].
    #[must_use]
    pub async fn reject(self) -> bool {
        let options = BasicRejectOptions { requeue: false };
        self.negatively_acknowledge(self.acknowledger.channel().basic_reject(self.tag, options))
            .await
    }

    /// Requeues it; `false` as for [`Delivery::acknowledge`] (the broker then requeues it by
    /// itself).
    pub async fn nack_requeue(self) -> bool {
        let options = BasicNackOptions { requeue: true, multiple: false };
        self.negatively_acknowledge(self.acknowledger.channel().basic_nack(self.tag, options)).await
    }

    async fn negatively_acknowledge(
        &self,
        request: impl Future<Output = lapin::Result<()>>,
    ) -> bool {
        let is_sent = in_time(request).await.is_ok();
        if is_sent {
            self.acknowledger.acknowledged(self.tag);
        }
        is_sent
    }
}

impl Delivery {
    /// The message, which may be a command.
    pub fn incoming(&self) -> &Incoming {
        &self.message
    }

    /// How it arrived, and the properties that are copied to everything published about it.
    pub fn arrival(&mut self) -> (Arrival<'_>, &mut Properties) {
        let (exchange, routing_key) = (self.exchange.as_str(), self.routing_key.as_str());
        let arrival = Arrival { exchange, routing_key, delivery_tag: self.tag };
        (arrival, &mut self.message.properties)
    }
}
