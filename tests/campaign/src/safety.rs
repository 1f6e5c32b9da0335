//! A campaign with the brakes on (guard, pauses, cancellations and undo): their settings, and the
//! commands. Each organisation is for one kind of decision of the operator.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tallyfy_delete_worker::kind::Kind;

use crate::nemesis::Family;
use crate::plan::{Answers, ORGS, Planned, command};
use crate::records::Expected;

/// A producer's bug sends far more commands for it than the guard allows.
pub(crate) const FLOODED: &str = ORGS[0];
/// It is paused and resumed, and some of its commands are cancelled meanwhile.
pub(crate) const PAUSED: &str = ORGS[1];
/// Some of its tasks are restored.
pub(crate) const UNDONE: &str = ORGS[2];
/// The operator decides nothing about them.
const OTHERS: [&str; 3] = [ORGS[3], ORGS[4], ORGS[5]];

pub(crate) const UNDO_WINDOW: Duration = Duration::from_secs(10);
/// How many commands are sent by default, and for how many minutes.
pub(crate) const COMMANDS: usize = 1000;
pub(crate) const MINUTES: f64 = 1.25;

/// Faults of workers, broker and network.
pub(crate) const INFRASTRUCTURE: [Family; 6] = [
    Family::WorkerKilled,
    Family::WorkerKilled,
    Family::WorkerFrozen,
    Family::BrokerKilled,
    Family::BrokerWireCut,
    Family::ApiWireCut,
];
/// Faults of the API.
pub(crate) const API: [Family; 3] = [Family::Unavailable, Family::Resets, Family::AnswersLost];

/// The settings of the brakes, which follow from the number of commands of the whole campaign.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Brakes {
    /// More than twice as many as each other organisation has commands: a worker that dies wastes
    /// permits, and a command that is delivered again is counted again.
    pub(crate) limit: usize,
    /// How many commands beyond it the operator releases, the first time and the second.
    pub(crate) grants: [usize; 2],
}

impl Brakes {
    pub(crate) fn of(commands: usize) -> Self {
        Self { limit: commands * 18 / 100, grants: [commands * 6 / 100, commands * 4 / 100] }
    }

    /// A worker's settings in addition to the usual ones.
    pub(crate) fn settings(self) -> Vec<(&'static str, String)> {
        vec![
            ("KINDS", format!("{},{}", Kind::TaskDelete, Kind::TaskArchive)),
            ("DELETE_MODE", "archive_then_delete".to_owned()),
            ("UNDO_WINDOW", format!("{}s", UNDO_WINDOW.as_secs())),
            ("GUARD_MAX_DELETES", self.limit.to_string()),
        ]
    }
}

/// Makes this many commands. More than half of them are for the flooded organisation, nearly all of
/// those at once. The rest are for the others, evenly over `time`.
pub(crate) fn plan(rng: &mut Rng, commands: usize, time: Duration) -> Vec<Planned> {
    let (flood, trickle) = (commands * 54 / 100, commands * 6 / 100);
    let others = ORGS.iter().filter(|org| **org != FLOODED).copied();
    let others: Vec<&str> = others.collect();
    let evenly = commands - flood;
    let pace = time / u32::try_from(evenly.max(1)).expect("fewer than four thousand million");
    let mut orgs: Vec<_> = (0..evenly - trickle).map(|n| others[n % others.len()]).collect();
    orgs.extend(std::iter::repeat_n(FLOODED, trickle));
    rng.shuffle(&mut orgs);
    let mut plan = Vec::with_capacity(commands);
    for (after, org) in (0..).map(|n| pace * n).zip(orgs) {
        plan.push(Planned { after, ..one(rng, plan.len(), org) });
    }
    for _ in 0..flood {
        plan.push(Planned { after: time / 16, ..one(rng, plan.len(), FLOODED) });
    }
    plan.sort_by_key(|planned| planned.after);
    plan
}

fn one(rng: &mut Rng, number: usize, org: &str) -> Planned {
    let task = format!("t{number:06}");
    let is_ordinary = OTHERS.contains(&org);
    let kind = if is_ordinary && rng.u8(..8) == 0 { Kind::TaskArchive } else { Kind::TaskDelete };
    let by = if org == FLOODED { "a producer with a bug" } else { "campaign" };
    let mut body = json!({"org_id": org, "task_id": task, "requested_by": by});
    let (expected, state) = match rng.u8(..100) {
        _ if org == FLOODED => (Expected::MayBeRejected, "present"),
        0..6 if is_ordinary && kind == Kind::TaskDelete => (Expected::Done, "gone"),
        6..10 if is_ordinary => (Expected::DeadLetter("forbidden"), "forbidden"),
        10..14 if is_ordinary => {
            body["not_after"] = json!("2020-01-01T00:00:00Z");
            (Expected::DeadLetter("expired"), "present")
        }
        _ => (Expected::Done, "present"),
    };
    let id = format!("command-{number:06}");
    Planned {
        command: command(kind, id.clone(), org, task, expected),
        body: body.to_string().into_bytes(),
        message_id: Some(id),
        after: Duration::ZERO,
        straight: rng.bool(),
        twice: is_ordinary && rng.u8(..25) == 0,
        state: Some(state),
        answers: Answers::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned() -> Vec<Planned> {
        plan(&mut Rng::with_seed(7), COMMANDS, Duration::from_mins(1))
    }

    fn of(plan: &[Planned], org: &str, kind: Kind) -> usize {
        plan.iter().filter(|p| p.command.org == org && p.command.kind == kind).count()
    }

    #[test]
    fn the_flood_is_far_beyond_the_guard_and_all_others_are_far_below() {
        let (plan, Brakes { limit, grants }) = (planned(), Brakes::of(COMMANDS));
        assert_eq!(plan.len(), COMMANDS);
        let passes = limit + 3 * 32 + grants.iter().sum::<usize>();
        assert!(of(&plan, FLOODED, Kind::TaskDelete) > passes + 100);
        for org in ORGS.into_iter().filter(|org| *org != FLOODED) {
            for kind in [Kind::TaskDelete, Kind::TaskArchive] {
                assert!(of(&plan, org, kind) * 2 < limit, "{org} {kind}");
            }
        }
        assert!(OTHERS.iter().all(|org| of(&plan, org, Kind::TaskArchive) > 3));
    }

    #[test]
    fn the_commands_come_in_order_and_follow_from_the_seed() {
        let (once, again) = (planned(), planned());
        assert_eq!(format!("{once:?}"), format!("{again:?}"));
        assert!(once.is_sorted_by_key(|p| p.after));
        let ids: std::collections::HashSet<_> = once.iter().map(|p| &p.command.id).collect();
        assert_eq!(ids.len(), COMMANDS);
    }
}
