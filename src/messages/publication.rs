//! A message to publish with its address, as data.

use std::borrow::Cow;

use super::ledger::LedgerRecord;
use super::{Incoming, Properties, RetryState, TraceContext, names, time};
use jiff::{SignedDuration, Timestamp};

/// A message to publish; always persistent, mandatory and confirmed.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication<'a> {
    pub exchange: &'static str,
    pub routing_key: String,
    /// Body, byte for byte. A copy borrows it, because all unacknowledged commands may be waiting
    /// for their publish at once.
    pub body: Cow<'a, [u8]>,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    /// Headers; nothing else is sent.
    pub headers: Vec<(&'static str, HeaderValue)>,
}

/// A header's value, in the three types that the worker sends.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    Text(String),
    Number(i64),
    Flag(bool),
}

impl<'a> Publication<'a> {
    /// A copy of the command for one of the delay queues.
    pub fn waiting_copy(
        incoming: &'a Incoming,
        queue: String,
        retry_state: &RetryState,
        first_seen: Timestamp,
    ) -> Self {
        let mut headers = retry_state_headers(incoming, retry_state, first_seen);
        // To the nanosecond: cut to milliseconds, it would be shorter than the wait.
        push_text(
            &mut headers,
            names::X_NOT_BEFORE,
            retry_state.not_before.map(|m| m.to_string()).as_ref(),
        );
        if retry_state.is_dry_run {
            headers.push((names::X_DRY_RUN, HeaderValue::Flag(true)));
        }
        let purge_at = retry_state.purge_at.map(|moment| moment.to_string());
        push_text(&mut headers, names::X_PURGE_AT, purge_at.as_ref());
        push_text(&mut headers, names::X_WAIT_REASON, retry_state.wait_reasons.as_ref());
        Self::copy(incoming, names::RETRY_EXCHANGE, queue, headers)
    }

    pub fn dead_letter(
        incoming: &'a Incoming,
        retry_state: &RetryState,
        first_seen: Timestamp,
        (reason, detail): (&str, &str),
        failed_at: Timestamp,
    ) -> Self {
        let mut headers = retry_state_headers(incoming, retry_state, first_seen);
        headers.push((names::X_FAILURE_REASON, HeaderValue::Text(reason.to_owned())));
        headers.push((names::X_FAILURE_DETAIL, HeaderValue::Text(detail.to_owned())));
        push_time(&mut headers, names::X_FAILED_AT, Some(failed_at));
        Self::copy(
            incoming,
            names::DEAD_LETTER_EXCHANGE,
            incoming.kind.dead_letter_queue(),
            headers,
        )
    }

    /// A copy of the command for the queue of held commands.
    pub fn held_copy(
        incoming: &'a Incoming,
        retry_state: &RetryState,
        first_seen: Timestamp,
        since: Timestamp,
    ) -> Self {
        let mut headers = retry_state_headers(incoming, retry_state, first_seen);
        push_time(&mut headers, names::X_HELD_SINCE, Some(since));
        Self::copy(incoming, names::RETRY_EXCHANGE, incoming.kind.held_queue(), headers)
    }

    /// A held command again, for the work queue. The time for which it was held does not count
    /// toward its age.
    pub fn released(incoming: &'a Incoming, since: Option<Timestamp>, now: Timestamp) -> Self {
        let held_for = since.map_or(SignedDuration::ZERO, |since| now.duration_since(since));
        let first_seen = incoming.retry_state.first_seen.unwrap_or(now);
        let first_seen = first_seen.checked_add(held_for).unwrap_or(now).min(now);
        let headers = retry_state_headers(incoming, &incoming.retry_state, first_seen);
        Self::copy(incoming, "", incoming.kind.queue().to_owned(), headers)
    }

