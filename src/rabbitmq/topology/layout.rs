//! Every exchange, queue, binding and argument. Pure.

use std::time::Duration;

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};

use crate::kind::Kind;
use crate::messages::names;

const DELIVERY_LIMIT: i32 = 20;
/// The limit of queues that people look into: RabbitMQ 4.0 to 4.2 drop a message that was requeued
/// more often than their default, 20.
pub(super) const LOOKS_LIMIT: i32 = 100_000;
/// Some 400,000 records, which a worker reads in a few seconds when it starts.
const LEDGER_BYTES: i64 = 64 * 1024 * 1024;
/// A stream drops whole segments.
const LEDGER_SEGMENT: i64 = 8 * 1024 * 1024;
const AUDIT_SEGMENT: i64 = 64 * 1024 * 1024;
const X_DELIVERY_LIMIT: &str = "x-delivery-limit";
/// How long dead letters stay in the mirror of their kind.
const MIRROR_AGE: &str = "30D";
/// The mirror's size limit; a dead letter has a few hundred bytes.
const MIRROR_BYTES: i64 = 1024 * 1024 * 1024;
const MIRROR_SEGMENT: i64 = 32 * 1024 * 1024;
const UNROUTED_EVENTS_LIMIT: i32 = 100_000;

/// What should exist.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Whether to declare it or only to check.
    pub provision: Provision,
    /// The kinds that have queues.
    pub kinds: Vec<Kind>,
    /// Name and TTL in milliseconds of each retry delay; each kind has a delay queue for it.
    pub delays: Vec<(String, u32)>,
    /// How long the records of destructive calls are kept.
    pub audit_retention: Duration,
    /// How long a task stays archived before it is deleted, if it is archived first.
    pub undo_window: Option<Duration>,
}

/// What to do about the topology at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// Declare it; needs the permission to configure.
    Declare,
    /// Declare existing exchanges and queues again, which changes nothing and is refused if
    /// arguments differ. Bindings are left alone, because declaring them would create them.
    Compare,
    /// Only check that it exists; needs no permission.
    Check,
}

