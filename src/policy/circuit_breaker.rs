//! Whether the API may be called at all. Closed: yes. Open: one call at a time, at growing intervals, until one succeeds.

use std::time::{Duration, Instant};

/// When the breaker trips and how it probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row, over all organisations, that open it.
    pub failures_to_open: u32,
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
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_mins(1),
            probe_lease: Duration::from_mins(1),
        }
    }
}

/// The breaker of one worker.
#[derive(Debug)]
pub struct CircuitBreaker {
    settings: BreakerSettings,
    state: State,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
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
        Self { settings, state: State::Closed { failures: 0 } }
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
    pub fn on_success(&mut self) -> Option<Change> {
        let was_open = self.is_open();
        self.state = State::Closed { failures: 0 };
        was_open.then_some(Change::Closed)
    }

    /// A call has failed for a reason of the world.
    pub fn on_failure(&mut self, now: Instant) -> Option<Change> {
        match &mut self.state {
            State::Closed { failures } if *failures + 1 < self.settings.failures_to_open => {
                *failures += 1;
                None
            }
            State::Closed { .. } => {
                self.open(self.settings.first_pause, now);
                Some(Change::Opened)
            }
            // The late failure of a call that was under way when it opened says nothing new.
            State::Open { probing: false, .. } => None,
            State::Open { pause, .. } => {
                let pause = (*pause * 2).min(self.settings.longest_pause);
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

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    fn open(&mut self, pause: Duration, now: Instant) {
        self.state = State::Open { pause, probe_at: now + pause, probing: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn breaker() -> CircuitBreaker {
        CircuitBreaker::new(BreakerSettings::default())
    }

    fn open_at(now: Instant) -> CircuitBreaker {
        let mut breaker = breaker();
        let changes: Vec<_> = (0..10).filter_map(|_| breaker.on_failure(now)).collect();
        assert_eq!(changes, [Change::Opened]);
        breaker
    }

    #[test]
    fn ten_failures_in_a_row_open_it_and_one_success_in_between_does_not_let_them() {
        let now = Instant::now();
        let mut breaker = breaker();
        for _ in 0..9 {
            assert_eq!(breaker.on_failure(now), None);
        }
        assert_eq!(breaker.on_success(), None);
        for _ in 0..9 {
            assert_eq!(breaker.on_failure(now), None);
        }
        assert!(breaker.may_call(now));
        assert_eq!(breaker.on_failure(now), Some(Change::Opened));
        assert!(!breaker.may_call(now));
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
            assert_eq!(breaker.on_failure(now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(breaker.on_success(), Some(Change::Closed));
        assert!(breaker.may_call(now));
    }

    #[test]
    fn the_late_failures_of_calls_that_were_under_way_do_not_lengthen_the_pause() {
        let now = Instant::now();
        let mut breaker = open_at(now);
        for _ in 0..54 {
            assert_eq!(breaker.on_failure(now), None);
        }
        assert_eq!(breaker.next_probe(), Some(now + Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn whatever_happens_it_always_probes_again(steps in proptest::collection::vec((0_u8..3, 0_u64..100), 0..200)) {
            let mut now = Instant::now();
            let mut breaker = breaker();
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                match step {
                    0 => { breaker.on_failure(now); }
                    1 => { breaker.on_success(); }
                    _ => { breaker.may_call(now); }
                }
                prop_assert!(breaker.next_probe().is_none_or(|at| at <= now + Duration::from_mins(1)));
            }
            prop_assert!(breaker.may_call(now + Duration::from_mins(1)));
        }
    }
}
