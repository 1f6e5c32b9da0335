//! When a 404 can be believed. Shared by the worker and `check`.

use std::time::Duration;

use super::answer::{Answer, Body, Response};
use super::verdict::Verdict;

/// How long the answer that a token reaches an organisation stays valid: the token's user may be
/// removed later.
const REACHED_FOR: Duration = Duration::from_mins(10);
/// Calls that were in flight together share one answer; the next probe checks again.
const BRIEFLY: Duration = Duration::from_millis(500);
/// An API that could not answer may answer soon; one that does not have this GET is asked less and
/// less often.
const FIRST_INCONCLUSIVE_FOR: Duration = Duration::from_secs(1);
const LAST_INCONCLUSIVE_FOR: Duration = Duration::from_mins(1);
/// After this many absences in a row, check again whether the token reaches the organisation.
const ABSENCES_IN_A_ROW: u32 = 10;

/// Whether a token reaches an organisation, by the answer to the list of the organisation's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The API lists its tasks.
    Reached,
    /// The API itself says that the organisation does not exist, or not for this token.
    NotReached,
    /// Something else answered: an API without such a list, or a proxy.
    Inconclusive,
    /// The question was not answered, with this verdict for the organisation.
    Unanswered(Verdict),
}

/// Reads the answer to the list of an organisation's tasks.
pub fn reach(answer: &Answer) -> Reach {
    let Answer::Status(Response { status, body, .. }) = answer else {
        return Reach::Unanswered(Verdict::Unreachable);
    };
    let is_json = matches!(body, Body::Json { .. });
    match status {
        200 if is_json => Reach::Reached,
        404 | 410 if body.names_a_missing_resource() => Reach::NotReached,
        403 if is_json && !body.denies_the_endpoint() => Reach::NotReached,
        401 => Reach::Unanswered(Verdict::Unauthorized),
        429 => Reach::Unanswered(Verdict::Throttled),
        // Not `Transient`: this was not the command's own call, so it does not use up an attempt.
        502..=504 => Reach::Unanswered(Verdict::Unreachable),
        _ => Reach::Inconclusive,
    }
}

/// # An absence is proven, or marked, or it waits
///
/// The API says "not found" for a task that is gone, and for every task of an organisation that it
/// does not show to this token. So the answer proves an absence only if the token reaches the
/// organisation. An API without such a list gives no proof: the absence still counts, marked as
/// unverified. If the API denies the organisation itself, the absence does not count at all. And if
/// the question is not answered, the command waits as if its own call had got that answer.
pub fn believe(verdict: Verdict, reach: Reach) -> Verdict {
    match (verdict, reach) {
        (Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence, Reach::NotReached) => {
            Verdict::NotReached
        }
        (Verdict::AlreadyAbsent | Verdict::UnverifiedAbsence, Reach::Unanswered(instead)) => {
            instead
        }
        (Verdict::AlreadyAbsent, Reach::Inconclusive) => Verdict::UnverifiedAbsence,
        (verdict, _) => verdict,
    }
}

/// The answer that replaces the command's own if the question was not answered. It is not
/// ambiguous: the command's own call was answered.
pub fn substitute_answer(list: &Answer) -> Answer {
    match list {
        Answer::Status(_) => list.clone(),
        without => {
            let detail = format!("asking for the organisation's tasks: {}", without.describe());
            Answer::Unreachable { detail }
        }
    }
}

/// How long an answer stays valid; `before` is the previous answer, and how long that was valid.
pub fn holds_for(reach: Reach, before: Option<(Reach, Duration)>) -> Duration {
    match (reach, before) {
        (Reach::Reached, _) => REACHED_FOR,
        (Reach::NotReached | Reach::Unanswered(_), _) => BRIEFLY,
        (Reach::Inconclusive, Some((Reach::Inconclusive, held))) => {
            (held * 2).min(LAST_INCONCLUSIVE_FOR)
        }
        (Reach::Inconclusive, _) => FIRST_INCONCLUSIVE_FOR,
    }
}

/// Whether this many absences since the last question, without an existing task in between, are a
/// reason to ask again.
pub fn is_worth_asking_again(reach: Reach, absences: u32) -> bool {
    reach == Reach::Reached && absences >= ABSENCES_IN_A_ROW
}

#[cfg(test)]
mod tests {
    use super::super::answer::samples::{json, status};
    use super::*;

