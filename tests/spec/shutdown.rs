//! The drain: what is in flight is finished and settled, what had not begun goes back.

use std::time::Duration;

use serde_json::json;

use crate::support::crowd::{commands, world_at};
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Reply, StandIn};
use crate::support::world::{ORG, World};
use crate::support::{eventually, eventually_within};

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_gives_back_what_had_not_begun() {
    let mut world = World::start_with(|settings| {
        settings.core.concurrency = 2;
        settings.broker.prefetch = 6;
    })
    .await;
    world.sandbox.fault_for_all(json!({"latency_ms": 500})).await;
    let tasks: Vec<String> = (0..6).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    eventually("two calls in flight", async || {
        (world.sandbox.calls().await.len() >= 2).then_some(())
    })
    .await;
    world.stop_worker().await;
    let calls = world.sandbox.calls().await;
    let ended = world.ended_after(calls.len()).await;
    assert!(ended.len() < tasks.len(), "the drain has cut the list short");
    assert!(ended.iter().all(|end| end["outcome"] == "deleted"), "{ended:?}");
    let ready = eventually("the rest, back in the queue", async || {
        let ready = world.tester.ready(&["task.delete".to_owned()]).await["task.delete"];
        (ready as usize == tasks.len() - ended.len()).then_some(ready)
    });
    assert!(ready.await > 0);
    world.sandbox.heal().await;
    world.start_worker().await;
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "deleted", "{task}");
        assert_eq!(world.sandbox.calls_for(task).await.len(), 1, "{task}");
    }
    world.assert_drained().await;
}

/// RabbitMQ counts how often it is given a message back, and moves it to the dead letters at the
/// 20th time.
#[tokio::test]
async fn restarts_do_not_bring_a_command_that_only_waits_nearer_to_the_dead_letters() {
    let api = StandIn::start(|_| Reply::status(204).after(Duration::from_millis(300))).await;
    let mut world = world_at(&api, |settings| {
        settings.core.concurrency = 1;
        settings.broker.prefetch = 8;
    })
    .await;
    let tasks = commands(&world, ORG, "task", 30).await;
    for _ in 0..5 {
        world.start_worker().await;
        eventually("a call in flight", async || (api.in_flight() > 0).then_some(())).await;
        // The others are delivered meanwhile.
        let received = "tallyfy_delete_worker_deliveries_unsettled";
        eventually("a full prefetch", async || world.metric(received).await.filter(|n| *n >= 6.0))
            .await;
        world.stop_worker().await;
    }
    let (mut left, mut most) = (tasks.len() - world.tester.events().len(), 0);
    while left > 0 {
        let waiting = eventually("what has not ended", || world.tester.take("task.delete")).await;
        let count = waiting.header("x-delivery-count").and_then(|count| count.parse::<u32>().ok());
        (left, most) = (left - 1, count.unwrap_or_default().max(most));
    }
    assert!(most <= 1, "a command was given back {most} times");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_drain_between_two_tries_puts_the_command_into_a_wait_queue_with_its_attempts() {
    let mut world = World::start().await;
    world.sandbox.fault("t1", 100, json!({"status": 503})).await;
    world.delete("t1").await;
    world.called("t1", 2).await;
    world.stop_worker().await;
    let spent = world.sandbox.calls_for("t1").await.len();
    let copy =
        eventually("the waiting copy", async || world.tester.take("task.delete").await).await;
    assert_eq!(copy.header("x-attempts"), Some(spent.to_string()));
    assert_eq!(copy.properties.message_id().as_ref().unwrap().as_str(), "t1");
    world.start_worker().await;
    world.is_ready().await;
    world.assert_drained().await;
}

/// `basic.cancel-ok`, by its class and its method.
const CANCELLED: &str = "\0\x3c\0\x1f";

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_though_the_broker_does_not_answer_the_cancel() {
    let mut world = World::without_worker(|settings| {
        settings.shutdown_grace = Duration::from_secs(20);
        settings.core.api.request_timeout = Duration::from_secs(20);
        // Else the session begins with one at a time, and a cancel of its own.
        settings.broker.prefetch = 1;
    })
    .await;
    let (host, port) = broker().host_port();
    let proxy = Proxy::losing(format!("{host}:{port}"), CANCELLED).await;
    world = world.behind_broker_proxy(&proxy);
    world.sandbox.fault("t1", 1, json!({"latency_ms": 13_000})).await;
    // Before the start: a worker without anything to do asks for a majority, with a cancel, too.
    world.delete("t1").await;
    world.start_worker().await;
    // On a slow machine it asks all the same, and its session ends without an answer.
    let called = async || (!world.sandbox.calls_for("t1").await.is_empty()).then_some(());
    eventually_within(Duration::from_mins(2), "a call for t1", called).await;
    world.stop_worker().await;
    let end = world.end("t1").await;
    assert_eq!((&end["outcome"], &end["ambiguous"]), (&json!("deleted"), &json!(false)));
    assert_eq!(
        world.tester.ready(&["task.delete".to_owned()]).await["task.delete"],
        0,
        "nothing came back"
    );
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_drain_that_takes_too_long_leaves_the_command_to_the_next_worker() {
    let mut world = World::start_with(|settings| {
        settings.shutdown_grace = Duration::from_millis(200);
        settings.core.api.request_timeout = Duration::from_secs(20);
    })
    .await;
    world.sandbox.fault("t1", 1, json!({"hang": true, "after_effect": true})).await;
    world.delete("t1").await;
    world.called("t1", 1).await;
    world.stop_worker().await;
    world.start_worker().await;
    let end = world.end("t1").await;
    assert_eq!((&end["outcome"], &end["ambiguous"]), (&json!("already_absent"), &json!(true)));
    world.assert_drained().await;
}
