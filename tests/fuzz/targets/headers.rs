//! Our own headers: whatever comes in, what is read of it comes through a delay queue unchanged,
//! and nothing else does.
//!
//!     cargo fuzz run --sanitizer none --fuzz-dir tests/fuzz headers

#![no_main]

use std::time::Duration;

use arbitrary::Arbitrary;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use libfuzzer_sys::fuzz_target;
use tallyfy_delete_worker::messages::{Incoming, Publication, RetryState, names};
use tallyfy_delete_worker::policy::admission::{admit, age, first_seen};
use tallyfy_delete_worker::policy::producers::Producers;
use tallyfy_delete_worker::rabbitmq::envelope::{delivery_count, read, write};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    message_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
    content_type: Option<&'a str>,
    user_id: Option<&'a str>,
    headers: Vec<(Name<'a>, Value<'a>)>,
    now: i64,
    nanoseconds: u32,
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Ours(u8),
    DeliveryCount,
    Foreign(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Value<'a> {
    Long(&'a [u8]),
    Short(&'a str),
    Moment { seconds: i64, nanoseconds: i32 },
    Byte(i8),
    Int(i32),
    Unsigned(u32),
    Big(i64),
    Flag(bool),
    Timestamp(u64),
    Void,
}

/// The worker's own.
const USER: &str = "worker";
/// The broker's own; it never travels on.
const DELIVERY_COUNT: &str = names::X_DELIVERY_COUNT;
const OURS: [&str; 14] = [
    names::X_ATTEMPTS,
    names::X_CALLS,
    names::X_DRY_RUN,
    names::X_PURGE_AT,
    names::X_HELD_SINCE,
    names::X_FIRST_SEEN,
    names::X_AMBIGUOUS,
    names::X_NOT_BEFORE,
    names::X_PUBLISHED_BY,
    names::X_LAST_STATUS,
    names::X_WAIT_REASON,
    names::X_HISTORY,
    names::TRACEPARENT,
    names::TRACESTATE,
];

fuzz_target!(|input: Input| {
    let properties = properties(&input);
    let _ = delivery_count(&properties);
    let incoming = received(&properties);
    let now = moment(input.now, (input.nanoseconds % 1_000_000_000).cast_signed());
    let Some(now) = now else { return };
    let seen = first_seen(&incoming, now);
    assert!(seen <= now);
    let _ = age(&incoming, now);
    assert!(
        admit(&incoming, |_| true, &Producers::default(), now).is_err(),
        "an empty body is no command"
    );

    let copy = Publication::waiting_copy(
        &incoming,
        "task.delete.wait.5s".to_owned(),
        &incoming.retry_state,
        seen,
    );
    let once = received(&write(&copy, USER));
    assert_eq!(once.properties, incoming.properties);
    let but_first_seen = |state: &RetryState| RetryState { first_seen: None, ..state.clone() };
    assert_eq!(but_first_seen(&once.retry_state), but_first_seen(&incoming.retry_state));
    let seen_again = once.retry_state.first_seen.expect("a copy knows when it was first seen");
    assert!(
        seen_again <= seen
            && age(&once, now) - age(&incoming, now).min(age(&once, now)) < MILLISECOND
    );

    let copy = Publication::waiting_copy(
        &once,
        "task.delete.wait.5s".to_owned(),
        &once.retry_state,
        seen_again,
    );
    let twice = received(&write(&copy, USER));
    assert_eq!((&twice.retry_state, &twice.properties), (&once.retry_state, &once.properties));

    let dead =
        Publication::dead_letter(&incoming, &incoming.retry_state, seen, ("expired", "d"), now);
    let dead = write(&dead, USER);
    assert_eq!(received(&dead).retry_state.attempts, incoming.retry_state.attempts);
    for properties in [write(&copy, USER), dead] {
        nothing_else_is_carried(&properties);
    }
});

const MILLISECOND: Duration = Duration::from_millis(1);

fn nothing_else_is_carried(properties: &BasicProperties) {
    assert_eq!(properties.delivery_mode(), &Some(2));
    assert!(properties.expiration().is_none());
    assert_eq!(properties.user_id().as_ref().map(ShortString::as_str), Some(USER));
    assert!(properties.reply_to().is_none() && properties.priority().is_none());
    let failure = [names::X_FAILURE_REASON, names::X_FAILURE_DETAIL, names::X_FAILED_AT];
    for name in properties.headers().iter().flat_map(|table| table.inner().keys()) {
        assert!(
            OURS.contains(&name.as_str()) || failure.contains(&name.as_str()),
            "{name} was carried on"
        );
    }
}

fn received(properties: &BasicProperties) -> Incoming {
    // As from our own user, whose headers are believed.
    let (properties, retry_state) = read(properties, true);
    Incoming { properties, retry_state, ..Incoming::default() }
}

fn properties(input: &Input) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &input.headers {
        let name = match name {
            Name::Ours(place) => OURS[usize::from(*place) % OURS.len()],
            Name::DeliveryCount => DELIVERY_COUNT,
            Name::Foreign(name) => name,
        };
        headers.insert(short(name), amqp(value));
    }
    let mut properties =
        BasicProperties::default().with_headers(headers).with_expiration("60000".into());
    properties = properties.with_reply_to("somebody".into()).with_priority(9);
    if let Some(text) = input.message_id {
        properties = properties.with_message_id(short(text));
    }
    if let Some(text) = input.correlation_id {
        properties = properties.with_correlation_id(short(text));
    }
    if let Some(text) = input.content_type {
        properties = properties.with_content_type(short(text));
    }
    if let Some(text) = input.user_id {
        properties = properties.with_user_id(short(text));
    }
    properties
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

fn amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Long(bytes) => AMQPValue::LongString(bytes.to_vec().into()),
        Value::Short(text) => AMQPValue::ShortString(short(text)),
        Value::Moment { seconds, nanoseconds } => {
            let text =
                moment(*seconds, nanoseconds % 1_000_000_000).map(|moment| moment.to_string());
            AMQPValue::LongString(text.unwrap_or_default().into())
        }
        Value::Byte(number) => AMQPValue::ShortShortInt(*number),
        Value::Int(number) => AMQPValue::LongInt(*number),
        Value::Unsigned(number) => AMQPValue::LongUInt(*number),
        Value::Big(number) => AMQPValue::LongLongInt(*number),
        Value::Flag(flag) => AMQPValue::Boolean(*flag),
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Void => AMQPValue::Void,
    }
}

fn moment(seconds: i64, nanoseconds: i32) -> Option<Timestamp> {
    Timestamp::new(seconds % 400_000_000_000, nanoseconds).ok()
}
