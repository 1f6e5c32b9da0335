//! Connections: accepts them, gives control requests to the control router and all others to the
//! API, and cuts them when a fault says so.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::answers::{self, Cut};
use crate::sandbox::Sandbox;
use crate::{control, visit};

/// If the process has no file descriptor left, accepting again at once would only spin.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

pub(crate) async fn serve(listener: TcpListener, sandbox: Arc<Sandbox>) -> Infallible {
    let control = TowerToHyperService::new(control::router(Arc::clone(&sandbox)));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, Arc::clone(&sandbox), control.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
            }
        }
    }
}

/// Serves one connection. After a cut hyper returns the socket, and the last bytes are written to
/// it directly.
async fn converse(stream: TcpStream, sandbox: Arc<Sandbox>, control: TowerToHyperService<Router>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was not set");
    }
    let service = service_fn(|request| answer(&sandbox, &control, request));
    // No limit on the wait for a head: an idle connection stays open as long as the client likes.
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    let Err(error) = Pin::new(&mut connection).await else { return };
    if let Some(cut) = error.source().and_then(|source| source.downcast_ref::<Cut>()) {
        hang_up(connection.into_parts().io.into_inner(), cut).await;
    } else {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn answer(
    sandbox: &Arc<Sandbox>,
    control: &TowerToHyperService<Router>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Cut> {
    let mut response = if is_control(&request) {
        let Ok(response) = control.call(request).await;
        response
    } else {
        visit::visit(sandbox, request).await?
    };
    response.headers_mut().insert(answers::REQUEST_ID, answers::fresh_request_id());
    Ok(response)
}

fn is_control(request: &Request<Incoming>) -> bool {
    let path = request.uri().path();
    path == "/_sandbox"
        || path.starts_with("/_sandbox/")
        || (path == "/" && matches!(*request.method(), Method::GET | Method::HEAD))
}

async fn hang_up(mut stream: TcpStream, cut: &Cut) {
    // The client may have disconnected already; then the error does not matter.
    let _ = stream.write_all(&cut.0).await;
    let _ = stream.shutdown().await;
}
