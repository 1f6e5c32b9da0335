//! What operators do with dead letters: look, replay, discard, export, import. Safe to interrupt at
//! any moment.

mod actions;
mod agreed;
mod audit_trail;
mod bulk;
mod lines;
mod look;
mod pace;
mod print;
mod queue;
mod selection;
mod session;

use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;

use thiserror::Error;

pub use actions::run;
pub use agreed::{Agreed, Change, carry_out, export_line, look};
pub use pace::Progress;
pub use selection::{Group, Groups, Selection, Successes};

use crate::consent::Consent;
use crate::rabbitmq::{BrokerError, PublishError};
use crate::table::OutputFormat;

#[derive(Debug, Clone)]
pub enum DeadJob {
    /// Count them by reason and organisation.
    List(Selection, OutputFormat),
    /// Print them whole.
    Show(Selection, OutputFormat, Limit),
    /// Write them as JSON lines, to standard output if no file is given.
    Export(Selection, Option<ExportFile>, Limit),
    /// Put exported ones back among the dead letters, from standard input if no file is given.
    Import(Option<PathBuf>, Bulk),
    /// Put them back on the work queue.
    Replay(Selection, Bulk),
    /// Write them to a file and remove them.
    Discard(Selection, Bulk, PathBuf, String),
}

/// How many at most.
pub type Limit = Option<usize>;

/// What all bulk actions take.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// How many at most.
    pub limit: Limit,
    /// How many a second at most.
    pub rate: Option<NonZeroU32>,
    /// Whether to ask.
    pub consent: Consent,
    pub by: String,
}

/// Where an export goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFile {
    pub path: PathBuf,
    /// Whether the file may already exist.
    pub may_exist: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionResult {
    /// All of it.
    Completed,
    /// A signal or the operator's no came first.
    Interrupted,
}

/// Why a job failed.
#[derive(Debug, Error)]
pub enum DeadLettersError {
    /// The broker cannot be reached, or the dead letters cannot be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Looking at dead letters might lose them.
    #[error(
        "this user may not publish to the default exchange, so dead letters that are looked at often could not be kept: \
         let it write '^(amq\\.default|task\\.events)$'; docs/deploying.md has the whole command"
    )]
    MayNotCopy,
    /// As [`DeadLettersError::MayNotCopy`], for as long as an alarm lasts.
    #[error(
        "RabbitMQ is blocking publishers (`rabbitmqctl status` shows alarms for memory and disk): try again when the alarm has ended"
    )]
    Blocked,
    /// A dead letter that was requeued often could not be copied.
    #[error(
        "a dead letter that went back {returns} times cannot be copied: {source}; RabbitMQ 4.0 to 4.2 drops it after 20, so do not \
         look again before that is fixed"
    )]
    Copy { returns: u32, source: PublishError },
    /// A dead letter was not published; it stays in its queue.
    #[error(
        "cannot publish to {to}: {source}; whatever was not published is still in its place: among the dead letters, or in the file of an import"
    )]
    Publish { to: String, source: PublishError },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    /// The file of an export already exists.
    #[error("{path} is there already; --append adds to it, another name keeps the two apart")]
    FileExists { path: PathBuf },
    #[error("standard output: {0}")]
    Output(io::Error),
    /// A line of an import is not a dead letter.
    #[error("line {number} is not an exported dead letter: {why}; nothing has been imported")]
    Line {
        /// From 1.
        number: usize,
        why: String,
    },
}
