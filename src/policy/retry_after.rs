//! How long a `Retry-After` asks us to wait (RFC 9110, 10.2.3: seconds or an HTTP date).

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::answer::Answer;

/// A `Retry-After` beyond this is ignored as nonsense: the year 9999 must not park a command.
pub const LONGEST: Duration = Duration::from_hours(24);

/// The wait that an answer asks for, if it has a sensible `Retry-After`.
pub fn of(answer: &Answer, now: Timestamp) -> Option<Duration> {
    match answer {
        Answer::Status(response) => {
            parse(response.retry_after.as_deref(), response.date.as_deref(), now)
        }
        _ => None,
    }
}

/// The shortest wait that does not undercut the header; `None` if that is absent or nonsense.
///
/// A date is compared with both the server's clock (its `Date` header) and ours, and the longer
/// wait counts, so that a wrong clock does not make us call too early.
pub fn parse(value: Option<&str>, date: Option<&str>, now: Timestamp) -> Option<Duration> {
    let value = value?.trim();
    let wait = match parse_seconds(value) {
        Some(seconds) => Duration::from_secs(seconds),
        None => wait_until(httpdate::parse_http_date(value).ok()?, date, now),
    };
    (wait <= LONGEST).then_some(wait)
}

fn parse_seconds(value: &str) -> Option<u64> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn wait_until(moment: SystemTime, date: Option<&str>, now: Timestamp) -> Duration {
    let by_our_clock = SystemTime::try_from(now)
        .ok()
        .and_then(|now| moment.duration_since(now).ok())
        .unwrap_or_default();
    let by_theirs = date
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .and_then(|sent| moment.duration_since(sent).ok())
        .unwrap_or_default();
    // An absurd date from the server must not spoil a sensible wait by our clock.
    if by_theirs > LONGEST { by_our_clock } else { by_our_clock.max(by_theirs) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn both_forms_are_a_floor() {
        let now = at("2026-11-23T10:00:00Z");
        let seconds = |wait| Some(Duration::from_secs(wait));
        assert_eq!(parse(Some("3"), None, now), seconds(3));
        assert_eq!(parse(Some(" 0 "), None, now), seconds(0));
        assert_eq!(parse(Some("Mon, 23 Nov 2026 10:00:07 GMT"), None, now), seconds(7));
        assert_eq!(parse(Some("Mon, 23 Nov 2026 09:00:00 GMT"), None, now), seconds(0));
    }

    #[test]
    fn a_wrong_clock_of_ours_does_not_undercut_a_date() {
        let fast = at("2026-11-23T10:00:30Z");
        let wait = parse(
            Some("Mon, 23 Nov 2026 10:00:07 GMT"),
            Some("Mon, 23 Nov 2026 10:00:00 GMT"),
            fast,
        );
        assert_eq!(wait, Some(Duration::from_secs(7)));
    }

    #[test]
    fn an_absurd_date_of_the_server_does_not_count_and_one_of_a_day_does() {
        let now = at("2026-11-23T10:00:00Z");
        let wait = |date| parse(Some("Mon, 23 Nov 2026 10:00:07 GMT"), Some(date), now);
        assert_eq!(wait("Sun, 22 Nov 2026 10:00:07 GMT"), Some(LONGEST));
        assert_eq!(wait("Sun, 22 Nov 2026 10:00:06 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(wait("yesterday"), Some(Duration::from_secs(7)));
    }

    #[test]
    fn nonsense_is_as_if_there_were_none() {
        let now = at("2026-11-23T10:00:00Z");
        for value in [
            "",
            "-1",
            "soon",
            "1.5",
            "99999999999999999999999",
            "86401",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "3, 4",
        ] {
            assert_eq!(parse(Some(value), None, now), None, "{value}");
        }
        assert_eq!(parse(None, None, now), None);
    }

    proptest! {
        #[test]
        fn no_header_panics_or_parks_for_more_than_a_day(value in ".*", date in proptest::option::of(".*")) {
            let wait = parse(Some(&value), date.as_deref(), at("2026-11-23T10:00:00Z"));
            prop_assert!(wait.unwrap_or_default() <= LONGEST);
        }

        #[test]
        fn a_date_is_undercut_by_neither_clock(now in 0_i64..4_000_000_000, ours in 0_i64..=86_400, theirs in 0_i64..=86_400) {
            let written = |moment| httpdate::fmt_http_date(SystemTime::try_from(Timestamp::from_second(moment).unwrap()).unwrap());
            let (until, sent) = (now + ours, (now + ours - theirs).max(0));
            let wait = parse(Some(&written(until)), Some(&written(sent)), Timestamp::from_second(now).unwrap());
            let longer = (until - now).max(until - sent).unsigned_abs();
            prop_assert_eq!(wait, Some(Duration::from_secs(longer)));
        }

        #[test]
        fn seconds_are_never_undercut(seconds in 0_u64..=86_400) {
            let wait = parse(Some(&seconds.to_string()), None, at("2026-11-23T10:00:00Z"));
            prop_assert_eq!(wait, Some(Duration::from_secs(seconds)));
        }
    }
}
