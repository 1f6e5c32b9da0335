//! Plain consumers beside the workers, one at each node: what they get while a node is struck, a
//! worker can be asked to get, too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::time::{interval, sleep, timeout};

use crate::parts::now_ms;

const QUEUE: &str = "yardstick";
const EVERY: Duration = Duration::from_millis(500);
/// Without a message for so long it connects again.
const PATIENCE: Duration = Duration::from_secs(5);

/// When any of them got a message (ms since 1970).
#[derive(Clone, Default)]
pub(crate) struct Yardstick(Arc<Mutex<Vec<i64>>>);

impl Yardstick {
    /// Begins at each of these URLs.
    pub(crate) fn start(urls: Vec<String>) -> Self {
        let yardstick = Self::default();
        for url in urls {
            let times = yardstick.clone();
            tokio::spawn(async move {
                loop {
                    let _ = timeout(Duration::from_mins(10), times.once(&url)).await;
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
        yardstick
    }

    pub(crate) fn times(&self) -> Vec<i64> {
        let mut times = self.0.lock().expect("nobody panics with it").clone();
        times.sort_unstable();
        times
    }

    async fn once(&self, url: &str) -> lapin::Result<()> {
        let opened = timeout(PATIENCE, async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            let mut arguments = FieldTable::default();
            arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare(QUEUE.into(), options, arguments).await?;
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            let consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none).await?;
            lapin::Result::Ok((connection, channel, consumer))
        });
        let Ok(opened) = opened.await else { return Ok(()) };
        let (_connection, channel, mut consumer) = opened?;
        let publish = async {
            let mut ticks = interval(EVERY);
            loop {
                ticks.tick().await;
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default();
                if channel
                    .basic_publish("".into(), QUEUE.into(), options, b"tick", properties)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        };
        let consume = async {
            while let Ok(Some(Ok(delivery))) = timeout(PATIENCE, consumer.next()).await {
                self.0.lock().expect("nobody panics with it").push(now_ms());
                if timeout(PATIENCE, delivery.ack(BasicAckOptions::default())).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = publish => {} () = consume => {} }
        Ok(())
    }
}
