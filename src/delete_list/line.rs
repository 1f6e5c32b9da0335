//! The lines that `delete` prints.

use jiff::Timestamp;
use serde::Serialize;

use crate::messages::{Outcome, Target, time};

/// An outcome, when it came, and the answer's id: without a broker there is no other record.
#[derive(Debug, Serialize)]
pub(super) struct OutcomeLine {
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
}

impl OutcomeLine {
    pub(super) fn of(outcome: Outcome) -> Self {
        let (time, request_id) = (time::text(Timestamp::now()), outcome.request_id.clone());
        Self { outcome, time, request_id }
    }
}

/// The line of an id without an outcome: it can be given again.
#[derive(Debug, Serialize)]
pub(super) struct Left<'a> {
    #[serde(flatten)]
    pub(super) target: &'a Target,
    pub(super) outcome: &'static str,
    pub(super) reason: String,
    pub(super) attempts: u32,
    /// The answer to a call was lost, so the call may have had its effect.
    pub(super) ambiguous: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http_status: Option<u16>,
}
