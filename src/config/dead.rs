//! The command line of `dead`: what operators do with dead letters.

use std::io::{IsTerminal, stdin};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::broker_args::BrokerArgs;
use super::log_args::LogArgs;
use super::read::Reader;
use super::values::{Setting, any_duration, checked, kind, reason, reasons, up_to};
use crate::consent::Consent;
use crate::dead_letters::{Bulk, DeadJob, ExportFile, Selection, Successes};
use crate::kind::Kind;
use crate::table::OutputFormat;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeadArgs {
    /// Kind of the dead letters.
    #[arg(global = true, long, default_value = "task.delete", value_name = "KIND", value_parser = checked(kind))]
    pub(super) kind: Setting<Kind>,
    #[command(subcommand)]
    pub(super) action: Action,
    #[command(flatten)]
    pub(super) broker: BrokerArgs,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

const SELECT: &str =
    "select by --reason, --org, --id, --command-id, --older-than, --newer-than or --superseded-by";
const EXAMPLES: &str = "\
Examples:
  dead list
  dead show --reason rejected --limit 3
  dead replay --reason attempts_exhausted --org ORG --rate 20
  dead discard --superseded-by events.jsonl --to discarded.jsonl --why 'succeeded after all'
  dead discard --reason malformed --to discarded.jsonl --why 'producer fixed, see 4711'
  dead replay --all --limit 100
  dead export --to dead.jsonl
  dead import dead.jsonl
  dead list --kind process.delete

Looking removes nothing. A replayed or discarded dead letter is removed when it is safe elsewhere; a kill in between leaves it
in both places. The broker's user needs to read <kind>.dead (task.delete.dead) and to write amq.default and task.events.";

#[derive(Subcommand)]
pub(super) enum Action {
    /// Count them by reason and organisation.
    List {
        #[command(flatten)]
        selection: SelectionArgs,
        /// JSON, one group per line.
        #[arg(long)]
        json: bool,
    },
    /// Print them in full.
    Show {
        #[command(flatten)]
        selection: SelectionArgs,
        /// JSON, one dead letter per line.
        #[arg(long)]
        json: bool,
        /// How many at most.
        #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = checked(up_to(u32::MAX)))]
        limit: Setting<NonZeroU32>,
    },
    /// Put them back on the work queue; attempts and age start again.
    Replay {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        all: AllArgs,
        #[command(flatten)]
        bulk: BulkArgs,
    },
    /// Write them to a file, then remove them.
    Discard {
        #[command(flatten)]
        selection: SelectionArgs,
        #[command(flatten)]
        all: AllArgs,
        #[command(flatten)]
        bulk: BulkArgs,
        /// File to which they are appended, as JSON lines.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Why they may be removed.
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Write them as JSON lines; all stay.
    Export {
        #[command(flatten)]
        selection: SelectionArgs,
        /// New file to write to; by default standard output.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Append to the file if it already exists.
        #[arg(long, requires = "to")]
        append: bool,
        /// How many at most.
        #[arg(long, value_name = "NUMBER", value_parser = checked(up_to(u32::MAX)))]
        limit: Option<Setting<NonZeroU32>>,
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
        help = format!("Failure reason: {}", reasons()),
        value_parser = checked(reason)
    )]
    reason: Option<Setting<String>>,
    /// Of this organisation.
    #[arg(long, help_heading = "Which dead letters")]
    org: Option<String>,
    /// About the task, process, tag or file with this id.
    #[arg(long, visible_alias = "task", help_heading = "Which dead letters")]
    id: Option<String>,
    /// The command with this id.
    #[arg(long, value_name = "ID", help_heading = "Which dead letters")]
    command_id: Option<String>,
    /// Failed longer ago than this.
    #[arg(long, value_name = "DURATION", help_heading = "Which dead letters", value_parser = checked(any_duration))]
    older_than: Option<Setting<Duration>>,
    /// Failed no longer ago than this.
    #[arg(long, value_name = "DURATION", help_heading = "Which dead letters", value_parser = checked(any_duration))]
    newer_than: Option<Setting<Duration>>,
    /// Superseded: their command has succeeded since, according to a line of this file. Each is an
    /// event, as published, or the id of one, or a record of a call, as `audit --json` prints it.
    #[arg(long, value_name = "FILE", help_heading = "Which dead letters")]
    superseded_by: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct AllArgs {
    /// All dead letters of the kind: needed if nothing else selects them.
    #[arg(long, help_heading = "Which dead letters")]
    all: bool,
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
    #[arg(long, value_name = "NUMBER", value_parser = checked(up_to(u32::MAX)))]
    limit: Option<Setting<NonZeroU32>>,
    /// How many per second at most.
    #[arg(long, value_name = "NUMBER", value_parser = checked(up_to(1_000_000)))]
    rate: Option<Setting<NonZeroU32>>,
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
        Action::Export { selection, to, append, limit } => {
            let (selection, limit) = (reader.selection(&selection), reader.limit(limit.as_ref()));
            let file = to.map(|path| ExportFile { path, may_exist: append });
            DeadJob::Export(selection?, file, limit)
        }
        Action::Import { file, bulk } => {
            let from_input = file.as_os_str() == "-";
            DeadJob::Import((!from_input).then_some(file), reader.bulk(&bulk, from_input)?)
        }
        Action::Replay { selection, all, bulk } => {
            let selection = reader.narrow_selection(&selection, &all);
            let bulk = reader.bulk(&bulk, false);
            DeadJob::Replay(selection?, bulk?)
        }
        Action::Discard { selection, all, bulk, to, why } => {
            let selection = reader.narrow_selection(&selection, &all);
            let bulk = reader.bulk(&bulk, false);
            DeadJob::Discard(selection?, bulk?, to, why)
        }
    })
}

