//! The command line of `audit`.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::broker_args::BrokerArgs;
use super::log_args::LogArgs;
use super::read::Reader;
use super::values::{Setting, checked, duration, kind, object, org};
use crate::audit_tool::AuditJob;
use crate::kind::Kind;
use crate::messages::{ObjectId, OrgId};
use crate::table::OutputFormat;

const LONGEST: Duration = Duration::from_hours(24 * 3660);

#[derive(Args)]
#[command(after_help = "Example: audit --since 7d --org ORG --json
A call that was repeated stands there once for each time. Reading leaves a record, too. The broker's user needs to read
task.delete.audit and to write task.ledger.")]
pub(super) struct AuditArgs {
    /// How far back.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = checked(duration(Duration::from_secs(1)..=LONGEST)))]
    since: Setting<Duration>,
    /// Only this organisation.
    #[arg(long, value_parser = checked(org))]
    org: Option<Setting<OrgId>>,
    /// Only this kind.
    #[arg(long, value_name = "KIND", value_parser = checked(kind))]
    kind: Option<Setting<Kind>>,
    /// Only this task, process, tag or file.
    #[arg(long, value_parser = checked(object))]
    id: Option<Setting<ObjectId>>,
    /// Only this command.
    #[arg(long, value_name = "ID")]
    command_id: Option<String>,
    /// Only calls that were requested by this name, or whose command was published by this user.
    #[arg(long, value_name = "NAME")]
    requested_by: Option<String>,
    /// Who reads the records.
    #[arg(long, env = "USER", value_name = "NAME", default_value = "")]
    by: String,
    /// JSON, one call per line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

impl Reader {
    pub(super) fn audit_job(&mut self, args: &AuditArgs) -> Option<AuditJob> {
        let before = self.problems.len();
        let since = self.take(&args.since).and_then(|since| SignedDuration::try_from(since).ok());
        let since = since.and_then(|since| Timestamp::now().checked_sub(since).ok());
        let (org, kind) = (self.take_if(args.org.as_ref()), self.take_if(args.kind.as_ref()));
        let id = self.take_if(args.id.as_ref());
        let form = if args.json { OutputFormat::Json } else { OutputFormat::Text };
        // A wrong filter must not show more than was asked for.
        (self.problems.len() == before).then(|| AuditJob {
            since: since.unwrap_or(Timestamp::MIN),
            org,
            kind,
            id,
            command_id: args.command_id.clone(),
            requested_by: args.requested_by.clone(),
            by: args.by.clone(),
            form,
        })
    }
}
