//! The worker-wide circuit breaker: open when no organisation is served.

use std::time::{Duration, Instant};

use super::streak::{CommandKey, Streak};

/// Time between two probes of an open breaker: at most two calls per second.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Probes of an open breaker that may be in flight at once.
pub(super) const PROBES_IN_FLIGHT: u32 = 4;
/// How much longer a less promising command waits for a free probe slot than the next better one.
const STAGGER: Duration = Duration::from_millis(40);

/// How promising a command is as a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbeRank {
    pub(super) organisation_has_failed: bool,
    pub(super) command_was_tried: bool,
}

impl ProbeRank {
    fn stagger(self) -> Duration {
        STAGGER * (2 * u32::from(self.organisation_has_failed) + u32::from(self.command_was_tried))
    }
}

/// # A bad command at the head of the queue does not hold the breaker open
///
/// Each probe uses a different command: a failed one steps aside for the next. Organisations that
/// have not failed come before those that have, and commands that were never tried before those
/// that were. Among the commands that wait for a slot, the more promising may take it a little
/// earlier.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    streak: Streak,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    next_probe: Instant,
    in_flight: u32,
}

impl Breaker {
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.next_probe)
    }

    /// Whether a call would be a probe.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub(super) fn admit(&mut self, rank: ProbeRank, now: Instant) -> Result<bool, Duration> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let due = open.next_probe + rank.stagger();
        if open.in_flight >= PROBES_IN_FLIGHT {
            return Err(PROBE_INTERVAL);
        }
        if due > now {
            return Err(due - now);
        }
        open.next_probe = now + PROBE_INTERVAL;
        open.in_flight += 1;
        Ok(true)
    }

    /// A probe has ended.
    pub(super) fn release_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.in_flight = open.in_flight.saturating_sub(1);
        }
    }

    /// An organisation is served. Returns for how long the breaker was open, if it has closed now.
    pub(super) fn served(&mut self, now: Instant) -> Option<Duration> {
        self.streak.clear();
        self.open.take().map(|open| now - open.since)
    }

    /// A call of an organisation that is not suspended has failed. Returns whether that is enough
    /// to open.
    pub(super) fn failed(&mut self, command: CommandKey) -> bool {
        self.streak.add(command);
        self.open.is_none() && self.streak.is_full()
    }

    /// The failures are handled otherwise: forgets them.
    pub(super) fn forget_failures(&mut self) {
        self.streak.clear();
    }

    pub(super) fn trip(&mut self, now: Instant) {
        self.open = Some(Open { since: now, next_probe: now + PROBE_INTERVAL, in_flight: 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEST: ProbeRank = ProbeRank { organisation_has_failed: false, command_was_tried: false };

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        breaker.trip(now);
        breaker
    }

    #[test]
    fn an_open_breaker_makes_two_probes_a_second_and_four_at_once() {
        let now = Instant::now();
        let mut breaker = open(now);
        assert_eq!(breaker.admit(BEST, now), Err(PROBE_INTERVAL));
        for probe in 1..=4 {
            assert_eq!(breaker.admit(BEST, now + PROBE_INTERVAL * probe), Ok(true));
            assert_eq!(breaker.admit(BEST, now + PROBE_INTERVAL * probe), Err(PROBE_INTERVAL));
        }
        assert_eq!(
            breaker.admit(BEST, now + PROBE_INTERVAL * 5),
            Err(PROBE_INTERVAL),
            "four are in flight"
        );
        breaker.release_probe();
        assert_eq!(breaker.admit(BEST, now + PROBE_INTERVAL * 5), Ok(true));
    }

    #[test]
    fn a_bad_command_at_the_head_of_the_queue_does_not_hold_the_breaker_open() {
        let now = Instant::now();
        let due = now + PROBE_INTERVAL;
        let rank = |organisation_has_failed, command_was_tried| ProbeRank {
            organisation_has_failed,
            command_was_tried,
        };
        let waits = [rank(false, false), rank(false, true), rank(true, false), rank(true, true)]
            .map(|rank| open(now).admit(rank, due).err().unwrap_or_default());
        assert_eq!(waits[0], Duration::ZERO, "another organisation, and never tried");
        assert!(
            waits.is_sorted_by(|a, b| a < b),
            "each later than the more promising one: {waits:?}"
        );
        assert!(
            waits[3] < PROBE_INTERVAL,
            "and still the next probe where there is nothing better"
        );
    }

    #[test]
    fn it_closes_when_an_organisation_is_served_and_counts_again_from_the_start() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for answer in 0..10 {
            assert_eq!(breaker.failed(CommandKey(answer)), answer == 9);
        }
        breaker.trip(now);
        assert!(!breaker.failed(CommandKey(1)), "it is open already");
        assert_eq!(breaker.served(now + PROBE_INTERVAL), Some(PROBE_INTERVAL));
        assert_eq!(breaker.served(now), None);
        assert_eq!(
            breaker.admit(BEST, now),
            Ok(false),
            "closed, every call may be made, and none is a probe"
        );
        assert!(!breaker.failed(CommandKey(1)));
    }
}
