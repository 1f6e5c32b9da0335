//! What is to be published: a message with its address, as data.

use super::names;
use super::{Incoming, Progress};
use jiff::Timestamp;

/// A message to publish: persistent, mandatory and confirmed, always.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Exchange to publish to.
    pub exchange: &'static str,
    /// Routing key.
    pub routing_key: String,
    /// Body, byte for byte.
    pub body: Vec<u8>,
    /// Property of that name.
    pub message_id: Option<String>,
    /// Property of that name.
    pub correlation_id: Option<String>,
    /// Property of that name.
    pub content_type: Option<String>,
    /// Headers; nothing else is sent.
    pub headers: Vec<(&'static str, HeaderValue)>,
}

/// A header's value, in the three types that we send.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    /// UTF-8 text.
    Text(String),
    /// A number.
    Number(i64),
    /// True or false.
    Flag(bool),
}

impl Publication {
    /// A copy of the command for one of the wait queues.
    pub fn waiting_copy(
        incoming: &Incoming,
        queue: String,
        progress: &Progress,
        first_seen: Timestamp,
    ) -> Self {
        let mut headers = progress_headers(progress, first_seen);
        headers.push((names::X_AMBIGUOUS, HeaderValue::Flag(progress.ambiguous)));
        // To the nanosecond: cut to milliseconds it would undercut the wait that it keeps.
        push_text(&mut headers, names::X_NOT_BEFORE, progress.not_before.map(|m| m.to_string()).as_ref());
        push_text(&mut headers, names::X_PUBLISHED_BY, incoming.properties.published_by.as_ref());
        Self::copy(incoming, names::RETRY_EXCHANGE, queue, headers)
    }

    /// The dead letter of the command.
    pub fn dead_letter(
        incoming: &Incoming,
        progress: &Progress,
        first_seen: Timestamp,
        (reason, detail): (&str, &str),
        failed_at: Timestamp,
    ) -> Self {
        let mut headers = progress_headers(progress, first_seen);
        headers.push((names::X_FAILURE_REASON, HeaderValue::Text(reason.to_owned())));
        headers.push((names::X_FAILURE_DETAIL, HeaderValue::Text(detail.to_owned())));
        push_time(&mut headers, names::X_FAILED_AT, Some(failed_at));
        Self::copy(incoming, names::DEAD_LETTER_EXCHANGE, names::WORK_QUEUE.to_owned(), headers)
    }

    /// An event about the command.
    pub fn event(incoming: &Incoming, routing_key: &str, event_id: String, body: Vec<u8>) -> Self {
        let content_type = Some(names::EVENT_CONTENT_TYPE.to_owned());
        let message_id = Some(event_id);
        let event = Self::copy(incoming, names::EVENTS_EXCHANGE, routing_key.to_owned(), Vec::new());
        Self { body, message_id, content_type, ..event }
    }

    fn copy(
        incoming: &Incoming,
        exchange: &'static str,
        routing_key: String,
        mut headers: Vec<(&'static str, HeaderValue)>,
    ) -> Self {
        let properties = &incoming.properties;
        push_text(&mut headers, names::TRACEPARENT, properties.traceparent.as_ref());
        push_text(&mut headers, names::TRACESTATE, properties.tracestate.as_ref());
        Self {
            exchange,
            routing_key,
            body: incoming.body.clone(),
            message_id: properties.message_id.clone(),
            correlation_id: properties.correlation_id.clone(),
            content_type: properties.content_type.clone(),
            headers,
        }
    }
}

fn progress_headers(progress: &Progress, first_seen: Timestamp) -> Vec<(&'static str, HeaderValue)> {
    let mut headers = vec![(names::X_ATTEMPTS, HeaderValue::Number(progress.attempts.into()))];
    push_time(&mut headers, names::X_FIRST_SEEN, Some(first_seen));
    headers.extend(
        progress.last_status.map(|status| (names::X_LAST_STATUS, HeaderValue::Number(status.into()))),
    );
    headers
}

fn push_text(headers: &mut Vec<(&'static str, HeaderValue)>, name: &'static str, text: Option<&String>) {
    headers.extend(text.map(|text| (name, HeaderValue::Text(text.clone()))));
}

fn push_time(headers: &mut Vec<(&'static str, HeaderValue)>, name: &'static str, time: Option<Timestamp>) {
    headers.extend(time.map(|time| (name, HeaderValue::Text(format!("{time:.3}")))));
}
