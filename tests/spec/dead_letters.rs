//! What operators do with dead letters: the real binary on a real queue.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use tallyfy_delete_worker::dead_letters::look;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::rabbitmq::Connection;
use tallyfy_delete_worker::rabbitmq::dead_letters::DeadLetterReader;
use tallyfy_delete_worker::rabbitmq::tls::TlsFiles;
use tallyfy_delete_worker::schema::{Subject, schema};
use tokio_util::sync::CancellationToken;

use crate::command_line::with_settings;
use crate::guard::decide;
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::{broker, own_broker};
use crate::support::world::{ORG, OTHER_ORG, World};

const DEAD: &str = "task.delete.dead";

/// A world whose dead letters stay in their queue: `forbidden` for these tasks of ORG.
async fn with_forbidden(tasks: &[&str]) -> World {
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    world.sandbox.tasks(ORG, tasks, "forbidden").await;
    for task in tasks {
        world.command(ORG, task).await;
        world.end(task).await;
    }
    world
}

/// A world without a worker, whose dead letters stay in their queue: as many as this.
async fn with_dead_letters(number: usize) -> World {
    let world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    for number in 0..number {
        let properties = BasicProperties::default().with_message_id(format!("m{number}").into());
        world.tester.publish_to("task.dlx", DEAD, b"{}", properties).await;
    }
    world
}

#[tokio::test]
async fn a_look_ends_at_a_number_of_dead_letters_or_of_bytes_and_says_that_there_are_more() {
    let world = with_dead_letters(3).await;
    let (url, tls) = (&world.settings.broker.url, &TlsFiles::default());
    for (most, found) in [((2, 100), (2, true)), ((5, 2), (2, true)), ((3, 100), (3, false))] {
        let stop = CancellationToken::new();
        let (letters, there_is_more) =
            look(Kind::TaskDelete, most, (url, tls), stop).await.unwrap();
        assert_eq!((letters.len(), there_is_more), found, "{most:?}");
    }
    broker().delete_vhost(&world.vhost).await;
}

pub(crate) async fn dead(world: &World, args: &[&str]) -> Output {
    let mut command = with_settings(world, &[&["dead"], args].concat());
    command.env("USER", "ann");
    output(command).await
}

