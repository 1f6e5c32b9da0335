//! Which deaths of commands somebody has seen, so that an action takes no others. Pure.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::DeadLetter;

/// If `RabbitMQ` moves a dead letter itself, it writes whole seconds by its own clock.
const SAME_DEATH: SignedDuration = SignedDuration::from_secs(10);

/// By the id of the event of the failure, when the command failed. The same command may die again.
#[derive(Debug, Clone, Default)]
pub struct Deaths(HashMap<String, Vec<Option<Timestamp>>>);

impl Deaths {
    pub fn of<'a>(dead_letters: impl IntoIterator<Item = &'a DeadLetter>) -> Self {
        let mut deaths = Self::default();
        for dead_letter in dead_letters {
            deaths.0.entry(dead_letter.failure_event()).or_default().push(dead_letter.failed_at);
        }
        deaths
    }

    /// Whether this one is among them.
    pub fn contain(&self, dead_letter: &DeadLetter) -> bool {
        let died = self.0.get(&dead_letter.failure_event());
        died.is_some_and(|died| died.iter().any(|at| is_same_death(*at, dead_letter.failed_at)))
    }
}

/// Whether two times of failure of the same command can be those of one death.
pub(crate) fn is_same_death(one: Option<Timestamp>, other: Option<Timestamp>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.duration_since(other).abs() <= SAME_DEATH,
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Properties;

    fn dead_letter(id: &str, second: Option<i64>) -> DeadLetter {
        let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
        let failed_at =
            second.map(|second| Timestamp::from_second(1_800_000_000 + second).unwrap());
        DeadLetter { properties, failed_at, ..DeadLetter::default() }
    }

    #[test]
    fn a_death_is_known_by_its_command_and_its_time() {
        let deaths = Deaths::of([&dead_letter("a", Some(0)), &dead_letter("b", None)]);
        for (id, second, is_known) in [
            ("a", Some(0), true),
            ("a", Some(1), true),
            ("a", Some(60), false),
            ("a", None, false),
            ("b", None, true),
            ("c", Some(0), false),
        ] {
            assert_eq!(deaths.contain(&dead_letter(id, second)), is_known, "{id} {second:?}");
        }
    }
}
