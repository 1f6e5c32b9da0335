//! The ledger as an operator's command uses it: reads it to its end, then writes to it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::LedgerJobError;
use crate::messages::Publication;
use crate::messages::ledger::{LedgerEntry, LedgerRecord};
use crate::messages::names;
use crate::policy::brakes::{Applied, Brakes};
use crate::rabbitmq::ledger::LedgerReader;
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, Connection, Publisher};

/// From one record to the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two connections, one to read and one to publish; and the state of the ledger.
pub(super) struct LedgerFile {
    reading: Connection,
    publisher: Publisher,
    writer: String,
    brakes: Brakes,
}

impl LedgerFile {
    /// Reads the whole ledger.
    pub(super) async fn open(url: &AmqpSource, tls: &TlsFiles) -> Result<Self, LedgerJobError> {
        let reading = Connection::open(url, tls, "operator").await?;
        let publisher = Publisher::new(Connection::open(url, tls, "operator").await?);
        let writer = format!("operator-{:016x}", RandomState::new().build_hasher().finish());
        let brakes = Brakes::default();
        let mut ledger = Self { reading, publisher, writer, brakes };
        ledger.read().await?;
        Ok(ledger)
    }

    async fn read(&mut self) -> Result<(), LedgerJobError> {
        let mut reader = LedgerReader::open(&self.reading, 0).await?;
        self.write(LedgerEntry::Opened { number: 1 }).await?;
        loop {
            let next = timeout(PATIENCE, reader.next()).await;
            let (offset, record) = next.map_err(|_| LedgerJobError::Silent(PATIENCE))??;
            let Some(record) = record else { continue };
            if let Applied::Opened { writer, .. } = self.brakes.apply(record, offset)
                && writer == self.writer
            {
                return Ok(());
            }
        }
    }

    pub(super) async fn write(&self, entry: LedgerEntry) -> Result<(), LedgerJobError> {
        let (at, writer) = (Timestamp::now(), self.writer.clone());
        let record = LedgerRecord { at, writer, entry };
        self.publish(&Publication::ledger_record(&record)).await
    }

    pub(super) async fn publish(
        &self,
        publication: &Publication<'_>,
    ) -> Result<(), LedgerJobError> {
        let to = match publication.exchange {
            "" => publication.routing_key.clone(),
            names::LEDGER_EXCHANGE => names::LEDGER.to_owned(),
            exchange => exchange.to_owned(),
        };
        let published = self.publisher.publish(publication).await;
        published.map_err(|source| LedgerJobError::Publish { to, source })
    }

    pub(super) fn reading(&self) -> &Connection {
        &self.reading
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(super) fn brakes(&self) -> &Brakes {
        &self.brakes
    }

    pub(super) async fn close(self) {
        for connection in [&self.reading, self.publisher.connection()] {
            connection.close().await;
        }
    }
}
