//! The producer of the commands, and the consumers of their events and dead letters.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::commands::Command;

/// The queues that must be empty at the end.
pub(crate) const QUEUES: [&str; 4] =
    ["task.delete", "task.delete.wait.1s", "task.delete.wait.2s", "task.delete.wait.4s"];

/// Something that arrived: an outcome event or a dead letter.
pub(crate) enum Arrival {
    /// The event's JSON.
    Event(Value),
    /// A dead letter.
    DeadLetter(DeadLetter),
}

/// The content of a dead letter.
pub(crate) struct DeadLetter {
    /// Message id of the command.
    pub(crate) id: String,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Reason and detail, from the headers.
    pub(crate) why: String,
}

impl DeadLetter {
    fn read(delivery: Delivery) -> Self {
        let header = |name: &str| match delivery.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            _ => None,
        };
        let header = |name| header(name).unwrap_or_else(|| format!("no {name}"));
        let why = format!("{}: {}", header("x-failure-reason"), header("x-failure-detail"));
        let id =
            delivery.properties.message_id().as_ref().map(ToString::to_string).unwrap_or_default();
        Self { id, body: delivery.data, why }
    }
}

/// The producer and the readers.
pub(crate) struct Inbox {
    _connection: Connection,
    channel: Channel,
    dead_letters: Channel,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
}

impl Inbox {
    pub(crate) async fn open(url: &str) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let table = FieldTable::default;
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare("demo.events".into(), exclusive, table()).await.expect("a queue");
        let bind = QueueBindOptions::default();
        channel
            .queue_bind("demo.events".into(), "task.events".into(), "#".into(), bind, table())
            .await
            .expect("a binding");
        let (sender, arrivals) = mpsc::unbounded_channel();
        read(&channel, "demo.events", true, sender.clone(), |delivery| {
            Arrival::Event(serde_json::from_slice(&delivery.data).unwrap_or_default())
        })
        .await;
        // Read but never acknowledged: RabbitMQ requeues them when the channel is closed, so that a
        // person can look at them.
        let dead_letters = connection.create_channel().await.expect("a channel");
        read(&dead_letters, "task.delete.dead", false, sender, |delivery| {
            Arrival::DeadLetter(DeadLetter::read(delivery))
        })
        .await;
        Self { _connection: connection, channel, dead_letters, arrivals }
    }

    /// Publishes a command, every fourth directly to the queue, and waits for the confirm.
    pub(crate) async fn publish(&self, number: usize, command: &Command) {
        let exchange = if number % 4 == 3 { "" } else { "task.commands" };
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_message_id(command.id.as_str().into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let key = "task.delete".into();
        let publish =
            self.channel.basic_publish(exchange.into(), key, options, &command.body, properties);
        let confirmation = publish.await.expect("published").await.expect("confirmed");
        assert_eq!(confirmation, Confirmation::Ack(None), "the broker took it");
    }

    /// Requeues the dead letters; returns how many are ready in their queue.
    pub(crate) async fn requeue_dead_letters(&self, expected: usize) -> usize {
        let _ = self.dead_letters.close(200, "OK".into()).await;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let ready = self.ready("task.delete.dead").await as usize;
            if ready == expected || Instant::now() > deadline {
                return ready;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn next(&mut self) -> Arrival {
        self.arrivals.recv().await.expect("the broker stays")
    }

    /// Messages ready in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
        let declared =
            self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.expect("the queue is there").message_count()
    }
}

async fn read(
    channel: &Channel,
    queue: &str,
    no_ack: bool,
    arrivals: mpsc::UnboundedSender<Arrival>,
    arrival: impl Fn(Delivery) -> Arrival + Send + 'static,
) {
    let options = BasicConsumeOptions { no_ack, ..Default::default() };
    let consumer =
        channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
    let mut consumer = consumer.expect("a consumer");
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = consumer.next().await {
            let _ = arrivals.send(arrival(delivery));
        }
    });
}
