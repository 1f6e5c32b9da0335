//! The guard of one organisation and kind: how many commands may be admitted in a sliding window,
//! and what a person has decided since it tripped.
//!
//! Every worker folds the same records in the same order and so reaches the same state. The time is
//! that of the records.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::Timestamp;

use crate::messages::ledger::{Decision, GuardLimit};

/// One entry of the window stands for all admissions within this time.
const GRAIN: Duration = Duration::from_secs(1);
/// No window is longer; older admissions are forgotten.
const LONGEST_WINDOW: Duration = Duration::from_hours(24 * 7);

/// Permits that a worker reserves at once, at most.
const LARGEST_RESERVATION: u32 = 32;
/// The part of what is left of the limit that a worker may reserve without a command for it.
const IN_ADVANCE: u32 = 16;
/// Permits that were spent faster than this are followed by twice as many.
const SPENT_FAST: Duration = Duration::from_secs(1);

/// How many permits a worker reserves next, if so many commands wait for one: `last` is the last
/// reservation, and how long it took to spend; `left` is what the limit still allows.
///
/// # A slow stream of commands reserves no more than it spends
///
/// Each reservation costs the broker and the worker some wake-ups, so one is doubled as long as the
/// last one was spent within a second. When the guard trips, what was reserved and not spent is
/// wasted; so the less is left, the less is reserved in advance.
pub fn reservation(waiting: u32, last: Option<(u32, Duration)>, left: u32) -> u32 {
    let most = (left / IN_ADVANCE).clamp(1, LARGEST_RESERVATION);
    let in_advance = match last {
        Some((granted, took)) if took < SPENT_FAST => granted.saturating_mul(2).min(most),
        _ => 1,
    };
    waiting.max(in_advance).clamp(1, LARGEST_RESERVATION)
}

/// The state of the guard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GuardState {
    /// It counts.
    #[default]
    Armed,
    /// Commands are held until a person decides.
    Tripped(Trip),
    /// A person lets this many more pass, until then.
    Granted { left: u32, until: Timestamp, decision: Decision },
}

/// When and at which limit the guard tripped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trip {
    /// Number of the record, which makes the id of its event.
    pub offset: u64,
    pub since: Timestamp,
    pub limit: GuardLimit,
    /// The worker that publishes its event.
    pub writer: String,
    pub is_announced: bool,
}

/// Admissions, and the state.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    admitted: VecDeque<(Timestamp, u32)>,
    state: GuardState,
}

impl Guard {
    pub fn state(&self) -> &GuardState {
        &self.state
    }

    /// How many commands were admitted in the window that ends at `now`.
    pub fn count(&self, window: Duration, now: Timestamp) -> u32 {
        let begin = now - window;
        let counted = self.admitted.iter().rev().take_while(|(at, _)| *at + GRAIN > begin);
        counted.fold(0, |sum, (_, permits)| sum.saturating_add(*permits))
    }

    /// What the limit still allows. A grant is spent to the last permit, so nothing of it is
    /// reserved in advance.
    pub fn left(&self, limit: GuardLimit, now: Timestamp) -> u32 {
        match &self.state {
            GuardState::Armed => {
                let window = Duration::from_secs(limit.window_s.into());
                limit.max_deletes.saturating_sub(self.count(window, now))
            }
            GuardState::Tripped(_) | GuardState::Granted { .. } => 0,
        }
    }

    /// A worker reserves permits. Returns how many it gets.
    ///
    /// # The limit holds for all workers together
    ///
    /// The result of a reservation depends only on the records before it, which are the same, in
    /// the same order, for every reader of the ledger. A worker spends nothing before it has read
    /// its own record there. A worker that dies leaves reserved permits unspent: the count is then
    /// too high, never too low.
    pub fn reserve(&mut self, permits: u32, limit: GuardLimit, at: Timestamp) -> u32 {
        let now = self.now(at);
        self.forget(now);
        let granted = match &mut self.state {
            GuardState::Tripped(_) => 0,
            GuardState::Granted { left, until, .. } if *until > now => {
                let granted = permits.min(*left);
                *left -= granted;
                granted
            }
            GuardState::Granted { .. } | GuardState::Armed => {
                self.state = GuardState::Armed;
                let window = Duration::from_secs(limit.window_s.into());
                permits.min(limit.max_deletes.saturating_sub(self.count(window, now)))
            }
        };
        if matches!(self.state, GuardState::Granted { left: 0, .. }) {
            self.state = GuardState::Armed;
        }
        self.admit(granted, now);
        granted
    }

