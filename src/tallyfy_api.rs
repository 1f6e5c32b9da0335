//! EDGE: the one HTTP call. Turns a response or a failure of the transport into an [`Answer`];
//! judges nothing.
//!
//! No redirects, no retries of its own, no more than 64 KiB of an answer.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Certificate, Client, Proxy, RequestBuilder, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use serde_json::Value;

use crate::kind::Look;
use crate::messages::{OrgId, Target, TraceContext, names};
use crate::policy::answer::{Answer, Body, Response};
use crate::policy::dry_run::{CallMode, Seen};

/// Of the GET that lists one of an organisation's tasks.
pub(crate) const LIST_QUERY: &str = "is_oneoff=true&per_page=1";
const LONGEST_BODY: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Below what servers and load balancers usually keep, so that a call seldom meets a connection
/// that is being closed (hyperium/hyper#2136).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENT_HEADER: HeaderName = HeaderName::from_static("x-tallyfy-client");
const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Where the API is and how long it may take.
#[derive(Clone)]
pub struct ApiSettings {
    /// Everything before `/organizations`.
    pub base_url: Url,
    /// One call, from connect to the last byte.
    pub request_timeout: Duration,
    /// Through which the calls go, where set; may hold a password.
    pub proxy: Option<Url>,
    /// Additional CA certificates (PEM).
    pub ca_file: Option<PathBuf>,
}

/// The API as far as nothing is changed: its calls are GETs.
#[derive(Clone)]
pub struct TallyfyApi {
    client: Client,
    base_url: Url,
}

/// The API as far as something is destroyed.
///
/// # In a dry run no destructive call can be made
///
/// The method and the URL of the destructive calls are known here only, and a dry run has none of
/// these: [`TallyfyApi::destructive`] makes the only one there is.
pub struct DestructiveApi(TallyfyApi);

impl TallyfyApi {
    /// A client; connects to nothing yet. Needs the process's TLS provider (`tls_provider`).
    ///
    /// # Errors
    /// If the HTTP client cannot be built (no TLS roots, say).
    pub fn new(settings: &ApiSettings) -> reqwest::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CLIENT_HEADER, HeaderValue::from_static("APIClient"));
        let mut client = Client::builder();
        if let Some(proxy) = &settings.proxy {
            client = client.proxy(Proxy::all(proxy.clone())?);
        } else {
            client = client.no_proxy();
        }
        if let Some(bundle) = settings.ca_file.as_ref().and_then(|path| std::fs::read(path).ok()) {
            client = client.tls_certs_merge(Certificate::from_pem_bundle(&bundle)?);
        }
        let client = client
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .timeout(settings.request_timeout)
            // Well below the whole, so that a host that does not answer is told from an answer that
            // does not come.
            .connect_timeout(CONNECT_TIMEOUT.min(settings.request_timeout / 2))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()?;
        Ok(Self { client, base_url: settings.base_url.clone() })
    }

    /// Everything before `/organizations`.
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// What can destroy; nothing in a dry run.
    pub fn destructive(&self, mode: CallMode) -> Option<DestructiveApi> {
        match mode {
            CallMode::Destroy => Some(DestructiveApi(self.clone())),
            CallMode::Look => None,
        }
    }

    /// Looks at this target; where nothing shows it, at its organisation. One call, which changes
    /// nothing.
    pub async fn look(
        &self,
        target: &Target,
        token: &SecretString,
        trace: Option<TraceContext<'_>>,
    ) -> (Answer, Seen) {
        let Look::At(place) = target.kind.spec().look else {
            return (self.list_tasks(&target.org, token, trace).await, Seen::default());
        };
        let path = ["organizations", target.org.as_str(), place, target.id.as_str()];
        let call = self.client.get(url(&self.base_url, path)).headers(trace_headers(trace));
        let (answer, body) = send(call, token).await;
        (answer, seen(&body))
    }

    /// Restores an archived task. One call, which destroys nothing.
    pub async fn restore(&self, target: &Target, token: &SecretString) -> Answer {
        let path = ["organizations", target.org.as_str(), "tasks", target.id.as_str(), "restore"];
        send(self.client.put(url(&self.base_url, path)), token).await.0
    }

    /// Lists one of an organisation's tasks: whether the token reaches the organisation. One call,
    /// which changes nothing.
    pub async fn list_tasks(
        &self,
        org: &OrgId,
        token: &SecretString,
        trace: Option<TraceContext<'_>>,
    ) -> Answer {
        let mut url = url(&self.base_url, ["organizations", org.as_str(), "tasks"]);
        url.set_query(Some(LIST_QUERY));
        send(self.client.get(url).headers(trace_headers(trace)), token).await.0
    }

    /// Looks at something, for `check`. One call, which changes nothing.
    pub async fn get(&self, path: &[&str], query: Option<&str>, token: &SecretString) -> Answer {
        let mut url = url(&self.base_url, path.iter().copied());
        url.set_query(query);
        send(self.client.get(url), token).await.0
    }
}

