//! How long to wait before the next attempt, or that there is none: the limits, and the durable
//! retry delays.

use std::time::Duration;

use thiserror::Error;

/// Tries of one delivery, before the command goes to a delay queue.
pub const TRIES_PER_DELIVERY: u32 = 4;
/// The longest that a delivery sleeps in process for one `Retry-After`.
pub const LONGEST_SLEEP_IN_PROCESS: Duration = Duration::from_secs(2);

/// One durable wait: a queue whose messages expire after `wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RetryDelay(Duration);

impl RetryDelay {
    /// How long a message stays in the queue.
    pub fn wait(self) -> Duration {
        self.0
    }

    /// The TTL of its queue, in milliseconds.
    pub fn ttl_ms(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }

    /// The delay's name in settings, queue names and metrics: `5s`, `2m`, `1h`.
    pub fn name(self) -> String {
        let millis = self.0.as_millis();
        let unit = [(3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(unit, _)| millis.is_multiple_of(*unit));
        let (unit, suffix) = unit.unwrap_or((1, "ms"));
        format!("{}{suffix}", millis / unit)
    }
}

/// Why a list of durations cannot be the retry delays.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RetryDelaysError {
    /// No delay at all.
    #[error("it needs one wait at least")]
    Empty,
    /// Not strictly rising.
    #[error("each wait must be longer than the one before it")]
    NotRising,
    /// Outside the range of a queue's TTL.
    #[error("a wait is from 1ms to 24h, in whole milliseconds")]
    OutOfRange,
    /// More queues than make sense.
    #[error("it has at most 16 waits")]
    TooMany,
}

/// The durable waits, shortest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryDelays(Vec<RetryDelay>);

impl RetryDelays {
    /// Retry delays, which must rise.
    ///
    /// # Errors
    /// [`RetryDelaysError`] names what is wrong with them.
    pub fn new(waits: Vec<Duration>) -> Result<Self, RetryDelaysError> {
        let in_range = |wait: &Duration| {
            (1..=86_400_000).contains(&wait.as_millis())
                && wait.subsec_nanos().is_multiple_of(1_000_000)
        };
        match waits.len() {
            0 => return Err(RetryDelaysError::Empty),
            17.. => return Err(RetryDelaysError::TooMany),
            _ if !waits.iter().all(in_range) => return Err(RetryDelaysError::OutOfRange),
            _ if !waits.is_sorted_by(|a, b| a < b) => return Err(RetryDelaysError::NotRising),
            _ => {}
        }
        Ok(Self(waits.into_iter().map(RetryDelay).collect()))
    }

    /// All delays, shortest first.
    pub fn all(&self) -> &[RetryDelay] {
        &self.0
    }

    /// The delay at a place; the last one beyond the end.
    fn at(&self, place: usize) -> RetryDelay {
        self.0[place.min(self.0.len() - 1)]
    }

    /// The first delay from `place` on that lasts at least `minimum`. If none is that long, the
    /// last one (the command's `x-not-before` then makes it wait again).
    fn from(&self, place: usize, minimum: Duration) -> RetryDelay {
        let long_enough = self.0.iter().position(|delay| delay.0 >= minimum).unwrap_or(usize::MAX);
        self.at(place.max(long_enough))
    }
}

/// The limits of a command's life, and the waits in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    /// Answered attempts before the dead letter.
    pub max_attempts: u32,
    /// From the first delivery, waiting included.
    pub max_age: Duration,
    /// The durable waits.
    pub delays: RetryDelays,
}

impl RetrySchedule {
    /// The wait before the next attempt, when `spent` attempts are used up; no shorter than
    /// `min_delay`.
    pub fn retry(&self, spent: u32, min_delay: Duration) -> RetryDelay {
        self.delays.from(place_after(spent), min_delay)
    }

    /// The wait of a command after an upstream failure: as long as its age. So waits grow with an
    /// outage, without any state for how often it has waited.
    pub fn postpone(&self, age: Duration, min_delay: Duration) -> RetryDelay {
        let no_longer_than_its_age =
            self.delays.0.iter().take_while(|delay| delay.0 <= age).count();
        self.delays.from(no_longer_than_its_age.saturating_sub(1), min_delay)
    }

    /// The shortest wait that is no shorter than `min_delay`.
    pub fn shortest(&self, min_delay: Duration) -> RetryDelay {
        self.delays.from(0, min_delay)
    }

    /// The longest wait that is no longer than this, or the shortest there is.
    pub fn within(&self, most: Duration) -> RetryDelay {
        let short_enough = self.delays.0.iter().take_while(|delay| delay.0 <= most).count();
        self.delays.at(short_enough.saturating_sub(1))
    }

