//! The `delete` command: the same engine without a broker, for a list of ids. Waits are slept here, not in queues.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::messages::{EndKind, Incoming, OrgId, Outcome, RetryState, TaskId};
use crate::metrics::NO_TOKEN;
use crate::policy::api_access::SuspendReason;
use crate::policy::settlement::Settlement;
use crate::service::{CoreSettings, StartError, credentials, engine};
use crate::worker::handle::handle;
use crate::worker::{Engine, reload_credentials};

/// How a list came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub gone: usize,
    pub failed: usize,
    /// Tasks that an interruption left alone, or whose answers were still missing.
    pub left: usize,
}

impl Tally {
    pub fn is_complete(self) -> bool {
        self.failed == 0 && self.left == 0
    }
}

/// Deletes tasks and writes one outcome a line, as JSON, to `out`; shows the progress.
///
/// # Errors
/// [`StartError`] where a token cannot be had or the engine cannot be built.
pub async fn delete_list(
    core: CoreSettings,
    org: &OrgId,
    tasks: Vec<TaskId>,
    out: impl Write + Send,
    shutdown: CancellationToken,
) -> Result<Tally, StartError> {
    let credentials = credentials(&core.credentials)?;
    let engine = engine(&core, &credentials, true)?;
    let draining = engine.draining.clone();
    let interrupted = tokio::spawn(async move {
        shutdown.cancelled().await;
        draining.cancel();
    });
    let engine = Arc::new(engine);
    let reloading = tokio::spawn(reload_credentials(Arc::clone(&engine)));
    let bar = progress_bar(tasks.len());
    let (tally, out) = (Mutex::new(Tally::default()), Mutex::new(out));
    let (engine, bar, tally_ref, out) = (&engine, &bar, &tally, &out);
    stream::iter(tasks)
        .for_each_concurrent(core.concurrency, |task| async move {
            let end = delete_one(engine, org, &task, bar).await;
            let mut tally = tally_ref.lock().unwrap_or_else(PoisonError::into_inner);
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            count(&mut tally, end.as_ref());
            bar.inc(1);
            write_line(&mut *out, bar, end.as_ref());
        })
        .await;
    interrupted.abort();
    reloading.abort();
    bar.finish_and_clear();
    let spans = engine.spans.clone();
    let _ = tokio::task::spawn_blocking(move || spans.flush()).await;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Handles one command until it ends; `None` where it was given up before that.
async fn delete_one(
    engine: &Engine,
    org: &OrgId,
    task: &TaskId,
    bar: &ProgressBar,
) -> Option<Outcome> {
    let mut incoming = command(org, task);
    let (stop, began) = (engine.stop(CancellationToken::new()), Instant::now());
    loop {
        let wait = match handle(&incoming, engine, &stop).await {
            Settlement::Finish(outcome) | Settlement::DeadLetter(outcome, _) => {
                return Some(outcome);
            }
            Settlement::Requeue => return None,
            Settlement::RetryLater(wait) | Settlement::Postpone(wait) => wait,
        };
        let (delay, reason) =
            (wait.delay, wait.retry_state.wait_reason.as_deref().unwrap_or_default());
        if is_hopeless(engine, reason) || began.elapsed() > engine.schedule.max_age {
            bar.suspend(
                || error!(task_id = %task, reason, http_status = wait.retry_state.last_status, "not deleted"),
            );
            return None;
        }
        if wait.is_news {
            let (status, delay) = (wait.retry_state.last_status, delay.name());
            bar.suspend(
                || warn!(task_id = %task, reason, delay, http_status = status, "the task waits"),
            );
        }
        let first_seen = incoming.retry_state.first_seen.or_else(|| Some(Timestamp::now()));
        incoming.retry_state = RetryState { first_seen, ..wait.retry_state };
        if !engine.sleep(delay.wait()).await {
            return None;
        }
    }
}

/// What waiting does not fix while somebody looks on: a wrong base URL, a token that does not reach the organisation, that is not
/// accepted, or none at all. Once that is certain of the organisation it ends the whole list.
fn is_hopeless(engine: &Engine, reason: &str) -> bool {
    const HOPELESS: [SuspendReason; 2] = [SuspendReason::Misdirected, SuspendReason::Unauthorized];
    let is_suspended = |reason| engine.permits.with(|access, _| access.suspended_for(reason)) > 0;
    if HOPELESS.into_iter().any(is_suspended) {
        engine.draining.cancel();
    }
    reason == NO_TOKEN || HOPELESS.map(SuspendReason::as_str).contains(&reason)
}

fn command(org: &OrgId, task: &TaskId) -> Incoming {
    let body = serde_json::json!({"org_id": org, "task_id": task}).to_string().into_bytes();
    Incoming { body, ..Incoming::default() }
}

fn count(tally: &mut Tally, end: Option<&Outcome>) {
    match end.map(|outcome| outcome.outcome) {
        Some(EndKind::Deleted | EndKind::AlreadyAbsent) => tally.gone += 1,
        Some(EndKind::DeadLettered) => tally.failed += 1,
        None => tally.left += 1,
    }
}

fn write_line(out: &mut impl Write, bar: &ProgressBar, end: Option<&Outcome>) {
    let Some(line) = end.and_then(|outcome| serde_json::to_string(outcome).ok()) else { return };
    // A reader that has gone away must not stop deletions half way; the exit code still tells.
    bar.suspend(|| writeln!(out, "{line}").and_then(|()| out.flush())).unwrap_or_default();
}

/// On a terminal only: indicatif hides it elsewhere.
fn progress_bar(tasks: usize) -> ProgressBar {
    let bar = ProgressBar::new(tasks as u64);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {pos}/{len} tasks, {per_sec}, {eta} left")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
