//! Broker outages: lost connections, lost consumers, few permissions.

use futures_util::future::join_all;
use lapin::options::QueueDeleteOptions;
use serde_json::json;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::rabbitmq::topology::Provision;
use url::Url;

use crate::command_line::with_settings;
use crate::support::eventually;
use crate::support::process::output;
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::broker;
use crate::support::world::World;

#[tokio::test]
async fn a_lost_connection_is_noticed_at_once_and_rebuilt() {
    let mut world = World::without_worker(|_| {}).await;
    let (host, port) = broker().host_port();
    let proxy = Proxy::start(format!("{host}:{port}")).await;
    world = world.behind_broker_proxy(&proxy);
    world.start_worker().await;
    world.is_ready().await;
    world.sandbox.fault("t1", 1, json!({"latency_ms": 1500, "after_effect": true})).await;
    world.delete("t1").await;
    world.called("t1", 1).await;
    proxy.cut();
    world.is_not_ready_because("not consuming").await;
    proxy.restore();
    let end = world.end("t1").await;
    assert_eq!(
        (&end["outcome"], &end["ambiguous"]),
        (&json!("already_absent"), &json!(true)),
        "the call was made before"
    );
    assert!(world.metric("tallyfy_delete_worker_reconnects_total").await.unwrap() >= 1.0);
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_queue_deleted_under_the_worker_is_declared_again() {
    let world = World::start().await;
    world
        .tester
        .channel
        .queue_delete("task.delete".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    eventually("a rebuilt consumer", async || {
        let reconnects = world.metric("tallyfy_delete_worker_reconnects_total").await?;
        (reconnects >= 1.0 && world.page("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

#[tokio::test]
async fn of_two_kinds_the_one_whose_queue_is_deleted_is_consumed_again() {
    let world = World::start_with(|settings| {
        settings.broker.topology.kinds = vec![Kind::TaskDelete, Kind::TaskArchive];
    })
    .await;
    assert_eq!(world.end(&world.archive("a1").await).await["outcome"], "archived");
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    // Both are consumed at once now, and the consumer of the other one goes on.
    let (queue, options) = ("task.archive".into(), QueueDeleteOptions::default());
    world.tester.channel.queue_delete(queue, options).await.unwrap();
    eventually("a rebuilt consumer", async || {
        let reconnects = world.metric("tallyfy_delete_worker_reconnects_total").await?;
        (reconnects >= 1.0 && world.page("/readyz").await.0 == 200).then_some(())
    })
    .await;
    assert_eq!(world.end(&world.archive("a2").await).await["outcome"], "archived");
    assert_eq!(world.end(&world.delete("t2").await).await["outcome"], "deleted");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_worker_whose_broker_user_may_configure_nothing_runs() {
    let mut world = World::without_worker(|s| s.broker.topology.provision = Provision::Check).await;
    let user = format!("worker-{}", world.vhost);
    broker().put_user(&user, "p@ss/word").await;
    let write = "^(task.events|task.retry|task.dlx|task.ledger)$";
    let read = r"^task\.delete(\.(undeliverable|ledger))?$";
    broker().set_permissions(&world.vhost, &user, "^$", write, read).await;
    let url = broker().amqp_url_as(&user, "p@ss/word", &world.vhost);
    world.connect_worker_with(&url);
    world.start_worker().await;
    world.is_ready().await;
    world.sandbox.fault("t1", 1, json!({"status": 429})).await;
    assert_eq!(world.end(&world.delete("t1").await).await["outcome"], "deleted");
    world.publish(b"not a command", "m1").await;
    world.dead_letter("m1").await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_topology_that_is_missing_is_named_and_waited_for() {
    let mut world = World::without_worker(|s| s.broker.topology.provision = Provision::Check).await;
    world
        .tester
        .channel
        .queue_delete("task.delete".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    world.start_worker().await;
    let reason = world.is_not_ready_because("cannot find queue task.delete").await;
    assert!(reason.contains("NOT_FOUND"), "{reason}");
    world.declare_topology().await;
    world.is_ready().await;
    world.assert_drained().await;
}

/// What the guard lets through may still hold something that nobody thought of.
#[tokio::test]
async fn a_message_that_ends_every_connection_dies_alone() {
    let mut world = World::without_worker(|_| {}).await;
    let (host, port) = broker().host_port();
    let proxy = Proxy::deadly(format!("{host}:{port}"), "deadly").await;
    world = world.behind_broker_proxy(&proxy);
    world.sandbox.fault_for_all(json!({"latency_ms": 300})).await;
    let tasks: Vec<String> = (0..12).map(|number| format!("task-{number}")).collect();
    for (number, task) in tasks.iter().enumerate() {
        if number == 6 {
            world.publish(b"deadly", "poison").await;
        }
        world.delete(task).await;
    }
    world.start_worker().await;
    world.is_not_ready_because("not consuming").await;
    for task in &tasks {
        let outcome = world.end(task).await["outcome"].clone();
        assert!(outcome == "deleted" || outcome == "already_absent", "{task}: {outcome}");
    }
    for deliveries in [6.0, 12.0, 15.0, 18.0] {
        eventually("most of its deliveries", async || {
            let reconnects = world.metric("tallyfy_delete_worker_reconnects_total").await?;
            (reconnects >= deliveries).then_some(())
        })
        .await;
    }
    let dead_letters = world.dead_letters(1).await;
    assert_eq!(dead_letters[0].header("x-first-death-reason").as_deref(), Some("delivery_limit"));
    world.is_ready().await;
    world.assert_drained().await;
}

/// `connection.close-ok` and `exchange.declare-ok`, each by its class and its method.
const GOOD_BYE: &str = "\0\x0a\0\x33";
const DECLARED: &str = "\0\x28\0\x0b";

/// lapin itself waits without end; with its own close it even gives up the heartbeats that would
/// notice.
#[tokio::test]
async fn no_request_to_the_broker_waits_indefinitely() {
    let world = World::without_worker(|_| {}).await;
    let (host, port) = broker().host_port();
    let at = || format!("{host}:{port}");
    let commands = [
        ("setup", Proxy::silent_from(at(), GOOD_BYE).await, 0, "the topology is declared"),
        ("check", Proxy::silent_from(at(), GOOD_BYE).await, 0, "ok       base URL"),
        ("setup", Proxy::losing(at(), DECLARED).await, 1, "did not answer in time"),
        (
            "check",
            Proxy::losing(at(), DECLARED).await,
            1,
            "did not answer in time. That does not show what is wrong",
        ),
    ];
    let ends_in_time = async |(command, proxy, code, said): (&str, Proxy, _, _)| {
        let mut url = Url::parse(&broker().amqp_url(&world.vhost)).unwrap();
        url.set_port(Some(proxy.addr.port())).unwrap();
        let mut process = with_settings(&world, &[command]);
        process.env("AMQP_URL", url.as_str());
        let output = output(process).await;
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{command}: {text}");
        assert!(text.contains(said), "{command}: {text}");
    };
    join_all(commands.map(ends_in_time)).await;
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn the_broker_shows_version_machine_and_purpose_of_each_connection() {
    let world = World::start().await;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let name = |purpose: &str| {
        let version = env!("CARGO_PKG_VERSION");
        format!("tallyfy-delete-worker {version} on {} ({purpose})", machine.trim())
    };
    eventually("the names of two connections", async || {
        let connections = broker().connections(&world.vhost).await;
        let names = connections.iter().filter_map(|one| one["user_provided_name"].as_str());
        let names = names.map(str::to_owned).collect::<Vec<_>>();
        ["consume", "publish"].iter().all(|purpose| names.contains(&name(purpose))).then_some(())
    })
    .await;
    world.assert_drained().await;
}
