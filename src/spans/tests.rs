//! Tests each rule of the semantic conventions that the spans follow, with an in-memory exporter.

use opentelemetry::Value;
use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};

use super::*;
use crate::kind::Kind;
use crate::messages::event::{Failure, samples};
use crate::messages::{
    Arrival, EndKind, FailureReason, Incoming, Outcome, Properties, Publication, RetryState, Target,
};
use crate::policy::answer::{Answer, Body, Response};
use crate::policy::settlement::Settlement;

const PRODUCER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const FROM_COMMANDS: Arrival<'_> =
    Arrival { exchange: "task.commands", routing_key: "task.delete", delivery_tag: 7 };

fn spans() -> (Spans, InMemorySpanExporter) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    (Spans::by(provider), exporter)
}

fn target() -> Target {
    samples::outcome(EndKind::Done).target.unwrap()
}

fn properties() -> Properties {
    let text = |text: &str| Some(text.to_owned());
    Properties {
        message_id: text("m1"),
        correlation_id: text("c1"),
        traceparent: text(PRODUCER),
        tracestate: text("vendor=1"),
        ..Properties::default()
    }
}

fn only(exporter: &InMemorySpanExporter) -> SpanData {
    let spans = exporter.get_finished_spans().unwrap();
    let [span] = <[SpanData; 1]>::try_from(spans).unwrap();
    span
}

fn value(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name)?;
    Some(match &found.value {
        Value::I64(number) => number.to_string(),
        other => other.as_str().into_owned(),
    })
}

fn values<const N: usize>(span: &SpanData, expected: [(&str, &str); N]) {
    for (name, text) in expected {
        assert_eq!(value(span, name).as_deref(), Some(text), "{name}");
    }
}

fn call(
    kind: Kind,
    endpoint: Endpoint,
    base_url: &str,
    resends: u32,
) -> (Spans, CallSpan, InMemorySpanExporter) {
    let (spans, exporter) = spans();
    let target = Target { kind, ..target() };
    let url = base_url.parse().unwrap();
    let span = spans.call(endpoint, &target, (&properties(), resends), &url);
    (spans, span, exporter)
}

fn called(kind: Kind, endpoint: Endpoint, base_url: &str, resends: u32) -> SpanData {
    let (_spans, span, exporter) = call(kind, endpoint, base_url, resends);
    span.end(None);
    only(&exporter)
}

#[test]
fn a_delivery_is_a_consumer_that_names_queue_key_tag_and_ids_and_links_to_its_creation() {
    let (spans, exporter) = spans();
    drop(spans.delivery("task.delete", FROM_COMMANDS, &mut properties()));
    let span = only(&exporter);
    assert_eq!((span.name.as_ref(), &span.span_kind), ("process task.delete", &SpanKind::Consumer));
    values(
        &span,
        [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.type", "process"),
            ("messaging.operation.name", "process"),
            ("messaging.destination.name", "task.commands:task.delete"),
            ("messaging.destination.template", "task.delete"),
            ("messaging.rabbitmq.destination.routing_key", "task.delete"),
            ("messaging.rabbitmq.message.delivery_tag", "7"),
            ("messaging.message.id", "m1"),
            ("messaging.message.conversation_id", "c1"),
        ],
    );
    let [link] = &span.links.links[..] else { panic!("{:?}", span.links) };
    assert_eq!(traceparent(&link.span_context), PRODUCER);
    assert_eq!(span.parent_span_id, link.span_context.span_id());
    assert_eq!(span.span_context.trace_id(), link.span_context.trace_id());
}

#[test]
fn the_destination_is_exchange_key_and_queue_as_far_as_they_are_there_and_differ() {
    assert_eq!(destination("logs", "warning", Some("q")), "logs:warning:q");
    assert_eq!(destination("logs", "q", Some("q")), "logs:q");
    assert_eq!(destination("", "q", Some("q")), "q");
    assert_eq!(destination("logs", "", None), "logs");
    assert_eq!(destination("", "", None), "amq.default");
}