    #[test]
    fn an_absence_is_proven_or_marked_or_it_waits() {
        let waits = Reach::Unanswered(Verdict::Throttled);
        let absent = |reach| believe(Verdict::AlreadyAbsent, reach);
        assert_eq!(absent(Reach::Reached), Verdict::AlreadyAbsent);
        assert_eq!(absent(Reach::NotReached), Verdict::NotReached);
        assert_eq!(absent(Reach::Inconclusive), Verdict::UnverifiedAbsence);
        assert_eq!(absent(waits), Verdict::Throttled);
        let unverified = |reach| believe(Verdict::UnverifiedAbsence, reach);
        assert_eq!(unverified(Reach::Reached), Verdict::UnverifiedAbsence);
        assert_eq!(unverified(Reach::NotReached), Verdict::NotReached);
        assert_eq!(unverified(Reach::Inconclusive), Verdict::UnverifiedAbsence);
        assert_eq!(unverified(waits), Verdict::Throttled);
        for verdict in [Verdict::Deleted, Verdict::Rejected, Verdict::Misdirected] {
            for reach in [Reach::Reached, Reach::NotReached, Reach::Inconclusive, waits] {
                assert_eq!(believe(verdict, reach), verdict, "only an absence is put to the test");
            }
        }
    }

    #[test]
    fn a_question_that_is_not_answered_says_what_the_organisation_waits_for() {
        let no_code = || Body::Json { code: None, message: None };
        for (code, verdict) in [
            (401, Verdict::Unauthorized),
            (429, Verdict::Throttled),
            (502, Verdict::Unreachable),
            (503, Verdict::Unreachable),
            (504, Verdict::Unreachable),
        ] {
            for body in [no_code(), Body::Html, Body::Empty] {
                let answer = status(code, body);
                assert_eq!(reach(&answer), Reach::Unanswered(verdict), "{answer:?}");
                assert_eq!(substitute_answer(&answer), answer);
                assert!(!verdict.spends_an_attempt());
            }
        }
        let lost = Answer::ConnectionLost { detail: "reset".into() };
        for answer in [Answer::TimedOut, lost, Answer::Unreachable { detail: "refused".into() }] {
            assert_eq!(reach(&answer), Reach::Unanswered(Verdict::Unreachable));
            let instead = substitute_answer(&answer);
            assert!(
                !instead.is_ambiguous() && instead.describe().contains(&answer.describe()),
                "{instead:?}"
            );
        }
    }

    #[test]
    fn what_is_known_is_asked_again_in_time_and_never_for_each_command() {
        let unanswered = Reach::Unanswered(Verdict::Unauthorized);
        let millis = |reach, before| holds_for(reach, before).as_millis();
        assert_eq!(millis(Reach::Reached, None), 600_000);
        assert_eq!([millis(Reach::NotReached, None), millis(unanswered, None)], [500, 500]);
        let mut before = Some((Reach::Reached, REACHED_FOR));
        let mut held = Vec::new();
        for _ in 0..8 {
            held.push(millis(Reach::Inconclusive, before));
            before = Some((Reach::Inconclusive, holds_for(Reach::Inconclusive, before)));
        }
        assert_eq!(held, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert!(
            !is_worth_asking_again(Reach::Reached, 9) && is_worth_asking_again(Reach::Reached, 10)
        );
        assert!(!is_worth_asking_again(Reach::Inconclusive, 99), "that has a time of its own");
    }

    #[test]
    fn only_the_apis_own_word_says_that_a_token_does_not_reach_an_organisation() {
        let no_code = || Body::Json { code: None, message: Some("Not Found".into()) };
        let is = |code, body| reach(&status(code, body));
        assert_eq!(is(200, no_code()), Reach::Reached);
        assert_eq!(is(404, json("RESOURCE_NOT_FOUND")), Reach::NotReached);
        assert_eq!(is(410, json("RESOURCE_NOT_FOUND")), Reach::NotReached);
        assert_eq!(is(403, no_code()), Reach::NotReached);
        for (code, body) in [
            (200, Body::Html),
            (200, Body::Empty),
            (204, Body::Empty),
            (404, Body::Empty),
            (404, Body::Other),
            (404, no_code()),
            (404, json("ENDPOINT_NOT_FOUND")),
            (403, json("ENDPOINT_NOT_FOUND")),
            (403, Body::Html),
            (500, Body::Empty),
            (501, Body::Html),
        ] {
            assert_eq!(is(code, body.clone()), Reach::Inconclusive, "{code} {body:?}");
        }
    }
}
