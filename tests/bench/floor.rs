//! The floor: what the broker's protocol and the calls cost with the same libraries, and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, stream};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, Notify};

/// As many as the worker's publisher has: one publish at a time on each, the only way that its confirms can be trusted.
const CHANNELS: usize = 64;
const PREFETCH: u16 = 128;
const EVENT_BYTES: usize = 450;

/// Consumes commands, publishes a confirmed persistent event for each and acknowledges it.
pub(crate) async fn amqp(url: &str, commands: usize) {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (consuming, publishing) = (connect().await.unwrap(), connect().await.unwrap());
    let channel = consuming.create_channel().await.unwrap();
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let consumer =
        channel.basic_consume("task.delete".into(), "".into(), options, FieldTable::default()).await;
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
    for _ in 0..commands {
        let delivery = deliveries.next().await.unwrap().unwrap();
        let (idle, places) = (Arc::clone(&idle), Arc::clone(&places));
        let (done, all_done) = (Arc::clone(&done), Arc::clone(&all_done));
        tokio::spawn(async move {
            let _place = places.acquire().await;
            let channel = idle.lock().await.pop().unwrap();
            publish(&channel).await;
            idle.lock().await.push(channel);
            delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
            if done.fetch_add(1, Ordering::SeqCst) + 1 == commands {
                all_done.notify_one();
            }
        });
    }
    all_done.notified().await;
    let _ = consuming.close(200, "OK".into()).await;
}

async fn publish(channel: &Channel) {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_message_id("an id of an event".into());
    let body = [b'x'; EVENT_BYTES];
    let confirm =
        channel.basic_publish("task.events".into(), "task.deleted".into(), options, &body, properties).await;
    assert_eq!(confirm.unwrap().await.unwrap(), Confirmation::Ack(None));
}

/// Makes the same calls, as many at once.
pub(crate) async fn http(base_url: &str, commands: usize, concurrency: usize) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    stream::iter(0..commands)
        .for_each_concurrent(concurrency, |number| {
            let call = client
                .delete(format!("{base_url}/organizations/acme/tasks/t{number}/delete"))
                .bearer_auth("token");
            async move { assert_eq!(call.send().await.unwrap().status(), 204) }
        })
        .await;
}
