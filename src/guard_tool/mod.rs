//! Operators' decisions: about commands that the mass-deletion guard holds, and to pause, resume or
//! cancel. Also shows the overall status. Each decision is a record of the ledger.

mod held;
mod held_look;
mod ledger_file;
mod print;
mod question;
mod status;

use std::io;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::consent::Consent;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::messages::ledger::{Decision, LedgerEntry, Scope};
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::topology::depths;
use crate::rabbitmq::{AmqpSource, BrokerError, PublishError};
use crate::table::OutputFormat;
use held::HeldQueue;
use held_look::survey;
pub use held_look::{Group, Groups};
use ledger_file::LedgerFile;

/// What to do.
#[derive(Debug, Clone)]
pub enum LedgerJob {
    /// Show the commands that the guard holds, of one kind or of each that has a queue for them.
    List(Option<Kind>, OutputFormat),
    /// Let held commands pass.
    Release {
        scope: Scope,
        max: u32,
        lasts: Duration,
        decision: Decision,
        consent: Consent,
    },
    /// Dead-letter held commands; with a name, only that requester's.
    Reject {
        scope: Scope,
        requested_by: Option<String>,
        decision: Decision,
        consent: Consent,
    },
    /// Make no new call, for one organisation or for all.
    Pause(Option<OrgId>, Decision),
    Resume(Option<OrgId>, Decision),
    /// Show the status: the ledger's state and these queues.
    Status(Vec<String>, OutputFormat),
    /// End commands without a call, by their ids; of one organisation or of any.
    Cancel(Vec<String>, Option<OrgId>, Decision),
    /// Lift their cancellations.
    Revoke(Vec<String>, Option<OrgId>, Decision),
}

/// Why it failed.
#[derive(Debug, Error)]
pub enum LedgerJobError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("cannot publish to {to}: {source}; whatever was not published is unchanged")]
    Publish { to: String, source: PublishError },
    #[error("the ledger does not answer within {0:?}")]
    Silent(Duration),
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// Does it. Returns whether everything was done.
///
/// # Errors
/// [`LedgerJobError`]: whatever was not done is unchanged.
pub async fn run(
    job: LedgerJob,
    url: &AmqpSource,
    tls: &TlsFiles,
    stop: CancellationToken,
) -> Result<bool, LedgerJobError> {
    let ledger = LedgerFile::open(url, tls).await?;
    let is_done = match job {
        LedgerJob::List(kind, form) => {
            list(&ledger, kind, form, &stop).await?;
            true
        }
        LedgerJob::Release { scope, max, lasts, decision, consent } => {
            release(&ledger, &scope, (max, lasts), decision, consent, &stop).await?
        }
        LedgerJob::Reject { scope, requested_by, decision, consent } => {
            reject(&ledger, &scope, requested_by, decision, consent, &stop).await?
        }
        LedgerJob::Pause(org_id, decision) => {
            let whose = whose(org_id.as_ref());
            ledger.write(LedgerEntry::Paused { org_id, decision }).await?;
            info!("paused: {whose}; calls in flight finish");
            true
        }
        LedgerJob::Resume(org_id, decision) => {
            let whose = whose(org_id.as_ref());
            ledger.write(LedgerEntry::Resumed { org_id, decision }).await?;
            info!("resumed: {whose}");
            true
        }
        LedgerJob::Status(queues, form) => {
            status::print(&ledger, queues, form).await?;
            true
        }
        LedgerJob::Cancel(ids, org_id, decision) => {
            for command_id in ids {
                let (org_id, decision) = (org_id.clone(), decision.clone());
                info!("cancelled: {command_id}, unless it has ended already");
                ledger.write(LedgerEntry::Cancelled { command_id, org_id, decision }).await?;
            }
            true
        }
        LedgerJob::Revoke(ids, org_id, decision) => {
            for command_id in ids {
                let (org_id, decision) = (org_id.clone(), decision.clone());
                info!("no longer cancelled: {command_id}, unless it has ended already");
                ledger.write(LedgerEntry::Revoked { command_id, org_id, decision }).await?;
            }
            true
        }
    };
    ledger.close().await;
    Ok(is_done)
}

async fn list(
    ledger: &LedgerFile,
    kind: Option<Kind>,
    form: OutputFormat,
    stop: &CancellationToken,
) -> Result<(), LedgerJobError> {
    let queues = Kind::ALL.map(Kind::held_queue).to_vec();
    let found = depths(ledger.reading(), queues).await?;
    let is_there = |kind: &Kind| found.get(&kind.held_queue()).is_some_and(Option::is_some);
    let kinds =
        kind.map_or_else(|| Kind::ALL.into_iter().filter(is_there).collect(), |kind| vec![kind]);
    let mut held = Vec::new();
    for kind in kinds {
        held.push((kind, survey(ledger.reading(), kind, stop).await?));
    }
    print::held(held, ledger.brakes(), form).map_err(LedgerJobError::Output)
}

/// Counts the held commands of a kind by organisation; all stay.
///
/// # Errors
/// [`LedgerJobError`].
pub async fn held(kind: Kind, url: &AmqpSource, tls: &TlsFiles) -> Result<Groups, LedgerJobError> {
    let ledger = LedgerFile::open(url, tls).await?;
    let groups = survey(ledger.reading(), kind, &CancellationToken::new()).await;
    ledger.close().await;
    groups
}

fn whose(org: Option<&OrgId>) -> String {
    org.map_or_else(|| "all organisations".to_owned(), |org| format!("organisation {org}"))
}

/// # A grant is on record before the first command goes back
///
/// Otherwise the guard would hold the command again. A kill in between leaves the grant in place
/// and the remaining commands held.
async fn release(
    ledger: &LedgerFile,
    scope: &Scope,
    (max, lasts): (u32, Duration),
    decision: Decision,
    consent: Consent,
    stop: &CancellationToken,
) -> Result<bool, LedgerJobError> {
    let (queue, org) = (HeldQueue::of(scope.kind, ledger), &scope.org_id);
    let selected = (org, None, Some(max));
    let Some(found) = queue.agreed("release", selected, consent, stop).await? else {
        return Ok(false);
    };
    let until = SignedDuration::try_from(lasts)
        .ok()
        .and_then(|lasts| Timestamp::now().checked_add(lasts).ok())
        .unwrap_or(Timestamp::MAX);
    let grant = LedgerEntry::Granted {
        scope: scope.clone(),
        permits: max,
        until,
        decision: decision.clone(),
    };
    ledger.write(grant).await?;
    queue.release(scope, (max, found), &decision, stop).await
}

async fn reject(
    ledger: &LedgerFile,
    scope: &Scope,
    requested_by: Option<String>,
    decision: Decision,
    consent: Consent,
    stop: &CancellationToken,
) -> Result<bool, LedgerJobError> {
    let (queue, org) = (HeldQueue::of(scope.kind, ledger), &scope.org_id);
    let selected = (org, requested_by.as_deref(), None);
    let Some(found) = queue.agreed("reject", selected, consent, stop).await? else {
        return Ok(false);
    };
    let is_done = queue.reject(scope, (requested_by.as_deref(), found), &decision, stop).await?;
    // Other requesters' commands are still held, and so are new ones.
    if is_done && requested_by.is_none() {
        ledger.write(LedgerEntry::Rearmed { scope: scope.clone(), decision }).await?;
    }
    Ok(is_done)
}
