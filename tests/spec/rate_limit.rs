//! The rate limit: how often the API is called, whatever there is to do, and that no organisation
//! waits for another's.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use tallyfy_delete_worker::messages::ledger::GuardLimit;
use tallyfy_delete_worker::policy::api_access::rate::{Rate, RateLimits};
use tallyfy_delete_worker::service::ServiceSettings;

use crate::command_line::{json_lines, with_settings};
use crate::support::crowd::{commands, ends, world_at};
use crate::support::process::output;
use crate::support::rabbitmq::broker;
use crate::support::stand_in::{Call, Reply, StandIn, span};
use crate::support::world::{ORG, OTHER_ORG, World};

/// A call arrives later than it was permitted, and the one before it perhaps sooner. On a loaded
/// machine everything may stand still for half a second.
const ON_THE_WAY: f64 = 1.0;

fn a_second(calls: u32) -> Rate {
    Rate::new(NonZeroU32::new(calls).unwrap(), Duration::from_secs(1))
}

async fn limited(api: &StandIn, limits: RateLimits) -> World {
    world_at(api, |settings: &mut ServiceSettings| {
        settings.core.limits = limits;
        settings.core.concurrency = 64;
        settings.broker.prefetch = 128;
    })
    .await
}

/// Any time sees its rate, and one second's calls more.
fn keep(calls: &[Call], rate: f64) {
    for (first, begin) in calls.iter().enumerate() {
        for (last, end) in calls.iter().enumerate().skip(first) {
            let number = f64::from(u32::try_from(last - first + 1).unwrap());
            let time = (end.at - begin.at).as_secs_f64();
            assert!(number <= rate * (time + ON_THE_WAY) + rate, "{number} calls in {time} s");
        }
    }
}

/// From the first call to the last it takes at least this long, in seconds.
fn take(calls: &[Call], seconds: f64) {
    let took = span(calls);
    assert!(took.as_secs_f64() >= seconds - ON_THE_WAY, "{took:?}");
}

/// Each command was called once.
fn once_each(world: &World, calls: &[Call]) {
    let mut tasks = BTreeMap::new();
    for call in calls {
        *tasks.entry(&call.task).or_insert(0) += 1;
    }
    let ends = ends(world);
    let again = tasks.iter().filter(|(_, calls)| **calls > 1);
    let again: Vec<_> = again.map(|(task, calls)| (calls, ends.get(*task))).collect();
    assert!(again.is_empty(), "{again:?}");
}

async fn postponed(world: &World) -> f64 {
    let name = "tallyfy_delete_worker_commands_total{kind=\"task.delete\",verdict=\"postponed\"}";
    world.metric(name).await.unwrap()
}

async fn waits(world: &World, place: &str) -> f64 {
    let name = format!("tallyfy_delete_worker_rate_limit_waits_total{{where=\"{place}\"}}");
    world.metric(&name).await.unwrap()
}

#[tokio::test]
async fn an_organisation_is_called_no_more_often_than_the_limit_and_slows_no_other() {
    let api = StandIn::start(|_| Reply::status(204)).await;
    let limits = RateLimits { organisation: Some(a_second(20)), total: None };
    let mut world = limited(&api, limits).await;
    commands(&world, ORG, "many", 100).await;
    commands(&world, OTHER_ORG, "few", 10).await;
    world.start_worker().await;
    world.ended_after(110).await;
    let (many, few) = (api.calls_of(ORG), api.calls_of(OTHER_ORG));
    once_each(&world, &api.calls());
    assert_eq!((many.len(), few.len()), (100, 10));
    keep(&many, 20.0);
    take(&many, 4.0);
    assert!(span(&many) <= Duration::from_secs(7), "nothing is wasted: {:?}", span(&many));
    assert!(few[9].at < many[50].at, "the few are served meanwhile");
    assert!(postponed(&world).await < 1.0, "nothing is copied to a delay queue");
    let waited = waits(&world, "memory").await;
    // Those of both organisations. Where the API is slow, one may be cut from the line and ask again.
    assert!((70.0..=220.0).contains(&waited), "{waited}");
    world.assert_drained().await;
}

#[tokio::test]
async fn what_waits_long_for_its_turn_steps_aside_and_comes_back_in_time() {
    let api = StandIn::start(|_| Reply::status(204)).await;
    let limits = RateLimits { organisation: Some(a_second(5)), total: None };
    let mut world = world_at(&api, |settings| {
        settings.core.limits = limits;
        settings.core.concurrency = 16;
        settings.broker.prefetch = 40;
        // As many as there are: one that was counted each time that it was sent aside would be held
        // in the end.
        settings.core.guard = Some(GuardLimit { max_deletes: 90, window_s: 3600 });
    })
    .await;
    commands(&world, ORG, "many", 90).await;
    commands(&world, OTHER_ORG, "few", 5).await;
    world.start_worker().await;
    world.ended_after(95).await;
    let (many, few) = (api.calls_of(ORG), api.calls_of(OTHER_ORG));
    keep(&many, 5.0);
    assert!(few[4].at < many[30].at, "they are reached behind the others");
    assert!(span(&many) <= Duration::from_secs(22), "the limit is used: {:?}", span(&many));
    assert!(waits(&world, "delay_queue").await > 0.0 && postponed(&world).await > 0.0);
    world.assert_drained().await;
}

#[tokio::test]
async fn the_limit_of_all_is_shared_by_the_organisations_in_turn() {
    let api = StandIn::start(|_| Reply::status(204)).await;
    let limits = RateLimits { organisation: None, total: Some(a_second(10)) };
    let mut world = limited(&api, limits).await;
    commands(&world, ORG, "a", 25).await;
    commands(&world, OTHER_ORG, "b", 25).await;
    world.start_worker().await;
    world.ended_after(50).await;
    let calls = api.calls();
    keep(&calls, 10.0);
    let early = calls[..36].iter().filter(|call| call.org == OTHER_ORG).count();
    assert!(early >= 8, "{early} of the first 36 calls");
    world.assert_drained().await;
}

#[tokio::test]
async fn a_retry_counts_as_a_call() {
    let api = StandIn::start(|call| Reply::status(if call.earlier < 2 { 503 } else { 204 })).await;
    let limits = RateLimits { organisation: Some(a_second(2)), total: None };
    let mut world = limited(&api, limits).await;
    // Too few for a suspension, which would be slower still.
    commands(&world, ORG, "t", 4).await;
    world.start_worker().await;
    world.ended_after(4).await;
    assert_eq!(api.calls().len(), 12);
    keep(&api.calls(), 2.0);
    take(&api.calls(), 5.0);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_list_keeps_to_the_limit_too() {
    let api = StandIn::start(|_| Reply::status(204)).await;
    let world = World::without_worker(|_| {}).await;
    let tasks: Vec<String> = (0..30).map(|number| format!("task-{number}")).collect();
    let tasks: Vec<&str> = tasks.iter().map(String::as_str).collect();
    let mut delete = with_settings(&world, &[&["delete", "--org", ORG], &tasks[..]].concat());
    delete.env("TALLYFY_BASE_URL", api.base_url().as_str()).env("RATE_LIMIT", "600/m");
    let done = output(delete).await;
    assert_eq!((json_lines(&done.stdout).len(), done.status.code()), (30, Some(0)));
    keep(&api.calls(), 10.0);
    take(&api.calls(), 2.0);
    broker().delete_vhost(&world.vhost).await;
}