fn form(json: bool) -> OutputFormat {
    if json { OutputFormat::Json } else { OutputFormat::Text }
}

impl Reader {
    fn selection(&mut self, args: &SelectionArgs) -> Option<Selection> {
        let before = self.problems.len();
        let SelectionArgs { reason, org, id, command_id, older_than, newer_than, superseded_by } =
            args;
        let selection = Selection {
            reason: self.take_if(reason.as_ref()),
            org: org.clone(),
            id: id.clone(),
            command_id: command_id.clone(),
            older_than: self.take_if(older_than.as_ref()),
            newer_than: self.take_if(newer_than.as_ref()),
            event_ids: None,
            superseded_by: superseded_by.as_deref().and_then(|file| self.successes(file)),
        };
        // A selection without its wrong member would match more dead letters than were meant.
        (self.problems.len() == before).then_some(selection)
    }

    fn successes(&mut self, file: &Path) -> Option<Successes> {
        let name = "--superseded-by";
        match std::fs::read_to_string(file) {
            Ok(text) => Successes::read(file.to_owned(), &text)
                .map_err(|line| {
                    format!("line {line} of {} is neither an event, nor the id of one, nor a record of a call (audit --json)", file.display())
                })
                .map_or_else(|error| self.problem(name, error), Some),
            Err(error) => self.problem(name, format!("cannot read {}: {error}", file.display())),
        }
    }

    /// # A forgotten flag removes nothing
    ///
    /// An empty selection would match every dead letter. An operator who means all of them has to
    /// say so.
    fn narrow_selection(&mut self, args: &SelectionArgs, all: &AllArgs) -> Option<Selection> {
        let selection = self.selection(args)?;
        match (selection == Selection::default(), all.all) {
            (true, false) => self.problem("--all", format!("is needed to mean all; else {SELECT}")),
            (false, true) => self.problem("--all", format!("means all, so do not {SELECT}")),
            _ => Some(selection),
        }
    }

    fn limit(&mut self, limit: Option<&Setting<NonZeroU32>>) -> Option<usize> {
        self.take_if(limit).map(|limit| limit.get() as usize)
    }

    fn bulk(&mut self, args: &BulkArgs, input_is_taken: bool) -> Option<Bulk> {
        let limit = self.limit(args.limit.as_ref());
        let rate = self.take_if(args.rate.as_ref());
        let (consent, by) = self.agreed(args, input_is_taken)?;
        Some(Bulk { limit, rate, consent, by })
    }

    fn agreed(&mut self, args: &BulkArgs, input_is_taken: bool) -> Option<(Consent, String)> {
        let consent = if args.yes { Consent::Given } else { Consent::Ask };
        if consent == Consent::Ask && (input_is_taken || !stdin().is_terminal()) {
            return self.problem("--yes", "is needed if there is no terminal to ask at");
        }
        match args.by.as_deref().map(str::trim).filter(|by| !by.is_empty()) {
            Some(by) => Some((consent, by.to_owned())),
            None => self.problem("--by", "is needed: who does it?"),
        }
    }
}
