//! Spans of OpenTelemetry: one for each delivery, one for each call. Exported by OTLP (HTTP,
//! protobuf) where an endpoint is set; else nothing is made and nothing is kept. Names and
//! attributes follow the semantic conventions of messaging and HTTP.
//!
//! This speaks OpenTelemetry's own API, not `tracing-opentelemetry` (0.34 would fit). There each
//! span would be a span of the log, too: `RUST_LOG=warn` would turn it off unless every layer had a
//! filter of its own, and the exporter would have to stand before the log starts. And nearly all
//! that is said here (the parent from the message, our own `traceparent`, what is known only at the
//! end) goes past `tracing` to this same API there as well.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanData};
use tracing::{info, warn};
use url::Url;

use crate::kind::{Kind, Look};
use crate::messages::{Properties, Target, TraceContext, names};
use crate::policy::answer::Answer;
use crate::policy::dry_run::CallMode;
use crate::policy::settlement::Settlement;
use crate::policy::verdict::Verdict;

/// For the last spans at the end of the process.
const FLUSH: Duration = Duration::from_secs(5);

/// Where a collector is.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// Base URL, to which `/v1/traces` is added.
    pub endpoint: Url,
    /// `service.name` of the spans.
    pub service_name: String,
}

/// Where spans go, if anywhere.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Exporting>);

#[derive(Debug, Clone)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Spans {
    /// Exports to a collector. The SDK reads the rest of the standard's variables
    /// (`OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS` and so on)
    /// itself.
    ///
    /// # Errors
    /// Where the exporter cannot be built.
    pub fn to(settings: &OtlpSettings) -> Result<Self, ExporterBuildError> {
        let url = format!("{}/v1/traces", settings.endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(url).build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(settings.service_name.clone());
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.with_attribute(version).build())
            .with_batch_exporter(Telling { exporter, is_down: AtomicBool::new(false) })
            .build();
        let tracer = provider.tracer(names::SOURCE);
        Ok(Self(Some(Exporting { provider, tracer })))
    }

    /// Begins the span of a delivery. From then on its properties carry that span, so that
    /// everything that is published about the command, and its next delivery, belong to the same
    /// trace.
    pub fn delivery(&self, kind: Kind, properties: &mut Properties) -> DeliverySpan {
        let Self(Some(on)) = self else { return DeliverySpan(None) };
        let mut attributes = vec![
            KeyValue::new("messaging.system", "rabbitmq"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.destination.name", kind.queue()),
        ];
        let mut add = |name: &'static str, text: &Option<String>| {
            attributes.extend(text.clone().map(|text| KeyValue::new(name, text)));
        };
        add("messaging.message.id", &properties.message_id);
        add("messaging.message.conversation_id", &properties.correlation_id);
        let span = on.start(format!("process {kind}"), SpanKind::Consumer, attributes, properties);
        properties.traceparent = Some(traceparent(span.span_context()));
        DeliverySpan(Some(span))
    }

    /// Begins the span of one call.
    pub fn call(
        &self,
        kind: Kind,
        mode: CallMode,
        properties: &Properties,
        base_url: &Url,
    ) -> CallSpan {
        let Self(Some(on)) = self else { return CallSpan(None) };
        let method = if mode == CallMode::Destroy { "DELETE" } else { "GET" };
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.template", url_template(kind, mode)),
        ];
        attributes.extend(
            base_url.host_str().map(|host| KeyValue::new("server.address", host.to_owned())),
        );
        let port = base_url.port_or_known_default();
        attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        let span = on.start(method, SpanKind::Client, attributes, properties);
        let parent = traceparent(span.span_context());
        CallSpan(Some((span, parent)))
    }

    /// Sends what is left, five seconds at most. Blocks.
    pub fn flush(&self) {
        if let Self(Some(on)) = self {
            // What the exporter could not send has been told.
            let _ = on.provider.shutdown_with_timeout(FLUSH);
        }
    }
}

