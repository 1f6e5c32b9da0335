//! Messages that mean harm: none stops the worker, none makes a call or a publish that it should
//! not, none uses up an attempt of another command. If a fault of the worker would end its process,
//! it runs as one of its own.

use std::collections::HashSet;
use std::process::Stdio;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;

use crate::command_line::{signal, with_settings};
use crate::dead_letters::lines;
use crate::support::eventually;
use crate::support::process::Running;
use crate::support::rabbitmq::broker;
use crate::support::raw_amqp::{
    self, Property, RawMessage, array, entry, nested_arrays, nested_tables, text,
};
use crate::support::world::{ORG, World};

fn command(task: &str) -> RawMessage {
    let body = json!({"org_id": ORG, "task_id": task}).to_string();
    RawMessage::to("task.delete", body).with(Property::MessageId, task)
}

async fn send(world: &World, message: &RawMessage) {
    raw_amqp::publish(&broker().amqp_url(&world.vhost), message)
        .await
        .expect("the broker takes it");
}

/// Header entries of about this many bytes, none of them longer than a KiB.
fn many_headers(bytes: usize) -> Vec<u8> {
    (0..bytes / 1024).flat_map(|number| text(&format!("h{number:04}"), [b'x'; 1000])).collect()
}

#[tokio::test]
async fn a_message_that_cannot_be_parsed_ends_in_the_dead_letters_and_uses_up_no_attempt() {
    let mut world = World::without_worker(|_| {}).await;
    let tasks: Vec<String> = (0..20).map(|number| format!("task-{number}")).collect();
    let properties =
        [Property::MessageId, Property::ContentType, Property::CorrelationId, Property::ReplyTo];
    for (number, task) in tasks.iter().enumerate() {
        if let Some(property) = number.checked_sub(8).and_then(|place| properties.get(place)) {
            let poison = RawMessage::to("task.delete", format!("poison-{number}"));
            send(&world, &poison.with(*property, b"\xff\xfe\xfd")).await;
        }
        world.delete(task).await;
    }
    world.start_worker().await;
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "deleted");
    }
    let dead_letters = world.dead_letters(4).await;
    for dead_letter in &dead_letters {
        assert!(dead_letter.body.starts_with(b"poison-"));
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("malformed"));
    }
    let details: Vec<_> = dead_letters
        .iter()
        .filter_map(|dead_letter| dead_letter.header("x-failure-detail"))
        .collect();
    assert!(
        details.contains(&r"its message_id is not UTF-8: \xff\xfe\xfd".to_owned()),
        "{details:?}"
    );
    assert_eq!(world.sandbox.calls().await.len(), 20);
    assert_eq!(world.metric("tallyfy_delete_worker_reconnects_total").await, Some(0.0));
    world.assert_drained().await;
}

#[tokio::test]
async fn messages_of_one_kind_that_cannot_be_parsed_hold_up_no_command_of_another() {
    let mut world = World::without_worker(|settings| {
        settings.broker.topology.kinds = vec![Kind::TaskDelete, Kind::TaskArchive];
    })
    .await;
    world.declare_topology().await;
    let tasks: Vec<String> = (0..20).map(|number| format!("task-{number}")).collect();
    for (number, task) in tasks.iter().enumerate() {
        let poison = RawMessage::to("task.delete", format!("poison-{number}"));
        send(&world, &poison.with(Property::MessageId, b"\xff\xfe\xfd")).await;
        world.archive(task).await;
    }
    world.start_worker().await;
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "archived");
    }
    for dead_letter in world.dead_letters(20).await {
        assert!(dead_letter.body.starts_with(b"poison-"));
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("malformed"));
    }
    assert_eq!(world.sandbox.calls().await.len(), 20, "each command was carried out once");
    world.assert_drained().await;
}

