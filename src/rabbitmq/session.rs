//! The two connections of a worker, and noticing at once that one of them is gone.
//!
//! Consuming and publishing are apart, because on `connection.blocked` lapin stops all writes of
//! that connection, acks included. The owner of a [`Session`] drops it whole when `lost` fires, and
//! makes a new one.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::acks::Acknowledger;
use super::broker_error::{BrokerError, HANDSHAKE_TIMEOUT};
use super::connection::Connection;
use super::deliveries::{COMMANDS, Deliveries};
use super::ledger::LedgerReader;
use super::looks::Looks;
use super::own_user::Trust;
use super::publisher::Publisher;
use super::session_loss::{GONE, Memory, watch};
use super::session_proof::connect;
use super::source::AmqpSource;
use super::tls::TlsFiles;
use super::topology::{self, Depth, Provision, Topology};
use crate::kind::Kind;

const DECLARE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where the broker is and what shall be there.
#[derive(Clone)]
pub struct BrokerSettings {
    /// Hosts, credentials and virtual host.
    pub url: AmqpSource,
    /// For `amqps`.
    pub tls: TlsFiles,
    /// Declare the topology at start, or only look for it.
    pub topology: Topology,
    /// Deliveries that the broker may hand out before one is acknowledged.
    pub prefetch: u16,
    /// Broker users whose copies of commands are believed beside our own.
    pub trusted_users: Vec<String>,
}

/// Two connections that live and die together.
pub(crate) struct Session {
    consuming: Connection,
    /// Held for as long as the session: with its last handle lapin closes a channel, and
    /// acknowledgements that are still on their way to the queue are forgotten.
    acknowledger: Acknowledger,
    publisher: Publisher,
    trust: Trust,
    topology: Topology,
    declared: tokio::sync::Mutex<Instant>,
    looks: Looks,
    blocked: watch::Receiver<Option<String>>,
    memory: Arc<Memory>,
    why_lost: Arc<OnceLock<String>>,
    /// Fires when either connection is gone.
    pub(crate) lost: CancellationToken,
}

impl Session {
    /// Connects twice.
    ///
    /// # A session opens with as few requests as can be
    ///
    /// A cluster that has just lost a node is slow to answer, and some requests it does not answer
    /// at all. So the topology is made sure of once, by the first session, and again when something
    /// of it turns out to be missing. Where the broker does not answer that, what is there can be
    /// consumed all the same; [`Session::declare_again`] then tries again.
    ///
    /// # Errors
    /// [`BrokerError`] says what to check.
    pub(crate) async fn open(
        settings: &BrokerSettings,
        memory: &Arc<Memory>,
    ) -> Result<Self, BrokerError> {
        let must_prove = memory.lock().take_proof_requirement();
        let queue = settings.topology.kinds.first().map(|kind| kind.undeliverable_queue());
        let queue = queue.as_deref().filter(|_| must_prove);
        let broker = (&settings.url, &settings.tls);
        let connect = async |purpose, first| connect(broker, memory, queue, (purpose, first)).await;
        let consuming = connect("consume", None).await?;
        let address = consuming.address();
        let failed = |error| {
            memory.lock().failed_at(address);
            error
        };
        if !memory.lock().is_topology_sure {
            match topology::ensure(&consuming, &settings.topology).await {
                Ok(found) => {
                    topology::warn_of_old_queues(&found.old);
                    memory.lock().is_topology_sure = true;
                }
                Err(error) if error.is_unanswered() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let channel = consuming.channel().await;
        let channel =
            channel.map_err(|source| BrokerError::Consume { queue: "any queue".into(), source });
        let acknowledger = Acknowledger::in_runs(&Arc::new(channel.map_err(failed)?));
        let publishing = connect("publish", Some(address)).await?;
        let (lost, why_lost) = (CancellationToken::new(), Arc::default());
        watch(&consuming, (&lost, &why_lost, memory));
        let blocked = watch(&publishing, (&lost, &why_lost, memory));
        let publisher = Publisher::known_as(publishing, memory.lock().user.clone());
        publisher.learn_user(blocked.clone()).await;
        Ok(Self {
            consuming,
            acknowledger,
            trust: Trust::new(publisher.user().clone(), &settings.trusted_users),
            publisher,
            topology: settings.topology.clone(),
            declared: tokio::sync::Mutex::new(Instant::now()),
            looks: Looks::default(),
            blocked,
            memory: Arc::clone(memory),
            why_lost,
            lost,
        })
    }

    /// Learns the name that the broker knows us by, which it does not tell while it blocks
    /// publishers.
    pub(crate) async fn learn_user(&self) {
        self.publisher.learn_user(self.blocked.clone()).await;
    }

    /// Whose copies are believed.
    pub(crate) fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// Where it is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.consuming.address()
    }

    /// Ends it because its host does no work for us; the next one is tried at another.
    pub(crate) fn give_up(&self, why: String) {
        self.memory.lock().given_up(self.consuming.address());
        let _ = self.why_lost.set(why);
        self.lost.cancel();
    }

    /// Why it is lost, if it is.
    pub(crate) fn why_lost(&self) -> String {
        self.why_lost.get().cloned().unwrap_or_else(|| GONE.to_owned())
    }

    /// Why the broker is blocking publishers (low memory or disk); `None` if it is not.
    pub(crate) fn blocked(&self) -> Option<String> {
        self.blocked.borrow().clone()
    }

    /// Waits until the broker is blocking publishers.
    pub(crate) async fn becomes_blocked(&self) {
        self.wait_for(Option::is_some).await;
    }

    /// Waits until the broker takes messages of ours, if need be.
    pub(crate) async fn becomes_unblocked(&self) {
        self.wait_for(Option::is_none).await;
    }

    async fn wait_for(&self, is_so: impl FnMut(&Option<String>) -> bool) {
        // The sender is gone when the connection is: then `lost` ends the waiting.
        if self.blocked.clone().wait_for(is_so).await.is_err() {
            self.lost.cancelled().await;
        }
    }

    /// Declares the topology again, if that is ours to do, because a part of it is missing or not
    /// known to exist. Does so only once in a while. A part that cannot be declared shows in the
    /// publish that is tried again.
    pub(crate) async fn declare_again(&self) {
        let Ok(mut declared) = self.declared.try_lock() else { return };
        if self.topology.provision == Provision::Declare
            && declared.elapsed() >= DECLARE_AGAIN_AFTER
        {
            let declare = topology::ensure(&self.consuming, &self.topology);
            let is_sure = matches!(timeout(HANDSHAKE_TIMEOUT, declare).await, Ok(Ok(_)));
            self.memory.lock().is_topology_sure |= is_sure;
            *declared = Instant::now();
        }
    }

    /// Whether the broker has said that the topology is there.
    pub(crate) fn is_topology_sure(&self) -> bool {
        self.memory.lock().is_topology_sure
    }

    /// Starts consuming; at most `prefetch` deliveries of each kind are unsettled at a time.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub(crate) async fn consume(
        &self,
        kinds: &[Kind],
        prefetch: u16,
    ) -> Result<Deliveries, BrokerError> {
        let deliveries =
            Deliveries::begin(&self.acknowledger, COMMANDS, kinds, prefetch, self.trust()).await;
        deliveries.inspect_err(|error| self.has_ended_consumers(error))
    }

