//! A message from the work queue, without the broker library's types.

use std::ops::Range;

use jiff::Timestamp;

use crate::kind::Kind;

/// One delivery of a command, before it is decoded.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// Its kind: that of the queue it came from.
    pub kind: Kind,
    pub body: Vec<u8>,
    /// The properties that are passed on.
    pub properties: Properties,
    /// What our own headers say about earlier deliveries.
    pub retry_state: RetryState,
    /// What is wrong with the properties, if they could not be read.
    pub fault: Option<String>,
    /// The body was too large to keep: `body` is its SHA-1, and the message must not be published
    /// again.
    pub is_oversized: bool,
    /// The broker delivered this message before, and it was not acknowledged.
    pub redelivered: bool,
    /// When it failed, if a worker has recorded that.
    pub failed_at: Option<Timestamp>,
}

/// Properties and headers that are copied to everything published about a command. Everything else
/// is dropped, including `x-death` and the like, `expiration`, `CC`, `BCC`, `user_id` and
/// `reply_to`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The command's id, as its producer set it.
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub content_type: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// `user_id` of the original message, validated by the broker.
    pub published_by: Option<String>,
}

/// How a message arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The exchange that it was published to; empty if it went straight to the queue.
    pub exchange: &'a str,
    pub routing_key: &'a str,
    pub delivery_tag: u64,
}

/// A valid W3C trace context, which may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext<'a> {
    /// Version, trace id, span id and flags, in hexadecimal digits.
    pub parent: &'a str,
    /// The vendors' additions.
    pub state: Option<&'a str>,
}

impl Properties {
    /// The trace context; `None` if `traceparent` is invalid by the W3C's rules, which forbid
    /// passing an invalid one on.
    pub fn trace(&self) -> Option<TraceContext<'_>> {
        TraceContext::of(self.traceparent.as_deref()?, self.tracestate.as_deref())
    }
}

impl<'a> TraceContext<'a> {
    /// `None` if `parent` is not a valid `traceparent`.
    pub fn of(parent: &'a str, state: Option<&'a str>) -> Option<Self> {
        is_traceparent(parent).then_some(Self { parent, state })
    }

    pub fn trace_id(&self) -> &'a str {
        &self.parent[TRACE_ID]
    }

    pub fn span_id(&self) -> &'a str {
        &self.parent[SPAN_ID]
    }

    /// Flags; the lowest bit says that the trace is recorded.
    pub fn flags(&self) -> u8 {
        u8::from_str_radix(&self.parent[FLAGS], 16).unwrap_or_default()
    }
}

const TRACE_ID: Range<usize> = 3..35;
const SPAN_ID: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;

/// <https://www.w3.org/TR/trace-context/#traceparent-header>, of version 00.
fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |range: Range<usize>| {
        bytes[range].iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    };
    let is_some = |range: Range<usize>| bytes[range].iter().any(|byte| *byte != b'0');
    bytes.len() == FLAGS.end
        && bytes.starts_with(b"00-")
        && (bytes[TRACE_ID.end], bytes[SPAN_ID.end]) == (b'-', b'-')
        && [TRACE_ID, SPAN_ID, FLAGS].into_iter().all(is_hex)
        && is_some(TRACE_ID)
        && is_some(SPAN_ID)
}

/// The progress of a command. It travels in our own headers through the delay queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetryState {
    /// Attempts spent.
    pub attempts: u32,
    /// Calls made, whether or not they used up an attempt.
    pub calls: u32,
    /// An earlier attempt's answer was lost.
    pub ambiguous: bool,
    /// First delivery to a worker; `None` during that delivery.
    pub first_seen: Option<Timestamp>,
    /// No call before this moment.
    pub not_before: Option<Timestamp>,
    /// The attempts counted here are looks of a dry run.
    pub is_dry_run: bool,
    /// The task is archived, and is deleted at this moment.
    pub purge_at: Option<Timestamp>,
    /// HTTP status of the last answer.
    pub last_status: Option<u16>,
    /// Why it has waited so far, each reason once, the last one at the end.
    pub wait_reasons: Option<String>,
    /// What happened to the command before an operator replayed it.
    pub history: Option<String>,
    /// `X-Request-Id` of the last answer, for the log; it does not travel.
    pub request_id: Option<String>,
}

const BETWEEN_REASONS: &str = " ";

impl RetryState {
    /// The reason for its latest wait.
    pub fn wait_reason(&self) -> Option<&str> {
        self.wait_reasons.as_deref()?.rsplit(BETWEEN_REASONS).next()
    }

    /// Whether it has waited for this reason before.
    pub fn has_waited_for(&self, reason: &str) -> bool {
        self.wait_reasons
            .as_deref()
            .is_some_and(|known| known.split(BETWEEN_REASONS).any(|known| known == reason))
    }

    /// Notes why it waits now.
    pub fn note_wait(&mut self, reason: &str) {
        let before = self.wait_reasons.take().unwrap_or_default();
        let others =
            before.split(BETWEEN_REASONS).filter(|known| !known.is_empty() && *known != reason);
        self.wait_reasons = Some(others.chain([reason]).collect::<Vec<_>>().join(BETWEEN_REASONS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_whose_reasons_to_wait_alternate_has_each_once() {
        let mut retry_state = RetryState::default();
        assert_eq!(retry_state.wait_reason(), None);
        let reasons = ["failing", "misdirected", "failing", "misdirected", "breaker_open"];
        let known = reasons.map(|reason| {
            let is_known = retry_state.has_waited_for(reason);
            retry_state.note_wait(reason);
            is_known
        });
        assert_eq!(known, [false, false, true, true, false]);
        assert_eq!(retry_state.wait_reasons.as_deref(), Some("failing misdirected breaker_open"));
        assert_eq!(retry_state.wait_reason(), Some("breaker_open"));
    }

    fn trace_id(traceparent: &str) -> Option<String> {
        let properties =
            Properties { traceparent: Some(traceparent.to_owned()), ..Properties::default() };
        properties.trace().map(|trace| trace.trace_id().to_owned())
    }

    #[test]
    fn a_trace_context_is_passed_on_only_where_it_is_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736x00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace_id(wrong), None, "{wrong}");
        }
    }
}
