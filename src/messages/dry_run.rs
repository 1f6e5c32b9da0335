//! The event of a dry run: what would have happened to a command. Nothing has happened, so it is
//! not an outcome event and has no `outcome`.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use super::Incoming;
use super::cloud_event::{self, CloudEvent, EventSchema};
use super::command::Target;
use super::event::{End, EndKind, Outcome};
use super::failure_reason::FailureReason;
use super::ids::EventSubject;
use super::publication::Publication;
use crate::kind::Kind;

/// What would have happened to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Would {
    /// It would have ended like this, as far as a look can tell.
    End {
        how: EndKind,
        /// See [`Outcome::verified`].
        is_verified: bool,
    },
    /// It would have become a dead letter.
    DeadLettered(FailureReason),
    /// A look cannot tell, for this reason.
    Unknown(&'static str),
}

impl Would {
    /// The word that events, metrics and logs use.
    pub fn word(self, kind: Kind) -> &'static str {
        let end = |how| End { kind, how }.as_str();
        match self {
            Self::End { how, .. } => end(how),
            Self::DeadLettered(_) => end(EndKind::DeadLettered),
            Self::Unknown(_) => "unknown",
        }
    }
}

/// The `data` of the event, and the line that `delete --dry-run` prints.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DryRun {
    #[serde(skip)]
    pub kind: Kind,
    #[serde(skip)]
    pub how: Would,
    /// Id of the command: its `message_id`, or derived.
    pub command_id: String,
    #[serde(flatten)]
    pub target: Option<Target>,
    /// What it is about, in the event's id.
    #[serde(skip)]
    pub subject: EventSubject,
    /// What would have happened: an outcome of the command's kind, or `unknown`.
    pub would: &'static str,
    /// Why it would have been dead-lettered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<FailureReason>,
    /// Why that is unknown, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Attempts spent, the last one included.
    pub attempts: u32,
    /// `false` where `already_absent` rests on an answer that need not be the API's own.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub verified: bool,
    /// Status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `user_id` that the broker validated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
    /// Milliseconds from this delivery's arrival to its end.
    pub duration_ms: u64,
    /// `X-Request-Id` of the last answer: for the log only.
    #[serde(skip)]
    pub request_id: Option<String>,
}

impl DryRun {
    /// Made from the outcome that would be reported; `last` is the last answer, in words.
    pub fn of(outcome: Outcome, how: Would, last: &str) -> Self {
        let kind = outcome.outcome.kind;
        let (verified, failure_reason, detail) = match how {
            Would::End { is_verified, .. } => (is_verified, None, None),
            Would::DeadLettered(reason) => (true, Some(reason), None),
            Would::Unknown(why) => (true, None, Some(format!("{why}; last answer: {last}"))),
        };
        Self {
            kind,
            how,
            command_id: outcome.command_id,
            target: outcome.target,
            subject: outcome.subject,
            would: how.word(kind),
            failure_reason,
            detail,
            attempts: outcome.attempts,
            verified,
            http_status: outcome.http_status,
            requested_by: outcome.requested_by,
            reason: outcome.reason,
            published_by: outcome.published_by,
            duration_ms: outcome.duration_ms,
            request_id: outcome.request_id,
        }
    }

    /// The event. Its id is derived like that of an outcome event, from its own type.
    pub fn event(&self, incoming: &Incoming, now: Timestamp) -> Publication<'static> {
        let event_type = self.kind.spec().dry_run_event;
        let id = self.subject.event_id(event_type, &self.command_id);
        let subject = self.target.as_ref().map(ToString::to_string);
        let body = CloudEvent::new(event_type, &id, now, self).about(subject).body();
        Publication::event(incoming, event_type, id, body)
    }
}

pub(crate) fn schema() -> Schema {
    cloud_event::schema::<DryRun>(&EventSchema {
        title: "DryRunEvent",
        description: "What would have happened to a command, if it had not been a dry run: a `CloudEvents` 1.0 event in structured JSON.",
        types: &Kind::ALL.map(|kind| kind.spec().dry_run_event),
        subject: Some("`{org_id}/{task_id}`, or the id of another object."),
        supersedes: None,
    })
}
