//! The suspension of one organisation: why, since when, and when its next probe is due.

use std::time::{Duration, Instant};

use super::permit::{Denied, PermitKind};
use super::service::{Change, SuspendReason};

/// The first pause; doubled each time a probe fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long a due probe waits for a command that was never tried.
const FOR_ANOTHER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspension {
    pub(super) reason: SuspendReason,
    pub(super) since: Instant,
    pub(super) next_probe: Instant,
    pub(super) waited: u64,
    /// The end of a `Retry-After`: no probe of any kind is made before it.
    pub(super) retry_after_until: Instant,
    pause: Duration,
    probes: u32,
    /// The reasons reported so far.
    reported: [bool; SuspendReason::ALL.len()],
}

/// A change of the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CircuitChange {
    /// Suspended now: it was not before, or not for this reason.
    Suspended(Suspension),
    /// No longer suspended.
    Resumed(Suspension),
}

impl CircuitChange {
    pub(super) fn to_change(self, now: Instant) -> Change {
        match self {
            Self::Suspended(Suspension { reason, next_probe, .. }) => {
                Change::Suspended { reason, retry_in: next_probe.saturating_duration_since(now) }
            }
            Self::Resumed(Suspension { reason, since, waited, .. }) => Change::Resumed {
                reason,
                suspended_for: now.saturating_duration_since(since),
                waited,
            },
        }
    }
}