    /// The longest wait.
    pub fn longest(&self) -> RetryDelay {
        self.delays.at(usize::MAX)
    }
}

/// Every failed delivery uses up its tries, so the attempts spent tell how many waits there were.
fn place_after(spent: u32) -> usize {
    (spent.saturating_sub(1) / TRIES_PER_DELIVERY) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule() -> RetrySchedule {
        let delays = RetryDelays::new([5, 30, 120, 600, 3600].map(seconds).to_vec()).unwrap();
        RetrySchedule { max_attempts: 20, max_age: seconds(86_400), delays }
    }

    #[test]
    fn each_delivery_that_fails_is_followed_by_a_longer_wait() {
        let waits = |spents: &[u32]| -> Vec<String> {
            spents.iter().map(|spent| schedule().retry(*spent, Duration::ZERO).name()).collect()
        };
        assert_eq!(
            waits(&[4, 8, 12, 16, 19, 20, 400]),
            ["5s", "30s", "2m", "10m", "1h", "1h", "1h"]
        );
        assert_eq!(
            waits(&[0, 1, 5]),
            ["5s", "5s", "30s"],
            "cut short by a shutdown, it has its own wait"
        );
    }

    #[test]
    fn a_retry_after_is_a_minimum_for_every_wait() {
        let after = |spent, minimum| schedule().retry(spent, seconds(minimum)).name();
        assert_eq!([after(1, 3), after(4, 7), after(4, 80_000)], ["5s", "30s", "1h"]);
    }

    #[test]
    fn what_waits_for_an_upstream_failure_waits_about_as_long_as_it_is_old_and_never_ends_by_attempts()
     {
        let wait = |age| schedule().postpone(seconds(age), Duration::ZERO).name();
        assert_eq!(
            [0, 5, 29, 30, 119, 600, 100_000].map(wait),
            ["5s", "5s", "5s", "30s", "30s", "10m", "1h"]
        );
        assert_eq!(schedule().shortest(Duration::ZERO).name(), "5s");
        assert_eq!(schedule().longest().name(), "1h");
    }

    #[test]
    fn bad_retry_delays_are_refused_by_name() {
        assert_eq!(RetryDelays::new(vec![]), Err(RetryDelaysError::Empty));
        assert_eq!(
            RetryDelays::new(vec![seconds(5), seconds(5)]),
            Err(RetryDelaysError::NotRising)
        );
        assert_eq!(RetryDelays::new(vec![seconds(0)]), Err(RetryDelaysError::OutOfRange));
        assert_eq!(RetryDelays::new(vec![seconds(86_401)]), Err(RetryDelaysError::OutOfRange));
        assert_eq!(
            RetryDelays::new(vec![Duration::from_micros(1500)]),
            Err(RetryDelaysError::OutOfRange)
        );
        assert_eq!(
            RetryDelays::new((1..18).map(seconds).collect()),
            Err(RetryDelaysError::TooMany)
        );
    }

    #[test]
    fn a_retry_delay_is_named_as_people_write_it() {
        let name = |millis| RetryDelay(Duration::from_millis(millis)).name();
        assert_eq!(
            [100, 5000, 90_000, 120_000, 3_600_000].map(name),
            ["100ms", "5s", "90s", "2m", "1h"]
        );
    }

    #[test]
    fn a_delays_queue_has_its_name_and_its_wait() {
        let delays = schedule().delays.all().to_vec();
        let queues: Vec<_> = delays.iter().map(|delay| (delay.name(), delay.ttl_ms())).collect();
        assert_eq!(queues[0], ("5s".into(), 5000));
        assert_eq!(queues[4], ("1h".into(), 3_600_000));
    }

    proptest! {
        #[test]
        fn a_retry_delays_name_is_its_wait_so_no_two_share_a_queue(millis in 1_u64..=86_400_000) {
            let delay = RetryDelay(Duration::from_millis(millis));
            let read: jiff::SignedDuration = delay.name().parse().unwrap();
            prop_assert_eq!(Duration::try_from(read).unwrap(), delay.wait());
        }

        #[test]
        fn no_wait_undercuts_a_retry_after_that_a_delay_queue_can_hold(
            spent in 0_u32..99, age in 0_u64..200_000, minimum in 0_u64..=3600,
        ) {
            let waits = [
                schedule().retry(spent, seconds(minimum)),
                schedule().postpone(seconds(age), seconds(minimum)),
                schedule().shortest(seconds(minimum)),
            ];
            prop_assert!(waits.iter().all(|delay| delay.wait() >= seconds(minimum)));
        }
    }
}
