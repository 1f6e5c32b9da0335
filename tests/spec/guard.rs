//! No producer's bug deletes more than a limit: what comes beyond is held until a person decides.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages::ledger::GuardLimit;
use tallyfy_delete_worker::rabbitmq::topology::Provision;

use crate::command_line::{json_lines, signal, with_settings};
use crate::support::eventually;
use crate::support::process::Running;
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, OTHER_ORG, World};

const HELD: &str = "task.delete.held";
const LEDGER: &str = "task.delete.ledger";

async fn guarded(max_deletes: u32) -> World {
    World::without_worker(|settings| {
        settings.core.guard = Some(GuardLimit { max_deletes, window_s: 3600 });
        settings.core.concurrency = 32;
        settings.broker.prefetch = 64;
        settings.broker.topology.provision = Provision::Check;
    })
    .await
}

async fn commands(world: &World, org: &str, number: usize, prefix: &str) {
    let ids: Vec<_> = (0..number).map(|n| format!("{prefix}{n}")).collect();
    world.sandbox.tasks(org, &ids.iter().map(String::as_str).collect::<Vec<_>>(), "present").await;
    for id in &ids {
        world.command(org, id).await;
    }
}

async fn deletions(world: &World, org: &str) -> usize {
    let calls = world.sandbox.calls().await;
    calls.iter().filter(|c| c["effect"] == "deleted" && c["org_id"] == org).count()
}

async fn destructive_calls(world: &World, org: &str) -> usize {
    let calls = world.sandbox.calls().await;
    calls.iter().filter(|call| call["method"] == "DELETE" && call["org_id"] == org).count()
}

async fn held(world: &World, number: u32) {
    eventually(&format!("{number} held commands"), async || {
        let held = world.tester.ready(&[HELD.to_owned()]).await[HELD];
        assert!(held <= number, "{held}");
        (held == number).then_some(())
    })
    .await;
}

fn trips(world: &World) -> Vec<Value> {
    let events = world.tester.events().into_iter();
    events.filter(|event| event.routing_key == "task.delete_held").map(|e| e.json()).collect()
}