#[tokio::test]
async fn header_tables_of_any_size_or_depth_stop_nothing() {
    let world = World::without_worker(|_| {}).await;
    let traced = |table: Vec<u8>| [table, text("traceparent", "00-trace-01")].concat();
    let tables = [
        nested_tables(100),
        nested_tables(1_000),
        nested_tables(5_000),
        nested_arrays(5_000),
        many_headers(60 * 1024),
        many_headers(120 * 1024),
        text("one", vec![b'x'; 120 * 1024]),
    ];
    let tasks: Vec<String> = (0..tables.len()).map(|number| format!("task-{number}")).collect();
    for (task, table) in tasks.iter().zip(tables) {
        world.sandbox.tasks(ORG, &[task], "present").await;
        send(&world, &command(task).headers(&traced(table))).await;
    }
    let mut worker = Running::start(with_settings(&world, &["run"]).stderr(Stdio::null()));
    for task in &tasks {
        let end = world.end_message(task).await;
        assert_eq!(end.json()["data"]["outcome"], "deleted", "{task}");
        assert_eq!(end.header("traceparent").as_deref(), Some("00-trace-01"), "{task}");
    }
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    assert_eq!(world.sandbox.calls().await.len(), tasks.len());
    broker().delete_vhost(&world.vhost).await;
}

/// The management API is bound by no frame's size, and the broker sends its header in one frame all
/// the same.
#[tokio::test]
async fn a_header_larger_than_the_agreed_frame_does_not_silence_the_connection() {
    let world = World::without_worker(|_| {}).await;
    let nested = |levels: usize| r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
    let large = |bytes: usize| json!({"big": "x".repeat(bytes)}).to_string();
    let tables = [large(200 * 1024), large(5 * 1024 * 1024), nested(5_000)];
    let tasks: Vec<String> = (0..tables.len()).map(|number| format!("task-{number}")).collect();
    for (task, table) in tasks.iter().zip(tables) {
        world.sandbox.tasks(ORG, &[task], "present").await;
        let body = json!({"org_id": ORG, "task_id": task}).to_string();
        broker().publish_with_headers(&world.vhost, "task.delete", &body, task, &table).await;
    }
    let last = world.delete("last").await;
    let mut worker = Running::start(with_settings(&world, &["run"]).stderr(Stdio::null()));
    for task in tasks.iter().chain([&last]) {
        assert_eq!(world.end(task).await["outcome"], "deleted");
    }
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_routing_key_that_is_no_text_does_not_matter() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let to_the_queue = array("CC", &["task.delete"]);
    send(&world, &command("t1").routed_by(b"\xff\xfe").headers(&to_the_queue)).await;
    assert_eq!(world.end("t1").await["outcome"], "deleted");
    assert_eq!(world.metric("tallyfy_delete_worker_reconnects_total").await, Some(0.0));
    world.assert_drained().await;
}

