//! Many commands at once: publishes them, and watches what becomes of them at a stand-in for the
//! API.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tallyfy_delete_worker::service::ServiceSettings;

use super::eventually;
use super::process::Running;
use super::stand_in::{StandIn, span};
use super::tester::Message;
use super::world::{ORG, OTHER_ORG, World};
use crate::command_line::with_settings;

/// What the binary has beside the organisations of a [`World`].
pub(crate) const THIRD_ORG: &str = "gamma";
/// Publishes that wait for their confirms together.
const AT_ONCE: usize = 16;
/// Between one command of a stream and the next.
const PACE: Duration = Duration::from_millis(100);

/// A world whose API is the stand-in, before the worker starts.
pub(crate) async fn world_at(api: &StandIn, change: impl FnOnce(&mut ServiceSettings)) -> World {
    World::without_worker(|settings| {
        settings.core.api.base_url = api.base_url();
        settings.core.api.request_timeout = Duration::from_secs(15);
        change(settings);
    })
    .await
}

/// The real binary with its own defaults, for three organisations.
pub(crate) fn run_the_binary(world: &World, api: &StandIn) -> Running {
    let mut command = with_settings(world, &["run"]);
    command
        .env("TALLYFY_BASE_URL", api.base_url().as_str())
        .env("TALLYFY_ORG_ID", [ORG, OTHER_ORG, THIRD_ORG].join(","));
    Running::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Publishes this many commands; returns their ids, which are their tasks' too.
pub(crate) async fn commands(world: &World, org: &str, prefix: &str, number: usize) -> Vec<String> {
    let command = async |number| world.command(org, &format!("{prefix}-{number}")).await;
    stream::iter(0..number).map(command).buffered(AT_ONCE).collect().await
}

/// The same, one after another for this long.
pub(crate) async fn commands_for(
    time: Duration,
    world: &World,
    org: &str,
    prefix: &str,
) -> Vec<String> {
    let (begin, mut ids) = (Instant::now(), Vec::new());
    while begin.elapsed() < time {
        ids.push(world.command(org, &format!("{prefix}-{}", ids.len())).await);
        tokio::time::sleep(PACE).await;
    }
    ids
}

/// Publishes `bad`, which fails, and then `good`, which succeeds, again and again, until the first
/// is a dead letter; all of them have ended then.
pub(crate) async fn dead_letter_among_commands_that_succeed(world: &World) -> Message {
    let bad = world.command(ORG, "bad").await;
    let commands = Cell::new(1);
    eventually("a dead letter among commands that succeed", async || {
        world.command(ORG, "good").await;
        commands.update(|number| number + 1);
        (!world.tester.dead_letters().is_empty()).then_some(())
    })
    .await;
    world.ended_after(commands.get()).await;
    world.dead_letter(&bad).await
}

/// What the events say of each command that has ended, by its id.
pub(crate) fn ends(world: &World) -> BTreeMap<String, Value> {
    let data = world.tester.events().into_iter().map(|event| event.json()["data"].clone());
    data.map(|end| (end["command_id"].as_str().expect("a command's id").to_owned(), end)).collect()
}

/// Waits until all of these are deleted; fails as soon as one of them has another end.
pub(crate) async fn all_deleted_within(time: Duration, world: &World, ids: &[String]) {
    let begin = Instant::now();
    loop {
        let ends = ends(world);
        let ended: Vec<_> = ids.iter().filter_map(|id| ends.get(id)).collect();
        let wrong = ended.iter().find(|end| end["outcome"] != "deleted");
        assert!(wrong.is_none(), "not deleted: {wrong:?}");
        if ended.len() == ids.len() {
            return;
        }
        let waited = begin.elapsed();
        assert!(
            waited < time,
            "{} of {} ({}…) deleted after {waited:?}",
            ended.len(),
            ids.len(),
            ids[0]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until calls have come for this long, or until something has gone wrong already.
pub(crate) async fn calls_for(time: Duration, api: &StandIn, has_gone_wrong: impl Fn() -> bool) {
    let what = format!("calls for {time:?}");
    eventually(&what, async || (has_gone_wrong() || span(&api.calls()) >= time).then_some(()))
        .await;
}
