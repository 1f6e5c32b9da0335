//! What operators did with dead letters, as a `CloudEvents` event: who, what, how many, and why.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::cloud_event::{self, CloudEvent, Description};
use super::command::ID_NAMESPACE;
use super::names;
use super::publication::Publication;

/// Each action has two events, so that one that is killed has left a trace, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Agreed to; nothing has been done yet.
    Begun,
    /// Done, as far as it went.
    Ended,
}

/// What was done.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Audit {
    /// Whether it begins or has ended.
    pub phase: Phase,
    /// CloudEvents `type` and routing key.
    #[serde(skip)]
    pub kind: &'static str,
    /// Who did it.
    pub by: String,
    /// Why, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Which dead letters were meant: those that fit all its members.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub selection: Value,
    /// How many dead letters it was done with.
    pub letters: usize,
    /// It was cut short: by a signal, or by a failure.
    pub interrupted: bool,
}

/// The JSON Schema of the event.
pub fn schema() -> Schema {
    cloud_event::schema::<Audit>(&Description {
        title: "AuditEvent",
        description: "What an operator did with dead letters: a `CloudEvents` 1.0 event in structured JSON.",
        types: &[names::REPLAYED_EVENT, names::DISCARDED_EVENT, names::IMPORTED_EVENT],
        subject: None,
    })
}

impl Audit {
    /// The event. `began` makes its id.
    pub fn event(&self, began: Timestamp, now: Timestamp) -> Publication<'static> {
        let name = match self.phase {
            Phase::Begun => format!("{}/{}/{began}/begun", self.kind, self.by),
            Phase::Ended => format!("{}/{}/{began}", self.kind, self.by),
        };
        let id = Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string();
        let body = CloudEvent::new(self.kind, &id, now, self).body();
        Publication {
            exchange: names::EVENTS_EXCHANGE,
            routing_key: self.kind.to_owned(),
            body: body.into(),
            message_id: Some(id),
            correlation_id: None,
            content_type: Some(names::EVENT_CONTENT_TYPE.to_owned()),
            headers: Vec::new(),
        }
    }
}
