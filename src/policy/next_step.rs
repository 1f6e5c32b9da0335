//! The step after a verdict: finish, try again, wait, dead letter. Decided from one reading of the
//! clock and one snapshot of the state.

use std::time::Duration;

use super::retry_schedule::{LONGEST_SLEEP_IN_PROCESS, RetryDelay, RetrySchedule};
use super::verdict::Verdict;
use crate::kind::{Kind, NotFound};
use crate::messages::{EndKind, FailureReason};

/// The facts known when an answer has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "facts, each true or not")]
pub struct Facts {
    /// The command's kind.
    pub kind: Kind,
    /// An earlier call may have had its effect: its answer was lost, or it is unknown whether there
    /// was a call.
    pub may_be_done: bool,
    /// Attempts used up, this one included if it counts.
    pub spent: u32,
    /// Since the first delivery.
    pub age: Duration,
    /// How long the API asks to wait.
    pub retry_after: Option<Duration>,
    /// The organisation is suspended, or the breaker is open: the answer says nothing about the
    /// command.
    pub is_outage: bool,
    /// The worker is about to end: no delay in process.
    pub is_draining: bool,
    /// The age is unknown: our clock differs too much from the API's.
    pub is_clock_wrong: bool,
    /// The next delay in process, if this delivery has one left.
    pub next_delay: Option<Duration>,
}

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The command has come to its end.
    Finish {
        /// Which end.
        end: EndKind,
        /// Whether an absence is proven.
        is_verified: bool,
    },
    /// Sleep in process, then call again.
    TryAgain(Duration),
    /// Wait in a delay queue for the next attempt.
    RetryLater(RetryDelay),
    /// Wait in a delay queue, for a reason that is not the command's fault.
    Postpone(RetryDelay),
    /// It cannot succeed.
    DeadLetter(FailureReason),
}

/// Whether the answer uses up an attempt: in an outage only the requested end does.
pub fn uses_up_an_attempt(
    kind: Kind,
    may_be_done: bool,
    verdict: Verdict,
    is_outage: bool,
) -> bool {
    let is_end = match verdict {
        Verdict::Deleted => true,
        Verdict::AlreadyAbsent => why_absence_is_a_failure(kind, may_be_done).is_none(),
        _ => false,
    };
    is_end || (verdict.spends_an_attempt() && !is_outage)
}

/// Why an absence is not a success; `None` if it is one.
///
/// # A "not found" is a success only if it cannot mean anything else
///
/// Deleting a task is idempotent, and a task that is gone is gone. For the other kinds the API also
/// says "not found" for a wrong id, or for an object that cannot be deleted yet. There it is a
/// failure, unless an earlier call of ours may have had its effect: then it is most likely the
/// result of that call, and the event says so (`ambiguous`, and `"verified": false`).
fn why_absence_is_a_failure(kind: Kind, may_be_done: bool) -> Option<FailureReason> {
    match kind.spec().not_found {
        _ if may_be_done => None,
        NotFound::Absent | NotFound::NotTheApi => None,
        NotFound::Missing => Some(FailureReason::NotFound),
        NotFound::MissingOrNotArchived => Some(FailureReason::NotFoundOrNotArchived),
    }
}

/// Decides the next step after a verdict.
///
/// # A command is dead-lettered only for its own fault
///
/// While its organisation is suspended or the breaker is open, only the requested end ends a
/// command. Otherwise it waits, and no attempt is used up.
///
/// # `MAX_AGE` ends a command only after an answer about the command itself
///
/// A command that was only delayed gets its call first, however old it is: an outage may have
/// caused the wait. Only a failure that counts as an attempt ends a command that is already too
/// old, and only the last one of a delivery, so that an outage suspends the organisation before it
/// ends old commands.
pub fn next_step(verdict: Verdict, facts: &Facts, schedule: &RetrySchedule) -> NextStep {
    let finish = |end, is_verified| NextStep::Finish { end, is_verified };
    let failure = why_absence_is_a_failure(facts.kind, facts.may_be_done);
    match verdict {
        Verdict::Deleted => finish(EndKind::Done, true),
        Verdict::AlreadyAbsent if failure.is_none() => {
            finish(EndKind::AlreadyAbsent, !facts.kind.fails_when_not_found())
        }
        _ if facts.is_outage => postpone(facts, schedule),
        Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence => match failure {
            Some(reason) => NextStep::DeadLetter(reason),
            None => finish(EndKind::AlreadyAbsent, false),
        },
        Verdict::Forbidden => NextStep::DeadLetter(FailureReason::Forbidden),
        Verdict::Rejected => NextStep::DeadLetter(FailureReason::Rejected),
        // No destructive call gets this verdict, and nothing has been done.
        Verdict::Present => postpone(facts, schedule),
        Verdict::Throttled | Verdict::Unauthorized | Verdict::NotReached | Verdict::Misdirected => {
            postpone(facts, schedule)
        }
        Verdict::Transient => after_failure(facts, schedule),
        Verdict::Unreachable => in_process(facts).unwrap_or_else(|| postpone(facts, schedule)),
    }
}

