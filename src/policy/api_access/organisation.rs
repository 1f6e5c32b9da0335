//! The circuit of one organisation: unrestricted, in slow start, or suspended with a probe now and
//! then.

use std::time::{Duration, Instant};

use super::pace::Pace;
use super::permit::{Denied, PermitKind};
use super::rate::{Bucket, Rate};
use super::service::{Feedback, Service, SuspendReason, service};
use super::streak::Streak;
use super::suspension::{CircuitChange, Suspension};
use crate::policy::verdict::Verdict;

/// Calls in flight for an organisation that is not known to be served; each good answer allows one
/// more.
pub(super) const SLOW_START_CALLS: usize = 4;
/// How many absences without proof in a row are believed.
pub(super) const UNVERIFIED_ABSENCES: u32 = 10;

/// The state of an organisation.
#[derive(Debug)]
pub(super) struct Organisation {
    pub(super) state: State,
    pub(super) in_flight: usize,
    pub(super) last_used: Instant,
    pub(super) last_call: Option<Instant>,
    pub(super) tokens: Option<Bucket>,
    /// Commands that were sent aside to wait for a token have slots until then.
    pub(super) slots_until: Instant,
    served: Option<Instant>,
    streak: Streak,
    unverified: u32,
    pace: Pace,
}

#[derive(Debug)]
pub(super) enum State {
    SlowStart { window: usize },
    Unrestricted,
    Suspended(Suspension),
}

impl Organisation {
    pub(super) fn new(rate: Option<Rate>, now: Instant) -> Self {
        Self {
            state: State::SlowStart { window: SLOW_START_CALLS },
            in_flight: 0,
            last_used: now,
            last_call: None,
            tokens: rate.map(|rate| Bucket::new(rate, now)),
            slots_until: now,
            served: None,
            streak: Streak::default(),
            unverified: 0,
            pace: Pace::new(now),
        }
    }

    pub(super) fn suspension(&self) -> Option<&Suspension> {
        match &self.state {
            State::Suspended(suspension) => Some(suspension),
            State::SlowStart { .. } | State::Unrestricted => None,
        }
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspension().is_some()
    }

    /// How many of `all` calls in flight it may have.
    pub(super) fn limit(&self, all: usize) -> usize {
        match self.state {
            State::SlowStart { window } => window.min(all),
            State::Unrestricted | State::Suspended(_) => all,
        }
    }

    /// Its last answer was a failure.
    pub(super) fn is_failing(&self) -> bool {
        !self.streak.is_empty()
    }

    /// It was served within `evidence`, and has not failed since.
    pub(super) fn is_served(&self, now: Instant, evidence: Duration) -> bool {
        !self.is_suspended()
            && self.streak.is_empty()
            && self.served.is_some_and(|served| now.saturating_duration_since(served) < evidence)
    }

    /// The kind of permit that a call would get now. With `at_any_time`, and if the organisation
    /// has only failed, a probe waits neither for its time nor for another probe's answer.
    ///
    /// # Errors
    /// It is suspended, and no probe may be made.
    pub(super) fn permit_kind(
        &self,
        at_any_time: bool,
        was_tried: bool,
        now: Instant,
    ) -> Result<PermitKind, Denied> {
        match &self.state {
            State::SlowStart { .. } => Ok(PermitKind::SlowStart),
            State::Unrestricted => Ok(PermitKind::Unrestricted),
            State::Suspended(suspension) => {
                if suspension.is_due(was_tried, now)
                    || (at_any_time && suspension.may_be_probed_early(now))
                {
                    return Ok(PermitKind::HalfOpen);
                }
                Err(suspension.denied(now))
            }
        }
    }

    pub(super) fn begin_call(&mut self, kind: PermitKind, now: Instant) {
        self.last_call = Some(now);
        if self.in_flight == 0 {
            self.pace.begin(now);
        }
        self.in_flight += 1;
        if let (PermitKind::HalfOpen, State::Suspended(suspension)) = (kind, &mut self.state) {
            suspension.begin_probe();
        }
    }

    /// A permit was returned; `took` is how long its call took, if it was made.
    pub(super) fn end_call(&mut self, kind: PermitKind, took: Option<Duration>, now: Instant) {
        self.last_used = now;
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(took) = took {
            self.pace.answered(took, now);
        }
        if let (PermitKind::HalfOpen, State::Suspended(suspension)) = (kind, &mut self.state) {
            suspension.end_probe();
        }
    }

