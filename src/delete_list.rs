//! The `delete` command: the same engine without a broker, for a list of ids. It sleeps through the
//! waits.

mod line;

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::line::{Left, OutcomeLine};
use crate::consent::{Consent, agrees};
use crate::kind::Kind;
use crate::messages::{DryRun, EndKind, Incoming, ObjectId, OrgId, RetryState, Target, Would};
use crate::metrics::NO_TOKEN;
use crate::policy::api_access::SuspendReason;
use crate::policy::settlement::Settlement;
use crate::service::{CoreSettings, StartError, credentials, engine};
use crate::worker::handle::handle;
use crate::worker::{Engine, reload_credentials};

/// A list of ids, all of one kind and one organisation.
pub struct ListSettings {
    pub core: CoreSettings,
    pub kind: Kind,
    pub org: OrgId,
    /// As given: an id may occur twice.
    pub ids: Vec<ObjectId>,
    /// Whether to ask first.
    pub consent: Consent,
}

/// The result of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub done: usize,
    pub already_absent: usize,
    pub failed: usize,
    /// In a dry run: what would have happened to them is unknown.
    pub unknown: usize,
    /// Without an outcome: interrupted, or waiting would not have helped.
    pub left: usize,
    /// Ids that were given more than once; the repeats are ignored.
    pub duplicates: usize,
    pub end: ListEnd,
}

/// Why the list ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListEnd {
    /// Each id has its line: an outcome, or that it was given up.
    #[default]
    Through,
    /// A signal came before each id had its outcome.
    Interrupted,
    /// The person did not agree: nothing has begun.
    NotAgreed,
}

impl Tally {
    pub fn is_complete(self) -> bool {
        self.end == ListEnd::Through && self.failed + self.unknown + self.left == 0
    }
}

/// The line of an id with an outcome.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Ended {
    Outcome(OutcomeLine),
    DryRun(DryRun),
}

impl Ended {
    fn count(&self, tally: &mut Tally) {
        let how = match self {
            Self::Outcome(line) => line.outcome.outcome.how,
            Self::DryRun(DryRun { how: Would::Unknown(_), .. }) => return tally.unknown += 1,
            Self::DryRun(DryRun { how: Would::DeadLettered(_), .. }) => EndKind::DeadLettered,
            Self::DryRun(DryRun { how: Would::End { how, .. }, .. }) => *how,
        };
        match how {
            EndKind::Done | EndKind::Archived => tally.done += 1,
            EndKind::AlreadyAbsent => tally.already_absent += 1,
            EndKind::DeadLettered | EndKind::Cancelled => tally.failed += 1,
        }
    }
}

/// Asks, deletes, shows the progress, and writes one line of JSON to `out` for each id.
///
/// # Errors
/// [`StartError`] if there is no token or the engine cannot be built.
pub async fn delete_list(
    list: ListSettings,
    out: impl Write + Send,
    shutdown: CancellationToken,
) -> Result<Tally, StartError> {
    let credentials = credentials(&list.core.credentials)?;
    let engine = engine(&list.core, &[list.kind], &credentials, true)?;
    let (targets, duplicates) = distinct(&list);
    if !agrees(list.consent, &question(&list, targets.len(), duplicates), &shutdown).await {
        let interrupted = shutdown.is_cancelled();
        let end = if interrupted { ListEnd::Interrupted } else { ListEnd::NotAgreed };
        return Ok(Tally { left: targets.len(), duplicates, end, ..Tally::default() });
    }
    let tally = work_off(engine, targets, out, list.core.concurrency, &shutdown).await;
    let interrupted = shutdown.is_cancelled() && tally.left > 0;
    let end = if interrupted { ListEnd::Interrupted } else { ListEnd::Through };
    Ok(Tally { duplicates, end, ..tally })
}

/// Each id once, in the given order; and the number of repeats.
fn distinct(list: &ListSettings) -> (Vec<Target>, usize) {
    let mut seen = HashSet::new();
    let first = list.ids.iter().filter(|id| seen.insert(id.as_str()));
    let target = |id: &ObjectId| Target { kind: list.kind, org: list.org.clone(), id: id.clone() };
    let targets: Vec<_> = first.map(target).collect();
    let duplicates = list.ids.len() - targets.len();
    (targets, duplicates)
}

