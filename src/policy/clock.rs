//! Compares our clock with the API's: whether ages can be computed at all.

use std::time::Duration;

use jiff::Timestamp;

use super::answer::{Answer, Body, Response};

/// With more skew than this, commands would expire at an age that they do not have.
pub const WRONG: Duration = Duration::from_mins(5);

/// How far our clock is from the API's, by the answer's `Date`; `None` if it has none.
pub fn skew(answer: &Answer, now: Timestamp) -> Option<Duration> {
    let Answer::Status(response) = answer else { return None };
    let theirs = httpdate::parse_http_date(response.date.as_deref()?).ok()?;
    Some(now.duration_since(Timestamp::try_from(theirs).ok()?).unsigned_abs())
}

/// When a record of the ledger was written, as its reader believes it.
///
/// # A fast clock empties no other worker's window
///
/// A record from the future would be the time of all later ones, and older admissions would leave
/// the window too early. So it counts as written now. Workers with right clocks read a record at
/// about the same moment, and so agree; one that reads it later counts it for longer, which is
/// safe. A worker whose own clock is wrong makes no new calls ([`ClockCheck`]).
pub fn believed(written: Timestamp, now: Timestamp) -> Timestamp {
    if written > now.saturating_add(WRONG).unwrap_or(Timestamp::MAX) { now } else { written }
}

/// How many answers in a row it takes once our clock has been right: a single one may be old, or
/// come from anything on the way.
const IN_A_ROW: u32 = 3;

/// What the API's own answers have shown about our clock.
#[derive(Debug, Default)]
pub struct ClockCheck {
    wrong_in_a_row: u32,
    /// An answer has shown that our clock is right.
    is_proven: bool,
}

impl ClockCheck {
    /// Whether our clock differs too much from the API's. Before any answer has shown that it is
    /// right, one answer is enough: the worker has just begun to write to the ledger.
    pub fn is_wrong(&self) -> bool {
        self.wrong_in_a_row >= if self.is_proven { IN_A_ROW } else { 1 }
    }

    /// Records an answer; returns how far our clock is off if [`ClockCheck::is_wrong`] has changed.
    ///
    /// # The API's clock is read from the API's own answers only
    ///
    /// A proxy or a cache on the way has its own clock.
    pub fn record(&mut self, answer: &Answer, now: Timestamp) -> Option<Duration> {
        let skew = skew(answer, now).filter(|_| is_the_apis_own(answer))?;
        let was_wrong = self.is_wrong();
        self.wrong_in_a_row = if skew > WRONG { self.wrong_in_a_row.saturating_add(1) } else { 0 };
        self.is_proven |= skew <= WRONG;
        (self.is_wrong() != was_wrong).then_some(skew)
    }
}

fn is_the_apis_own(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Status(Response { status: 204, .. } | Response { body: Body::Json { .. }, .. })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T10:00:00Z";
    const RIGHT: &str = "Mon, 23 Nov 2026 09:55:00 GMT";
    const OFF: &str = "Mon, 23 Nov 2026 09:54:59 GMT";

    fn dated(status: u16, body: Body, date: Option<&str>) -> Answer {
        let date = date.map(str::to_owned);
        Answer::Status(Response { status, body, retry_after: None, date, request_id: None })
    }

    /// Whether the clock counts as wrong after each of these answers.
    fn wrong_after(answers: &[(u16, Body, &str)]) -> Vec<bool> {
        let (mut check, now) = (ClockCheck::default(), NOW.parse().unwrap());
        let mut after = |(status, body, date): &(u16, Body, &str)| {
            let before = check.is_wrong();
            let told = check.record(&dated(*status, body.clone(), Some(date)), now);
            assert_eq!(told.is_some(), check.is_wrong() != before);
            check.is_wrong()
        };
        answers.iter().map(&mut after).collect()
    }

    #[test]
    fn a_clock_that_was_right_is_wrong_after_three_of_the_apis_own_answers_and_a_new_one_after_one()
    {
        let json = || Body::Json { code: None, message: None };
        let answers = [(204, Body::Empty, OFF), (404, json(), OFF), (204, Body::Empty, RIGHT)];
        assert_eq!(wrong_after(&answers), [true, true, false]);
        let answers = [
            (204, Body::Empty, RIGHT),
            (204, Body::Empty, OFF),
            (404, json(), OFF),
            (500, json(), OFF),
            (204, Body::Empty, OFF),
            (204, Body::Empty, RIGHT),
            (204, Body::Empty, OFF),
        ];
        assert_eq!(wrong_after(&answers), [false, false, false, true, true, false, false]);
    }

    #[test]
    fn the_apis_clock_is_read_from_the_apis_own_answers_only() {
        for (status, body) in
            [(502, Body::Html), (404, Body::Other), (503, Body::Empty), (200, Body::Html)]
        {
            let answers: Vec<_> = (0..5).map(|_| (status, body.clone(), OFF)).collect();
            assert_eq!(wrong_after(&answers), [false; 5], "{status} {body:?}");
        }
    }

    #[test]
    fn the_skew_is_told_by_the_answers_date_in_either_direction() {
        let now = NOW.parse().unwrap();
        let at = |date| skew(&dated(204, Body::Empty, date), now).map(|skew| skew.as_secs());
        assert_eq!(at(Some("Mon, 23 Nov 2026 09:50:00 GMT")), Some(600));
        assert_eq!(at(Some("Mon, 23 Nov 2026 10:00:07 GMT")), Some(7));
        assert_eq!(at(Some("yesterday")), None);
        assert_eq!(at(None), None);
        assert_eq!(skew(&Answer::TimedOut, now), None);
    }
}
