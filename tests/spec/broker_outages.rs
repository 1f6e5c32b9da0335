//! Broker outages: in each the worker says what is wrong, loses nothing, and goes on by itself when
//! it is over.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use serde_json::{Value, json};
use tallyfy_delete_worker::rabbitmq::topology::Provision;
use tokio::time::Instant;

use crate::check::check_for;
use crate::dead_letters;
use crate::support::eventually;
use crate::support::proxy::{Direction, Proxy};
use crate::support::rabbitmq::{Broker, broker, broker_to_harm, own_broker};
use crate::support::world::{ORG, World};

/// RabbitMQ 3.10 may break a queue that was declared in the seconds before a `kill -9`.
const SAFE_FROM_A_KILL: Duration = Duration::from_secs(5);

async fn delete_some(world: &World, tasks: &[&str]) {
    for task in tasks {
        world.delete(task).await;
    }
}

async fn all_are_gone(world: &World, tasks: &[&str]) {
    for task in tasks {
        eventually(&format!("{task} deleted"), async || {
            (world.sandbox.state(ORG, task).await == "gone").then_some(())
        })
        .await;
    }
    assert_eq!(world.tester.dead_letters().len(), 0);
}

/// Off again when it is dropped, by whatever end of the test: no other one could publish.
struct Alarm(&'static Broker, [&'static str; 2]);

impl Alarm {
    fn on(
        broker: &'static Broker,
        setting: &'static str,
        too_little: &str,
        enough: &'static str,
    ) -> Self {
        broker.ctl(&[setting, too_little]);
        Self(broker, [setting, enough])
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.ctl(&self.1);
    }
}

#[tokio::test]
async fn an_alarm_of_the_broker_is_told_and_waited_for() {
    let (_turn, broker) = broker_to_harm().await;
    for (resource, setting, too_little, enough) in [
        ("memory", "set_vm_memory_high_watermark", "0", "0.6"),
        ("disk", "set_disk_free_limit", "900000GB", "50MB"),
    ] {
        let mut world = World::at(broker, |_| {}).await;
        let tasks = ["t1", "t2", "t3"];
        delete_some(&world, &tasks).await;
        let alarm = Alarm::on(broker, setting, too_little, enough);
        world.start_worker().await;
        let reason = world.is_not_ready_because("RabbitMQ is blocking publishers").await;
        assert!(reason.contains(resource), "{reason}");
        assert_eq!(world.metric("tallyfy_delete_worker_publisher_up").await, Some(0.0));
        let url = broker.amqp_url(&world.vhost);
        for (args, code, state) in [
            (&["check", "--json"][..], Some(1), "failed"),
            (&["check", "--json", "--start"], Some(0), "warning"),
        ] {
            let (exited, facts) = check_for(&world, args, &[("AMQP_URL", &url)]).await;
            let fact = &facts["confirms and returns"];
            assert_eq!((exited, fact["state"].as_str()), (code, Some(state)), "{facts:#}");
            let detail = fact["detail"].as_str().unwrap();
            assert!(
                detail.starts_with("RabbitMQ is blocking publishers ("),
                "as /readyz: {detail}"
            );
            assert!(detail.contains(resource) && reason.contains(detail), "{detail}, {reason}");
            let seen = facts["permission to read task.delete"]["state"].as_str();
            assert_eq!(seen, Some("ok"), "{facts:#}");
        }
        let look = ["list", &format!("--amqp-url={url}")];
        let refused = dead_letters::dead(&world, &look).await;
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(
            said.contains("RabbitMQ is blocking publishers") && !refused.status.success(),
            "{said}"
        );
        world.sandbox.forget_unexpected().await;
        assert_eq!(world.tester.events().len(), 0);
        drop(alarm);
        for task in tasks {
            assert_eq!(world.end(task).await["outcome"], "deleted");
        }
        world.is_ready().await;
        assert_eq!(world.metric("tallyfy_delete_worker_publisher_up").await, Some(1.0));
        world.assert_drained().await;
    }
}

