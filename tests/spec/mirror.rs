//! The mirror of the dead letters: who looks there takes nothing out of the queue.

use std::time::Duration;

use lapin::options::QueueDeleteOptions;
use serde_json::Value;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::MirrorRecord;
use tallyfy_delete_worker::policy::remaining_dead_letters::RemainingDeadLetters;
use tallyfy_delete_worker::rabbitmq::Connection;
use tallyfy_delete_worker::rabbitmq::mirror::MirrorReader;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::rabbitmq::topology::Provision;
use tokio::time::timeout;

use crate::dead_letters::{done, lines};
use crate::support::eventually;
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, World};

const DEAD: &str = "task.delete.dead";
const MIRROR: &str = "task.delete.dead.log";

/// All records that are there.
async fn records(world: &World) -> Vec<MirrorRecord> {
    let url = broker().amqp_url(&world.vhost).parse().unwrap();
    let connection = Connection::open(&url, &TlsFiles::default(), "spec").await.unwrap();
    let mut reader = MirrorReader::open(&connection, Kind::TaskDelete, 0).await.unwrap();
    let mut records = Vec::new();
    while let Ok(next) = timeout(Duration::from_millis(500), reader.next()).await {
        records.extend(next.unwrap().1);
    }
    connection.close().await;
    records
}

/// Message ids of the dead letters that the mirror knows to be there, when they are these.
async fn mirror_shows(world: &World, expected: &[&str]) -> RemainingDeadLetters {
    eventually(&format!("{expected:?} in the mirror"), async || {
        let mut mirror = RemainingDeadLetters::default();
        for (offset, record) in (0..).zip(records(world).await) {
            mirror.apply(record, offset);
        }
        let mut ids: Vec<_> = mirror
            .dead_letters()
            .filter_map(|(_, dead_letter)| dead_letter.properties.message_id.clone())
            .collect();
        ids.sort();
        (ids == expected).then_some(mirror)
    })
    .await
}

async fn dead_world(tasks: &[&str]) -> World {
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    world.sandbox.tasks(ORG, tasks, "forbidden").await;
    for task in tasks {
        world.command(ORG, task).await;
        world.end(task).await;
    }
    world
}

#[tokio::test]
async fn the_mirror_does_not_make_an_undelivered_dead_letter_look_delivered() {
    let mut world =
        World::without_worker(|settings| settings.broker.topology.provision = Provision::Check)
            .await;
    world.tester.leave_dead_letters_alone().await;
    world.unbind(DEAD, "task.dlx", DEAD).await;
    world.start_worker().await;
    world.sandbox.tasks(ORG, &["t1"], "forbidden").await;
    world.command(ORG, "t1").await;
    eventually("the dead letter comes back", async || {
        let returned = "tallyfy_delete_worker_publishes_total{result=\"returned\"}";
        world.metric(returned).await.filter(|count| *count > 1.0)
    })
    .await;
    assert!(world.tester.events().is_empty(), "it has not ended");
    assert_eq!(records(&world).await, [], "and nobody is told that it had");
    world.bind(DEAD, "task.dlx", DEAD).await;
    assert_eq!(world.end("t1").await["outcome"], "dead_lettered");
    assert_eq!(world.tester.ready(&[DEAD.to_owned()]).await[DEAD], 1);
    mirror_shows(&world, &["t1"]).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn the_mirror_knows_which_dead_letters_remain_and_who_has_done_what() {
    let world = dead_world(&["t1", "t2", "t3"]).await;
    let first = mirror_shows(&world, &["t1", "t2", "t3"]).await;
    let exported = lines(&world, &["export", "--id=t1"]).await;
    let (_, mirrored) = first.dead_letters().next().unwrap();
    let shown = tallyfy_delete_worker::dead_letters::export_line(mirrored);
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), exported[0]);

    world.sandbox.tasks(ORG, &["t1"], "present").await;
    done(&world, &["replay", "--id=t1", "--yes"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("letters.jsonl");
    let to = ["--to", file.to_str().unwrap(), "--why", "a test"];
    done(&world, &[&["discard", "--id=t2", "--yes"][..], &to].concat()).await;
    let left = mirror_shows(&world, &["t3"]).await;
    let said = |event: &Value| (event["type"].clone(), event["data"]["phase"].clone());
    let audits: Vec<_> = left.audits().map(said).collect();
    let [replayed, discarded] =
        ["replayed", "discarded"].map(|it| format!("task.dead_letters.{it}"));
    let expected =
        [(&discarded, "ended"), (&discarded, "begun"), (&replayed, "ended"), (&replayed, "begun")];
    assert_eq!(
        audits,
        expected.map(|(kind, phase)| (Value::from(kind.as_str()), Value::from(phase)))
    );

    done(&world, &["import", file.to_str().unwrap(), "--yes"]).await;
    mirror_shows(&world, &["t2", "t3"]).await;
    // It dies once more.
    done(&world, &["replay", "--id=t3", "--yes"]).await;
    eventually("its second death", async || {
        let history = lines(&world, &["show", "--json", "--id=t3"]).await;
        history.first().filter(|dead_letter| dead_letter["history"].is_string()).map(drop)
    })
    .await;
    let left = mirror_shows(&world, &["t2", "t3"]).await;
    assert!(left.dead_letters().any(|(_, dead_letter)| dead_letter.retry_state.history.is_some()));
    world.assert_drained().await;
}

#[tokio::test]
async fn an_older_topology_without_a_mirror_is_worked_with() {
    let mut world =
        World::without_worker(|settings| settings.broker.topology.provision = Provision::Check)
            .await;
    world.tester.leave_dead_letters_alone().await;
    world.tester.channel.queue_delete(MIRROR.into(), QueueDeleteOptions::default()).await.unwrap();
    world.start_worker().await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "forbidden").await;
    for task in ["t1", "t2"] {
        world.command(ORG, task).await;
        assert_eq!(world.end(task).await["outcome"], "dead_lettered");
    }
    done(&world, &["replay", "--all", "--limit=1", "--yes"]).await;
    eventually("it died again", async || {
        (world.tester.ready(&[DEAD.to_owned()]).await[DEAD] == 2).then_some(())
    })
    .await;
    world.assert_drained().await;
}