    /// The first record of a trip counts. The records of other workers that saw the same are
    /// ignored, and so is one that arrives after a person has let more pass.
    pub fn trip(&mut self, trip: Trip) {
        let is_granted = matches!(
            &self.state,
            GuardState::Granted { left: 1.., until, .. } if *until > trip.since
        );
        if !is_granted && !matches!(self.state, GuardState::Tripped(_)) {
            self.state = GuardState::Tripped(trip);
        }
    }

    pub fn announce(&mut self) {
        if let GuardState::Tripped(trip) = &mut self.state {
            trip.is_announced = true;
        }
    }

    /// A grant adds to one that has not expired; the later expiry counts for both.
    pub fn grant(&mut self, permits: u32, until: Timestamp, at: Timestamp, decision: Decision) {
        let (left, until) = match &self.state {
            GuardState::Granted { left, until: earlier, .. } if *earlier > at => {
                (left.saturating_add(permits), until.max(*earlier))
            }
            _ => (permits, until),
        };
        self.state = GuardState::Granted { left, until, decision };
    }

    pub fn rearm(&mut self) {
        self.state = GuardState::Armed;
    }

    /// As it is in a ledger that knows nothing of the grant.
    #[must_use]
    pub fn without_grant(&self) -> Self {
        let mut guard = self.clone();
        if matches!(guard.state, GuardState::Granted { .. }) {
            guard.rearm();
        }
        guard
    }

    /// # A clock that goes back frees no permits
    ///
    /// The clocks of workers differ a little. A record never counts as earlier than the latest one
    /// before it.
    fn now(&self, at: Timestamp) -> Timestamp {
        self.admitted.back().map_or(at, |(last, _)| at.max(*last))
    }

    fn admit(&mut self, permits: u32, now: Timestamp) {
        match self.admitted.back_mut() {
            _ if permits == 0 => {}
            Some((at, last)) if now.duration_since(*at).unsigned_abs() < GRAIN => *last += permits,
            _ => self.admitted.push_back((now, permits)),
        }
    }