#[test]
fn the_tracestate_is_kept_in_the_span_and_for_what_is_published() {
    let (spans, exporter) = spans();
    let mut carried = properties();
    drop(spans.delivery("task.delete", FROM_COMMANDS, &mut carried));
    assert_eq!(only(&exporter).span_context.trace_state().header(), "vendor=1");
    assert_eq!(carried.tracestate.as_deref(), Some("vendor=1"));
    let mut without = Properties { traceparent: None, ..properties() };
    drop(spans.delivery("task.delete", FROM_COMMANDS, &mut without));
    assert_eq!(without.tracestate, None, "it would be of another trace");
}

#[test]
fn a_publication_is_a_producer_whose_context_is_what_the_message_carries() {
    let (spans, exporter) = spans();
    let incoming = Incoming { properties: properties(), ..Incoming::default() };
    let mut event = Publication::event(&incoming, "task.deleted", "e1".into(), Vec::new());
    drop(spans.publication(&mut event));
    let span = only(&exporter);
    let name = "publish task.events:task.deleted";
    assert_eq!((span.name.as_ref(), &span.span_kind), (name, &SpanKind::Producer));
    values(
        &span,
        [
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.type", "send"),
            ("messaging.operation.name", "publish"),
            ("messaging.destination.name", "task.events:task.deleted"),
            ("messaging.rabbitmq.destination.routing_key", "task.deleted"),
            ("messaging.message.id", "e1"),
            ("messaging.message.conversation_id", "c1"),
        ],
    );
    let carried = event.trace().unwrap();
    assert_eq!(
        (carried.parent, carried.state),
        (&*traceparent(&span.span_context), Some("vendor=1"))
    );
    assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(event.headers.len(), 2, "{:?}", event.headers);
}

#[test]
fn a_publication_that_is_given_up_is_an_error() {
    let (spans, exporter) = spans();
    let incoming = Incoming::default();
    let mut event = Publication::event(&incoming, "task.deleted", "e1".into(), Vec::new());
    spans.publication(&mut event).failed("session_lost");
    let span = only(&exporter);
    values(&span, [("error.type", "session_lost")]);
    assert!(matches!(span.status, Status::Error { .. }));
    assert!(event.trace().is_some(), "a message without a trace begins one");
}

#[test]
fn without_a_collector_nothing_is_made_and_nothing_changes() {
    let incoming = Incoming { properties: properties(), ..Incoming::default() };
    let mut event = Publication::event(&incoming, "task.deleted", "e1".into(), Vec::new());
    let before = event.clone();
    drop(Spans::default().publication(&mut event));
    assert_eq!(event, before);
    let mut carried = properties();
    drop(Spans::default().delivery("task.delete", FROM_COMMANDS, &mut carried));
    assert_eq!(carried, properties());
}

#[test]
fn a_call_is_named_by_its_method_and_template_and_says_where_it_went() {
    let base = "https://go.tallyfy.com/api/";
    let span = called(Kind::TaskDelete, Endpoint::Destroy, base, 0);
    let template = "/organizations/{org_id}/tasks/{task_id}/delete";
    assert_eq!(span.name, format!("DELETE {template}"));
    assert_eq!(span.span_kind, SpanKind::Client);
    let Target { org, id, .. } = target();
    let full = format!("https://go.tallyfy.com/api/organizations/{org}/tasks/{id}/delete");
    values(
        &span,
        [
            ("http.request.method", "DELETE"),
            ("url.full", &full),
            ("url.template", template),
            ("server.address", "go.tallyfy.com"),
            ("server.port", "443"),
        ],
    );
    assert_eq!(value(&span, "http.request.resend_count"), None);
}

