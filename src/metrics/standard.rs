//! The metrics that OpenTelemetry's semantic conventions 1.44 name, as Prometheus spells them:
//! <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/> and
//! <https://opentelemetry.io/docs/specs/semconv/http/http-metrics/>.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use url::Url;

use super::Metrics;
use super::process::Process;

/// The buckets that the conventions recommend for both.
const BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

#[derive(Debug)]
pub(super) struct Standard {
    registry: Registry,
    processed: Family<ProcessLabels, Histogram>,
    requests: Family<RequestLabels, Histogram>,
    server: OnceLock<Arc<Server>>,
}

/// The server that the requests go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    address: String,
    port: u16,
}

impl From<&Url> for Server {
    fn from(base_url: &Url) -> Self {
        let address = base_url.host_str().unwrap_or_default().to_owned();
        Self { address, port: base_url.port_or_known_default().unwrap_or_default() }
    }
}

/// How a request to the API ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestEnd {
    pub method: &'static str,
    pub status: Option<u16>,
    /// What went wrong, if no status came.
    pub class: &'static str,
    pub is_error: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RequestLabels {
    server: Option<Arc<Server>>,
    end: RequestEnd,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ProcessLabels {
    queue: Cow<'static, str>,
    error_type: Option<&'static str>,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let RequestEnd { method, status, class, is_error } = self.end;
        ("http_request_method", method).encode(encoder.encode_label())?;
        if let Some(status) = status {
            ("http_response_status_code", status).encode(encoder.encode_label())?;
        }
        if is_error {
            let status = status.map(|status| status.to_string());
            let error_type = status.unwrap_or_else(|| class.to_owned());
            ("error_type", error_type).encode(encoder.encode_label())?;
        }
        let Some(server) = &self.server else { return Ok(()) };
        ("server_address", server.address.as_str()).encode(encoder.encode_label())?;
        ("server_port", server.port).encode(encoder.encode_label())
    }
}

impl EncodeLabelSet for ProcessLabels {
    /// The queue is the template: producers choose exchange and routing key, and there may be many.
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("messaging_system", "rabbitmq").encode(encoder.encode_label())?;
        ("messaging_operation_name", "process").encode(encoder.encode_label())?;
        ("messaging_destination_template", &*self.queue).encode(encoder.encode_label())?;
        match self.error_type {
            Some(error_type) => ("error_type", error_type).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

impl Default for Standard {
    fn default() -> Self {
        let mut registry = Registry::default();
        let processed = Family::new_with_constructor(histogram as fn() -> Histogram);
        let requests = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "messaging_process_duration_seconds",
            "Processing of deliveries, by queue and failure",
            processed.clone(),
        );
        registry.register(
            "http_client_request_duration_seconds",
            "Requests of the API, by method, status and failure",
            requests.clone(),
        );
        registry.register_collector(Box::new(Process));
        Self { registry, processed, requests, server: OnceLock::new() }
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Standard {
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl Metrics {
    /// Sets the server that the requests go to. Only the first call counts.
    pub fn set_server(&self, server: Server) {
        let _ = self.standard.server.set(Arc::new(server));
    }

    /// A delivery from this queue has been processed; with the reason if it failed for good.
    pub fn observe_process(
        &self,
        queue: impl Into<Cow<'static, str>>,
        error_type: Option<&'static str>,
        took: Duration,
    ) {
        let labels = ProcessLabels { queue: queue.into(), error_type };
        self.standard.processed.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A request to the API has ended.
    pub fn observe_request(&self, end: RequestEnd, took: Duration) {
        let labels = RequestLabels { server: self.standard.server.get().cloned(), end };
        self.standard.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_histograms_have_its_names_labels_and_buckets() {
        let metrics = Metrics::default();
        let base_url: Url = "https://go.tallyfy.com/api".parse().unwrap();
        metrics.set_server(Server::from(&base_url));
        let (method, class) = ("DELETE", "timeout");
        let took = Duration::from_millis(60);
        for (status, is_error) in [(Some(404), false), (Some(503), true), (None, true)] {
            metrics.observe_request(RequestEnd { method, status, class, is_error }, took);
        }
        metrics.observe_process("task.delete", None, took);
        metrics.observe_process("task.delete", Some("rejected"), took);
        let text = metrics.render();
        let server = r#"server_address="go.tallyfy.com",server_port="443""#;
        let request = "http_client_request_duration_seconds_count{http_request_method=\"DELETE\"";
        let process = r#"messaging_process_duration_seconds_count{messaging_system="rabbitmq",messaging_operation_name="process",messaging_destination_template="task.delete""#;
        for line in [
            format!(r#"{request},http_response_status_code="404",{server}}} 1"#),
            format!(r#"{request},http_response_status_code="503",error_type="503",{server}}} 1"#),
            format!(r#"{request},error_type="timeout",{server}}} 1"#),
            format!("{process}}} 1"),
            format!(r#"{process},error_type="rejected"}} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let buckets = text.lines().filter(|line| {
            line.starts_with("messaging_process_duration_seconds_bucket") && !line.contains("error")
        });
        let bounds = buckets.filter_map(|line| line.split("le=\"").nth(1)?.split('"').next());
        assert_eq!(
            bounds.collect::<Vec<_>>().join(" "),
            "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf"
        );
    }
}