#[tokio::test]
async fn a_confirm_may_come_before_the_notice_that_publishers_are_blocked() {
    let (_turn, broker) = broker_to_harm().await;
    let world = World::at(broker, |_| {}).await;
    let (host, port) = broker.host_port();
    let proxy = Proxy::delaying(format!("{host}:{port}"), "low on").await;
    let alarm = Alarm::on(broker, "set_vm_memory_high_watermark", "0", "0.6");
    let mut url = url::Url::parse(&broker.amqp_url(&world.vhost)).unwrap();
    url.set_port(Some(proxy.addr.port())).unwrap();
    let settings = [("AMQP_URL", url.as_str())];
    let (exited, facts) = check_for(&world, &["check", "--json"], &settings).await;
    let detail = facts["confirms and returns"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("RabbitMQ is blocking publishers (low on"), "{facts:#}");
    assert_eq!(exited, Some(1));
    let seen = |permission: &str| &facts[format!("permission to {permission}")]["state"];
    assert_eq!(
        (seen("read task.delete"), seen("write task.dlx")),
        (&json!("ok"), &json!("skipped"))
    );
    drop(alarm);
    broker.delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_broker_that_was_lost_during_an_alarm_is_not_said_to_be_blocked_when_it_is_back() {
    let (_turn, broker) = broker_to_harm().await;
    let mut world = World::at(broker, |_| {}).await;
    let (host, port) = broker.host_port();
    let proxy = Proxy::start(format!("{host}:{port}")).await;
    world = world.behind_broker_proxy(&proxy);
    delete_some(&world, &["t1"]).await;
    let alarm = Alarm::on(broker, "set_vm_memory_high_watermark", "0", "0.6");
    world.start_worker().await;
    world.is_not_ready_because("RabbitMQ is blocking publishers").await;
    proxy.cut();
    world.is_not_ready_because("not consuming").await;
    drop(alarm);
    proxy.restore();
    world.end("t1").await;
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_confirm_that_never_comes_is_told_and_nothing_is_acknowledged() {
    let broker = own_broker();
    let mut world = World::without_worker(|_| {}).await;
    world.start_worker().await;
    world.is_ready().await;
    let queue = format!("'{}_task.delete.dead'", world.vhost);
    broker.ctl(&["eval", &format!("sys:suspend({queue}).")]);
    world.publish(b"not a command", "m1").await;
    world.is_not_ready_because("cannot publish to task.dlx: no confirm within 10s").await;
    eventually("the command, which stays unacknowledged, in the next session too", async || {
        let reconnects = world.metric("tallyfy_delete_worker_reconnects_total").await?;
        let unsettled = world.metric("tallyfy_delete_worker_deliveries_unsettled").await?;
        (reconnects >= 1.0 && unsettled > 0.0).then_some(())
    })
    .await;
    assert_eq!(world.tester.events().len(), 0);
    assert_eq!(world.tester.dead_letters().len(), 0);
    broker.ctl(&["eval", &format!("sys:resume({queue}).")]);
    world.dead_letter("m1").await;
    world.end("m1").await;
    world.is_ready().await;
    world.assert_drained().await;
}

/// RabbitMQ 4 takes an eighth of what 3 took.
#[tokio::test]
async fn a_dead_letter_that_the_broker_finds_too_large_goes_there_as_it_came() {
    let (_turn, broker) = broker_to_harm().await;
    let mut world = World::at(broker, |_| {}).await;
    let take = |bytes: usize| {
        let (name, put) = ("max_message_size", "persistent_term:put");
        broker.ctl(&[
            "eval",
            &format!("application:set_env(rabbit, {name}, {bytes}), {put}({name}, {bytes})."),
        ]);
    };
    let body = vec![b'x'; 20_000];
    world.publish(&body, "m1").await;
    take(5_000);
    world.start_worker().await;
    let dead_letter = world.dead_letter("m1").await;
    assert!(dead_letter.body == body, "byte for byte");
    assert_eq!(dead_letter.header("x-failure-reason"), None);
    assert_eq!(dead_letter.header("x-first-death-reason").as_deref(), Some("rejected"));
    assert_eq!(world.end("m1").await["failure"]["reason"], "malformed");
    take(16 * 1024 * 1024);
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_broker_that_is_killed_and_started_again_loses_nothing() {
    let (_turn, broker) = broker_to_harm().await;
    let mut world = World::at(broker, |_| {}).await;
    world.sandbox.fault_for_all(json!({"latency_ms": 500})).await;
    let tasks = ["t1", "t2", "t3", "t4", "t5", "t6"];
    delete_some(&world, &tasks).await;
    tokio::time::sleep(SAFE_FROM_A_KILL).await;
    world.start_worker().await;
    world.called("t2", 1).await;
    broker.kill();
    world.is_not_ready_because("not consuming").await;
    broker.start_again();
    world.reconnect_the_tester().await;
    all_are_gone(&world, &tasks).await;
    world.is_ready().await;
    world.assert_drained().await;
}

#[tokio::test]
async fn looking_at_a_queue_does_not_confuse_rabbitmqs_recovery() {
    let (_turn, broker) = broker_to_harm().await;
    let world = World::at(broker, |_| {}).await;
    world.tester.leave_dead_letters_alone().await;
    let declared = Instant::now();
    let ids: BTreeSet<_> = (0..200).map(|n| format!("m{n}")).collect();
    for id in &ids {
        let properties = BasicProperties::default().with_message_id(id.as_str().into());
        world.tester.publish_to("task.dlx", "task.delete.dead", b"{}", properties).await;
    }
    let at = format!("--amqp-url={}", broker.amqp_url(&world.vhost));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("discarded");
    let to = format!("--to={}", file.display());
    for _ in 0..2 {
        dead_letters::lines(&world, &["list", "--json", &at]).await;
        let some = ["discard", "--all", "--limit=40", "--yes", "--by=ann", "--why=no", &to, &at];
        dead_letters::done(&world, &some).await;
    }
    tokio::time::sleep_until(declared + SAFE_FROM_A_KILL).await;
    broker.kill();
    broker.start_again();
    let id = |line: &Value| line["message_id"].as_str().unwrap().to_owned();
    let discarded = std::fs::read_to_string(&file).unwrap();
    let discarded = discarded.lines().map(|line| id(&serde_json::from_str(line).unwrap()));
    let discarded: BTreeSet<_> = discarded.collect();
    assert_eq!(discarded.len(), 80);
    let kept: BTreeSet<_> = ids.difference(&discarded).cloned().collect();
    eventually("the right ones", async || {
        let left = dead_letters::lines(&world, &["export", &at]).await;
        let left: BTreeSet<_> = left.iter().map(id).collect();
        // Some may still belong to a consumer of before the crash.
        (left.len() >= kept.len()).then(|| assert_eq!(left, kept))
    })
    .await;
    // The virtual host stays: RabbitMQ 3.10 may fail to delete a stream after a crash.
}

#[tokio::test]
async fn a_broker_that_freezes_is_noticed_by_its_heartbeat_and_loses_nothing() {
    let (_turn, broker) = broker_to_harm().await;
    let mut world = World::at(broker, |_| {}).await;
    world.connect_worker_with(&format!("{}?heartbeat=2", broker.amqp_url(&world.vhost)));
    world.sandbox.fault_for_all(json!({"latency_ms": 300})).await;
    let tasks = ["t1", "t2", "t3"];
    delete_some(&world, &tasks).await;
    world.start_worker().await;
    world.called("t1", 1).await;
    broker.freeze();
    world.is_not_ready_because("not consuming").await;
    broker.thaw();
    world.is_ready().await;
    all_are_gone(&world, &tasks).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn a_connection_that_carries_nothing_in_one_direction_or_in_both_is_noticed_and_rebuilt() {
    let is_noticed = async |direction: Option<Direction>| {
        let mut world = World::without_worker(|_| {}).await;
        let (host, port) = broker().host_port();
        let proxy = Proxy::start(format!("{host}:{port}")).await;
        let url = format!("{}?heartbeat=2", broker().amqp_url(&world.vhost));
        world.connect_worker_with(&url);
        world = world.behind_broker_proxy(&proxy);
        world.start_worker().await;
        world.is_ready().await;
        world.sandbox.fault_for_all(json!({"latency_ms": 200})).await;
        world.delete("t1").await;
        world.called("t1", 1).await;
        match direction {
            Some(direction) => proxy.freeze_one_way(direction),
            None => proxy.freeze(),
        }
        world.is_not_ready_because("not consuming").await;
        proxy.thaw();
        world.end("t1").await;
        world.is_ready().await;
        world.assert_drained().await;
    };
    let directions = [Some(Direction::ToTarget), Some(Direction::FromTarget), None];
    join_all(directions.map(is_noticed)).await;
}

#[tokio::test]
async fn revoked_permissions_are_named_and_waited_for() {
    let mut world = World::without_worker(|s| s.broker.topology.provision = Provision::Check).await;
    let user = format!("worker-{}", world.vhost);
    broker().put_user(&user, "secret").await;
    let write = "^(task.events|task.retry|task.dlx|task.ledger)$";
    let read = r"^task\.delete(\.(undeliverable|ledger))?$";
    broker().set_permissions(&world.vhost, &user, "^$", write, read).await;
    let url = broker().amqp_url_as(&user, "secret", &world.vhost);
    world.connect_worker_with(&url);
    world.start_worker().await;
    world.is_ready().await;
    let no_events = "^(task.retry|task.dlx|task.ledger)$";
    broker().set_permissions(&world.vhost, &user, "^$", no_events, read).await;
    world.delete("t1").await;
    let reason = world.is_not_ready_because("cannot publish to task.events").await;
    assert!(reason.contains("ACCESS_REFUSED"), "{reason}");
    broker().set_permissions(&world.vhost, &user, "^$", write, read).await;
    let end = world.end("t1").await;
    assert_eq!(
        (&end["outcome"], &end["ambiguous"]),
        (&json!("deleted"), &json!(false)),
        "not delivered twice"
    );
    world.is_ready().await;
    world.assert_drained().await;
}
