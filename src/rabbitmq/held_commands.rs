//! Fetches the commands that the guard holds one by one, and converts them from the broker
//! library's types to plain data.

use jiff::Timestamp;
use lapin::BasicProperties;

use super::broker_error::BrokerError;
use super::connection::Connection;
use super::deliveries::incoming;
use super::delivery::Delivery;
use super::envelope;
use super::queue_reader::QueueReader;
use crate::kind::Kind;
use crate::messages::{Incoming, names};

/// A command that the guard holds.
#[derive(Debug)]
pub(crate) struct HeldCommand {
    pub(crate) incoming: Incoming,
    pub(crate) since: Option<Timestamp>,
}

/// Fetches the held commands of a kind.
pub(crate) struct HeldReader {
    kind: Kind,
    queue: QueueReader,
}

impl HeldReader {
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(crate) async fn open(connection: &Connection, kind: Kind) -> Result<Self, BrokerError> {
        Ok(Self { kind, queue: QueueReader::open(connection, kind.held_queue()).await? })
    }

    /// Fetches the next one, in the queue's order, with the number of those behind it.
    ///
    /// # Errors
    /// [`BrokerError::DeadLetters`].
    pub(crate) async fn next(
        &mut self,
    ) -> Result<Option<(Delivery<HeldCommand>, u32)>, BrokerError> {
        let kind = self.kind;
        self.queue.next(|message: &BasicProperties, body| read(kind, message, body)).await
    }

    /// Requeues everything fetched but not settled.
    pub(crate) async fn close(self) {
        self.queue.close().await;
    }
}

fn read(kind: Kind, message: &BasicProperties, body: Vec<u8>) -> HeldCommand {
    let since = envelope::text(message, names::X_HELD_SINCE).and_then(|time| time.parse().ok());
    // Only workers can publish there.
    let incoming = incoming((kind, false), message, body, true);
    HeldCommand { incoming, since }
}
