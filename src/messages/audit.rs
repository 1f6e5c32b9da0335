//! What operators did with dead letters, as a `CloudEvents` event: who, what, how many, and why.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::command::ID_NAMESPACE;
use super::names;
use super::publication::Publication;

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
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
        let name = format!("{}/{}/{began}", self.kind, self.by);
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
