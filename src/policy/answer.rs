//! The API's answer to one call, as a value. Only the facts; `verdict` says what they mean.

use serde_json::Value;

/// The result of one HTTP attempt. A failure of the network is an answer too, never an `Err`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A status line arrived.
    Status(Response),
    /// `REQUEST_TIMEOUT` passed after the call was under way.
    TimedOut,
    /// The connection broke, or spoke no HTTP, after the call was under way.
    ConnectionLost {
        /// The HTTP library's message.
        detail: String,
    },
    /// The call never left: refused, no route, DNS, TLS.
    Unreachable {
        /// The HTTP library's message.
        detail: String,
    },
}

/// The relevant parts of an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// What the body turned out to be.
    pub body: Body,
    /// The header, raw.
    pub retry_after: Option<String>,
    /// The header, raw: the server's clock.
    pub date: Option<String>,
    /// `X-Request-Id`, for the logs.
    pub request_id: Option<String>,
}

/// What a response's body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Nothing, or white space.
    Empty,
    /// JSON, with the error code and message if it has them.
    Json {
        /// `code` or `error.code`.
        code: Option<String>,
        /// `message` or `error.message`.
        message: Option<String>,
    },
    /// A page: by its content type or its first character.
    Html,
    /// Something else, perhaps plain text.
    Other,
    /// It could not be read to its end.
    Lost,
}

/// The API's code for an endpoint that does not exist.
pub const ENDPOINT_NOT_FOUND: &str = "ENDPOINT_NOT_FOUND";
/// The API's code for a missing object (found in Tallyfy's own clients).
pub const RESOURCE_NOT_FOUND: &str = "RESOURCE_NOT_FOUND";

impl Body {
    /// Recognises a body from its content type and its first bytes.
    pub fn recognise(content_type: Option<&str>, bytes: &[u8]) -> Self {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii();
        let is_page = content_type.is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        if is_page || text.first() == Some(&b'<') {
            return Self::Html;
        }
        match serde_json::from_slice::<Value>(text) {
            Ok(json) => {
                Self::Json { code: member(&json, "code"), message: member(&json, "message") }
            }
            Err(_) if text.is_empty() => Self::Empty,
            Err(_) => Self::Other,
        }
    }

    /// Whether the API says that the call itself, not the task, was not found.
    pub fn denies_the_endpoint(&self) -> bool {
        self.code() == Some(ENDPOINT_NOT_FOUND)
    }

    /// Whether this is the API's own answer for a missing object.
    pub fn names_a_missing_resource(&self) -> bool {
        self.code() == Some(RESOURCE_NOT_FOUND)
    }

    fn code(&self) -> Option<&str> {
        match self {
            Self::Json { code, .. } => code.as_deref(),
            _ => None,
        }
    }
}

/// Both shapes of the API's errors: `{"code", "message"}` and `{"error": {"code", "message"}}`.
fn member(json: &Value, name: &str) -> Option<String> {
    let error = json.get("error").unwrap_or_default();
    [json, error].into_iter().find_map(|place| place.get(name)?.as_str()).map(str::to_owned)
}

