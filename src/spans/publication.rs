//! The span of one publication, whose context is what the message carries:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/#send-span-producer>.

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status};
use opentelemetry_sdk::trace::Span;

use super::{Spans, destination, remote, texts, traceparent};
use crate::messages::Publication;

/// It ends when this is dropped: with the confirm.
#[must_use]
pub struct PublicationSpan(Option<Span>);

impl Spans {
    /// Starts the span of a publication, which from then on carries it as its creation context.
    pub fn publication(&self, publication: &mut Publication<'_>) -> PublicationSpan {
        let Self(Some(on)) = self else { return PublicationSpan(None) };
        let (exchange, routing_key) = (publication.exchange, publication.routing_key.as_str());
        let name = destination(exchange, routing_key, None);
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.destination.name", name.clone()),
        ];
        attributes.extend(texts([
            ("messaging.rabbitmq.destination.routing_key", Some(routing_key)),
            ("messaging.message.id", publication.message_id.as_deref()),
            ("messaging.message.conversation_id", publication.correlation_id.as_deref()),
        ]));
        let parent = publication.trace().and_then(remote);
        let name = format!("publish {name}");
        let span = on.start(name, SpanKind::Producer, attributes, (parent, Vec::new()));
        publication.carry(traceparent(span.span_context()));
        PublicationSpan(Some(span))
    }
}

impl PublicationSpan {
    /// The publication finally failed. An error that was overcome does not count.
    pub fn failed(&mut self, error_type: &'static str) {
        let Self(Some(span)) = self else { return };
        span.set_attribute(KeyValue::new("error.type", error_type));
        span.set_status(Status::error(""));
    }
}
