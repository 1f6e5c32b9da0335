//! Deliveries: from the broker library's types to plain data, and the one way to settle each.

use jiff::Timestamp;
use lapin::Acker;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};

use super::connection::BrokerError;
use super::message_header::X_UNREADABLE;
use crate::messages::{Incoming, Progress, Properties, names};

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
        let (properties, progress) = read(&delivery.properties);
        let fault = text_header(&delivery.properties, X_UNREADABLE);
        let (body, redelivered) = (delivery.data, delivery.redelivered);
        let incoming = Incoming { body, properties, progress, fault, redelivered };
        // On a first delivery the header can only be the producer's.
        let returns = if delivery.redelivered { returns(&delivery.properties) } else { 0 };
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

fn returns(properties: &BasicProperties) -> u32 {
    header(properties, names::X_DELIVERY_COUNT)
        .and_then(as_number)
        .map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

fn read(properties: &BasicProperties) -> (Properties, Progress) {
    let header = |name: &str| header(properties, name);
    let text = |name: &str| text_header(properties, name);
    let time = |name: &str| text(name).and_then(|time| time.parse::<Timestamp>().ok());
    let short = |property: &Option<ShortString>| {
        property.as_ref().map(ToString::to_string).filter(|text| !text.is_empty())
    };
    let carried = Properties {
        message_id: short(properties.message_id()),
        correlation_id: short(properties.correlation_id()),
        content_type: short(properties.content_type()),
        traceparent: text(names::TRACEPARENT),
        tracestate: text(names::TRACESTATE),
        published_by: short(properties.user_id()).or_else(|| text(names::X_PUBLISHED_BY)),
    };
    let progress = Progress {
        attempts: header(names::X_ATTEMPTS)
            .and_then(as_number)
            .map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX)),
        ambiguous: matches!(header(names::X_AMBIGUOUS), Some(AMQPValue::Boolean(true))),
        first_seen: time(names::X_FIRST_SEEN),
        not_before: time(names::X_NOT_BEFORE),
        last_status: header(names::X_LAST_STATUS).and_then(as_number).and_then(|n| u16::try_from(n).ok()),
    };
    (carried, progress)
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    header(properties, name).and_then(as_text)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    const LONGEST: usize = 1024;
    match value {
        AMQPValue::LongString(text) if text.len() <= LONGEST => {
            String::from_utf8(text.as_bytes().to_vec()).ok()
        }
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn as_number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}
