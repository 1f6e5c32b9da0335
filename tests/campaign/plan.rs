//! The commands of a campaign, from its seed: of every kind, each with the end that it must come to.

use fastrand::Rng;
use serde_json::json;
use tallyfy_delete_worker::messages;

use crate::ledgers::{Command, Expected};

/// Organisations that the workers may touch.
pub(crate) const ORGS: [&str; 3] = ["north", "south", "west"];

/// A command with its message.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) command: Command,
    pub(crate) body: Vec<u8>,
    pub(crate) message_id: Option<String>,
    /// Straight to the queue, not to the exchange.
    pub(crate) straight: bool,
    /// Sent a second time, as a producer does that has lost a confirm.
    pub(crate) twice: bool,
    /// The state of the task before, where the sandbox is told of it.
    pub(crate) state: Option<&'static str>,
}

/// Makes this many commands.
pub(crate) fn plan(rng: &mut Rng, commands: usize) -> Vec<Planned> {
    (0..commands).map(|number| one(rng, number)).collect()
}

fn one(rng: &mut Rng, number: usize) -> Planned {
    let task = format!("t{number:06}");
    let org = ORGS[rng.usize(..ORGS.len())];
    let ordinary = json!({"org_id": org, "task_id": task, "requested_by": "campaign"});
    let late = json!({"org_id": org, "task_id": task, "not_after": "2020-01-01T00:00:00Z"});
    let foreign = json!({"org_id": "elsewhere", "task_id": task});
    let dead = Expected::DeadLetter;
    let (expected, body, state) = match rng.u8(..100) {
        0..82 => (Expected::Gone, ordinary, Some("present")),
        82..88 => (Expected::Gone, ordinary, Some("gone")),
        88..91 => (dead("forbidden"), ordinary, Some("forbidden")),
        91..94 => (dead("expired"), late, Some("present")),
        94..97 => (dead("org_not_allowed"), foreign, None),
        _ => (dead("malformed"), json!({"org_id": org, "task_id": format!("../{task}")}), Some("present")),
    };
    let body = body.to_string().into_bytes();
    let readable = messages::Command::decode(&body).ok();
    let derived = readable.filter(|_| rng.u8(..10) == 0).map(|command| command.derived_id());
    let message_id = derived.is_none().then(|| format!("command-{number:06}"));
    let id = derived.or(message_id.clone()).unwrap_or_default();
    let command = Command { id, org: org.into(), task, expected, attempted: 0, acknowledged: 0 };
    Planned { command, body, message_id, straight: rng.bool(), twice: rng.u8(..25) == 0, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_commands_and_each_has_an_id_of_its_own() {
        let (once, again) = (plan(&mut Rng::with_seed(7), 2000), plan(&mut Rng::with_seed(7), 2000));
        assert_eq!(format!("{once:?}"), format!("{again:?}"));
        let ids: std::collections::HashSet<_> = once.iter().map(|planned| &planned.command.id).collect();
        assert_eq!(ids.len(), 2000);
    }
}
