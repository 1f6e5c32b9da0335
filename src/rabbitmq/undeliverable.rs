//! The queues of the commands that RabbitMQ itself removed from their work queues, consumed on a
//! separate connection.
//!
//! # An unreadable message does not end the session of the commands
//!
//! RabbitMQ dead-letters a message that keeps ending connections. In its next queue it would do so
//! again, and the worker's other commands would be redelivered each time. Here it only ends a
//! connection without other messages.

use std::sync::Arc;

use super::acks::{Acknowledger, Singly};
use super::broker_error::BrokerError;
use super::connection::Connection;
use super::deliveries::{Deliveries, UNDELIVERABLE};
use super::delivery::Delivery;
use super::endpoints::Preference;
use super::session::{BrokerSettings, Session};
use crate::messages::Undeliverable;

/// One message of each kind at a time.
const PREFETCH: u16 = 1;

/// A consumer of each kind's undeliverable commands.
pub(crate) struct UndeliverableQueues {
    connection: Connection,
    deliveries: Deliveries<Undeliverable>,
}

impl UndeliverableQueues {
    /// Connects, if possible to the session's host, and starts to consume.
    ///
    /// # Errors
    /// [`BrokerError`] says what to check.
    pub(crate) async fn open(
        settings: &BrokerSettings,
        session: &Session,
    ) -> Result<Self, BrokerError> {
        let connection = Connection::open_preferring(
            &settings.url,
            &settings.tls,
            "undeliverable",
            Preference { first: Some(session.address()), ..Preference::default() },
        )
        .await?;
        let channel = connection.channel().await.map_err(BrokerError::Lost)?;
        let kinds = &settings.topology.kinds;
        let deliveries = Deliveries::begin(
            &Acknowledger::Singly(Arc::new(Singly::new(Arc::new(channel)))),
            UNDELIVERABLE,
            kinds,
            PREFETCH,
            session.trust(),
        )
        .await?;
        Ok(Self { connection, deliveries })
    }

    /// The next one.
    ///
    /// # Errors
    /// See [`Deliveries::next`].
    pub(crate) async fn next(&mut self) -> Result<Delivery<Undeliverable>, BrokerError> {
        self.deliveries.next().await
    }

    /// Closes the connection, which requeues what is unacknowledged.
    pub(crate) async fn close(self) {
        self.connection.close().await;
    }
}
