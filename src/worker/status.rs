//! The content of `/status`: the breaker, each organisation by its id, and the state of the ledger.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rustix::system::uname;
use serde::Serialize;
use serde_json::{Value, json};

use super::engine::Engine;
use crate::ledger_view::view;
use crate::messages::ledger::{OrganisationState, WorkerState};
use crate::messages::{OrgId, time};
use crate::metrics::NO_TOKEN;
use crate::policy::api_access::{Standing, SuspendReason};
use crate::policy::dry_run::CallMode;

/// A record of the ledger must not grow with the number of organisations.
const MOST_TOLD: usize = 10;

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
    /// Commands that have started to wait for this organisation since, at this worker.
    waiting: u64,
    in_flight: usize,
}

/// The breaker, and the organisations that commands have come for or that have no token.
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
    let mut status = engine.ledger.with(|brakes| view(brakes, now));
    let own = json!({
        "time": time::text(now),
        "dry_run": engine.mode() == CallMode::Look,
        "breaker": {"state": if open_since.is_some() { "open" } else { "closed" }, "open_since": open_since},
        "organisations": organisations,
        "oldest": oldest(engine, now),
        "queues": engine.metrics.queues(),
    });
    if let (Value::Object(status), Value::Object(own)) = (&mut status, own) {
        status.extend(own);
    }
    status
}

/// By kind, since when the oldest command has waited.
fn oldest(engine: &Engine, now: Timestamp) -> BTreeMap<String, String> {
    let oldest = engine.metrics.oldest_waiting(now).into_iter();
    oldest.map(|(kind, since)| (kind.to_string(), time::text(since))).collect()
}

/// The state that the worker publishes to the others.
pub(super) fn worker_state(engine: &Engine, now: Timestamp) -> WorkerState {
    let ago = |time: Duration| now.checked_sub(time).ok().map(time::text);
    let (breaker_open_since, organisations) = engine.permits.with(|access, instant| {
        let open_for =
            access.breaker_open_since().map(|since| instant.saturating_duration_since(since));
        let standings = access.standings(instant).into_iter();
        let unusual = standings.filter(|(_, standing)| standing.reason.is_some());
        let shown = unusual.take(MOST_TOLD).map(|(org, standing)| OrganisationState {
            org_id: org.to_string(),
            state: standing.state.to_owned(),
            reason: standing.reason.map(|reason| reason.as_str().to_owned()),
            since: standing.suspended_for.and_then(ago),
            waiting: standing.waiting,
        });
        (open_for.and_then(ago), shown.collect::<Vec<_>>())
    });
    let without_token = engine.without_token();
    let without_token = without_token.iter().map(|org| OrganisationState {
        org_id: org.to_string(),
        state: "suspended".to_owned(),
        reason: Some(NO_TOKEN.to_owned()),
        since: None,
        waiting: 0,
    });
    let organisations = organisations.into_iter().chain(without_token).take(MOST_TOLD).collect();
    WorkerState {
        host: uname().nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dry_run: engine.mode() == CallMode::Look,
        not_ready: engine.health.reasons(),
        breaker_open_since,
        organisations,
        oldest: oldest(engine, now),
    }
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