#[tokio::test]
async fn nothing_is_published_where_a_producer_pointed() {
    let world = World::start_with(|settings| settings.core.schedule.max_attempts = 5).await;
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    world
        .tester
        .channel
        .queue_declare("trap".into(), options, FieldTable::default())
        .await
        .unwrap();
    for exchange in ["task.events", "task.retry", "task.dlx", "task.events.unrouted"] {
        world.bind("trap", exchange, "trap").await;
    }
    world.unbind("trap", "task.events.unrouted", "trap").await;
    world.sandbox.tasks(ORG, &["good", "bad"], "present").await;
    world.sandbox.fault("good", 4, json!({"status": 503})).await;
    world.sandbox.fault("bad", 9, json!({"status": 503})).await;
    let headers =
        [array("CC", &["trap"]), array("BCC", &["trap"]), text("x-dead-letter-exchange", "trap")]
            .concat();
    for task in ["good", "bad"] {
        let pointing =
            command(task).with(Property::ReplyTo, "trap").with(Property::Expiration, "60000");
        send(&world, &pointing.through("task.commands").headers(&headers)).await;
    }
    let messages = [
        world.end_message("good").await,
        world.end_message("bad").await,
        world.dead_letter("bad").await,
    ];
    for message in &messages {
        let properties = &message.properties;
        assert!(
            properties.reply_to().is_none() && properties.expiration().is_none(),
            "{message:?}"
        );
        assert!(
            !message
                .header_names()
                .iter()
                .any(|name| name.ends_with("CC") || name.contains("exchange"))
        );
    }
    assert_eq!(world.tester.ready(&["trap".to_owned()]).await["trap"], 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_forged_x_death_does_not_make_a_command_vanish() {
    let world = World::start().await;
    let deaths: Vec<Vec<u8>> =
        ["task.delete", "task.delete.wait.200ms", "task.delete.wait.500ms", "task.delete.wait.1s"]
            .map(|queue| {
                let count = entry("count", b'l', &99_i64.to_be_bytes());
                let reason = text("reason", "expired");
                let exchange = text("exchange", "task.retry");
                [count, reason, text("queue", queue), exchange, array("routing-keys", &[queue])]
                    .concat()
            })
            .to_vec();
    let as_the_broker_would = entry("x-death", b'A', &raw_amqp::tables(&deaths));
    let forged = [("array", as_the_broker_would), ("text", text("x-death", "forged"))];
    for (task, headers) in &forged {
        world.sandbox.tasks(ORG, &[task], "present").await;
        world.sandbox.fault(task, 7, json!({"status": 503})).await;
        send(&world, &command(task).headers(headers)).await;
    }
    for (task, _) in &forged {
        assert_eq!(world.end(task).await["outcome"], "deleted");
        assert_eq!(world.sandbox.calls_for(task).await.len(), 8);
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_forged_age_or_number_of_attempts_harms_only_its_own_command() {
    let world = World::start().await;
    let number = |name: &str, value: i64| entry(name, b'l', &value.to_be_bytes());
    let forged = [
        ("old", "expired", text("x-first-seen", "0001-01-01T00:00:00Z")),
        ("tired", "attempts_exhausted", number("x-attempts", i64::MAX)),
        ("marked", "malformed", text("x-unreadable", "says who?")),
        ("young", "deleted", text("x-first-seen", "9999-12-31T00:00:00Z")),
        ("negative", "deleted", number("x-attempts", i64::MIN)),
        ("returned", "deleted", number("x-delivery-count", 19)),
        (
            "nonsense",
            "deleted",
            [text("x-attempts", "many"), text("x-first-seen", "now"), number("x-ambiguous", 1)]
                .concat(),
        ),
    ];
    for (task, times) in [("tired", 1), ("old", 4)] {
        world.sandbox.fault(task, times, json!({"status": 503})).await;
    }
    for (task, _, headers) in &forged {
        world.sandbox.tasks(ORG, &[task], "present").await;
        // As a worker, or whoever has its password, would.
        let signed = command(task).headers(headers).with(Property::UserId, broker().user());
        send(&world, &signed).await;
        world.delete(&format!("after-{task}")).await;
    }
    for (task, expected, _) in &forged {
        let end = world.end(task).await;
        let reason =
            if end["outcome"] == "deleted" { &end["outcome"] } else { &end["failure"]["reason"] };
        assert_eq!(reason, expected, "{task}");
        assert_eq!(world.end(&format!("after-{task}")).await["outcome"], "deleted");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn our_headers_are_believed_only_with_the_user_id_of_a_worker() {
    let world = World::start().await;
    let producer = format!("producer-{}", world.vhost);
    broker().put_user(&producer, "pw").await;
    broker().set_permissions(&world.vhost, &producer, "^$", "^amq\\.default$", "^$").await;
    let url = broker().amqp_url_as(&producer, "pw", &world.vhost);
    let headers = [
        text("x-first-seen", "0001-01-01T00:00:00Z"),
        text("x-published-by", "the boss"),
        text("x-history", "died before"),
        text("x-not-before", "9999-12-31T00:00:00Z"),
        entry("x-attempts", b'l', &i64::MAX.to_be_bytes()),
    ]
    .concat();
    for (task, signed) in [("signed", true), ("unsigned", false)] {
        world.sandbox.tasks(ORG, &[task], "present").await;
        world.sandbox.fault(task, 2, json!({"status": 503})).await;
        let message = command(task).headers(&headers);
        let message = if signed { message.with(Property::UserId, &producer) } else { message };
        raw_amqp::publish(&url, &message).await.expect("the broker takes it");
    }
    for (task, published_by) in [("signed", json!(producer)), ("unsigned", Value::Null)] {
        let end = world.end(task).await;
        let told = (&end["outcome"], &end["attempts"], &end["published_by"]);
        assert_eq!(told, (&json!("deleted"), &json!(3), &published_by), "{end}");
        assert!(end.get("supersedes").is_none(), "{end}");
    }
    world.assert_drained().await;
}

/// The worker does not hold it, and so cannot publish it: RabbitMQ moves it.
#[tokio::test]
async fn a_body_of_16_mib_is_dead_lettered_unchanged_and_has_its_event() {
    let world = World::start().await;
    for bytes in [64 * 1024 + 1, 8 * 1024 * 1024, 16 * 1024 * 1024_usize] {
        let body: Vec<u8> = (0..=250).cycle().take(bytes).collect();
        let id = format!("{bytes} bytes");
        send(&world, &RawMessage::to("task.delete", body.clone()).with(Property::MessageId, &id))
            .await;
        let neighbour = world.delete(&format!("after-{bytes}")).await;
        let dead_letter = world.dead_letter(&id).await;
        assert!(dead_letter.body == body, "byte for byte");
        let end = world.end(&id).await;
        assert_eq!(end["failure"]["reason"], "malformed");
        let detail = format!("its body has {bytes} bytes, more than 65536");
        assert_eq!(end["failure"]["detail"], detail);
        assert_eq!(world.end(&neighbour).await["outcome"], "deleted");
    }
    world.assert_drained().await;
}

/// All of these together have 150 MiB; the manifest allows 128.
#[tokio::test]
async fn bodies_that_are_too_large_are_never_held() {
    const BODIES: usize = 10;
    let world = World::without_worker(|_| {}).await;
    for number in 0..BODIES {
        let body = vec![b'x'; 15 * 1024 * 1024];
        let id = format!("large-{number}");
        send(&world, &RawMessage::to("task.delete", body).with(Property::MessageId, &id)).await;
    }
    let mut worker = Running::start(&mut with_settings(&world, &["run"]));
    world.ended_after(BODIES).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 64 * 1024, "{peak_kib} KiB resident at the most");
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    assert_eq!(world.dead_letters(BODIES).await.len(), BODIES);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn bodies_that_are_too_large_have_an_event_each_and_dead_reads_why() {
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    for byte in [b'a', b'b'] {
        send(&world, &RawMessage::to("task.delete", vec![byte; 1_000_000])).await;
    }
    let ids: HashSet<_> =
        world.ended_after(2).await.iter().map(|end| end["command_id"].to_string()).collect();
    assert_eq!(ids.len(), 2, "told apart without a message_id");
    eventually("both are dead letters", async || {
        let groups = lines(&world, &["list", "--json"]).await;
        let is_both = |group: &Value| group["letters"] == 2 && group["reason"] == "malformed";
        groups.first().is_some_and(is_both).then_some(())
    })
    .await;
    world.assert_drained().await;
}

#[tokio::test]
async fn long_strings_and_control_characters_are_carried_and_break_no_line_of_the_log() {
    let world = World::without_worker(|_| {}).await;
    let id = format!("aaaa\r\n{{\"level\":\"ERROR\"}}\u{1b}[31m\0{}", "é".repeat(113));
    assert_eq!(id.len(), 255);
    let message = RawMessage::to("task.delete", "no command");
    let message = message.with(Property::MessageId, &id).with(Property::CorrelationId, [b'c'; 255]);
    send(&world, &message.headers(&text("tracestate", [b't'; 1025]))).await;
    let worker = Running::start(&mut with_settings(&world, &["run", "--log-format=json"]));
    let dead_letter = world.dead_letter(&id).await;
    assert_eq!(dead_letter.properties.correlation_id().as_ref().unwrap().as_str().len(), 255);
    assert_eq!(dead_letter.header("tracestate"), None, "what is longer than a KiB is left behind");
    assert_eq!(world.end(&id).await["failure"]["reason"], "malformed");
    signal(&worker, "TERM");
    let output = worker.output().await;
    let said = String::from_utf8(output.stderr).unwrap();
    for line in said.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
    }
    assert!(!said.contains('\u{1b}'));
    broker().delete_vhost(&world.vhost).await;
}
