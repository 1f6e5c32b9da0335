//! The commands of a campaign, as the seed decides: of every kind, each with its expected end.

use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use tallyfy_delete_worker::kind::Kind;
use tallyfy_delete_worker::messages;

use crate::records::{Command, Expected};

/// Organisations that may have faults of their own.
pub(crate) const FAULTY_ORGS: [&str; 4] = ["north", "south", "west", "inland"];
/// Organisations that only have the faults of all. The first one has the commands that always fail.
pub(crate) const HEALTHY_ORGS: [&str; 2] = ["east", "centre"];
/// The organisations on the workers' allow-list.
pub(crate) const ORGS: [&str; 6] =
    ["north", "south", "west", "inland", HEALTHY_ORGS[0], HEALTHY_ORGS[1]];
const OTHER_KINDS: [Kind; 4] =
    [Kind::TaskArchive, Kind::ProcessDelete, Kind::TagDelete, Kind::FileDelete];
/// One of so many commands is of a certain other kind.
const OTHER_KINDS_SHARE: usize = 16;
/// Too few to look like an outage.
const ALWAYS_FAILING: usize = 4;

/// A command with its message.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) command: Command,
    pub(crate) body: Vec<u8>,
    pub(crate) message_id: Option<String>,
    /// When it is sent.
    pub(crate) after: Duration,
    /// Sent directly to the queue, not to the exchange.
    pub(crate) straight: bool,
    /// Sent a second time, as by a producer that has lost a confirm.
    pub(crate) twice: bool,
    /// The initial state of the object, if it is registered with the sandbox.
    pub(crate) state: Option<&'static str>,
    /// How the API answers it, apart from the injected faults.
    pub(crate) answers: Answers,
}

/// The API's answers to one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Normal,
    /// 500, each time.
    AlwaysFails,
    /// 403, once.
    RefusesOnce,
}

/// Many commands of one organisation, in front of those of all others.
pub(crate) struct Burst {
    pub(crate) org: &'static str,
    /// One of so many commands.
    pub(crate) share: usize,
}

/// Makes this many commands, to be sent evenly over `time`. If there are bursts, commands that
/// always fail and then the bursts come first.
pub(crate) fn plan(
    rng: &mut Rng,
    commands: usize,
    time: Duration,
    bursts: &[Burst],
) -> Vec<Planned> {
    let mut plan = Vec::new();
    if !bursts.is_empty() {
        plan.extend((0..ALWAYS_FAILING).map(always_failing));
    }
    for burst in bursts {
        for _ in 0..commands / burst.share {
            plan.push(one(rng, plan.len(), burst.org));
        }
    }
    let evenly = commands.saturating_sub(plan.len());
    let pace =
        time / u32::try_from(evenly.max(1)).expect("fewer than four thousand million commands");
    let mut after = Duration::ZERO;
    while plan.len() < commands {
        let org = ORGS[rng.usize(..ORGS.len())];
        plan.push(Planned { after, ..one(rng, plan.len(), org) });
        after += pace;
    }
    plan
}

fn always_failing(number: usize) -> Planned {
    let (org, task, id) =
        (HEALTHY_ORGS[0], format!("t{number:06}"), format!("command-{number:06}"));
    let body = json!({"org_id": org, "task_id": task, "requested_by": "campaign"})
        .to_string()
        .into_bytes();
    let expected = Expected::DeadLetter("attempts_exhausted");
    let command = command(Kind::TaskDelete, id.clone(), org, task, expected);
    let after = Duration::ZERO;
    let (straight, twice, state, answers) = (true, false, Some("present"), Answers::AlwaysFails);
    Planned { command, body, message_id: Some(id), after, straight, twice, state, answers }
}

fn one(rng: &mut Rng, number: usize, org: &'static str) -> Planned {
    match rng.usize(..OTHER_KINDS_SHARE) {
        which if which < OTHER_KINDS.len() => of_another_kind(rng, number, org, OTHER_KINDS[which]),
        _ => of_a_task(rng, number, org),
    }
}

/// It must succeed under every fault, even if its first answer is lost and the second one says "not
/// found".
fn of_another_kind(rng: &mut Rng, number: usize, org: &str, kind: Kind) -> Planned {
    let (object, id) = (format!("t{number:06}"), format!("command-{number:06}"));
    let body = json!({"org_id": org, kind.spec().id_member: object, "requested_by": "campaign"});
    let is_archived_first = kind == Kind::ProcessDelete;
    Planned {
        command: command(kind, id.clone(), org, object, Expected::Done),
        body: body.to_string().into_bytes(),
        message_id: Some(id),
        after: Duration::ZERO,
        straight: rng.bool(),
        twice: false,
        state: Some(if is_archived_first { "archived" } else { "present" }),
        answers: Answers::Normal,
    }
}

