//! What RabbitMQ itself takes out of a work queue ends like any other command: with a dead letter
//! and with an event.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tallyfy_delete_worker::rabbitmq::topology::Provision;

use crate::dead_letters::lines;
use crate::support::eventually;
use crate::support::rabbitmq::broker;
use crate::support::raw_amqp::{self, Property, RawMessage, array, entry, text as raw_text};
use crate::support::world::{ORG, World};

const UNDELIVERABLE: &str = "task.delete.undeliverable";

/// A command that its producer lets expire in the queue, where no worker takes it in time.
async fn expiring(world: &World, id: &str, body: &[u8]) {
    let properties =
        BasicProperties::default().with_message_id(id.into()).with_expiration("1".into());
    world.tester.publish(body, properties).await;
}

fn command(task: &str) -> Vec<u8> {
    json!({"org_id": ORG, "task_id": task}).to_string().into_bytes()
}

async fn are_undeliverable(world: &World, number: u32) {
    eventually("RabbitMQ has moved them", async || {
        let ready = world.tester.ready(&[UNDELIVERABLE.to_owned()]).await;
        (ready[UNDELIVERABLE] == number).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_command_that_expires_in_its_queue_has_its_dead_letter_and_its_event() {
    let mut world = World::without_worker(|_| {}).await;
    let tasks: Vec<String> = (0..10).map(|number| format!("t{number}")).collect();
    for task in &tasks {
        world.sandbox.tasks(ORG, &[task], "present").await;
        expiring(&world, task, &command(task)).await;
    }
    expiring(&world, "malformed", b"no command").await;
    are_undeliverable(&world, 11).await;
    world.start_worker().await;
    for task in &tasks {
        let end = world.end(task).await;
        assert_eq!((&end["outcome"], &end["task_id"]), (&json!("dead_lettered"), &json!(task)));
        assert_eq!(end["failure"]["reason"], "expired_in_queue");
        assert_eq!(end["ambiguous"], false);
        let dead_letter = world.dead_letter(task).await;
        assert_eq!(dead_letter.body, command(task), "byte for byte");
        let reason = dead_letter.header("x-failure-reason");
        assert_eq!(reason.as_deref(), Some("expired_in_queue"));
        assert!(dead_letter.header("x-death").is_none(), "or a replay might vanish");
    }
    let end = world.end("malformed").await;
    assert_eq!(
        (&end["failure"]["reason"], &end["org_id"]),
        (&json!("expired_in_queue"), &Value::Null)
    );
    world.dead_letters(11).await;
    assert_eq!(world.sandbox.calls().await.len(), 0, "no call is made for them");
    let counted =
        r#"tallyfy_delete_worker_commands_total{kind="task.delete",verdict="expired_in_queue"}"#;
    assert_eq!(world.metric(counted).await, Some(11.0));
    world.assert_drained().await;
}

#[tokio::test]
async fn a_poison_command_has_its_event_and_is_ambiguous() {
    let mut world = World::without_worker(|_| {}).await;
    world.command(ORG, "t1").await;
    world.tester.poison("task.delete", UNDELIVERABLE).await;
    world.start_worker().await;
    let end = world.end("t1").await;
    assert_eq!((&end["failure"]["reason"], &end["ambiguous"]), (&json!("poison"), &json!(true)));
    assert_eq!(world.dead_letter("t1").await.header("x-ambiguous").as_deref(), Some("true"));
    world.assert_drained().await;
}

#[tokio::test]
async fn undeliverable_commands_end_while_their_organisation_is_suspended_and_the_breaker_is_open()
{
    let world = World::start().await;
    world.sandbox.fault_for_all(json!({"status": 503})).await;
    for task in ["t0", "t1", "t2", "t3", "t4", "t5"] {
        world.delete(task).await;
    }
    world.is_not_ready_because("circuit breaker").await;
    let properties = BasicProperties::default().with_message_id("lost".into());
    world.tester.publish_to("task.dlx", "task.delete", &command("lost"), properties).await;
    assert_eq!(world.end("lost").await["failure"]["reason"], "undeliverable");
    world.is_not_ready_because("circuit breaker").await;
    world.sandbox.heal().await;
    world.ended_after(7).await;
    world.assert_drained().await;
}

/// It runs beside the new one during a rollout, and publishes its dead letters as it always did.
#[tokio::test]
async fn a_dead_letter_of_an_older_worker_is_passed_on_as_it_is() {
    let world = World::start().await;
    let mut headers = FieldTable::default();
    for (name, text) in [
        ("x-failure-reason", "forbidden"),
        ("x-failure-detail", "HTTP 403 says the API"),
        ("x-failed-at", "2026-11-23T10:00:00.123Z"),
        ("x-first-seen", "2026-11-23T09:00:00.000Z"),
        ("x-history", "died before"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    headers.insert("x-attempts".into(), AMQPValue::LongLongInt(7));
    let properties =
        BasicProperties::default().with_message_id("t1".into()).with_headers(headers.clone());
    world.tester.publish_to("task.dlx", "task.delete", &command("t1"), properties).await;
    let dead_letter = world.dead_letter("t1").await;
    for (name, value) in headers.inner() {
        let found = dead_letter.properties.headers().as_ref().unwrap().inner().get(name.as_str());
        assert_eq!(found, Some(value), "{name}");
    }
    assert_eq!(world.end("t1").await["failure"]["reason"], "forbidden");
    world.assert_drained().await;
}

/// Whoever may publish there could say so of anybody.
#[tokio::test]
async fn who_published_an_undeliverable_command_is_only_what_rabbitmq_has_validated() {
    let world = World::start().await;
    let mut headers = FieldTable::default();
    for (name, text) in [("x-failure-reason", "forbidden"), ("x-published-by", "somebody-else")] {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    }
    headers.insert("x-attempts".into(), AMQPValue::LongLongInt(7));
    let properties = BasicProperties::default().with_message_id("t1".into()).with_headers(headers);
    world.tester.publish_to("task.dlx", "task.delete", &command("t1"), properties).await;
    let end = world.end("t1").await;
    assert_eq!((&end["attempts"], end.get("published_by")), (&serde_json::json!(7), None), "{end}");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_user_who_may_not_read_them_deletes_all_the_same_and_readiness_says_what_is_missing() {
    let mut world = World::without_worker(|s| s.broker.topology.provision = Provision::Check).await;
    let user = format!("worker-{}", world.vhost);
    broker().put_user(&user, "pw").await;
    let write = r"^task\.(events|retry|dlx|ledger)$";
    broker().set_permissions(&world.vhost, &user, "^$", write, r"^task\.delete(\.ledger)?$").await;
    world.connect_worker_with(&broker().amqp_url_as(&user, "pw", &world.vhost));
    expiring(&world, "late", &command("late")).await;
    are_undeliverable(&world, 1).await;
    world.start_worker().await;
    let reason = world.is_not_ready_because("undeliverable commands wait").await;
    assert!(reason.contains(UNDELIVERABLE) && reason.contains("ACCESS_REFUSED"), "{reason}");
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    let read = r"^task\.delete(\.(undeliverable|ledger))?$";
    broker().set_permissions(&world.vhost, &user, "^$", write, read).await;
    assert_eq!(world.end("late").await["failure"]["reason"], "expired_in_queue");
    world.is_ready().await;
    world.assert_drained().await;
}

/// The groups of `dead list` after RabbitMQ has moved a command with these headers from its work
/// queue, and again from the queue behind it.
async fn moved_twice(headers: FieldTable) -> Vec<Value> {
    let world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    let properties = BasicProperties::default().with_message_id("t1".into()).with_headers(headers);
    world.tester.publish(&command("t1"), properties).await;
    world.tester.poison("task.delete", UNDELIVERABLE).await;
    world.tester.poison(UNDELIVERABLE, "task.delete.dead").await;
    let groups = lines(&world, &["list", "--json"]).await;
    broker().delete_vhost(&world.vhost).await;
    groups
}

fn texts(entries: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, text) in entries {
        table.insert((*name).into(), AMQPValue::LongString((*text).into()));
    }
    table
}

/// RabbitMQ dead-letters them as they are, so a producer's own `x-failed-at` lay in the dead
/// letters.
#[tokio::test]
async fn what_rabbitmq_moved_is_told_by_rabbitmq_and_not_by_the_headers_of_its_producer() {
    let headers = [("x-failure-reason", "forbidden"), ("x-failed-at", "2099-01-01T00:00:00Z")];
    let groups = moved_twice(texts(&headers)).await;
    assert_eq!(groups[0]["reason"], "poison", "{groups:?}");
    assert!(groups[0]["newest"].as_str().unwrap() < "2099", "{groups:?}");
}

/// RabbitMQ 4 discards the producer's entry, and 3.13 one that is not complete. Before that there
/// are two, in reverse order.
#[tokio::test]
async fn a_producer_cannot_choose_the_reason_of_a_command_that_rabbitmq_moved_twice() {
    let mut headers = FieldTable::default();
    let death = texts(&[("queue", "task.delete"), ("reason", "expired")]);
    let deaths = vec![AMQPValue::FieldTable(death)].into();
    headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
    let groups = moved_twice(headers).await;
    let version = broker().describe();
    let believes = version.contains("RabbitMQ 3.") && !version.contains("RabbitMQ 3.13.");
    let reason = if believes { "undeliverable" } else { "poison" };
    assert_eq!(groups[0]["reason"], reason, "{groups:?}");
}

/// RabbitMQ's own header is as long as the `CC`, and comes first of two of that name.
#[tokio::test]
async fn a_producer_cannot_hide_that_rabbitmq_moved_its_command() {
    let mut world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    let url = broker().amqp_url(&world.vhost);
    let crowd = array("CC", &["task.delete"; 300]);
    let death = |more: &[u8]| {
        let count = entry("count", b'l', &1_i64.to_be_bytes());
        let death = [&count[..], &raw_text("queue", "task.delete"), &raw_text("reason", "expired")];
        entry("x-death", b'A', &raw_amqp::tables(&[[&death.concat(), more].concat()]))
    };
    let elsewhere = raw_text("queue", "elsewhere");
    let other = entry("x-death", b'A', &raw_amqp::tables(std::slice::from_ref(&elsewhere)));
    let hidden = [
        ("crowd", crowd.clone()),
        ("header-twice", [&other[..], &other].concat()),
        ("name-twice", death(&elsewhere)),
        ("long", death(&raw_text("zzz", "x".repeat(5000)))),
    ];
    let forged = [
        raw_text("x-failure-reason", "forbidden"),
        raw_text("x-failed-at", "2099-01-01T00:00:00Z"),
    ]
    .concat();
    for (task, headers) in &hidden {
        let message = RawMessage::to("task.delete", command(task)).with(Property::MessageId, task);
        let message = message.with(Property::Expiration, "1");
        let message = message.headers(&[&forged[..], headers].concat());
        raw_amqp::publish(&url, &message).await.expect("the broker takes it");
    }
    are_undeliverable(&world, 4).await;
    world.start_worker().await;
    for (task, _) in &hidden {
        let end = world.end(task).await;
        assert_eq!(end["failure"]["reason"], "expired_in_queue", "{end}");
    }
    let large = RawMessage::to("task.delete", vec![b'x'; 70_000]);
    let large = large.with(Property::MessageId, "large").headers(&[forged, crowd].concat());
    raw_amqp::publish(&url, &large).await.expect("the broker takes it");
    assert_eq!(world.end("large").await["failure"]["reason"], "malformed");
    let groups = eventually("all are dead letters", async || {
        let groups = lines(&world, &["list", "--json"]).await;
        let letters: u64 = groups.iter().filter_map(|group| group["letters"].as_u64()).sum();
        (letters == 5).then_some(groups)
    })
    .await;
    let mut reasons: Vec<_> = groups.iter().map(|group| group["reason"].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, [Some("expired_in_queue"), Some("malformed")], "{groups:?}");
    world.assert_drained().await;
}
