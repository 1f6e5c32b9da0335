//! A dry run: everything but the destructive call, and nobody can take it for the real one.

use lapin::BasicProperties;
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::ledger::GuardLimit;
use tallyfy_delete_worker::policy::dry_run::CallMode;
use tallyfy_delete_worker::schema::{Subject, schema};

use crate::command_line::{json_lines, signal, with_settings};
use crate::support::crowd::world_at;
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Reply, StandIn};
use crate::support::world::{ORG, World};

/// Nothing was asked of the sandbox but GETs.
async fn nothing_was_destroyed(world: &World) {
    let calls = world.sandbox.calls().await;
    assert!(!calls.is_empty() && calls.iter().all(|call| call["method"] == "GET"), "{calls:?}");
}

#[tokio::test]
async fn in_a_dry_run_no_destructive_call_can_be_made() {
    let world = World::start_with(|settings| {
        settings.core.mode = CallMode::Look;
        // Which counts nothing and holds nothing where nothing is deleted.
        settings.core.guard = Some(GuardLimit { max_deletes: 1, window_s: 3600 });
    })
    .await;
    world.sandbox.tasks(ORG, &["t2"], "gone").await;
    world.sandbox.tasks(ORG, &["t3"], "forbidden").await;
    world.sandbox.fault("t1", 2, json!({"status": 503})).await;
    world.sandbox.fault("t4", 1, json!({"status": 429, "headers": {"Retry-After": "1"}})).await;
    for task in ["t1", "t4"] {
        world.delete(task).await;
    }
    for task in ["t2", "t3"] {
        world.command(ORG, task).await;
    }
    let event =
        jsonschema::validator_for(&schema(Some(Subject::DryRun), Kind::TaskDelete)).unwrap();
    for (task, would) in
        [("t1", "deleted"), ("t2", "already_absent"), ("t3", "unknown"), ("t4", "deleted")]
    {
        let message = world.end_message(task).await;
        assert_eq!(message.routing_key, "task.delete_dry_run");
        let told = message.json();
        assert!(event.is_valid(&told), "{told}: {:?}", event.validate(&told));
        assert_eq!(
            (&told["data"]["would"], &told["data"]["outcome"]),
            (&json!(would), &Value::Null)
        );
    }
    assert_eq!(world.tester.dead_letters().len(), 0, "what the API says makes no dead letter");
    assert_eq!(world.sandbox.state(ORG, "t1").await, "present");
    nothing_was_destroyed(&world).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn what_is_no_command_is_dead_lettered_in_a_dry_run_too() {
    let world = World::start_with(|settings| settings.core.mode = CallMode::Look).await;
    world.publish(b"no command", "m1").await;
    assert_eq!(world.end("m1").await["failure"]["reason"], "malformed");
    assert_eq!(world.dead_letter("m1").await.body, b"no command");
    world.command("nobodys", "t1").await;
    assert_eq!(world.end("t1").await["failure"]["reason"], "org_not_allowed");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_worker_in_a_dry_run_says_so_on_its_port() {
    let world = World::start_with(|settings| settings.core.mode = CallMode::Look).await;
    let readiness = world.page("/readyz").await;
    assert_eq!(readiness, (200, "ready (dry run: nothing is deleted)\n".to_owned()));
    assert_eq!(world.metric("tallyfy_delete_worker_dry_run").await, Some(1.0));
    let status: Value = serde_json::from_str(&world.page("/status").await.1).unwrap();
    assert_eq!(status["dry_run"], true);
    world.delete("t1").await;
    world.end("t1").await;
    let counted = "tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"dry_run\"}";
    eventually("it is counted, after its event", async || {
        (world.metric(counted).await == Some(1.0)).then_some(())
    })
    .await;
    world.assert_drained().await;
    let world = World::start().await;
    assert_eq!(world.metric("tallyfy_delete_worker_dry_run").await, Some(0.0));
    world.assert_drained().await;
}

#[tokio::test]
async fn each_kind_is_looked_at_by_its_own_get_and_told_by_its_own_event() {
    let object = json!({"data": {"archived_at": null, "is_oneoff_task": true}});
    let api = StandIn::start(move |call| {
        assert!(call.is_get(), "{} {}", call.method, call.path);
        Reply::json(200, &object)
    })
    .await;
    let mut world = world_at(&api, |settings| {
        settings.core.mode = CallMode::Look;
        settings.broker.topology.kinds = Kind::ALL.to_vec();
    })
    .await;
    world.start_worker().await;
    world.is_ready().await;
    for (kind, event, path, would) in [
        (Kind::TaskDelete, "task.delete_dry_run", "/organizations/acme/tasks/x", "deleted"),
        (Kind::TaskArchive, "task.archive_dry_run", "/organizations/acme/tasks/x", "archived"),
        (
            Kind::ProcessDelete,
            "process.delete_dry_run",
            "/organizations/acme/runs/x",
            "dead_lettered",
        ),
        (Kind::TagDelete, "tag.delete_dry_run", "/organizations/acme/tags/x", "deleted_or_absent"),
        (Kind::FileDelete, "file.delete_dry_run", "/organizations/acme/tasks", "unknown"),
    ] {
        let id = world.command_of(kind, "x").await;
        let message = world.end_message(&id).await;
        let told = message.json();
        assert_eq!((message.routing_key.as_str(), &told["data"]["would"]), (event, &json!(would)));
        assert_eq!(told["data"][kind.spec().id_member], "x", "{told}");
        assert_eq!(api.calls().last().unwrap().path, path);
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn every_line_of_a_worker_in_a_dry_run_says_so_and_the_first_one_warns() {
    let world = World::without_worker(|_| {}).await;
    let mut command = with_settings(&world, &["run"]);
    let child = Running::start_and_listen(command.env("DRY_RUN", "true"));
    world.delete("t1").await;
    world.publish(b"no command", "m1").await;
    for id in ["t1", "m1"] {
        world.end(id).await;
    }
    signal(&child, "TERM");
    let output = child.output().await;
    let lines = json_lines(&output.stderr);
    assert!(lines.len() >= 4 && lines.iter().all(|line| line["dry_run"] == true), "{lines:?}");
    assert!(lines[0]["level"] == "WARN" && lines[0]["message"].to_string().contains("used up"));
    nothing_was_destroyed(&world).await;
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_list_in_a_dry_run_says_what_would_happen_and_asks_nobody() {
    let world = World::without_worker(|_| {}).await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    world.sandbox.tasks(ORG, &["t3"], "gone").await;
    let delete = with_settings(&world, &["delete", "--dry-run", "--org", ORG, "t1", "t2", "t3"]);
    let done = output(delete).await;
    let log = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "{log}");
    let mut words: Vec<_> =
        json_lines(&done.stdout).iter().map(|line| line["would"].to_string()).collect();
    words.sort();
    assert_eq!(words, ["\"already_absent\"", "\"deleted\"", "\"deleted\""]);
    assert!(log.contains("dry run, nothing was deleted"), "{log}");
    nothing_was_destroyed(&world).await;
    world.sandbox.tasks(ORG, &["t4"], "forbidden").await;
    let unknown = with_settings(&world, &["delete", "--dry-run=true", "--org", ORG, "t4"]);
    assert_eq!(output(unknown).await.status.code(), Some(1), "nobody can say: that is not success");
    broker().delete_vhost(&world.vhost).await;
}

/// What cannot be told of one command must not use up the others' time indefinitely.
#[tokio::test]
async fn a_look_that_never_succeeds_ends_as_unknown_and_not_among_the_dead_letters() {
    let world = World::start_with(|settings| {
        settings.core.mode = CallMode::Look;
        settings.core.schedule.max_attempts = 3;
    })
    .await;
    world.sandbox.fault("t1", 99, json!({"status": 500})).await;
    let properties = BasicProperties::default().with_message_id("t1".into());
    let body = json!({"org_id": ORG, "task_id": "t1"}).to_string();
    world.tester.publish(body.as_bytes(), properties).await;
    let told = world.end("t1").await;
    assert_eq!((&told["would"], &told["attempts"]), (&json!("unknown"), &json!(3)));
    assert!(told["detail"].as_str().unwrap().contains("HTTP 500"), "{told}");
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}
