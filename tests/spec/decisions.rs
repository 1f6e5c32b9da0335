//! What is decided about commands before they are called for: who may ask, and what was cancelled.

use lapin::BasicProperties;
use serde_json::{Value, json};
use tallyfy_delete_worker::messages::ledger::GuardLimit;
use tallyfy_delete_worker::policy::producers::{AllowedProducer, Producers};

use crate::command_line::json_lines;
use crate::guard::decide;
use crate::support::eventually;
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, OTHER_ORG, World};

async fn ask(world: &World, task: &str, user: Option<&str>) {
    let body = json!({"org_id": ORG, "task_id": task}).to_string();
    let mut properties = BasicProperties::default().with_message_id(task.into());
    if let Some(user) = user {
        properties = properties.with_user_id(user.into());
    }
    world.tester.publish_to("", "task.delete", body.as_bytes(), properties).await;
}

#[tokio::test]
async fn a_command_of_an_unknown_producer_is_dead_lettered_where_producers_must_be_known() {
    let world = World::start_with(|settings| {
        settings.core.producers = Producers { require_user_id: true, allowed: Vec::new() };
    })
    .await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    ask(&world, "t1", None).await;
    ask(&world, "t2", Some(broker().user())).await;
    let dead_letter = world.dead_letter("t1").await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("producer_not_allowed"));
    assert_eq!(world.end("t2").await["outcome"], "deleted");
    assert_eq!(world.sandbox.state(ORG, "t1").await, "present");
    world.assert_drained().await;
}

