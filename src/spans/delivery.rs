//! The span of one delivery:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/#process-span>.

use std::borrow::Cow;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, Span as _, SpanKind, Status};
use opentelemetry_sdk::trace::Span;

use super::{Spans, destination, remote, texts, traceparent};
use crate::messages::{Arrival, Outcome, Properties, Target};
use crate::policy::settlement::Settlement;

/// It ends when this is dropped.
#[must_use]
pub struct DeliverySpan(Option<Span>);

impl Spans {
    /// Starts the span of a delivery. From then on its properties carry that span, so that
    /// everything published about the command, and its next delivery, belong to the same trace.
    ///
    /// The message's creation context is the parent, as the conventions allow for single messages,
    /// and is linked to, as they require. The span is named after the queue: producers choose
    /// exchange and routing key, and there may be many.
    pub fn delivery(
        &self,
        queue: impl Into<Cow<'static, str>>,
        arrival: Arrival<'_>,
        properties: &mut Properties,
    ) -> DeliverySpan {
        let Self(Some(on)) = self else { return DeliverySpan(None) };
        let queue = queue.into();
        let Arrival { exchange, routing_key, delivery_tag } = arrival;
        let tag = i64::try_from(delivery_tag).unwrap_or(i64::MAX);
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new(
                "messaging.destination.name",
                destination(exchange, routing_key, Some(&queue)),
            ),
            KeyValue::new("messaging.destination.template", queue.clone()),
            KeyValue::new("messaging.rabbitmq.message.delivery_tag", tag),
        ];
        attributes.extend(texts([
            ("messaging.rabbitmq.destination.routing_key", Some(routing_key)),
            ("messaging.message.id", properties.message_id.as_deref()),
            ("messaging.message.conversation_id", properties.correlation_id.as_deref()),
        ]));
        let creation = properties.trace().and_then(remote);
        if creation.is_none() {
            // It belongs to no trace.
            properties.tracestate = None;
        }
        let links = creation.clone().map(Link::with_context).into_iter().collect();
        let name = format!("process {queue}");
        let span = on.start(name, SpanKind::Consumer, attributes, (creation, links));
        properties.traceparent = Some(traceparent(span.span_context()));
        DeliverySpan(Some(span))
    }
}

impl DeliverySpan {
    /// Records how the delivery will be settled.
    pub fn decided(&mut self, settlement: &Settlement) {
        let Self(Some(span)) = self else { return };
        span.set_attribute(KeyValue::new("tallyfy.settlement", settlement.as_str()));
        if let Some(error) = settlement.error_type() {
            span.set_attribute(KeyValue::new("error.type", error));
        }
        match settlement {
            Settlement::Finish(outcome)
            | Settlement::DeadLetter(outcome, _)
            | Settlement::Reject(Some(outcome)) => ended(span, outcome),
            Settlement::RetryLater(wait) | Settlement::Postpone(wait) => {
                span.set_attribute(KeyValue::new("tallyfy.wait", wait.delay.name()));
            }
            Settlement::DryRun(dry_run) => {
                span.set_attribute(KeyValue::new("tallyfy.would", dry_run.would));
            }
            Settlement::Reject(None) => span.set_status(Status::error("")),
            Settlement::Undo(..) | Settlement::Hold(_) | Settlement::Requeue => {}
        }
    }
}

fn ended(span: &mut Span, outcome: &Outcome) {
    if let Some(Target { kind, org, id }) = &outcome.target {
        span.set_attribute(KeyValue::new("tallyfy.org_id", org.to_string()));
        let name = format!("tallyfy.{}", kind.spec().id_member);
        span.set_attribute(KeyValue::new(name, id.to_string()));
    }
    span.set_attribute(KeyValue::new("tallyfy.attempts", i64::from(outcome.attempts)));
    if let Some(failure) = &outcome.failure {
        span.set_status(Status::error(failure.detail.clone()));
    }
}
