//! The dry run: it looks at the object instead of deleting it, and says what would have happened.

use super::answer::{Answer, Body, Response};
use super::next_step::{Facts, NextStep, next_step};
use super::retry_schedule::{RetryDelay, RetrySchedule};
use super::verdict::{self, Verdict};
use crate::kind::{Kind, Look, NotFound};
use crate::messages::{EndKind, FailureReason, Would};

use std::time::Duration;

/// What the calls about an object are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallMode {
    /// The destructive call of its kind.
    #[default]
    Destroy,
    /// A GET, which changes nothing: a dry run.
    Look,
}

/// What the API has shown about an object besides its existence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub archived: Option<bool>,
    pub one_off: Option<bool>,
}

/// Says what an answer to a look means: 200 with the API's JSON shows that the object exists. Other
/// answers mean the same as after the destructive call, except that no other 2xx is a success.
pub fn decide(answer: &Answer) -> Verdict {
    match answer {
        Answer::Status(Response { status: 200..=299, body, .. }) => match (answer.status(), body) {
            (Some(200), Body::Json { .. }) if !body.denies_the_endpoint() => Verdict::Present,
            (Some(200), Body::Lost) => Verdict::Transient,
            _ => Verdict::Misdirected,
        },
        other => verdict::decide(Kind::TaskDelete, other),
    }
}

/// The next step after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookStep {
    /// The command has come to the end of the dry run.
    End(Would),
    TryAgain(Duration),
    RetryLater(RetryDelay),
    Postpone(RetryDelay),
}

/// Decides the next step after a look.
///
/// # A dry run makes no dead letter that only the destructive call could justify
///
/// A look that is refused, or fails until no attempt is left, says nothing about the destructive
/// call: the command ends as unknown. Only an absence that the kind counts as a failure is reported
/// as the dead letter that it would have become.
pub fn after_look(
    verdict: Verdict,
    seen: Seen,
    facts: &Facts,
    schedule: &RetrySchedule,
) -> LookStep {
    if verdict == Verdict::Present {
        return LookStep::End(would(facts.kind, seen));
    }
    match next_step(verdict, facts, schedule) {
        NextStep::TryAgain(delay) => LookStep::TryAgain(delay),
        NextStep::RetryLater(delay) => LookStep::RetryLater(delay),
        NextStep::Postpone(delay) => LookStep::Postpone(delay),
        NextStep::Finish { is_verified, .. } => LookStep::End(absent(facts.kind, is_verified)),
        NextStep::DeadLetter(FailureReason::NotFound) => {
            LookStep::End(Would::DeadLettered(FailureReason::NotFound))
        }
        NextStep::DeadLetter(_) if verdict_is_absence(verdict) => LookStep::End(Would::Unknown(
            "it cannot be seen, and it is not documented whether an archived process can be",
        )),
        NextStep::DeadLetter(_) => LookStep::End(Would::Unknown("the look at it has failed")),
    }
}

fn verdict_is_absence(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence)
}

/// For an object that exists.
fn would(kind: Kind, seen: Seen) -> Would {
    if kind.spec().look == Look::Nowhere {
        return Would::Unknown("no call shows it without fetching its content");
    }
    match kind {
        Kind::TaskDelete | Kind::TaskArchive if seen.one_off == Some(false) => {
            Would::Unknown("it is not a one-off task, and this call is for one-off tasks")
        }
        Kind::TaskArchive if seen.archived == Some(true) => {
            Would::DeadLettered(FailureReason::NotFound)
        }
        Kind::ProcessDelete if seen.archived == Some(false) => {
            Would::DeadLettered(FailureReason::NotFoundOrNotArchived)
        }
        Kind::TaskDelete
        | Kind::TaskArchive
        | Kind::ProcessDelete
        | Kind::TagDelete
        | Kind::FileDelete => Would::End { how: EndKind::Done, is_verified: true },
    }
}

