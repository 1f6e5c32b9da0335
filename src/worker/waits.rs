//! Why a command waits, and for how long: no permit, a drain, or a `not_before` in the future.

use std::time::Duration;

use jiff::Timestamp;

use super::call::Moment;
use super::command_run::CommandRun;
use super::ledger::Braked;
use super::permission::NoCall;
use super::permits::Refused;
use crate::metrics::NO_TOKEN;
use crate::policy::api_access::Denied;
use crate::policy::api_access::rate::RATE_LIMITED;
use crate::policy::retry_schedule::RetryDelay;
use crate::policy::settlement::{Settlement, Wait};

const SLOW_ORGANISATION: &str = "slow_organisation";

impl CommandRun<'_> {
    /// No call may be made now.
    pub(super) fn without_call(&mut self, why: NoCall) -> Settlement {
        let at = Moment::now();
        let (reason, retry_in, retry_after) = match why {
            NoCall::Refused(Refused::Stopped) => return self.stopped(at),
            NoCall::Refused(Refused::Denied(_)) if self.engine.is_attended_and_draining() => {
                return self.stopped(at);
            }
            NoCall::Refused(Refused::Denied(Denied::Suspended {
                reason,
                retry_in,
                retry_after,
            })) => (reason.as_str(), retry_in, retry_after),
            NoCall::Refused(Refused::Denied(Denied::BreakerOpen { retry_in })) => {
                ("breaker_open", retry_in, None)
            }
            NoCall::Refused(
                Refused::Crowded | Refused::Denied(Denied::Busy | Denied::RateLimited { .. }),
            ) => (SLOW_ORGANISATION, Duration::ZERO, None),
            NoCall::Refused(Refused::RateLimited(turn_in)) => {
                let delay = self.engine.schedule.within(turn_in);
                return self.postpone(delay, RATE_LIMITED, Some(turn_in), at);
            }
            NoCall::NoToken => (NO_TOKEN, Duration::ZERO, None),
            NoCall::Braked(Braked::Held) => {
                self.keep_ambiguity();
                return Settlement::Hold(self.retry_state.clone());
            }
            NoCall::Braked(why) => (why.as_str(), Duration::ZERO, None),
        };
        // Stepping aside the first time lets others be seen; after that each copy costs the broker
        // more than it gains.
        let is_brief = reason == SLOW_ORGANISATION && !self.retry_state.has_waited_for(reason);
        let age = if is_brief { Duration::ZERO } else { self.age(at) };
        self.postpone(self.engine.schedule.postpone(age, retry_in), reason, retry_after, at)
    }

    /// # No number of restarts makes a waiting command a dead letter
    ///
    /// The broker counts how often a message is requeued, and finally moves it to the dead letters.
    /// So a command that has not started is requeued once; after that it goes to the first delay
    /// queue as a copy, which counts from zero. If "not found" is a failure or is held, it is a
    /// copy each time: a redelivery would make it ambiguous without reason.
    fn stopped(&mut self, at: Moment) -> Settlement {
        if self.calls > 0 {
            return self.retry_later();
        }
        let would_be_ambiguous =
            self.incoming.kind.fails_when_not_found() || self.retry_state.purge_at.is_some();
        if !self.incoming.redelivered && !would_be_ambiguous {
            return Settlement::Requeue;
        }
        self.postpone(self.engine.schedule.shortest(Duration::ZERO), "draining", None, at)
    }

    /// A drain or a lost session has cut the tries of this delivery short.
    pub(super) fn retry_later(&mut self) -> Settlement {
        let delay = self.engine.schedule.retry(self.retry_state.attempts, Duration::ZERO);
        Settlement::RetryLater(self.wait(delay, "attempt_failed", None, Moment::now()))
    }

    pub(super) fn postpone(
        &mut self,
        delay: RetryDelay,
        reason: &'static str,
        retry_after: Option<Duration>,
        at: Moment,
    ) -> Settlement {
        Settlement::Postpone(self.wait(delay, reason, retry_after, at))
    }

    pub(super) fn wait(
        &mut self,
        delay: RetryDelay,
        reason: &str,
        retry_after: Option<Duration>,
        at: Moment,
    ) -> Wait {
        let is_news = !self.retry_state.has_waited_for(reason);
        if is_news {
            self.engine.permits.with(|access, _| access.count_waiting(&self.command.target.org));
        }
        self.keep_ambiguity();
        self.retry_state.note_wait(reason);
        self.retry_state.not_before = retry_after.and_then(|wait| at.time.checked_add(wait).ok());
        Wait {
            delay,
            retry_state: self.retry_state.clone(),
            is_news,
            command: Some(self.identity()),
        }
    }

    /// It has to wait until then, and arrives too early.
    pub(super) fn wait_until(&mut self, moment: Timestamp, now: Timestamp) -> Settlement {
        self.keep_ambiguity();
        let left = moment.duration_since(now).unsigned_abs();
        let schedule = &self.engine.schedule;
        // A command that waits for its turn in the rate limit comes back before it: no other one is
        // called in its place.
        let delay = if self.permit_request().has_slot {
            schedule.within(left)
        } else {
            schedule.shortest(left)
        };
        let command = Some(self.identity());
        Settlement::Postpone(Wait {
            delay,
            retry_state: self.retry_state.clone(),
            is_news: false,
            command,
        })
    }
}