fn after_failure(facts: &Facts, schedule: &RetrySchedule) -> NextStep {
    if facts.spent >= schedule.max_attempts {
        return NextStep::DeadLetter(FailureReason::AttemptsExhausted);
    }
    if facts.age > schedule.max_age && facts.next_delay.is_none() && !facts.is_clock_wrong {
        return NextStep::DeadLetter(FailureReason::Expired);
    }
    let wait =
        || NextStep::RetryLater(schedule.retry(facts.spent, facts.retry_after.unwrap_or_default()));
    in_process(facts).unwrap_or_else(wait)
}

fn in_process(facts: &Facts) -> Option<NextStep> {
    let retry_after = facts.retry_after.unwrap_or_default();
    let delay = facts
        .next_delay
        .filter(|_| !facts.is_draining && retry_after <= LONGEST_SLEEP_IN_PROCESS)?;
    Some(NextStep::TryAgain(delay.max(retry_after)))
}

fn postpone(facts: &Facts, schedule: &RetrySchedule) -> NextStep {
    NextStep::Postpone(schedule.postpone(facts.age, facts.retry_after.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::retry_schedule::RetryDelays;
    use super::*;
    use crate::messages::End;
    use NextStep::{DeadLetter, Finish, TryAgain};
    use proptest::prelude::*;

    const FACTS: Facts = Facts {
        kind: Kind::TaskDelete,
        may_be_done: false,
        spent: 1,
        age: Duration::ZERO,
        retry_after: None,
        is_outage: false,
        is_draining: false,
        is_clock_wrong: false,
        next_delay: Some(Duration::from_millis(250)),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule() -> RetrySchedule {
        let delays = RetryDelays::new([5, 30, 120, 600, 3600].map(seconds).to_vec()).unwrap();
        RetrySchedule { max_attempts: 20, max_age: seconds(86_400), delays }
    }

    fn step(verdict: Verdict, facts: Facts) -> String {
        match next_step(verdict, &facts, &schedule()) {
            Finish { end, is_verified } => {
                let end = End { kind: facts.kind, how: end };
                format!("{} {is_verified}", end.as_str())
            }
            TryAgain(delay) => format!("try again in {} ms", delay.as_millis()),
            NextStep::RetryLater(delay) => format!("retry in {}", delay.name()),
            NextStep::Postpone(delay) => format!("postpone {}", delay.name()),
            DeadLetter(reason) => reason.as_str().to_owned(),
        }
    }

    #[test]
    fn every_verdict_has_its_next_step() {
        let steps = Verdict::ALL.map(|verdict| (verdict.as_str(), step(verdict, FACTS)));
        let steps: Vec<_> = steps.iter().map(|(verdict, step)| (*verdict, step.as_str())).collect();
        let expected = [
            ("deleted", "deleted true"),
            ("present", "postpone 5s"),
            ("already_absent", "already_absent true"),
            ("already_absent_unverified", "already_absent false"),
            ("not_reached", "postpone 5s"),
            ("throttled", "postpone 5s"),
            ("unauthorized", "postpone 5s"),
            ("forbidden", "forbidden"),
            ("misdirected", "postpone 5s"),
            ("transient", "try again in 250 ms"),
            ("unreachable", "try again in 250 ms"),
            ("rejected", "rejected"),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_command_is_dead_lettered_only_for_its_own_fault() {
        let facts = Facts { is_outage: true, spent: 99, age: seconds(999_999), ..FACTS };
        for verdict in Verdict::ALL {
            let is_success = matches!(verdict, Verdict::Deleted | Verdict::AlreadyAbsent);
            let expected = if is_success {
                format!("{} true", verdict.as_str())
            } else {
                "postpone 1h".to_owned()
            };
            assert_eq!(step(verdict, facts), expected, "{verdict:?}");
            let spends =
                |is_outage| uses_up_an_attempt(Kind::TaskDelete, false, verdict, is_outage);
            assert_eq!((spends(false), spends(true)), (verdict.spends_an_attempt(), is_success));
            let spends =
                |may_be_done| uses_up_an_attempt(Kind::FileDelete, may_be_done, verdict, true);
            assert_eq!(spends(true), is_success);
            assert_eq!(spends(false), verdict == Verdict::Deleted, "a not-found that only waits");
        }
    }

    #[test]
    fn a_not_found_is_a_success_only_if_it_cannot_mean_anything_else() {
        let absent =
            |kind, may_be_done| step(Verdict::AlreadyAbsent, Facts { kind, may_be_done, ..FACTS });
        let words = Kind::ALL.map(|kind| absent(kind, false));
        let [deleted, archived, process, tag, file] = words.each_ref().map(String::as_str);
        assert_eq!([deleted, tag], ["already_absent true"; 2], "of a tag the API never says so");
        assert_eq!([archived, file], ["not_found"; 2]);
        assert_eq!(process, "not_found_or_not_archived");
        for kind in Kind::ALL {
            let is_proven = !kind.fails_when_not_found();
            let expected = format!("already_absent {is_proven}");
            assert_eq!(absent(kind, true), expected, "{kind}: it is most likely our own doing");
            let unverified = Facts { kind, may_be_done: true, ..FACTS };
            assert_eq!(step(Verdict::UnverifiedAbsence, unverified), "already_absent false");
            let outage = Facts { kind, is_outage: true, ..FACTS };
            assert!(
                !step(Verdict::AlreadyAbsent, outage).starts_with("not_found"),
                "{kind}: not while it is suspended"
            );
        }
        let unverified = Facts { kind: Kind::FileDelete, ..FACTS };
        assert_eq!(step(Verdict::UnverifiedAbsence, unverified), "not_found");
    }

    #[test]
    fn max_age_ends_a_command_only_after_an_answer_about_the_command_itself() {
        let old = Facts { age: seconds(86_401), next_delay: None, ..FACTS };
        assert_eq!(step(Verdict::Transient, old), "expired");
        assert_eq!(
            step(Verdict::Transient, Facts { next_delay: FACTS.next_delay, ..old }),
            "try again in 250 ms"
        );
        assert_eq!(step(Verdict::Transient, Facts { age: seconds(86_400), ..old }), "retry in 5s");
        assert_eq!(step(Verdict::Transient, Facts { is_clock_wrong: true, ..old }), "retry in 5s");
        assert_eq!(step(Verdict::Transient, Facts { spent: 20, ..old }), "attempts_exhausted");
        for verdict in
            [Verdict::Throttled, Verdict::Unauthorized, Verdict::Misdirected, Verdict::NotReached]
        {
            assert_eq!(step(verdict, old), "postpone 1h", "{verdict:?}");
        }
        assert_eq!(step(Verdict::Unreachable, old), "postpone 1h");
        assert_eq!(step(Verdict::Deleted, old), "deleted true");
    }

    #[test]
    fn a_transient_failure_is_tried_again_in_process_then_waits_longer_each_time_then_ends() {
        let after = |spent| step(Verdict::Transient, Facts { spent, next_delay: None, ..FACTS });
        assert_eq!(
            [4, 8, 12, 16, 19].map(after),
            ["5s", "30s", "2m", "10m", "1h"].map(|delay| format!("retry in {delay}"))
        );
        assert_eq!([20, 21].map(after), ["attempts_exhausted"; 2]);
        assert_eq!(step(Verdict::Transient, Facts { is_draining: true, ..FACTS }), "retry in 5s");
        let unreachable = Facts { next_delay: None, spent: 99, age: seconds(40), ..FACTS };
        assert_eq!(step(Verdict::Unreachable, unreachable), "postpone 30s");
    }

    #[test]
    fn a_retry_after_is_a_minimum_in_process_and_in_the_delay_queues() {
        let after = |verdict, retry_after| {
            step(verdict, Facts { retry_after: Some(seconds(retry_after)), ..FACTS })
        };
        assert_eq!(after(Verdict::Transient, 0), "try again in 250 ms");
        assert_eq!(after(Verdict::Transient, 2), "try again in 2000 ms");
        assert_eq!(after(Verdict::Transient, 3), "retry in 5s");
        assert_eq!(after(Verdict::Throttled, 0), "postpone 5s");
        assert_eq!(after(Verdict::Throttled, 7), "postpone 30s");
        assert_eq!(after(Verdict::Unreachable, 7), "postpone 30s");
    }

    proptest! {
        #[test]
        fn no_wait_undercuts_a_retry_after_that_a_delay_queue_can_hold(
            which in 0_usize..12, spent in 0_u32..30, age in 0_u64..200_000, minimum in 0_u64..=3600,
            flags in proptest::array::uniform4(any::<bool>()),
        ) {
            let [is_outage, is_draining, is_clock_wrong, has_delay] = flags;
            let next_delay = FACTS.next_delay.filter(|_| has_delay);
            let (age, retry_after) = (seconds(age), Some(seconds(minimum)));
            let facts = Facts { spent, age, retry_after, is_outage, is_draining, is_clock_wrong, next_delay, ..FACTS };
            match next_step(Verdict::ALL[which], &facts, &schedule()) {
                TryAgain(delay) => prop_assert!(delay >= seconds(minimum) && !is_draining && !is_outage),
                NextStep::RetryLater(delay) | NextStep::Postpone(delay) => prop_assert!(delay.wait() >= seconds(minimum)),
                DeadLetter(_) => prop_assert!(!is_outage),
                Finish { is_verified, .. } => prop_assert!(is_verified || !is_outage),
            }
        }
    }
}
