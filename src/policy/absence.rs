//! When a 404 may be believed. Shared by the worker and `check`.

use super::answer::{Answer, Body, Response};
use super::verdict::Verdict;

/// Whether a token reaches an organisation, by the answer to the list of the organisation's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The API lists its tasks.
    Reached,
    /// The API says in its own words that there is no such organisation, or not for this token.
    NotReached,
    /// Something else answered, or nothing: an API that has no such list, a proxy, an outage.
    Inconclusive,
}

/// Reads the answer to the list of an organisation's tasks.
pub fn reach(answer: &Answer) -> Reach {
    let Answer::Status(Response { status, body, .. }) = answer else { return Reach::Inconclusive };
    let is_json = matches!(body, Body::Json { .. });
    match status {
        200 if is_json => Reach::Reached,
        404 | 410 if body.names_a_missing_resource() => Reach::NotReached,
        403 if is_json && !body.denies_the_endpoint() => Reach::NotReached,
        _ => Reach::Inconclusive,
    }
}

/// # An absence is proven, or marked
///
/// The API says "not found" of a task that is gone, and of every task of an organisation that it does not show to this token. So its
/// word proves an absence only where the token reaches the organisation. Without that knowledge the absence still counts, marked as
/// unverified; where the API denies the organisation itself, it does not count at all.
pub fn believe(verdict: Verdict, reach: Reach) -> Verdict {
    match (verdict, reach) {
        (Verdict::AlreadyAbsent, Reach::NotReached) => Verdict::NotReached,
        (Verdict::AlreadyAbsent, Reach::Inconclusive) => Verdict::UnverifiedAbsence,
        (verdict, _) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::samples::{json, status};
    use super::*;

    #[test]
    fn an_absence_is_proven_or_marked() {
        let absent = |reach| believe(Verdict::AlreadyAbsent, reach);
        assert_eq!(absent(Reach::Reached), Verdict::AlreadyAbsent);
        assert_eq!(absent(Reach::NotReached), Verdict::NotReached);
        assert_eq!(absent(Reach::Inconclusive), Verdict::UnverifiedAbsence);
        for verdict in [Verdict::Deleted, Verdict::UnverifiedAbsence, Verdict::Misdirected] {
            for reach in [Reach::Reached, Reach::NotReached, Reach::Inconclusive] {
                assert_eq!(
                    believe(verdict, reach),
                    verdict,
                    "only the API's own word is put to the test"
                );
            }
        }
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
            (401, no_code()),
            (429, no_code()),
            (500, Body::Empty),
        ] {
            assert_eq!(is(code, body.clone()), Reach::Inconclusive, "{code} {body:?}");
        }
        assert_eq!(reach(&Answer::TimedOut), Reach::Inconclusive);
    }
}
