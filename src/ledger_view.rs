//! The state of the ledger, for `/status` and for `status`.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::messages::time;
use crate::policy::brakes::{Brakes, Pause};
use crate::policy::guard::GuardState;
use crate::policy::workers::Seen;

/// The members `paused`, `guard` and `workers`.
pub(crate) fn view(brakes: &Brakes, now: Timestamp) -> Value {
    json!({
        "paused": {
            "all": brakes.paused_all().map(pause),
            "organisations": brakes.paused_organisations().map(|(org, pause)| json!({
                "org_id": org.as_str(), "since": time::text(pause.since),
                "by": pause.decision.by, "reason": pause.decision.reason,
            })).collect::<Vec<_>>(),
        },
        "guard": guards(brakes, now),
        "workers": brakes.workers().alive(now).into_iter().map(worker).collect::<Vec<_>>(),
    })
}

fn pause(pause: &Pause) -> Value {
    json!({
        "since": time::text(pause.since), "by": pause.decision.by, "reason": pause.decision.reason,
    })
}

/// The guards that have tripped, or that a person has opened for a while.
fn guards(brakes: &Brakes, now: Timestamp) -> Vec<Value> {
    let mut guards: Vec<_> = brakes.guards().collect();
    guards.sort_by_key(|(scope, _)| *scope);
    let shown = guards.into_iter().filter_map(|(scope, guard)| {
        let (org_id, kind) = (scope.org_id.as_str(), scope.kind);
        match guard.state() {
            GuardState::Tripped(trip) => Some(json!({
                "org_id": org_id, "kind": kind, "state": "tripped",
                "since": time::text(trip.since), "max_deletes": trip.limit.max_deletes,
                "admitted": guard.count(Duration::from_secs(trip.limit.window_s.into()), now),
            })),
            GuardState::Granted { left, until, decision } if *until > now => Some(json!({
                "org_id": org_id, "kind": kind, "state": "granted", "left": left,
                "until": time::text(*until), "by": decision.by, "reason": decision.reason,
            })),
            GuardState::Granted { .. } | GuardState::Armed => None,
        }
    });
    shown.collect()
}

fn worker((writer, seen): (&str, &Seen)) -> Value {
    let mut state = json!(seen.state);
    state["worker"] = json!(writer);
    state["seen"] = json!(time::text(seen.at));
    state
}
