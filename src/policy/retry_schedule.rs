//! How long to wait before the next attempt, or that there is none: the limits and the ladder of durable waits.

use std::time::Duration;

use thiserror::Error;

use super::verdict::Verdict;
use crate::messages::names;

/// Tries of one delivery, before the command goes to a wait queue.
pub const TRIES_PER_DELIVERY: u32 = 4;
/// The longest that a delivery sleeps in process for one `Retry-After`.
pub const LONGEST_SLEEP_IN_PROCESS: Duration = Duration::from_secs(2);

/// One durable wait: a queue whose messages expire after `wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rung(Duration);

impl Rung {
    /// How long a message lies in the queue.
    pub fn wait(self) -> Duration {
        self.0
    }

    /// The TTL of its queue, in milliseconds.
    pub fn ttl_ms(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }

    /// The rung's name in settings, queue names and metrics: `5s`, `2m`, `1h`.
    pub fn name(self) -> String {
        let millis = self.0.as_millis();
        let unit = [(3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(unit, _)| millis.is_multiple_of(*unit));
        let (unit, suffix) = unit.unwrap_or((1, "ms"));
        format!("{}{suffix}", millis / unit)
    }

    /// The wait queue's name.
    pub fn queue(self) -> String {
        format!("{}{}", names::WAIT_QUEUE_PREFIX, self.name())
    }
}

/// Why a list of waits is no ladder.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LadderError {
    /// No rung at all.
    #[error("it needs one wait at least")]
    Empty,
    /// Not strictly rising.
    #[error("each wait must be longer than the one before it")]
    NotRising,
    /// Outside of what a queue's TTL can say.
    #[error("a wait is from 1ms to 24h, in whole milliseconds")]
    OutOfRange,
    /// More queues than make sense.
    #[error("it has at most 16 waits")]
    TooMany,
}

/// The durable waits, shortest first; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<Rung>);

impl Ladder {
    /// Makes a ladder of rising waits.
    ///
    /// # Errors
    /// [`LadderError`] names what is wrong with them.
    pub fn new(waits: Vec<Duration>) -> Result<Self, LadderError> {
        let in_range = |wait: &Duration| {
            (1..=86_400_000).contains(&wait.as_millis()) && wait.subsec_nanos().is_multiple_of(1_000_000)
        };
        match waits.len() {
            0 => return Err(LadderError::Empty),
            17.. => return Err(LadderError::TooMany),
            _ if !waits.iter().all(in_range) => return Err(LadderError::OutOfRange),
            _ if !waits.is_sorted_by(|a, b| a < b) => return Err(LadderError::NotRising),
            _ => {}
        }
        Ok(Self(waits.into_iter().map(Rung).collect()))
    }

    /// All rungs, shortest first.
    pub fn rungs(&self) -> &[Rung] {
        &self.0
    }

    /// The rung at a place; the last one beyond the end.
    fn at(&self, place: usize) -> Rung {
        self.0[place.min(self.0.len() - 1)]
    }

    /// The first rung that lasts as long as `floor`, but not before `place`; where none is that long, the last one (the
    /// command's `x-not-before` then makes it wait again).
    fn from(&self, place: usize, floor: Duration) -> Rung {
        let long_enough = self.0.iter().position(|rung| rung.0 >= floor).unwrap_or(usize::MAX);
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
    pub ladder: Ladder,
}

/// What follows an answer that ends nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Sleep in process, then call again.
    Again(Duration),
    /// Wait in a queue.
    Wait(Rung),
    /// No attempt is left.
    Exhausted,
}

impl RetrySchedule {
    /// What follows a failed attempt that another one may mend (`transient`, `unreachable`).
    ///
    /// `spent` counts the attempts so far, this one included if it counts; `floor` is the answer's `Retry-After`;
    /// `sleep` the next delay in process, if this delivery has one left.
    pub fn after_failure(
        &self,
        verdict: Verdict,
        spent: u32,
        age: Duration,
        floor: Option<Duration>,
        sleep: Option<Duration>,
    ) -> Next {
        if verdict.spends_an_attempt() && spent >= self.max_attempts {
            return Next::Exhausted;
        }
        let floor = floor.unwrap_or_default();
        match sleep {
            Some(sleep) if floor <= LONGEST_SLEEP_IN_PROCESS => Next::Again(sleep.max(floor)),
            _ if verdict.spends_an_attempt() => Next::Wait(self.ladder.from(place_after(spent), floor)),
            _ => Next::Wait(self.postpone(age, floor)),
        }
    }

    /// The wait of a command that waits without blame: as long as it is old, so that a long outage is met with long waits
    /// and no state is needed to know how often it has waited.
    pub fn postpone(&self, age: Duration, floor: Duration) -> Rung {
        let rungs_no_longer_than_its_age = self.ladder.0.iter().take_while(|rung| rung.0 <= age).count();
        self.ladder.from(rungs_no_longer_than_its_age.saturating_sub(1), floor)
    }

    /// The wait of a command whose organisation says itself how long: no longer than needed.
    pub fn hold(&self, floor: Duration) -> Rung {
        self.ladder.from(0, floor)
    }
}

