//! The `delete` command: the same engine without a broker, for a list of ids. Waits are slept here, not in queues.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::kind::Kind;
use crate::messages::{EndKind, Incoming, OrgId, Outcome, RetryState, Target};
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
    targets: Vec<Target>,
    out: impl Write + Send,
    shutdown: CancellationToken,
) -> Result<Tally, StartError> {
    let kinds: Vec<Kind> = targets.first().map(|target| target.kind).into_iter().collect();
    let credentials = credentials(&core.credentials)?;
    let engine = engine(&core, &kinds, &credentials, true)?;
    let draining = engine.draining.clone();
    let interrupted = tokio::spawn(async move {
        shutdown.cancelled().await;
        draining.cancel();
    });
    let engine = Arc::new(engine);
    let reloading = tokio::spawn(reload_credentials(Arc::clone(&engine)));
    let bar = progress_bar(targets.len());
    let (tally, out) = (Mutex::new(Tally::default()), Mutex::new(out));
    let (engine, bar, tally_ref, out) = (&engine, &bar, &tally, &out);
    stream::iter(targets)
        .for_each_concurrent(core.concurrency, |target| async move {
            let end = delete_one(engine, &target, bar).await;
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
async fn delete_one(engine: &Engine, target: &Target, bar: &ProgressBar) -> Option<Outcome> {
    let mut incoming = command(target);
    let (stop, began) = (engine.stop(CancellationToken::new()), Instant::now());
    loop {
        let token = engine.token(&target.org);
        let wait = match handle(&incoming, engine, &stop).await {
            Settlement::Finish(outcome) | Settlement::DeadLetter(outcome, _) => {
                return Some(outcome);
            }
            Settlement::Hold(_) | Settlement::Requeue => return None,
            Settlement::RetryLater(wait) | Settlement::Postpone(wait) => wait,
        };
        let (delay, reason) = (wait.delay, wait.retry_state.wait_reason().unwrap_or_default());
        if reason == SuspendReason::Unauthorized.as_str()
            && has_a_new_token(engine, &target.org, token.as_deref())
        {
            incoming.retry_state = wait.retry_state;
            continue;
        }
        if is_hopeless(engine, reason) || began.elapsed() > engine.schedule.max_age {
            bar.suspend(
                || error!(kind = %target.kind, id = %target.id, reason, http_status = wait.retry_state.last_status, "not deleted"),
            );
            return None;
        }
        if wait.is_news {
            let (status, delay) = (wait.retry_state.last_status, delay.name());
            bar.suspend(
                || warn!(kind = %target.kind, id = %target.id, reason, delay, http_status = status, "the command waits"),
            );
        }
        let first_seen = incoming.retry_state.first_seen.or_else(|| Some(Timestamp::now()));
        incoming.retry_state = RetryState { first_seen, ..wait.retry_state };
        if !engine.sleep(delay.wait()).await {
            return None;
        }
    }
}

/// # A new token is tried once
///
/// The file may hold one already, which the call that was refused did not have. Another task's refusal may be about to read it.
fn has_a_new_token(engine: &Engine, org: &OrgId, before: Option<&SecretString>) -> bool {
    engine.reload_credentials();
    let exposed =
        |token: Option<&SecretString>| token.map(|token| token.expose_secret().to_owned());
    exposed(engine.token(org).as_deref()) != exposed(before)
}

/// What waiting does not fix while somebody looks on: a wrong base URL, a token that does not reach the organisation, that is not
/// accepted, or none at all. Once that is certain of the organisation it ends the whole list.
fn is_hopeless(engine: &Engine, reason: &str) -> bool {
    const HOPELESS: [SuspendReason; 2] = [SuspendReason::Misdirected, SuspendReason::Unauthorized];
    let is_suspended = |reason| engine.permits.with(|access, _| access.suspended_for(reason)) > 0;
    let ends_the_list = |end: SuspendReason| {
        is_suspended(end) && (end == SuspendReason::Misdirected || reason == end.as_str())
    };
    if HOPELESS.into_iter().any(ends_the_list) {
        engine.draining.cancel();
    }
    reason == NO_TOKEN || HOPELESS.map(SuspendReason::as_str).contains(&reason)
}

fn command(target: &Target) -> Incoming {
    // A target is written with its own members: a command is no more.
    let body = serde_json::to_vec(target).unwrap_or_default();
    Incoming { kind: target.kind, body, ..Incoming::default() }
}

fn count(tally: &mut Tally, end: Option<&Outcome>) {
    match end.map(|outcome| outcome.outcome.how) {
        Some(EndKind::Done | EndKind::AlreadyAbsent) => tally.gone += 1,
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
fn progress_bar(targets: usize) -> ProgressBar {
    let bar = ProgressBar::new(targets as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
