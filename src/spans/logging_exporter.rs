//! Logs once that spans do not get through, and once that they do again. The SDK itself would log
//! nothing, or every failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;
use tracing::{info, warn};

#[derive(Debug)]
pub(super) struct LoggingExporter {
    exporter: SpanExporter,
    is_down: AtomicBool,
}

impl LoggingExporter {
    pub(super) fn new(exporter: SpanExporter) -> Self {
        Self { exporter, is_down: AtomicBool::new(false) }
    }
}

impl opentelemetry_sdk::trace::SpanExporter for LoggingExporter {
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