#[tokio::test]
async fn an_organisation_takes_commands_from_its_allowed_producers_only() {
    let world = World::start_with(|settings| {
        let org = Some(ORG.to_owned().try_into().unwrap());
        let allowed = vec![AllowedProducer { org, user: "billing".to_owned() }];
        settings.core.producers = Producers { require_user_id: false, allowed };
    })
    .await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    ask(&world, "t1", Some(broker().user())).await;
    let dead_letter = world.dead_letter("t1").await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("producer_not_allowed"));
    assert_eq!(world.sandbox.state(ORG, "t1").await, "present");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_cancelled_command_ends_without_a_further_call() {
    let mut world = World::start().await;
    world.sandbox.tasks(ORG, &["queued", "waiting", "wanted"], "present").await;
    decide(&world, &["pause", "--org", ORG, "--reason", "4711"]).await;
    for task in ["queued", "wanted"] {
        ask(&world, task, Some(broker().user())).await;
    }
    decide(&world, &["cancel", "--command-id", "queued", "--org", ORG, "--reason", "4711"]).await;
    let end = world.end("queued").await;
    assert_eq!(end["outcome"], "cancelled");
    assert_eq!((&end["cancelled_by"], &end["ambiguous"]), (&json!("ann: 4711"), &json!(false)));
    let event = world.end_message("queued").await;
    assert_eq!(event.routing_key, "task.delete_cancelled");
    assert!(event.json().get("supersedes").is_none());
    decide(&world, &["resume", "--org", ORG]).await;
    assert_eq!(world.end("wanted").await["outcome"], "deleted");

    // One that was called for, and waits; also by a worker that was not there yet.
    world.sandbox.fault("waiting", 1000, json!({"status": 503})).await;
    ask(&world, "waiting", Some(broker().user())).await;
    world.called("waiting", 1).await;
    world.stop_worker().await;
    decide(&world, &["cancel", "--command-id", "waiting"]).await;
    let calls = world.sandbox.calls().await.len();
    world.start_worker().await;
    assert_eq!(world.end("waiting").await["outcome"], "cancelled");
    assert_eq!(world.sandbox.calls().await.len(), calls);
    assert_eq!(world.sandbox.state(ORG, "queued").await, "present");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_revoked_cancellation_lets_the_command_go_on() {
    let mut world = World::without_worker(|_| {}).await;
    for task in ["c1", "c2"] {
        world.delete(task).await;
    }
    let both = ["--command-id", "c1", "--command-id", "c2", "--org", ORG];
    decide(&world, &[&["cancel"], &both[..]].concat()).await;
    decide(&world, &["cancel", "--revoke", "--command-id", "c1", "--org", ORG]).await;
    world.start_worker().await;
    assert_eq!(world.end("c1").await["outcome"], "deleted");
    assert_eq!(world.end("c2").await["outcome"], "cancelled");
    world.assert_drained().await;
}

#[tokio::test]
async fn each_destructive_call_leaves_a_record() {
    let world = World::start().await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    world.sandbox.fault("t1", 1, json!({"status": 503})).await;
    let body = json!({"org_id": ORG, "task_id": "t1", "requested_by": "crm", "reason": "4711"});
    let properties = BasicProperties::default()
        .with_message_id("c1".into())
        .with_correlation_id("corr".into())
        .with_user_id(broker().user().into());
    world.tester.publish_to("", "task.delete", body.to_string().as_bytes(), properties).await;
    world.end("c1").await;
    world.end(&world.delete("t2").await).await;
    let records = async |args: &[&str]| {
        let said = decide(&world, &[&["audit", "--json"], args].concat()).await;
        json_lines(said.as_bytes())
    };
    let calls = records(&["--org", ORG, "--id", "t1"]).await;
    let told: Vec<_> = calls.iter().map(|c| (&c["verdict"], &c["http_status"])).collect();
    assert_eq!(
        told,
        [(&json!("transient"), &json!(503)), (&json!("deleted"), &json!(204))],
        "{calls:?}"
    );
    let last = &calls[1];
    let who = ["command_id", "correlation_id", "requested_by", "reason", "published_by"];
    let expected = ["c1", "corr", "crm", "4711", broker().user()];
    assert_eq!(who.map(|member| last[member].as_str().unwrap()), expected);
    assert_eq!(records(&[]).await.len(), 3);
    assert_eq!(records(&["--requested-by", "crm"]).await.len(), 2);
    assert_eq!(records(&["--org", "nobody"]).await.len(), 0);
    let table = decide(&world, &["audit"]).await;
    assert!(table.starts_with("WHEN") && table.contains("HTTP 204"), "{table}");
    world.assert_drained().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_its_call_is_on_record() {
    let world = World::start().await;
    world.is_ready().await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.unbind("task.delete.audit", "task.ledger", "task.delete.audit").await;
    world.delete("t1").await;
    world.called("t1", 1).await;
    world.is_not_ready_because("the audit stream cannot be written").await;
    let acknowledged = r#"tallyfy_delete_worker_acknowledgements_total{result="acknowledged"}"#;
    assert!(world.metric(acknowledged).await.is_none_or(|number| number < 1.0));
    world.declare_topology().await;
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn status_shows_guard_pauses_organisations_queues_and_workers() {
    let mut world = World::without_worker(|settings| {
        settings.core.guard = Some(GuardLimit { max_deletes: 2, window_s: 3600 });
    })
    .await;
    for task in ["a1", "a2", "a3", "a4"] {
        world.delete(task).await;
    }
    world.start_worker().await;
    eventually("a trip", async || {
        let held = world.tester.ready(&["task.delete.held".to_owned()]).await;
        (held["task.delete.held"] == 2).then_some(())
    })
    .await;
    decide(&world, &["pause", "--org", OTHER_ORG, "--reason", "4711"]).await;
    let status = decide(&world, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["breaker"]["state"], "closed");
    let guard = &status["guard"][0];
    assert_eq!((&guard["org_id"], &guard["state"]), (&json!(ORG), &json!("tripped")));
    assert_eq!(status["paused"]["organisations"][0]["org_id"], OTHER_ORG);
    let queues = status["queues"].as_array().unwrap();
    let held = queues.iter().find(|queue| queue["queue"] == "task.delete.held").unwrap();
    assert_eq!(held["ready"], 2);
    let workers = status["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1, "{workers:?}");
    assert!(workers[0]["host"].is_string() && workers[0]["seen"].is_string(), "{workers:?}");

    let table = decide(&world, &["status"]).await;
    for word in ["breaker: closed", "guard tripped, task.delete", "paused", "task.delete.held"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let page: Value = serde_json::from_str(&world.page("/status").await.1).unwrap();
    assert_eq!(page["guard"], status["guard"]);
    assert_eq!(page["workers"].as_array().map(Vec::len), Some(1));
    decide(&world, &["guard", "reject", "--org", ORG, "--reason", "a test", "--yes"]).await;
    world.dead_letters(2).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn status_tells_the_age_of_the_oldest_command_that_waits() {
    let world = World::start().await;
    world.sandbox.fault("t1", 1000, json!({"status": 503})).await;
    world.delete("t1").await;
    world.called("t1", 8).await;
    let page: Value = serde_json::from_str(&world.page("/status").await.1).unwrap();
    assert!(page["oldest"]["task.delete"].is_string(), "{page}");
    let age = r#"tallyfy_delete_worker_oldest_waiting_command_age_seconds{kind="task.delete"}"#;
    assert!(world.metric(age).await.unwrap() > 0.0);
}