/// For an object that does not exist.
fn absent(kind: Kind, is_verified: bool) -> Would {
    match kind.spec().not_found {
        // Its destructive call gives the same answer for an existing object.
        NotFound::NotTheApi => Would::End { how: EndKind::Done, is_verified: true },
        NotFound::Absent | NotFound::Missing | NotFound::MissingOrNotArchived => {
            Would::End { how: EndKind::AlreadyAbsent, is_verified }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::samples::{json, status};
    use super::super::retry_schedule::RetryDelays;
    use super::*;

    fn object() -> Body {
        Body::Json { code: None, message: None }
    }

    #[test]
    fn only_the_apis_json_shows_an_object_and_no_other_2xx_is_a_success() {
        assert_eq!(decide(&status(200, object())), Verdict::Present);
        for (code, body) in [
            (204, Body::Empty),
            (200, Body::Empty),
            (200, Body::Html),
            (201, object()),
            (200, json("ENDPOINT_NOT_FOUND")),
        ] {
            assert_eq!(decide(&status(code, body)), Verdict::Misdirected, "{code}");
        }
        assert_eq!(decide(&status(200, Body::Lost)), Verdict::Transient);
        assert_eq!(decide(&status(404, json("RESOURCE_NOT_FOUND"))), Verdict::AlreadyAbsent);
        for code in 100..600 {
            for body in [Body::Empty, object(), Body::Html, Body::Other, Body::Lost] {
                assert_ne!(decide(&status(code, body)), Verdict::Deleted, "{code}");
            }
        }
    }

    fn step(kind: Kind, verdict: Verdict, seen: Seen) -> LookStep {
        let facts = Facts {
            kind,
            may_be_done: false,
            spent: 20,
            age: Duration::ZERO,
            retry_after: None,
            is_outage: false,
            is_draining: false,
            is_clock_wrong: false,
            next_delay: None,
        };
        let delays = RetryDelays::new(vec![Duration::from_secs(5)]).unwrap();
        let max_age = Duration::from_hours(24);
        after_look(verdict, seen, &facts, &RetrySchedule { max_attempts: 20, max_age, delays })
    }

    #[test]
    fn a_dry_run_makes_no_dead_letter_that_only_the_destructive_call_could_justify() {
        for kind in Kind::ALL {
            for verdict in [Verdict::Forbidden, Verdict::Rejected, Verdict::Transient] {
                let step = step(kind, verdict, Seen::default());
                assert!(matches!(step, LookStep::End(Would::Unknown(_))), "{kind} {step:?}");
            }
            let waits = step(kind, Verdict::Throttled, Seen::default());
            assert!(matches!(waits, LookStep::Postpone(_)), "{waits:?}");
        }
    }

    #[test]
    fn what_is_there_and_what_is_not_is_told_in_the_words_of_its_kind() {
        let told = |kind, verdict, seen| match step(kind, verdict, seen) {
            LookStep::End(would) => would.word(kind),
            other => panic!("{other:?}"),
        };
        let archived = |is| Seen { archived: Some(is), one_off: None };
        let there = |kind| told(kind, Verdict::Present, Seen::default());
        let words = ["deleted", "archived", "deleted", "deleted_or_absent", "unknown"];
        assert_eq!(Kind::ALL.map(there), words);
        let gone = |kind| told(kind, Verdict::AlreadyAbsent, Seen::default());
        let words = ["already_absent", "dead_lettered", "unknown", "deleted_or_absent"];
        assert_eq!(Kind::ALL.map(gone)[..4], words);
        let is = |kind, seen| told(kind, Verdict::Present, seen);
        assert_eq!(is(Kind::TaskArchive, archived(true)), "dead_lettered");
        assert_eq!(is(Kind::TaskArchive, archived(false)), "archived");
        assert_eq!(is(Kind::ProcessDelete, archived(false)), "dead_lettered");
        assert_eq!(is(Kind::ProcessDelete, archived(true)), "deleted");
        let of_a_process = Seen { one_off: Some(false), archived: None };
        assert_eq!(is(Kind::TaskDelete, of_a_process), "unknown");
    }
}
