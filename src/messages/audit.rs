//! What operators did with dead letters, as a `CloudEvents` event: who, what, how many, and why.

use jiff::Timestamp;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::command::ID_NAMESPACE;
use super::publication::Publication;
use super::{names, time};
use crate::kind::Kind;

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
    pub event_type: &'static str,
    /// Kind of the commands whose dead letters were meant.
    pub kind: Kind,
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

/// The event.
#[derive(Serialize, JsonSchema)]
struct AuditEvent<'a> {
    specversion: &'a str,
    /// The same for a repeat of the same event.
    id: &'a str,
    source: &'a str,
    /// What was done: `task.dead_letters.replayed`, `.discarded` or `.imported`.
    #[serde(rename = "type")]
    event_type: &'a str,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    datacontenttype: &'a str,
    data: &'a Audit,
}

/// The JSON Schema of the event.
pub fn schema() -> Schema {
    SchemaSettings::default()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<AuditEvent<'_>>()
}

impl Audit {
    /// The event. `began` makes its id.
    pub fn event(&self, began: Timestamp, now: Timestamp) -> Publication<'static> {
        let name = match self.phase {
            Phase::Begun => format!("{}/{}/{began}/begun", self.event_type, self.by),
            Phase::Ended => format!("{}/{}/{began}", self.event_type, self.by),
        };
        let id = Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string();
        let event = AuditEvent {
            specversion: "1.0",
            id: &id,
            source: names::SOURCE,
            event_type: self.event_type,
            time: time::text(now),
            datacontenttype: "application/json",
            data: self,
        };
        // Every member can be written as JSON.
        let body = serde_json::to_vec(&event).unwrap_or_default();
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
