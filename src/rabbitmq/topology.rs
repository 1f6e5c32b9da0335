//! The topology, and ensuring that it exists. `layout` lists its parts.

mod layout;

use std::collections::HashMap;
use std::sync::Once;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};
use tracing::warn;

use super::broker_error::{BrokerError, Refusal};
use super::connection::{Connection, in_time};
use crate::messages::names;
use layout::{LOOKS_LIMIT, QueueSpec, exchanges, queues};

pub use layout::{Provision, Topology};

/// What `ensure` found.
#[derive(Debug, Default)]
pub struct Found {
    /// Queues with the arguments of earlier versions.
    pub old: Vec<String>,
    /// Queues that do not exist, and that a worker can do without.
    pub missing: Vec<String>,
}

/// Ensures that the topology exists.
///
/// # Errors
/// [`BrokerError::Topology`] names the first exchange or queue that is missing, has other arguments
/// or got no answer.
pub async fn ensure(connection: &Connection, topology: &Topology) -> Result<Found, BrokerError> {
    let provision = topology.provision;
    let mut channel = open_channel(connection).await?;
    for (name, kind, arguments) in exchanges() {
        let declared = declare_exchange(&channel, provision, name, kind, arguments).await;
        declared.map_err(|source| failed(provision, &format!("exchange {name}"), source))?;
    }
    let mut found = Found::default();
    let queues = queues(topology);
    for queue in &queues {
        ensure_queue(connection, &mut channel, provision, queue, &mut found).await?;
    }
    if provision == Provision::Declare {
        for queue in &queues {
            let failed = |source| failed(provision, &format!("queue {}", queue.name), source);
            unbind_old(&channel, queue).await.map_err(failed)?;
        }
    }
    let _ = in_time(channel.close(200, "OK".into())).await;
    Ok(found)
}

/// The channel is a new one if something was refused: a refusal closes it.
async fn ensure_queue(
    connection: &Connection,
    channel: &mut Channel,
    provision: Provision,
    queue: &QueueSpec,
    found: &mut Found,
) -> Result<(), BrokerError> {
    let failed = |source| failed(provision, &format!("queue {}", queue.name), source);
    // To compare an optional queue that is missing would create it, without its binding.
    if queue.is_optional && provision != Provision::Declare {
        match depth(channel, &queue.name).await {
            Ok(_) => {}
            Err(refused) if Refusal::of(&refused) == Some(Refusal::NotFound) => {
                *channel = open_channel(connection).await?;
                found.missing.push(queue.name.clone());
                return Ok(());
            }
            Err(refused) => return Err(failed(refused)),
        }
    }
    match declare_queue(channel, provision, &queue.name, queue.arguments.clone()).await {
        Ok(()) => {}
        Err(refused) => {
            let differs = Refusal::of(&refused) == Some(Refusal::PreconditionFailed);
            let Some(arguments) = queue.old_arguments.clone().filter(|_| differs) else {
                return Err(failed(refused));
            };
            *channel = open_channel(connection).await?;
            let declared = declare_queue(channel, provision, &queue.name, arguments).await;
            declared.map_err(|_| failed(refused))?;
            found.old.push(queue.name.clone());
        }
    }
    if provision == Provision::Declare {
        bind(channel, queue).await.map_err(failed)?;
    }
    Ok(())
}

/// Logs once how queues from an older version get the limit that they lack.
pub fn warn_of_old_queues(queues: &[String]) {
    static ONCE: Once = Once::new();
    if !queues.is_empty() {
        ONCE.call_once(|| {
            warn!(queues = queues.join(" "), "{}", cure_of_old_queues());
        });
    }
}

/// How to update old queues.
pub fn cure_of_old_queues() -> String {
    format!(
        "an older version declared these queues without a delivery limit: on RabbitMQ 4.0 to 4.2 a message in them that was looked \
         at 20 times is dropped. This gives them the limit: rabbitmqctl set_policy -p VHOST dead-letters \
         '^(.+\\.dead|{})$' '{{\"delivery-limit\":{LOOKS_LIMIT}}}' --apply-to queues",
        names::UNROUTED_EVENTS.replace('.', "\\.")
    )
}