    fn forget(&mut self, now: Timestamp) {
        while self.admitted.front().is_some_and(|(at, _)| *at < now - LONGEST_WINDOW) {
            self.admitted.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: GuardLimit = GuardLimit { max_deletes: 500, window_s: 3600 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn decision() -> Decision {
        Decision { by: "ann".to_owned(), reason: None }
    }

    fn trip(offset: u64) -> Trip {
        let writer = "w".to_owned();
        Trip { offset, since: at(0), limit: LIMIT, writer, is_announced: false }
    }

    #[test]
    fn the_less_is_left_the_less_is_reserved_in_advance_and_nothing_of_a_grant() {
        let limit = GuardLimit { max_deletes: 500, window_s: 60 };
        let (mut guard, now) = (Guard::default(), Timestamp::from_second(1_800_000_000).unwrap());
        let fast = |left| reservation(1, Some((32, Duration::ZERO)), left);
        assert_eq!(fast(guard.left(limit, now)), 31);
        guard.reserve(400, limit, now);
        assert_eq!((guard.left(limit, now), fast(guard.left(limit, now))), (100, 6));
        guard.reserve(100, limit, now);
        assert_eq!((guard.left(limit, now), fast(0)), (0, 1));
        let decision = Decision { by: "ann".to_owned(), reason: None };
        guard.grant(100, now + Duration::from_mins(1), now, decision);
        assert_eq!(guard.left(limit, now), 0);
    }

    #[test]
    fn a_slow_stream_of_commands_reserves_no_more_than_it_spends() {
        let (fast, slow) = (Duration::from_millis(100), Duration::from_secs(2));
        for (waiting, last, left, expected) in [
            (0, None, 500, 1),
            (5, None, 500, 5),
            (50, None, 500, 32),
            (1, Some((1, slow)), 500, 1),
            (1, Some((1, fast)), 500, 2),
            (1, Some((8, fast)), 500, 16),
            (1, Some((32, fast)), 500, 31),
            (1, Some((32, fast)), 100_000, 32),
            (1, Some((4, fast)), 40, 2),
            (1, Some((4, fast)), 1, 1),
            (1, Some((0, fast)), 500, 1),
        ] {
            let wanted = reservation(waiting, last, left);
            assert_eq!(wanted, expected, "{waiting} {last:?} {left}");
        }
    }

    #[test]
    fn the_limit_holds_for_all_workers_together() {
        let mut guard = Guard::default();
        let granted: Vec<_> = (0..20).map(|_| guard.reserve(32, LIMIT, at(0))).collect();
        assert_eq!(granted.iter().sum::<u32>(), 500);
        assert_eq!((granted[14], granted[15], granted[16]), (32, 20, 0));
    }

    #[test]
    fn what_left_the_window_is_free_again_but_not_for_one_that_has_tripped() {
        let mut guard = Guard::default();
        assert_eq!(guard.reserve(500, LIMIT, at(0)), 500);
        assert_eq!(guard.reserve(1, LIMIT, at(3599)), 0);
        assert_eq!(guard.reserve(1, LIMIT, at(3601)), 1);
        guard.trip(trip(7));
        assert_eq!(guard.reserve(1, LIMIT, at(1_000_000)), 0, "until a person decides");
    }

    #[test]
    fn a_grant_lets_so_many_pass_and_then_the_guard_is_armed_again() {
        let mut guard = Guard::default();
        guard.reserve(500, LIMIT, at(0));
        guard.trip(trip(7));
        guard.grant(40, at(100), at(0), decision());
        assert_eq!((guard.reserve(32, LIMIT, at(1)), guard.reserve(32, LIMIT, at(2))), (32, 8));
        assert_eq!(guard.state(), &GuardState::Armed);
        assert_eq!(guard.reserve(1, LIMIT, at(3)), 0, "they were counted");
        guard.grant(40, at(100), at(0), decision());
        assert_eq!(guard.reserve(1, LIMIT, at(100)), 0, "too late");
        assert_eq!(guard.state(), &GuardState::Armed);
    }

    #[test]
    fn a_second_grant_adds_to_the_first_and_nothing_is_left_of_one_that_has_expired() {
        let mut guard = Guard::default();
        guard.reserve(500, LIMIT, at(0));
        guard.trip(trip(7));
        guard.grant(40, at(100), at(1), decision());
        assert_eq!(guard.reserve(10, LIMIT, at(2)), 10);
        guard.grant(20, at(50), at(3), decision());
        let GuardState::Granted { left, until, .. } = guard.state() else { panic!("{guard:?}") };
        assert_eq!((*left, *until), (50, at(100)));
        guard.grant(5, at(300), at(200), decision());
        assert!(matches!(guard.state(), GuardState::Granted { left: 5, .. }), "{guard:?}");
        assert_eq!(guard.reserve(5, LIMIT, at(300)), 0, "expired");
        assert_eq!(guard.state(), &GuardState::Armed);
    }

    #[test]
    fn the_first_of_several_trips_counts_and_a_decision_ends_it() {
        let mut guard = Guard::default();
        guard.trip(trip(7));
        guard.trip(trip(8));
        guard.announce();
        assert_eq!(guard.state(), &GuardState::Tripped(Trip { is_announced: true, ..trip(7) }));
        guard.rearm();
        assert_eq!(guard.reserve(1, LIMIT, at(0)), 1);
    }

    #[test]
    fn a_clock_that_goes_back_frees_no_permits() {
        let mut guard = Guard::default();
        assert_eq!(guard.reserve(500, LIMIT, at(5000)), 500);
        assert_eq!(guard.reserve(1, LIMIT, at(0)), 0);
    }

    proptest! {
        #[test]
        fn in_no_window_are_more_admitted_than_the_limit(
            asks in proptest::collection::vec((0_i64..400, 1_u32..64), 1..200),
        ) {
            let limit = GuardLimit { max_deletes: 100, window_s: 60 };
            let (mut guard, mut now, mut admitted) = (Guard::default(), 0, Vec::new());
            for (wait, permits) in asks {
                // In tenths of a second.
                now += wait;
                let at = at(0) + jiff::SignedDuration::from_millis(now * 100);
                admitted.push((now, guard.reserve(permits, limit, at)));
            }
            for (end, _) in &admitted {
                let within = admitted.iter().filter(|(at, _)| at <= end && *at > end - 600);
                prop_assert!(within.map(|(_, permits)| permits).sum::<u32>() <= 100);
            }
        }
    }
}
