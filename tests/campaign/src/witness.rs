//! Independent consumers of the outcome events and of the dead letters. Each message is recorded
//! before it is acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::names;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::baseline::close;
use crate::parts::now_ms;
use crate::records::{DeadLetter, Event, Pending};

/// The queue of the events. It is small and rejects publishes when it is full, so a witness that
/// stops consuming makes the broker refuse events.
pub(crate) const EVENTS: &str = "campaign.events";
pub(crate) const ROOM: i32 = 30;
/// Without a message for this long it connects again.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was received so far.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Event>,
    pub(crate) dead_letters: Vec<DeadLetter>,
    /// Tasks that are archived and will be deleted.
    pub(crate) pending: Vec<Pending>,
    /// Where a token was seen.
    pub(crate) leaks: Vec<String>,
}

/// The consumers, which reconnect whenever the broker is lost.
pub(crate) struct Witness {
    pub(crate) seen: Arc<Mutex<Seen>>,
    consuming: watch::Sender<bool>,
}

impl Witness {
    /// Declares its queue and begins.
    pub(crate) async fn start(url: &str, room: i32) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ");
        let channel = connection.create_channel().await.expect("a channel");
        declare(&channel, room).await.expect("the queue of the events");
        let (seen, consuming) = (Arc::default(), watch::Sender::new(true));
        let dead_letters = Kind::ALL.map(|kind| (kind.dead_letter_queue(), Some(kind)));
        for (queue, kind) in dead_letters.into_iter().chain([(EVENTS.to_owned(), None)]) {
            tokio::spawn(watch_indefinitely(
                url.to_owned(),
                (queue, kind),
                Arc::clone(&seen),
                consuming.subscribe(),
            ));
        }
        Self { seen, consuming }
    }

    /// Stops consuming events, so that their queue fills up, or starts again.
    pub(crate) fn consume(&self, consuming: bool) {
        self.consuming.send_replace(consuming);
    }

    /// Whether the dead letter of every reported failure has arrived. The depth of the queue does
    /// not say so: RabbitMQ does not count as ready what it has sent to a consumer that it no
    /// longer reaches.
    pub(crate) fn has_every_dead_letter(&self) -> bool {
        let seen = self.seen.lock().expect("a lock that is not poisoned");
        let dead_letters: std::collections::HashSet<&str> =
            seen.dead_letters.iter().map(|dead_letter| dead_letter.command_id.as_str()).collect();
        let mut failures = seen.events.iter().filter(|event| event.outcome == "dead_lettered");
        failures.all(|event| dead_letters.contains(event.command_id.as_str()))
    }

    /// How many commands have ended.
    pub(crate) fn ended(&self) -> usize {
        let seen = self.seen.lock().expect("a lock that is not poisoned");
        let ids: std::collections::HashSet<&str> =
            seen.events.iter().map(|event| event.command_id.as_str()).collect();
        ids.len()
    }
}

async fn declare(channel: &Channel, room: i32) -> lapin::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(room));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(EVENTS.into(), options, arguments).await?;
    let (exchange, key) = ("task.events".into(), "#".into());
    channel
        .queue_bind(
            EVENTS.into(),
            exchange,
            key,
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
}

