//! How long an organisation's calls take.

use std::time::{Duration, Instant};

/// A call of this length is slow. So is an organisation with calls in flight and no answer for this
/// long.
const SLOW_CALL: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Pace {
    last_call: Duration,
    last_progress: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_call: Duration::ZERO, last_progress: now }
    }

    /// A call begins while none is in flight.
    pub(super) fn begin(&mut self, now: Instant) {
        self.last_progress = now;
    }

    pub(super) fn answered(&mut self, took: Duration, now: Instant) {
        *self = Self { last_call: took, last_progress: now };
    }

    pub(super) fn is_slow(&self, is_waiting: bool, now: Instant) -> bool {
        let stands_still =
            is_waiting && now.saturating_duration_since(self.last_progress) >= SLOW_CALL;
        self.last_call >= SLOW_CALL || stands_still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_organisation_is_slow_by_its_last_call_or_while_it_stands_still() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(!pace.is_slow(true, now + SLOW_CALL / 2) && pace.is_slow(true, now + SLOW_CALL));
        assert!(!pace.is_slow(false, now + SLOW_CALL), "nothing is in flight");
        pace.answered(SLOW_CALL / 2, now + SLOW_CALL);
        assert!(!pace.is_slow(true, now + SLOW_CALL * 3 / 2));
        pace.answered(SLOW_CALL, now + SLOW_CALL * 2);
        assert!(pace.is_slow(false, now + SLOW_CALL * 2));
        pace.answered(Duration::ZERO, now);
        pace.begin(now + SLOW_CALL * 5);
        assert!(!pace.is_slow(true, now + SLOW_CALL * 11 / 2));
    }
}
