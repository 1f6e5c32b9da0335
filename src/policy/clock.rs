//! Our clock beside the API's: whether an age can be told at all.

use std::time::Duration;

use jiff::Timestamp;

use super::answer::Answer;

/// More than this and commands would expire of an age that they do not have.
pub const WRONG: Duration = Duration::from_mins(5);

/// How far our clock is from the API's, by the answer's `Date`; `None` where it has none.
pub fn skew(answer: &Answer, now: Timestamp) -> Option<Duration> {
    let Answer::Status(response) = answer else { return None };
    let theirs = httpdate::parse_http_date(response.date.as_deref()?).ok()?;
    Some(now.duration_since(Timestamp::try_from(theirs).ok()?).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::super::answer::{Body, Response};
    use super::*;

    #[test]
    fn the_skew_is_told_by_the_answers_date_in_either_direction() {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let at = |date: Option<&str>| {
            let date = date.map(str::to_owned);
            let answer = Response {
                status: 204,
                body: Body::Empty,
                retry_after: None,
                date,
                request_id: None,
            };
            skew(&Answer::Status(answer), now).map(|skew| skew.as_secs())
        };
        assert_eq!(at(Some("Mon, 23 Nov 2026 09:50:00 GMT")), Some(600));
        assert_eq!(at(Some("Mon, 23 Nov 2026 10:00:07 GMT")), Some(7));
        assert_eq!(at(Some("yesterday")), None);
        assert_eq!(at(None), None);
        assert_eq!(skew(&Answer::TimedOut, now), None);
    }
}