    /// Its answers take long, so commands wait long for one of its permits.
    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.pace.is_slow(self.in_flight > 0, now)
    }

    /// # An absence is believed ten times in a row without proof, and not once more
    ///
    /// A proxy without a route answers 404 to everything. A stand-in for the API may legitimately
    /// do so too. Ten wrong ends, each marked as unverified, are the price of the doubt; then the
    /// organisation waits until something is proven.
    pub(super) fn believes_absence(&self) -> bool {
        let is_misdirected = self
            .suspension()
            .is_some_and(|suspension| suspension.reason == SuspendReason::Misdirected);
        !is_misdirected && self.unverified < UNVERIFIED_ABSENCES
    }

    /// Applies an answer. The permit was returned before.
    pub(super) fn record(
        &mut self,
        kind: PermitKind,
        feedback: &Feedback,
        now: Instant,
    ) -> Option<CircuitChange> {
        match service(feedback.verdict) {
            Service::Served => self.served(kind, feedback.verdict, now),
            Service::Denied(reason) => self.suspend(kind, reason, feedback.retry_after, now),
            Service::Failed(reason) => self.failed(kind, reason, feedback, now),
        }
    }

    fn failed(
        &mut self,
        kind: PermitKind,
        reason: SuspendReason,
        feedback: &Feedback,
        now: Instant,
    ) -> Option<CircuitChange> {
        self.streak.add(feedback.command);
        match self.suspension().map(|suspension| suspension.reason.is_outage()) {
            _ if self.streak.is_full() => {
                self.suspend_for_failure(kind, reason, feedback.retry_after, now)
            }
            Some(true) => self.suspend_for_failure(kind, reason, feedback.retry_after, now),
            // It is no longer throttled or unauthorized; whether it fails is decided by the streak.
            Some(false) => self.speed_up(kind, now),
            None => None,
        }
    }

    fn served(
        &mut self,
        kind: PermitKind,
        verdict: Verdict,
        now: Instant,
    ) -> Option<CircuitChange> {
        if verdict == Verdict::UnverifiedAbsence {
            if !self.believes_absence() {
                return self.suspend_for_failure(kind, SuspendReason::Misdirected, None, now);
            }
            self.unverified += 1;
        } else if matches!(verdict, Verdict::Deleted | Verdict::Present | Verdict::AlreadyAbsent) {
            self.unverified = 0;
        } else if self.unverified >= UNVERIFIED_ABSENCES {
            return self.suspend_for_failure(kind, SuspendReason::Misdirected, None, now);
        }
        self.streak.clear();
        self.served = Some(now);
        let resumed = self.speed_up(kind, now);
        if self.unverified == UNVERIFIED_ABSENCES {
            return self.suspend(kind, SuspendReason::Misdirected, None, now);
        }
        resumed
    }

    fn speed_up(&mut self, kind: PermitKind, now: Instant) -> Option<CircuitChange> {
        match &mut self.state {
            State::SlowStart { window } => {
                *window += 1;
                None
            }
            State::Suspended(suspension) if suspension.ends_with(kind, now) => {
                let resumed = *suspension;
                self.state = State::SlowStart { window: SLOW_START_CALLS };
                Some(CircuitChange::Resumed(resumed))
            }
            State::Unrestricted | State::Suspended(_) => None,
        }
    }

    /// The end of slow start.
    pub(super) fn lift_window(&mut self, all: usize) {
        if matches!(self.state, State::SlowStart { window } if window >= all) {
            self.state = State::Unrestricted;
        }
    }

    /// Late failures of calls that were in flight at the suspension say nothing new.
    fn suspend_for_failure(
        &mut self,
        kind: PermitKind,
        reason: SuspendReason,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<CircuitChange> {
        if self.is_suspended() && kind != PermitKind::HalfOpen {
            return None;
        }
        self.suspend(kind, reason, retry_after, now)
    }

    fn suspend(
        &mut self,
        kind: PermitKind,
        reason: SuspendReason,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<CircuitChange> {
        let before = self.suspension().copied();
        let suspension = match before {
            Some(before) => before.extended(kind, reason, retry_after, now),
            None => Suspension::begin(reason, retry_after, now),
        };
        self.state = State::Suspended(suspension);
        let is_news = before.is_none_or(|before| !before.has_reported(reason));
        is_news.then_some(CircuitChange::Suspended(suspension))
    }

    /// The cause of the suspension may be gone: the next call is a probe, but not before the end of
    /// a `Retry-After`.
    pub(super) fn probe_now(&mut self, now: Instant) {
        if let State::Suspended(suspension) = &mut self.state {
            suspension.next_probe = suspension.retry_after_until.max(now);
        }
    }

    /// The outage is over for another organisation, so it may be over for this one.
    pub(super) fn probe_outage_now(&mut self, now: Instant) {
        if self.suspension().is_some_and(|suspension| suspension.reason.is_outage()) {
            self.probe_now(now);
        }
    }

    /// After an outage it is unknown which organisations will be served.
    pub(super) fn restart_slowly(&mut self) {
        if matches!(self.state, State::Unrestricted | State::SlowStart { .. }) {
            self.state = State::SlowStart { window: SLOW_START_CALLS };
        }
    }

    /// One more of its commands waits.
    pub(super) fn count_waiting(&mut self) {
        if let State::Suspended(suspension) = &mut self.state {
            suspension.waited += 1;
        }
    }
}
