//! A message as it came off the work queue, freed of the broker library's types.

use jiff::Timestamp;

/// One delivery of a command, before anyone has looked into it.
#[derive(Debug, Clone, Default)]
pub struct Incoming {
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// The properties that we carry on.
    pub properties: Properties,
    /// What our own headers say of earlier deliveries.
    pub progress: Progress,
    /// What is wrong with the properties, where they could not be read.
    pub fault: Option<String>,
    /// The broker gave this message to somebody before, who did not acknowledge it.
    pub redelivered: bool,
}

/// Properties and headers that are carried to what is published about a command. Whatever is not here is left behind:
/// `x-death` and its kin, `expiration`, `CC`, `BCC`, `user_id` and `reply_to` among it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The command's id, as its producer set it.
    pub message_id: Option<String>,
    /// The producer's correlation id.
    pub correlation_id: Option<String>,
    /// Content type of the body.
    pub content_type: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
    /// `user_id` of the original message, validated by the broker.
    pub published_by: Option<String>,
}

/// How far a command has come; it travels in our own headers through the wait queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Attempts spent.
    pub attempts: u32,
    /// An earlier attempt's answer was lost.
    pub ambiguous: bool,
    /// First delivery to a worker; `None` on that very delivery.
    pub first_seen: Option<Timestamp>,
    /// No call before this moment.
    pub not_before: Option<Timestamp>,
    /// HTTP status of the last answer.
    pub last_status: Option<u16>,
}
