//! What operators did with dead letters, as a `CloudEvents` event: who, what, how many, and why.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::cloud_event::{self, CloudEvent, EventSchema};
use super::derived_id::derived;
use super::names;
use super::publication::Publication;
use crate::kind::Kind;

/// Each action has two events, so that one that is killed has left a trace, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Agreed to; nothing has been done yet.
    Begun,
    /// Done, as far as it went.
    Ended,
}

/// What was done.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Audit {
    /// Whether it begins or has ended.
    pub phase: Phase,
    /// CloudEvents `type` and routing key.
    #[serde(skip)]
    pub event_type: &'static str,
    /// Kind of the commands that were meant.
    pub kind: Kind,
    /// Who did it.
    pub by: String,
    /// Why, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which ones were meant: those that fit all its members.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub selection: Value,
    /// How many it was done with.
    #[serde(rename = "letters")]
    pub dead_letters: usize,
    /// It was cut short: by a signal, or by a failure.
    pub interrupted: bool,
}

pub(crate) fn schema() -> Schema {
    cloud_event::schema::<Audit>(&EventSchema {
        title: "AuditEvent",
        description: "What an operator did with dead letters or held commands: a `CloudEvents` 1.0 event in structured JSON.",
        types: &[
            names::REPLAYED_EVENT,
            names::DISCARDED_EVENT,
            names::IMPORTED_EVENT,
            names::RELEASED_EVENT,
            names::REJECTED_EVENT,
        ],
        subject: None,
        supersedes: None,
    })
}

impl Audit {
    /// The event. `began` makes its id.
    pub(crate) fn event(&self, began: Timestamp, now: Timestamp) -> Publication<'static> {
        let name = match self.phase {
            Phase::Begun => format!("{}/{}/{began}/begun", self.event_type, self.by),
            Phase::Ended => format!("{}/{}/{began}", self.event_type, self.by),
        };
        let id = derived(&[name.as_bytes()]).to_string();
        let body = CloudEvent::new(self.event_type, &id, now, self).body();
        Publication {
            exchange: names::EVENTS_EXCHANGE,
            routing_key: self.event_type.to_owned(),
            body: body.into(),
            message_id: Some(id),
            correlation_id: None,
            content_type: Some(names::EVENT_CONTENT_TYPE.to_owned()),
            headers: Vec::new(),
        }
    }
}
