//! Many commands at once: publishes them, and watches what becomes of them at a stand-in for the API.

use std::collections::BTreeMap;
use std::future::ready;
use std::io::Read;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::Value;
use tallyfy_delete_worker::service::ServiceSettings;

use super::eventually;
use super::stand_in::{StandIn, span};
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

/// The real binary with its own defaults; ends with its owner.
pub(crate) struct RunningBinary(Child);

impl RunningBinary {
    /// For three organisations.
    pub(crate) fn start(world: &World, api: &StandIn) -> Self {
        let mut command = with_settings(world, &["run"]);
        command
            .env("TALLYFY_BASE_URL", api.base_url().as_str())
            .env("TALLYFY_ORG_ID", [ORG, OTHER_ORG, THIRD_ORG].join(","));
        Self(
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the worker starts"),
        )
    }
}

impl Drop for RunningBinary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a command says and how it exits; it has as long as anything has.
pub(crate) async fn output(mut command: Command) -> Output {
    let mut running = RunningBinary(command.spawn().expect("the command starts"));
    let status =
        eventually("the end of the command", || ready(running.0.try_wait().unwrap())).await;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    running.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    running.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout, stderr }
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
