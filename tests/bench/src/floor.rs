//! The floor: the cost of the broker's protocol and of the calls alone, with the same libraries.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use reqwest::Client;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;

/// As many as the worker's publisher has, with one publish at a time on each: only then can its
/// confirms be trusted.
const CHANNELS: usize = 64;
const PREFETCH: u16 = 128;
const EVENT_BYTES: usize = 450;
const AT_REST: Duration = Duration::from_millis(300);

/// Consumes commands, publishes a confirmed persistent event for each and acknowledges it. With a
/// base URL it makes the call first.
pub(crate) async fn amqp(url: &str, commands: usize, base_url: Option<&str>) {
    let api = base_url.map(|base_url| (client(), base_url.to_owned()));
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (consuming, publishing) = (connect().await.unwrap(), connect().await.unwrap());
    let channel = consuming.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer = channel
        .basic_consume("task.delete".into(), "".into(), options, FieldTable::default())
        .await;
    let mut deliveries = consumer.unwrap();
    let mut idle = Vec::new();
    for _ in 0..CHANNELS {
        let channel = publishing.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        idle.push(channel);
    }
    let places = Arc::new(tokio::sync::Semaphore::new(CHANNELS));
    let idle = Arc::new(Mutex::new(idle));
    let (done, all_done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    for number in 0..commands {
        let delivery = deliveries.next().await.unwrap().unwrap();
        let (idle, places) = (Arc::clone(&idle), Arc::clone(&places));
        let (done, all_done) = (Arc::clone(&done), Arc::clone(&all_done));
        let api = api.clone();
        tokio::spawn(async move {
            let _place = places.acquire().await;
            if let Some((client, base_url)) = api {
                call(&client, &base_url, number).await;
            }
            let channel = idle.lock().await.pop().unwrap();
            publish(&channel, number).await;
            idle.lock().await.push(channel);
            delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
            if done.fetch_add(1, Ordering::SeqCst) + 1 == commands {
                all_done.notify_one();
            }
        });
    }
    all_done.notified().await;
    // RabbitMQ passes acknowledgements to a quorum queue in the background, and loses the last ones
    // if the channel is closed.
    sleep(AT_REST).await;
    let _ = consuming.close(200, "OK".into()).await;
}

/// How long two connections and the first delivery take, in milliseconds: the time of the broker.
pub(crate) async fn first_delivery_ms(url: &str) -> f64 {
    let began = Instant::now();
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (consuming, publishing) = (connect().await.unwrap(), connect().await.unwrap());
    let channel = consuming.create_channel().await.unwrap();
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer = channel
        .basic_consume("task.delete".into(), "".into(), options, FieldTable::default())
        .await;
    drop(consumer.unwrap().next().await.unwrap().unwrap());
    let took = began.elapsed();
    let _ = (consuming.close(200, "OK".into()).await, publishing.close(200, "OK".into()).await);
    took.as_secs_f64() * 1000.0
}

async fn publish(channel: &Channel, number: usize) {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(format!("event {number}").into());
    let body = [b'x'; EVENT_BYTES];
    let confirm = channel
        .basic_publish("task.events".into(), "task.deleted".into(), options, &body, properties)
        .await;
    assert_eq!(confirm.unwrap().await.unwrap(), Confirmation::Ack(None));
}

/// Makes the same calls, with the same concurrency.
pub(crate) async fn http(base_url: &str, commands: usize, concurrency: usize) {
    let client = client();
    stream::iter(0..commands)
        .for_each_concurrent(concurrency, |number| call(&client, base_url, number))
        .await;
    // Until the benchmark has read the figures.
    sleep(AT_REST).await;
}

fn client() -> Client {
    tallyfy_delete_worker::tls_provider::install();
    Client::builder().no_proxy().build().unwrap()
}

async fn call(client: &Client, base_url: &str, number: usize) {
    let url = format!("{base_url}/organizations/acme/tasks/t{number}/delete");
    assert_eq!(client.delete(url).bearer_auth("token").send().await.unwrap().status(), 204);
}
