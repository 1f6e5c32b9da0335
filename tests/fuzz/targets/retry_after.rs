//! `Retry-After`: what it asks for is never undercut, and nonsense is as if there were none.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz retry_after

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use jiff::{SignedDuration, Timestamp};
use libfuzzer_sys::fuzz_target;
use tallyfy_delete_worker::policy::retry_after::{LONGEST, parse};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    value: Value<'a>,
    date: Option<Date<'a>>,
    now: i64,
    nanoseconds: u32,
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Raw(&'a str),
    Seconds { seconds: u64, zeros: u8, blanks: u8 },
    SecondsOfADay(u32),
    Moment { from_now: i32, form: OutputFormat },
}

#[derive(Arbitrary, Debug)]
enum Date<'a> {
    Raw(&'a str),
    Moment { from_now: i32 },
}

/// The three forms of RFC 9110, 5.6.7.
#[derive(Arbitrary, Debug)]
enum OutputFormat {
    Imf,
    Rfc850,
    Asctime,
}

fuzz_target!(|input: Input| {
    let Some(now) = now(&input) else { return };
    let date = input.date.as_ref().map(|date| match date {
        Date::Raw(text) => (*text).to_owned(),
        Date::Moment { from_now } => written(moment(now, *from_now), &OutputFormat::Imf),
    });
    let wait = |value: &str| {
        let wait = parse(Some(value), date.as_deref(), now);
        assert!(wait.unwrap_or_default() <= LONGEST, "{wait:?}");
        wait
    };
    match &input.value {
        Value::Raw(text) => {
            let is_seconds = text.trim().bytes().all(|byte| byte.is_ascii_digit());
            let makes_sense = is_seconds || httpdate::parse_http_date(text.trim()).is_ok();
            assert!(wait(text).is_none() || makes_sense, "{text:?}");
        }
        Value::Seconds { seconds, zeros, blanks } => {
            let blanks = " ".repeat(usize::from(*blanks));
            let text = format!("{blanks}{}{seconds}{blanks}", "0".repeat(usize::from(*zeros)));
            let expected = Duration::from_secs(*seconds);
            assert_eq!(wait(&text), (expected <= LONGEST).then_some(expected), "{text:?}");
        }
        Value::SecondsOfADay(seconds) => {
            let seconds = seconds % 86_401;
            assert_eq!(wait(&seconds.to_string()), Some(Duration::from_secs(seconds.into())));
        }
        Value::Moment { from_now, form } => {
            let until = moment(now, *from_now);
            not_undercut(until, date.as_deref(), now, wait(&written(until, form)));
        }
    }
});

/// Within the years that all three forms can write: 1970 to 2069.
fn now(input: &Input) -> Option<Timestamp> {
    let seconds = input.now.rem_euclid(3_100_000_000);
    let nanoseconds = i32::try_from(input.nanoseconds % 1_000_000_000).ok()?;
    Timestamp::new(seconds, nanoseconds).ok()
}

fn moment(now: Timestamp, from_now: i32) -> Timestamp {
    // Mostly within two days.
    let seconds = if from_now % 8 == 0 { from_now } else { from_now % 172_800 };
    let moment = now.as_second().saturating_add(seconds.into()).clamp(0, 3_155_759_999);
    Timestamp::from_second(moment).expect("a moment before 2070")
}

fn written(moment: Timestamp, form: &OutputFormat) -> String {
    let form = match form {
        OutputFormat::Imf => {
            return httpdate::fmt_http_date(moment.try_into().expect("a moment after 1970"));
        }
        OutputFormat::Rfc850 => "%A, %d-%b-%y %H:%M:%S GMT",
        OutputFormat::Asctime => "%a %b %e %H:%M:%S %Y",
    };
    moment.strftime(form).to_string()
}

fn not_undercut(until: Timestamp, date: Option<&str>, now: Timestamp, wait: Option<Duration>) {
    let left = |from: Timestamp| Duration::try_from(until.duration_since(from)).unwrap_or_default();
    let ours = left(now);
    let sent = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let theirs = sent.and_then(|sent| Timestamp::try_from(sent).ok()).map(left).unwrap_or_default();
    match wait {
        None => assert!(ours > LONGEST, "{until} was taken for nonsense"),
        Some(wait) => {
            assert!(wait >= ours, "{wait:?} undercuts our clock");
            assert!(wait >= theirs || theirs > LONGEST, "{wait:?} undercuts theirs");
            assert!(now + SignedDuration::try_from(wait).expect("a day at most") >= until);
            assert!(
                wait == ours || wait == theirs,
                "{wait:?} is longer than either clock asks for"
            );
        }
    }
}
