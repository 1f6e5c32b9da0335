//! A dead letter as operators see it, and what can be published from it: plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::command::MAX_BODY_BYTES;
use super::ids::EventIds;
use super::publication::{HeaderValue, Publication};
use super::{FailureReason, Properties, RetryState, names, time};
use crate::kind::Kind;

const LONGEST_HISTORY: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeadLetter {
    /// Its kind: that of the queue it came from.
    pub kind: Kind,
    /// The command's body, byte for byte.
    pub body: Vec<u8>,
    /// The properties that came with the command.
    pub properties: Properties,
    /// How far it had come.
    pub retry_state: RetryState,
    /// One of the contract's reasons.
    pub reason: String,
    /// The reason, for a person.
    pub detail: String,
    /// When it failed, if known.
    pub failed_at: Option<Timestamp>,
    /// What was unreadable in its headers: then it cannot be copied unchanged.
    pub fault: Option<String>,
}

/// One line of an export: everything that a replay or an import needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Exported {
    /// Its kind. An export of an older version has none, because there was only one.
    #[serde(default = "only_kind")]
    pub kind: String,
    pub reason: String,
    /// The same, for a person.
    #[serde(default)]
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::serialize")]
    pub failed_at: Option<Timestamp>,
    /// First delivery to a worker.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "time::serialize")]
    pub first_seen: Option<Timestamp>,
    #[serde(default)]
    pub attempts: u32,
    /// An answer was lost, or it was delivered more than once.
    #[serde(default)]
    pub ambiguous: bool,
    /// Of its failure event.
    #[serde(default, skip_deserializing)]
    pub event_id: String,
    /// Of the success event that supersedes it, if there is one.
    #[serde(default, skip_deserializing)]
    pub superseded_by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// Who published it, if the broker had validated that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_by: Option<String>,
    /// What had happened to it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<String>,
    /// What was unreadable in its headers and is missing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The body, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, if it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

fn only_kind() -> String {
    Kind::TaskDelete.as_str().to_owned()
}

impl DeadLetter {
    /// The organisation that the body names, valid or not.
    pub fn org_id(&self) -> Option<String> {
        self.member("org_id")
    }

    /// The object that the body names, valid or not.
    pub fn object_id(&self) -> Option<String> {
        self.member(self.kind.spec().id_member)
    }

    /// Its call may have succeeded: an answer was lost, or it was delivered more than once. If
    /// RabbitMQ moved a command after many deliveries, nobody knows whether a call was made.
    pub fn may_be_done(&self) -> bool {
        self.retry_state.ambiguous || self.reason == FailureReason::Poison.as_str()
    }

    /// RabbitMQ moved it, with a time of its own clock; a call may have been under way.
    pub fn is_moved_by_rabbitmq(&self) -> bool {
        let reason = FailureReason::named(&self.reason);
        reason.is_none_or(FailureReason::is_of_rabbitmq)
    }

    /// The ids of its failure event and of the event that would supersede that.
    pub(crate) fn event_ids(&self) -> EventIds {
        EventIds::of(self.kind, self.properties.message_id.as_deref(), &self.body)
    }

    /// Id of its failure event.
    pub fn failure_event(&self) -> String {
        self.event_ids().failure
    }

    fn member(&self, name: &str) -> Option<String> {
        if self.body.len() > MAX_BODY_BYTES {
            return None;
        }
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        body.get(name)?.as_str().map(str::to_owned)
    }

    /// The command again, for the work queue. Attempts and age start again; it keeps the flag for a
    /// lost answer, its publisher and its history.
    ///
    /// It goes through the default exchange, like a command that comes back from a wait, so that
    /// other subscribers of `task.commands` see a command only once.
    pub fn replay(&self, by: &str, now: Timestamp) -> Publication<'_> {
        let history = self.history_with(&format!("replayed {now:.0} by {by}"));
        let headers = [
            (names::X_AMBIGUOUS, Some(HeaderValue::Flag(true)).filter(|_| self.may_be_done())),
            (names::X_PUBLISHED_BY, self.properties.published_by.clone().map(HeaderValue::Text)),
            (names::X_HISTORY, Some(HeaderValue::Text(history))),
        ];
        self.copy(
            "",
            self.kind.queue(),
            headers.into_iter().filter_map(|(n, v)| Some((n, v?))).collect(),
        )
    }

    /// The dead letter again, straight to its queue, so that a confirm means that it is there.
    pub fn again(&self) -> Publication<'_> {
        let time = |time: Option<Timestamp>| time.map(|time| HeaderValue::Text(time::text(time)));
        let text = |text: &str| Some(HeaderValue::Text(text.to_owned()));
        let retry_state = &self.retry_state;
        let headers = [
            (names::X_ATTEMPTS, Some(HeaderValue::Number(retry_state.attempts.into()))),
            (names::X_CALLS, Some(HeaderValue::Number(retry_state.calls.into()))),
            (names::X_FIRST_SEEN, time(retry_state.first_seen)),
            (
                names::X_LAST_STATUS,
                retry_state.last_status.map(|status| HeaderValue::Number(status.into())),
            ),
            (names::X_AMBIGUOUS, Some(HeaderValue::Flag(retry_state.ambiguous))),
            (names::X_PUBLISHED_BY, self.properties.published_by.as_deref().and_then(text)),
            (names::X_HISTORY, retry_state.history.as_deref().and_then(text)),
            (names::X_FAILURE_REASON, text(&self.reason)),
            (names::X_FAILURE_DETAIL, text(&self.detail)),
            (names::X_FAILED_AT, time(self.failed_at)),
        ];
        let headers =
            headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        self.copy("", &self.kind.dead_letter_queue(), headers)
    }

    fn copy(
        &self,
        exchange: &'static str,
        key: &str,
        mut headers: Vec<(&'static str, HeaderValue)>,
    ) -> Publication<'_> {
        let properties = &self.properties;
        for (name, text) in [
            (names::TRACEPARENT, &properties.traceparent),
            (names::TRACESTATE, &properties.tracestate),
        ] {
            headers.extend(text.clone().map(|text| (name, HeaderValue::Text(text))));
        }
        Publication {
            exchange,
            routing_key: key.to_owned(),
            body: (&self.body).into(),
            message_id: properties.message_id.clone(),
            correlation_id: properties.correlation_id.clone(),
            content_type: properties.content_type.clone(),
            headers,
        }
    }

    /// If it becomes too long for a header, the latest part is kept.
    fn history_with(&self, now: &str) -> String {
        let died = self.failed_at.map_or_else(String::new, |time| format!(" {time:.0}"));
        let detail: String = self.detail.chars().take(200).collect();
        let before = self
            .retry_state
            .history
            .as_ref()
            .map_or_else(String::new, |before| format!("{before}; "));
        let mut history = format!("{before}died{died} of {}: {detail}; {now}", self.reason);
        let from = history.ceil_char_boundary(history.len().saturating_sub(LONGEST_HISTORY));
        history.split_off(from)
    }
}
