//! Each kind of deletion makes its own call, reads the answer in its own way, and keeps to its own
//! queues.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::{BasicProperties, Confirmation};
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::policy::retry_schedule::RetryDelays;
use tallyfy_delete_worker::service::ServiceSettings;

use crate::command_line::with_settings;
use crate::dead_letters::{audits, done, lines};
use crate::support::crowd::world_at;
use crate::support::eventually;
use crate::support::process::output;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Call, Reply, StandIn};
use crate::support::tester::Message;
use crate::support::world::{ORG, World};

/// The table, written again: what the code says of itself proves nothing.
struct Row {
    kind: Kind,
    /// Of the call for the object `x`.
    path: &'static str,
    success: u16,
    outcome: &'static str,
    id_member: &'static str,
    done: &'static str,
    failed: &'static str,
    /// Why a "not found" is a dead letter, where it is one.
    not_found: Option<&'static str>,
}

static TABLE: [Row; 5] = [
    Row {
        kind: Kind::TaskDelete,
        path: "/organizations/acme/tasks/x/delete",
        success: 204,
        outcome: "deleted",
        id_member: "task_id",
        done: "task.deleted",
        failed: "task.delete_failed",
        not_found: None,
    },
    Row {
        kind: Kind::TaskArchive,
        path: "/organizations/acme/tasks/x",
        success: 204,
        outcome: "archived",
        id_member: "task_id",
        done: "task.archived",
        failed: "task.archive_failed",
        not_found: Some("not_found"),
    },
    Row {
        kind: Kind::ProcessDelete,
        path: "/organizations/acme/runs/x/delete",
        success: 200,
        outcome: "deleted",
        id_member: "process_id",
        done: "process.deleted",
        failed: "process.delete_failed",
        not_found: Some("not_found_or_not_archived"),
    },
    Row {
        kind: Kind::TagDelete,
        path: "/organizations/acme/tags/x",
        success: 204,
        outcome: "deleted_or_absent",
        id_member: "tag_id",
        done: "tag.deleted",
        failed: "tag.delete_failed",
        not_found: None,
    },
    Row {
        kind: Kind::FileDelete,
        path: "/organizations/acme/file/x",
        success: 200,
        outcome: "deleted",
        id_member: "file_id",
        done: "file.deleted",
        failed: "file.delete_failed",
        not_found: Some("not_found"),
    },
];

/// Those whose "not found" is a failure.
fn failing_rows() -> impl Iterator<Item = (&'static Row, &'static str)> {
    TABLE.iter().filter_map(|row| Some((row, row.not_found?)))
}

fn row_of(path: &str) -> &'static Row {
    TABLE.iter().find(|row| row.path == path).unwrap_or_else(|| panic!("{path} is no call of ours"))
}

/// All that the API may be asked: the calls of the table and, for the token's reach, a list.
fn answered(call: &Call, answer: impl Fn(&Row) -> Reply) -> Reply {
    match call.method.as_str() {
        "GET" => Reply::json(200, &json!({"data": []})),
        "DELETE" => answer(row_of(&call.path)),
        other => panic!("{other} {}", call.path),
    }
}

fn success(row: &Row) -> Reply {
    Reply::status(row.success)
}

fn serve_all(settings: &mut ServiceSettings) {
    settings.broker.topology.kinds = Kind::ALL.to_vec();
}