#[test]
fn each_kind_and_endpoint_has_a_name_of_its_own() {
    let names = Kind::ALL.map(|kind| {
        let name = |endpoint| called(kind, endpoint, "http://h", 0).name.into_owned();
        (name(Endpoint::Destroy), name(Endpoint::Look))
    });
    let in_org = |method: &str, below: &str| format!("{method} /organizations/{{org_id}}/{below}");
    let expected = [
        ("tasks/{task_id}/delete", "tasks/{task_id}"),
        ("tasks/{task_id}", "tasks/{task_id}"),
        ("runs/{process_id}/delete", "runs/{process_id}"),
        ("tags/{tag_id}", "tags/{tag_id}"),
        ("file/{file_id}", "tasks"),
    ];
    assert_eq!(names, expected.map(|(one, two)| (in_org("DELETE", one), in_org("GET", two))));
    let list = called(Kind::TagDelete, Endpoint::List, "http://u:p@h:81", 0);
    assert_eq!(list.name, in_org("GET", "tasks"));
    let full = value(&list, "url.full").unwrap();
    assert!(full.starts_with("http://REDACTED:REDACTED@h:81/organizations/"), "{full}");
    assert!(full.ends_with("/tasks?is_oneoff=true&per_page=1"), "{full}");
}

#[test]
fn a_call_that_is_made_again_says_for_the_how_manieth_time() {
    let span = called(Kind::TaskDelete, Endpoint::Destroy, "https://h", 3);
    values(&span, [("http.request.resend_count", "3")]);
}

#[test]
fn an_answer_is_an_error_only_where_the_call_has_failed() {
    let answered = |status, error_type: Option<&str>| {
        let (_spans, mut span, exporter) =
            call(Kind::TaskDelete, Endpoint::Destroy, "https://h", 0);
        let response =
            Response { status, body: Body::Empty, retry_after: None, date: None, request_id: None };
        span.answered(&Answer::Status(response));
        span.end(error_type.map(str::to_owned));
        only(&exporter)
    };
    let absent = answered(404, None);
    values(&absent, [("http.response.status_code", "404")]);
    assert_eq!((value(&absent, "error.type"), absent.status), (None, Status::Unset));
    let failed = answered(503, Some("503"));
    values(&failed, [("http.response.status_code", "503"), ("error.type", "503")]);
    assert!(matches!(failed.status, Status::Error { .. }));
}

#[test]
fn a_call_lasts_until_its_answer_however_late_it_is_judged() {
    let (_spans, mut span, exporter) = call(Kind::TaskDelete, Endpoint::Destroy, "https://h", 0);
    span.answered(&Answer::TimedOut);
    let answered = std::time::SystemTime::now();
    std::thread::sleep(Duration::from_millis(5));
    span.end(Some("timeout".to_owned()));
    assert!(only(&exporter).end_time <= answered);
}

#[test]
fn only_a_command_that_has_failed_makes_its_delivery_an_error() {
    let decided = |settlement: &Settlement| {
        let (spans, exporter) = spans();
        let mut span = spans.delivery("task.delete", FROM_COMMANDS, &mut properties());
        span.decided(settlement);
        drop(span);
        let span = only(&exporter);
        (value(&span, "error.type"), matches!(span.status, Status::Error { .. }))
    };
    let gone = Settlement::Finish(samples::outcome(EndKind::AlreadyAbsent));
    assert_eq!(decided(&gone), (None, false));
    let failure = Some(Failure { reason: FailureReason::Rejected, detail: "HTTP 422".to_owned() });
    let outcome = Outcome { failure, ..samples::outcome(EndKind::DeadLettered) };
    let dead = Settlement::DeadLetter(outcome, RetryState::default());
    assert_eq!(decided(&dead), (Some("rejected".to_owned()), true));
    assert_eq!(decided(&Settlement::Requeue), (None, false));
}

#[test]
fn the_scope_has_a_version_and_the_schema_and_the_resource_an_instance() {
    let (spans, exporter) = spans();
    drop(spans.delivery("task.delete", FROM_COMMANDS, &mut properties()));
    let scope = only(&exporter).instrumentation_scope;
    assert_eq!(scope.name(), "tallyfy-delete-worker");
    assert_eq!(scope.version(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(scope.schema_url(), Some("https://opentelemetry.io/schemas/1.44.0"));
    let id = || {
        let id = resource("name").get(&Key::from_static_str(INSTANCE_ID)).unwrap();
        uuid::Uuid::try_parse(&id.as_str()).unwrap()
    };
    assert_ne!(id(), id(), "each instance has its own");
    assert_eq!(id().get_version_num(), 4);
}