/// What the real binary prints; it has exited 0.
pub(crate) async fn decide(world: &World, args: &[&str]) -> String {
    let mut command = with_settings(world, args);
    command.env("USER", "ann");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

async fn deleted(world: &World, org: &str, number: usize) {
    eventually(&format!("{number} deletions of {org}"), async || {
        let deleted = deletions(world, org).await;
        assert!(deleted <= number, "{deleted}");
        (deleted == number).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_comes_beyond_the_limit_is_held_and_other_organisations_go_on() {
    let mut world = guarded(50).await;
    commands(&world, ORG, 120, "a").await;
    commands(&world, OTHER_ORG, 30, "b").await;
    world.start_worker().await;
    held(&world, 70).await;
    eventually("the other organisation's deletions", async || {
        (deletions(&world, OTHER_ORG).await == 30).then_some(())
    })
    .await;
    assert_eq!(deletions(&world, ORG).await, 50);
    world.is_ready().await;
    let tripped = r#"tallyfy_delete_worker_guard_tripped{kind="task.delete"}"#;
    assert_eq!(world.metric(tripped).await, Some(1.0));
    let trips =
        eventually("the event", async || Some(trips(&world)).filter(|t| !t.is_empty())).await;
    assert_eq!(trips.len(), 1, "one event for each trip: {trips:?}");
    let data = &trips[0]["data"];
    assert_eq!((&data["org_id"], &data["max_deletes"]), (&json!(ORG), &json!(50)));

    // And after a restart, too.
    world.stop_worker().await;
    commands(&world, ORG, 10, "c").await;
    world.start_worker().await;
    held(&world, 80).await;
    assert_eq!(deletions(&world, ORG).await, 50);
    world.tester.channel.queue_purge(HELD.into(), QueuePurgeOptions::default()).await.unwrap();
    world.assert_drained().await;
}

#[tokio::test]
async fn the_limit_holds_for_all_workers_together() {
    let mut world = guarded(40).await;
    commands(&world, ORG, 150, "a").await;
    let another = world.another_worker().await;
    world.start_worker().await;
    // Permits that one of them has not spent when the other trips the guard are wasted: 32 at most.
    let deleted = eventually("all deleted or held", async || {
        let held = world.tester.ready(&[HELD.to_owned()]).await[HELD] as usize;
        let deleted = deletions(&world, ORG).await;
        (held + deleted == 150).then_some(deleted)
    })
    .await;
    assert!((40 - 32..=40).contains(&deleted), "{deleted}");
    another.stop().await;
    world.tester.channel.queue_purge(HELD.into(), QueuePurgeOptions::default()).await.unwrap();
    world.assert_drained().await;
}

#[tokio::test]
async fn no_destructive_call_without_a_record_of_its_permit() {
    let mut world = guarded(40).await;
    world.start_worker().await;
    world.is_ready().await;
    world.tester.channel.queue_delete(LEDGER.into(), QueueDeleteOptions::default()).await.unwrap();
    world.is_not_ready_because("ledger").await;
    commands(&world, ORG, 5, "a").await;
    let postponed =
        r#"tallyfy_delete_worker_commands_total{kind="task.delete",verdict="postponed"}"#;
    eventually("postponed commands", async || world.metric(postponed).await.filter(|n| *n >= 5.0))
        .await;
    assert_eq!(deletions(&world, ORG).await, 0);
    world.declare_topology().await;
    eventually("the deletions", async || (deletions(&world, ORG).await == 5).then_some(())).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_lost_ledger_does_not_make_a_running_worker_forget_what_it_has_admitted() {
    let mut world = guarded(5).await;
    world.start_worker().await;
    commands(&world, ORG, 5, "a").await;
    deleted(&world, ORG, 5).await;
    world.tester.channel.queue_delete(LEDGER.into(), QueueDeleteOptions::default()).await.unwrap();
    world.is_not_ready_because("ledger").await;
    world.declare_topology().await;
    commands(&world, ORG, 5, "late").await;
    held(&world, 5).await;
    assert_eq!(deletions(&world, ORG).await, 5);
    world.tester.channel.queue_purge(HELD.into(), QueuePurgeOptions::default()).await.unwrap();
    world.assert_drained().await;
}

#[tokio::test]
async fn a_grant_lets_so_many_pass_and_a_rejection_dead_letters_the_rest() {
    let mut world = guarded(20).await;
    commands(&world, ORG, 60, "a").await;
    world.start_worker().await;
    held(&world, 40).await;
    let listed = decide(&world, &["guard", "list", "--json"]).await;
    let group: Value = serde_json::from_str(listed.trim()).expect(&listed);
    assert_eq!((&group["org_id"], &group["held"]), (&json!(ORG), &json!(40)));
    assert_eq!(group["samples"].as_array().map(Vec::len), Some(5), "{group}");
    assert!(group["tripped_at"].is_string() && group["oldest"].is_string(), "{group}");
    held(&world, 40).await;

    let grant = ["--org", ORG, "--max", "15", "--for", "1h", "--reason", "4711", "--yes"];
    decide(&world, &[&["guard", "release"], &grant[..]].concat()).await;
    deleted(&world, ORG, 35).await;
    held(&world, 25).await;
    commands(&world, ORG, 3, "late").await;
    held(&world, 28).await;

    let reject = ["guard", "reject", "--org", ORG, "--reason", "a bug", "--yes"];
    decide(&world, &reject).await;
    let dead_letters = world.dead_letters(28).await;
    let reasons = dead_letters.iter().map(|dead_letter| dead_letter.header("x-failure-reason"));
    assert!(reasons.into_iter().all(|reason| reason.as_deref() == Some("guard_rejected")));
    let told = |is_it: fn(&str) -> bool| {
        world.tester.events().iter().filter(|event| is_it(&event.routing_key)).count()
    };
    eventually("each with its event, and two audit events for each decision", async || {
        let failed = told(|key| key == "task.delete_failed");
        let audits = told(|key| key.starts_with("task.guard."));
        ((failed, audits) == (28, 4)).then_some(())
    })
    .await;
    assert_eq!(deletions(&world, ORG).await, 35);
    assert_eq!(decide(&world, &["guard", "list"]).await, "nothing is held\n");
    world.assert_drained().await;
}

/// A command in the queue of the guard, as a worker puts it there.
async fn held_since(world: &World, org: &str, task: &str, second: usize) {
    world.sandbox.tasks(org, &[task], "present").await;
    let mut headers = FieldTable::default();
    let since = format!("2026-11-20T10:{:02}:{:02}.000Z", second / 60, second % 60);
    headers.insert("x-held-since".into(), AMQPValue::LongString(since.into()));
    let body = json!({"org_id": org, "task_id": task}).to_string();
    let properties = BasicProperties::default().with_message_id(task.into()).with_headers(headers);
    world.tester.publish_to("", HELD, body.as_bytes(), properties).await;
}

#[tokio::test]
async fn the_oldest_are_released_first_however_often_somebody_has_looked() {
    let mut world = guarded(1000).await;
    for second in 0..60 {
        held_since(&world, ORG, &format!("t{second:02}"), second).await;
    }
    for _ in 0..2 {
        decide(&world, &["guard", "list"]).await;
    }
    let grant = ["--org", ORG, "--max", "20", "--for", "1h", "--reason", "4711", "--yes"];
    decide(&world, &[&["guard", "release"], &grant[..]].concat()).await;
    world.start_worker().await;
    deleted(&world, ORG, 20).await;
    let calls = world.sandbox.calls().await;
    let gone: BTreeSet<_> = calls.iter().map(|call| call["task_id"].to_string()).collect();
    let first: BTreeSet<_> = (0..20).map(|second| format!("\"t{second:02}\"")).collect();
    assert_eq!(gone, first);
    held(&world, 40).await;
    world.tester.channel.queue_purge(HELD.into(), QueuePurgeOptions::default()).await.unwrap();
    world.assert_drained().await;
}

#[tokio::test]
async fn all_kinds_that_are_held_are_listed() {
    let kinds = vec![Kind::TaskDelete, Kind::TagDelete];
    let world = World::without_worker(|settings| settings.broker.topology.kinds = kinds).await;
    held_since(&world, ORG, "t1", 0).await;
    let tag = json!({"org_id": ORG, "tag_id": "g1"}).to_string();
    let properties = BasicProperties::default();
    world.tester.publish_to("", "tag.delete.held", tag.as_bytes(), properties).await;
    let kinds = async |args: &[&str]| {
        let listed = decide(&world, &[&["guard", "list", "--json"], args].concat()).await;
        let listed: Vec<_> = json_lines(listed.as_bytes());
        listed.into_iter().map(|group| group["kind"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[]).await, ["task.delete", "tag.delete"]);
    assert_eq!(kinds(&["--kind", "tag.delete"]).await, ["tag.delete"]);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn whoever_types_another_organisations_id_is_told_that_nothing_was_done() {
    let world = guarded(1000).await;
    held_since(&world, ORG, "t1", 0).await;
    let mut reject = with_settings(&world, &["guard", "reject", "--org", ORG, "--by", "ann"]);
    let mut answered = async |answer: &str| {
        let mut child = Running::start(reject.stdin(Stdio::piped()));
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        child.output().await
    };
    let refused = answered("another\n").await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("nothing was done"), "{said}");
    assert_eq!(refused.status.code(), Some(1));
    held(&world, 1).await;
    assert_eq!(answered(&format!("{ORG}\n")).await.status.code(), Some(0));
    world.dead_letters(1).await;
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_rejection_does_not_miss_what_another_reader_puts_back_meanwhile() {
    let world = guarded(1000).await;
    for second in 0..300 {
        held_since(&world, ORG, &format!("t{second}"), second).await;
    }
    let (mut taken, channel) = (Vec::new(), &world.tester.channel);
    while taken.len() < 20 {
        let got = channel.basic_get(HELD.into(), BasicGetOptions::default()).await.unwrap();
        taken.push(got.unwrap().delivery_tag);
    }
    let reject = ["guard", "reject", "--org", ORG, "--reason", "a bug", "--yes"];
    let put_back = async {
        eventually("the first dead letter", async || world.tester.dead_letters().first().cloned())
            .await;
        let all = BasicNackOptions { multiple: true, requeue: true };
        channel.basic_nack(*taken.last().unwrap(), all).await.unwrap();
    };
    tokio::join!(decide(&world, &reject), put_back);
    held(&world, 0).await;
    world.dead_letters(300).await;
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_paused_organisation_is_not_called_and_the_others_are() {
    let mut world = guarded(1000).await;
    world.start_worker().await;
    world.is_ready().await;
    decide(&world, &["pause", "--org", ORG, "--reason", "migration"]).await;
    let paused = r#"tallyfy_delete_worker_paused{scope="organisations"}"#;
    eventually("the pause", async || world.metric(paused).await.filter(|n| *n > 0.0)).await;
    commands(&world, ORG, 3, "a").await;
    commands(&world, OTHER_ORG, 3, "b").await;
    deleted(&world, OTHER_ORG, 3).await;
    assert_eq!(deletions(&world, ORG).await, 0);
    decide(&world, &["resume", "--org", ORG, "--reason", "done"]).await;
    deleted(&world, ORG, 3).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn while_all_are_paused_nothing_is_consumed_not_even_after_a_restart() {
    let mut world = guarded(1000).await;
    world.start_worker().await;
    world.is_ready().await;
    decide(&world, &["pause", "--reason", "an audit"]).await;
    let reason = world.is_not_ready_because("paused by ann").await;
    assert!(reason.contains("an audit"), "{reason}");
    commands(&world, ORG, 3, "a").await;
    world.stop_worker().await;
    world.start_worker().await;
    world.is_not_ready_because("paused by ann").await;
    assert_eq!(deletions(&world, ORG).await, 0);
    decide(&world, &["resume", "--reason", "done"]).await;
    deleted(&world, ORG, 3).await;
    world.is_ready().await;
    world.assert_drained().await;
}

/// Commands of another organisation, in between those of the bug.
const OTHERS: usize = 50;

/// `ASKED_FOR=10000 cargo test --test spec a_producers_bug` tries it with more.
fn asked_for() -> usize {
    std::env::var("ASKED_FOR").ok().and_then(|number| number.parse().ok()).unwrap_or(800)
}

/// What one of these workers may have unacknowledged.
const PREFETCH: usize = 32;

fn worker(world: &World) -> Running {
    let mut command = with_settings(world, &["run", "--concurrency=16"]);
    command.env("TALLYFY_ORG_ID", format!("{ORG},{OTHER_ORG}"));
    command.env("RUST_LOG", "warn");
    Running::start_and_listen(command.stderr(Stdio::piped()))
}

/// The commands of the bug that have ended like this.
fn ended(world: &World, event: &str) -> BTreeSet<String> {
    let ended = world.tester.events().into_iter().filter(|ended| ended.routing_key == event);
    let data = ended.map(|ended| ended.json()["data"].clone()).filter(|end| end["org_id"] == ORG);
    data.map(|end| end["task_id"].to_string()).collect()
}

#[tokio::test]
async fn a_producers_bug_deletes_no_more_than_the_limit_although_a_worker_is_killed() {
    let world = guarded(500).await;
    world.sandbox.fault_for_all(json!({"latency_ms": 20})).await;
    let (killed, mut other) = (worker(&world), worker(&world));
    let share = asked_for() / OTHERS;
    let bug = async {
        for part in 0..OTHERS {
            commands(&world, ORG, share, &format!("bug{part}-")).await;
            commands(&world, OTHER_ORG, 1, &format!("wanted{part}-")).await;
        }
    };
    let kill = async {
        eventually("the middle", async || (deletions(&world, ORG).await >= 150).then_some(()))
            .await;
        // With kill -9.
        drop(killed);
    };
    tokio::join!(bug, kill);
    eventually("the other organisation's deletions", async || {
        (deletions(&world, OTHER_ORG).await == OTHERS).then_some(())
    })
    .await;
    let held = async || world.tester.ready(&[HELD.to_owned()]).await[HELD] as usize;
    let deleted_or_held = async || held().await + ended(&world, "task.deleted").len();
    eventually("the books", async || (deleted_or_held().await >= share * OTHERS).then_some(()))
        .await;
    let before = deletions(&world, ORG).await;
    assert!(before <= 500 + 2 * 32, "{before}");
    assert!(before >= 500 - 2 * 32, "{before}");
    // What the killed worker had deleted and not acknowledged may be called again now, or be held:
    // then its later call is answered with 404, and counts.
    let called_before = destructive_calls(&world, ORG).await;

    let grant = ["--org", ORG, "--max", "100", "--for", "1h", "--reason", "4711", "--yes"];
    decide(&world, &[&["guard", "release"], &grant[..]].concat()).await;
    eventually("100 more calls", async || {
        (destructive_calls(&world, ORG).await >= called_before + 100).then_some(())
    })
    .await;
    let left = held().await;
    let reject = ["guard", "reject", "--org", ORG, "--reason", "a bug", "--yes"];
    decide(&world, &reject).await;
    world.dead_letters(left).await;
    assert_eq!(held().await, 0);
    assert!(destructive_calls(&world, ORG).await <= called_before + 100 + PREFETCH);
    assert!(deletions(&world, ORG).await <= before + 100);
    eventually("an end of each command", async || {
        let (deleted, rejected) =
            (ended(&world, "task.deleted"), ended(&world, "task.delete_failed"));
        (deleted.union(&rejected).count() == share * OTHERS).then_some(())
    })
    .await;
    signal(&other, "TERM");
    assert_eq!(other.wait().unwrap().code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}
