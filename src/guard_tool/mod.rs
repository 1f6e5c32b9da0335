//! What operators decide: about what the mass-deletion guard holds, and to pause and resume, to
//! cancel; and how all stands. Each decision is a record of the ledger.

mod held;
mod ledger_file;
mod print;
mod status;

use std::io;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::consent::Consent;
use crate::dead_letters::OutputFormat;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::messages::ledger::{Decision, LedgerEntry, Scope};
use crate::rabbitmq::tls::TlsFiles;
use crate::rabbitmq::{AmqpSource, BrokerError, PublishError};
use held::HeldQueue;
pub use held::{Group, Groups};
use ledger_file::LedgerFile;

/// What an operator wants.
#[derive(Debug, Clone)]
pub enum LedgerJob {
    /// Show what the guard holds.
    List(Kind, OutputFormat),
    /// Let held commands pass.
    Release {
        scope: Scope,
        max: u32,
        lasts: Duration,
        decision: Decision,
        consent: Consent,
    },
    /// Dead-letter held commands; with a name, only those that were asked for by it.
    Reject {
        scope: Scope,
        requested_by: Option<String>,
        decision: Decision,
        consent: Consent,
    },
    /// No new call, of one organisation or of all.
    Pause(Option<OrgId>, Decision),
    Resume(Option<OrgId>, Decision),
    /// Show how all stands: of these queues, beside what the ledger says.
    Status(Vec<String>, OutputFormat),
    /// End commands without a call, by their ids; of one organisation or whatever theirs is.
    Cancel(Vec<String>, Option<OrgId>, Decision),
}

/// Why it could not be done.
#[derive(Debug, Error)]
pub enum LedgerJobError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("cannot publish to {to}: {source}; what is not published is where it was")]
    Publish { to: String, source: PublishError },
    #[error("the ledger does not answer within {0:?}")]
    Silent(Duration),
    #[error("standard output: {0}")]
    Output(io::Error),
}

/// Does it. Returns whether all of it was done.
///
/// # Errors
/// [`LedgerJobError`]: what was not done is as it was.
pub async fn run(
    job: LedgerJob,
    url: &AmqpSource,
    tls: &TlsFiles,
    stop: CancellationToken,
) -> Result<bool, LedgerJobError> {
    let ledger = LedgerFile::open(url, tls).await?;
    let is_done = match job {
        LedgerJob::List(kind, form) => {
            let groups = HeldQueue::of(kind, &ledger).survey(&stop).await?;
            print::held(&groups, ledger.brakes(), kind, form).map_err(LedgerJobError::Output)?;
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
            info!("paused: {whose}; what is in flight finishes");
            true
        }
        LedgerJob::Resume(org_id, decision) => {
            let whose = whose(org_id.as_ref());
            ledger.write(LedgerEntry::Resumed { org_id, decision }).await?;
            info!("resumed: {whose}");
            true
        }
        LedgerJob::Status(queues, form) => {
            status::print(&ledger, queues, form).await.map_err(LedgerJobError::Output)?;
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
    };
    ledger.close().await;
    Ok(is_done)
}

/// Counts what is held of a kind, by organisation; all stays.
///
/// # Errors
/// [`LedgerJobError`].
pub async fn held(kind: Kind, url: &AmqpSource, tls: &TlsFiles) -> Result<Groups, LedgerJobError> {
    let ledger = LedgerFile::open(url, tls).await?;
    let groups = HeldQueue::of(kind, &ledger).survey(&CancellationToken::new()).await;
    ledger.close().await;
    groups
}

fn whose(org: Option<&OrgId>) -> String {
    org.map_or_else(|| "all organisations".to_owned(), |org| format!("organisation {org}"))
}

/// # A grant is on record before the first command goes back
///
/// Otherwise the guard would hold it once more. A kill in between leaves the grant, and the rest
/// where it is.
async fn release(
    ledger: &LedgerFile,
    scope: &Scope,
    (max, lasts): (u32, Duration),
    decision: Decision,
    consent: Consent,
    stop: &CancellationToken,
) -> Result<bool, LedgerJobError> {
    let queue = HeldQueue::of(scope.kind, ledger);
    if !queue.agrees("release", scope, Some(max), consent, stop).await? {
        return Ok(false);
    }
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
    queue.release(scope, max, &decision, stop).await
}

async fn reject(
    ledger: &LedgerFile,
    scope: &Scope,
    requested_by: Option<String>,
    decision: Decision,
    consent: Consent,
    stop: &CancellationToken,
) -> Result<bool, LedgerJobError> {
    let queue = HeldQueue::of(scope.kind, ledger);
    if !queue.agrees("reject", scope, None, consent, stop).await? {
        return Ok(false);
    }
    let is_done = queue.reject(scope, requested_by.as_deref(), &decision, stop).await?;
    // Those of others are still held, and so is what comes.
    if is_done && requested_by.is_none() {
        ledger.write(LedgerEntry::Rearmed { scope: scope.clone(), decision }).await?;
    }
    Ok(is_done)
}
