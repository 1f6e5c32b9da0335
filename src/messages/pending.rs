//! The event that reports an archived task, which will be deleted when its undo window ends.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use super::cloud_event::{self, CloudEvent, EventSchema};
use super::ids::EventSubject;
use super::publication::Publication;
use super::{Incoming, Outcome, Target, names, time};

/// What the event tells.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Pending {
    /// Id of the command: its `message_id`, or derived.
    pub command_id: String,
    #[serde(flatten)]
    pub target: Option<Target>,
    /// What it is about, in the event's id.
    #[serde(skip)]
    pub subject: EventSubject,
    /// When it is deleted, unless somebody restores it before.
    #[schemars(extend("format" = "date-time"))]
    pub purge_at: String,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// From the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `user_id` that the broker validated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
}

impl Pending {
    /// Made from the outcome that would be reported.
    pub fn of(outcome: Outcome, purge_at: Timestamp) -> Self {
        Self {
            command_id: outcome.command_id,
            target: outcome.target,
            subject: outcome.subject,
            purge_at: time::text(purge_at),
            requested_by: outcome.requested_by,
            reason: outcome.reason,
            published_by: outcome.published_by,
        }
    }

    /// The event. Its id is derived like that of an outcome event, from its own type.
    pub fn event(&self, incoming: &Incoming, now: Timestamp) -> Publication<'static> {
        let event_type = names::PENDING_EVENT;
        let id = self.subject.event_id(event_type, &self.command_id);
        let subject = self.target.as_ref().map(ToString::to_string);
        let body = CloudEvent::new(event_type, &id, now, self).about(subject).body();
        Publication::event(incoming, event_type, id, body)
    }
}

pub(crate) fn schema() -> Schema {
    cloud_event::schema::<Pending>(&EventSchema {
        title: "PendingEvent",
        description: "A task is archived, and will be deleted when its undo window ends: a `CloudEvents` 1.0 event in structured JSON.",
        types: &[names::PENDING_EVENT],
        subject: Some("`{org_id}/{task_id}`."),
        supersedes: None,
    })
}