pub(super) struct QueueSpec {
    pub(super) name: String,
    pub(super) arguments: FieldTable,
    pub(super) bindings: Vec<(&'static str, String)>,
    /// A binding of earlier versions, which is removed when all of this queue's bindings exist.
    pub(super) old_binding: Option<(&'static str, String)>,
    /// The arguments of earlier versions, with which the queue is accepted too.
    pub(super) old_arguments: Option<FieldTable>,
    /// Only needed for looking: a worker that may not declare it works without it.
    pub(super) is_optional: bool,
}

pub(super) fn exchanges() -> [(&'static str, ExchangeKind, FieldTable); 6] {
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
/// At-least-once dead-lettering needs all of these: a dead-letter exchange, the strategy, and
/// `reject-publish`. With the default overflow RabbitMQ silently falls back to at-most-once. The
/// dead-letter queue comes first, then that of undeliverable commands, and the work queue before
/// the delay queues, so that no queue ever dead-letters to one that does not exist yet.
///
/// # An older topology is migrated without loss
///
/// In earlier versions, messages that RabbitMQ dead-letters went straight to the dead letters, by
/// the key of their kind. No queue argument has changed since, only bindings: all new ones are made
/// before the old one is removed, so such a message always has a queue. In between it has both, and
/// its dead letter is there twice.
pub(super) fn queues(topology: &Topology) -> Vec<QueueSpec> {
    let undo = topology.undo_window.filter(|_| topology.kinds.contains(&Kind::TaskDelete));
    let undo = undo.map(|window| undo_queue(Kind::TaskDelete, window));
    let kinds = topology.kinds.iter().flat_map(|kind| queues_of(*kind, &topology.delays));
    [unrouted_events(), ledger(), audit(topology.audit_retention)]
        .into_iter()
        .chain(kinds)
        .chain(undo)
        .collect()
}

fn unrouted_events() -> QueueSpec {
    let arguments = || {
        [
            quorum(),
            ("x-max-length", number(UNROUTED_EVENTS_LIMIT)),
            ("x-overflow", text("drop-head")),
        ]
    };
    QueueSpec {
        name: names::UNROUTED_EVENTS.into(),
        arguments: table(arguments().into_iter().chain([looks_limit()])),
        bindings: vec![(names::UNROUTED_EVENTS, String::new())],
        old_binding: None,
        old_arguments: Some(table(arguments())),
        is_optional: false,
    }
}

fn ledger() -> QueueSpec {
    plain(
        names::LEDGER.into(),
        table([
            ("x-queue-type", text("stream")),
            ("x-max-length-bytes", AMQPValue::LongLongInt(LEDGER_BYTES)),
            ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(LEDGER_SEGMENT)),
        ]),
        (names::LEDGER_EXCHANGE, names::LEDGER.into()),
    )
}

fn audit(retention: Duration) -> QueueSpec {
    plain(
        names::AUDIT.into(),
        table([
            ("x-queue-type", text("stream")),
            ("x-max-age", text(&format!("{}s", retention.as_secs()))),
            ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(AUDIT_SEGMENT)),
        ]),
        (names::LEDGER_EXCHANGE, names::AUDIT.into()),
    )
}

/// A queue that no earlier version declared differently.
fn plain(name: String, arguments: FieldTable, binding: (&'static str, String)) -> QueueSpec {
    QueueSpec {
        name,
        arguments,
        bindings: vec![binding],
        old_binding: None,
        old_arguments: None,
        is_optional: false,
    }
}

fn queues_of(kind: Kind, delays: &[(String, u32)]) -> Vec<QueueSpec> {
    let key = kind.queue();
    let limit = || [(X_DELIVERY_LIMIT, number(DELIVERY_LIMIT))];
    let dead = QueueSpec {
        old_binding: Some((names::DEAD_LETTER_EXCHANGE, key.into())),
        old_arguments: Some(table([quorum()])),
        ..plain(
            kind.dead_letter_queue(),
            table([quorum(), looks_limit()]),
            (names::DEAD_LETTER_EXCHANGE, kind.dead_letter_queue()),
        )
    };
    let to_dead = dead_lettering(names::DEAD_LETTER_EXCHANGE, &dead.name);
    let undeliverable = plain(
        kind.undeliverable_queue(),
        table(to_dead.into_iter().chain(limit())),
        (names::DEAD_LETTER_EXCHANGE, key.into()),
    );
    let to_undeliverable = dead_lettering(names::DEAD_LETTER_EXCHANGE, key);
    let work = plain(
        key.into(),
        table(to_undeliverable.into_iter().chain(limit())),
        (names::COMMANDS_EXCHANGE, key.into()),
    );
    // Commands stay as long as a person takes to decide.
    let held = plain(
        kind.held_queue(),
        table([quorum(), looks_limit()]),
        (names::RETRY_EXCHANGE, kind.held_queue()),
    );
    // Has its own key: see `messages::mirror`.
    let mirror = QueueSpec {
        is_optional: true,
        ..plain(
            kind.mirror(),
            table([
                ("x-queue-type", text("stream")),
                ("x-max-age", text(MIRROR_AGE)),
                ("x-max-length-bytes", AMQPValue::LongLongInt(MIRROR_BYTES)),
                ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(MIRROR_SEGMENT)),
            ]),
            (names::DEAD_LETTER_EXCHANGE, kind.mirror()),
        )
    };
    let delays = delays.iter().map(|(delay, ttl_ms)| {
        let name = kind.delay_queue(delay);
        // The default exchange, so that no other subscriber of task.commands sees a retry.
        let ttl = [("x-message-ttl", AMQPValue::LongUInt(*ttl_ms))];
        let arguments = table(dead_lettering("", key).into_iter().chain(ttl));
        plain(name.clone(), arguments, (names::RETRY_EXCHANGE, name))
    });
    [dead, mirror, undeliverable, work, held].into_iter().chain(delays).collect()
}

fn undo_queue(kind: Kind, window: Duration) -> QueueSpec {
    let name = kind.undo_queue();
    let ttl_ms = u32::try_from(window.as_millis()).unwrap_or(u32::MAX);
    let ttl = [("x-message-ttl", AMQPValue::LongUInt(ttl_ms))];
    let arguments = table(dead_lettering("", kind.queue()).into_iter().chain(ttl));
    plain(name.clone(), arguments, (names::RETRY_EXCHANGE, name))
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", text("quorum"))
}

fn looks_limit() -> (&'static str, AMQPValue) {
    (X_DELIVERY_LIMIT, number(LOOKS_LIMIT))
}

fn dead_lettering(exchange: &str, key: &str) -> [(&'static str, AMQPValue); 5] {
    [
        quorum(),
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-routing-key", text(key)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
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
