//! The ledger: a stream of records that are read by their numbers.

use lapin::BasicProperties;

use super::broker_error::BrokerError;
use super::connection::Connection;
use super::stream::{StartAt, StreamReader};
use crate::messages::ledger::LedgerRecord;
use crate::messages::names;

/// Reads the ledger.
pub struct LedgerReader(StreamReader);

/// A record with its number in the stream; without content where this build does not understand it.
pub type Numbered = (u64, Option<LedgerRecord>);

impl LedgerReader {
    /// Reads from this record on; from the first that is still there, if there is no such one any
    /// more.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn open(connection: &Connection, from: u64) -> Result<Self, BrokerError> {
        let from = StartAt::Record(from);
        StreamReader::open(connection, names::LEDGER.into(), from).await.map(Self)
    }

    /// The next record.
    ///
    /// # Errors
    /// [`BrokerError::Lost`] or [`BrokerError::ConsumerEnded`]: then it must be opened again.
    pub async fn next(&mut self) -> Result<Numbered, BrokerError> {
        self.0.next(|_: &BasicProperties, body| LedgerRecord::read(&body)).await
    }
}