/// Every delivery that fails spends its tries, so the attempts spent tell how many waits there were.
fn place_after(spent: u32) -> usize {
    (spent.saturating_sub(1) / TRIES_PER_DELIVERY) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SLEEP: Option<Duration> = Some(Duration::from_millis(250));

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule() -> RetrySchedule {
        let ladder = Ladder::new([5, 30, 120, 600, 3600].map(seconds).to_vec()).unwrap();
        RetrySchedule { max_attempts: 20, max_age: seconds(86_400), ladder }
    }

    fn after(spent: u32, floor: Option<u64>, sleep: Option<Duration>) -> String {
        match schedule().after_failure(Verdict::Transient, spent, seconds(0), floor.map(seconds), sleep) {
            Next::Again(delay) => format!("{}ms", delay.as_millis()),
            Next::Wait(rung) => rung.name(),
            Next::Exhausted => "exhausted".into(),
        }
    }

    #[test]
    fn a_transient_failure_is_tried_again_in_process_then_climbs_the_ladder_then_ends() {
        assert_eq!(after(1, None, SLEEP), "250ms");
        let waits: Vec<_> = [4, 8, 12, 16, 19, 20, 21].map(|spent| after(spent, None, None)).to_vec();
        assert_eq!(waits, ["5s", "30s", "2m", "10m", "1h", "exhausted", "exhausted"]);
    }

    #[test]
    fn an_attempt_cut_short_by_a_shutdown_waits_on_its_own_rung() {
        assert_eq!(after(1, None, None), "5s");
        assert_eq!(after(5, None, None), "30s");
    }

    #[test]
    fn a_retry_after_is_a_floor_in_process_and_on_the_ladder() {
        assert_eq!(after(1, Some(1), SLEEP), "1000ms");
        assert_eq!(after(1, Some(3), SLEEP), "5s");
        assert_eq!(after(4, Some(7), None), "30s");
        assert_eq!(after(4, Some(80_000), None), "1h");
    }

    #[test]
    fn what_waits_without_blame_waits_about_as_long_as_it_is_old_and_never_ends_by_attempts() {
        let wait = |age| schedule().postpone(seconds(age), Duration::ZERO).name();
        assert_eq!(
            [0, 5, 29, 30, 119, 600, 100_000].map(wait),
            ["5s", "5s", "5s", "30s", "30s", "10m", "1h"]
        );
        let next = schedule().after_failure(Verdict::Unreachable, 99, seconds(40), None, None);
        assert_eq!(next, Next::Wait(Rung(seconds(30))));
    }

    #[test]
    fn a_bad_ladder_is_refused_by_name() {
        assert_eq!(Ladder::new(vec![]), Err(LadderError::Empty));
        assert_eq!(Ladder::new(vec![seconds(5), seconds(5)]), Err(LadderError::NotRising));
        assert_eq!(Ladder::new(vec![seconds(0)]), Err(LadderError::OutOfRange));
        assert_eq!(Ladder::new(vec![seconds(86_401)]), Err(LadderError::OutOfRange));
        assert_eq!(Ladder::new(vec![Duration::from_micros(1500)]), Err(LadderError::OutOfRange));
        assert_eq!(Ladder::new((1..18).map(seconds).collect()), Err(LadderError::TooMany));
    }

    #[test]
    fn a_rung_is_named_as_people_write_it() {
        let name = |millis| Rung(Duration::from_millis(millis)).name();
        assert_eq!([100, 5000, 90_000, 120_000, 3_600_000].map(name), ["100ms", "5s", "90s", "2m", "1h"]);
    }

    #[test]
    fn a_rungs_queue_has_its_name_and_its_wait() {
        let rungs = schedule().ladder.rungs().to_vec();
        let queues: Vec<_> = rungs.iter().map(|rung| (rung.queue(), rung.ttl_ms())).collect();
        assert_eq!(queues[0], ("task.delete.wait.5s".into(), 5000));
        assert_eq!(queues[4], ("task.delete.wait.1h".into(), 3_600_000));
    }

    proptest! {
        #[test]
        fn a_rungs_name_is_its_wait_so_no_two_share_a_queue(millis in 1_u64..=86_400_000) {
            let rung = Rung(Duration::from_millis(millis));
            let read: jiff::SignedDuration = rung.name().parse().unwrap();
            prop_assert_eq!(Duration::try_from(read).unwrap(), rung.wait());
        }

        #[test]
        fn no_wait_undercuts_a_retry_after_that_a_rung_can_hold(
            spent in 0_u32..19, age in 0_u64..200_000, floor in 0_u64..=3600, sleeps in any::<bool>(),
        ) {
            let sleep = sleeps.then_some(Duration::from_millis(250));
            for verdict in [Verdict::Transient, Verdict::Unreachable] {
                match schedule().after_failure(verdict, spent, seconds(age), Some(seconds(floor)), sleep) {
                    Next::Again(delay) => prop_assert!(delay >= seconds(floor)),
                    Next::Wait(rung) => prop_assert!(rung.wait() >= seconds(floor)),
                    Next::Exhausted => prop_assert!(false, "attempts were left"),
                }
            }
            prop_assert!(schedule().postpone(seconds(age), seconds(floor)).wait() >= seconds(floor));
            prop_assert!(schedule().hold(seconds(floor)).wait() >= seconds(floor));
        }
    }
}
