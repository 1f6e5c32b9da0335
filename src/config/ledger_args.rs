//! The command lines of `guard`, `pause`, `resume` and `cancel`: what operators decide.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::broker_args::BrokerArgs;
use super::log_args::LogArgs;
use super::read::Reader;
use super::topology_args::{KindsArgs, RetryDelayArgs};
use super::values::{Setting, checked, command_id, duration, kind, org, up_to};
use crate::consent::Consent;
use crate::guard_tool::LedgerJob;
use crate::kind::Kind;
use crate::messages::ledger::{Decision, Scope};
use crate::messages::{OrgId, names};
use crate::table::OutputFormat;

const WEEK: Duration = Duration::from_hours(24 * 7);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct GuardArgs {
    /// Kind of the commands; otherwise list shows all kinds, and the others decide about
    /// task.delete.
    #[arg(global = true, long, value_name = "KIND", value_parser = checked(kind))]
    kind: Option<Setting<Kind>>,
    #[command(subcommand)]
    action: GuardAction,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  guard list
  guard release --org ORG --max 100 --for 4h --reason 'agreed with the customer, see 4711'
  guard reject --org ORG --requested-by billing --reason 'a bug of billing, see 4711'

The broker's user needs to read task.delete.ledger and <kind>.held (task.delete.held), and to write amq.default, task.ledger,
task.events and, for reject, task.dlx.";

#[derive(Subcommand)]
enum GuardAction {
    /// List the held commands by organisation.
    List {
        /// JSON, one organisation per line.
        #[arg(long)]
        json: bool,
    },
    /// Let this many more commands of an organisation pass. So many held commands go back to the
    /// work queue, the oldest first; commands that are there already may use up the grant before
    /// them. Adds to a grant that has not expired.
    Release {
        /// The organisation.
        #[arg(long, value_parser = checked(org))]
        org: Setting<OrgId>,
        /// How many.
        #[arg(long, value_name = "NUMBER", value_parser = checked(up_to(u32::MAX)))]
        max: Setting<NonZeroU32>,
        /// For how long; then the guard is armed again, even if fewer have come.
        #[arg(long = "for", value_name = "DURATION", default_value = "4h", value_parser = checked(duration(Duration::from_secs(1)..=WEEK)))]
        lasts: Setting<Duration>,
        #[command(flatten)]
        decision: DecisionArgs,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Dead-letter the held commands of an organisation, and arm the guard again.
    Reject {
        /// The organisation.
        #[arg(long, value_parser = checked(org))]
        org: Setting<OrgId>,
        /// Only the commands that were requested by this name; the guard then stays as it is.
        #[arg(long, value_name = "NAME")]
        requested_by: Option<String>,
        #[command(flatten)]
        decision: WhoArgs,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
#[command(
    after_help = "Example: pause --org ORG --reason 'migration, see 4711'. The broker's user needs to read task.delete.ledger and to write task.ledger."
)]
pub(super) struct PauseArgs {
    /// Only this organisation; by default all.
    #[arg(long, value_parser = checked(org))]
    org: Option<Setting<OrgId>>,
    #[command(flatten)]
    decision: DecisionArgs,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
#[command(
    after_help = "Example: resume --org ORG. The broker's user needs to read task.delete.ledger and to write task.ledger."
)]
pub(super) struct ResumeArgs {
    /// Only this organisation; without it, the pause of all ends, and pauses of single
    /// organisations stay.
    #[arg(long, value_parser = checked(org))]
    org: Option<Setting<OrgId>>,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
#[command(
    after_help = "Example: status, with the KINDS and the WAIT_LADDER of the workers. A worker's report is up to a minute old. The broker's
user needs to read task.delete.ledger and to write task.ledger."
)]
pub(super) struct StatusArgs {
    /// JSON, one object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kinds: KindsArgs,
    #[command(flatten)]
    delays: RetryDelayArgs,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Args)]
#[command(
    after_help = "Example: cancel --command-id 0b9f2c6e-4711 --org ORG --reason 'ordered by mistake'
