//! The two connections of a worker, and noticing at once that one of them is gone.
//!
//! Consuming and publishing are apart, because on `connection.blocked` lapin stops all writes of that connection, acks
//! included. The owner of a [`Session`] drops it whole when `lost` fires, and makes a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::{Channel, Event};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::broker_error::{BrokerError, CONNECT_TIMEOUT};
use super::connection::Connection;
use super::deliveries::{COMMANDS, Deliveries};
use super::publisher::Publisher;
use super::tls::TlsFiles;
use super::topology::{self, Provision, Topology};
use super::url::AmqpUrl;
use crate::kind::Kind;

const DECLARE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where the broker is and what shall be there.
#[derive(Clone)]
pub struct BrokerSettings {
    /// Address, credentials and virtual host.
    pub url: AmqpUrl,
    /// For `amqps`.
    pub tls: TlsFiles,
    /// Declare the topology at start, or only look for it.
    pub topology: Topology,
    /// Deliveries that the broker may hand out before one is acknowledged.
    pub prefetch: u16,
}

/// Two connections that live and die together.
pub struct Session {
    consuming: Connection,
    /// Held for as long as the session: with its last handle lapin closes a channel, and acknowledgements that are still on their
    /// way to the queue are forgotten.
    channel: Arc<Channel>,
    publisher: Publisher,
    topology: Topology,
    declared: tokio::sync::Mutex<Instant>,
    blocked: watch::Receiver<Option<String>>,
    /// Fires when either connection is gone.
    pub lost: CancellationToken,
}

impl Session {
    /// Connects twice and makes sure of the topology.
    ///
    /// # Errors
    /// [`BrokerError`] says what to check.
    pub async fn open(settings: &BrokerSettings) -> Result<Self, BrokerError> {
        let consuming = Connection::open(&settings.url, &settings.tls, "consume").await?;
        let old = topology::ensure(&consuming, &settings.topology).await?;
        topology::warn_of_old_queues(&old);
        let channel = consuming.channel().await;
        let channel =
            channel.map_err(|source| BrokerError::Consume { queue: "any queue".into(), source })?;
        let publishing = Connection::open(&settings.url, &settings.tls, "publish").await?;
        let lost = CancellationToken::new();
        watch(&consuming, &lost);
        let blocked = watch(&publishing, &lost);
        let (publisher, topology) = (Publisher::new(publishing), settings.topology.clone());
        let declared = tokio::sync::Mutex::new(Instant::now());
        let channel = Arc::new(channel);
        Ok(Self { consuming, channel, publisher, topology, declared, blocked, lost })
    }

    /// Why the broker is blocking publishers, where it does not: low memory or disk.
    pub fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// Waits until the broker is blocking publishers.
    pub async fn becomes_blocked(&self) {
        self.wait_for(Option::is_some).await;
    }

    /// Waits until the broker takes messages of ours, if need be.
    pub async fn becomes_unblocked(&self) {
        self.wait_for(Option::is_none).await;
    }

    async fn wait_for(&self, is_so: impl FnMut(&Option<String>) -> bool) {
        // The sender is gone when the connection is: then `lost` ends the waiting.
        if self.blocked.clone().wait_for(is_so).await.is_err() {
            self.lost.cancelled().await;
        }
    }

    /// Declares the topology again, where that is ours to do, because something of it is missing; once in a while at the
    /// most. What cannot be declared shows in the publish that is tried again.
    pub async fn declare_again(&self) {
        let Ok(mut declared) = self.declared.try_lock() else { return };
        if self.topology.provision == Provision::Declare
            && declared.elapsed() >= DECLARE_AGAIN_AFTER
        {
            let _ =
                timeout(CONNECT_TIMEOUT, topology::ensure(&self.consuming, &self.topology)).await;
            *declared = Instant::now();
        }
    }

    /// Starts consuming; at most `prefetch` deliveries of each kind are unsettled at a time.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub async fn consume(&self, kinds: &[Kind], prefetch: u16) -> Result<Deliveries, BrokerError> {
        Deliveries::begin(&self.channel, COMMANDS, kinds, prefetch).await
    }

    /// Whether what is unacknowledged can still be settled.
    pub fn can_settle(&self) -> bool {
        !self.lost.is_cancelled() && self.channel.status().connected()
    }

    /// How much lies ready in each queue of the topology, up to the first one that does not answer.
    pub async fn queue_depths(&self) -> Vec<(String, u32)> {
        let mut depths = Vec::new();
        // A queue that is missing closes the channel: a new one each time.
        let Ok(channel) = self.consuming.channel().await else { return depths };
        for queue in topology::queue_names(&self.topology) {
            let Ok(ready) = topology::depth(&channel, &queue).await else { break };
            depths.push((queue, ready));
        }
        depths
    }

    /// The publisher.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Closes the connection, which then requeues at once what is unacknowledged.
    pub async fn close(&self) {
        self.lost.cancel();
        for connection in [&self.consuming, self.publisher.connection()] {
            connection.close().await;
        }
    }
}

fn watch(connection: &Connection, lost: &CancellationToken) -> watch::Receiver<Option<String>> {
    let mut events = Box::pin(connection.events());
    let lost = lost.clone();
    let (blocked, seen) = watch::channel(None);
    tokio::spawn(async move {
        let gone = async {
            while let Some(event) = events.next().await {
                match event {
                    // A channel's error: the user of the channel sees it, and the connection lives.
                    Event::Error(error) if error.is_amqp_soft_error() => {}
                    Event::Error(_) => break,
                    Event::ConnectionBlocked(reason) => drop(blocked.send_replace(Some(reason))),
                    Event::ConnectionUnblocked => drop(blocked.send_replace(None)),
                    _ => {}
                }
            }
        };
        tokio::select! { () = gone => lost.cancel(), () = lost.cancelled() => {} }
    });
    seen
}