impl Answer {
    /// The status, if one arrived.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(response) => Some(response.status),
            _ => None,
        }
    }

    /// The API's own id of the request, if it gave one.
    pub fn request_id(&self) -> Option<&str> {
        match self {
            Self::Status(response) => response.request_id.as_deref(),
            _ => None,
        }
    }

    /// Whether no answer came although the call may have had its effect.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::TimedOut | Self::ConnectionLost { .. })
    }

    /// The class of the answer, for metrics: `2xx` and so on, or what went wrong.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Status(response) => match response.status / 100 {
                2 => "2xx",
                3 => "3xx",
                4 => "4xx",
                5 => "5xx",
                _ => "other",
            },
            Self::TimedOut => "timeout",
            Self::ConnectionLost { .. } => "connection_lost",
            Self::Unreachable { .. } => "unreachable",
        }
    }

    /// One line for a person, with what the API said (already free of secrets).
    pub fn describe(&self) -> String {
        let response = match self {
            Self::Status(response) => response,
            Self::TimedOut => return "no answer within REQUEST_TIMEOUT".to_owned(),
            Self::ConnectionLost { detail } => {
                return format!("connection lost after sending: {detail}");
            }
            Self::Unreachable { detail } => return format!("API unreachable: {detail}"),
        };
        let said = match &response.body {
            Body::Json { code, message } => [code.as_deref(), message.as_deref()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": "),
            Body::Html => "an HTML page".to_owned(),
            Body::Lost => "a body that broke off".to_owned(),
            Body::Empty | Body::Other => String::new(),
        };
        format!("HTTP {} {said}", response.status).trim_end().to_owned()
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::{Answer, Body, Response};

    pub(crate) fn status(status: u16, body: Body) -> Answer {
        Answer::Status(Response { status, body, retry_after: None, date: None, request_id: None })
    }

    pub(crate) fn json(code: &str) -> Body {
        Body::Json { code: Some(code.to_owned()), message: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn bodies_are_recognised_by_what_they_are() {
        let coded = |code: &str| Body::Json { code: Some(code.into()), message: None };
        let cases: [(Option<&str>, &str, Body); 11] = [
            (None, "", Body::Empty),
            (Some("application/json"), "  \n", Body::Empty),
            (
                Some("application/json"),
                r#"{"code":"RESOURCE_NOT_FOUND"}"#,
                coded("RESOURCE_NOT_FOUND"),
            ),
            (None, r#"{"error":{"code":"X"}}"#, coded("X")),
            (None, r#"{"code":404,"error":{"code":"X"}}"#, coded("X")),
            (None, r#"{"code":"X","error":{"code":"Y"}}"#, coded("X")),
            (
                Some("application/json"),
                r#"{"error":true,"code":"ENDPOINT_NOT_FOUND"}"#,
                coded("ENDPOINT_NOT_FOUND"),
            ),
            (Some("TEXT/HTML; charset=utf-8"), "not found", Body::Html),
            (Some("text/html"), "", Body::Html),
            (Some("application/json"), "\u{feff} <!DOCTYPE html>", Body::Html),
            (Some("text/plain"), "default backend - 404", Body::Other),
        ];
        for (content_type, text, expected) in cases {
            assert_eq!(
                Body::recognise(content_type, text.as_bytes()),
                expected,
                "{content_type:?} {text}"
            );
        }
    }

    #[test]
    fn only_a_call_that_was_under_way_is_ambiguous() {
        let detail = || "reset".to_owned();
        let lost = [Answer::TimedOut, Answer::ConnectionLost { detail: detail() }];
        let known = [Answer::Unreachable { detail: detail() }, samples::status(503, Body::Lost)];
        assert!(lost.iter().all(Answer::is_ambiguous) && !known.iter().any(Answer::is_ambiguous));
        assert_eq!(known.map(|answer| answer.status()), [None, Some(503)]);
    }

    #[test]
    fn an_answer_has_a_class_and_a_line_for_a_person() {
        let told = |answer: Answer| (answer.class(), answer.describe());
        let both = Body::Json { code: Some("C".into()), message: Some("m".into()) };
        let status = |status, body| told(samples::status(status, body));
        assert_eq!(status(204, Body::Empty), ("2xx", "HTTP 204".into()));
        assert_eq!(status(302, Body::Html), ("3xx", "HTTP 302 an HTML page".into()));
        assert_eq!(status(422, both), ("4xx", "HTTP 422 C: m".into()));
        assert_eq!(status(503, Body::Lost), ("5xx", "HTTP 503 a body that broke off".into()));
        assert_eq!(status(600, Body::Other), ("other", "HTTP 600".into()));
        assert_eq!(told(Answer::TimedOut), ("timeout", "no answer within REQUEST_TIMEOUT".into()));
        let detail = || "reset".to_owned();
        let lost = told(Answer::ConnectionLost { detail: detail() });
        assert_eq!(lost, ("connection_lost", "connection lost after sending: reset".into()));
        let unreachable = told(Answer::Unreachable { detail: detail() });
        assert_eq!(unreachable, ("unreachable", "API unreachable: reset".into()));
    }

    proptest! {
        #[test]
        fn a_page_is_a_page_whatever_its_type_and_white_space(kind in proptest::option::of(".*"), blank in "[ \t\r\n]{0,5}", rest in ".*") {
            let body = format!("{blank}<{rest}");
            prop_assert_eq!(Body::recognise(kind.as_deref(), body.as_bytes()), Body::Html);
        }

        #[test]
        fn the_code_for_the_endpoint_is_found_beside_whatever_else_there_is(message in ".*", number: i64) {
            let denies = |json: &Value| Body::recognise(None, json.to_string().as_bytes()).denies_the_endpoint();
            let code = json!({"code": ENDPOINT_NOT_FOUND, "message": message});
            let nested = json!({"error": code, "message": message, "code": number});
            let mentioned = json!({"code": format!("x{message}"), "message": ENDPOINT_NOT_FOUND});
            prop_assert_eq!([code, nested, mentioned].map(|json| denies(&json)), [true, true, false]);
        }

        #[test]
        fn recognising_never_panics(kind in proptest::option::of(".*"), bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Body::recognise(kind.as_deref(), &bytes);
        }
    }
}