/// What it wrote to standard output; it has exited 0.
pub(crate) async fn done(world: &World, args: &[&str]) -> String {
    let output = dead(world, args).await;
    assert_eq!(
        output.status.code(),
        Some(0),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn lines(world: &World, args: &[&str]) -> Vec<Value> {
    done(world, args).await.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

async fn count_dead_letters(world: &World) -> u32 {
    world.tester.ready(&[DEAD.to_owned()]).await[DEAD]
}

async fn has_dead_letters(world: &World, number: u32) {
    eventually(&format!("{number} dead letters"), async || {
        (count_dead_letters(world).await == number).then_some(())
    })
    .await;
}

/// Data of the audit events of replays, when there are as many as that.
pub(crate) async fn audits(world: &World, number: usize) -> Vec<Value> {
    eventually("the audit", async || {
        let events = world.tester.events();
        let audits =
            events.iter().filter(|event| event.routing_key == "task.dead_letters.replayed");
        let schema =
            jsonschema::validator_for(&schema(Some(Subject::Audit), Kind::TaskDelete)).unwrap();
        let audits: Vec<_> = audits.map(super::support::tester::Message::json).collect();
        assert!(audits.iter().all(|event| schema.is_valid(event)), "{audits:?}");
        let audits: Vec<_> = audits.iter().map(|event| event["data"].clone()).collect();
        (audits.len() == number).then_some(audits)
    })
    .await
}

/// The URL of a user who may read dead letters and write this.
async fn user(world: &World, write: &str) -> String {
    let name = format!("operator-{}", world.vhost);
    broker().put_user(&name, "pw").await;
    broker().set_permissions(&world.vhost, &name, "^$", write, r"^task\.delete\.dead$").await;
    broker().amqp_url_as(&name, "pw", &world.vhost)
}

fn scratch() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("letters.jsonl");
    (directory, file)
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

#[tokio::test]
async fn list_counts_by_reason_and_organisation() {
    let world = with_forbidden(&["t1", "t2"]).await;
    world.publish(b"no JSON", "m1").await;
    world.end("m1").await;
    let groups = lines(&world, &["list", "--json"]).await;
    let of = |group: &Value| {
        (group["reason"].clone(), group["org_id"].clone(), group["letters"].clone())
    };
    let expected =
        [(json!("forbidden"), json!(ORG), json!(2)), (json!("malformed"), Value::Null, json!(1))];
    assert_eq!(groups.iter().map(of).collect::<Vec<_>>(), expected);
    let table = done(&world, &["list", "--reason", "forbidden"]).await;
    assert!(table.contains("HTTP 403") && !table.contains("malformed"), "{table}");
    let shown = done(&world, &["show", "--task", "t2"]).await;
    assert!(shown.contains("command id: t2") && !shown.contains("t1"), "{shown}");
    has_dead_letters(&world, 3).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn looking_loses_nothing_however_often() {
    let world = with_forbidden(&["t1", "t2", "t3"]).await;
    world.publish(b"no JSON", "m1").await;
    world.end("m1").await;
    let by_id = |mut dead_letters: Vec<Value>| {
        dead_letters.sort_by_key(|dead_letter| dead_letter["message_id"].to_string());
        dead_letters
    };
    let before = by_id(lines(&world, &["export"]).await);
    for _ in 0..45 {
        assert_eq!(lines(&world, &["list", "--json"]).await.len(), 2);
    }
    assert_eq!(by_id(lines(&world, &["export"]).await), before);
    world.assert_drained().await;
}

#[tokio::test]
async fn replay_moves_those_that_are_meant_and_the_worker_deletes_them() {
    let world = with_forbidden(&["t1", "t2"]).await;
    world.publish(b"no JSON", "m1").await;
    world.end("m1").await;
    world.sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    done(&world, &["replay", "--reason", "forbidden", "--yes"]).await;
    for task in ["t1", "t2"] {
        let outcome = async || (world.sandbox.state(ORG, task).await == "gone").then_some(());
        eventually("the replayed command is carried out", outcome).await;
    }
    has_dead_letters(&world, 1).await;
    let data = audits(&world, 2).await;
    let audit = |phase: &str, dead_letters: u32| json!({"phase": phase, "kind": "task.delete", "by": "ann", "selection": {"reason": "forbidden"}, "letters": dead_letters, "interrupted": false});
    assert_eq!(data, [audit("begun", 0), audit("ended", 2)]);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_dead_letter_that_dies_again_tells_its_history() {
    let world = with_forbidden(&["t1"]).await;
    done(&world, &["replay", "--all", "--yes", "--by", "bob"]).await;
    let dead_letter = eventually("the second death", async || {
        let dead_letters = lines(&world, &["export"]).await;
        dead_letters.into_iter().find(|dead_letter| dead_letter["history"].is_string())
    })
    .await;
    let history = dead_letter["history"].as_str().unwrap();
    assert!(
        history.starts_with("died 2") && history.contains("of forbidden: HTTP 403"),
        "{history}"
    );
    assert!(history.contains("; replayed 2") && history.ends_with("by bob"), "{history}");
    assert_eq!(dead_letter["attempts"], 1);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_replay_that_is_killed_loses_no_letter() {
    const DEAD_LETTERS: usize = 300;
    let world = with_dead_letters(DEAD_LETTERS).await;
    for _ in 0..3 {
        let before = count_dead_letters(&world).await;
        let mut command =
            with_settings(&world, &["dead", "replay", "--all", "--rate=200", "--yes", "--by=ann"]);
        let mut replay = Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        eventually("some are replayed", async || {
            let back = world.tester.ready(&["task.delete".to_owned()]).await["task.delete"];
            (back as usize > DEAD_LETTERS - before as usize + 20).then_some(())
        })
        .await;
        replay.kill().unwrap();
        replay.wait().unwrap();
        eventually("what was unacknowledged is back", async || {
            let queues = [DEAD.to_owned(), "task.delete".to_owned()];
            let all: u32 = world.tester.ready(&queues).await.values().sum();
            (all as usize >= DEAD_LETTERS).then_some(())
        })
        .await;
    }
    done(&world, &["replay", "--all", "--yes"]).await;
    let mut back = std::collections::BTreeSet::new();
    while let Some(message) = world.tester.take("task.delete").await {
        back.insert(message.properties.message_id().clone().unwrap().to_string());
    }
    assert_eq!((back.len(), count_dead_letters(&world).await), (DEAD_LETTERS, 0));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn one_look_after_the_other_sees_every_letter_and_so_does_the_replay_behind_them() {
    const DEAD_LETTERS: usize = 500;
    let world = with_dead_letters(DEAD_LETTERS).await;
    // From the ninth look on, copies take the places of those that were requeued often.
    for look in 1..=12 {
        let groups = lines(&world, &["list", "--json"]).await;
        assert_eq!(groups[0]["letters"], DEAD_LETTERS, "look {look}");
    }
    done(&world, &["replay", "--all", "--yes"]).await;
    assert_eq!(audits(&world, 2).await[1]["letters"], DEAD_LETTERS);
    assert_eq!(count_dead_letters(&world).await, 0);
    broker().delete_vhost(&world.vhost).await;
}

/// Also if it has put copies in the places of some of them.
#[tokio::test]
async fn the_next_reader_sees_what_this_one_held() {
    const DEAD_LETTERS: u32 = 400;
    let world = with_dead_letters(DEAD_LETTERS as usize).await;
    let url = broker().amqp_url(&world.vhost).parse().unwrap();
    let connection =
        Connection::open_for_any_body(&url, &TlsFiles::default(), "spec").await.unwrap();
    let mut reader = DeadLetterReader::open(&connection, Kind::TaskDelete).await.unwrap();
    let mut held = Vec::new();
    while let Some((dead_letter, left)) = reader.next().await.unwrap() {
        if left % 2 == 0 {
            held.push(dead_letter);
            continue;
        }
        world.tester.publish_to("task.dlx", DEAD, b"{}", BasicProperties::default()).await;
        reader.is_copied();
        assert!(dead_letter.acknowledge().await);
    }
    assert_eq!(held.len(), DEAD_LETTERS as usize / 2);
    reader.close().await;
    assert_eq!(world.tester.ready(&[DEAD.to_owned()]).await[DEAD], DEAD_LETTERS);
    connection.close().await;
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_queue_that_is_slow_to_say_how_much_it_has_is_not_taken_for_empty() {
    const DEAD_LETTERS: usize = 200;
    let world = with_dead_letters(DEAD_LETTERS).await;
    let queue = format!("'{}_{DEAD}'", world.vhost);
    // The broker lets it go on by itself: on a busy machine `rabbitmqctl` takes seconds to start.
    let suspend = async |milliseconds: u32| {
        let what = format!(
            "sys:suspend({queue}), timer:apply_after({milliseconds}, sys, resume, [{queue}])."
        );
        let there = move || own_broker().ctl(&["eval", &what]);
        tokio::task::spawn_blocking(there).await.unwrap();
    };
    suspend(4000).await;
    assert_eq!(lines(&world, &["list", "--json"]).await[0]["letters"], DEAD_LETTERS);
    let pause = async {
        eventually("the first one is replayed", async || {
            let replayed = world.tester.ready(&["task.delete".to_owned()]).await["task.delete"];
            (replayed > 0).then_some(())
        })
        .await;
        suspend(5000).await;
    };
    tokio::join!(done(&world, &["replay", "--all", "--yes", "--rate=20"]), pause);
    assert_eq!(audits(&world, 2).await[1]["letters"], DEAD_LETTERS);
    assert_eq!(count_dead_letters(&world).await, 0);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn discarded_letters_are_in_the_file_with_who_and_why() {
    let (_directory, file) = scratch();
    let world = with_forbidden(&["t1", "t2"]).await;
    let discard =
        ["discard", "--task", "t1", "--to", path(&file), "--why", "never existed", "--yes"];
    done(&world, &discard).await;
    let line: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(
        (&line["message_id"], &line["discarded"]["why"]),
        (&json!("t1"), &json!("never existed"))
    );
    assert_eq!(line["discarded"]["by"], "ann");
    has_dead_letters(&world, 1).await;
    done(&world, &["import", path(&file), "--yes"]).await;
    has_dead_letters(&world, 2).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn what_was_exported_is_imported_as_it_was() {
    let (_directory, file) = scratch();
    let world = with_forbidden(&["t1"]).await;
    world.publish(b"\xff\xfe no text", "m1").await;
    world.end("m1").await;
    let before = done(&world, &["export", "--to", path(&file)]).await;
    assert_eq!(before, "", "all went to the file");
    while world.tester.take(DEAD).await.is_some() {}
    done(&world, &["import", path(&file), "--yes"]).await;
    has_dead_letters(&world, 2).await;
    assert_eq!(done(&world, &["export"]).await, std::fs::read_to_string(&file).unwrap());
    let refused = dead(&world, &["import", "/nowhere.jsonl", "--yes"]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("/nowhere.jsonl") && said.matches("No such file").count() == 1, "{said}");
    world.assert_drained().await;
}

#[tokio::test]
async fn nothing_in_bulk_is_done_where_nobody_agreed() {
    let world = with_forbidden(&["t1"]).await;
    for action in [
        &["replay", "--all"][..],
        &["discard", "--all", "--to", "/dev/null", "--why", "x"],
        &["import", "-"],
    ] {
        let refused = dead(&world, action).await;
        assert_eq!(refused.status.code(), Some(64));
        assert!(String::from_utf8(refused.stderr).unwrap().starts_with("--yes"));
    }
    let wrong = dead(&world, &["list", "--reason", "boredom", "--older-than", "old"]).await;
    let lines = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(64) && lines.contains("attempts_exhausted"), "{lines}");
    has_dead_letters(&world, 1).await;
    world.assert_drained().await;
}

/// Refused; delivered again when the right was granted: one command, two ends.
#[tokio::test]
async fn a_success_supersedes_the_failure_of_its_command_and_the_dead_letter_knows_by_which_event()
{
    let (directory, file) = scratch();
    let world = with_forbidden(&["t1", "t2"]).await;
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.command(ORG, "t1").await;
    let of_t1 = |event: &Value| event["data"]["command_id"] == "t1";
    let events = eventually("both ends", async || {
        let events = world.tester.events().into_iter().map(|event| event.json());
        Some(events.filter(of_t1).collect::<Vec<_>>()).filter(|events| events.len() == 2)
    });
    let [failure, success] = &events.await[..] else { panic!("two events") };
    assert_eq!(success["data"]["outcome"], "deleted");
    assert_eq!((&success["supersedes"], &failure["supersedes"]), (&failure["id"], &Value::Null));
    let shown = lines(&world, &["show", "--json", "--command-id", "t1"]).await;
    let ids = (&shown[0]["event_id"], &shown[0]["superseded_by"]);
    assert_eq!(ids, (&failure["id"], &success["id"]));

    let events = directory.path().join("events.jsonl");
    std::fs::write(&events, format!("{failure}\n{success}\n")).unwrap();
    let of_these = ["--superseded-by", path(&events)];
    let list = [&["list", "--json"][..], &of_these].concat();
    assert_eq!(lines(&world, &list).await[0]["letters"], 1);
    // Without the events: by what the audit stream has of the calls, a moment later.
    eventually("the call's record", async || {
        std::fs::write(&events, decide(&world, &["audit", "--json"]).await).unwrap();
        (lines(&world, &list).await.first()?["letters"] == 1).then_some(())
    })
    .await;
    let discard = ["discard", "--yes", "--why", "succeeded after all", "--to", path(&file)];
    done(&world, &[&discard[..], &of_these].concat()).await;
    has_dead_letters(&world, 1).await;
    let left = lines(&world, &["show", "--json"]).await;
    assert_eq!(left[0]["message_id"], "t2");

    std::fs::write(&events, "t1\n").unwrap();
    let wrong = dead(&world, &[&["list"][..], &of_these].concat()).await;
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(64) && said.contains("line 1 of"), "{said}");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_forgotten_flag_removes_nothing() {
    let (_directory, file) = scratch();
    let world = with_forbidden(&["t1"]).await;
    let discard = ["discard", "--to", path(&file), "--why", "x"];
    for action in [&["replay", "--limit=1"][..], &discard, &["replay", "--all", "--org", ORG]] {
        let refused = dead(&world, &[action, &["--yes"]].concat()).await;
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{action:?}: {said}");
        assert!(said.starts_with("--all: ") && said.contains("--older-than"), "{said}");
    }
    assert!(!file.exists());
    has_dead_letters(&world, 1).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn an_export_is_added_to_a_file_only_where_that_was_asked_for() {
    let (_directory, file) = scratch();
    let world = with_forbidden(&["t1"]).await;
    done(&world, &["export", "--to", path(&file)]).await;
    let refused = dead(&world, &["export", "--to", path(&file)]).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("--append"), "{said}");
    let number = || std::fs::read_to_string(&file).unwrap().lines().count();
    assert_eq!(number(), 1);
    done(&world, &["export", "--append", "--to", path(&file)]).await;
    assert_eq!(number(), 2);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_user_who_could_not_keep_a_dead_letter_does_not_get_to_look_at_it() {
    let world = with_forbidden(&["t1"]).await;
    let url = user(&world, "^$").await;
    for _ in 0..2 {
        let refused = dead(&world, &["list", "--amqp-url", &url]).await;
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && said.contains("let it write"), "{said}");
    }
    let dead_letter = world.tester.take(DEAD).await.expect("it is there still");
    assert_eq!(
        dead_letter.header("x-delivery-count").unwrap_or("0".to_owned()),
        "0",
        "and nobody had it unacknowledged"
    );
    world.assert_drained().await;
}

#[tokio::test]
async fn nothing_is_done_that_cannot_be_put_on_record_and_the_operators_permissions_suffice() {
    let (_directory, file) = scratch();
    let world = with_forbidden(&["t1", "t2"]).await;
    let discard = ["discard", "--all", "--to", path(&file), "--why", "x", "--yes", "--amqp-url"];
    let url = user(&world, r"^amq\.default$").await;
    let refused = dead(&world, &[&discard[..], &[&url]].concat()).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("task.events"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
    has_dead_letters(&world, 2).await;
    let url = user(&world, r"^(amq\.default|task\.events)$").await;
    for _ in 0..12 {
        done(&world, &["list", "--amqp-url", &url]).await;
    }
    done(&world, &[&discard[..], &[&url]].concat()).await;
    done(&world, &["import", path(&file), "--limit=1", "--yes", "--amqp-url", &url]).await;
    has_dead_letters(&world, 1).await;
    done(&world, &["replay", "--all", "--yes", "--amqp-url", &url]).await;
    has_dead_letters(&world, 1).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn limit_and_rate_are_kept_and_a_signal_ends_it_after_the_letter_in_hand() {
    let world = with_forbidden(&["t1", "t2", "t3"]).await;
    done(&world, &["replay", "--all", "--limit", "1", "--yes"]).await;
    has_dead_letters(&world, 3).await;
    let replay = ["dead", "replay", "--all", "--rate=1", "--yes", "--by=ann"];
    let replay = Running::start(with_settings(&world, &replay).stderr(Stdio::null()));
    audits(&world, 3).await;
    eventually("one is replayed", async || (count_dead_letters(&world).await < 3).then_some(()))
        .await;
    crate::command_line::signal(&replay, "INT");
    let data = audits(&world, 4).await[3].clone();
    assert_eq!(
        (&data["interrupted"], data["letters"].as_u64() < Some(3)),
        (&json!(true), true),
        "{data}"
    );
    assert_eq!(replay.output().await.status.code(), Some(1));
    has_dead_letters(&world, 3).await;
    assert_eq!(world.sandbox.unexpected().await, Vec::<Value>::new());
    world.assert_drained().await;
}

#[tokio::test]
async fn a_replay_that_finds_fewer_than_it_announced_says_so() {
    let world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    // More than it has unacknowledged at once.
    for id in 0..20 {
        let properties = BasicProperties::default().with_message_id(format!("m{id}").into());
        world.tester.publish_to("task.dlx", DEAD, b"{}", properties).await;
    }
    let replay = ["dead", "replay", "--all", "--rate=3", "--yes", "--by=ann"];
    let replay = Running::start(with_settings(&world, &replay).stderr(Stdio::piped()));
    eventually("one is replayed", async || world.tester.take("task.delete").await).await;
    world.tester.take(DEAD).await.expect("one that is not unacknowledged yet");
    let output = replay.output().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not all dead letters that were announced were there"), "{said}");
    assert_eq!(output.status.code(), Some(0));
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn what_the_broker_itself_moved_there_is_called_poison() {
    let world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    world.command(OTHER_ORG, "t1").await;
    world.tester.poison("task.delete", "task.delete.undeliverable").await;
    world.tester.poison("task.delete.undeliverable", DEAD).await;
    let groups = lines(&world, &["list", "--json"]).await;
    assert_eq!((&groups[0]["reason"], &groups[0]["org_id"]), (&json!("poison"), &json!(OTHER_ORG)));
    assert!(groups[0]["detail"].as_str().unwrap().contains("delivery_limit"), "{groups:?}");
    assert!(groups[0]["oldest"].is_string());
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_dead_letter_with_a_false_date_can_be_removed() {
    let (_directory, file) = scratch();
    let world = World::without_worker(|_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    for id in ["m1", "m2"] {
        let mut headers = FieldTable::default();
        for (name, text) in
            [("x-failure-reason", "forbidden"), ("x-failed-at", "2099-01-01T00:00:00Z")]
        {
            headers.insert(name.into(), AMQPValue::LongString(text.into()));
        }
        let forged = BasicProperties::default().with_message_id(id.into()).with_headers(headers);
        world.tester.publish_to("", DEAD, b"{}", forged).await;
    }
    done(&world, &["replay", "--all", "--limit=1", "--yes"]).await;
    has_dead_letters(&world, 1).await;
    done(&world, &["discard", "--all", "--to", path(&file), "--why", "x", "--yes"]).await;
    has_dead_letters(&world, 0).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 1);
    broker().delete_vhost(&world.vhost).await;
}

/// `dead export | less`, say: a pipe holds 64 KiB, and RabbitMQ ends a connection that was silent
/// for some heartbeats.
#[tokio::test]
async fn a_slow_reader_does_not_silence_the_connection() {
    const MORE_THAN_THE_BROKERS_PATIENCE: Duration = Duration::from_secs(15);
    let world = World::start().await;
    world.tester.leave_dead_letters_alone().await;
    for id in ["m1", "m2", "m3"] {
        world.publish(&vec![b'x'; 60_000], id).await;
    }
    has_dead_letters(&world, 3).await;
    let mut command = with_settings(&world, &["dead", "export"]);
    command.env("AMQP_URL", format!("{}?heartbeat=4", broker().amqp_url(&world.vhost)));
    let child = Running::start(&mut command);
    tokio::time::sleep(MORE_THAN_THE_BROKERS_PATIENCE).await;
    let output = child.output().await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 3, "{log}");
    has_dead_letters(&world, 3).await;
}
