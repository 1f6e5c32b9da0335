//! Facts of RabbitMQ's streams that the ledger stands on, through the client library that the
//! worker uses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::time::timeout;

use crate::support::rabbitmq::broker;

const STREAM: &str = "spec.stream";

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

async fn publish(channel: &Channel, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let body = number.to_string();
        let confirm = channel.basic_publish(
            "".into(),
            STREAM.into(),
            BasicPublishOptions { mandatory: true, ..Default::default() },
            body.as_bytes(),
            BasicProperties::default().with_delivery_mode(2),
        );
        assert_eq!(confirm.await.unwrap().await.unwrap(), Confirmation::Ack(None));
    }
}

/// The first number that is read from this offset, and how many follow.
async fn read_from(connection: &Connection, offset: AMQPValue, last: u32) -> Vec<(u32, u64)> {
    let channel = connection.create_channel().await.unwrap();
    channel.basic_qos(100, BasicQosOptions::default()).await.unwrap();
    let arguments = table([("x-stream-offset", offset)]);
    let options = BasicConsumeOptions::default();
    let mut deliveries =
        channel.basic_consume(STREAM.into(), "".into(), options, arguments).await.unwrap();
    let mut read = Vec::new();
    while let Ok(Some(delivery)) = timeout(Duration::from_secs(5), deliveries.next()).await {
        let delivery = delivery.unwrap();
        let number = String::from_utf8(delivery.data.clone()).unwrap().parse().unwrap();
        let headers = delivery.properties.headers().clone().unwrap_or_default();
        let Some(AMQPValue::LongLongInt(offset)) = headers.inner().get("x-stream-offset") else {
            panic!("{headers:?}")
        };
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        read.push((number, u64::try_from(*offset).unwrap()));
        if number == last {
            break;
        }
    }
    read
}

#[tokio::test]
async fn a_stream_is_read_from_the_first_record_and_from_a_moment_on() {
    let vhost = broker().new_vhost().await;
    let url = broker().amqp_url(&vhost);
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let arguments = table([
        ("x-queue-type", AMQPValue::LongString("stream".into())),
        ("x-max-length-bytes", AMQPValue::LongLongInt(64 * 1024 * 1024)),
        ("x-stream-max-segment-size-bytes", AMQPValue::LongLongInt(4 * 1024 * 1024)),
    ]);
    channel.queue_declare(STREAM.into(), options, arguments).await.unwrap();
    publish(&channel, 0..300).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let moment = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    publish(&channel, 300..400).await;

    let first = AMQPValue::LongString("first".into());
    let all = read_from(&connection, first, 399).await;
    assert_eq!(all, (0..400).map(|n| (n, u64::from(n))).collect::<Vec<_>>());
    let later = read_from(&connection, AMQPValue::Timestamp(moment), 399).await;
    eprintln!("from a moment: {:?} .. {:?}", later.first(), later.last());
    assert_eq!(later.last(), Some(&(399, 399)));
    let started = std::time::Instant::now();
    publish(&channel, 400..500).await;
    eprintln!("100 confirmed: {:?}", started.elapsed());
    assert!(later[0].0 >= 300, "{:?}", later[0]);
    broker().delete_vhost(&vhost).await;
}
