//! The other side of the broker: a producer with confirms, a reader of events and of dead letters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Queue};
use serde_json::Value;
use tallyfy_delete_worker::kind::Kind;

use super::eventually;

/// A message as its reader sees it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) routing_key: String,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// A header as text, whatever its type.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::LongLongInt(number) => Some(number.to_string()),
            AMQPValue::Boolean(flag) => Some(flag.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    pub(crate) fn header_names(&self) -> Vec<String> {
        let table = self.properties.headers().clone().unwrap_or_default();
        table.inner().keys().map(ToString::to_string).collect()
    }
}

impl From<Delivery> for Message {
    fn from(delivery: Delivery) -> Self {
        let Delivery { routing_key, properties, data, .. } = delivery;
        Self { routing_key: routing_key.to_string(), properties, body: data }
    }
}

type Seen = Arc<Mutex<Vec<Message>>>;

/// Connected to the test's own vhost.
pub(crate) struct Tester {
    _connection: Connection,
    pub(crate) channel: Channel,
    events: Seen,
    dead_letters: Seen,
    dead_letter_channels: Vec<Channel>,
}

impl Tester {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_for(url, &[Kind::TaskDelete]).await
    }

    /// The same, reading the dead letters of these kinds.
    pub(crate) async fn connect_for(url: &str, kinds: &[Kind]) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        channel.queue_declare("spec.events".into(), options, FieldTable::default()).await.unwrap();
        let (queue, exchange) = ("spec.events".into(), "task.events".into());
        channel
            .queue_bind(
                queue,
                exchange,
                "#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let (events, dead_letters) = (Seen::default(), Seen::default());
        read_along(&connection, "spec.events", &events).await;
        let mut dead_letter_channels = Vec::new();
        for kind in kinds {
            let queue = kind.dead_letter_queue();
            dead_letter_channels.push(read_along(&connection, &queue, &dead_letters).await);
        }
        Self { _connection: connection, channel, events, dead_letters, dead_letter_channels }
    }

    /// Publishes a command to the exchange and waits for the confirm.
    pub(crate) async fn publish(&self, body: &[u8], properties: BasicProperties) {
        self.publish_to("task.commands", "task.delete", body, properties).await;
    }

    pub(crate) async fn publish_to(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) {
        let confirmation = self.confirmed(exchange, key, body, properties).await;
        assert_eq!(confirmation, Confirmation::Ack(None));
    }

    /// Publishes and waits for the broker's word; a message that no queue takes comes back with it.
    pub(crate) async fn confirmed(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Confirmation {
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let properties = properties.with_delivery_mode(2);
        let publish =
            self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        publish.await.unwrap().await.unwrap()
    }

    pub(crate) fn events(&self) -> Vec<Message> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn dead_letters(&self) -> Vec<Message> {
        self.dead_letters.lock().unwrap().clone()
    }

    /// From now on dead letters stay where they are.
    pub(crate) async fn leave_dead_letters_alone(&self) {
        for channel in &self.dead_letter_channels {
            channel.close(200, "OK".into()).await.unwrap();
        }
    }

    /// Messages ready in each of these queues.
    pub(crate) async fn ready(&self, queues: &[String]) -> BTreeMap<String, u32> {
        let mut ready = BTreeMap::new();
        for queue in queues {
            ready.insert(queue.clone(), self.declared(queue).await.message_count());
        }
        ready
    }

    pub(crate) async fn is_consumed(&self, queue: &str) -> bool {
        self.declared(queue).await.consumer_count() > 0
    }

    async fn declared(&self, queue: &str) -> Queue {
        let options = QueueDeclareOptions { durable: true, passive: true, ..Default::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        declared.await.unwrap()
    }

    /// Takes the message of a queue and puts it back; whether there was one.
    pub(crate) async fn requeue(&self, queue: &str) -> bool {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        let Some(message) = got else { return false };
        let again = BasicNackOptions { requeue: true, multiple: false };
        message.delivery.acker.nack(again).await.unwrap();
        true
    }

    /// The same, until the broker moves the message to the other queue.
    pub(crate) async fn poison(&self, from: &str, to: &str) {
        eventually("the broker has moved it", async || {
            self.requeue(from).await;
            (self.ready(&[to.to_owned()]).await[to] == 1).then_some(())
        })
        .await;
    }

    /// Takes one message out of a queue.
    pub(crate) async fn take(&self, queue: &str) -> Option<Message> {
        let options = BasicGetOptions { no_ack: true };
        let got = self.channel.basic_get(queue.into(), options).await.unwrap();
        got.map(|message| message.delivery.into())
    }
}

async fn read_along(connection: &Connection, queue: &str, seen: &Seen) -> Channel {
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let mut consumer = channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    let (writer, held) = (Arc::clone(seen), channel.clone());
    tokio::spawn(async move {
        let _held = held;
        while let Some(Ok(delivery)) = consumer.next().await {
            writer.lock().unwrap().push(delivery.into());
        }
    });
    channel
}
