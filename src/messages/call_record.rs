//! The record of a destructive call: who asked, when, for what, and what the API answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Publication, names};

/// One destructive call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// When the answer came, or when the wait for it ended.
    pub at: Timestamp,
    /// The kind of the command.
    pub kind: String,
    pub org_id: String,
    /// Id of the task, process, tag or file.
    pub id: String,
    pub command_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// From the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_by: Option<String>,
    /// `user_id` that the broker validated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
    /// From the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `delete`, or `archive` if that comes first.
    pub call: String,
    /// What the answer means.
    pub verdict: String,
    /// The API's answer, in words.
    pub answer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// `X-Request-Id` of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The worker that called.
    pub worker: String,
}

/// One message of the audit stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AuditEntry {
    /// Calls of one worker.
    Calls(Vec<CallRecord>),
    /// Someone has read the stream up to here.
    Read { read_by: String, at: Timestamp, reader: String },
}

impl AuditEntry {
    pub fn publication(&self) -> Publication<'static> {
        Publication {
            exchange: names::LEDGER_EXCHANGE,
            routing_key: names::AUDIT.to_owned(),
            // Strings and numbers only, so this cannot fail.
            body: serde_json::to_vec(self).unwrap_or_default().into(),
            message_id: None,
            correlation_id: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
        }
    }

    /// `None` if this build does not understand it.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}
