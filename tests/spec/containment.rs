//! The trouble of one organisation, or of some commands, stays theirs: everything else goes on.

use std::time::Duration;

use crate::support::crowd::{
    THIRD_ORG, all_deleted_within, calls_for, commands, commands_for,
    dead_letter_among_commands_that_succeed, run_the_binary, world_at,
};
use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Call, Reply, StandIn};
use crate::support::world::{ORG, OTHER_ORG, World};

/// As long as anything may take that is retried or probed on its way.
const A_MINUTE: Duration = Duration::from_mins(1);

/// Fails for every task whose name says so, and deletes the others.
fn as_named(call: &Call) -> Reply {
    Reply::status(if call.task.starts_with("bad") { 500 } else { 204 })
}

async fn served_behind_150_commands_of(bad_orgs: &[&str]) {
    let api = StandIn::start(as_named).await;
    let world = world_at(&api, |_| {}).await;
    for org in bad_orgs {
        commands(&world, org, &format!("bad-{org}"), 150 / bad_orgs.len()).await;
    }
    let good = commands(&world, THIRD_ORG, "good", 10).await;
    let worker = run_the_binary(&world, &api);
    all_deleted_within(A_MINUTE, &world, &good).await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    drop(worker);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_bad_organisation_in_front_does_not_keep_a_healthy_one_waiting() {
    served_behind_150_commands_of(&[ORG]).await;
}

#[tokio::test]
async fn two_bad_organisations_in_front_do_not_keep_a_healthy_one_waiting() {
    served_behind_150_commands_of(&[ORG, OTHER_ORG]).await;
}

/// `BACKLOG=20000 cargo test --test spec a_very_large_backlog` tries it with more.
fn backlog() -> usize {
    std::env::var("BACKLOG").ok().and_then(|number| number.parse().ok()).unwrap_or(4000)
}

#[tokio::test]
async fn a_very_large_backlog_of_a_bad_organisation_delays_a_healthy_one_by_seconds() {
    let api = StandIn::start(as_named).await;
    let world = world_at(&api, |_| {}).await;
    commands(&world, ORG, "bad", backlog()).await;
    let good = commands(&world, OTHER_ORG, "good", 1).await;
    let worker = run_the_binary(&world, &api);
    all_deleted_within(A_MINUTE, &world, &good).await;
    let before = api.calls_of(ORG).len();
    assert!(before < 300, "{before} calls for the others before it was reached");
    drop(worker);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn bad_commands_in_front_of_good_ones_of_their_organisation_step_aside() {
    let api = StandIn::start(as_named).await;
    let world = world_at(&api, |_| {}).await;
    commands(&world, ORG, "bad", 40).await;
    let good = commands(&world, ORG, "good", 3).await;
    let worker = run_the_binary(&world, &api);
    // Their organisation is probed at growing intervals.
    all_deleted_within(2 * A_MINUTE, &world, &good).await;
    drop(worker);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_few_commands_that_always_fail_are_dead_lettered_even_when_they_are_all_there_is() {
    let api = StandIn::start(as_named).await;
    let mut world = world_at(&api, |settings| settings.core.schedule.max_attempts = 6).await;
    commands(&world, ORG, "bad", 3).await;
    world.start_worker().await;
    for dead_letter in world.dead_letters(3).await {
        assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("attempts_exhausted"));
    }
    assert_eq!(api.calls().len(), 3 * 6);
    world.assert_drained().await;
}

#[tokio::test]
async fn an_outage_of_one_organisation_dead_letters_nothing_of_it_while_another_is_served() {
    let api = StandIn::start(as_named).await;
    let mut world = world_at(&api, |settings| settings.core.schedule.max_attempts = 4).await;
    let failing = commands(&world, ORG, "bad", 60).await;
    world.start_worker().await;
    let served = commands_for(Duration::from_secs(6), &world, OTHER_ORG, "served").await;
    all_deleted_within(A_MINUTE, &world, &served).await;
    assert_eq!(world.tester.dead_letters().len(), 0);
    let in_vain = api.calls_of(ORG).len();
    assert!(in_vain < 120, "{in_vain} calls for an organisation that is not served");
    api.heal();
    all_deleted_within(A_MINUTE, &world, &failing).await;
    world.assert_drained().await;
}

#[tokio::test]
async fn one_failing_command_among_commands_that_succeed_still_uses_up_its_attempts() {
    let api = StandIn::start(as_named).await;
    let mut world = world_at(&api, |settings| settings.core.schedule.max_attempts = 6).await;
    world.start_worker().await;
    let dead_letter = dead_letter_among_commands_that_succeed(&world).await;
    assert_eq!(dead_letter.header("x-failure-reason").as_deref(), Some("attempts_exhausted"));
    world.assert_drained().await;
}

/// A worker that has served the organisation already, with an API that takes this long from now on.
async fn slow_from_now_on(
    api: &StandIn,
    world: &mut World,
    org: &'static str,
    answer_takes: Duration,
) {
    world.start_worker().await;
    // More than slow start needs to lend all places.
    let first = commands(world, org, "first", 64).await;
    all_deleted_within(A_MINUTE, world, &first).await;
    api.now_answers(move |call| {
        Reply::status(204).after(if call.org == org { answer_takes } else { Duration::ZERO })
    });
}

#[tokio::test]
async fn a_slow_organisation_does_not_starve_a_fast_one() {
    let api = StandIn::start(as_named).await;
    let mut world = world_at(&api, |settings| {
        settings.core.concurrency = 64;
        settings.broker.prefetch = 128;
    })
    .await;
    slow_from_now_on(&api, &mut world, ORG, Duration::from_secs(8)).await;
    let served = api.calls_of(ORG).len();
    commands(&world, ORG, "slow", 600).await;
    let fast = commands(&world, OTHER_ORG, "fast", 20).await;
    all_deleted_within(A_MINUTE, &world, &fast).await;
    let overtaken = 600 + served - api.calls_of(ORG).len();
    assert!(overtaken > 100, "{overtaken} of those in front were not called before");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_slow_organisation_alone_uses_all_places() {
    let api = StandIn::start(as_named).await;
    let mut world = world_at(&api, |settings| settings.core.concurrency = 8).await;
    slow_from_now_on(&api, &mut world, ORG, Duration::from_secs(1)).await;
    let slow = commands(&world, ORG, "slow", 60).await;
    all_deleted_within(A_MINUTE, &world, &slow).await;
    assert_eq!(api.most_in_flight(), 8);
    world.assert_drained().await;
}

/// How many calls came in the first eight seconds, for some commands of each organisation.
async fn calls_in_eight_seconds(
    orgs: &[&str],
    retry_after: &'static str,
    too_many: usize,
) -> usize {
    let eight_seconds = Duration::from_secs(8);
    let api = StandIn::start(move |_| Reply::status(429).header("retry-after", retry_after)).await;
    let mut world = world_at(&api, |_| {}).await;
    for org in orgs {
        commands(&world, org, org, 20).await;
    }
    world.start_worker().await;
    calls_for(eight_seconds, &api, || api.calls().len() >= too_many).await;
    let calls = api.calls();
    world.after_shutdown().await;
    calls.iter().filter(|call| call.at < calls[0].at + eight_seconds).count()
}

#[tokio::test]
async fn a_retry_after_of_zero_or_in_the_past_does_not_switch_pausing_off() {
    let long_ago = "Sun, 06 Nov 1994 08:49:37 GMT";
    let (zero, past, two_organisations) = tokio::join!(
        calls_in_eight_seconds(&[ORG], "0", 25),
        calls_in_eight_seconds(&[ORG], long_ago, 25),
        calls_in_eight_seconds(&[ORG, OTHER_ORG], "0", 50),
    );
    assert!(
        zero < 25 && past < 25 && two_organisations < 50,
        "{zero}, {past}, {two_organisations}"
    );
}

#[tokio::test]
async fn after_a_session_is_lost_none_of_its_commands_starts_a_new_call() {
    const CONCURRENCY: usize = 8;
    let api = StandIn::start(as_named).await;
    let (host, port) = broker().host_port();
    let proxy = Proxy::start(format!("{host}:{port}")).await;
    let world = world_at(&api, |settings| {
        settings.core.concurrency = CONCURRENCY;
        settings.broker.prefetch = 24;
    });
    let mut world = world.await.behind_broker_proxy(&proxy);
    slow_from_now_on(&api, &mut world, ORG, Duration::from_secs(3)).await;
    let tasks = commands(&world, ORG, "task", 24).await;
    eventually("all places in use", async || (api.in_flight() == CONCURRENCY).then_some(())).await;
    proxy.cut();
    world.is_not_ready_because("not consuming").await;
    eventually("no place in use", async || (api.in_flight() == 0).then_some(())).await;
    // Of the commands before them, some may have ended and not been acknowledged yet.
    let calls = || api.calls().iter().filter(|call| tasks.contains(&call.task)).count();
    let before = calls();
    assert!(before >= CONCURRENCY, "{before}");
    proxy.restore();
    all_deleted_within(A_MINUTE, &world, &tasks).await;
    world.assert_drained().await;
    let after = calls() - before;
    assert!(after <= tasks.len(), "{after} calls for {} commands", tasks.len());
}