fn of_a_task(rng: &mut Rng, number: usize, org: &'static str) -> Planned {
    let task = format!("t{number:06}");
    let ordinary = json!({"org_id": org, "task_id": task, "requested_by": "campaign"});
    let late = json!({"org_id": org, "task_id": task, "not_after": "2020-01-01T00:00:00Z"});
    let foreign = json!({"org_id": "elsewhere", "task_id": task});
    let dead = Expected::DeadLetter;
    let (expected, body, state) = match rng.u8(..100) {
        0..76 => (Expected::Done, ordinary, Some("present")),
        76..82 => (Expected::RefusedOnce, ordinary, Some("present")),
        82..88 => (Expected::Done, ordinary, Some("gone")),
        88..91 => (dead("forbidden"), ordinary, Some("forbidden")),
        91..94 => (dead("expired"), late, Some("present")),
        94..97 => (dead("org_not_allowed"), foreign, None),
        _ => (
            dead("malformed"),
            json!({"org_id": org, "task_id": format!("../{task}")}),
            Some("present"),
        ),
    };
    let body = body.to_string().into_bytes();
    let readable = messages::Command::decode(Kind::TaskDelete, &body).ok();
    let derived = readable.filter(|_| rng.u8(..10) == 0).map(|command| command.derived_id());
    let message_id = derived.is_none().then(|| format!("command-{number:06}"));
    let id = derived.or(message_id.clone()).unwrap_or_default();
    let command = command(Kind::TaskDelete, id, org, task, expected);
    let answers = match expected {
        Expected::RefusedOnce => Answers::RefusesOnce,
        _ => Answers::Normal,
    };
    // A command gets both ends after a lost acknowledgement, or from a producer that has lost a
    // confirm.
    let one_of = if answers == Answers::RefusesOnce { 4 } else { 25 };
    let (after, straight, twice) = (Duration::ZERO, rng.bool(), rng.u8(..one_of) == 0);
    Planned { command, body, message_id, after, straight, twice, state, answers }
}

pub(crate) fn command(
    kind: Kind,
    id: String,
    org: &str,
    object: String,
    expected: Expected,
) -> Command {
    Command {
        kind,
        id,
        org: org.into(),
        object,
        expected,
        attempted: 0,
        acknowledged: 0,
        published_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned() -> Vec<Planned> {
        let bursts = [Burst { org: "north", share: 10 }, Burst { org: "south", share: 20 }];
        plan(&mut Rng::with_seed(7), 2000, Duration::from_mins(1), &bursts)
    }

    #[test]
    fn the_same_seed_makes_the_same_commands_and_each_has_an_id_of_its_own() {
        let (once, again) = (planned(), planned());
        assert_eq!(format!("{once:?}"), format!("{again:?}"));
        let ids: std::collections::HashSet<_> =
            once.iter().map(|planned| &planned.command.id).collect();
        assert_eq!(ids.len(), 2000);
    }

    #[test]
    fn every_kind_has_its_commands() {
        let planned = planned();
        for kind in Kind::ALL {
            let count = planned.iter().filter(|planned| planned.command.kind == kind).count();
            assert!(count > 80, "{kind}: {count}");
        }
    }

    #[test]
    fn some_are_refused_once_and_some_of_those_are_sent_twice() {
        let refused = |twice| {
            let is_it = |p: &&Planned| p.answers == Answers::RefusesOnce && p.twice == twice;
            planned().iter().filter(is_it).count()
        };
        assert!(refused(false) > 40 && refused(true) > 10);
    }

    #[test]
    fn bad_commands_come_first_then_the_bursts_then_all_others_evenly() {
        let planned = planned();
        let (bad, rest) = planned.split_at(ALWAYS_FAILING);
        let is_bad = |p: &Planned| p.answers == Answers::AlwaysFails;
        assert!(bad.iter().all(|p| is_bad(p) && HEALTHY_ORGS.contains(&p.command.org.as_str())));
        assert!(!rest.iter().any(is_bad));
        assert!(rest[..200].iter().all(|p| p.command.org == "north" && p.after.is_zero()));
        assert!(rest[200..300].iter().all(|p| p.command.org == "south" && p.after.is_zero()));
        assert!(
            rest[300..].is_sorted_by_key(|p| p.after) && rest[1995].after < Duration::from_mins(1)
        );
        assert!(rest[1995].after > Duration::from_secs(59));
    }
}
