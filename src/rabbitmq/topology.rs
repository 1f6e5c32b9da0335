//! Every exchange, queue, binding and argument of the topology, and making sure that they are there.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::broker_error::BrokerError;
use super::connection::{Connection, in_time};
use crate::kind::Kind;
use crate::messages::names;

const DELIVERY_LIMIT: i32 = 20;
const UNROUTED_EVENTS_LIMIT: i32 = 100_000;
/// Each look at what lies in a queue counts as a return.
const LOOKS_LIMIT: i32 = 100_000;
/// Some 400,000 records, which a worker reads in a few seconds when it starts.
const LEDGER_BYTES: i64 = 64 * 1024 * 1024;
/// A stream forgets whole segments.
const LEDGER_SEGMENT: i64 = 8 * 1024 * 1024;

/// What shall be there.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Whether to declare it, or only to look.
    pub provision: Provision,
    /// The kinds that have queues.
    pub kinds: Vec<Kind>,
    /// Name and TTL in milliseconds of each retry delay: each kind has a delay queue of it.
    pub delays: Vec<(String, u32)>,
}

/// What to do about the topology at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// Declare it; needs the permission to configure.
    Declare,
    /// Declare what is there already once more, which changes nothing and is refused where arguments differ; bindings are left
    /// as they are, for they would be made.
    Compare,
    /// Only check that it is there; needs no permission.
    Check,
}

struct QueueSpec {
    name: String,
    arguments: FieldTable,
    bindings: Vec<(&'static str, String)>,
}

/// Makes sure of the topology.
///
/// # Errors
/// [`BrokerError::Topology`] names the first exchange or queue that is missing, has other arguments or was not answered for.
pub async fn ensure(connection: &Connection, topology: &Topology) -> Result<(), BrokerError> {
    let failed = |what: String| move |source| BrokerError::Topology { what, source };
    let channel = connection.channel().await.map_err(failed("cannot open a channel".into()))?;
    let verb = match topology.provision {
        Provision::Declare => "cannot declare",
        Provision::Compare => "is not as it should be:",
        Provision::Check => "cannot find",
    };
    for (name, kind, arguments) in exchanges() {
        let declared = declare_exchange(&channel, topology.provision, name, kind, arguments).await;
        declared.map_err(failed(format!("{verb} exchange {name}")))?;
    }
    for queue in queues(topology) {
        let what = format!("{verb} queue {}", queue.name);
        declare_queue(&channel, topology.provision, queue).await.map_err(failed(what))?;
    }
    let _ = in_time(channel.close(200, "OK".into())).await;
    Ok(())
}

/// Names of all queues.
pub fn queue_names(topology: &Topology) -> Vec<String> {
    queues(topology).into_iter().map(|queue| queue.name).collect()
}

/// Messages ready in a queue.
///
/// # Errors
/// lapin's word, where the queue is not there; or that no answer has come in time.
pub(super) async fn depth(channel: &Channel, queue: &str) -> lapin::Result<u32> {
    let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
    let declared =
        in_time(channel.queue_declare(queue.into(), options, FieldTable::default())).await;
    Ok(declared?.message_count())
}

fn exchanges() -> [(&'static str, ExchangeKind, FieldTable); 6] {
    let alternate = table([("alternate-exchange", text(names::UNROUTED_EVENTS))]);
    [
        (names::COMMANDS_EXCHANGE, ExchangeKind::Topic, FieldTable::default()),
        (names::UNROUTED_EVENTS, ExchangeKind::Fanout, FieldTable::default()),
        (names::EVENTS_EXCHANGE, ExchangeKind::Topic, alternate),
        (names::RETRY_EXCHANGE, ExchangeKind::Direct, FieldTable::default()),
        (names::DEAD_LETTER_EXCHANGE, ExchangeKind::Direct, FieldTable::default()),
        (names::LEDGER_EXCHANGE, ExchangeKind::Direct, FieldTable::default()),
    ]
}

/// # No queue loses what it dead-letters
///
/// At-least-once dead-lettering needs all of: a dead-letter exchange, the strategy, and `reject-publish`; with the default
/// overflow RabbitMQ falls back to at-most-once without a word. The dead-letter queue comes first and the work queue
/// before the delay queues, so that no queue ever dead-letters to one that is not there yet.
fn queues(topology: &Topology) -> Vec<QueueSpec> {
    let quorum = || ("x-queue-type", text("quorum"));
    let to = |exchange, key| {
        [
            quorum(),
            ("x-dead-letter-exchange", text(exchange)),
            ("x-dead-letter-routing-key", text(key)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]
    };
    let unrouted = QueueSpec {
        name: names::UNROUTED_EVENTS.into(),
        arguments: table([
            quorum(),
            ("x-max-length", number(UNROUTED_EVENTS_LIMIT)),
            ("x-overflow", text("drop-head")),
        ]),
        bindings: vec![(names::UNROUTED_EVENTS, String::new())],
    };
    let of_a_kind = |kind: &Kind| {
        let key = kind.queue();
        let dead = QueueSpec {
            name: kind.dead_letter_queue(),
            arguments: table([quorum()]),
            bindings: vec![(names::DEAD_LETTER_EXCHANGE, key.into())],
        };
        let limited = to(names::DEAD_LETTER_EXCHANGE, key).into_iter();
        let work = QueueSpec {
            name: key.into(),
            arguments: table(limited.chain([("x-delivery-limit", number(DELIVERY_LIMIT))])),
            bindings: vec![(names::COMMANDS_EXCHANGE, key.into())],
        };
        // As long as a person takes to decide.
        let held = QueueSpec {
            name: kind.held_queue(),
            arguments: table([quorum(), ("x-delivery-limit", number(LOOKS_LIMIT))]),
            bindings: vec![(names::RETRY_EXCHANGE, kind.held_queue())],
        };
        let delays = topology.delays.iter().map(|(delay, ttl_ms)| {
            let name = kind.delay_queue(delay);
            // The default exchange, so that no other subscriber of task.commands sees a retry.
            let ttl = [("x-message-ttl", AMQPValue::LongUInt(*ttl_ms))];
            let arguments = table(to("", key).into_iter().chain(ttl));
            QueueSpec { bindings: vec![(names::RETRY_EXCHANGE, name.clone())], name, arguments }
        });
        [dead, work, held].into_iter().chain(delays).collect::<Vec<_>>()
    };
    let kinds = topology.kinds.iter().flat_map(of_a_kind);
    [unrouted, ledger()].into_iter().chain(kinds).collect()
}

fn ledger() -> QueueSpec {
    QueueSpec {
        name: names::LEDGER.into(),
        arguments: table([
            ("x-queue-type", text("stream")),
            ("x-max-length-bytes", AMQPValue::LongLongInt(LEDGER_BYTES)),
            ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(LEDGER_SEGMENT)),
        ]),
        bindings: vec![(names::LEDGER_EXCHANGE, names::LEDGER.into())],
    }
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
    queue: QueueSpec,
) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        durable: true,
        passive: provision == Provision::Check,
        ..Default::default()
    };
    in_time(channel.queue_declare(queue.name.as_str().into(), options, queue.arguments)).await?;
    if provision == Provision::Declare {
        for (exchange, key) in queue.bindings {
            let (name, key) = (queue.name.as_str().into(), key.as_str().into());
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            in_time(channel.queue_bind(name, exchange.into(), key, options, arguments)).await?;
        }
    }
    Ok(())
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn number(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}
