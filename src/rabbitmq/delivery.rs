//! An unacknowledged message, and the one way to settle it: for the worker and for those who look
//! at dead letters.

use std::sync::Arc;

use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use lapin::{BasicProperties, Channel};

use super::connection::in_time;
use super::envelope;
use crate::messages::{Incoming, Properties};

/// An unacknowledged message. It is not `Clone` and every way out consumes it, so it is settled at
/// most once, and on the channel that it came from. (lapin's own `Acker` would start a task of the
/// runtime for each.) If it is dropped, the broker has it back when its channel ends.
#[derive(Debug)]
pub struct Delivery<M = Incoming> {
    /// What it says.
    pub message: M,
    redeliveries: u32,
    channel: Arc<Channel>,
    tag: u64,
}

impl<M> Delivery<M> {
    /// Only this folder makes one, of a delivery that came over `channel`.
    pub(super) fn new(
        delivery: lapin::message::Delivery,
        channel: &Arc<Channel>,
        read: impl FnOnce(&BasicProperties, Vec<u8>) -> M,
    ) -> Self {
        // On a first delivery the header can only be the producer's.
        let redeliveries =
            if delivery.redelivered { envelope::delivery_count(&delivery.properties) } else { 0 };
        let (channel, tag) = (Arc::clone(channel), delivery.delivery_tag);
        Self { message: read(&delivery.properties, delivery.data), redeliveries, channel, tag }
    }

    /// How often it went back to its queue before, as a quorum queue counts it.
    pub fn delivery_count(&self) -> u32 {
        self.redeliveries
    }

    /// The same delivery, with less of what it says.
    pub fn map<N>(self, read: impl FnOnce(M) -> N) -> Delivery<N> {
        let Self { message, redeliveries, channel, tag } = self;
        Delivery { message: read(message), redeliveries, channel, tag }
    }

    /// Tells the broker to forget it; `false` if the broker could not be told, or was not told in
    /// time.
    #[must_use]
    pub async fn acknowledge(self) -> bool {
        in_time(self.channel.basic_ack(self.tag, BasicAckOptions::default())).await.is_ok()
    }

    /// Has the broker move it to the dead letters as it is; `false` as for
    /// [`Delivery::acknowledge`].
    #[must_use]
    pub async fn reject(self) -> bool {
        in_time(self.channel.basic_reject(self.tag, BasicRejectOptions { requeue: false }))
            .await
            .is_ok()
    }

    /// Puts it back into the queue; `false` as for [`Delivery::acknowledge`] (the broker then does
    /// so by itself).
    pub async fn nack_requeue(self) -> bool {
        let options = BasicNackOptions { requeue: true, multiple: false };
        in_time(self.channel.basic_nack(self.tag, options)).await.is_ok()
    }
}

impl Delivery {
    /// The command that it may be.
    pub fn incoming(&self) -> &Incoming {
        &self.message
    }

    /// What is carried to everything that is published about it.
    pub fn properties_mut(&mut self) -> &mut Properties {
        &mut self.message.properties
    }
}
