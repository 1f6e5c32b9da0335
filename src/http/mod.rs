//! EDGE: the operator's port: `/livez`, `/readyz`, `/metrics`, and `/status` for callers on the machine itself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// The state of the breaker and of each organisation.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// A port that is bound and not served yet.
#[derive(Debug)]
pub(crate) struct Bound(TcpListener);

/// Takes the address, so that a wrong one is noticed before anything else starts.
///
/// # Errors
/// The system's word, where the address cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<Bound> {
    TcpListener::bind(address).await.map(Bound)
}

impl Bound {
    /// The address that was got: the real port, where 0 was asked for.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `stop` fires.
    pub(crate) async fn serve(self, pages: Pages, stop: CancellationToken) {
        let routes = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render_metrics))
            .route("/status", get(status))
            .with_state(pages)
            .into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(self.0, routes).with_graceful_shutdown(stop.cancelled_owned());
        let _ = served.await;
    }
}

/// # Ids are shown on the machine itself only
///
/// The page names organisations, and the port may be open to a whole cluster: others are refused.
async fn status(
    State(port): State<Pages>,
    ConnectInfo(caller): ConnectInfo<SocketAddr>,
) -> Response {
    if caller.ip().to_canonical().is_loopback() {
        Json((port.status)()).into_response()
    } else {
        (StatusCode::FORBIDDEN, "only for callers on a loopback address\n").into_response()
    }
}

async fn livez(State(port): State<Pages>) -> impl IntoResponse {
    if port.health.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the worker's loop hangs\n")
    }
}

async fn readyz(State(port): State<Pages>) -> impl IntoResponse {
    let reasons = port.health.reasons();
    if reasons.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", reasons.join("; ")))
    }
}

async fn render_metrics(State(port): State<Pages>) -> impl IntoResponse {
    port.metrics.ready.set(i64::from(port.health.reasons().is_empty()));
    ([(CONTENT_TYPE, OPENMETRICS)], port.metrics.render())
}