The id is that of the event and of the log: the producer's message_id, or derived. Deleted objects stay deleted. The broker's
user needs to read task.delete.ledger and to write task.ledger."
)]
pub(super) struct CancelArgs {
    /// Id of the command. May be repeated.
    #[arg(long = "command-id", required = true, value_name = "ID", value_parser = checked(command_id))]
    ids: Vec<Setting<String>>,
    /// Lift the cancellation instead: with --org the one that was given with it, otherwise each one
    /// of the id.
    #[arg(long)]
    revoke: bool,
    /// Only if the command is of this organisation: different producers may use the same ids.
    #[arg(long, value_parser = checked(org))]
    org: Option<Setting<OrgId>>,
    #[command(flatten)]
    who: WhoArgs,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// Who decides, and why, if given.
#[derive(Args)]
struct WhoArgs {
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who decides it.
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
}

#[derive(Args)]
struct DecisionArgs {
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides it.
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
}

impl Reader {
    pub(super) fn guard_job(&mut self, args: &GuardArgs) -> Option<LedgerJob> {
        let before = self.problems.len();
        let given = self.take_if(args.kind.as_ref());
        let kind = (self.problems.len() == before).then(|| given.unwrap_or_default());
        Some(match &args.action {
            GuardAction::List { json } => {
                let form = if *json { OutputFormat::Json } else { OutputFormat::Text };
                LedgerJob::List(kind.and(given), form)
            }
            GuardAction::Release { org, max, lasts, decision, yes } => {
                let (org, max, lasts) = (self.take(org), self.take(max), self.take(lasts));
                let (decision, consent) = (self.decision(decision), Some(Self::consent(*yes)));
                let scope = Scope { org_id: org?, kind: kind? };
                let (max, lasts) = (max?.get(), lasts?);
                LedgerJob::Release { scope, max, lasts, decision: decision?, consent: consent? }
            }
            GuardAction::Reject { org, requested_by, decision, yes } => {
                let org = self.take(org);
                let decision = self.decided_by(decision.by.as_ref(), decision.reason.clone());
                let consent = Some(Self::consent(*yes));
                let scope = Scope { org_id: org?, kind: kind? };
                let (decision, consent) = (decision?, consent?);
                let requested_by = requested_by.clone();
                LedgerJob::Reject { scope, requested_by, decision, consent }
            }
        })
    }

    pub(super) fn pause_job(&mut self, args: &PauseArgs) -> Option<LedgerJob> {
        let before = self.problems.len();
        let org = self.take_if(args.org.as_ref());
        let decision = self.decision(&args.decision)?;
        // A wrong id must not pause all organisations.
        (self.problems.len() == before).then_some(LedgerJob::Pause(org, decision))
    }

    pub(super) fn resume_job(&mut self, args: &ResumeArgs) -> Option<LedgerJob> {
        let before = self.problems.len();
        let org = self.take_if(args.org.as_ref());
        let decision = self.decided_by(args.who.by.as_ref(), args.who.reason.clone())?;
        (self.problems.len() == before).then_some(LedgerJob::Resume(org, decision))
    }

    pub(super) fn cancel_job(&mut self, args: &CancelArgs) -> Option<LedgerJob> {
        let before = self.problems.len();
        let org = self.take_if(args.org.as_ref());
        let ids = args.ids.iter().filter_map(|id| self.take(id)).collect();
        let decision = self.decided_by(args.who.by.as_ref(), args.who.reason.clone())?;
        let job = if args.revoke { LedgerJob::Revoke } else { LedgerJob::Cancel };
        (self.problems.len() == before).then(|| job(ids, org, decision))
    }

    pub(super) fn status_job(&mut self, args: &StatusArgs) -> Option<LedgerJob> {
        let kinds = self.take(&args.kinds.kinds);
        let delays = self.take(&args.delays.wait_ladder)?;
        let queues = kinds?.into_iter().flat_map(|kind| {
            let waits = delays.all().iter().map(move |delay| kind.delay_queue(&delay.name()));
            kind.own_queues().into_iter().chain(waits).collect::<Vec<_>>()
        });
        let queues = queues.chain([names::UNROUTED_EVENTS.to_owned()]).collect();
        let form = if args.json { OutputFormat::Json } else { OutputFormat::Text };
        Some(LedgerJob::Status(queues, form))
    }

    fn decision(&mut self, args: &DecisionArgs) -> Option<Decision> {
        self.decided_by(args.by.as_ref(), Some(args.reason.clone()))
    }

    fn decided_by(&mut self, by: Option<&String>, reason: Option<String>) -> Option<Decision> {
        let login = std::env::var("LOGNAME").ok();
        let by = by.or(login.as_ref()).map(|by| by.trim()).filter(|by| !by.is_empty());
        let Some(by) = by else { return self.problem("--by", "is needed: who decides it?") };
        Some(Decision { by: by.to_owned(), reason })
    }

    fn consent(yes: bool) -> Consent {
        if yes { Consent::Given } else { Consent::Ask }
    }
}
