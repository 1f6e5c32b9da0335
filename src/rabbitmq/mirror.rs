//! Reads the mirror of a kind's dead letters, from any record on. Reading does not affect the dead
//! letters.

use lapin::BasicProperties;

use super::broker_error::BrokerError;
use super::connection::Connection;
use super::stream::{StartAt, StreamReader};
use super::{dead_letters, envelope};
use crate::kind::Kind;
use crate::messages::{MirrorRecord, names};

/// Reads the mirror of a kind.
pub struct MirrorReader {
    kind: Kind,
    stream: StreamReader,
}

impl MirrorReader {
    /// Reads from this record on, or from the oldest one if it is no longer there.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn open(connection: &Connection, kind: Kind, from: u64) -> Result<Self, BrokerError> {
        let stream = StreamReader::open(connection, kind.mirror(), StartAt::Record(from)).await?;
        Ok(Self { kind, stream })
    }

    /// The next record, with its number; `None` if this build does not understand it.
    ///
    /// # Errors
    /// [`BrokerError::Lost`] or [`BrokerError::ConsumerEnded`]: then it must be opened again.
    pub async fn next(&mut self) -> Result<(u64, Option<MirrorRecord>), BrokerError> {
        let kind = self.kind;
        let read = |properties: &BasicProperties, body| {
            let mark = envelope::text(properties, names::X_MIRROR);
            let dead_letter = |body| dead_letters::read(kind, properties, body);
            MirrorRecord::read(mark.as_deref(), body, dead_letter)
        };
        self.stream.next(read).await
    }
}
