//! The delays between the tries of one delivery: exponential, jittered, about two seconds in all.
//!
//! The only file that uses the `backoff` crate, which the project's user chose and which is no
//! longer maintained.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::policy::retry_schedule::TRIES_PER_DELIVERY;

const FIRST: Duration = Duration::from_millis(250);
/// Each delay is half to one and a half times the step, so that commands that failed together do
/// not come back together.
const JITTER: f64 = 0.5;

/// The delays of one delivery.
pub(super) struct InProcessDelays {
    backoff: ExponentialBackoff,
    left: u32,
}

impl InProcessDelays {
    pub(super) fn new() -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(FIRST)
            .with_multiplier(2.0)
            .with_randomization_factor(JITTER)
            .with_max_elapsed_time(None)
            .build();
        Self { backoff, left: TRIES_PER_DELIVERY - 1 }
    }
}

impl Iterator for InProcessDelays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.backoff.next_backoff()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_has_a_few_jittered_tries_within_about_two_seconds() {
        for _ in 0..100 {
            let delays: Vec<_> = InProcessDelays::new().map(|delay| delay.as_millis()).collect();
            let expected = [125..=375, 250..=750, 500..=1500];
            assert_eq!(delays.len(), expected.len());
            assert!(
                expected.iter().zip(&delays).all(|(range, delay)| range.contains(delay)),
                "{delays:?}"
            );
        }
    }
}
