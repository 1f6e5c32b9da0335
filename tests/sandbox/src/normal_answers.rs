//! The API's normal answers, before they are bytes.

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

/// The change that a call made to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Change {
    Deleted,
    Archived,
    Restored,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Option<Value>,
    pub(crate) change: Option<Change>,
}

pub(crate) fn ok(body: Value) -> Answer {
    Answer { status: StatusCode::OK, body: Some(body), change: None }
}

pub(crate) fn no_content(change: Option<Change>) -> Answer {
    Answer { status: StatusCode::NO_CONTENT, body: None, change }
}

pub(crate) fn unauthenticated() -> Answer {
    refusal(StatusCode::UNAUTHORIZED, "Unauthenticated.", "UNAUTHENTICATED")
}

pub(crate) fn forbidden() -> Answer {
    refusal(StatusCode::FORBIDDEN, "This action is unauthorized.", "FORBIDDEN")
}

pub(crate) fn endpoint_not_found() -> Answer {
    refusal(StatusCode::NOT_FOUND, "API endpoint not found", "ENDPOINT_NOT_FOUND")
}

pub(crate) fn resource_not_found() -> Answer {
    refusal(StatusCode::NOT_FOUND, "Resource not found", "RESOURCE_NOT_FOUND")
}

pub(crate) fn refusal(status: StatusCode, message: &str, code: &str) -> Answer {
    let body = json!({"error": true, "message": message, "code": code});
    Answer { status, body: Some(body), change: None }
}

pub(crate) fn empty_ok(change: Option<Change>) -> Answer {
    Answer { status: StatusCode::OK, body: None, change }
}

pub(crate) fn unprocessable(message: &str) -> Answer {
    refusal(StatusCode::UNPROCESSABLE_ENTITY, message, "UNPROCESSABLE")
}
