//! The records of each party of a campaign, as plain data. None of them comes from the worker
//! itself.

use std::collections::BTreeMap;

use tallyfy_delete_worker::kind::Kind;

/// The expected end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The kind's word for success, or `already_absent`; and the object is deleted or archived.
    Done,
    /// A dead letter for this reason, and no call if it is refused before one.
    DeadLetter(&'static str),
    /// The API refuses the first call and carries out the second: a dead letter, unless the command
    /// is delivered again or its first answer is lost; then a success, which supersedes the dead
    /// letter if there is one.
    RefusedOnce,
    /// As [`Expected::Done`], or a dead letter because an operator rejected it.
    MayBeRejected,
    /// Cancelled, and no other end: its task was restored in time, or it was cancelled before any
    /// call.
    Cancelled,
    /// As [`Expected::Done`], or cancelled.
    MayBeCancelled,
}

/// A command of the plan, and what its producer knows about it.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) org: String,
    /// The id of the task, process, tag or file.
    pub(crate) object: String,
    pub(crate) expected: Expected,
    /// How many times it was sent.
    pub(crate) attempted: u32,
    /// How many times the broker confirmed it.
    pub(crate) acknowledged: u32,
    /// When the broker confirmed it first.
    pub(crate) published_ms: Option<i64>,
}

/// An outcome event, as an independent consumer saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// When the witness saw it.
    pub(crate) at_ms: i64,
    pub(crate) id: String,
    pub(crate) command_id: String,
    pub(crate) org: String,
    pub(crate) object: String,
    pub(crate) outcome: String,
    pub(crate) reason: String,
    /// In a success: the id of the failure event that it supersedes.
    pub(crate) supersedes: Option<String>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// When the witness saw it.
    pub(crate) at_ms: i64,
    pub(crate) command_id: String,
    /// Empty: the broker put it there because of its delivery limit.
    pub(crate) reason: String,
}

/// A call as the API saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) at_ms: i64,
    pub(crate) path: String,
    /// The kind whose call it is, if it deletes or archives.
    pub(crate) kind: Option<Kind>,
    /// Its purpose, if it is not destructive.
    pub(crate) harmless: Option<Harmless>,
    pub(crate) org: String,
    pub(crate) object: String,
    /// This call deleted, archived or restored the object.
    pub(crate) did_it: bool,
    /// The `Retry-After` of its answer.
    pub(crate) retry_after_ms: Option<i64>,
}

/// A call that is not destructive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harmless {
    /// Asks whether the token reaches the organisation.
    Lists,
    /// Looks at a task before it is deleted.
    Looks,
    /// Restores an archived task.
    Restores,
}

/// The event that a task is archived and will be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) org: String,
    pub(crate) object: String,
    pub(crate) purge_at_ms: i64,
}

/// What an operator saw and decided, by its own clock.
#[derive(Debug, Default, Clone)]
pub(crate) struct Decisions {
    /// The guard's limit, and how many workers share it.
    pub(crate) limit: usize,
    pub(crate) workers: usize,
    pub(crate) undo_window_ms: i64,
    /// For the flooded organisation: each release that was begun, whatever its result.
    pub(crate) grants: Vec<usize>,
    /// The output of `guard list`.
    pub(crate) listings: Vec<Listing>,
    pub(crate) pauses: Vec<Pause>,
    pub(crate) cancels: Vec<Cancel>,
    /// How many restored tasks the API has confirmed, by `undo` and by hand.
    pub(crate) by_undo: usize,
    pub(crate) by_hand: usize,
    /// Commands that were held although nothing had tripped, and were released.
    pub(crate) released_as_gone: usize,
}

/// One organisation of a `guard list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) at_ms: i64,
    pub(crate) org: String,
    pub(crate) held: usize,
    pub(crate) is_tripped: bool,
    /// Some of the held commands' tasks.
    pub(crate) samples: Vec<String>,
}

/// One organisation was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// When `pause` had ended.
    pub(crate) from_ms: i64,
    /// When `resume` began.
    pub(crate) to_ms: i64,
}

/// A command was cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cancel {
    pub(crate) command_id: String,
    /// When `cancel` had ended.
    pub(crate) at_ms: i64,
}

/// A fault of a worker, the broker, the network or the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InjectedFault {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    pub(crate) family: &'static str,
    /// The one organisation that it affected; `None` if it affected all.
    pub(crate) org: Option<&'static str>,
    /// No command of that organisation can be served meanwhile.
    pub(crate) stops: bool,
    /// A worker may have lost, or never received, what was sent to it meanwhile.
    pub(crate) hides: bool,
    pub(crate) what: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) commands: Vec<Command>,
    pub(crate) events: Vec<Event>,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) pending: Vec<Pending>,
    /// In the order in which they came.
    pub(crate) calls: Vec<Call>,
    /// Only in a campaign with an operator.
    pub(crate) decisions: Option<Decisions>,
    pub(crate) journal: Vec<InjectedFault>,
    /// Objects that were there at the beginning, as `org/id`.
    pub(crate) were_there: std::collections::HashSet<String>,
    /// Messages left in the queues.
    pub(crate) left: BTreeMap<String, u32>,
    /// Where a token was found.
    pub(crate) leaks: Vec<String>,
    /// Ends of processes that nobody asked for.
    pub(crate) unexpected_exits: Vec<String>,
}
