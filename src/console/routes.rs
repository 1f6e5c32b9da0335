//! Every route, and the layers that all of them share.

use std::sync::Arc;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use super::access::known_hosts;
use super::viewer::Viewer;
use super::{Shared, act, dead, dead_letter, guard, guard_actions, overview, page};

/// Only content of our own, and never in anyone's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// # A page of another site cannot act for a user
///
/// `CsrfLayer` refuses what a browser sends here from another site: by `Sec-Fetch-Site`, else by
/// `Origin` against `Host`. Nothing that changes anything is a GET.
pub(super) fn routes(shared: Arc<Shared>) -> Router {
    let header = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value))
    };
    let hosts = from_fn_with_state(Arc::clone(&shared), known_hosts);
    Router::new()
        .route("/", get(overview::show))
        .route("/dead", get(dead::show))
        .route("/letter", get(dead_letter::show))
        .route("/look", post(dead::look))
        .route("/preview/replay", post(act::preview_replay))
        .route("/preview/discard", post(act::preview_discard))
        .route("/preview/export", post(act::preview_export))
        .route("/replay", post(act::replay))
        .route("/discard", post(act::discard))
        .route("/export", post(act::export))
        .route("/actions", get(act::list))
        .route("/actions/{id}", get(act::show))
        .route("/actions/{id}/cancel", post(act::cancel))
        .route("/guard", get(guard::show))
        .route("/guard/look", post(guard_actions::look))
        .route("/guard/release", post(guard_actions::release))
        .route("/guard/reject", post(guard_actions::reject))
        .route("/pause", post(guard_actions::pause))
        .route("/resume", post(guard_actions::resume))
        .route("/style.css", get(style))
        .route("/script.js", get(script))
        .fallback(nowhere)
        .with_state(shared)
        .layer(CsrfLayer::new().with_rejection_response(cross_site))
        .layer(hosts)
        .layer(header(CONTENT_SECURITY_POLICY, POLICY))
        .layer(header(X_FRAME_OPTIONS, "DENY"))
        .layer(header(X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(header(REFERRER_POLICY, "same-origin"))
        .layer(header(CACHE_CONTROL, "no-store"))
}

fn cross_site(_: tower_http::csrf::ProtectionError) -> Response {
    (StatusCode::FORBIDDEN, "refused: this form was sent from another site\n").into_response()
}

async fn nowhere(viewer: Viewer) -> Response {
    page::refusal(&viewer, StatusCode::NOT_FOUND, "There is no such page.")
}

async fn style(_: Viewer) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

async fn script(_: Viewer) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/javascript; charset=utf-8")], page::SCRIPT)
}
