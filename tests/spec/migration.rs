//! From the topology of the versions before, in which RabbitMQ's own dead letters had no queue of
//! their own, to this one.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};

use crate::command_line::{binary, signal};
use crate::support::eventually;
use crate::support::process::{Running, output};
use crate::support::rabbitmq::{broker, http};
use crate::support::sandbox::{Sandbox, TOKEN};
use crate::support::tester::{Message, Tester};
use crate::support::world::ORG;

const DEAD: &str = "task.delete.dead";

/// A vhost as an older version's `setup` left it.
async fn older_vhost() -> String {
    let vhost = broker().new_vhost().await;
    let mut definitions: Value =
        serde_json::from_str(include_str!("../fixtures/topology_before_undeliverable.json"))
            .unwrap();
    for part in ["exchanges", "queues", "bindings"] {
        for one in definitions[part].as_array_mut().unwrap() {
            one["vhost"] = json!(vhost);
        }
    }
    broker().import(&definitions).await;
    vhost
}

/// What `setup` says.
async fn setup(vhost: &str) -> String {
    let mut setup = binary(&["setup"]);
    setup.env("AMQP_URL", broker().amqp_url(vhost));
    let done = output(setup).await;
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(0), "{said}");
    said
}

async fn dead(vhost: &str, args: &[&str]) -> Vec<Value> {
    let mut dead = binary(&[&["dead"], args].concat());
    dead.env("AMQP_URL", broker().amqp_url(vhost)).env("USER", "ann");
    let done = output(dead).await;
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    said.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn command(task: &str) -> Vec<u8> {
    json!({"org_id": ORG, "task_id": task}).to_string().into_bytes()
}

fn properties(id: &str) -> BasicProperties {
    BasicProperties::default().with_message_id(id.into())
}

async fn bindings(vhost: &str) -> BTreeSet<String> {
    let definitions = broker().definitions_of(vhost).await;
    let of_the_dead_letters = |binding: &&Value| binding["source"] == "task.dlx";
    let bindings = definitions["bindings"].as_array().unwrap().iter().filter(of_the_dead_letters);
    bindings
        .map(|one| {
            format!(
                "{} <- {}",
                one["destination"].as_str().unwrap(),
                one["routing_key"].as_str().unwrap()
            )
        })
        .collect()
}

/// A worker whose user may configure nothing; its port is there at once.
fn worker(vhost: &str, user: &str, sandbox: &Sandbox, port: &str) -> Running {
    let mut worker = binary(&["run", "--declare-topology=false", "--http-addr", port]);
    worker
        .env("AMQP_URL", broker().amqp_url_as(user, "pw", vhost))
        .env("TALLYFY_BASE_URL", sandbox.base_url())
        .env("TALLYFY_ORG_ID", ORG)
        .env("TALLYFY_ACCESS_TOKEN", TOKEN)
        .stderr(Stdio::null());
    Running::start(&mut worker)
}

async fn readiness(port: &str, words: &str) {
    eventually(words, async || {
        let said =
            http().get(format!("http://{port}/readyz")).send().await.ok()?.text().await.ok()?;
        said.contains(words).then_some(())
    })
    .await;
}

/// A command in the work queue, one in a delay queue, and two dead letters: a worker's, and one
/// that RabbitMQ moved.
async fn fill(tester: &Tester) {
    tester.publish(&command("work"), properties("work")).await;
    tester
        .publish_to("task.retry", "task.delete.wait.5s", &command("wait"), properties("wait"))
        .await;
    let mut headers = FieldTable::default();
    headers.insert("x-failure-reason".into(), AMQPValue::LongString("forbidden".into()));
    let forbidden = properties("forbidden").with_headers(headers);
    tester.publish_to("task.dlx", "task.delete", &command("forbidden"), forbidden).await;
    let late = |id: &str| properties(id).with_expiration("1".into());
    // Only what stands at the head of its queue expires.
    let work = tester.take("task.delete").await.expect("the command");
    tester.publish(&command("late"), late("late")).await;
    eventually("RabbitMQ moves it", async || {
        (tester.ready(&[DEAD.to_owned()]).await[DEAD] == 2).then_some(())
    })
    .await;
    tester.publish(&work.body, work.properties).await;
}

#[tokio::test]
async fn an_older_topology_is_migrated_without_loss() {
    let vhost = older_vhost().await;
    let (sandbox, tester) =
        (Sandbox::start(&[ORG]), Tester::connect(&broker().amqp_url(&vhost)).await);
    tester.leave_dead_letters_alone().await;
    sandbox.tasks(ORG, &["work", "wait"], "present").await;
    fill(&tester).await;
    let user = format!("worker-{vhost}");
    broker().put_user(&user, "pw").await;
    let (write, read) =
        (r"^task\.(events|retry|dlx|ledger)$", r"^task\.delete(\.(undeliverable|ledger))?$");
    broker().set_permissions(&vhost, &user, "^$", write, read).await;
    let port = crate::hard_edges::free_address();
    let mut worker = worker(&vhost, &user, &sandbox, &port);
    readiness(&port, "cannot find exchange task.ledger, run `setup`").await;

    let said = setup(&vhost).await;
    assert!(said.contains("set_policy") && said.contains(DEAD), "{said}");
    let expected = [
        "task.delete.dead <- task.delete.dead",
        "task.delete.dead.log <- task.delete.dead.log",
        "task.delete.undeliverable <- task.delete",
    ];
    assert_eq!(bindings(&vhost).await, expected.map(str::to_owned).into());
    readiness(&port, "ready").await;
    for task in ["work", "wait"] {
        let end = eventually(task, async || {
            tester.events().into_iter().find(|event| event.json()["data"]["command_id"] == task)
        })
        .await;
        assert_eq!(end.json()["data"]["outcome"], "deleted", "{task}");
    }
    let reasons: Vec<_> = dead(&vhost, &["list", "--json"])
        .await
        .into_iter()
        .map(|group| (group["reason"].clone(), group["letters"].clone()))
        .collect();
    assert_eq!(reasons, [(json!("expired_in_queue"), json!(1)), (json!("forbidden"), json!(1))]);
    sandbox.tasks(ORG, &["late", "forbidden"], "present").await;
    dead(&vhost, &["replay", "--all", "--yes"]).await;
    for task in ["late", "forbidden"] {
        eventually("the replayed command is carried out", async || {
            (sandbox.state(ORG, task).await == "gone").then_some(())
        })
        .await;
    }
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    broker().delete_vhost(&vhost).await;
}

#[tokio::test]
async fn what_rabbitmq_dead_letters_during_the_migration_is_lost_at_no_moment() {
    const COMMANDS: usize = 300;
    let vhost = older_vhost().await;
    let tester = Tester::connect(&broker().amqp_url(&vhost)).await;
    let mut migration = None;
    for number in 0..COMMANDS {
        let late = properties(&format!("m{number}")).with_expiration("1".into());
        tester.publish(b"{}", late).await;
        if number == COMMANDS / 3 {
            let vhost = vhost.clone();
            migration = Some(tokio::spawn(async move { setup(&vhost).await }));
        }
    }
    migration.expect("begun").await.unwrap();
    let last = properties("last").with_expiration("1".into());
    tester.publish(b"{}", last).await;
    let seen = RefCell::new(BTreeSet::new());
    let id = |message: &Message| message.properties.message_id().clone().unwrap().to_string();
    eventually("each of them", async || {
        while let Some(message) = tester.take("task.delete.undeliverable").await {
            seen.borrow_mut().insert(id(&message));
        }
        seen.borrow_mut().extend(tester.dead_letters().iter().map(id));
        (seen.borrow().len() == COMMANDS + 1).then_some(())
    })
    .await;
    let old_way: Vec<_> = tester.dead_letters().iter().map(id).collect();
    assert!(!old_way.contains(&"last".to_owned()), "the old way is closed");
    broker().delete_vhost(&vhost).await;
}

/// RabbitMQ 4.0 to 4.2 drop a message that went back to such a queue 20 times.
#[tokio::test]
async fn the_policy_that_setup_names_keeps_old_dead_letters_however_often_they_are_looked_at() {
    let vhost = older_vhost().await;
    let tester = Tester::connect(&broker().amqp_url(&vhost)).await;
    tester.leave_dead_letters_alone().await;
    let (pattern, definition) =
        (r"^(.+\.dead|task\.events\.unrouted)$", json!({"delivery-limit": 100_000}));
    for _ in 0..2 {
        let said = setup(&vhost).await;
        let command = format!("'{pattern}' '{definition}' --apply-to queues")
            .replace('\\', r"\\")
            .replace('"', r#"\""#);
        assert!(
            said.matches("set_policy").count() == 1 && said.contains(&command),
            "{command}: {said}"
        );
    }
    broker().put_policy(&vhost, pattern, definition).await;
    tester.publish_to("task.dlx", DEAD, b"{}", properties("m1")).await;
    // A policy reaches its queues a moment later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..30 {
        let message = eventually("it is back", async || {
            tester.channel.basic_get(DEAD.into(), BasicGetOptions::default()).await.unwrap()
        })
        .await;
        message
            .delivery
            .acker
            .nack(BasicNackOptions { requeue: true, multiple: false })
            .await
            .unwrap();
    }
    eventually("it is still there", async || {
        (tester.ready(&[DEAD.to_owned()]).await[DEAD] == 1).then_some(())
    })
    .await;
    broker().delete_vhost(&vhost).await;
}

#[tokio::test]
async fn a_queue_that_is_neither_as_now_nor_as_before_is_refused() {
    let vhost = older_vhost().await;
    let tester = Tester::connect(&broker().amqp_url(&vhost)).await;
    tester.leave_dead_letters_alone().await;
    tester.channel.queue_delete(DEAD.into(), QueueDeleteOptions::default()).await.unwrap();
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    tester.channel.queue_declare(DEAD.into(), options, FieldTable::default()).await.unwrap();
    let mut setup = binary(&["setup"]);
    setup.env("AMQP_URL", broker().amqp_url(&vhost));
    let done = output(setup).await;
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot declare queue task.delete.dead"), "{said}");
    assert_eq!(
        bindings(&vhost).await,
        BTreeSet::new(),
        "nothing is bound or unbound before all is declared"
    );
    broker().delete_vhost(&vhost).await;
}
