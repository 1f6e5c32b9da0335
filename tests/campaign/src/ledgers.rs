//! What each party of a campaign has written down, as plain data. Nobody here asks the worker.

use std::collections::BTreeMap;

use tallyfy_delete_worker::kind::Kind;

/// What a command must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The kind's word for success, or `already_absent`; and the object is gone, or archived.
    Done,
    /// A dead letter for this reason, and no call at all where it is refused before one.
    DeadLetter(&'static str),
    /// The API refuses the first call and carries out the second: a dead letter, unless the command
    /// is delivered again or its first answer is lost; then a success, which supersedes the dead
    /// letter if there is one.
    RefusedOnce,
}

/// A command of the plan, and what its producer knows of it.
#[derive(Debug, Clone)]
pub(crate) struct Command {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) org: String,
    /// The id of the task, process, tag or file.
    pub(crate) object: String,
    pub(crate) expected: Expected,
    /// Times that it was sent.
    pub(crate) attempted: u32,
    /// Times that the broker confirmed it.
    pub(crate) acknowledged: u32,
    /// When the broker confirmed it first.
    pub(crate) published_ms: Option<i64>,
}

/// An outcome event, as a consumer that is not ours to trust saw it.
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
    /// Of a success: id of the failure event that does not hold beside it.
    pub(crate) supersedes: Option<String>,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// When the witness saw it.
    pub(crate) at_ms: i64,
    pub(crate) command_id: String,
    /// Empty: the broker put it there, for its delivery limit.
    pub(crate) reason: String,
}

/// A call as the API saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) at_ms: i64,
    pub(crate) path: String,
    /// The kind whose call it is, if it deletes or archives.
    pub(crate) kind: Option<Kind>,
    /// Asks whether the token reaches the organisation.
    pub(crate) is_list_of_tasks: bool,
    pub(crate) org: String,
    pub(crate) object: String,
    /// The object is gone by this call, or archived.
    pub(crate) did_it: bool,
    /// The `Retry-After` of its answer.
    pub(crate) retry_after_ms: Option<i64>,
}

/// Something that befell a worker, the broker or the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blow {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    pub(crate) family: &'static str,
    /// The one organisation that it befell; without one it befell all.
    pub(crate) org: Option<&'static str>,
    /// Nothing of that organisation can be served meanwhile.
    pub(crate) stops: bool,
    /// A worker may have forgotten, or never have learned, what it was told meanwhile.
    pub(crate) hides: bool,
    pub(crate) what: String,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    pub(crate) commands: Vec<Command>,
    pub(crate) events: Vec<Event>,
    pub(crate) dead_letters: Vec<DeadLetter>,
    pub(crate) calls: Vec<Call>,
    pub(crate) journal: Vec<Blow>,
    /// Objects that were there at the beginning, as `org/id`.
    pub(crate) were_there: std::collections::HashSet<String>,
    /// Messages left in the queues.
    pub(crate) left: BTreeMap<String, u32>,
    /// Where a token was found.
    pub(crate) leaks: Vec<String>,
    /// Ends of processes that nobody asked for.
    pub(crate) bad_exits: Vec<String>,
}