impl DestructiveApi {
    /// Makes the one destructive call for this target. One call, no more.
    pub async fn delete(
        &self,
        target: &Target,
        token: &SecretString,
        trace: Option<TraceContext<'_>>,
    ) -> Answer {
        let Self(TallyfyApi { client, base_url }) = self;
        let call = client.delete(delete_url(base_url, target));
        send(call.headers(trace_headers(trace)), token).await.0
    }
}

/// The answer, and its body as it came.
async fn send(call: RequestBuilder, token: &SecretString) -> (Answer, Vec<u8>) {
    let Ok(mut bearer) = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())) else {
        let detail = "the token cannot stand in a header".to_owned();
        return (Answer::Unreachable { detail }, Vec::new());
    };
    bearer.set_sensitive(true);
    let failure = match call.header(AUTHORIZATION, bearer).send().await {
        Ok(response) => {
            let (response, body) = read(response, token).await;
            return (Answer::Status(response), body);
        }
        Err(error) if error.is_connect() || error.is_builder() => {
            Answer::Unreachable { detail: cause(error) }
        }
        Err(error) if error.is_timeout() => Answer::TimedOut,
        Err(error) => Answer::ConnectionLost { detail: cause(error) },
    };
    (failure, Vec::new())
}

/// Below the base URL. What is not a constant in the path is a validated id.
fn url<'a>(base: &Url, path: impl IntoIterator<Item = &'a str>) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

fn seen(body: &[u8]) -> Seen {
    let shown: Value = serde_json::from_slice(body).unwrap_or_default();
    let object = shown.get("data").unwrap_or_default();
    Seen {
        archived: object.get("archived_at").map(|time| !time.is_null()),
        one_off: object.get("is_oneoff_task").and_then(Value::as_bool),
    }
}

fn trace_headers(trace: Option<TraceContext<'_>>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let Some(trace) = trace else { return headers };
    for (name, text) in [(names::TRACEPARENT, Some(trace.parent)), (names::TRACESTATE, trace.state)]
    {
        // A producer's text that cannot stand in a header stays behind.
        headers.extend(
            text.and_then(|text| Some((HeaderName::from_static(name), text.parse().ok()?))),
        );
    }
    headers
}

/// The only paths that are ever called with DELETE: one for each kind. Both ids are made of
/// characters that mean nothing in a URL.
fn delete_url(base: &Url, Target { kind, org, id }: &Target) -> Url {
    url(base, ["organizations", org.as_str()].into_iter().chain(kind.path(id.as_str())))
}

async fn read(mut response: reqwest::Response, token: &SecretString) -> (Response, Vec<u8>) {
    let header = |name: HeaderName| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(|value| clean(value, token))
    };
    let (content_type, retry_after) = (header(CONTENT_TYPE), header(RETRY_AFTER));
    let (date, request_id) = (header(DATE), header(REQUEST_ID_HEADER));
    let status = response.status().as_u16();
    let bytes = read_body(&mut response).await;
    let body = match &bytes {
        Some(bytes) => without_secrets(recognise(content_type.as_deref(), bytes), token),
        None => Body::Lost,
    };
    (Response { status, body, retry_after, date, request_id }, bytes.unwrap_or_default())
}

/// What is cut is known as a page by its first bytes; what else it may say stands where it was not
/// read.
fn recognise(content_type: Option<&str>, bytes: &[u8]) -> Body {
    match Body::recognise(content_type, bytes) {
        Body::Other | Body::Empty if bytes.len() == LONGEST_BODY => Body::Lost,
        body => body,
    }
}

