//! The command line of `dead`: what operators do with dead letters.

use std::io::{IsTerminal, stdin};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::{BrokerArgs, LogArgs};
use super::read::Reader;
use crate::dead_letters::{Bulk, Consent, DeadJob, OutputFormat, Selection};
use crate::messages::FailureReason;
use crate::messages::names::POISON;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeadArgs {
    /// Kind of the commands whose dead letters are meant.
    #[arg(global = true, long, default_value = "task.delete", value_name = "KIND")]
    pub(super) kind: String,
    #[command(subcommand)]
    pub(super) action: Action,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  dead list
  dead show --reason rejected --limit 3
  dead replay --reason attempts_exhausted --org ORG --rate 20
  dead discard --reason malformed --to discarded.jsonl --why 'producer fixed, see 4711'
  dead export --to dead.jsonl
  dead import dead.jsonl
  dead list --kind process.delete

Nothing is removed by looking. What is replayed or discarded is removed when it is safe elsewhere; a kill in between leaves it
in both places. The broker's user needs to read <kind>.dead (task.delete.dead) and to write amq.default and task.events.";

#[derive(Subcommand)]
pub(super) enum Action {
    /// Count them by reason and organisation.
    List {
        #[command(flatten)]
        selection: SelectionArgs,
        /// JSON, one group a line.
        #[arg(long)]
        json: bool,
    },
    /// Print them whole.
    Show {
        #[command(flatten)]
        selection: SelectionArgs,
        /// JSON, one dead letter a line.
        #[arg(long)]
        json: bool,
        /// How many at most.
        #[arg(long, value_name = "NUMBER", default_value = "10")]
        limit: String,
    },
    /// Put them back on the work queue; attempts and age start again.
    Replay {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        bulk: BulkArgs,
    },
    /// Write them to a file, then remove them.
    Discard {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        bulk: BulkArgs,
        /// File that they are added to, as JSON lines.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Why they may go.
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Write them as JSON lines; all stay.
    Export {
        #[command(flatten)]
        selection: SelectionArgs,
        /// File that they are added to; without one, standard output.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// How many at most.
        #[arg(long, value_name = "NUMBER")]
        limit: Option<String>,
    },
    /// Put exported (or discarded) ones back among the dead letters.
    Import {
        /// The file; - for standard input.
        file: PathBuf,
        #[command(flatten)]
        bulk: BulkArgs,
    },
}

#[derive(Args)]
pub(super) struct SelectionArgs {
    #[arg(
        long,
        help_heading = "Which dead letters",
        help = "Died of this: malformed, org_not_allowed, expired, forbidden, rejected, attempts_exhausted, not_found, not_found_or_not_archived or poison"
    )]
    reason: Option<String>,
    /// Of this organisation.
    #[arg(long, help_heading = "Which dead letters")]
    org: Option<String>,
    /// About the task, process, tag or file with this id.
    #[arg(long, visible_alias = "task", help_heading = "Which dead letters")]
    id: Option<String>,
    /// The command with this id.
    #[arg(long, value_name = "ID", help_heading = "Which dead letters")]
    command_id: Option<String>,
    /// Died longer ago than this.
    #[arg(long, value_name = "DURATION", help_heading = "Which dead letters")]
    older_than: Option<String>,
    /// Died not longer ago than this.
    #[arg(long, value_name = "DURATION", help_heading = "Which dead letters")]
    newer_than: Option<String>,
}

#[derive(Args)]
pub(super) struct BulkArgs {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Who does it, for the audit event.
    #[arg(long, env = "USER", value_name = "NAME")]
    by: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<String>,
    /// How many a second at most.
    #[arg(long, value_name = "NUMBER")]
    rate: Option<String>,
}

pub(super) fn job(reader: &mut Reader, action: Action) -> Option<DeadJob> {
    Some(match action {
        Action::List { selection, json } => {
            DeadJob::List(reader.selection(&selection)?, form(json))
        }
        Action::Show { selection, json, limit } => {
            let (selection, limit) = (reader.selection(&selection), reader.limit(Some(&limit)));
            DeadJob::Show(selection?, form(json), limit)
        }
        Action::Export { selection, to, limit } => {
            let (selection, limit) = (reader.selection(&selection), reader.limit(limit.as_deref()));
            DeadJob::Export(selection?, to, limit)
        }
        Action::Import { file, bulk } => {
            let from_input = file.as_os_str() == "-";
            DeadJob::Import((!from_input).then_some(file), reader.bulk(&bulk, from_input)?)
        }
        Action::Replay { selection, bulk } => {
            let (selection, bulk) = (reader.selection(&selection), reader.bulk(&bulk, false));
            DeadJob::Replay(selection?, bulk?)
        }
        Action::Discard { selection, bulk, to, why } => {
            let (selection, bulk) = (reader.selection(&selection), reader.bulk(&bulk, false));
            DeadJob::Discard(selection?, bulk?, to, why)
        }
    })
}

fn form(json: bool) -> OutputFormat {
    if json { OutputFormat::Json } else { OutputFormat::Text }
}

impl Reader {
    fn selection(&mut self, args: &SelectionArgs) -> Option<Selection> {
        let known = FailureReason::ALL.map(FailureReason::as_str);
        if let Some(reason) = &args.reason
            && !known.contains(&reason.as_str())
            && reason != POISON
        {
            return self.problem(
                "--reason",
                format!("takes {} or {POISON}, not {reason:?}", known.join(", ")),
            );
        }
        let mut age = |name: &str, text: &Option<String>| {
            text.as_ref().map(|text| {
                self.duration(name, text, std::time::Duration::ZERO..=std::time::Duration::MAX)
            })
        };
        let (older_than, newer_than) =
            (age("--older-than", &args.older_than), age("--newer-than", &args.newer_than));
        let SelectionArgs { reason, org, id, command_id, .. } = args;
        Some(Selection {
            reason: reason.clone(),
            org: org.clone(),
            id: id.clone(),
            command_id: command_id.clone(),
            older_than: older_than.flatten(),
            newer_than: newer_than.flatten(),
        })
    }

    fn limit(&mut self, text: Option<&str>) -> Option<usize> {
        self.number("--limit", text?, 1..=u32::MAX).map(|limit| limit as usize)
    }

    fn bulk(&mut self, args: &BulkArgs, input_is_taken: bool) -> Option<Bulk> {
        let limit = self.limit(args.limit.as_deref());
        let rate = args.rate.as_deref().and_then(|text| self.number("--rate", text, 1..=1_000_000));
        let (consent, by) = self.agreed(args, input_is_taken)?;
        Some(Bulk { limit, rate: rate.and_then(NonZeroU32::new), consent, by })
    }

    fn agreed(&mut self, args: &BulkArgs, input_is_taken: bool) -> Option<(Consent, String)> {
        let consent = if args.yes { Consent::Given } else { Consent::Ask };
        if consent == Consent::Ask && (input_is_taken || !stdin().is_terminal()) {
            return self.problem("--yes", "is needed where nobody can be asked");
        }
        match args.by.as_deref().map(str::trim).filter(|by| !by.is_empty()) {
            Some(by) => Some((consent, by.to_owned())),
            None => self.problem("--by", "is needed: who does it?"),
        }
    }
}
