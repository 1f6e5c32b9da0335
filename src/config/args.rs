//! The command line: every setting as a flag and a variable, with what each takes. `values` checks,
//! `read` reports every mistake at once.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::audit_args::AuditArgs;
use super::broker_args::BrokerArgs;
use super::console_args::ConsoleArgs;
use super::core_args::{CoreArgs, UndoArgs};
use super::dead::DeadArgs;
use super::ledger_args::{CancelArgs, GuardArgs, PauseArgs, ResumeArgs, StatusArgs};
use super::log_args::LogArgs;
use super::topology_args::{KindsArgs, RetryDelayArgs};
use super::values::{
    Setting, checked, duration, flag, if_set, kind, org, producers, socket_address, up_to,
};
use super::version::version;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::policy::producers::AllowedProducer;

const LONGEST_RETENTION: Duration = Duration::from_hours(24 * 3660);
const LONGEST_GRACE: Duration = Duration::from_hours(1);

/// Deletes tasks, processes, tags and files in Tallyfy: takes commands from RabbitMQ, calls the
/// API, publishes how each ended.
#[derive(Parser)]
#[command(version = version(), arg_required_else_help = true, after_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Sub,
}

const RUN_EXAMPLE: &str = "\
Example:
  AMQP_URL=amqps://tallyfy-worker:SECRET@rabbit.example/tallyfy TALLYFY_CREDENTIALS_DIR=/run/secrets/tallyfy tallyfy-delete-worker run
Test the settings first: the same with `check`.";
const CHECK_EXAMPLE: &str = "\
Example, with the worker's own settings:
  AMQP_URL=amqps://tallyfy-worker:SECRET@rabbit.example/tallyfy TALLYFY_CREDENTIALS_DIR=/run/secrets/tallyfy tallyfy-delete-worker check
FAILED: the worker could not work; the line says what to do. warning: it could, but this needs attention. skipped: not visible to this
user, or not in use. Exit 0 if nothing FAILED.";
const DELETE_EXAMPLE: &str = "\
Example: printf '%s\\n' ID1 ID2 | tallyfy-delete-worker delete --org ORG - > outcomes.jsonl
On a terminal it asks first. Interrupted, it exits 130 and prints a line with \"outcome\":\"left\" for each id that has no outcome. To go on:
  jq -r 'select(.outcome == \"left\").task_id' outcomes.jsonl | tallyfy-delete-worker delete --org ORG -";
const EXIT_CODES: &str = "\
Examples:
  tallyfy-delete-worker check        test what a worker needs
  tallyfy-delete-worker run          work
  tallyfy-delete-worker dead list    what has failed, and why

Exit codes: 0 done; 1 failed (for delete: one could not be deleted); 64 a wrong setting or flag; 130 delete was interrupted.
Every setting is a flag and an environment variable; flags win. `COMMAND --help` lists them.";

#[derive(Subcommand)]
pub(super) enum Sub {
    /// Work: consume commands until SIGTERM or SIGINT, then drain and exit 0.
    Run(Box<RunArgs>),
    /// Test whether everything a worker needs is in place; deletes nothing. One line per check;
    /// exit 0 only if none failed.
    Check(Box<CheckArgs>),
    /// Declare exchanges, queues and bindings, and exit.
    Setup(SetupArgs),
    /// Delete tasks without a broker: same engine, one JSON outcome per line on standard output.
    #[command(after_help = DELETE_EXAMPLE)]
    Delete(Box<DeleteArgs>),
    /// Restore archived tasks, which cancels their deletion if they are archived first.
    Undo(Box<UndoListArgs>),
    /// Look at dead letters, replay, discard, export or import them.
    Dead(Box<DeadArgs>),
    /// Serve pages for people: dead letters, guard, pauses and queues.
    Console(Box<ConsoleArgs>),
    /// Look at what the mass-deletion guard holds, and decide about it.
    Guard(Box<GuardArgs>),
    /// Make no new call, for one organisation or for all, until resumed. All workers follow,
    /// restarts included.
    Pause(Box<PauseArgs>),
    /// End a pause.
    Resume(Box<ResumeArgs>),
    /// Cancel commands that are queued or waiting, by their ids.
    Cancel(Box<CancelArgs>),
    /// Show the status of breaker, organisations, guard, pauses, queues and workers.
    Status(Box<StatusArgs>),
    /// Read back the record of each destructive call: who asked, when, for what, and the answer.
    Audit(Box<AuditArgs>),
    /// Print the JSON Schema of the command, of the outcome event, of the event of a dry run, of
    /// the audit event, of the event of the guard, of the event of a task that is archived first,
    /// or of all.
    Schema {
        /// Which one; without it, all of them by name.
        subject: Option<SubjectArg>,
        /// Kind of the command.
        #[arg(long, default_value = "task.delete", value_name = "KIND", value_parser = checked(kind))]
        kind: Setting<Kind>,
        #[command(flatten)]
        log: LogArgs,
    },
    /// Print the completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
        #[command(flatten)]
        log: LogArgs,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SubjectArg {
    /// The body that producers publish.
    Command,
    /// The body that consumers of outcomes receive.
    Event,
    /// The body of the event of a dry run.
    DryRun,
    /// The body of the event about what operators did with dead letters.
    Audit,
    /// The body of the event about the mass-deletion guard.
    Held,
    /// The body of the event about a task that is archived and will be deleted.
    Pending,
}

#[derive(Args)]
#[command(after_help = RUN_EXAMPLE)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) core: CoreArgs,
    #[command(flatten)]
    pub(super) delays: RetryDelayArgs,
    #[command(flatten)]
    pub(super) kinds: KindsArgs,
    #[command(flatten)]
    pub(super) audit: AuditRetentionArgs,
    /// Declare the topology at start, or (false) only check that it exists.
    #[arg(
        long,
        env = "DECLARE_TOPOLOGY",
        default_value = "true",
        value_name = "BOOL",
        help_heading = "RabbitMQ", value_parser = checked(flag))]
    pub(super) declare_topology: Setting<bool>,
    /// Broker users whose headers are believed besides the worker's own, separated by commas: that
    /// of the operator who replays dead letters.
    #[arg(
        long,
        env = "TRUSTED_USERS",
        value_delimiter = ',',
        value_name = "USER",
        help_heading = "RabbitMQ"
    )]
    pub(super) trusted_users: Vec<String>,
    /// Refuse commands whose producer RabbitMQ has not validated (no `user_id`): they are
    /// dead-lettered.
    #[arg(
        long,
        env = "REQUIRE_USER_ID",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_name = "BOOL",
        help_heading = "RabbitMQ", value_parser = checked(flag))]
    pub(super) require_user_id: Setting<bool>,
    /// Producers (RabbitMQ users) that may ask for commands of an organisation, acme=billing say;
    /// * stands for all organisations without an entry. Once set, all others are refused.
    #[arg(
        long,
        env = "ALLOWED_PRODUCERS",
        value_name = "PAIRS",
        help_heading = "RabbitMQ", value_parser = if_set(producers))]
    pub(super) allowed_producers: Option<Setting<Option<Vec<AllowedProducer>>>>,
    /// Address of /livez, /readyz, /metrics and, for callers on the machine itself, /status.
    #[arg(
        long,
        env = "HTTP_ADDR",
        default_value = "127.0.0.1:9464",
        value_name = "IP:PORT",
        help_heading = "Operation", value_parser = checked(socket_address))]
    pub(super) http_addr: Setting<SocketAddr>,
    /// How long a drain may take after SIGTERM.
    #[arg(
        long,
        env = "SHUTDOWN_GRACE",
        default_value = "25s",
        value_name = "DURATION",
        help_heading = "Operation", value_parser = checked(duration(Duration::ZERO..=LONGEST_GRACE)))]
    pub(super) shutdown_grace: Setting<Duration>,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