    /// Remembers what the next session has to know of an error of a consumer.
    pub(crate) fn has_ended_consumers(&self, error: &BrokerError) {
        let mut memory = self.memory.lock();
        if error.is_unanswered() {
            memory.given_up(self.consuming.address());
        } else {
            memory.failed_at(self.consuming.address());
        }
        memory.is_topology_sure &= !error.is_of_the_topology();
    }

    /// Reads the ledger from this record on.
    ///
    /// # Errors
    /// [`BrokerError::Consume`].
    pub(crate) async fn read_ledger(&self, from: u64) -> Result<LedgerReader, BrokerError> {
        LedgerReader::open(&self.consuming, from).await
    }

    /// Whether what is unacknowledged can still be settled.
    pub(crate) fn can_settle(&self) -> bool {
        !self.lost.is_cancelled() && self.acknowledger.channel().status().connected()
    }

    /// How much lies ready in each queue of the topology, up to the first one that does not answer.
    pub(crate) async fn queue_depths(&self) -> Vec<(String, u32)> {
        let mut depths = Vec::new();
        // A queue that is missing closes the channel: a new one each time.
        let Ok(channel) = self.consuming.channel().await else { return depths };
        for queue in topology::queue_names(&self.topology) {
            let Ok(depth) = topology::depth(&channel, &queue).await else { break };
            depths.push((queue, depth.ready));
        }
        depths
    }

    /// Each connection's answers about some queues, up to the first that does not come in time;
    /// `None` if the broker refuses to tell.
    pub(crate) async fn look(&self, queues: &[&str]) -> [Vec<Option<Depth>>; 2] {
        self.looks.depths(self.connections(), queues).await
    }

    /// Whether the nodes of both connections still reach a majority of the nodes.
    pub(crate) async fn reaches_majority(&self) -> bool {
        let Some(kind) = self.topology.kinds.first() else { return true };
        self.looks.reach_majority(self.connections(), &kind.undeliverable_queue()).await
    }

    fn connections(&self) -> [&Connection; 2] {
        [&self.consuming, self.publisher.connection()]
    }

    /// The publisher.
    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Closes the connections, which requeues at once what is unacknowledged.
    pub(crate) async fn close(&self) {
        self.lost.cancel();
        tokio::join!(self.consuming.close(), self.publisher.connection().close());
    }
}