/// An API that answers a kind's call so, and a worker that serves all kinds.
async fn serving(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> (StandIn, World) {
    serving_with(answer, |_| {}).await
}

async fn serving_with(
    answer: impl Fn(&Call) -> Reply + Send + Sync + 'static,
    change: impl FnOnce(&mut ServiceSettings),
) -> (StandIn, World) {
    let api = StandIn::start(answer).await;
    let mut world = world_at(&api, |settings| {
        serve_all(settings);
        change(settings);
    })
    .await;
    world.start_worker().await;
    world.is_ready().await;
    // At first the kinds have their turns. A command that is delivered just as a turn ends is
    // requeued by RabbitMQ, and is a redelivery when it comes again.
    eventually("a consumer of each kind at the same time", async || {
        for row in &TABLE {
            if !world.tester.is_consumed(row.kind.queue()).await {
                return None;
            }
        }
        Some(())
    })
    .await;
    (api, world)
}

async fn publish(world: &World, kind: Kind, body: &Value, id: &str) {
    let (body, properties) = (body.to_string(), BasicProperties::default());
    let properties = properties.with_message_id(id.into());
    world.tester.publish_to("task.commands", kind.queue(), body.as_bytes(), properties).await;
}

fn deletions(api: &StandIn) -> Vec<String> {
    api.calls().into_iter().filter(|call| !call.is_get()).map(|call| call.path).collect()
}

/// The event of a command's end: its type and its data, which hold the id under this kind's name
/// and no other.
async fn end_of(world: &World, row: &Row, command_id: &str) -> (String, Value) {
    let message = world.end_message(command_id).await;
    let event = message.json();
    assert_eq!(event["type"], message.routing_key.as_str());
    assert_eq!(event["subject"], "acme/x");
    for member in TABLE.iter().map(|row| row.id_member).collect::<BTreeSet<_>>() {
        let expected = if member == row.id_member { json!("x") } else { Value::Null };
        assert_eq!(event["data"][member], expected, "{}: {member}", row.kind);
    }
    (message.routing_key, event["data"].clone())
}

#[tokio::test]
async fn each_kind_makes_its_own_call_and_tells_its_own_end() {
    let (api, world) = serving(|call| answered(call, success)).await;
    for row in &TABLE {
        let (event, data) = end_of(&world, row, &world.command_of(row.kind, "x").await).await;
        assert_eq!((event.as_str(), &data["outcome"]), (row.done, &json!(row.outcome)));
        assert_eq!((&data["ambiguous"], &data["verified"]), (&json!(false), &Value::Null));
        assert_eq!(data["http_status"], row.success);
    }
    assert_eq!(deletions(&api), TABLE.each_ref().map(|row| row.path));
    api.now_answers(|_| Reply::status(200));
    publish(&world, Kind::TaskArchive, &json!({"org_id": ORG, "task_id": "x"}), "again").await;
    assert_eq!(world.end("again").await["outcome"], "archived", "200 is what older pages say");
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_not_found_is_a_dead_letter_of_its_own_kind_where_it_is_no_success() {
    let (_api, world) = serving(|call| answered(call, |_| Reply::no_such_resource())).await;
    for (row, reason) in failing_rows() {
        let command_id = world.command_of(row.kind, "x").await;
        let (event, data) = end_of(&world, row, &command_id).await;
        let end = (event.as_str(), &data["outcome"]);
        assert_eq!(end, (row.failed, &json!("dead_lettered")), "{data}");
        assert_eq!((&data["failure"]["reason"], &data["attempts"]), (&json!(reason), &json!(1)));
        let dead_letter = world.dead_letter(&command_id).await;
        let own = row.kind.dead_letter_queue();
        assert_eq!(dead_letter.routing_key, own, "its own queue of dead letters");
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some(reason));
    }
    let absent = world.command_of(Kind::TaskDelete, "x").await;
    let (event, data) = end_of(&world, &TABLE[0], &absent).await;
    assert_eq!((event.as_str(), &data["outcome"]), ("task.deleted", &json!("already_absent")));
    assert_eq!(world.tester.dead_letters().len(), failing_rows().count());
    world.assert_drained().await;
}

#[tokio::test]
async fn a_not_found_after_a_lost_answer_is_most_likely_our_own_doing() {
    let late = Duration::from_secs(20);
    let lost_first = move |call: &Call| match call.earlier {
        0 if !call.is_get() => Reply::status(200).after(late),
        _ => answered(call, |_| Reply::no_such_resource()),
    };
    let in_time = |settings: &mut ServiceSettings| settings.core.api.request_timeout = late / 5;
    let is_our_own_doing = async |row: &Row| {
        let (api, world) = serving_with(lost_first, in_time).await;
        let (event, data) = end_of(&world, row, &world.command_of(row.kind, "x").await).await;
        assert_eq!((event.as_str(), &data["outcome"]), (row.done, &json!("already_absent")));
        assert_eq!((&data["ambiguous"], &data["attempts"]), (&json!(true), &json!(2)));
        assert_eq!(deletions(&api), [row.path; 2]);
        assert_eq!(world.tester.dead_letters().len(), 0);
        world.assert_drained().await;
    };
    join_all(failing_rows().map(|(row, _)| is_our_own_doing(row))).await;
}

#[tokio::test]
async fn what_the_api_never_says_of_a_kind_makes_it_wait() {
    let (api, world) = serving(|call| {
        answered(call, |row| match row.kind {
            Kind::TagDelete => Reply::no_such_resource(),
            Kind::TaskArchive => Reply::html(200),
            _ => Reply::json(200, &json!({"data": {"id": "x"}})),
        })
    })
    .await;
    for row in &TABLE {
        world.command_of(row.kind, "x").await;
    }
    for row in &TABLE {
        let labels = format!("{{kind=\"{}\",verdict=\"misdirected\"}}", row.kind);
        let answers = format!("tallyfy_delete_worker_api_answers_total{labels}");
        eventually(&answers, async || world.metric(&answers).await.filter(|n| *n > 0.0)).await;
    }
    assert_eq!((world.tester.events().len(), world.tester.dead_letters().len()), (0, 0));
    api.now_answers(|call| answered(call, success));
    for row in &TABLE {
        let data = world.end(&format!("{}/x", row.kind)).await;
        assert_eq!((&data["outcome"], &data["attempts"]), (&json!(row.outcome), &json!(1)));
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_body_with_another_kinds_id_is_malformed_and_no_call_is_made() {
    let (api, world) = serving(|call| answered(call, success)).await;
    for row in &TABLE {
        let other = if row.id_member == "tag_id" { "task_id" } else { "tag_id" };
        for (number, with_its_own) in [(1, false), (2, true)] {
            let mut body = json!({"org_id": ORG, other: "x"});
            if with_its_own {
                body[row.id_member] = "x".into();
            }
            let id = format!("{}-{number}", row.kind);
            publish(&world, row.kind, &body, &id).await;
            let dead_letter = world.dead_letter(&id).await;
            assert_eq!(dead_letter.routing_key, row.kind.dead_letter_queue());
            assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("malformed"));
            assert_eq!(world.end_message(&id).await.routing_key, row.failed);
        }
    }
    assert_eq!(deletions(&api), Vec::<String>::new());
    world.assert_drained().await;
}

#[tokio::test]
async fn a_kind_that_is_not_served_has_no_queues_and_takes_no_commands() {
    let world = World::start_with(|settings| {
        settings.broker.topology.kinds = vec![Kind::TaskDelete, Kind::TagDelete];
    })
    .await;
    let definitions = broker().definitions_of(&world.vhost).await;
    let queues = definitions["queues"].as_array().unwrap().iter();
    let names: Vec<_> = queues.map(|queue| queue["name"].as_str().unwrap()).collect();
    for kind in Kind::ALL {
        let is_served = [Kind::TaskDelete, Kind::TagDelete].contains(&kind);
        // The queue itself, its undeliverable and its held commands, its dead letters and their
        // mirror, and three delays.
        let number = names.iter().filter(|name| {
            **name == kind.as_str()
                || (name.starts_with(&format!("{kind}."))
                    && ![".ledger", ".audit"].iter().any(|stream| name.ends_with(stream)))
        });
        assert_eq!(number.count(), if is_served { 8 } else { 0 }, "{kind}: {names:?}");
        if !is_served {
            let nobody = BasicProperties::default();
            let confirmed =
                world.tester.confirmed("task.commands", kind.queue(), b"{}", nobody).await;
            assert!(matches!(confirmed, Confirmation::Ack(Some(_))), "{kind}: {confirmed:?}");
        }
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn the_retries_of_a_kind_wait_in_its_own_delay_queues() {
    let long_waits = |settings: &mut ServiceSettings| {
        let delays = RetryDelays::new(vec![Duration::from_mins(1)]).unwrap();
        let named = delays.all().iter().map(|delay| (delay.name(), delay.ttl_ms())).collect();
        settings.broker.topology.delays = named;
        settings.core.schedule.delays = delays;
    };
    let (api, world) = serving_with(|_| Reply::status(503), long_waits).await;
    world.command_of(Kind::ProcessDelete, "x").await;
    let queues = world.work_and_wait_queues();
    let own = "process.delete.wait.1m".to_owned();
    eventually("the wait", async || (world.tester.ready(&queues).await[&own] == 1).then_some(()))
        .await;
    assert_eq!(world.tester.ready(&queues).await.values().sum::<u32>(), 1, "and in no other");
    let waiting = world.tester.take(&own).await.expect("it waits");
    assert_eq!(waiting.header("x-attempts").as_deref(), Some("4"));
    assert_eq!(deletions(&api), ["/organizations/acme/runs/x/delete"; 4]);
    world.assert_drained().await;
}

#[tokio::test]
async fn what_waits_comes_back_to_the_queue_of_its_kind() {
    let (api, world) = serving(|call| match call.earlier {
        0..5 => Reply::status(503),
        _ => answered(call, success),
    })
    .await;
    for row in [&TABLE[2], &TABLE[4]] {
        let (event, data) = end_of(&world, row, &world.command_of(row.kind, "x").await).await;
        assert_eq!((event.as_str(), &data["attempts"]), (row.done, &json!(6)));
    }
    let (process, file) = (TABLE[2].path, TABLE[4].path);
    assert!(deletions(&api).iter().all(|path| path == process || path == file));
    world.assert_drained().await;
}

#[tokio::test]
async fn the_same_object_has_another_derived_id_in_each_kind() {
    let (_api, world) = serving(|call| answered(call, success)).await;
    for row in &TABLE {
        let body = json!({"org_id": ORG, row.id_member: "x"}).to_string();
        let (key, nothing) = (row.kind.queue(), BasicProperties::default());
        world.tester.publish_to("task.commands", key, body.as_bytes(), nothing).await;
    }
    let ends = world.ended_after(TABLE.len()).await;
    let ids: BTreeSet<_> = ends.iter().map(|end| end["command_id"].to_string()).collect();
    assert_eq!(ids.len(), TABLE.len(), "{ends:?}");
    world.assert_drained().await;
}

#[tokio::test]
async fn the_dead_letters_of_a_kind_are_dealt_with_by_its_name() {
    let (api, world) = serving(|call| answered(call, |_| Reply::no_such_resource())).await;
    world.tester.leave_dead_letters_alone().await;
    let command_id = world.command_of(Kind::ProcessDelete, "x").await;
    world.end(&command_id).await;
    let groups = lines(&world, &["list", "--kind", "process.delete", "--json"]).await;
    let group = (&groups[0]["reason"], &groups[0]["letters"]);
    assert_eq!(group, (&json!("not_found_or_not_archived"), &json!(1)));
    assert_eq!(lines(&world, &["list", "--json"]).await, Vec::<Value>::new(), "of task.delete");
    api.now_answers(|call| answered(call, success));
    done(&world, &["replay", "--kind", "process.delete", "--id", "x", "--yes"]).await;
    let is_done = |event: &Message| event.routing_key == "process.deleted";
    let replayed = eventually("the end of the replayed command", async || {
        world.tester.events().into_iter().find(is_done)
    })
    .await;
    assert_eq!(replayed.json()["data"]["command_id"], command_id);
    assert_eq!(deletions(&api), [TABLE[2].path; 2]);
    for audit in audits(&world, 2).await {
        assert_eq!(audit["kind"], "process.delete");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn the_delete_command_takes_each_kind_by_its_name() {
    let api = StandIn::start(|call| answered(call, success)).await;
    let world = world_at(&api, |_| {}).await;
    for row in &TABLE {
        let kind = row.kind.as_str();
        let mut command = with_settings(&world, &["delete", "--kind", kind, "--org", ORG, "x"]);
        command.env("TALLYFY_BASE_URL", api.base_url().as_str());
        let output = output(command).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{kind}: {said}");
        let end: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(end["outcome"], row.outcome);
        assert_eq!(end[row.id_member], "x");
    }
    assert_eq!(deletions(&api), TABLE.each_ref().map(|row| row.path));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn the_delete_command_fails_where_a_kinds_object_is_not_found() {
    let api = StandIn::start(|call| answered(call, |_| Reply::no_such_resource())).await;
    let world = world_at(&api, |_| {}).await;
    for (row, reason) in failing_rows() {
        let kind = row.kind.as_str();
        let mut command = with_settings(&world, &["delete", "--kind", kind, "--org", ORG, "x"]);
        command.env("TALLYFY_BASE_URL", api.base_url().as_str());
        let output = output(command).await;
        let end: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{kind}: {end}");
        assert_eq!(end["failure"]["reason"], reason);
    }
    broker().delete_vhost(&world.vhost).await;
}
