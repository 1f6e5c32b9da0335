//! Commands that wait for a concurrency permit: one line per organisation, first come, first
//! served.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::messages::OrgId;
use crate::policy::api_access::Line;

/// How long an organisation counts as crowded after one of its commands has waited too long.
const CROWDED_FOR: Duration = Duration::from_secs(5);

/// The lines; `T` identifies a waiting command.
#[derive(Debug)]
pub(super) struct WaitingLines<T> {
    lines: HashMap<OrgId, Queue<T>>,
    /// How many commands of a crowded organisation may wait.
    patience: usize,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<T>,
    crowded: Option<Instant>,
}

impl<T> WaitingLines<T> {
    /// For `concurrency` permits.
    pub(super) fn new(concurrency: usize) -> Self {
        Self { lines: HashMap::new(), patience: (concurrency / 4).max(1) }
    }

    pub(super) fn is_empty(&self, org: &OrgId) -> bool {
        self.lines.get(org).is_none_or(|line| line.waiting.is_empty())
    }

    /// The organisations with waiting commands.
    pub(super) fn orgs(&self) -> impl Iterator<Item = &OrgId> {
        self.lines.iter().filter(|(_, line)| !line.waiting.is_empty()).map(|(org, _)| org)
    }

    /// The commands ahead of a new one of this organisation.
    pub(super) fn before(&self, org: &OrgId) -> Line {
        let ahead = self.lines.get(org).map_or(0, |line| line.waiting.len());
        Line { ahead, organisations: self.orgs().filter(|other| *other != org).count() + 1 }
    }

    /// Joins the end of the line, unless that is too long.
    pub(super) fn join(&mut self, org: &OrgId, who: T, now: Instant) -> bool {
        if !self.lines.contains_key(org) {
            self.lines.insert(org.clone(), Queue { waiting: VecDeque::new(), crowded: None });
        }
        let line = self.lines.get_mut(org).expect("it has just been put there");
        let is_crowded =
            line.crowded.is_some_and(|since| now.saturating_duration_since(since) < CROWDED_FOR);
        let may_wait = !is_crowded || line.waiting.len() < self.patience;
        if may_wait {
            line.waiting.push_back(who);
        }
        may_wait
    }

    /// The first in line.
    pub(super) fn next(&mut self, org: &OrgId) -> Option<T> {
        let line = self.lines.get_mut(org)?;
        let first = line.waiting.pop_front();
        if line.waiting.is_empty() && line.crowded.is_none() {
            self.lines.remove(org);
        }
        first
    }

    /// A command of this organisation has waited too long: cuts the line to the allowed length.
    /// `is_gone` says which commands no longer wait.
    pub(super) fn crowded(&mut self, org: &OrgId, now: Instant, is_gone: impl Fn(&T) -> bool) {
        if let Some(line) = self.lines.get_mut(org) {
            line.crowded = Some(now);
            line.waiting.retain(|who| !is_gone(who));
            line.waiting.truncate(self.patience);
        }
    }

    /// Empties the line.
    pub(super) fn dissolve(&mut self, org: &OrgId) {
        self.lines.remove(org);
    }

    /// Forgets the lines of organisations without waiting commands.
    pub(super) fn forget_idle(&mut self) {
        self.lines.retain(|_, line| !line.waiting.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::try_from(id.to_owned()).unwrap()
    }

    #[test]
    fn each_organisation_has_a_line_first_come_first_served() {
        let (mut lines, now) = (WaitingLines::new(8), Instant::now());
        for (id, who) in [("a", 1), ("b", 2), ("a", 3)] {
            assert!(lines.join(&org(id), who, now));
        }
        assert!(!lines.is_empty(&org("a")) && lines.is_empty(&org("c")));
        let mut orgs: Vec<_> = lines.orgs().map(ToString::to_string).collect();
        orgs.sort();
        assert_eq!(orgs, ["a", "b"]);
        assert_eq!(
            [lines.next(&org("a")), lines.next(&org("a")), lines.next(&org("a"))],
            [Some(1), Some(3), None]
        );
        lines.dissolve(&org("b"));
        assert_eq!((lines.next(&org("b")), lines.orgs().count()), (None, 0));
    }

    #[test]
    fn when_one_has_waited_too_long_only_a_few_of_its_organisation_may_wait_for_a_while() {
        let (mut lines, now) = (WaitingLines::new(8), Instant::now());
        for who in 0..10 {
            assert!(lines.join(&org("slow"), who, now), "without bound, as long as it is quick");
        }
        lines.crowded(&org("slow"), now, |who| *who == 0);
        assert!(!lines.join(&org("slow"), 10, now), "two may wait, of eight permits");
        assert!(lines.join(&org("quick"), 11, now));
        assert_eq!(lines.next(&org("slow")), Some(1));
        assert!(lines.join(&org("slow"), 12, now), "and another one where one has gone");
        assert_eq!(
            [lines.next(&org("slow")), lines.next(&org("slow")), lines.next(&org("slow"))],
            [Some(2), Some(12), None]
        );
        for who in 0..10 {
            assert!(lines.join(&org("slow"), who, now + CROWDED_FOR), "it is forgotten");
        }
    }
}
