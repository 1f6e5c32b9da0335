//! Plain clients beside the workers, at each node. They are the baseline: while they make progress
//! during a fault, a worker can be expected to do so, too.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use tallyfy_delete_worker::messages::names;
use tokio::time::{interval, sleep, timeout};

use crate::parts::now_ms;

const QUEUE: &str = "baseline";
const EVERY: Duration = Duration::from_millis(500);
/// Without a message for this long it connects again.
const PATIENCE: Duration = Duration::from_secs(5);

/// # An abandoned connection is closed
///
/// lapin keeps a connection on which an answer is pending: its consumer then starts after all,
/// takes messages and acknowledges none.
pub(crate) async fn close(connection: &Connection) {
    let _ = timeout(Duration::from_secs(2), connection.close(200, "OK".into())).await;
}

/// When any of the clients made progress (ms since 1970).
#[derive(Clone, Default)]
pub(crate) struct Baseline(Arc<Mutex<Vec<i64>>>);

impl Baseline {
    /// Starts a consumer at each of these URLs.
    pub(crate) fn start(urls: Vec<String>) -> Self {
        let baseline = Self::default();
        for url in urls {
            let times = baseline.clone();
            tokio::spawn(async move {
                loop {
                    let _ = timeout(Duration::from_mins(10), times.once(&url)).await;
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
        baseline
    }

    /// Starts a publisher to this stream of the workers at each of these URLs. Its records mean
    /// nothing to a worker. While RabbitMQ does not confirm them, no worker can write there.
    pub(crate) fn publishing_to(stream: &'static str, urls: Vec<String>) -> Self {
        let baseline = Self::default();
        for url in urls {
            let times = baseline.clone();
            tokio::spawn(async move {
                loop {
                    let _ = times.confirmed_once(&url, stream).await;
                    sleep(Duration::from_millis(500)).await;
                }
            });
        }
        baseline
    }

    async fn confirmed_once(&self, url: &str, stream: &str) -> lapin::Result<()> {
        let connect = Connection::connect(url, ConnectionProperties::default());
        let Ok(connection) = timeout(PATIENCE, connect).await else { return Ok(()) };
        let connection = connection?;
        let publish = async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let mut ticks = interval(EVERY);
            loop {
                ticks.tick().await;
                let (exchange, key) = (names::LEDGER_EXCHANGE.into(), stream.into());
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default();
                let confirm =
                    channel.basic_publish(exchange, key, options, b"tick", properties).await?;
                match timeout(PATIENCE, confirm).await {
                    Ok(Ok(Confirmation::Ack(None))) => {
                        self.0.lock().expect("a lock that is not poisoned").push(now_ms());
                    }
                    _ => return lapin::Result::Ok(()),
                }
            }
        };
        let _ = publish.await;
        close(&connection).await;
        Ok(())
    }

    pub(crate) fn times(&self) -> Vec<i64> {
        let mut times = self.0.lock().expect("a lock that is not poisoned").clone();
        times.sort_unstable();
        times
    }

    async fn once(&self, url: &str) -> lapin::Result<()> {
        let connect = Connection::connect(url, ConnectionProperties::default());
        let Ok(connection) = timeout(PATIENCE, connect).await else { return Ok(()) };
        let connection = connection?;
        if let Ok(Ok((channel, consumer))) = timeout(PATIENCE, consume(&connection)).await {
            self.listen(&channel, consumer).await;
        }
        close(&connection).await;
        Ok(())
    }

    async fn listen(&self, channel: &Channel, mut consumer: Consumer) {
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
                self.0.lock().expect("a lock that is not poisoned").push(now_ms());
                if timeout(PATIENCE, delivery.ack(BasicAckOptions::default())).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = publish => {} () = consume => {} }
    }
}

async fn consume(connection: &Connection) -> lapin::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(QUEUE.into(), options, arguments).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(QUEUE.into(), "".into(), options, none).await?;
    Ok((channel, consumer))
}
