//! How often the API may be called: token buckets per organisation and for all, and where a command
//! waits for its token.
//!
//! Not `governor` (0.10): it reads its own clock, takes a token when it looks, and keeps its keys
//! in its own map. Here a token is one of several conditions: it is taken only together with the
//! permit, the circuit and the breaker, and the time is an argument.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// How long a command waits in memory for its token if another organisation may be behind it.
pub const HELD_FOR: Duration = Duration::from_secs(5);
/// Why a command waits in a delay queue for its token.
pub const RATE_LIMITED: &str = "rate_limited";
/// This many per organisation are held, however long that takes.
const HELD: usize = 16;

/// A number of calls in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    calls: NonZeroU32,
    per: Duration,
}

impl Rate {
    pub fn new(calls: NonZeroU32, per: Duration) -> Self {
        Self { calls, per }
    }

    /// The time from one token to the next.
    fn interval(self) -> Duration {
        self.per / self.calls.get()
    }

    /// The capacity of a bucket: the calls of one second, at least one.
    ///
    /// # Any period sees at most its rate plus one second's calls
    ///
    /// A full bucket gives its tokens at once, and from then on no more than the rate.
    fn burst(self) -> u32 {
        let a_second = Duration::from_secs(1).as_nanos() / self.interval().as_nanos().max(1);
        u32::try_from(a_second).unwrap_or(u32::MAX).max(1)
    }
}

/// The limits of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Of each organisation.
    pub organisation: Option<Rate>,
    /// Of all together.
    pub total: Option<Rate>,
}

/// The tokens, stored as the moment at which the bucket is full again; full at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    interval: Duration,
    tolerance: Duration,
    full_at: Instant,
}

impl Bucket {
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        let tolerance = rate.interval() * (rate.burst() - 1);
        Self { interval: rate.interval(), tolerance, full_at: now }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// Time until there is a token; zero if there is one.
    pub(super) fn ready_in(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now).saturating_sub(self.tolerance)
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes a token, if necessary one from the future.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }

    /// Returns the token that [`Bucket::take`] took.
    pub(super) fn return_token(&mut self) {
        self.full_at = self.full_at.checked_sub(self.interval).unwrap_or(self.full_at);
    }
}

/// Where a command waits for its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenWait {
    /// In memory, in line.
    Here,
    /// In a delay queue until its turn, this far away.
    Aside(Duration),
}

/// Says where a command waits, given how many of its organisation are ahead of it in line, and how
/// far away its turn is.
///
/// # Commands that wait for a token do not hide another organisation
///
/// A line of some seconds is no obstacle, and a copy would gain nothing. A longer one would fill
/// the worker's memory with one organisation and hide the commands behind it.
pub(super) fn where_to_wait(ahead: usize, turn_in: Duration, is_shared: bool) -> TokenWait {
    if !is_shared || ahead < HELD || turn_in <= HELD_FOR {
        TokenWait::Here
    } else {
        TokenWait::Aside(turn_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(calls: u32, seconds: u64) -> Rate {
        Rate::new(NonZeroU32::new(calls).unwrap(), Duration::from_secs(seconds))
    }

    /// When each of `number` calls is made, if each is made as early as allowed.
    fn calls(rate: Rate, number: u32, start: Instant) -> Vec<Duration> {
        let (mut bucket, mut now, mut made) = (Bucket::new(rate, start), start, Vec::new());
        for _ in 0..number {
            now += bucket.ready_in(now);
            bucket.take(now);
            made.push(now - start);
        }
        made
    }

    #[test]
    fn any_time_sees_its_rate_and_one_seconds_calls_more() {
        for (rate, burst) in [(rate(20, 1), 20), (rate(600, 60), 10), (rate(100, 3600), 1)] {
            let made = calls(rate, 100, Instant::now());
            assert_eq!(rate.burst(), burst);
            for (first, from) in made.iter().enumerate() {
                for (last, to) in made.iter().enumerate().skip(first) {
                    let number = u32::try_from(last - first + 1).unwrap();
                    let allowed = to.saturating_sub(*from).as_nanos() / rate.interval().as_nanos();
                    assert!(u128::from(number) <= allowed + u128::from(burst), "{rate:?}");
                }
            }
            let least = rate.interval() * (99 - (burst - 1));
            assert_eq!(*made.last().unwrap(), least, "and nothing is wasted");
        }
    }

    #[test]
    fn a_bucket_that_rests_is_full_again_and_holds_no_more() {
        let (start, rate) = (Instant::now(), rate(10, 1));
        let mut bucket = Bucket::new(rate, start);
        assert!(bucket.is_full(start));
        for _ in 0..10 {
            assert!(bucket.ready_in(start).is_zero());
            bucket.take(start);
        }
        assert_eq!(bucket.ready_in(start), Duration::from_millis(100));
        assert!(!bucket.is_full(start + Duration::from_millis(999)));
        let later = start + Duration::from_hours(1);
        assert!(bucket.is_full(later));
        (0..10).for_each(|_| bucket.take(later));
        assert!(!bucket.ready_in(later).is_zero());
    }

    #[test]
    fn a_call_that_is_not_made_returns_its_token() {
        let now = Instant::now();
        let mut bucket = Bucket::new(rate(4, 1), now);
        (0..4).for_each(|_| bucket.take(now));
        assert!(!bucket.ready_in(now).is_zero());
        bucket.return_token();
        assert!(bucket.ready_in(now).is_zero());
        bucket.take(now);
        assert!(!bucket.ready_in(now).is_zero(), "one, and no more");
    }

    #[test]
    fn commands_that_wait_for_a_token_do_not_hide_another_organisation() {
        let long = HELD_FOR * 2;
        assert_eq!(where_to_wait(99, HELD_FOR, true), TokenWait::Here);
        assert_eq!(where_to_wait(99, long, true), TokenWait::Aside(long));
        assert_eq!(where_to_wait(HELD - 1, long, true), TokenWait::Here, "a few are at hand");
        assert_eq!(where_to_wait(99, long, false), TokenWait::Here, "there is nobody to be seen");
    }

    proptest! {
        #[test]
        fn no_rate_is_too_fast_or_too_slow(calls in 1_u32.., seconds in 1_u64..100_000) {
            let (now, rate) = (Instant::now(), rate(calls, seconds));
            let mut bucket = Bucket::new(rate, now);
            prop_assert!(bucket.ready_in(now).is_zero() && rate.burst() >= 1);
            bucket.take(now);
            prop_assert!(bucket.ready_in(now) <= rate.interval());
        }
    }
}
