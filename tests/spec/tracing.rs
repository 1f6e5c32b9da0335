//! One trace for one command, whatever befalls it, and real spans at a real collector.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, Status};
use prost::Message as _;
use serde_json::json;

use crate::command_line::{signal, with_settings};
use crate::support::eventually;
use crate::support::process::Running;
use crate::support::rabbitmq::broker;
use crate::support::world::{ORG, World};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";
const CALL: &str = "DELETE /organizations/{org_id}/tasks/{task_id}/delete";

/// Receives spans as OTLP over HTTP.
struct Collector {
    endpoint: String,
    received: Arc<Mutex<Vec<ResourceSpans>>>,
}

impl Collector {
    async fn start() -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&received);
        let receive = async move |body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            seen.lock().unwrap().extend(request.resource_spans);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let routes = Router::new().route("/v1/traces", post(receive));
        tokio::spawn(async { axum::serve(listener, routes).await });
        Self { endpoint, received }
    }

    /// By their names, in the order of their beginning.
    async fn spans(&self, number: usize) -> BTreeMap<String, Vec<Span>> {
        let mut spans = eventually(&format!("{number} spans"), async || {
            let received = self.received.lock().unwrap().clone();
            let scopes = received.into_iter().flat_map(|resource| resource.scope_spans);
            let spans: Vec<_> = scopes.flat_map(|scope| scope.spans).collect();
            (spans.len() == number).then_some(spans)
        })
        .await;
        spans.sort_by_key(|span| span.start_time_unix_nano);
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for span in spans {
            by_name.entry(span.name.clone()).or_default().push(span);
        }
        by_name
    }
}

fn worker(world: &World, settings: &[(&str, &str)]) -> Running {
    let mut command = with_settings(world, &["run"]);
    Running::start(command.envs(settings.iter().copied()).stderr(Stdio::piped()))
}

async fn ended(worker: Running) -> String {
    signal(&worker, "TERM");
    String::from_utf8(worker.output().await.stderr).unwrap()
}

fn traced(id: &str, traceparent: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    headers.insert("tracestate".into(), AMQPValue::LongString("vendor=1".into()));
    BasicProperties::default().with_message_id(id.into()).with_headers(headers)
}

async fn command(world: &World, task: &str, traceparent: &str) {
    world.sandbox.tasks(ORG, &[task], "present").await;
    let body = json!({"org_id": ORG, "task_id": task}).to_string();
    world.tester.publish(body.as_bytes(), traced(task, traceparent)).await;
}

