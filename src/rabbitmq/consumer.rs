//! Deliveries: from the broker library's types to plain data, and the one way to settle each.

use lapin::Acker;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};

use super::connection::BrokerError;
use super::envelope;
use super::message_header::X_UNREADABLE;
use crate::messages::{Incoming, Properties, names};

/// One message in our hands. It is not `Clone` and both ways out consume it, so it is settled at most once, and through
/// its own acker, so on the channel it came from.
#[derive(Debug)]
pub struct Delivery {
    incoming: Incoming,
    returns: u32,
    acker: Acker,
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
    pub fn returns(&self) -> u32 {
        self.returns
    }

    /// Tells the broker to forget it; `false` where the broker could not be told.
    #[must_use]
    pub async fn acknowledge(self) -> bool {
        matches!(self.acker.ack(BasicAckOptions::default()).await, Ok(true))
    }

    /// Has the broker move it to the dead letters as it is; `false` where the broker could not be told.
    #[must_use]
    pub async fn leave_to_the_dead_letters(self) -> bool {
        matches!(self.acker.reject(BasicRejectOptions { requeue: false }).await, Ok(true))
    }

    /// Puts it back into the queue; `false` where the broker could not be told (it then does so by itself).
    pub async fn give_back(self) -> bool {
        let options = BasicNackOptions { requeue: true, multiple: false };
        matches!(self.acker.nack(options).await, Ok(true))
    }
}

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        let (properties, progress) = envelope::read(&delivery.properties);
        let fault = envelope::text(&delivery.properties, X_UNREADABLE);
        let (body, redelivered) = (delivery.data, delivery.redelivered);
        let incoming = Incoming { body, properties, progress, fault, redelivered };
        // On a first delivery the header can only be the producer's.
        let returns = if delivery.redelivered { envelope::returns(&delivery.properties) } else { 0 };
        Self { incoming, returns, acker: delivery.acker }
    }
}

/// Starts consuming; at most `prefetch` deliveries are unsettled at a time.
///
/// # Errors
/// [`BrokerError::Consume`].
pub async fn consume(channel: &Channel, prefetch: u16) -> Result<Consumer, BrokerError> {
    let failed = |source| BrokerError::Consume { source };
    // Before consuming: lapin's own buffer has no bound but this one.
    channel.basic_qos(prefetch, BasicQosOptions { global: false }).await.map_err(failed)?;
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(names::WORK_QUEUE.into(), "".into(), options, FieldTable::default())
        .await
        .map_err(failed)
}

/// Fetches one message, if there is one.
///
/// # Errors
/// [`BrokerError::Consume`].
pub async fn get_one(channel: &Channel) -> Result<Option<Delivery>, BrokerError> {
    let got = channel.basic_get(names::WORK_QUEUE.into(), BasicGetOptions::default()).await;
    let message = got.map_err(|source| BrokerError::Consume { source })?;
    Ok(message.map(|message| message.delivery.into()))
}
