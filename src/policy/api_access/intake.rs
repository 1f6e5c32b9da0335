//! How commands may be consumed: as many as there are permits for, a few for probes, or none for a
//! while.

use std::time::{Duration, Instant};

use super::breaker::PROBE_INTERVAL;
use super::{ApiAccess, Intake};

impl ApiAccess {
    /// How commands may be consumed now.
    pub fn intake(&self, now: Instant) -> Intake {
        if !self.are_all_suspended() {
            return if self.breaker.is_open() { Intake::Probing } else { Intake::Bulk };
        }
        if self.callable.is_empty() {
            return Intake::Paused(now + Duration::from_secs(1));
        }
        if self.called < self.callable.len() {
            return Intake::Probing;
        }
        let breaker = self.breaker.next_probe();
        let due = self.suspensions().map(|suspension| match breaker {
            Some(probe) if suspension.reason.is_outage() => probe.max(suspension.retry_after_until),
            _ => suspension.next_probe,
        });
        match due.min() {
            // A shorter pause is not worth it: an open breaker makes two probes per second.
            Some(due) if due > now + PROBE_INTERVAL => Intake::Paused(due),
            _ => Intake::Probing,
        }
    }

    /// Whether every organisation that commands have come for is suspended. One with a token but
    /// without any command does not count: it may be a stray file.
    pub fn are_all_suspended(&self) -> bool {
        self.callable.is_empty() || (self.called > 0 && self.suspended >= self.called)
    }
}
