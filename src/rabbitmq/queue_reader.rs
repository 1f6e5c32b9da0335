//! Fetches the messages of a queue one by one, on its own channel. Unacknowledged ones go back when
//! the channel ends.

use std::sync::Arc;

use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{BasicProperties, Channel};

use super::acks::Acknowledger;
use super::broker_error::BrokerError;
use super::connection::{Connection, in_time};
use super::delivery::Delivery;
use super::topology;

/// Requeues everything that the channel holds.
const ALL_BACK: BasicNackOptions = BasicNackOptions { multiple: true, requeue: true };

/// A queue that an operator looks through.
pub(super) struct QueueReader {
    queue: String,
    channel: Arc<Channel>,
}

impl QueueReader {
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(super) async fn open(connection: &Connection, queue: String) -> Result<Self, BrokerError> {
        match connection.channel().await {
            Ok(channel) => Ok(Self { queue, channel: Arc::new(channel) }),
            Err(source) => Err(BrokerError::DeadLetters { queue, source }),
        }
    }

    /// Fetches the next message, if there is one, with the number of those behind it.
    ///
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(super) async fn next<M>(
        &self,
        read: impl FnOnce(&BasicProperties, Vec<u8>) -> M,
    ) -> Result<Option<(Delivery<M>, u32)>, BrokerError> {
        let get = self.channel.basic_get(self.queue.as_str().into(), BasicGetOptions::default());
        let failed = |source| BrokerError::DeadLetters { queue: self.queue.clone(), source };
        let message = in_time(get).await.map_err(failed)?;
        Ok(message.map(|message| {
            let left = message.message_count;
            let acknowledger = Acknowledger::Singly(Arc::clone(&self.channel));
            (Delivery::new(message.delivery, &acknowledger, read), left)
        }))
    }

    /// How many are ready in the queue; `None` if the broker does not say.
    pub(super) async fn ready(&self) -> Option<u32> {
        topology::depth(&self.channel, &self.queue).await.ok().map(|depth| depth.ready)
    }

    /// Requeues everything fetched but not settled, and closes the channel.
    pub(super) async fn close(self) {
        let _ = in_time(self.channel.basic_nack(0, ALL_BACK)).await;
        let _ = in_time(self.channel.close(200, "OK".into())).await;
    }
}
