//! What operators did with dead letters, as a `CloudEvents` event: who, what, how many, and why.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::command::ID_NAMESPACE;
use super::names;
use super::publication::Publication;

/// Each action has two events, so that one that is killed has left a trace, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Agreed to; nothing has been done yet.
    Begun,
    /// Done, as far as it went.
    Ended,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
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
    /// Which letters were meant.
    pub selection: Value,
    /// How many letters it was done with.
    pub letters: usize,
    /// It was cut short: by a signal, or by a failure.
    pub interrupted: bool,
}

impl Audit {
    /// The event. `began` makes its id.
    pub fn event(&self, began: Timestamp, now: Timestamp) -> Publication {
        let name = match self.phase {
            Phase::Begun => format!("{}/{}/{began}/begun", self.kind, self.by),
            Phase::Ended => format!("{}/{}/{began}", self.kind, self.by),
        };
        let id = Uuid::new_v5(&ID_NAMESPACE, name.as_bytes()).to_string();
        let body = json!({
            "specversion": "1.0", "id": id, "source": names::SOURCE, "type": self.kind,
            "time": format!("{now:.3}"), "datacontenttype": "application/json", "data": self,
        });
        Publication {
            exchange: names::EVENTS_EXCHANGE,
            routing_key: self.kind.to_owned(),
            body: body.to_string().into_bytes(),
            message_id: Some(id),
            correlation_id: None,
            content_type: Some(names::EVENT_CONTENT_TYPE.to_owned()),
            headers: Vec::new(),
        }
    }
}
