//! When the API fails for everybody the worker stops consuming, and blames no command.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use tallyfy_delete_worker::credentials::CredentialsSource;
use tallyfy_delete_worker::messages::OrgId;
use tallyfy_delete_worker::service::ServiceSettings;

use crate::support::eventually;
use crate::support::sandbox::TOKEN;
use crate::support::world::{ORG, World};

/// With one organisation: with several, what waits may have to make room for the others.
async fn with_one_organisation(change: impl FnOnce(&mut ServiceSettings)) -> World {
    World::start_with(|settings| {
        settings.core.credentials = CredentialsSource::Fixed {
            orgs: vec![OrgId::try_from(ORG.to_owned()).unwrap()],
            token: SecretString::from(TOKEN),
        };
        change(settings);
    })
    .await
}

#[tokio::test]
async fn when_the_api_fails_for_everybody_the_worker_stops_consuming_in_bulk_probes_and_goes_on() {
    let world = with_one_organisation(|settings| settings.core.schedule.max_attempts = 4).await;
    let body = json!({"message": "call us at 555-0100"});
    world.sandbox.fault_for_all(json!({"status": 503, "body": body})).await;
    let tasks: Vec<String> = (0..200).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    let reason = world.is_not_ready_because("circuit breaker open").await;
    assert!(reason.contains("HTTP 503") && !reason.contains("555"), "{reason}");
    assert_eq!(world.metric("tallyfy_delete_worker_breaker_open").await, Some(1.0));
    let before = world.sandbox.calls().await.len();
    eventually("ten probes", async || {
        (world.sandbox.calls().await.len() >= before + 10).then_some(())
    })
    .await;
    let copies = world
        .metric("tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"postponed\"}")
        .await
        .unwrap();
    let calls = u32::try_from(world.sandbox.calls().await.len()).unwrap();
    assert!(copies <= f64::from(calls), "{copies} copies, {calls} calls: it cycles");
    world.sandbox.heal().await;
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "deleted", "{task}");
    }
    world.is_ready().await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_wrong_base_url_deletes_nothing_and_uses_up_no_attempt() {
    let mut world = World::start_with(|settings| settings.core.schedule.max_attempts = 2).await;
    world.stop_worker().await;
    world.mistake_the_base_url();
    world.start_worker().await;
    let tasks: Vec<String> = (0..15).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    world.is_not_ready_because("last answer was misdirected: HTTP 404").await;
    world.stop_worker().await;
    world.correct_the_base_url();
    assert!(world.tester.events().is_empty() && world.tester.dead_letters().is_empty());
    world.sandbox.forget_unexpected().await;
    world.start_worker().await;
    for task in &tasks {
        let end = world.end(task).await;
        assert_eq!((&end["outcome"], &end["attempts"]), (&json!("deleted"), &json!(1)), "{task}");
    }
    world.assert_drained().await;
}

#[tokio::test]
async fn a_breaker_that_is_open_never_dead_letters_anything_for_its_age() {
    let world =
        with_one_organisation(|settings| settings.core.schedule.max_age = Duration::from_secs(1))
            .await;
    world.sandbox.fault_for_all(json!({"status": 503})).await;
    let tasks: Vec<String> = (0..10).map(|number| format!("task-{number}")).collect();
    for task in &tasks {
        world.delete(task).await;
    }
    world.is_not_ready_because("circuit breaker open").await;
    eventually("probes when the commands are older than MAX_AGE", async || {
        let calls = world.sandbox.calls().await;
        let at = |call: &serde_json::Value| call["at_ms"].as_u64();
        (at(calls.last()?)? > at(calls.first()?)? + 3000).then_some(())
    })
    .await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.sandbox.heal().await;
    for task in &tasks {
        assert_eq!(world.end(task).await["outcome"], "deleted", "{task}");
    }
    world.assert_drained().await;
}
