//! Whether the API may be called at all. Closed: yes. Open: one call at a time, at growing intervals, until one succeeds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::messages::OrgId;

/// When the breaker trips and how it probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row, over all organisations, that open it.
    pub failures_to_open: u32,
    /// How long the success of another organisation speaks against an outage (see [`CircuitBreaker`]).
    pub evidence: Duration,
    /// Pause before the first probe; doubled after each probe that fails.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long a probe may be under way before another one is allowed. A probe that vanishes (a panic, a lost
    /// connection) so costs time, never the probing itself.
    pub probe_lease: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures_to_open: 10,
            evidence: Duration::from_secs(30),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(1),
            probe_lease: Duration::from_mins(1),
        }
    }
}

/// The breaker of one worker.
///
/// # It trips for the world and not for one bad organisation
///
/// Failures in a row are counted for each organisation. While another organisation was served lately, those of one count
/// at the most half of what opens the breaker: alone they never do. Where nobody was served lately, nothing tells a bad
/// organisation from a bad world, and the breaker opens: waiting costs a command nothing, attempts would.
#[derive(Debug)]
pub struct CircuitBreaker {
    settings: BreakerSettings,
    state: State,
    served: LastServed,
}

#[derive(Debug)]
enum State {
    Closed { failures: HashMap<OrgId, u32> },
    Open { pause: Duration, probe_at: Instant, probing: bool },
}

/// A change that is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has just opened.
    Opened,
    /// It has just closed.
    Closed,
}

impl CircuitBreaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::closed(), served: LastServed::default() }
    }

    /// Whether a call may be made now. While open, `true` is the permission for one probe.
    pub fn may_call(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Closed { .. } => true,
            State::Open { probe_at, probing, .. } if *probe_at <= now => {
                *probe_at = now + self.settings.probe_lease;
                *probing = true;
                true
            }
            State::Open { .. } => false,
        }
    }

    /// A call has shown that the API works.
    pub fn on_success(&mut self, org: &OrgId, now: Instant) -> Option<Change> {
        self.served.note(org, now);
        match &mut self.state {
            State::Closed { failures } => {
                failures.clear();
                None
            }
            State::Open { .. } => {
                self.state = State::closed();
                Some(Change::Closed)
            }
        }
    }

    /// A call has failed for a reason of the world.
    pub fn on_failure(&mut self, org: &OrgId, now: Instant) -> Option<Change> {
        let longest_pause = self.settings.longest_pause;
        match &mut self.state {
            State::Closed { failures } => {
                *failures.entry(org.clone()).or_default() += 1;
                self.trips(now).then(|| self.open(self.settings.first_pause, now))
            }
            // The late failure of a call that was under way when it opened says nothing new.
            State::Open { probing: false, .. } => None,
            State::Open { pause, .. } => {
                let pause = (*pause * 2).min(longest_pause);
                self.open(pause, now);
                None
            }
        }
    }

    /// When the next probe may be made; `None` while closed.
    pub fn next_probe(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { probe_at, .. } => Some(probe_at),
        }
    }

    fn trips(&self, now: Instant) -> bool {
        let State::Closed { failures } = &self.state else { return false };
        let limit = self.settings.failures_to_open;
        let weight = |(org, count): (&OrgId, &u32)| {
            let others_are_served = self.served.another_than(org, now, self.settings.evidence);
            (*count).min(if others_are_served { limit.div_ceil(2) } else { limit })
        };
        failures.iter().map(weight).sum::<u32>() >= limit
    }

    fn open(&mut self, pause: Duration, now: Instant) -> Change {
        self.state = State::Open { pause, probe_at: now + pause, probing: false };
        Change::Opened
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed { failures: HashMap::new() }
    }
}

/// The last two organisations that the API has served, and when: enough to ask for "another than this one".
#[derive(Debug, Default)]
struct LastServed {
    last: Option<(OrgId, Instant)>,
    another: Option<(OrgId, Instant)>,
}

impl LastServed {
    fn note(&mut self, org: &OrgId, now: Instant) {
        match &mut self.last {
            Some((last, at)) if last == org => *at = now,
            _ => self.another = self.last.replace((org.clone(), now)),
        }
    }

