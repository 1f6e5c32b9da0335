//! Which commands are held in memory until their organisation may be called, and which step aside
//! to a delay queue.

use std::collections::HashMap;
use std::time::Duration;

use crate::messages::OrgId;

/// How many are held for one organisation among several: enough to serve as its probes.
const OF_ONE: usize = 16;
/// Commands that may be unacknowledged while the worker probes.
const WINDOW: usize = 512;
/// The same with only one organisation: nothing better can be behind them.
const NARROW_WINDOW: usize = 16;
/// How many are held in total. The rest of the window is for new commands that are not known to
/// fail.
const OF_ALL: usize = WINDOW * 3 / 4;
/// How long a command is held if there are too many.
const WHEN_CROWDED: Duration = Duration::from_secs(2);
/// Keeps every wait in memory far below `RabbitMQ`'s consumer timeout of 30 minutes, and below the
/// alert for a stuck command.
pub const LONGEST_WAIT: Duration = Duration::from_mins(5);
/// How often a waiting command checks its situation.
pub const LOOK: Duration = Duration::from_millis(500);
/// How often a command asks again if its organisation's probe is due and another command makes it:
/// that answer may hang.
const WHILE_DUE: Duration = Duration::from_millis(250);
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// How many commands are held per organisation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    of: HashMap<OrgId, usize>,
    all: usize,
}

impl Held {
    /// One more.
    pub fn add(&mut self, org: &OrgId) {
        self.all += 1;
        *self.of.entry(org.clone()).or_default() += 1;
    }

    /// One less.
    pub fn remove(&mut self, org: &OrgId) {
        self.all = self.all.saturating_sub(1);
        match self.of.get_mut(org) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(self.of.remove(org)),
        }
    }

    /// Whether a command of this organisation, already counted and waiting this long, stays held.
    ///
    /// # A backlog of one organisation does not hide another
    ///
    /// If other organisations may be called, an organisation that may not keeps only a few commands
    /// here, however many it has. The rest steps aside at once, as fast as the broker delivers, so
    /// that the commands behind it are seen. Many organisations share the room.
    pub fn may_stay(&self, org: &OrgId, waited: Duration, callable: usize) -> bool {
        if callable <= 1 {
            return waited < LONGEST_WAIT;
        }
        let share = (OF_ALL / self.of.len().max(1)).clamp(1, OF_ONE);
        let longest = if self.all > OF_ALL { WHEN_CROWDED } else { LONGEST_WAIT };
        waited < longest && self.of.get(org).is_none_or(|held| *held <= share)
    }
}

/// Commands that may be unacknowledged while the worker only probes.
pub fn probe_window(callable: usize) -> usize {
    if callable > 1 { WINDOW } else { NARROW_WINDOW }
}

/// When a command that was told to retry in `retry_in` asks again.
pub fn ask_again_in(retry_in: Duration) -> Duration {
    if retry_in.is_zero() { WHILE_DUE } else { retry_in.clamp(SHORTEST_PAUSE, LOOK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Duration = Duration::ZERO;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    fn held(orgs: usize, each: usize) -> Held {
        let mut held = Held::default();
        for _ in 0..each {
            (0..orgs).for_each(|number| held.add(&org(&format!("org-{number}"))));
        }
        held
    }

    #[test]
    fn a_backlog_of_one_organisation_does_not_hide_another() {
        let (bad, mut held) = (org("org-0"), held(1, 16));
        assert!(held.may_stay(&bad, LONGEST_WAIT / 2, 2) && !held.may_stay(&bad, LONGEST_WAIT, 2));
        held.add(&bad);
        assert!(!held.may_stay(&bad, ZERO, 2), "the seventeenth steps aside at once");
        assert!(
            held.may_stay(&bad, ZERO, 1),
            "with one organisation there is nobody to be seen behind it"
        );
        assert!(!held.may_stay(&bad, LONGEST_WAIT, 1));
        assert!(held.may_stay(&org("other"), ZERO, 2));
        held.remove(&bad);
        assert!(held.may_stay(&bad, ZERO, 2));
    }

    #[test]
    fn many_organisations_share_the_room() {
        let first = org("org-0");
        assert!(held(128, 3).may_stay(&first, LONGEST_WAIT / 2, 1000), "384 in all");
        assert!(!held(128, 4).may_stay(&first, ZERO, 1000));
        let many = held(400, 1);
        assert!(
            many.may_stay(&first, WHEN_CROWDED / 2, 1000)
                && !many.may_stay(&first, WHEN_CROWDED, 1000)
        );
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let mut held = held(2, 2);
        for number in [0, 0, 1, 1] {
            held.remove(&org(&format!("org-{number}")));
        }
        assert_eq!((held.of.len(), held.all), (0, 0));
    }

    #[test]
    fn one_who_waits_asks_again_when_told_but_not_all_the_time() {
        let millis = |millis| ask_again_in(Duration::from_millis(millis)).as_millis();
        assert_eq!([0, 1, 80, 60_000].map(millis), [250, 10, 80, 500]);
    }

    #[test]
    fn the_window_is_wide_only_where_something_better_may_be_behind() {
        assert_eq!([0, 1, 2].map(probe_window), [16, 16, 512]);
    }
}
