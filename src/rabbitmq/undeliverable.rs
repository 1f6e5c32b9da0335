//! The queues of the commands that RabbitMQ itself took out of their work queues, consumed on a
//! connection of their own.
//!
//! # A message that nobody can read does not end the session of the commands
//!
//! RabbitMQ dead-letters a message that ended one connection after the other. In its next queue it
//! would end them again, and what the worker holds of other commands would be delivered again each
//! time. Here it ends a connection that holds nothing else.

use std::sync::Arc;

use super::acks::Acknowledger;
use super::broker_error::BrokerError;
use super::connection::Connection;
use super::deliveries::{Deliveries, UNDELIVERABLE};
use super::delivery::Delivery;
use super::places::Preference;
use super::session::{BrokerSettings, Session};
use crate::messages::Undeliverable;

/// One message of each kind at a time.
const PREFETCH: u16 = 1;

/// A consumer of each kind's undeliverable commands.
pub struct UndeliverableQueues {
    connection: Connection,
    deliveries: Deliveries<Undeliverable>,
}

impl UndeliverableQueues {
    /// Connects, if it can be to the host where the session is, and begins to consume.
    ///
    /// # Errors
    /// [`BrokerError`] says what to check.
    pub async fn open(settings: &BrokerSettings, session: &Session) -> Result<Self, BrokerError> {
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
            &Acknowledger::Singly(Arc::new(channel)),
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
    pub async fn next(&mut self) -> Result<Delivery<Undeliverable>, BrokerError> {
        self.deliveries.next().await
    }

    /// Closes the connection, which requeues what is unacknowledged.
    pub async fn close(self) {
        self.connection.close().await;
    }
}
