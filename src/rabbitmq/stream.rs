//! A stream: any number of readers can read it, from any record or moment on, without taking
//! anything out.

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Consumer};

use super::broker_error::BrokerError;
use super::connection::{Connection, in_time};
use super::envelope;

/// Records in flight at once. A stream sends no more until they are acknowledged.
const PREFETCH: u16 = 1000;
/// How many are acknowledged together.
const TOGETHER: u16 = 200;
const X_STREAM_OFFSET: &str = "x-stream-offset";

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub enum StartAt {
    /// At this record, or at the oldest one if it is no longer there.
    Record(u64),
    /// At this moment, or up to a few hundred records before it: a stream only keeps the time of
    /// its chunks.
    Moment(Timestamp),
}

/// Reads a stream.
pub struct StreamReader {
    name: String,
    channel: Channel,
    records: Consumer,
    unacknowledged: u16,
}

impl StreamReader {
    /// Starts to read.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn open(
        connection: &Connection,
        name: String,
        from: StartAt,
    ) -> Result<Self, BrokerError> {
        let failed = |source| BrokerError::Consume { queue: name.clone(), source };
        let channel = connection.channel().await.map_err(failed)?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        in_time(qos).await.map_err(failed)?;
        let mut arguments = FieldTable::default();
        let offset = match from {
            StartAt::Record(number) => {
                AMQPValue::LongLongInt(i64::try_from(number).unwrap_or(i64::MAX))
            }
            StartAt::Moment(time) => {
                AMQPValue::Timestamp(u64::try_from(time.as_second()).unwrap_or_default())
            }
        };
        arguments.insert(X_STREAM_OFFSET.into(), offset);
        let options = BasicConsumeOptions::default();
        let records = channel.basic_consume(name.as_str().into(), "".into(), options, arguments);
        let records = in_time(records).await.map_err(failed)?;
        Ok(Self { name, channel, records, unacknowledged: 0 })
    }

    /// The body of the next record.
    ///
    /// # Errors
    /// [`BrokerError::Lost`] or [`BrokerError::ConsumerEnded`]: then it must be opened again.
    pub async fn next_body(&mut self) -> Result<Vec<u8>, BrokerError> {
        self.next(|_, body| body).await.map(|(_, body)| body)
    }

    /// The next record, with its number in the stream.
    ///
    /// # Errors
    /// [`BrokerError::Lost`] or [`BrokerError::ConsumerEnded`]: then it must be opened again.
    pub(super) async fn next<R>(
        &mut self,
        read: impl FnOnce(&BasicProperties, Vec<u8>) -> R,
    ) -> Result<(u64, R), BrokerError> {
        let ended = || BrokerError::ConsumerEnded { queue: self.name.clone() };
        let delivery = self.records.next().await.ok_or_else(ended)?.map_err(BrokerError::Lost)?;
        self.unacknowledged += 1;
        // For a stream, an acknowledgement only means that it may send more.
        if self.unacknowledged >= TOGETHER {
            let all = BasicAckOptions { multiple: true };
            in_time(self.channel.basic_ack(delivery.delivery_tag, all))
                .await
                .map_err(BrokerError::Lost)?;
            self.unacknowledged = 0;
        }
        let offset = envelope::number(&delivery.properties, X_STREAM_OFFSET).unwrap_or_default();
        Ok((offset, read(&delivery.properties, delivery.data)))
    }
}