    /// The same with an owned body.
    pub fn into_owned(self) -> Publication<'static> {
        Publication { body: Cow::Owned(self.body.into_owned()), ..self }
    }

    pub(super) fn clone_without_body(&self) -> Publication<'static> {
        Publication {
            exchange: self.exchange,
            routing_key: self.routing_key.clone(),
            body: Cow::Borrowed(&[]),
            message_id: self.message_id.clone(),
            correlation_id: self.correlation_id.clone(),
            content_type: self.content_type.clone(),
            headers: self.headers.clone(),
        }
    }

    /// A record of the ledger.
    pub fn ledger_record(record: &LedgerRecord) -> Publication<'static> {
        Publication {
            exchange: names::LEDGER_EXCHANGE,
            routing_key: names::LEDGER.to_owned(),
            body: record.body().into(),
            message_id: None,
            correlation_id: None,
            content_type: Some("application/json".to_owned()),
            headers: Vec::new(),
        }
    }

    /// Its trace context.
    pub fn trace(&self) -> Option<TraceContext<'_>> {
        let text = |wanted: &str| {
            self.headers.iter().find_map(|(name, value)| match value {
                HeaderValue::Text(text) if *name == wanted => Some(text.as_str()),
                _ => None,
            })
        };
        TraceContext::of(text(names::TRACEPARENT)?, text(names::TRACESTATE))
    }

    /// Replaces its trace context with another span of the same trace.
    pub fn carry(&mut self, traceparent: String) {
        let traceparent = HeaderValue::Text(traceparent);
        match self.headers.iter_mut().find(|(name, _)| *name == names::TRACEPARENT) {
            Some((_, value)) => *value = traceparent,
            None => self.headers.push((names::TRACEPARENT, traceparent)),
        }
    }

    pub fn is_dead_letter(&self) -> bool {
        self.exchange == names::DEAD_LETTER_EXCHANGE
    }

    /// A copy of a command carries the user that made it. An event does not, so that it can be
    /// published again elsewhere (by a shovel).
    pub fn is_event(&self) -> bool {
        self.exchange == names::EVENTS_EXCHANGE
    }

    /// An event about the command.
    pub fn event(incoming: &Incoming, routing_key: &str, event_id: String, body: Vec<u8>) -> Self {
        let content_type = Some(names::EVENT_CONTENT_TYPE.to_owned());
        let message_id = Some(event_id);
        let properties = &incoming.properties;
        let mut headers = Vec::new();
        push_trace(&mut headers, properties);
        Self {
            exchange: names::EVENTS_EXCHANGE,
            routing_key: routing_key.to_owned(),
            body: body.into(),
            message_id,
            correlation_id: properties.correlation_id.clone(),
            content_type,
            headers,
        }
    }

    fn copy(
        incoming: &'a Incoming,
        exchange: &'static str,
        routing_key: String,
        mut headers: Vec<(&'static str, HeaderValue)>,
    ) -> Self {
        let properties = &incoming.properties;
        push_trace(&mut headers, properties);
        Self {
            exchange,
            routing_key,
            body: Cow::Borrowed(&incoming.body),
            message_id: properties.message_id.clone(),
            correlation_id: properties.correlation_id.clone(),
            content_type: properties.content_type.clone(),
            headers,
        }
    }
}

fn retry_state_headers(
    incoming: &Incoming,
    retry_state: &RetryState,
    first_seen: Timestamp,
) -> Vec<(&'static str, HeaderValue)> {
    let mut headers = vec![(names::X_ATTEMPTS, HeaderValue::Number(retry_state.attempts.into()))];
    headers.push((names::X_CALLS, HeaderValue::Number(retry_state.calls.into())));
    push_time(&mut headers, names::X_FIRST_SEEN, Some(first_seen));
    headers.extend(
        retry_state
            .last_status
            .map(|status| (names::X_LAST_STATUS, HeaderValue::Number(status.into()))),
    );
    headers.push((names::X_AMBIGUOUS, HeaderValue::Flag(retry_state.ambiguous)));
    push_text(&mut headers, names::X_PUBLISHED_BY, incoming.properties.published_by.as_ref());
    push_text(&mut headers, names::X_HISTORY, retry_state.history.as_ref());
    headers
}

