//! The event that reports a tripped guard: from now on the commands of an organisation and kind are
//! held.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use super::cloud_event::{self, CloudEvent, EventSchema};
use super::derived_id::derived;
use super::ledger::Scope;
use super::publication::Publication;
use super::{names, time};
use crate::kind::Kind;

/// What the event tells.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(crate) struct Held {
    /// The organisation whose commands are held.
    pub org_id: String,
    /// Their kind.
    pub kind: Kind,
    /// How many were admitted in the window before.
    pub max_deletes: u32,
    /// Length of the window, in seconds.
    pub window_s: u32,
    /// When the guard tripped.
    #[schemars(extend("format" = "date-time"))]
    pub tripped_at: String,
    /// Where they are.
    pub queue: String,
}

pub(crate) fn schema() -> Schema {
    cloud_event::schema::<Held>(&EventSchema {
        title: "HeldEvent",
        description: "The mass-deletion guard has tripped: a `CloudEvents` 1.0 event in structured JSON.",
        types: &Kind::ALL.map(|kind| kind.spec().held_event),
        subject: Some("The organisation."),
        supersedes: None,
    })
}

/// The event; `offset`, the number of the trip in the ledger, makes its id.
pub(crate) fn event(held: &Held, offset: u64, now: Timestamp) -> Publication<'static> {
    let event_type = held.kind.spec().held_event;
    let name = format!("{event_type}/{}/{offset}", held.org_id);
    let id = derived(&[name.as_bytes()]).to_string();
    let subject = Some(held.org_id.clone());
    let body = CloudEvent::new(event_type, &id, now, held).about(subject).body();
    Publication {
        exchange: names::EVENTS_EXCHANGE,
        routing_key: event_type.to_owned(),
        body: body.into(),
        message_id: Some(id),
        correlation_id: None,
        content_type: Some(names::EVENT_CONTENT_TYPE.to_owned()),
        headers: Vec::new(),
    }
}

impl Held {
    pub(crate) fn new(scope: &Scope, since: Timestamp, limit: super::ledger::GuardLimit) -> Self {
        Self {
            org_id: scope.org_id.to_string(),
            kind: scope.kind,
            max_deletes: limit.max_deletes,
            window_s: limit.window_s,
            tripped_at: time::text(since),
            queue: scope.kind.held_queue(),
        }
    }
}