    fn another_than(&self, org: &OrgId, now: Instant, evidence: Duration) -> bool {
        let served = [&self.last, &self.another].into_iter().flatten();
        served.into_iter().any(|(served, at)| served != org && now.duration_since(*at) < evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new(BreakerSettings::default())
    }

    fn org(number: u8) -> OrgId {
        OrgId::try_from(format!("org-{number}")).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open_at(now: Instant) -> CircuitBreaker {
        let mut breaker = breaker();
        let changes: Vec<_> = (0..10).filter_map(|_| breaker.on_failure(&org(1), now)).collect();
        assert_eq!(changes, [Change::Opened], "it trips cold");
        breaker
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_one_success_in_between_does_not_let_them() {
        let now = Instant::now();
        let mut breaker = breaker();
        for _ in 0..9 {
            assert_eq!(breaker.on_failure(&org(1), now), None);
        }
        assert_eq!(breaker.on_success(&org(1), now), None);
        for _ in 0..9 {
            assert_eq!(breaker.on_failure(&org(1), now), None);
        }
        assert!(breaker.may_call(now));
        assert_eq!(breaker.on_failure(&org(1), now), Some(Change::Opened));
        assert!(!breaker.may_call(now));
    }

    #[test]
    fn it_trips_for_the_world_and_not_for_one_bad_organisation() {
        let now = Instant::now();
        let mut breaker = breaker();
        breaker.on_success(&org(2), now);
        breaker.on_success(&org(1), now);
        for _ in 0..1000 {
            assert_eq!(breaker.on_failure(&org(1), now + seconds(29)), None);
        }
        let changes: Vec<_> = (0..5).map(|_| breaker.on_failure(&org(2), now)).collect();
        assert_eq!(changes, [None, None, None, None, Some(Change::Opened)], "the other one fails too");
    }

    #[test]
    fn when_nobody_was_served_lately_one_organisation_is_the_world() {
        let now = Instant::now();
        let mut breaker = breaker();
        breaker.on_success(&org(2), now);
        for _ in 0..1000 {
            assert_eq!(breaker.on_failure(&org(1), now), None);
        }
        assert_eq!(breaker.on_failure(&org(1), now + seconds(30)), Some(Change::Opened));
    }

    #[test]
    fn while_open_it_probes_alone_at_growing_intervals_up_to_a_minute() {
        let mut now = Instant::now();
        let mut breaker = open_at(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let probe_at = breaker.next_probe().unwrap();
            pauses.push((probe_at - now).as_secs());
            now = probe_at;
            assert!(breaker.may_call(now), "a probe is allowed");
            assert!(!breaker.may_call(now), "but only one");
            assert_eq!(breaker.on_failure(&org(2), now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(breaker.on_success(&org(1), now), Some(Change::Closed));
        assert!(breaker.may_call(now));
    }

    #[test]
    fn the_late_failures_of_calls_that_were_under_way_do_not_lengthen_the_pause() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        for _ in 0..54 {
            assert_eq!(breaker.on_failure(&org(1), now), None);
        }
        assert_eq!(breaker.next_probe(), Some(now + seconds(1)));
    }

    /// What one step of a history does.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Step {
        Success,
        Failure,
        Ask,
    }

    type History = [(Instant, Step, u8)];

    /// The rule of tripping, from the whole history since the breaker was last known to be closed.
    fn should_open(history: &History) -> bool {
        let row = history.iter().rposition(|(_, step, _)| *step == Step::Success).map_or(0, |at| at + 1);
        let failures =
            |org| history[row..].iter().filter(|(_, step, of)| *step == Step::Failure && *of == org).count();
        let now = history.last().unwrap().0;
        let other_served = |org| {
            history
                .iter()
                .any(|(at, step, of)| *step == Step::Success && *of != org && now - *at < seconds(30))
        };
        (0..3).map(|org| failures(org).min(if other_served(org) { 5 } else { 10 })).sum::<usize>() >= 10
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, u8, u64)>> {
        let step = prop_oneof![1 => Just(Step::Success), 8 => Just(Step::Failure), 3 => Just(Step::Ask)];
        proptest::collection::vec((step, 0_u8..3, 0_u64..12), 0..300)
    }

    proptest! {
        #[test]
        fn it_does_what_the_rule_says_whatever_happens(steps in steps()) {
            let mut now = Instant::now();
            let (mut breaker, mut open) = (breaker(), false);
            let (mut history, mut allowed_at) = (Vec::new(), Vec::new());
            for (step, number, pause) in steps {
                now += seconds(pause / 4);
                match step {
                    Step::Success => {
                        let change = breaker.on_success(&org(number), now);
                        prop_assert_eq!(change, open.then_some(Change::Closed), "one success closes it");
                        open = false;
                        history.push((now, step, number));
                    }
                    Step::Failure => {
                        let change = breaker.on_failure(&org(number), now);
                        if !open {
                            history.push((now, step, number));
                            open = should_open(&history);
                            prop_assert_eq!(change, open.then_some(Change::Opened));
                            allowed_at.clear();
                        }
                    }
                    Step::Ask if open && breaker.may_call(now) => allowed_at.push(now),
                    Step::Ask => prop_assert!(open || breaker.may_call(now), "closed, it allows every call"),
                }
                prop_assert_eq!(breaker.next_probe().is_some(), open);
                prop_assert!(breaker.next_probe().is_none_or(|at| at <= now + Duration::from_mins(1)));
                let apart = allowed_at.windows(2).all(|pair| pair[1] - pair[0] >= seconds(1));
                prop_assert!(apart, "probes come one at a time: {:?}", allowed_at);
            }
            prop_assert!(breaker.may_call(now + Duration::from_mins(1)), "it always probes again");
        }
    }
}