impl Suspension {
    pub(super) fn begin(
        reason: SuspendReason,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Self {
        let retry_after_until = now + retry_after.unwrap_or_default();
        let next_probe = retry_after_until.max(now + FIRST_PAUSE);
        let reported = SuspendReason::ALL.map(|known| known == reason);
        Self {
            reason,
            since: now,
            next_probe,
            retry_after_until,
            waited: 0,
            pause: FIRST_PAUSE,
            probes: 0,
            reported,
        }
    }

    /// Whether this reason was reported before: an organisation with alternating answers is not
    /// worth a log line per probe.
    pub(super) fn has_reported(&self, reason: SuspendReason) -> bool {
        self.reported[reason as usize]
    }

    pub(super) fn denied(&self, now: Instant) -> Denied {
        let left = |until: Instant| until.saturating_duration_since(now);
        let retry_after = Some(left(self.retry_after_until)).filter(|left| !left.is_zero());
        Denied::Suspended { reason: self.reason, retry_in: left(self.next_probe), retry_after }
    }

    /// # A `Retry-After` is a minimum for the pause that would be made anyway
    ///
    /// Zero or a date in the past does not shorten the pause. Only a failed probe makes it longer,
    /// up to a minute. The answers of calls that were in flight together count once.
    #[must_use]
    pub(super) fn extended(
        self,
        kind: PermitKind,
        reason: SuspendReason,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Self {
        let is_probe = kind == PermitKind::HalfOpen;
        let pause = if is_probe { (self.pause * 2).min(LONGEST_PAUSE) } else { self.pause };
        let retry_after_until = self.retry_after_until.max(now + retry_after.unwrap_or_default());
        let next_probe = self.next_probe.max(retry_after_until).max(now + pause);
        let mut reported = self.reported;
        reported[reason as usize] = true;
        Self { reason, next_probe, retry_after_until, pause, reported, ..self }
    }

    /// # A command that was never tried is the better probe
    ///
    /// The commands that failed may be the cause of the suspension. So they are used only when no
    /// other has come for a while.
    pub(super) fn is_due(&self, was_tried: bool, now: Instant) -> bool {
        let patience =
            if was_tried && self.reason.is_outage() { FOR_ANOTHER } else { Duration::ZERO };
        self.next_probe + patience <= now && self.probes == 0
    }

    /// Whether a good answer to a call with such a permit ends the suspension.
    ///
    /// A probe's answer does. In an outage any call's answer does, because it shows that the
    /// organisation is served. Neither undercuts a `Retry-After`, and nor does the late success of
    /// a call that began before a 429 or a 401.
    pub(super) fn ends_with(&self, kind: PermitKind, now: Instant) -> bool {
        self.retry_after_until <= now && (kind == PermitKind::HalfOpen || self.reason.is_outage())
    }

    /// Whether an open breaker may use it for a probe.
    pub(super) fn may_be_probed_early(&self, now: Instant) -> bool {
        self.reason.is_outage() && self.retry_after_until <= now
    }

    pub(super) fn begin_probe(&mut self) {
        self.probes += 1;
    }

    pub(super) fn end_probe(&mut self) {
        self.probes = self.probes.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Option<Duration> = Some(Duration::ZERO);

    #[test]
    fn a_retry_after_is_a_minimum_for_the_pause_that_would_be_made_anyway() {
        let (mut now, mut pauses) = (Instant::now(), Vec::new());
        let mut suspension = Suspension::begin(SuspendReason::Throttled, ZERO, now);
        for _ in 0..8 {
            pauses.push((suspension.next_probe - now).as_secs());
            now = suspension.next_probe;
            suspension =
                suspension.extended(PermitKind::HalfOpen, SuspendReason::Throttled, ZERO, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let long = Some(Duration::from_mins(5));
        assert_eq!(
            Suspension::begin(SuspendReason::Throttled, long, now).next_probe,
            now + Duration::from_mins(5)
        );
        let longer = suspension.extended(PermitKind::HalfOpen, SuspendReason::Throttled, long, now);
        assert_eq!(longer.next_probe, now + Duration::from_mins(5));
    }

    #[test]
    fn the_answers_of_calls_that_were_in_flight_together_count_once_and_undercut_nothing() {
        let now = Instant::now();
        let long = Some(Duration::from_mins(5));
        let first = Suspension::begin(SuspendReason::Throttled, long, now);
        let late = first.extended(PermitKind::Unrestricted, SuspendReason::Unauthorized, None, now);
        let reported = [true, true, false, false];
        assert_eq!(late, Suspension { reason: SuspendReason::Unauthorized, reported, ..first });
    }

    #[test]
    fn one_probe_is_made_at_a_time() {
        let now = Instant::now();
        let mut suspension = Suspension::begin(SuspendReason::Failing, None, now);
        assert!(!suspension.is_due(false, now) && suspension.is_due(false, now + FIRST_PAUSE));
        suspension.begin_probe();
        assert!(!suspension.is_due(false, now + FIRST_PAUSE));
        suspension.end_probe();
        assert!(suspension.is_due(false, now + FIRST_PAUSE));
    }

    #[test]
    fn a_command_that_was_never_tried_is_the_better_probe() {
        let now = Instant::now();
        let failing = Suspension::begin(SuspendReason::Failing, None, now);
        let due = now + FIRST_PAUSE;
        assert!(!failing.is_due(true, due) && failing.is_due(true, due + FOR_ANOTHER));
        let throttled = Suspension::begin(SuspendReason::Throttled, None, now);
        assert!(throttled.is_due(true, due), "it is not the commands' fault");
    }

    #[test]
    fn a_good_answer_ends_a_suspension_unless_it_would_undercut_what_the_api_asked_for() {
        let now = Instant::now();
        let ends = |reason, retry_after, kind| {
            Suspension::begin(reason, retry_after, now).ends_with(kind, now)
        };
        let (failing, throttled) = (SuspendReason::Failing, SuspendReason::Throttled);
        assert!(
            ends(failing, None, PermitKind::HalfOpen)
                && ends(failing, None, PermitKind::Unrestricted)
        );
        assert!(
            ends(throttled, None, PermitKind::HalfOpen)
                && !ends(throttled, None, PermitKind::Unrestricted)
        );
        let long = Some(Duration::from_mins(5));
        assert!(
            !ends(failing, long, PermitKind::HalfOpen)
                && !ends(throttled, long, PermitKind::HalfOpen)
        );
    }
}
