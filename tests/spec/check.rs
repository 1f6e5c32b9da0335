//! `check` tells what is wrong and what to do, and touches nothing: the real binary.

use lapin::BasicProperties;
use lapin::options::{
    BasicPublishOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use serde_json::{Value, json};

use crate::command_line::with_settings;
use crate::support::process::output;
use crate::support::rabbitmq::broker;
use crate::support::sandbox::TOKEN;
use crate::support::world::{ORG, OTHER_ORG, World};

/// The exit code, and the facts by their names: state, detail and cure.
async fn check(world: &World, settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    check_for(world, &["check", "--json"], settings).await
}

/// The same before a start.
async fn check_to_start(world: &World, settings: &[(&str, &str)]) -> (Option<i32>, Value) {
    check_for(world, &["check", "--json", "--start"], settings).await
}

pub(crate) async fn check_for(
    world: &World,
    args: &[&str],
    settings: &[(&str, &str)],
) -> (Option<i32>, Value) {
    let mut command = with_settings(world, args);
    command.envs(settings.iter().copied());
    let output = output(command).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let mut facts = json!({});
    for fact in said.lines().map(|line| serde_json::from_str::<Value>(line).expect(line)) {
        facts[fact["fact"].as_str().unwrap()] = fact.clone();
    }
    (output.status.code(), facts)
}

fn states(facts: &Value) -> Vec<(&str, &str)> {
    let facts = facts.as_object().unwrap().iter();
    facts.map(|(name, fact)| (name.as_str(), fact["state"].as_str().unwrap())).collect()
}

async fn ended(world: World) {
    let calls = world.sandbox.calls().await;
    assert!(calls.iter().all(|call| call["method"] == "GET"), "{calls:?}");
    broker().delete_vhost(&world.vhost).await;
}

/// A user with these permissions; the URL to log in with.
async fn user(world: &World, configure: &str, write: &str, read: &str) -> String {
    let name = format!("user-{}", world.vhost);
    broker().put_user(&name, "pw").await;
    broker().set_permissions(&world.vhost, &name, configure, write, read).await;
    broker().amqp_url_as(&name, "pw", &world.vhost)
}

#[tokio::test]
async fn everything_is_ok_with_the_least_permissions() {
    let world = World::without_worker(|_| {}).await;
    let url = user(
        &world,
        "^$",
        r"^task\.(events|retry|dlx|ledger)$",
        r"^task\.delete(\.(undeliverable|ledger))?$",
    )
    .await;
    let (code, facts) = check(&world, &[("AMQP_URL", &url), ("DECLARE_TOPOLOGY", "false")]).await;
    let expected = [
        ("TLS", "skipped"),
        ("arguments", "skipped"),
        ("base URL", "ok"),
        ("broker", "ok"),
        ("clock", "ok"),
        ("confirms and returns", "ok"),
        ("kind task.delete", "skipped"),
        ("least permissions", "ok"),
        ("organisation acme", "ok"),
        ("permission to read task.delete", "ok"),
        ("permission to read task.delete.ledger", "ok"),
        ("permission to read task.delete.undeliverable", "ok"),
        ("permission to write task.dlx", "ok"),
        ("permission to write task.events", "ok"),
        ("permission to write task.ledger", "ok"),
        ("permission to write task.retry", "ok"),
        ("topology", "ok"),
    ];
    assert_eq!((code, states(&facts)), (Some(0), expected.to_vec()), "{facts:#}");
    assert!(facts["broker"]["detail"].as_str().unwrap().starts_with(
        if broker().describe().contains("3.10") { "RabbitMQ 3.10" } else { "RabbitMQ " }
    ));
    assert_eq!(
        world.tester.events().len() + world.tester.dead_letters().len(),
        0,
        "nothing was published"
    );
    ended(world).await;
}

#[tokio::test]
async fn every_host_is_tested_and_the_one_that_fails_is_named() {
    let world = World::without_worker(|_| {}).await;
    let url = broker().amqp_url(&world.vhost);
    let (host, port) = broker().host_port();
    let away = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = url.replace(&format!("{host}:{port}"), &format!("{host}:{port},{away}"));
    let (code, facts) = check(&world, &[("AMQP_URL", &url)]).await;
    let state = |host: &str| facts[format!("broker {host}")]["state"].clone();
    let states = (state(&format!("{host}:{port}")), state(&away.to_string()));
    assert_eq!((code, states), (Some(1), (json!("ok"), json!("failed"))), "{facts:#}");
    assert_eq!(facts["topology"]["state"], "ok", "the rest is checked at the other: {facts:#}");
    let (code, facts) = check_to_start(&world, &[("AMQP_URL", &url)]).await;
    let state = &facts[format!("broker {away}")]["state"];
    assert_eq!((code, state), (Some(0), &json!("warning")), "a worker may start: {facts:#}");
    ended(world).await;
}

#[tokio::test]
async fn what_is_too_much_is_named_and_what_is_missing_fails() {
    let world = World::without_worker(|_| {}).await;
    let (code, facts) = check(&world, &[]).await;
    assert_eq!((code, &facts["arguments"]["state"]), (Some(0), &json!("ok")), "{facts:#}");
    let much = facts["least permissions"]["detail"].as_str().unwrap();
    for one in
        ["configure anything", "write any exchange", "read any queue", "read task.delete.dead"]
    {
        assert!(much.contains(one), "{much}");
    }
    let url = user(&world, "^$", r"^task\.(retry|dlx|ledger)$", "^$").await;
    let (code, facts) = check(&world, &[("AMQP_URL", &url), ("DECLARE_TOPOLOGY", "false")]).await;
    assert_eq!(code, Some(1));
    for name in ["permission to write task.events", "permission to read task.delete"] {
        assert_eq!(facts[name]["state"], "failed", "{facts:#}");
    }
    assert!(
        facts["permission to write task.events"]["cure"]
            .as_str()
            .unwrap()
            .contains("set_permissions")
    );
    assert_eq!(facts["permission to write task.retry"]["state"], "ok");
    ended(world).await;
}

#[tokio::test]
async fn a_user_for_the_topology_alone_may_declare_it_and_is_too_much_where_it_need_not() {
    let world = World::without_worker(|_| {}).await;
    let url = user(&world, r"^task\.", r"^task\.", r"^task\.").await;
    let (code, facts) = check(&world, &[("AMQP_URL", &url)]).await;
    assert_eq!((code, &facts["arguments"]["state"]), (Some(0), &json!("ok")), "{facts:#}");
    assert_eq!(facts["permission to configure (DECLARE_TOPOLOGY)"]["state"], "ok", "{facts:#}");
    let (code, facts) = check(&world, &[("AMQP_URL", &url), ("DECLARE_TOPOLOGY", "false")]).await;
    let much = facts["least permissions"]["detail"].as_str().unwrap();
    assert!(code == Some(0) && much.contains("configure the topology"), "{facts:#}");
    ended(world).await;
}

#[tokio::test]
async fn a_binding_that_is_missing_is_not_made() {
    let world = World::without_worker(|_| {}).await;
    let channel = &world.tester.channel;
    let unbound = channel.queue_unbind(
        "task.delete.dead".into(),
        "task.dlx".into(),
        "task.delete.dead".into(),
        FieldTable::default(),
    );
    unbound.await.unwrap();
    let (code, facts) = check(&world, &[]).await;
    assert_eq!((code, &facts["arguments"]["state"]), (Some(0), &json!("ok")), "{facts:#}");
    let (options, nothing) = (BasicPublishOptions::default(), BasicProperties::default());
    let published = channel.basic_publish(
        "task.dlx".into(),
        "task.delete.dead".into(),
        options,
        b"{}",
        nothing,
    );
    published.await.unwrap().await.unwrap();
    assert_eq!(world.tester.ready(&["task.delete.dead".to_owned()]).await["task.delete.dead"], 0);
    ended(world).await;
}

#[tokio::test]
async fn a_topology_that_is_missing_or_other_than_expected_fails() {
    let world = World::without_worker(|_| {}).await;
    let channel = &world.tester.channel;
    channel
        .queue_delete("task.delete.wait.1s".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let (code, facts) = check(&world, &[("DECLARE_TOPOLOGY", "false")]).await;
    assert_eq!((code, &facts["topology"]["state"]), (Some(1), &json!("failed")));
    assert!(
        facts["topology"]["detail"].as_str().unwrap().contains("task.delete.wait.1s"),
        "{facts:#}"
    );
    let mut classic = FieldTable::default();
    classic.insert("x-max-length".into(), lapin::types::AMQPValue::LongInt(5));
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("task.delete.wait.1s".into(), options, classic).await.unwrap();
    let (code, facts) = check(&world, &[]).await;
    assert_eq!((code, &facts["topology"]["state"]), (Some(1), &json!("ok")));
    assert!(
        facts["arguments"]["detail"].as_str().unwrap().contains("task.delete.wait.1s"),
        "{facts:#}"
    );
    channel.exchange_delete("task.retry".into(), ExchangeDeleteOptions::default()).await.unwrap();
    let (_, facts) = check(&world, &[("DECLARE_TOPOLOGY", "false")]).await;
    assert!(facts["confirms and returns"]["cure"].as_str().unwrap().contains("setup"), "{facts:#}");
    ended(world).await;
}

#[tokio::test]
async fn a_mirror_that_is_missing_is_a_warning_and_check_makes_none() {
    let world = World::without_worker(|_| {}).await;
    let mirror = "task.delete.dead.log";
    let delete = QueueDeleteOptions::default();
    world.tester.channel.queue_delete(mirror.into(), delete).await.unwrap();
    for _ in 0..2 {
        let (code, facts) = check(&world, &[]).await;
        let topology = &facts["topology"];
        assert_eq!((code, &topology["state"]), (Some(0), &json!("warning")), "{facts:#}");
        assert!(topology["detail"].as_str().unwrap().contains(mirror), "{facts:#}");
        assert!(topology["cure"].as_str().unwrap().contains("setup"), "{facts:#}");
        assert_eq!(facts["arguments"]["state"], "ok", "{facts:#}");
    }
    ended(world).await;
}

#[tokio::test]
async fn a_dead_token_a_foreign_organisation_and_a_wrong_base_url_are_told_apart() {
    let world = World::without_worker(|_| {}).await;
    let base_url = world.sandbox.base_url();
    let wrong_url = format!("{base_url}/v9");
    let cases = [
        (("TALLYFY_ACCESS_TOKEN", "dead"), "organisation acme", "not accepted"),
        (("TALLYFY_ORG_ID", "nobody"), "organisation nobody", "does not reach"),
        (("TALLYFY_BASE_URL", wrong_url.as_str()), "base URL", "TALLYFY_BASE_URL"),
        (("TALLYFY_BASE_URL", "http://127.0.0.1:9/api"), "base URL", "does not answer"),
        (("AMQP_URL", "amqp://guest:guest@127.0.0.1:9/"), "broker", "AMQP_URL"),
    ];
    for (setting, name, cure) in cases {
        let (code, facts) = check(&world, &[setting]).await;
        assert_eq!(
            (code, &facts[name]["state"]),
            (Some(1), &json!("failed")),
            "{setting:?} {facts:#}"
        );
        assert!(facts[name]["cure"].as_str().unwrap().contains(cure), "{facts:#}");
        assert!(!facts.to_string().contains(TOKEN));
    }
    ended(world).await;
}

#[tokio::test]
async fn before_a_start_only_the_broker_and_the_settings_can_fail() {
    let (world, tokens) = (World::without_worker(|_| {}).await, tempfile::tempdir().unwrap());
    for (org, token) in [(ORG, "dead"), (OTHER_ORG, TOKEN), ("empty", "")] {
        std::fs::write(tokens.path().join(org), token).unwrap();
    }
    let directory = tokens.path().to_str().unwrap();
    let tokens = [
        ("TALLYFY_CREDENTIALS_DIR", directory),
        ("TALLYFY_ACCESS_TOKEN", ""),
        ("TALLYFY_ORG_ID", ""),
    ];
    let (code, facts) = check_to_start(&world, &tokens).await;
    let state = |fact: &str| facts[fact]["state"].as_str().unwrap_or("none").to_owned();
    let dead = format!("organisation {ORG}");
    let states = [dead.as_str(), "organisation empty", "base URL"].map(state);
    assert_eq!(
        (code, states),
        (Some(0), ["warning", "warning", "ok"].map(str::to_owned)),
        "{facts:#}"
    );
    let (code, facts) =
        check_to_start(&world, &[("TALLYFY_BASE_URL", "http://127.0.0.1:9/api")]).await;
    assert_eq!((code, &facts["base URL"]["state"]), (Some(0), &json!("warning")), "{facts:#}");
    let nowhere = ("AMQP_URL", "amqp://guest:guest@127.0.0.1:9/");
    let (code, facts) = check_to_start(&world, &[nowhere]).await;
    assert_eq!((code, &facts["broker"]["state"]), (Some(1), &json!("failed")), "{facts:#}");
    let no_tokens = [("TALLYFY_CREDENTIALS_DIR", "/nonexistent"), ("TALLYFY_ACCESS_TOKEN", "")];
    let (code, facts) = check_to_start(&world, &no_tokens).await;
    assert_eq!((code, &facts["tokens"]["state"]), (Some(1), &json!("failed")), "{facts:#}");
    ended(world).await;
}

#[tokio::test]
async fn a_fresh_virtual_host_is_one_where_run_declares_the_topology() {
    let (world, fresh) = (World::without_worker(|_| {}).await, broker().new_vhost().await);
    let url = broker().amqp_url(&fresh);
    let (code, facts) = check(&world, &[("AMQP_URL", &url)]).await;
    assert_eq!((code, &facts["topology"]["state"]), (Some(0), &json!("warning")), "{facts:#}");
    assert!(
        facts["topology"]["cure"].as_str().unwrap().starts_with("`run` declares it"),
        "{facts:#}"
    );
    assert_eq!(facts["confirms and returns"]["state"], "skipped", "{facts:#}");
    let (code, facts) = check(&world, &[("AMQP_URL", &url), ("DECLARE_TOPOLOGY", "false")]).await;
    assert_eq!((code, &facts["topology"]["state"]), (Some(1), &json!("failed")), "{facts:#}");
    let name = format!("user-{fresh}");
    broker().put_user(&name, "pw").await;
    broker().set_permissions(&fresh, &name, "^$", "", "").await;
    let (code, facts) =
        check(&world, &[("AMQP_URL", &broker().amqp_url_as(&name, "pw", &fresh))]).await;
    assert_eq!((code, &facts["topology"]["state"]), (Some(1), &json!("failed")), "may not declare");
    broker().delete_vhost(&fresh).await;
    ended(world).await;
}

#[tokio::test]
async fn every_organisation_gets_its_line_and_one_dead_token_does_not_hide_the_base_url() {
    let (world, tokens) = (World::without_worker(|_| {}).await, tempfile::tempdir().unwrap());
    let directory = tokens.path().to_str().unwrap();
    let asked = [ORG, OTHER_ORG, "third"].join(",");
    let settings = [
        ("TALLYFY_CREDENTIALS_DIR", directory),
        ("TALLYFY_ORG_ID", &asked),
        ("TALLYFY_ACCESS_TOKEN", ""),
    ];
    let (code, facts) = check(&world, &settings).await;
    assert_eq!((code, &facts["tokens"]["state"]), (Some(1), &json!("failed")), "{facts:#}");
    assert!(
        facts["tokens"]["detail"].as_str().unwrap().starts_with("TALLYFY_CREDENTIALS_DIR: "),
        "{facts:#}"
    );
    assert_eq!(facts["broker"]["state"], "ok", "the rest is told all the same");
    for (org, token) in [(ORG, "dead"), (OTHER_ORG, TOKEN)] {
        std::fs::write(tokens.path().join(org), token).unwrap();
    }
    let (code, facts) = check(&world, &settings).await;
    let state = |fact: String| facts[&fact]["state"].as_str().unwrap_or("none").to_owned();
    let states = [ORG, OTHER_ORG, "third"].map(|org| state(format!("organisation {org}")));
    assert_eq!(
        (code, states),
        (Some(1), ["failed", "ok", "failed"].map(str::to_owned)),
        "{facts:#}"
    );
    assert_eq!(state("base URL".to_owned()), "ok");
    ended(world).await;
}

#[tokio::test]
async fn commands_that_wait_are_not_touched() {
    let world = World::without_worker(|_| {}).await;
    world.command(OTHER_ORG, "t1").await;
    let (code, facts) = check(&world, &[]).await;
    assert_eq!((code, &facts["permission to read task.delete"]["state"]), (Some(0), &json!("ok")));
    let message = world.tester.take("task.delete").await.expect("it is there still");
    let returns = message.header("x-delivery-count").unwrap_or("0".to_owned());
    assert_eq!(returns, "0", "and was never delivered");
    ended(world).await;
}