/// As text; of a number too.
fn attribute(span: &Span, name: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn error_type(span: &Span) -> (StatusCode, Option<String>) {
    let status = span.status.as_ref().map_or(StatusCode::Unset, Status::code);
    (status, attribute(span, "error.type"))
}

async fn seen_by_the_api(world: &World, task: &str) -> Vec<Option<String>> {
    let calls = world.sandbox.calls_for(task).await;
    calls.iter().map(|call| call["headers"]["traceparent"].as_str().map(str::to_owned)).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[tokio::test]
async fn one_trace_goes_from_the_command_through_retries_and_waits_to_the_call_and_the_event() {
    let (world, collector) = (World::without_worker(|_| {}).await, Collector::start().await);
    let exporting = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ];
    // Four tries in the process, then a wait.
    world.sandbox.fault("t1", 4, json!({"status": 503})).await;
    let worker = worker(&world, &exporting);
    command(&world, "t1", &format!("00-{TRACE}-{PRODUCER}-01")).await;
    let event = world.end_message("t1").await;
    // Two deliveries, five calls, a waiting copy and an event.
    let spans = collector.spans(9).await;
    let (deliveries, calls) = (&spans["process task.delete"], &spans[CALL]);
    let copy = &spans["publish task.retry:task.delete.wait.200ms"][0];
    let told = &spans["publish task.events:task.deleted"][0];
    assert_eq!((deliveries.len(), calls.len()), (2, 5));
    assert!(spans.values().flatten().all(|span| hex(&span.trace_id) == TRACE));
    assert!(spans.values().flatten().all(|span| span.trace_state == "vendor=1"));
    assert_eq!(hex(&deliveries[0].parent_span_id), PRODUCER);
    assert_eq!(hex(&deliveries[0].links[0].span_id), PRODUCER);
    assert_eq!(copy.parent_span_id, deliveries[0].span_id);
    assert_eq!(deliveries[1].parent_span_id, copy.span_id);
    assert_eq!(deliveries[1].links[0].span_id, copy.span_id);
    let parents: Vec<_> = calls.iter().map(|call| call.parent_span_id.clone()).collect();
    let [first, second] = [&deliveries[0].span_id, &deliveries[1].span_id].map(Clone::clone);
    assert_eq!(parents, [vec![first; 4], vec![second.clone()]].concat());
    let resends = calls.iter().map(|call| attribute(call, "http.request.resend_count"));
    let expected = [None, Some("1"), Some("2"), Some("3"), Some("4")];
    assert_eq!(resends.collect::<Vec<_>>(), expected.map(|n| n.map(str::to_owned)));
    let sent: Vec<_> =
        calls.iter().map(|call| Some(format!("00-{TRACE}-{}-01", hex(&call.span_id)))).collect();
    assert_eq!(seen_by_the_api(&world, "t1").await, sent);
    assert_eq!(told.parent_span_id, second);
    assert_eq!(event.header("traceparent"), Some(format!("00-{TRACE}-{}-01", hex(&told.span_id))));
    assert_eq!(event.header("tracestate").as_deref(), Some("vendor=1"));
    let log = ended(worker).await;
    let trace_id = format!("\"trace_id\":\"{TRACE}\"");
    let mut of_the_trace = log.lines().filter(|line| line.contains(&trace_id));
    assert_eq!(of_the_trace.clone().count(), 2, "the wait and the end: {log}");
    assert!(of_the_trace.all(|line| line.contains("\"request_id\":\"sandbox-")), "{log}");
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_dead_letter_and_a_command_without_a_trace_belong_to_one_too() {
    let (world, collector) = (World::without_worker(|_| {}).await, Collector::start().await);
    let endpoint = collector.endpoint.as_str();
    world.sandbox.fault("t1", 1, json!({"status": 422, "body": {"error": true}})).await;
    let worker = worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
    world.command(ORG, "t1").await;
    let dead_letter = world.dead_letter("t1").await;
    ended(worker).await;
    // A delivery, a call, a dead letter and an event.
    let spans = collector.spans(4).await;
    let delivery = &spans["process task.delete"][0];
    let copy = &spans["publish task.dlx:task.delete.dead"][0];
    let expected = format!("00-{}-{}-01", hex(&delivery.trace_id), hex(&copy.span_id));
    assert_eq!(dead_letter.header("traceparent"), Some(expected));
    assert_eq!(copy.parent_span_id, delivery.span_id);
    assert_eq!(error_type(delivery), (StatusCode::Error, Some("rejected".to_owned())));
    assert_eq!(error_type(&spans[CALL][0]), (StatusCode::Error, Some("422".to_owned())));
    assert!(delivery.parent_span_id.is_empty());
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn a_404_or_410_that_ends_as_success_is_no_error() {
    let (world, collector) = (World::without_worker(|_| {}).await, Collector::start().await);
    let endpoint = collector.endpoint.as_str();
    let worker = worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
    world.sandbox.tasks(ORG, &["t1", "t2"], "gone").await;
    world.sandbox.fault("t2", 1, json!({"status": 410})).await;
    for task in ["t1", "t2"] {
        world.command(ORG, task).await;
        assert_eq!(world.end(task).await["outcome"], "already_absent");
    }
    ended(worker).await;
    // Of each a delivery, a call and an event; and the one list that proves the absences.
    let spans = collector.spans(7).await;
    let statuses = spans[CALL].iter().map(|call| attribute(call, "http.response.status_code"));
    assert_eq!(statuses.flatten().collect::<Vec<_>>(), ["404", "410"]);
    let list = &spans["GET /organizations/{org_id}/tasks"][0];
    assert_eq!(attribute(list, "http.response.status_code").as_deref(), Some("200"));
    for span in spans.values().flatten() {
        assert_eq!(error_type(span), (StatusCode::Unset, None), "{span:?}");
    }
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn the_spans_say_how_a_message_came_where_a_call_went_and_who_has_made_them() {
    let (world, collector) = (World::without_worker(|_| {}).await, Collector::start().await);
    let endpoint = collector.endpoint.as_str();
    let named = ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=worker-7,deployment=blue");
    let worker = worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), named]);
    world.sandbox.tasks(ORG, &["t1"], "present").await;
    world.command(ORG, "t1").await;
    world.end("t1").await;
    ended(worker).await;
    let spans = collector.spans(3).await;
    let delivery = &spans["process task.delete"][0];
    let of_the_delivery = |name: &str| attribute(delivery, name).unwrap_or_default();
    assert_eq!(of_the_delivery("messaging.destination.template"), "task.delete");
    assert_eq!(of_the_delivery("messaging.rabbitmq.destination.routing_key"), "task.delete");
    assert_eq!(of_the_delivery("messaging.rabbitmq.message.delivery_tag"), "1");
    assert_eq!(of_the_delivery("messaging.message.id"), "t1");
    let url = attribute(&spans[CALL][0], "url.full").unwrap();
    let call = &world.sandbox.calls_for("t1").await[0];
    assert!(url.ends_with(call["path"].as_str().unwrap()), "{url}: {call}");
    let received = collector.received.lock().unwrap().clone();
    let (resource, scope) = (received[0].resource.clone().unwrap(), &received[0].scope_spans[0]);
    let of_the_resource = |key: &str| {
        let attribute = resource.attributes.iter().find(|attribute| attribute.key == key);
        match attribute.and_then(|attribute| attribute.value.clone()?.value) {
            Some(Value::StringValue(text)) => text,
            other => panic!("{key}: {other:?}"),
        }
    };
    assert_eq!(of_the_resource("service.name"), "tallyfy-delete-worker");
    assert!(!of_the_resource("service.version").is_empty());
    assert_eq!(of_the_resource("service.instance.id"), "worker-7");
    assert_eq!(of_the_resource("deployment"), "blue");
    assert_eq!(scope.schema_url, "https://opentelemetry.io/schemas/1.44.0");
    assert!(!scope.scope.as_ref().unwrap().version.is_empty());
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn what_rabbitmq_took_out_of_the_queue_has_the_span_of_a_delivery_too() {
    let (world, collector) = (World::without_worker(|_| {}).await, Collector::start().await);
    let body = json!({"org_id": ORG, "task_id": "t1"}).to_string();
    let expiring = traced("t1", &format!("00-{TRACE}-{PRODUCER}-01")).with_expiration("1".into());
    world.tester.publish(body.as_bytes(), expiring).await;
    eventually("RabbitMQ has moved it", async || {
        let queue = "task.delete.undeliverable".to_owned();
        (world.tester.ready(std::slice::from_ref(&queue)).await[&queue] == 1).then_some(())
    })
    .await;
    let endpoint = collector.endpoint.as_str();
    let worker = worker(&world, &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
    world.end("t1").await;
    ended(worker).await;
    // With a dead letter and an event.
    let spans = collector.spans(3).await;
    let delivery = &spans["process task.delete.undeliverable"][0];
    assert_eq!(
        (hex(&delivery.trace_id), hex(&delivery.parent_span_id)),
        (TRACE.into(), PRODUCER.into())
    );
    let expired = (StatusCode::Error, Some("expired_in_queue".to_owned()));
    assert_eq!(error_type(delivery), expired);
    broker().delete_vhost(&world.vhost).await;
}

#[tokio::test]
async fn without_a_collector_the_trace_is_passed_on_as_it_came_and_only_where_it_is_one() {
    let world = World::start().await;
    let traceparent = format!("00-{TRACE}-{PRODUCER}-00");
    command(&world, "t1", &traceparent).await;
    assert_eq!(world.end_message("t1").await.header("traceparent"), Some(traceparent.clone()));
    assert_eq!(seen_by_the_api(&world, "t1").await, [Some(traceparent)]);
    command(&world, "t2", "00-nonsense").await;
    world.end("t2").await;
    assert_eq!(seen_by_the_api(&world, "t2").await, [None]);
    world.assert_drained().await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_one_line_of_the_log_and_no_command() {
    let world = World::without_worker(|_| {}).await;
    let exporting =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"), ("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let worker = worker(&world, &exporting);
    for task in ["t1", "t2", "t3"] {
        world.delete(task).await;
        assert_eq!(world.end(task).await["outcome"], "deleted");
    }
    let log = ended(worker).await;
    assert_eq!(log.matches("spans cannot be exported").count(), 1, "{log}");
    broker().delete_vhost(&world.vhost).await;
}
