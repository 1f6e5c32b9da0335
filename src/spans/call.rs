//! The span of one request to the API:
//! <https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-client-span>.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, SpanKind, Status};
use opentelemetry_sdk::trace::Span;
use url::Url;

use super::{Spans, remote, traceparent};
use crate::kind::{Kind, Look};
use crate::messages::{Properties, Target, TraceContext};
use crate::policy::answer::Answer;
use crate::policy::verdict::Verdict;
use crate::tallyfy_api::LIST_QUERY;

/// Which request to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The destructive one of the kind.
    Destroy,
    /// The GET that shows the object.
    Look,
    /// The GET that lists an organisation's tasks.
    List,
}

/// It ends on request, with the time of the answer, or when it is dropped.
#[must_use]
pub struct CallSpan(Option<Calling>);

struct Calling {
    span: Span,
    parent: String,
    /// When the answer came, and its text.
    answered: Option<(SystemTime, String)>,
}

impl Spans {
    /// Starts the span of one request, which is the `resends`th repeat.
    pub fn call(
        &self,
        endpoint: Endpoint,
        target: &Target,
        (properties, resends): (&Properties, u32),
        base_url: &Url,
    ) -> CallSpan {
        let Self(Some(on)) = self else { return CallSpan(None) };
        let (method, template) = (endpoint.method(), endpoint.template(target.kind));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("url.full", Endpoint::url(&template, target, base_url)),
            KeyValue::new("url.template", template.clone()),
        ];
        attributes.extend(
            base_url.host_str().map(|host| KeyValue::new("server.address", host.to_owned())),
        );
        let port = base_url.port_or_known_default();
        attributes.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
        if resends > 0 {
            attributes.push(KeyValue::new("http.request.resend_count", i64::from(resends)));
        }
        let parent = properties.trace().and_then(remote);
        let name = format!("{method} {template}");
        let span = on.start(name, SpanKind::Client, attributes, (parent, Vec::new()));
        let parent = traceparent(span.span_context());
        CallSpan(Some(Calling { span, parent, answered: None }))
    }
}

impl Endpoint {
    /// Its HTTP method.
    pub fn method(self) -> &'static str {
        if self == Self::Destroy { "DELETE" } else { "GET" }
    }

    /// The path below the base URL, with placeholders for the ids.
    fn template(self, kind: Kind) -> String {
        let id = format!("{{{}}}", kind.spec().id_member);
        let below = match (self, kind.spec().look) {
            (Self::Destroy, _) => kind.path(&id).collect::<Vec<_>>().join("/"),
            (Self::Look, Look::At(place)) => format!("{place}/{id}"),
            (Self::Look, Look::Nowhere) | (Self::List, _) => "tasks".to_owned(),
        };
        format!("/organizations/{{org_id}}/{below}")
    }

    /// The called URL, without the base URL's user and password.
    fn url(template: &str, target: &Target, base_url: &Url) -> String {
        let Target { kind, org, id } = target;
        let id_member = format!("{{{}}}", kind.spec().id_member);
        let path = template.replace("{org_id}", org.as_str()).replace(&id_member, id.as_str());
        let mut url = base_url.clone();
        url.set_path(&format!("{}{path}", base_url.path().trim_end_matches('/')));
        url.set_query(path.ends_with("/tasks").then_some(LIST_QUERY));
        if url.password().is_some() || !url.username().is_empty() {
            // It has a host, so this cannot fail.
            let _ = url.set_username("REDACTED");
            let _ = url.set_password(Some("REDACTED"));
        }
        url.into()
    }
}

impl CallSpan {
    /// The call's trace context: this span or, if there is none, the command's own.
    pub fn context<'a>(&'a self, properties: &'a Properties) -> Option<TraceContext<'a>> {
        match self {
            Self(Some(Calling { parent, .. })) => Some(TraceContext {
                parent,
                state: properties.trace().and_then(|trace| trace.state),
            }),
            Self(None) => properties.trace(),
        }
    }

    /// Records the API's answer. The span's end is the current time, even if it is ended later.
    pub fn answered(&mut self, answer: &Answer) {
        let Self(Some(Calling { span, answered, .. })) = self else { return };
        let status = answer.status();
        span.set_attributes(
            status.map(|n| KeyValue::new("http.response.status_code", i64::from(n))),
        );
        *answered = Some((SystemTime::now(), answer.describe()));
    }

    /// Records the meaning of the answer.
    pub fn judged(&mut self, verdict: Verdict) {
        let Self(Some(Calling { span, .. })) = self else { return };
        span.set_attribute(KeyValue::new("tallyfy.verdict", verdict.as_str()));
    }

    /// Ends it, with this `error.type` if it failed.
    pub fn end(self, error_type: Option<String>) {
        let Self(Some(Calling { mut span, answered, .. })) = self else { return };
        let (at, said) = answered.unwrap_or_else(|| (SystemTime::now(), String::new()));
        if let Some(error_type) = error_type {
            span.set_attribute(KeyValue::new("error.type", error_type));
            span.set_status(Status::error(said));
        }
        span.end_with_timestamp(at);
    }
}
