//! Publishing that cannot lie.

use futures_util::{StreamExt, stream};
use lapin::options::{
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use tallyfy_delete_worker::messages::Publication;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::Provision;
use tallyfy_delete_worker::rabbitmq::{Connection, PublishError, Publisher};
use tallyfy_delete_worker::service::ServiceSettings;

use crate::support::eventually;
use crate::support::rabbitmq::broker;
use crate::support::world::World;

const PUBLISHES: usize = 1500;
const PLACES: u32 = 300;
const RETURNED: &str = "tallyfy_delete_worker_publishes_total{result=\"returned\"}";

/// Three kinds of publishes, interleaved: to a queue with room for some, which rejects the rest; to
/// a key that no queue is bound to, which the broker returns; and to a queue that takes everything.
/// Seen to fail on the naive design (every publish on one shared confirm channel, in
/// `Publisher::publish_on_a_channel_of_its_own`) in three runs of three: 57, 66 and 75 of the 500
/// returned messages counted as confirmed.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one scene")]
async fn no_confirm_is_ever_taken_for_another_publishs() {
    let vhost = broker().new_vhost().await;
    let url = broker().amqp_url(&vhost);
    let declaring =
        lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = declaring.create_channel().await.unwrap();
    let limits = [
        ("x-max-length", AMQPValue::LongUInt(PLACES)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    for (queue, arguments) in [("full", &limits[..]), ("roomy", &[])] {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        channel.queue_declare(queue.into(), QueueDeclareOptions::default(), table).await.unwrap();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                queue.into(),
                "amq.direct".into(),
                queue.into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
    }
    let tls = TlsFiles::default();
    let connection = Connection::open(&url.parse().unwrap(), &tls, "spec").await.unwrap();
    let publisher = Publisher::new(connection);
    let results: Vec<(&str, Result<(), PublishError>)> =
        stream::iter((0..PUBLISHES).map(|number| {
            let key = ["full", "nowhere", "roomy"][number % 3];
            let publisher = publisher.clone();
            async move {
                (key, tokio::spawn(async move { publisher.publish(&to(key)).await }).await.unwrap())
            }
        }))
        .buffer_unordered(128)
        .collect()
        .await;
    let confirmed =
        |key: &str| results.iter().filter(|(k, result)| *k == key && result.is_ok()).count();
    assert_eq!(confirmed("nowhere"), 0, "returned, and counted as confirmed");
    assert_eq!(confirmed("roomy"), PUBLISHES / 3, "stored, and not counted as confirmed");
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    let stored = channel
        .queue_declare("full".into(), options, FieldTable::default())
        .await
        .unwrap()
        .message_count();
    assert_eq!(confirmed("full"), stored as usize, "counted as confirmed, against stored");
    assert!(confirmed("full") < PUBLISHES / 3, "the broker rejected some");
    broker().delete_vhost(&vhost).await;
}

/// So that what the test takes away stays away.
fn only_check_the_topology(settings: &mut ServiceSettings) {
    settings.broker.topology.provision = Provision::Check;
}

fn to(key: &str) -> Publication<'_> {
    Publication {
        exchange: "amq.direct",
        routing_key: key.to_owned(),
        body: key.as_bytes().into(),
        message_id: None,
        correlation_id: None,
        content_type: None,
        headers: Vec::new(),
    }
}

#[tokio::test]
async fn a_message_is_not_acknowledged_before_its_outcome_is_confirmed() {
    let mut world = World::start_with(only_check_the_topology).await;
    world.unbind("task.delete.dead", "task.dlx", "task.delete.dead").await;
    let id = world.publish(b"not a command", "m1").await;
    world.is_not_ready_because("cannot publish to task.dlx: RabbitMQ returned it: NO_ROUTE").await;
    assert_eq!(world.tester.events().len(), 0);
    world.stop_worker().await;
    let kept =
        eventually("it is still in the queue", async || world.tester.take("task.delete").await)
            .await;
    assert_eq!(kept.body, b"not a command");
    world.publish(b"not a command", "m1").await;
    world.bind("task.delete.dead", "task.dlx", "task.delete.dead").await;
    world.start_worker().await;
    assert_eq!(world.dead_letter(&id).await.body, b"not a command");
    world.end(&id).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn publishing_goes_on_by_itself_when_the_broker_takes_messages_again() {
    let world = World::start_with(only_check_the_topology).await;
    world.unbind("task.delete.wait.200ms", "task.retry", "task.delete.wait.200ms").await;
    world.sandbox.fault("t1", 1, json!({"status": 429})).await;
    let id = world.delete("t1").await;
    world.is_not_ready_because("cannot publish to task.retry").await;
    world.bind("task.delete.wait.200ms", "task.retry", "task.delete.wait.200ms").await;
    assert_eq!(world.end(&id).await["outcome"], "deleted");
    world.is_ready().await;
    world.assert_drained().await;
}

/// The call takes the time in which some fifteen tries would fit at the first interval.
#[tokio::test]
async fn a_publish_that_fails_is_tried_again_at_growing_intervals() {
    let world = World::start_with(only_check_the_topology).await;
    world.unbind("task.delete.dead", "task.dlx", "task.delete.dead").await;
    world.publish(b"not a command", "m1").await;
    world.is_not_ready_because("cannot publish to task.dlx").await;
    world.sandbox.fault("t1", 1, json!({"latency_ms": 1500})).await;
    world.delete("t1").await;
    world.end("t1").await;
    let tries = world.metric(RETURNED).await.unwrap();
    assert!(tries < 12.0, "{tries} tries");
    world.bind("task.delete.dead", "task.dlx", "task.delete.dead").await;
    world.dead_letter("m1").await;
    world.assert_drained().await;
}

#[tokio::test]
async fn of_several_publishes_that_fail_the_first_is_told_until_the_last_gets_through() {
    let world = World::start_with(only_check_the_topology).await;
    let (dead, wait) = ("task.delete.dead", "task.delete.wait.200ms");
    world.unbind(dead, "task.dlx", dead).await;
    world.unbind(wait, "task.retry", wait).await;
    world.publish(b"not a command", "m1").await;
    world.is_not_ready_because("cannot publish to task.dlx").await;
    world.sandbox.fault("t1", 1, json!({"status": 429})).await;
    world.delete("t1").await;
    world.called("t1", 1).await;
    let returned = async || world.metric(RETURNED).await.unwrap();
    let before = returned().await;
    eventually("a few more tries", async || (returned().await >= before + 4.0).then_some(())).await;
    world.bind(wait, "task.retry", wait).await;
    world.end("t1").await;
    let (status, reason) = world.page("/readyz").await;
    assert_eq!((status, reason.contains("cannot publish to task.dlx")), (503, true), "{reason}");
    world.bind(dead, "task.dlx", dead).await;
    world.dead_letter("m1").await;
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_wait_queue_or_an_exchange_deleted_under_the_worker_is_declared_again() {
    let world = World::start().await;
    let channel = &world.tester.channel;
    let queue = "task.delete.wait.200ms";
    channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    world.sandbox.fault("t1", 1, json!({"status": 429})).await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    channel.exchange_delete("task.dlx".into(), ExchangeDeleteOptions::default()).await.unwrap();
    world.publish(b"not a command", "m1").await;
    world.dead_letter("m1").await;
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn an_event_that_no_queue_takes_is_kept_in_the_unrouted_queue() {
    let world = World::start().await;
    world.unbind("spec.events", "task.events", "#").await;
    world.delete("t1").await;
    let event =
        eventually("an unrouted event", async || world.tester.take("task.events.unrouted").await);
    assert_eq!(event.await.json()["data"]["outcome"], "deleted");
    world.assert_drained().await;
}
