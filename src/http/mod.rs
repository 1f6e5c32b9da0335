//! EDGE: the operator's port: `/livez`, `/readyz`, `/metrics`, and `/status` for callers on the
//! machine itself.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::Health;
use crate::metrics::Metrics;

/// More than probes, scrapers and operators need at once.
const MOST_CONNECTIONS: usize = 32;
/// From the connection to the last header, and from one request to the next.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    /// State of the breaker and of each organisation.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Nothing is deleted.
    pub is_dry_run: bool,
}

/// A port that is bound and not served yet.
#[derive(Debug)]
pub(crate) struct Bound(TcpListener);

/// Binds the address, so that a wrong one is noticed before anything else starts.
///
/// # Errors
/// The system's error if the address cannot be bound.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<Bound> {
    TcpListener::bind(address).await.map(Bound)
}

impl Bound {
    /// The bound address, with the real port if 0 was requested.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Answers until `stop` fires.
    ///
    /// # The operator's port cannot stop deletion
    ///
    /// Each connection takes a file descriptor, and without descriptors there are no API calls and
    /// no session with the broker. So there are at most [`MOST_CONNECTIONS`]. One more closes the
    /// oldest, so that a liveness probe is answered whatever other clients hold open. A client that
    /// does not send its request in time is disconnected.
    pub(crate) async fn serve(self, routes: Router, stop: CancellationToken) {
        let (connections, mut oldest_first) = (TaskTracker::new(), VecDeque::<AbortHandle>::new());
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.0.accept() => accepted,
            };
            let Ok((stream, caller)) = accepted else {
                // No descriptor is free just now. The pause avoids a busy loop.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            oldest_first.retain(|connection| !connection.is_finished());
            if oldest_first.len() >= MOST_CONNECTIONS {
                oldest_first.pop_front().inspect(AbortHandle::abort);
            }
            let routes = routes.clone().layer(Extension(ConnectInfo(caller)));
            let connection = connections.spawn(connection(stream, routes, stop.clone()));
            oldest_first.push_back(connection.abort_handle());
        }
        connections.close();
        connections.wait().await;
    }
}

/// The pages of a worker.
pub(crate) fn routes(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .route("/status", get(status))
        .with_state(pages)
}

async fn connection(stream: TcpStream, routes: Router, stop: CancellationToken) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    let connection =
        server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

/// # Ids are shown on the machine itself only
///
/// The page names organisations, and the port may be open to a whole cluster, so other callers are
/// refused.
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
    let note = if port.is_dry_run { " (dry run: nothing is deleted)" } else { "" };
    if reasons.is_empty() {
        (StatusCode::OK, format!("ready{note}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}{note}\n", reasons.join("; ")))
    }
}

async fn render_metrics(State(port): State<Pages>, headers: HeaderMap) -> impl IntoResponse {
    port.metrics.set_readiness(&port.health);
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if prefers_openmetrics(accepted) {
        ([(CONTENT_TYPE, OPENMETRICS)], port.metrics.render())
    } else {
        ([(CONTENT_TYPE, TEXT)], port.metrics.render_text())
    }
}

/// Whether a client accepts OpenMetrics and prefers it at least as much as plain text. Prometheus's
/// own client libraries choose the same way.
fn prefers_openmetrics(accepted: &str) -> bool {
    let quality = |wanted: &str| {
        let qualities = accepted.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts.next()?.eq_ignore_ascii_case(wanted);
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            is_it.then_some(quality.unwrap_or(1.0))
        });
        qualities.fold(0.0, f32::max)
    };
    let open = quality("application/openmetrics-text");
    open > 0.0 && open >= quality("text/plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_name_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let text_first = "text/plain;version=0.0.4;q=0.6, application/openmetrics-text;q=0.5";
        let refused = "application/openmetrics-text;q=0";
        for (accepted, expected) in [
            (prometheus, true),
            ("application/openmetrics-text", true),
            (text_first, false),
            (refused, false),
            ("text/plain", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(prefers_openmetrics(accepted), expected, "{accepted}");
        }
    }
}