fn question(list: &ListSettings, number: usize, duplicates: usize) -> String {
    let (kind, org) = (list.kind, &list.org);
    let ids = if number == 1 { "id" } else { "ids" };
    let ignored = if duplicates == 0 {
        String::new()
    } else {
        format!(" ({duplicates} given more than once, and taken once)")
    };
    format!("{kind}: {number} {ids} of organisation {org}{ignored}. ")
}

async fn work_off(
    engine: Engine,
    targets: Vec<Target>,
    out: impl Write + Send,
    concurrency: usize,
    shutdown: &CancellationToken,
) -> Tally {
    let (draining, signal) = (engine.draining.clone(), shutdown.clone());
    let interrupted = tokio::spawn(async move {
        signal.cancelled().await;
        draining.cancel();
    });
    let engine = Arc::new(engine);
    let reloading = tokio::spawn(reload_credentials(Arc::clone(&engine)));
    let bar = progress_bar(targets.len());
    let (tally, out) = (Mutex::new(Tally::default()), Mutex::new(out));
    let (engine, bar, tally_ref, out) = (&engine, &bar, &tally, &out);
    stream::iter(targets)
        .for_each_concurrent(concurrency, |target| async move {
            let end = delete_one(engine, &target, bar, shutdown).await;
            let mut tally = tally_ref.lock().unwrap_or_else(PoisonError::into_inner);
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            bar.inc(1);
            match end {
                Ok(ended) => {
                    ended.count(&mut tally);
                    write_line(&mut *out, bar, &ended);
                }
                Err(left) => {
                    tally.left += 1;
                    write_line(&mut *out, bar, &left);
                }
            }
        })
        .await;
    interrupted.abort();
    reloading.abort();
    bar.finish_and_clear();
    let spans = engine.spans.clone();
    let _ = tokio::task::spawn_blocking(move || spans.flush()).await;
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

async fn delete_one<'a>(
    engine: &Engine,
    target: &'a Target,
    bar: &ProgressBar,
    shutdown: &CancellationToken,
) -> Result<Ended, Left<'a>> {
    let mut incoming = command(target);
    let left = |reason: &str, state: &RetryState| {
        let reason = if shutdown.is_cancelled() { "interrupted" } else { reason }.to_owned();
        let RetryState { attempts, ambiguous, last_status: http_status, .. } = *state;
        Err(Left { target, outcome: "left", reason, attempts, ambiguous, http_status })
    };
    let (stop, began) = (engine.stop(CancellationToken::new()), Instant::now());
    loop {
        let token = engine.token(&target.org);
        let wait = match handle(&incoming, engine, &stop).await {
            Settlement::Finish(outcome) | Settlement::DeadLetter(outcome, _) => {
                return Ok(Ended::Outcome(OutcomeLine::of(outcome)));
            }
            Settlement::DryRun(dry_run) => return Ok(Ended::DryRun(dry_run)),
            // Without a broker nothing is held or archived first. Nothing is rejected either: a
            // command of our own is small.
            Settlement::Undo(..)
            | Settlement::Hold(_)
            | Settlement::Reject(_)
            | Settlement::Requeue => {
                return left("given_up", &incoming.retry_state);
            }
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
            return left(reason, &wait.retry_state);
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
            return left("given_up", &incoming.retry_state);
        }
    }
}

/// # A new token is tried once
///
/// The file may already hold a newer token than the refused call had.
fn has_a_new_token(engine: &Engine, org: &OrgId, before: Option<&SecretString>) -> bool {
    engine.reload_credentials();
    let exposed =
        |token: Option<&SecretString>| token.map(|token| token.expose_secret().to_owned());
    exposed(engine.token(org).as_deref()) != exposed(before)
}

/// Problems that do not go away while a person waits: a wrong base URL, a token that does not reach
/// the organisation or is not accepted, or no token at all. Once one is certain, it ends the whole
/// list.
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
    // A target serialises to a complete command.
    let body = serde_json::to_vec(target).unwrap_or_default();
    Incoming { kind: target.kind, body, ..Incoming::default() }
}

fn write_line(out: &mut impl Write, bar: &ProgressBar, end: &impl Serialize) {
    let Ok(line) = serde_json::to_string(end) else { return };
    // A reader that has gone away must not stop deletions halfway; the exit code still tells.
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
