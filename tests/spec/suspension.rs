//! An organisation that is throttled or whose token is dead waits alone, and costs few calls.

use std::fs;

use serde_json::json;
use tallyfy_delete_worker::credentials::CredentialsSource;
use tallyfy_delete_worker::messages::OrgId;
use tempfile::TempDir;

use crate::support::eventually;
use crate::support::sandbox::TOKEN;
use crate::support::world::{ORG, OTHER_ORG, World};

const POSTPONED: &str =
    "tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"postponed\"}";

/// A mounted secret with these tokens, and a worker that reads it.
async fn with_tokens(tokens: &[(&str, &str)]) -> (TempDir, World) {
    let directory = tempfile::tempdir().unwrap();
    for (org, token) in tokens {
        fs::write(directory.path().join(org), token).unwrap();
    }
    let path = directory.path().to_owned();
    let world = World::start_with(|settings| {
        settings.core.credentials = CredentialsSource::Directory { only: None, path };
        settings.core.concurrency = 64;
        settings.broker.prefetch = 128;
    })
    .await;
    (directory, world)
}

fn tasks(prefix: &str, number: usize) -> Vec<String> {
    (0..number).map(|number| format!("{prefix}-{number}")).collect()
}

#[tokio::test]
async fn a_dead_token_costs_few_calls_and_other_organisations_nothing() {
    let (secret, world) = with_tokens(&[(ORG, TOKEN), (OTHER_ORG, "dead")]).await;
    let (dead, living) = (tasks("dead", 200), tasks("living", 400));
    for task in &dead {
        world.sandbox.tasks(OTHER_ORG, &[task], "present").await;
        world.command(OTHER_ORG, task).await;
    }
    for task in &living {
        world.delete(task).await;
    }
    let ends = world.ended_after(living.len()).await;
    assert!(ends.iter().all(|end| end["org_id"] == ORG && end["outcome"] == "deleted"), "{ends:?}");
    eventually("a few probes", async || {
        let calls = world.sandbox.calls().await;
        (calls.iter().filter(|call| call["org_id"] == OTHER_ORG).count() >= 4).then_some(())
    })
    .await;
    let calls = world.sandbox.calls().await;
    let in_vain = calls.iter().filter(|call| call["org_id"] == OTHER_ORG).count();
    assert!(in_vain < 40, "{in_vain} calls with a dead token");
    fs::write(secret.path().join(OTHER_ORG), TOKEN).unwrap();
    let ends = world.ended_after(living.len() + dead.len()).await;
    assert!(ends.iter().all(|end| end["outcome"] == "deleted" && end["attempts"] == 1), "{ends:?}");
    assert_eq!(world.tester.dead_letters().len(), 0);
    world.assert_drained().await;
}

/// Without that the file is read again every 5 seconds, and the probes of before it find the old
/// token.
#[tokio::test]
async fn after_a_401_the_token_file_is_read_again_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), TOKEN).unwrap();
    let path = file.path().to_owned();
    let world = World::start_with(|settings| {
        let orgs = vec![OrgId::try_from(ORG.to_owned()).unwrap()];
        settings.core.credentials = CredentialsSource::File { orgs, path };
    })
    .await;
    world.is_ready().await;
    world.sandbox.set_tokens(&["renewed"]).await;
    fs::write(file.path(), "renewed\n").unwrap();
    world.delete("t1").await;
    assert_eq!(world.end("t1").await["outcome"], "deleted");
    let calls = world.sandbox.calls_for("t1").await;
    assert!(calls.len() <= 2, "{calls:?}");
    world.assert_drained().await;
}

#[tokio::test]
async fn with_one_organisation_only_the_consumer_pauses_instead_of_churning_the_queue() {
    let (secret, world) = with_tokens(&[(ORG, "dead")]).await;
    let tasks = tasks("task", 300);
    for task in &tasks {
        world.delete(task).await;
    }
    world
        .is_not_ready_because("every organisation that has commands is suspended (unauthorized: 1)")
        .await;
    eventually("a few probes", async || (world.sandbox.calls().await.len() >= 4).then_some(()))
        .await;
    let copies = world.metric(POSTPONED).await.unwrap();
    assert!(copies < 200.0, "{copies} copies of 300 commands, of which 128 were unacknowledged");
    fs::write(secret.path().join(ORG), TOKEN).unwrap();
    let ends = world.ended_after(tasks.len()).await;
    assert!(ends.iter().all(|end| end["outcome"] == "deleted" && end["attempts"] == 1), "{ends:?}");
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_throttled_organisation_keeps_its_retry_after_and_the_other_its_pace() {
    let (_secret, world) = with_tokens(&[(ORG, TOKEN), (OTHER_ORG, TOKEN)]).await;
    world
        .sandbox
        .fault_for_org(OTHER_ORG, json!({"status": 429, "headers": {"Retry-After": "2"}}))
        .await;
    for number in 0..100 {
        let slow = format!("slow-{number}");
        world.sandbox.tasks(OTHER_ORG, &[&slow], "present").await;
        world.command(OTHER_ORG, &slow).await;
        world.delete(&format!("quick-{number}")).await;
    }
    let ends = world.ended_after(100).await;
    assert!(ends.iter().all(|end| end["org_id"] == ORG), "{ends:?}");
    let calls = eventually("a second probe", async || {
        let calls = world.sandbox.calls().await;
        let at: Vec<_> = calls
            .iter()
            .filter(|call| call["org_id"] == OTHER_ORG)
            .map(|c| c["at_ms"].as_u64().unwrap())
            .collect();
        (at.last()? - at.first()? > 4000).then_some(at)
    });
    let calls = calls.await;
    let rounds: Vec<_> = calls.windows(2).filter(|pair| pair[1] - pair[0] > 500).collect();
    assert!(calls.len() <= 4 + rounds.len(), "a trial and then one call a round: {calls:?}");
    assert!(rounds.iter().all(|pair| pair[1] - pair[0] >= 2000), "{calls:?}");
    world.sandbox.heal().await;
    world.ended_after(200).await;
    world.assert_drained().await;
}
