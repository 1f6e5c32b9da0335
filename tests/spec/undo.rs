//! Archive first, delete later, cancel by restoring.

use std::time::Duration;

use serde_json::{Value, json};
use tallyfy_delete_worker::policy::undo::DeleteMode;

use crate::guard::decide;
use crate::support::eventually;
use crate::support::world::{ORG, World};

const UNDO: &str = "task.delete.undo";

async fn with_window(window: Duration) -> World {
    World::start_with(|settings| {
        settings.core.delete_mode = DeleteMode::ArchiveThenDelete(window);
        settings.broker.topology.undo_window = Some(window);
    })
    .await
}

async fn pending(world: &World, task: &str) -> Value {
    eventually("the event of the archived task", async || {
        let events = world.tester.events().into_iter();
        let pending = events.filter(|event| event.routing_key == "task.delete_pending");
        pending.map(|event| event.json()).find(|event| event["data"]["task_id"] == task)
    })
    .await
}

async fn in_queue(world: &World, queue: &str, number: u32) {
    eventually(&format!("{number} in {queue}"), async || {
        (world.tester.ready(&[queue.to_owned()]).await[queue] == number).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_task_is_archived_at_once_and_deleted_when_its_undo_window_has_ended() {
    let mut world = with_window(Duration::from_secs(4)).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let command = world.command(ORG, "t1").await;
    let event = pending(&world, "t1").await;
    let purge_at: jiff::Timestamp = event["data"]["purge_at"].as_str().unwrap().parse().unwrap();
    let left = purge_at.duration_since(jiff::Timestamp::now()).as_secs_f64();
    assert!(left > 0.0 && left <= 4.0, "{left}");
    assert_eq!(event["data"]["command_id"], command.as_str());
    assert_eq!(world.sandbox.state(ORG, "t1").await, "archived");
    // A worker in another mode looks before it deletes, too.
    world.stop_worker().await;
    world.settings.core.delete_mode = DeleteMode::Delete;
    world.start_worker().await;
    assert_eq!(world.end(&command).await["outcome"], "deleted");
    assert!(jiff::Timestamp::now() >= purge_at);
    assert_eq!(world.sandbox.state(ORG, "t1").await, "gone");
    world.assert_drained().await;
}

#[tokio::test]
async fn restoring_a_task_in_time_cancels_its_deletion() {
    let world = with_window(Duration::from_secs(3)).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let command = world.command(ORG, "t1").await;
    pending(&world, "t1").await;
    let restored = decide(&world, &["undo", "--org", ORG, "t1"]).await;
    let restored: Value = serde_json::from_str(&restored).unwrap();
    assert_eq!((&restored["task_id"], &restored["outcome"]), (&json!("t1"), &json!("restored")));
    let end = world.end(&command).await;
    assert_eq!(
        (&end["outcome"], &end["cancelled_by"]),
        (&json!("cancelled"), &json!("restored in Tallyfy"))
    );
    assert_eq!(world.sandbox.state(ORG, "t1").await, "present");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_task_that_is_gone_before_its_undo_window_has_ended_is_held() {
    let world = with_window(Duration::from_secs(2)).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let command = world.command(ORG, "t1").await;
    pending(&world, "t1").await;
    world.sandbox.tasks(ORG, &["t1"], "gone").await;
    in_queue(&world, "task.delete.held", 1).await;
    let grant = ["--org", ORG, "--max", "1", "--reason", "it was moved", "--yes"];
    decide(&world, &[&["guard", "release"], &grant[..]].concat()).await;
    assert_eq!(world.end(&command).await["outcome"], "already_absent");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_task_that_another_copy_of_a_redelivered_command_may_have_deleted_is_not_held() {
    let mut world = with_window(Duration::from_secs(2)).await;
    world.stop_worker().await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let command = world.command(ORG, "t1").await;
    assert!(world.tester.requeue("task.delete").await);
    world.start_worker().await;
    pending(&world, "t1").await;
    world.sandbox.tasks(ORG, &["t1"], "gone").await;
    let end = world.end(&command).await;
    assert_eq!((&end["outcome"], &end["ambiguous"]), (&json!("already_absent"), &json!(true)));
    world.assert_drained().await;
}

#[tokio::test]
async fn a_task_that_is_archived_already_has_its_undo_window_too() {
    let world = with_window(Duration::from_secs(2)).await;
    world.sandbox.tasks(ORG, &["t1"], "archived").await;
    let command = world.command(ORG, "t1").await;
    pending(&world, "t1").await;
    assert_eq!(world.end(&command).await["outcome"], "deleted");
    let said = decide(&world, &["audit", "--json"]).await;
    let first: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    // Its own answer, not that of the look after it.
    assert_eq!((&first["call"], &first["http_status"]), (&json!("archive"), &json!(404)), "{said}");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_cancelled_command_leaves_its_task_archived() {
    let world = with_window(Duration::from_secs(3)).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    let command = world.command(ORG, "t1").await;
    pending(&world, "t1").await;
    in_queue(&world, UNDO, 1).await;
    decide(&world, &["cancel", "--command-id", &command]).await;
    assert_eq!(world.end(&command).await["outcome"], "cancelled");
    assert_eq!(world.sandbox.state(ORG, "t1").await, "archived");
    world.assert_drained().await;
}

#[tokio::test]
async fn in_archive_mode_nothing_is_deleted() {
    let world = World::start_with(|settings| {
        settings.core.delete_mode = DeleteMode::Archive;
    })
    .await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.sandbox.tasks(ORG, &["t2"], "archived").await;
    for task in ["t1", "t2"] {
        let command = world.command(ORG, task).await;
        assert_eq!(world.end(&command).await["outcome"], "archived");
        assert_eq!(world.end_message(&command).await.routing_key, "task.archived");
        assert_eq!(world.sandbox.state(ORG, task).await, "archived");
    }
    world.sandbox.tasks(ORG, &["nowhere"], "gone").await;
    let absent = world.command(ORG, "nowhere").await;
    assert_eq!(world.end(&absent).await["outcome"], "already_absent");
    world.assert_drained().await;
}
