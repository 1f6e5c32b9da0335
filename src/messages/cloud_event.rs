//! The envelope of all our events: `CloudEvents` 1.0 in structured JSON mode. The body's `data` is
//! the event's content.

use jiff::Timestamp;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::{Value, json};

use super::{names, time};

/// Bytes that suffice for most events.
const USUAL_BODY: usize = 768;

#[derive(Serialize, JsonSchema)]
pub(super) struct CloudEvent<'a, Data> {
    #[schemars(extend("const" = "1.0"))]
    specversion: &'static str,
    /// The same for every repeat: dedupe by it.
    id: &'a str,
    /// An extension attribute: id of an event that no longer holds, or never will.
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<String>,
    #[schemars(extend("const" = names::SOURCE))]
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    time: String,
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'static str,
    data: &'a Data,
}

impl<'a, Data: Serialize> CloudEvent<'a, Data> {
    pub(super) fn new(kind: &'static str, id: &'a str, time: Timestamp, data: &'a Data) -> Self {
        Self {
            specversion: "1.0",
            id,
            supersedes: None,
            source: names::SOURCE,
            kind,
            subject: None,
            time: time::text(time),
            datacontenttype: "application/json",
            data,
        }
    }

    pub(super) fn about(self, subject: Option<String>) -> Self {
        Self { subject, ..self }
    }

    pub(super) fn superseding(self, supersedes: Option<String>) -> Self {
        Self { supersedes, ..self }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(USUAL_BODY);
        // Strings, numbers and flags only, so this cannot fail.
        let _ = serde_json::to_writer(&mut body, self);
        body
    }
}

/// What the schema of one type of event says beyond the envelope and its data.
pub(super) struct EventSchema<'a> {
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) types: &'a [&'static str],
    /// Events of this kind may have a subject: this.
    pub(super) subject: Option<&'static str>,
    /// Events of this kind may supersede another: this.
    pub(super) supersedes: Option<&'static str>,
}

pub(super) fn schema<Data: JsonSchema>(of: &EventSchema<'_>) -> Schema {
    let generator = SchemaSettings::default().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<CloudEvent<'_, Data>>();
    schema.insert("title".to_owned(), json!(of.title));
    schema.insert("description".to_owned(), json!(of.description));
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties["type"]["enum"] = json!(of.types);
        for (name, description) in [("subject", of.subject), ("supersedes", of.supersedes)] {
            match description {
                Some(text) => properties[name]["description"] = json!(text),
                None => _ = properties.remove(name),
            }
        }
    }
    schema
}