async fn watch_indefinitely(
    url: String,
    (queue, kind): (String, Option<Kind>),
    seen: Arc<Mutex<Seen>>,
    mut consuming: watch::Receiver<bool>,
) {
    loop {
        let _ = consuming.wait_for(|consuming| *consuming).await;
        tokio::select! {
            _ = watch_once(&url, &queue, kind, &seen) => {}
            _ = consuming.wait_for(|consuming| !*consuming), if kind.is_none() => {}
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// A queue of dead letters has a kind; the queue of the events has none.
async fn watch_once(
    url: &str,
    queue: &str,
    kind: Option<Kind>,
    seen: &Mutex<Seen>,
) -> lapin::Result<()> {
    // Docker keeps the port of a dead broker open: it accepts the connection and never answers.
    let connect = Connection::connect(url, ConnectionProperties::default());
    let Ok(connection) = timeout(PATIENCE, connect).await else { return Ok(()) };
    let connection = connection?;
    if let Ok(Ok((_channel, deliveries))) = timeout(PATIENCE, consume(&connection, queue)).await {
        listen(deliveries, (queue, kind), seen).await;
    }
    close(&connection).await;
    Ok(())
}

async fn listen(mut deliveries: Consumer, (queue, kind): (&str, Option<Kind>), seen: &Mutex<Seen>) {
    while let Ok(Some(Ok(delivery))) = timeout(PATIENCE, deliveries.next()).await {
        record(queue, kind, &delivery, &mut seen.lock().expect("a lock that is not poisoned"));
        // On a connection that leads nowhere it waits indefinitely.
        if !matches!(
            timeout(PATIENCE, delivery.acker.ack(BasicAckOptions::default())).await,
            Ok(Ok(_))
        ) {
            break;
        }
    }
}

async fn consume(connection: &Connection, queue: &str) -> lapin::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let deliveries =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    Ok((channel, deliveries))
}

fn record(queue: &str, kind: Option<Kind>, delivery: &Delivery, seen: &mut Seen) {
    let everything =
        format!("{:?} {}", delivery.properties, String::from_utf8_lossy(&delivery.data));
    if everything.contains(crate::parts::TOKEN_MARK) {
        seen.leaks.push(format!("a message in {queue}"));
    }
    match kind {
        None => record_event(delivery, seen),
        Some(kind) => seen.dead_letters.push(dead_letter(kind, delivery)),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn object(data: &Value) -> String {
    let ids = Kind::ALL.map(|kind| text(&data[kind.spec().id_member]));
    ids.into_iter().find(|id| !id.is_empty()).unwrap_or_default()
}

/// Events of the guard and its operators are not ends of commands.
fn record_event(delivery: &Delivery, seen: &mut Seen) {
    let event: Value = serde_json::from_slice(&delivery.data).unwrap_or_default();
    let is_of_the_guard = |kind: &str| {
        [names::RELEASED_EVENT, names::REJECTED_EVENT].contains(&kind)
            || Kind::ALL.iter().any(|other| other.spec().held_event == kind)
    };
    match text(&event["type"]).as_str() {
        names::PENDING_EVENT => seen.pending.push(pending(&event["data"])),
        kind if is_of_the_guard(kind) => {}
        _ => seen.events.push(end(&event)),
    }
}

fn pending(data: &Value) -> Pending {
    let purge_at = data["purge_at"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let purge_at_ms = purge_at.map_or(0, Timestamp::as_millisecond);
    Pending { org: text(&data["org_id"]), object: object(data), purge_at_ms }
}

fn end(event: &Value) -> Event {
    let data = &event["data"];
    Event {
        at_ms: now_ms(),
        id: text(&event["id"]),
        command_id: text(&data["command_id"]),
        org: text(&data["org_id"]),
        object: object(data),
        outcome: text(&data["outcome"]),
        reason: text(&data["failure"]["reason"]),
        supersedes: event["supersedes"].as_str().map(str::to_owned),
    }
}

/// Without a message id, the id of the command is derived from the body, as for its event.
fn dead_letter(kind: Kind, delivery: &Delivery) -> DeadLetter {
    let headers = delivery.properties.headers().clone().unwrap_or_default();
    let reason = match headers.inner().get("x-failure-reason") {
        Some(AMQPValue::LongString(reason)) => reason.to_string(),
        _ => String::new(),
    };
    let derived = || {
        tallyfy_delete_worker::messages::Command::decode(kind, &delivery.data)
            .map(|c| c.derived_id())
    };
    let id = delivery.properties.message_id().as_ref().map(ToString::to_string);
    DeadLetter {
        at_ms: now_ms(),
        command_id: id.unwrap_or_else(|| derived().unwrap_or_default()),
        reason,
    }
}
