//! Answers as bytes: the normal ones, and every kind of broken answer that a fault may ask for.

use std::convert::Infallible;
use std::fmt::{self, Write};
use std::future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use futures_util::stream;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Response};

use crate::fault_effects::{Canned, Effect, Reply};
use crate::normal_answers::Answer;

/// The size of one chunk of a stream.
static CHUNK: [u8; 65_536] = [b' '; 65_536];
const GARBAGE: &[u8] = b"\x00\x16\x03garbage, not HTTP\r\n\xff\xfe\r\n\r\n";
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Ends the connection after these bytes, which are written directly to the socket, not by hyper.
#[derive(Debug)]
pub(crate) struct Cut(pub(crate) Bytes);

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a fault cuts the connection after {} bytes", self.0.len())
    }
}

impl std::error::Error for Cut {}

pub(crate) fn normal(answer: &Answer) -> Response<Body> {
    let body = answer.body.as_ref().map(|json| Body::from(json.to_string()));
    let has_body = body.is_some();
    let mut response = Response::new(body.unwrap_or_default());
    *response.status_mut() = answer.status;
    if has_body {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// The status that the client will see first, if the effect sends one.
pub(crate) fn promised_status(effect: &Effect) -> Option<u16> {
    effect.reply.as_ref().and_then(answered_by).map(|canned| canned.status.as_u16())
}

/// `visit` is dropped when the request has ended: after the last byte of a streamed body.
pub(crate) async fn scripted(
    effect: &Effect,
    visit: impl Send + 'static,
) -> Result<Response<Body>, Cut> {
    let Some(reply) = &effect.reply else { return Err(Cut(Bytes::new())) };
    match reply {
        Reply::Canned(canned) => Ok(respond(canned, Body::from(canned.body.clone()))),
        Reply::Endless { canned, bytes } => Ok(respond(canned, endless(*bytes, visit))),
        Reply::Drip { canned, every } => {
            Ok(respond(canned, drip(canned.body.clone(), *every, visit)))
        }
        Reply::Truncated(canned) => Err(Cut(truncated(canned))),
        Reply::Nothing => Err(Cut(Bytes::new())),
        Reply::Garbage => Err(Cut(Bytes::from_static(GARBAGE))),
        Reply::Hang => future::pending().await,
    }
}

/// Different for every answer of this process.
pub(crate) fn fresh_request_id() -> HeaderValue {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let text =
        format!("sandbox-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed) + 1);
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("sandbox"))
}

fn answered_by(reply: &Reply) -> Option<&Canned> {
    match reply {
        Reply::Canned(canned)
        | Reply::Endless { canned, .. }
        | Reply::Drip { canned, .. }
        | Reply::Truncated(canned) => Some(canned),
        Reply::Nothing | Reply::Hang | Reply::Garbage => None,
    }
}

fn respond(canned: &Canned, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = canned.status;
    *response.headers_mut() = headers(canned);
    response
}

fn headers(canned: &Canned) -> HeaderMap {
    let mut headers = canned.headers.clone();
    if let Some(ahead) = canned.retry_after_date
        && let Ok(date) = HeaderValue::from_str(&http_date(SystemTime::now() + ahead))
    {
        headers.insert(RETRY_AFTER, date);
    }
    headers
}

/// Rounded up: an HTTP-date has only whole seconds, and must not lie before the moment asked for.
fn http_date(moment: SystemTime) -> String {
    httpdate::fmt_http_date(moment + Duration::from_nanos(999_999_999))
}

/// A generator of a body. It owns the visit, which ends with it.
fn endless(bytes: u64, visit: impl Send + 'static) -> Body {
    Body::from_stream(stream::unfold((bytes, visit), |(left, visit)| async move {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK.len());
        let chunk = Bytes::from_static(&CHUNK[..length]);
        (length > 0).then(|| (Ok::<_, Infallible>(chunk), (left - length as u64, visit)))
    }))
}

fn drip(body: Bytes, every: Duration, visit: impl Send + 'static) -> Body {
    Body::from_stream(stream::unfold((0, body, visit), move |(at, body, visit)| async move {
        tokio::time::sleep(every).await;
        let byte = body.slice(at..=at);
        Some((Ok::<_, Infallible>(byte), ((at + 1) % body.len(), body, visit)))
    }))
}

/// Written by hand, because hyper sends no body that is shorter than its `Content-Length`.
fn truncated(canned: &Canned) -> Bytes {
    let mut headers = headers(canned);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(canned.body.len()));
    headers.insert(REQUEST_ID, fresh_request_id());
    let mut head = String::new();
    let reason = canned.status.canonical_reason().unwrap_or("Unknown");
    // Writing to a String cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", canned.status.as_u16());
    for (name, value) in &headers {
        let _ = write!(head, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(&canned.body[..canned.body.len() / 2]);
    Bytes::from(bytes)
}