async fn open_channel(connection: &Connection) -> Result<Channel, BrokerError> {
    let what = "cannot open a channel".to_owned();
    connection.channel().await.map_err(|source| BrokerError::Topology { what, source })
}

fn failed(provision: Provision, what: &str, source: lapin::Error) -> BrokerError {
    let what = match provision {
        Provision::Declare => format!("cannot declare {what}"),
        Provision::Compare => format!("is not as it should be: {what}"),
        Provision::Check if Refusal::of(&source) == Some(Refusal::NotFound) => {
            format!("cannot find {what}, run `setup`")
        }
        Provision::Check => format!("cannot find {what}"),
    };
    BrokerError::Topology { what, source }
}

/// Names of all queues that commands and events wait in.
pub fn queue_names(topology: &Topology) -> Vec<String> {
    let queues = queues(topology).into_iter().filter(|queue| !queue.is_optional);
    queues.map(|queue| queue.name).collect()
}

/// The broker's figures for an existing queue.
///
/// # A queue that does not answer counts as empty
///
/// RabbitMQ gives the leader of a quorum queue 250 ms. Without an answer, or if it reaches no
/// leader, it says that there are no messages and no consumers (`rabbit_quorum_queue:stat`, 3.10 to
/// 4.2). A caller that has a consumer at the queue can tell: an answer without consumers is none.
#[derive(Debug, Clone, Copy)]
pub struct Depth {
    /// Messages that a consumer could have.
    pub ready: u32,
    /// Consumers of all clients.
    pub consumers: u32,
}

impl Depth {
    /// Whether the queue itself has certainly answered. An empty queue without any consumer answers
    /// the same as one that does not.
    pub fn is_known(self) -> bool {
        self.ready > 0 || self.consumers > 0
    }
}

/// The depth of a queue.
///
/// # Errors
/// lapin's error if the queue does not exist; or no answer in time.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<Depth> {
    let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
    let queue =
        in_time(channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
    Ok(Depth { ready: queue.message_count(), consumers: queue.consumer_count() })
}

/// The same for each of these queues, over a separate channel; `None` if the broker refuses to
/// tell, because there is no such queue, say.
///
/// # Errors
/// lapin's error if there is no answer.
pub async fn depths(
    connection: &Connection,
    queues: Vec<String>,
) -> Result<HashMap<String, Option<Depth>>, BrokerError> {
    let open = async || connection.channel().await.map_err(BrokerError::Lost);
    let (mut channel, mut depths) = (open().await?, HashMap::new());
    for queue in queues {
        let depth = match depth(&channel, &queue).await {
            Ok(depth) => Some(depth),
            Err(refused) if Refusal::of(&refused).is_some() => {
                // A refusal closes the channel.
                channel = open().await?;
                None
            }
            Err(error) => return Err(BrokerError::Lost(error)),
        };
        depths.insert(queue, depth);
    }
    let _ = in_time(channel.close(200, "OK".into())).await;
    Ok(depths)
}

async fn declare_exchange(
    channel: &Channel,
    provision: Provision,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = ExchangeDeclareOptions {
        durable: true,
        passive: provision == Provision::Check,
        ..Default::default()
    };
    in_time(channel.exchange_declare(name.into(), kind, options, arguments)).await
}

async fn declare_queue(
    channel: &Channel,
    provision: Provision,
    name: &str,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        durable: true,
        passive: provision == Provision::Check,
        ..Default::default()
    };
    in_time(channel.queue_declare(name.into(), options, arguments)).await.map(drop)
}

async fn bind(channel: &Channel, queue: &QueueSpec) -> lapin::Result<()> {
    for (exchange, key) in &queue.bindings {
        let (name, exchange, key) =
            (queue.name.as_str().into(), (*exchange).into(), key.as_str().into());
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        in_time(channel.queue_bind(name, exchange, key, options, arguments)).await?;
    }
    Ok(())
}

/// Also succeeds if there is no such binding.
async fn unbind_old(channel: &Channel, queue: &QueueSpec) -> lapin::Result<()> {
    let Some((exchange, key)) = &queue.old_binding else { return Ok(()) };
    let (name, exchange, key) =
        (queue.name.as_str().into(), (*exchange).into(), key.as_str().into());
    in_time(channel.queue_unbind(name, exchange, key, FieldTable::default())).await
}
