//! EDGE: the operator's port: `/livez`, `/readyz`, `/metrics`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Port {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// A port that is bound and not served yet.
#[derive(Debug)]
pub struct Bound(TcpListener);

/// Takes the address, so that a wrong one is noticed before anything else starts.
///
/// # Errors
/// The system's word, where the address cannot be had.
pub async fn bind(address: SocketAddr) -> io::Result<Bound> {
    TcpListener::bind(address).await.map(Bound)
}

impl Bound {
    /// The address that was got: the real port, where 0 was asked for.
    ///
    /// # Errors
    /// The system's word.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `stop` fires.
    pub async fn serve(self, health: Arc<Health>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render_metrics))
            .with_state(Port { health, metrics });
        let served = axum::serve(self.0, routes).with_graceful_shutdown(stop.cancelled_owned());
        let _ = served.await;
    }
}

async fn livez(State(port): State<Port>) -> impl IntoResponse {
    if port.health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the worker's loop hangs\n")
    }
}

async fn readyz(State(port): State<Port>) -> impl IntoResponse {
    let reasons = port.health.reasons();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; ")))
    }
}

async fn render_metrics(State(port): State<Port>) -> impl IntoResponse {
    port.metrics.ready.set(i64::from(port.health.reasons().is_empty()));
    ([(CONTENT_TYPE, OPENMETRICS)], port.metrics.render())
}
