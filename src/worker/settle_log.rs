//! The log lines of settlements: one for the end of a command, one for its dead letter, one for a
//! wait that is news.

use tracing::{debug, error, info};

use crate::kind::Kind;
use crate::messages::{DryRun, Incoming, Outcome, Pending, Target};
use crate::policy::settlement::{Settlement, Wait};

/// Logs how a delivery was settled.
pub(super) fn report(incoming: &Incoming, settlement: &Settlement) {
    let trace_id = incoming.properties.trace().map(|trace| trace.trace_id());
    match settlement {
        Settlement::Finish(outcome) => report_end(outcome, incoming, trace_id),
        Settlement::DryRun(dry_run) => report_dry_run(dry_run, trace_id),
        Settlement::DeadLetter(outcome, _) | Settlement::Reject(Some(outcome)) => {
            report_dead_letter(outcome, incoming, trace_id);
        }
        Settlement::RetryLater(wait) => report_wait(wait, true, incoming, trace_id),
        Settlement::Postpone(wait) => report_wait(wait, wait.is_news, incoming, trace_id),
        Settlement::Undo(pending, _) => report_pending(pending, trace_id),
        // A trip has its own log line, and a rejected message is logged at its destination.
        Settlement::Hold(_) | Settlement::Reject(None) | Settlement::Requeue => {}
    }
}

/// The ids of a target as fields of a log line; missing ones are left out.
#[derive(Default)]
struct Ids<'a> {
    org: Option<&'a str>,
    task: Option<&'a str>,
    process: Option<&'a str>,
    tag: Option<&'a str>,
    file: Option<&'a str>,
}

impl<'a> Ids<'a> {
    fn of(target: Option<&'a Target>) -> Self {
        let Some(Target { kind, org, id }) = target else { return Self::default() };
        let (org, id) = (Some(org.as_str()), Some(id.as_str()));
        match kind {
            Kind::TaskDelete | Kind::TaskArchive => Self { org, task: id, ..Self::default() },
            Kind::ProcessDelete => Self { org, process: id, ..Self::default() },
            Kind::TagDelete => Self { org, tag: id, ..Self::default() },
            Kind::FileDelete => Self { org, file: id, ..Self::default() },
        }
    }
}

/// One line for a wait: after a failed attempt each time; for a wait that is not the command's
/// fault, once per reason.
fn report_wait(wait: &Wait, is_news: bool, incoming: &Incoming, trace_id: Option<&str>) {
    let (id, command) = wait.command.as_ref().map(|(id, command)| (id.as_str(), command)).unzip();
    let command_id = id.or(incoming.properties.message_id.as_deref());
    let ids = Ids::of(command.map(|command| &command.target));
    let (delay, retry_state) = (wait.delay.name(), &wait.retry_state);
    macro_rules! line {
        ($level:ident) => {
            $level!(
                command_id,
                kind = incoming.kind.as_str(),
                org_id = ids.org,
                task_id = ids.task,
                process_id = ids.process,
                tag_id = ids.tag,
                file_id = ids.file,
                reason = retry_state.wait_reason(),
                delay,
                attempts = retry_state.attempts,
                http_status = retry_state.last_status,
                request_id = retry_state.request_id,
                trace_id,
                "command waits"
            )
        };
    }
    if is_news { line!(info) } else { line!(debug) }
}

/// One line for the end of a command, in the words of the event.
fn report_end(outcome: &Outcome, incoming: &Incoming, trace_id: Option<&str>) {
    let ids = Ids::of(outcome.target.as_ref());
    info!(
        command_id = outcome.command_id,
        kind = outcome.outcome.kind.as_str(),
        org_id = ids.org,
        task_id = ids.task,
        process_id = ids.process,
        tag_id = ids.tag,
        file_id = ids.file,
        outcome = outcome.outcome.as_str(),
        attempts = outcome.attempts,
        ambiguous = outcome.ambiguous,
        verified = outcome.verified,
        http_status = outcome.http_status,
        requested_by = outcome.requested_by,
        published_by = outcome.published_by,
        reason = outcome.reason,
        cancelled_by = outcome.cancelled_by,
        correlation_id = incoming.properties.correlation_id,
        request_id = outcome.request_id,
        trace_id,
        duration_ms = outcome.duration_ms,
        "command ended"
    );
}

/// One line for a task that is archived and not deleted yet.
fn report_pending(pending: &Pending, trace_id: Option<&str>) {
    let ids = Ids::of(pending.target.as_ref());
    info!(
        command_id = pending.command_id,
        org_id = ids.org,
        task_id = ids.task,
        purge_at = pending.purge_at,
        requested_by = pending.requested_by,
        published_by = pending.published_by,
        reason = pending.reason,
        trace_id,
        "task archived; it is deleted when its undo window ends"
    );
}

/// One line for a command of a dry run, in the words of the event.
fn report_dry_run(dry_run: &DryRun, trace_id: Option<&str>) {
    let ids = Ids::of(dry_run.target.as_ref());
    info!(
        command_id = dry_run.command_id,
        kind = dry_run.kind.as_str(),
        org_id = ids.org,
        task_id = ids.task,
        process_id = ids.process,
        tag_id = ids.tag,
        file_id = ids.file,
        would = dry_run.would,
        detail = dry_run.detail,
        attempts = dry_run.attempts,
        verified = dry_run.verified,
        http_status = dry_run.http_status,
        request_id = dry_run.request_id,
        trace_id,
        duration_ms = dry_run.duration_ms,
        "dry run: nothing was deleted"
    );
}

/// One line for the failure of a command, in the words of the event.
fn report_dead_letter(outcome: &Outcome, incoming: &Incoming, trace_id: Option<&str>) {
    let (reason, detail) =
        outcome.failure.as_ref().map_or(("", ""), |f| (f.reason.as_str(), f.detail.as_str()));
    let ids = Ids::of(outcome.target.as_ref());
    error!(
        command_id = outcome.command_id,
        kind = outcome.outcome.kind.as_str(),
        org_id = ids.org,
        task_id = ids.task,
        process_id = ids.process,
        tag_id = ids.tag,
        file_id = ids.file,
        outcome = outcome.outcome.as_str(),
        attempts = outcome.attempts,
        reason,
        detail,
        http_status = outcome.http_status,
        requested_by = outcome.requested_by,
        published_by = outcome.published_by,
        command_reason = outcome.reason,
        correlation_id = incoming.properties.correlation_id,
        request_id = outcome.request_id,
        trace_id,
        duration_ms = outcome.duration_ms,
        "command dead-lettered"
    );
}