fn push_trace(headers: &mut Vec<(&'static str, HeaderValue)>, properties: &Properties) {
    push_text(headers, names::TRACEPARENT, properties.traceparent.as_ref());
    push_text(headers, names::TRACESTATE, properties.tracestate.as_ref());
}

fn push_text(
    headers: &mut Vec<(&'static str, HeaderValue)>,
    name: &'static str,
    text: Option<&String>,
) {
    headers.extend(text.map(|text| (name, HeaderValue::Text(text.clone()))));
}

fn push_time(
    headers: &mut Vec<(&'static str, HeaderValue)>,
    name: &'static str,
    time: Option<Timestamp>,
) {
    headers.extend(time.map(|time| (name, HeaderValue::Text(time::text(time)))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use HeaderValue::{Flag, Number, Text};

    fn moment() -> Timestamp {
        "2026-11-23T10:00:00.0005Z".parse().unwrap()
    }

    fn retry_state() -> RetryState {
        let not_before = Some(moment());
        RetryState {
            attempts: 3,
            calls: 5,
            ambiguous: true,
            first_seen: None,
            not_before,
            purge_at: None,
            is_dry_run: false,
            last_status: Some(503),
            wait_reasons: Some("failing".to_owned()),
            history: Some("died before".to_owned()),
            request_id: None,
        }
    }

    fn incoming() -> Incoming {
        let text = |text: &str| Some(text.to_owned());
        let properties = Properties {
            message_id: text("m1"),
            correlation_id: text("c1"),
            content_type: text("application/json"),
            traceparent: text("00-1-2-01"),
            tracestate: text("a=b"),
            published_by: text("billing"),
        };
        Incoming { body: b"as it came".to_vec(), properties, ..Incoming::default() }
    }

    fn text(text: &str) -> HeaderValue {
        Text(text.to_owned())
    }

    fn is_the_command_as_it_came(copy: &Publication<'_>) {
        assert_eq!(&*copy.body, b"as it came");
        let carried =
            [&copy.message_id, &copy.correlation_id, &copy.content_type].map(Option::as_deref);
        assert_eq!(carried, [Some("m1"), Some("c1"), Some("application/json")]);
    }

    #[test]
    fn a_waiting_copy_says_how_far_the_command_has_come_and_nothing_else() {
        let incoming = incoming();
        let copy = Publication::waiting_copy(&incoming, "q".into(), &retry_state(), moment());
        assert_eq!((copy.exchange, copy.routing_key.as_str()), ("task.retry", "q"));
        is_the_command_as_it_came(&copy);
        let expected = [
            ("x-attempts", Number(3)),
            ("x-calls", Number(5)),
            ("x-first-seen", text("2026-11-23T10:00:00.000Z")),
            ("x-last-status", Number(503)),
            ("x-ambiguous", Flag(true)),
            ("x-published-by", text("billing")),
            ("x-history", text("died before")),
            ("x-not-before", text("2026-11-23T10:00:00.0005Z")),
            ("x-wait-reason", text("failing")),
            ("traceparent", text("00-1-2-01")),
            ("tracestate", text("a=b")),
        ];
        assert_eq!(copy.headers, expected);
    }

    #[test]
    fn the_age_of_a_command_stands_still_while_it_is_held() {
        let hours = |hours: i64| moment() + SignedDuration::from_hours(hours);
        let seen = |first_seen, since, now| {
            let retry_state = RetryState { first_seen, ..RetryState::default() };
            let incoming = Incoming { retry_state, ..incoming() };
            let released = Publication::released(&incoming, since, now);
            let is_it =
                |(name, value): (&str, HeaderValue)| (name == "x-first-seen").then_some(value);
            released.headers.into_iter().find_map(is_it).unwrap()
        };
        let at = |time| Text(time::text(time));
        // An hour old when it was held, and an hour old when it is released two days later.
        assert_eq!(seen(Some(hours(0)), Some(hours(1)), hours(49)), at(hours(48)));
        assert_eq!(seen(Some(hours(0)), None, hours(49)), at(hours(0)));
        assert_eq!(seen(Some(hours(5)), Some(hours(0)), hours(7)), at(hours(7)), "never later");
    }

    #[test]
    fn a_dead_letter_says_why_and_no_longer_when_to_try_again() {
        let why = ("rejected", "HTTP 422");
        let incoming = incoming();
        let dead = Publication::dead_letter(&incoming, &retry_state(), moment(), why, moment());
        assert_eq!((dead.exchange, dead.routing_key.as_str()), ("task.dlx", "task.delete.dead"));
        is_the_command_as_it_came(&dead);
        let names: Vec<_> = dead.headers.iter().map(|(name, _)| *name).collect();
        let own = [
            "x-attempts",
            "x-calls",
            "x-first-seen",
            "x-last-status",
            "x-ambiguous",
            "x-published-by",
            "x-history",
        ];
        let failure = ["x-failure-reason", "x-failure-detail", "x-failed-at"];
        assert_eq!(names, [&own[..], &failure, &["traceparent", "tracestate"]].concat());
        assert_eq!(
            dead.headers[7..9],
            [("x-failure-reason", text("rejected")), ("x-failure-detail", text("HTTP 422"))]
        );
    }

    #[test]
    fn an_event_has_its_own_id_body_and_type_and_the_commands_trace() {
        let event = Publication::event(&incoming(), "task.deleted", "e1".into(), b"{}".to_vec());
        assert_eq!((event.exchange, event.routing_key.as_str()), ("task.events", "task.deleted"));
        assert_eq!((event.message_id.as_deref(), &*event.body), (Some("e1"), &b"{}"[..]));
        assert_eq!(event.content_type.as_deref(), Some("application/cloudevents+json"));
        assert_eq!(event.correlation_id.as_deref(), Some("c1"));
        assert_eq!(
            event.headers,
            [("traceparent", text("00-1-2-01")), ("tracestate", text("a=b"))]
        );
    }
}
