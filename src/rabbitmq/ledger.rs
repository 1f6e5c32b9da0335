//! The ledger: a stream that is read from any record on, by as many readers as there are, and that
//! nobody takes anything out of.

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};

use super::broker_error::BrokerError;
use super::connection::{Connection, in_time};
use super::envelope;
use crate::messages::ledger::LedgerRecord;
use crate::messages::names;

/// Records under way at once. A stream sends no more until they are acknowledged.
const PREFETCH: u16 = 1000;
/// So many are acknowledged together.
const TOGETHER: u16 = 200;
const X_STREAM_OFFSET: &str = "x-stream-offset";

/// Reads the ledger.
pub struct LedgerReader {
    channel: Channel,
    records: Consumer,
    unacknowledged: u16,
}

/// A record with its number in the stream; without content where this build does not understand it.
pub type Numbered = (u64, Option<LedgerRecord>);

impl LedgerReader {
    /// Reads from this record on; from the first that is still there, if there is no such one any
    /// more.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn open(connection: &Connection, from: u64) -> Result<Self, BrokerError> {
        let failed = |source| BrokerError::Consume { queue: names::LEDGER.into(), source };
        let channel = connection.channel().await.map_err(failed)?;
        let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
        in_time(qos).await.map_err(failed)?;
        let mut arguments = FieldTable::default();
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        arguments.insert(X_STREAM_OFFSET.into(), AMQPValue::LongLongInt(from));
        let options = BasicConsumeOptions::default();
        let records = channel.basic_consume(names::LEDGER.into(), "".into(), options, arguments);
        let records = in_time(records).await.map_err(failed)?;
        Ok(Self { channel, records, unacknowledged: 0 })
    }

    /// The next record.
    ///
    /// # Errors
    /// [`BrokerError::Lost`] or [`BrokerError::ConsumerEnded`]: then it must be opened again.
    pub async fn next(&mut self) -> Result<Numbered, BrokerError> {
        let ended = BrokerError::ConsumerEnded { queue: names::LEDGER.into() };
        let delivery = self.records.next().await.ok_or(ended)?.map_err(BrokerError::Lost)?;
        self.unacknowledged += 1;
        // To a stream an acknowledgement only says that it may send more.
        if self.unacknowledged >= TOGETHER {
            let all = BasicAckOptions { multiple: true };
            in_time(self.channel.basic_ack(delivery.delivery_tag, all))
                .await
                .map_err(BrokerError::Lost)?;
            self.unacknowledged = 0;
        }
        let offset = envelope::number(&delivery.properties, X_STREAM_OFFSET).unwrap_or_default();
        Ok((offset, LedgerRecord::read(&delivery.data)))
    }
}
