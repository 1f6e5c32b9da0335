//! What `/status` shows: the breaker, and each organisation by its id.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::engine::Engine;
use crate::messages::{OrgId, time};
use crate::metrics::NO_TOKEN;
use crate::policy::api_access::{Standing, SuspendReason};
use crate::policy::dry_run::CallMode;

#[derive(Serialize)]
struct Organisation {
    org_id: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_probe: Option<String>,
    /// Commands that have begun to wait for this organisation since, at this worker.
    waiting: u64,
    in_flight: usize,
}

/// The breaker and the organisations that commands have come for, or that have no token.
pub fn status(engine: &Engine) -> Value {
    let now = Timestamp::now();
    let ago = |time: Duration| now.checked_sub(time).ok().map(time::text);
    let (open_since, mut organisations) = engine.permits.with(|access, instant| {
        let open_for =
            access.breaker_open_since().map(|since| instant.saturating_duration_since(since));
        let standings = access.standings(instant).into_iter();
        let shown: Vec<_> =
            standings.map(|(org, standing)| organisation(org, &standing, now)).collect();
        (open_for.and_then(ago), shown)
    });
    organisations.extend(engine.without_token().iter().map(without_token));
    json!({
        "time": time::text(now),
        "dry_run": engine.mode() == CallMode::Look,
        "breaker": {"state": if open_since.is_some() { "open" } else { "closed" }, "open_since": open_since},
        "organisations": organisations,
    })
}

fn organisation(org: &OrgId, standing: &Standing, now: Timestamp) -> Organisation {
    Organisation {
        org_id: org.to_string(),
        state: standing.state,
        reason: standing.reason.map(SuspendReason::as_str),
        since: standing.suspended_for.and_then(|time| now.checked_sub(time).ok()).map(time::text),
        next_probe: standing
            .next_probe_in
            .and_then(|time| now.checked_add(time).ok())
            .map(time::text),
        waiting: standing.waiting,
        in_flight: standing.in_flight,
    }
}

fn without_token(org: &OrgId) -> Organisation {
    Organisation {
        org_id: org.to_string(),
        state: "suspended",
        reason: Some(NO_TOKEN),
        since: None,
        next_probe: None,
        waiting: 0,
        in_flight: 0,
    }
}
