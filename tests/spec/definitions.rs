//! `deploy/rabbitmq/definitions.json` is what `setup` declares, and its users may do what they must
//! and no more.

use std::process::Stdio;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tallyfy_delete_worker::kind::Kind;

use crate::command_line::{binary, signal};
use crate::support::process::Running;
use crate::support::rabbitmq::own_broker;
use crate::support::sandbox::{Sandbox, TOKEN};
use crate::support::tester::Tester;
use crate::support::{eventually, world::ORG};

const VHOST: &str = "tallyfy";

pub(crate) fn definitions() -> Value {
    serde_json::from_str(include_str!("../../deploy/rabbitmq/definitions.json")).unwrap()
}

/// Exchanges, queues and bindings without the name of their vhost, in order.
fn shape(definitions: &Value) -> Vec<Vec<String>> {
    ["exchanges", "queues", "bindings"]
        .map(|kind| {
            let mut all: Vec<_> = definitions[kind].as_array().unwrap().clone();
            for one in &mut all {
                let one = one.as_object_mut().unwrap();
                one.remove("vhost");
                // RabbitMQ 4 repeats a queue's type beside its arguments.
                if kind == "queues" {
                    one.remove("type");
                }
            }
            let mut all: Vec<_> = all.iter().map(ToString::to_string).collect();
            all.sort();
            all
        })
        .to_vec()
}

/// For all five kinds.
fn setup(url: &str) {
    let kinds = Kind::ALL.map(Kind::as_str).join(",");
    let done = binary(&["setup", "--kinds", &kinds]).env("AMQP_URL", url).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test]
async fn the_definitions_are_what_setup_declares_and_their_users_have_what_they_need() {
    let broker = own_broker();
    broker.import(&definitions()).await;
    let other = broker.new_vhost().await;
    setup(&broker.amqp_url(&other));
    assert_eq!(
        shape(&broker.definitions_of(VHOST).await),
        shape(&broker.definitions_of(&other).await)
    );
    let url = |user: &str| broker.amqp_url_as(user, "pw", VHOST);
    for user in ["tallyfy-setup", "tallyfy-worker", "tallyfy-producer", "tallyfy-archiver"] {
        broker.put_user(user, "pw").await;
    }
    setup(&url("tallyfy-setup"));

    let sandbox = Sandbox::start(&[ORG]);
    sandbox.tasks(ORG, &["t1", "t2"], "present").await;
    sandbox.tasks(ORG, &["t2"], "forbidden").await;
    sandbox.fault("t1", 4, json!({"status": 503})).await;
    broker.set_permissions(VHOST, "guest", ".*", ".*", ".*").await;
    let tester = Tester::connect(&broker.amqp_url(VHOST)).await;
    let mut command = binary(&["run", "--declare-topology=false", "--http-addr=127.0.0.1:0"]);
    command
        .env("AMQP_URL", url("tallyfy-worker"))
        .env("KINDS", Kind::ALL.map(Kind::as_str).join(","))
        .env("TALLYFY_BASE_URL", sandbox.base_url())
        .env("TALLYFY_ORG_ID", ORG)
        .env("TALLYFY_ACCESS_TOKEN", TOKEN);
    let mut worker = Running::start(command.stderr(Stdio::null()));
    for task in ["t1", "t2"] {
        let body = json!({"org_id": ORG, "task_id": task}).to_string();
        let published =
            publish(&url("tallyfy-producer"), "task.commands", "task.delete", body.as_bytes())
                .await;
        assert!(matches!(published, Ok(Confirmation::Ack(None))), "{published:?}");
    }
    let kinds = eventually("both ends", async || {
        let mut kinds: Vec<_> =
            tester.events().iter().map(|event| event.json()["data"]["outcome"].clone()).collect();
        kinds.sort_by_key(ToString::to_string);
        (kinds.len() == 2).then_some(kinds)
    })
    .await;
    assert_eq!(kinds, ["dead_lettered", "deleted"]);
    signal(&worker, "TERM");
    assert_eq!(worker.wait().unwrap().code(), Some(0));
    each_producer_may_ask_for_its_own_kind_alone(&url).await;
    broker.delete_vhost(VHOST).await;
    broker.delete_vhost(&other).await;
}

/// The routing key is the kind, so RabbitMQ's topic permissions say who may ask for what.
async fn each_producer_may_ask_for_its_own_kind_alone(url: &impl Fn(&str) -> String) {
    for (user, own, others) in [
        ("tallyfy-producer", Kind::TaskDelete, Kind::TaskArchive),
        ("tallyfy-archiver", Kind::TaskArchive, Kind::TaskDelete),
    ] {
        let taken = publish(&url(user), "task.commands", own.queue(), b"{}").await;
        assert!(matches!(taken, Ok(Confirmation::Ack(None))), "{user}: {taken:?}");
        for (exchange, key) in [
            ("task.commands", others.queue()),
            ("task.commands", "task.other"),
            ("task.events", "task.deleted"),
            ("task.retry", "task.delete.wait.5s"),
            // Past the exchange that looks at the kind.
            ("", own.queue()),
            ("", others.queue()),
        ] {
            let refused = publish(&url(user), exchange, key, b"{}").await;
            assert!(refused.is_err(), "{user} may not publish to {exchange:?} with {key}");
        }
    }
}

async fn publish(url: &str, exchange: &str, key: &str, body: &[u8]) -> lapin::Result<Confirmation> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    channel
        .basic_publish(exchange.into(), key.into(), options, body, BasicProperties::default())
        .await?
        .await
}
