//! OpenTelemetry spans: one for each delivery, each request to the API and each publication.
//! Exported by OTLP (HTTP, protobuf) if an endpoint is set; otherwise none are created. Names and
//! attributes are those of the semantic conventions 1.44.
//!
//! This uses OpenTelemetry's own API, not `tracing-opentelemetry` (0.34 would fit). There each span
//! would also be a span of the log: `RUST_LOG=warn` would turn it off unless every layer had its
//! own filter, and the exporter would have to exist before logging starts. And nearly everything
//! here (the parent from the message, our own `traceparent`, attributes known only at the end)
//! bypasses `tracing` and uses this same API there too.

mod call;
mod delivery;
mod logging_exporter;
mod publication;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
    TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, Key, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use url::Url;
use uuid::Builder;

pub(crate) use self::call::{CallSpan, Endpoint};
use self::logging_exporter::LoggingExporter;
use crate::messages::{TraceContext, names};

/// Time limit for the last spans at the end of the process.
const FLUSH: Duration = Duration::from_secs(5);
/// The semantic conventions that names and attributes follow.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
const INSTANCE_ID: &str = "service.instance.id";

/// The collector's address.
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
    /// The exporter cannot be built.
    pub fn to(settings: &OtlpSettings) -> Result<Self, ExporterBuildError> {
        let url = format!("{}/v1/traces", settings.endpoint.as_str().trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(url).build()?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(&settings.service_name))
            .with_batch_exporter(LoggingExporter::new(exporter));
        Ok(Self::by(provider.build()))
    }

    fn by(provider: SdkTracerProvider) -> Self {
        let scope = InstrumentationScope::builder(names::SOURCE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA_URL);
        let tracer = provider.tracer_with_scope(scope.build());
        Self(Some(Exporting { provider, tracer }))
    }

    /// Sends the remaining spans, for five seconds at most. Blocks.
    pub fn flush(&self) {
        if let Self(Some(on)) = self {
            // A failure of the exporter has been logged already.
            let _ = on.provider.shutdown_with_timeout(FLUSH);
        }
    }
}

/// Identifies this service: <https://opentelemetry.io/docs/specs/semconv/resource/service/>. An
/// instance id in `OTEL_RESOURCE_ATTRIBUTES` is kept.
fn resource(service_name: &str) -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let ours = || Resource::builder().with_service_name(service_name.to_owned());
    let resource = ours().with_attribute(version.clone()).build();
    if resource.get(&Key::from_static_str(INSTANCE_ID)).is_some() {
        return resource;
    }
    let id = Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
    ours().with_attributes([version, KeyValue::new(INSTANCE_ID, id.to_string())]).build()
}

impl Exporting {
    fn start(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
        (parent, links): (Option<SpanContext>, Vec<Link>),
    ) -> Span {
        let parent =
            parent.map(|span| Context::new().with_remote_span_context(span)).unwrap_or_default();
        let builder = self.tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        builder.with_links(links).start_with_context(&self.tracer, &parent)
    }
}

/// A context from a message. A `tracestate` that is invalid by the W3C's rules is left out.
fn remote(trace: TraceContext<'_>) -> Option<SpanContext> {
    let trace_id = TraceId::from_hex(trace.trace_id()).ok()?;
    let span_id = SpanId::from_hex(trace.span_id()).ok()?;
    let state = trace.state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, TraceFlags::new(trace.flags()), true, state))
}

fn traceparent(context: &SpanContext) -> String {
    format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8())
}

/// `messaging.destination.name`, as
/// <https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/> composes it.
fn destination(exchange: &str, routing_key: &str, queue: Option<&str>) -> String {
    let queue = queue.filter(|queue| *queue != routing_key);
    let parts: Vec<_> = [exchange, routing_key, queue.unwrap_or_default()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() { "amq.default".to_owned() } else { parts.join(":") }
}

fn texts<'a>(
    texts: impl IntoIterator<Item = (&'static str, Option<&'a str>)>,
) -> impl Iterator<Item = KeyValue> {
    texts.into_iter().filter_map(|(name, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some(KeyValue::new(name, text.to_owned()))
    })
}