/// At most the first 64 KiB; `None` where it broke off before that.
async fn read_body(response: &mut reqwest::Response) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        bytes.extend_from_slice(&chunk[..chunk.len().min(LONGEST_BODY - bytes.len())]);
        if bytes.len() == LONGEST_BODY {
            break;
        }
    }
    Some(bytes)
}

fn without_secrets(body: Body, token: &SecretString) -> Body {
    match body {
        Body::Json { code, message } => Body::Json {
            code: code.map(|code| clean(&code, token)),
            message: message.map(|message| clean(&message, token)),
        },
        other => other,
    }
}

/// What the API says may hold anything, our own token too: cut, on one line, and without it.
fn clean(text: &str, token: &SecretString) -> String {
    const LONGEST: usize = 256;
    let text = text.replace(token.expose_secret(), "[token]");
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

/// The innermost cause, which says more than "error sending request", and never the URL.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.source().is_none() { error.to_string() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Kind;
    use crate::messages::ObjectId;

    #[test]
    fn only_the_kinds_one_path_is_ever_called_with_or_without_a_path_in_the_base_url() {
        let url = |kind, base: &str| {
            let org = OrgId::try_from("o1".to_owned()).unwrap();
            let id = ObjectId::try_from("x1".to_owned()).unwrap();
            let url = delete_url(&Url::parse(base).unwrap(), &Target { kind, org, id }).to_string();
            url.strip_prefix("https://").unwrap().to_owned()
        };
        for base in ["https://go.tallyfy.com/api", "https://go.tallyfy.com/api/"] {
            let path = |kind| url(kind, base).replace("go.tallyfy.com/api/organizations/o1/", "");
            let paths = Kind::ALL.map(path);
            assert_eq!(
                paths,
                ["tasks/x1/delete", "tasks/x1", "runs/x1/delete", "tags/x1", "file/x1"]
            );
        }
        let without = url(Kind::TaskDelete, "https://api.tallyfy.com");
        assert_eq!(without, "api.tallyfy.com/organizations/o1/tasks/x1/delete");
    }

    #[test]
    fn in_a_dry_run_no_destructive_call_can_be_made() {
        crate::tls_provider::install();
        let (base_url, request_timeout) = ("https://h".parse().unwrap(), Duration::from_secs(1));
        let settings = ApiSettings { base_url, request_timeout, proxy: None, ca_file: None };
        let api = TallyfyApi::new(&settings).unwrap();
        assert!(api.destructive(CallMode::Look).is_none());
        assert!(api.destructive(CallMode::Destroy).is_some());
    }

    #[test]
    fn what_a_look_shows_of_an_object_is_read_and_nothing_is_made_up() {
        let shown = |text: &str| {
            let Seen { archived, one_off } = seen(text.as_bytes());
            (archived, one_off)
        };
        let object = r#"{"data":{"archived_at":null,"is_oneoff_task":true}}"#;
        assert_eq!(shown(object), (Some(false), Some(true)));
        let archived = r#"{"data":{"archived_at":"2026-01-01T00:00:00Z"}}"#;
        assert_eq!(shown(archived), (Some(true), None));
        for nothing in ["", "<html>", "[]", r#"{"data":[]}"#] {
            assert_eq!(shown(nothing), (None, None), "{nothing}");
        }
    }

    #[test]
    fn a_json_body_that_is_too_long_to_read_proves_nothing() {
        let long =
            format!(r#"{{"trace":"{}","code":"ENDPOINT_NOT_FOUND"}}"#, "x".repeat(LONGEST_BODY));
        assert_eq!(
            recognise(Some("application/json"), &long.as_bytes()[..LONGEST_BODY]),
            Body::Lost
        );
        assert_eq!(recognise(Some("text/html"), &long.as_bytes()[..LONGEST_BODY]), Body::Html);
        assert_eq!(
            recognise(Some("application/json"), b"{}"),
            Body::Json { code: None, message: None }
        );
    }

    #[test]
    fn what_the_api_says_is_cut_and_cannot_leak_the_token() {
        let token = SecretString::from("tok-123");
        assert_eq!(clean("bad\r\ntoken tok-123!", &token), "bad  token [token]!");
        assert_eq!(clean(&"x".repeat(9999), &token).len(), 256);
    }
}
