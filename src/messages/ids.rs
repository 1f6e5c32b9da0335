//! Derived ids, which come out the same each time: of a command without an id, and of the events of
//! its end.

use sha1::{Digest, Sha1};

use super::command::{Command, MAX_BODY_BYTES, Target};
use super::derived_id::derived;
use crate::kind::Kind;

/// The id of a command: its `message_id`; otherwise derived from its target; if it could not be
/// read, from its kind and body.
pub(super) fn command_id(
    kind: Kind,
    message_id: Option<&str>,
    command: Option<&Command>,
    body: &[u8],
) -> String {
    match (message_id, command) {
        (Some(id), _) => id.to_owned(),
        (None, Some(command)) => command.derived_id(),
        (None, None) => body_id(kind, body),
    }
}

/// An id of a body that could not be read.
fn body_id(kind: Kind, body: &[u8]) -> String {
    let kind = match kind {
        // As it was when this was the only kind.
        Kind::TaskDelete => "",
        kind => kind.as_str(),
    };
    derived(&[kind.as_bytes(), body]).to_string()
}

/// What a command is about, in the ids of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSubject(String);

impl EventSubject {
    /// Its target; if it could not be read, its body.
    pub(crate) fn of(kind: Kind, command: Option<&Command>, body: &[u8]) -> Self {
        Self(command.map_or_else(|| body_id(kind, body), |command| command.target.to_string()))
    }

    /// The id of an event about a command, derived from the event's type, the subject and the
    /// command's id.
    pub(super) fn event_id(&self, event_type: &str, command_id: &str) -> String {
        derived(&[event_type, "/", &self.0, "/", command_id].map(str::as_bytes)).to_string()
    }
}

impl From<&Target> for EventSubject {
    fn from(target: &Target) -> Self {
        Self(target.to_string())
    }
}

/// Ids of the two events that a command can end with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventIds {
    /// It was dead-lettered.
    pub failure: String,
    /// It succeeded: supersedes the other one.
    pub success: String,
}

impl EventIds {
    /// Of the command with this message id and body. For a body that is too large a worker has only
    /// the SHA-1.
    pub(crate) fn of(kind: Kind, message_id: Option<&str>, body: &[u8]) -> Self {
        let command = Command::decode(kind, body).ok();
        let digest = (body.len() > MAX_BODY_BYTES).then(|| <[u8; 20]>::from(Sha1::digest(body)));
        let body = digest.as_ref().map_or(body, |digest| digest);
        let command_id = command_id(kind, message_id, command.as_ref(), body);
        Self::about(kind, &EventSubject::of(kind, command.as_ref(), body), &command_id)
    }

    /// Of the command with this id.
    pub(super) fn about(kind: Kind, subject: &EventSubject, command_id: &str) -> Self {
        let id = |event_type| subject.event_id(event_type, command_id);
        let spec = kind.spec();
        Self { failure: id(spec.failed_event), success: id(spec.done_event) }
    }
}
