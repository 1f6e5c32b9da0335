//! The record of a destructive call: who asked, when, for what, and what the API answered.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{EventIds, EventSubject};
use super::{ObjectId, OrgId, Publication, Target, names};
use crate::kind::Kind;

/// One destructive call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord<'a> {
    /// When the answer came, or when the wait for it ended.
    pub at: Timestamp,
    /// The kind of the command.
    pub kind: Cow<'a, str>,
    pub org_id: Cow<'a, str>,
    /// Id of the task, process, tag or file.
    pub id: Cow<'a, str>,
    pub command_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Cow<'a, str>>,
    /// From the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<Cow<'a, str>>,
    /// `user_id` that the broker validated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_by: Option<Cow<'a, str>>,
    /// From the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// `delete`, or `archive` if that comes first.
    pub call: Cow<'a, str>,
    /// What the answer means.
    pub verdict: Cow<'a, str>,
    /// The API's answer, in words.
    pub answer: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// `X-Request-Id` of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
    /// The worker that called.
    pub worker: Cow<'a, str>,
}

impl CallRecord<'_> {
    /// Its JSON, of which [`calls`] makes a message.
    pub fn json(&self) -> Vec<u8> {
        // Strings and numbers only, so this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The id of the success event of its command, if the API did what the command asks for. Not
    /// for a task that is archived first: the record does not show whether its deletion follows.
    pub fn success_event(&self) -> Option<String> {
        let kind = Kind::named(&self.kind)?;
        let org = OrgId::try_from(self.org_id.to_string()).ok()?;
        let id = ObjectId::try_from(self.id.to_string()).ok()?;
        let subject = EventSubject::from(&Target { kind, org, id });
        (self.call == "delete" && self.verdict == "deleted")
            .then(|| EventIds::about(kind, &subject, &self.command_id).success)
    }
}

/// The message for the calls of one worker, from the JSON of each.
pub fn calls<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Publication<'static> {
    let mut body = Vec::new();
    for record in records {
        body.push(if body.is_empty() { b'[' } else { b',' });
        body.extend_from_slice(record);
    }
    body.push(b']');
    publication(body)
}

fn publication(body: Vec<u8>) -> Publication<'static> {
    Publication {
        exchange: names::LEDGER_EXCHANGE,
        routing_key: names::AUDIT.to_owned(),
        body: body.into(),
        message_id: None,
        correlation_id: None,
        content_type: Some("application/json".to_owned()),
        headers: Vec::new(),
    }
}

/// One message of the audit stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AuditEntry {
    /// Calls of one worker.
    Calls(Vec<CallRecord<'static>>),
    /// Someone has read the stream up to here.
    Read { read_by: String, at: Timestamp, reader: String },
}

impl AuditEntry {
    pub fn publication(&self) -> Publication<'static> {
        // Strings and numbers only, so this cannot fail.
        publication(serde_json::to_vec(self).unwrap_or_default())
    }

    /// `None` if this build does not understand it.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}