#[command(after_help = CHECK_EXAMPLE)]
pub(super) struct CheckArgs {
    /// JSON, one object per check.
    #[arg(long)]
    pub(super) json: bool,
    /// Before a worker starts: only the broker and the settings can fail. Anything that a worker
    /// can wait for (API, tokens, organisations, an alarm of the broker) is a warning.
    #[arg(long)]
    pub(super) start: bool,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

#[derive(Args)]
#[command(
    after_help = "Example: AMQP_URL=amqps://tallyfy-setup:SECRET@rabbit.example/tallyfy tallyfy-delete-worker setup"
)]
pub(super) struct SetupArgs {
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) kinds: KindsArgs,
    #[command(flatten)]
    pub(super) delays: RetryDelayArgs,
    #[command(flatten)]
    pub(super) audit: AuditRetentionArgs,
    #[command(flatten)]
    pub(super) undo: UndoArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
pub(super) struct DeleteArgs {
    /// What to do: task.delete, task.archive, process.delete, tag.delete or file.delete.
    #[arg(long, default_value = "task.delete", value_name = "KIND", value_parser = checked(kind))]
    pub(super) kind: Setting<Kind>,
    /// Organisation that they belong to.
    #[arg(long, value_parser = checked(org))]
    pub(super) org: Setting<OrgId>,
    /// Do not ask at the terminal before it begins.
    #[arg(long)]
    pub(super) yes: bool,
    /// Allow a list of this length, if that is more than the guard allows.
    #[arg(long, value_name = "NUMBER", value_parser = checked(up_to(u32::MAX)))]
    pub(super) max: Option<Setting<NonZeroU32>>,
    /// Ids of the tasks, processes, tags or files, or - to read them from standard input, one per
    /// line. An id that is given twice is used once.
    #[arg(required = true, value_name = "ID")]
    pub(super) ids: Vec<String>,
    #[command(flatten)]
    pub(super) core: CoreArgs,
    #[command(flatten)]
    pub(super) delays: RetryDelayArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
#[command(
    after_help = "Example: undo --org ORG TASK TASK. One JSON line for each task; exit 0 only if all are restored. The worker that looks at
a restored task when its undo window ends ends the command as cancelled."
)]
pub(super) struct UndoListArgs {
    /// Organisation that they belong to.
    #[arg(long, value_parser = checked(org))]
    pub(super) org: Setting<OrgId>,
    /// Ids of the tasks, or - to read them from standard input, one per line.
    #[arg(required = true, value_name = "ID")]
    pub(super) ids: Vec<String>,
    #[command(flatten)]
    pub(super) core: CoreArgs,
    #[command(flatten)]
    pub(super) delays: RetryDelayArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
pub(super) struct AuditRetentionArgs {
    /// How long the record of each destructive call is kept.
    #[arg(
        long,
        env = "AUDIT_RETENTION",
        default_value = "90d",
        value_name = "DURATION",
        help_heading = "RabbitMQ", value_parser = checked(duration(Duration::from_hours(1)..=LONGEST_RETENTION)))]
    pub(super) audit_retention: Setting<Duration>,
}