/// The call's path with the names of the ids in their places.
fn url_template(kind: Kind, mode: CallMode) -> String {
    let id = format!("{{{}}}", kind.spec().id_member);
    let below = match (mode, kind.spec().look) {
        (CallMode::Destroy, _) => kind.path(&id).collect::<Vec<_>>().join("/"),
        (CallMode::Look, Look::At(place)) => format!("{place}/{id}"),
        (CallMode::Look, Look::Nowhere) => "tasks".to_owned(),
    };
    format!("/organizations/{{org_id}}/{below}")
}

impl Exporting {
    fn start(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
        properties: &Properties,
    ) -> Span {
        let remote = properties.trace().and_then(remote);
        let parent =
            remote.map(|span| Context::new().with_remote_span_context(span)).unwrap_or_default();
        let builder = self.tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        builder.start_with_context(&self.tracer, &parent)
    }
}

fn remote(trace: TraceContext<'_>) -> Option<SpanContext> {
    let trace_id = TraceId::from_hex(trace.trace_id()).ok()?;
    let span_id = SpanId::from_hex(trace.span_id()).ok()?;
    Some(SpanContext::new(
        trace_id,
        span_id,
        TraceFlags::new(trace.flags()),
        true,
        TraceState::default(),
    ))
}

fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// The span of one delivery; it ends when this is dropped.
#[must_use]
pub struct DeliverySpan(Option<Span>);

impl DeliverySpan {
    /// What the broker will be told.
    pub fn decided(&mut self, settlement: &Settlement) {
        let Self(Some(span)) = self else { return };
        span.set_attribute(KeyValue::new("tallyfy.settlement", settlement.as_str()));
        match settlement {
            Settlement::Finish(outcome) | Settlement::DeadLetter(outcome, _) => {
                if let Some(Target { kind, org, id }) = &outcome.target {
                    span.set_attribute(KeyValue::new("tallyfy.org_id", org.to_string()));
                    let name = format!("tallyfy.{}", kind.spec().id_member);
                    span.set_attribute(KeyValue::new(name, id.to_string()));
                }
                span.set_attribute(KeyValue::new("tallyfy.attempts", i64::from(outcome.attempts)));
                if let Some(failure) = &outcome.failure {
                    span.set_attribute(KeyValue::new("error.type", failure.reason.as_str()));
                    span.set_status(Status::error(failure.detail.clone()));
                }
            }
            Settlement::RetryLater(wait) | Settlement::Postpone(wait) => {
                span.set_attribute(KeyValue::new("tallyfy.wait", wait.delay.name()));
            }
            Settlement::DryRun(dry_run) => {
                span.set_attribute(KeyValue::new("tallyfy.would", dry_run.would));
            }
            Settlement::Undo(..)
            | Settlement::Hold(_)
            | Settlement::Reject(_)
            | Settlement::Requeue => {}
        }
    }
}

/// The span of one call; it ends when this is dropped.
#[must_use]
pub struct CallSpan(Option<(Span, String)>);

impl CallSpan {
    /// What the call carries: this span, or where none is made, what the command came with.
    pub fn context<'a>(&'a self, properties: &'a Properties) -> Option<TraceContext<'a>> {
        match self {
            Self(Some((_, parent))) => Some(TraceContext {
                parent,
                state: properties.trace().and_then(|trace| trace.state),
            }),
            Self(None) => properties.trace(),
        }
    }

    /// What the API said, and what it means.
    pub fn answered(&mut self, answer: &Answer, verdict: Verdict) {
        let Self(Some((span, _))) = self else { return };
        span.set_attribute(KeyValue::new("tallyfy.verdict", verdict.as_str()));
        let status = answer.status();
        span.set_attributes(
            status.map(|n| KeyValue::new("http.response.status_code", i64::from(n))),
        );
        if status.is_none_or(|status| status >= 400) {
            let kind =
                status.map_or_else(|| answer.class().to_owned(), |status| status.to_string());
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error(answer.describe()));
        }
    }
}

/// Tells once that spans do not get through, and once that they do again. The SDK itself would say
/// nothing, or each time.
#[derive(Debug)]
struct Telling {
    exporter: SpanExporter,
    is_down: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let was_down = self.is_down.swap(result.is_err(), Ordering::SeqCst);
        match &result {
            Err(error) if !was_down => {
                warn!("spans cannot be exported and are lost until they can: {error}");
            }
            Ok(()) if was_down => info!("spans are exported again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
