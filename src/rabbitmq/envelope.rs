//! Converts the properties and headers of a message from the broker library's types to plain data,
//! and back. Pure.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::lapin_guard::Keep;
use crate::messages::command::MAX_BODY_BYTES;
use crate::messages::{HeaderValue, Properties, Publication, RetryState, names};

const PERSISTENT: u8 = 2;
/// Each copy has one of these headers: a worker's copy the first, a replay's the second.
const COPIES_HAVE: [&str; 2] = [names::X_ATTEMPTS, names::X_HISTORY];
pub const X_UNREADABLE: &str = names::X_UNREADABLE;
/// The size of a body that was left out. A producer that forges it only gets its own command
/// refused.
const X_LEFT_OUT: &str = "x-left-out";
/// What to keep of a header table that would crash lapin, the most important first.
pub const KEEP: Keep = Keep {
    headers: &[
        names::X_ATTEMPTS,
        names::X_AMBIGUOUS,
        names::X_LAST_STATUS,
        names::X_DELIVERY_COUNT,
        names::X_FIRST_SEEN,
        names::X_NOT_BEFORE,
        names::X_PURGE_AT,
        names::X_DRY_RUN,
        names::X_FAILED_AT,
        names::X_FAILURE_REASON,
        names::X_MIRROR,
        names::X_PUBLISHED_BY,
        names::X_HISTORY,
        names::X_CALLS,
        names::TRACEPARENT,
        names::TRACESTATE,
        names::X_FAILURE_DETAIL,
    ],
    deaths: names::X_DEATH,
    fault: X_UNREADABLE,
    largest_body: MAX_BODY_BYTES as u64,
    left_out: X_LEFT_OUT,
};

/// Reads the properties that are passed on and, if they are `believed` ([`Trust`](super::Trust)),
/// our own headers about earlier deliveries. Nonsensical values count as absent.
pub fn read(properties: &BasicProperties, believed: bool) -> (Properties, RetryState) {
    let header = |name: &str| header(properties, name);
    let text = |name: &str| text(properties, name);
    let time = |name: &str| text(name).and_then(|time| time.parse::<Timestamp>().ok());
    let short = |property: &Option<ShortString>| {
        property.as_ref().map(ToString::to_string).filter(|text| !text.is_empty())
    };
    let carried = Properties {
        message_id: short(properties.message_id()),
        correlation_id: short(properties.correlation_id()),
        content_type: short(properties.content_type()),
        traceparent: text(names::TRACEPARENT),
        tracestate: text(names::TRACESTATE),
        // For a copy, the user is the one that made the copy.
        published_by: if believed && COPIES_HAVE.iter().any(|name| header(name).is_some()) {
            text(names::X_PUBLISHED_BY)
        } else {
            short(properties.user_id())
        },
    };
    if !believed {
        return (carried, RetryState::default());
    }
    let count = |name: &str| {
        header(name).and_then(as_number).map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX))
    };
    let retry_state = RetryState {
        attempts: count(names::X_ATTEMPTS),
        calls: count(names::X_CALLS),
        ambiguous: matches!(header(names::X_AMBIGUOUS), Some(AMQPValue::Boolean(true))),
        first_seen: time(names::X_FIRST_SEEN),
        not_before: time(names::X_NOT_BEFORE),
        is_dry_run: matches!(header(names::X_DRY_RUN), Some(AMQPValue::Boolean(true))),
        purge_at: time(names::X_PURGE_AT),
        last_status: header(names::X_LAST_STATUS)
            .and_then(as_number)
            .and_then(|n| u16::try_from(n).ok()),
        wait_reasons: text(names::X_WAIT_REASON),
        history: text(names::X_HISTORY),
        request_id: None,
    };
    (carried, retry_state)
}

/// How often the message was requeued, as a quorum queue counts it.
pub fn delivery_count(properties: &BasicProperties) -> u32 {
    header(properties, names::X_DELIVERY_COUNT)
        .and_then(as_number)
        .map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

/// Whether the body was left out because it was too large for a command.
pub fn is_oversized(properties: &BasicProperties) -> bool {
    header(properties, X_LEFT_OUT).is_some()
}

/// A header's value, if it is a non-negative number.
pub fn number(properties: &BasicProperties, name: &str) -> Option<u64> {
    header(properties, name).and_then(as_number).and_then(|number| u64::try_from(number).ok())
}

/// A header's value, if it is a text of a sensible length.
pub fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    header(properties, name).and_then(as_text)
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    const LONGEST: usize = 1024;
    match value {
        AMQPValue::LongString(text) if text.len() <= LONGEST => {
            String::from_utf8(text.as_bytes().to_vec()).ok()
        }
        _ => None,
    }
}

fn as_number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

/// The properties and headers of a message to publish: persistent, with our own user's name on a
/// copy, and otherwise only the publication's content.
pub fn write(publication: &Publication<'_>, user: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &publication.headers {
        headers.insert((*name).into(), amqp_value(value));
    }
    let mut properties =
        BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    if !publication.is_event() && !user.is_empty() {
        properties = properties.with_user_id(user.into());
    }
    if let Some(id) = &publication.message_id {
        properties = properties.with_message_id(id.as_str().into());
    }
    if let Some(id) = &publication.correlation_id {
        properties = properties.with_correlation_id(id.as_str().into());
    }
    if let Some(kind) = &publication.content_type {
        properties = properties.with_content_type(kind.as_str().into());
    }
    properties
}

fn amqp_value(value: &HeaderValue) -> AMQPValue {
    match value {
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Number(number) => AMQPValue::LongLongInt(*number),
        HeaderValue::Flag(flag) => AMQPValue::Boolean(*flag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Incoming;
    use proptest::option::of;
    use proptest::prelude::*;

    fn any_moment() -> impl Strategy<Value = Timestamp> {
        (0_i64..=253_402_207_200, 0_i32..1_000_000_000)
            .prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap())
    }

    #[test]
    fn a_text_longer_than_1_kib_is_as_if_it_were_not_there() {
        for (length, expected) in [(1024, Some(1024)), (1025, None)] {
            let mut headers = FieldTable::default();
            headers
                .insert(names::TRACESTATE.into(), AMQPValue::LongString("x".repeat(length).into()));
            let (carried, _) = read(&BasicProperties::default().with_headers(headers), true);
            assert_eq!(carried.tracestate.map(|text| text.len()), expected);
        }
    }

    #[test]
    fn what_is_not_believed_is_as_if_it_were_not_there_but_for_the_user_whom_the_broker_has_checked()
     {
        let mut headers = FieldTable::default();
        headers.insert(names::X_ATTEMPTS.into(), AMQPValue::LongInt(7));
        headers.insert(names::X_PUBLISHED_BY.into(), AMQPValue::LongString("forged".into()));
        let message =
            BasicProperties::default().with_headers(headers).with_user_id("billing".into());
        let (carried, retry_state) = read(&message, false);
        assert_eq!(retry_state, RetryState::default());
        assert_eq!(carried.published_by.as_deref(), Some("billing"));
        let (carried, retry_state) = read(&message, true);
        assert_eq!((carried.published_by.as_deref(), retry_state.attempts), (Some("forged"), 7));
    }

    #[test]
    fn a_copy_of_what_nobody_signed_is_not_signed_by_the_worker() {
        let (incoming, retry_state) = (Incoming::default(), RetryState::default());
        let copy =
            Publication::waiting_copy(&incoming, "q".into(), &retry_state, Timestamp::UNIX_EPOCH);
        assert_eq!(read(&write(&copy, "worker"), true).0.published_by, None);
    }

    fn with_header(name: &str, value: AMQPValue) -> RetryState {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        read(&BasicProperties::default().with_headers(headers), true).1
    }

    proptest! {
        #[test]
        fn what_a_command_has_come_through_survives_a_wait(
            [attempts, calls] in proptest::array::uniform2(any::<u32>()), ambiguous: bool, first_seen in any_moment(), not_before in of(any_moment()), purge_at in of(any_moment()), is_dry_run: bool,
            last_status in of(any::<u16>()), texts in proptest::array::uniform6(of("\\PC{1,60}")),
            notes in proptest::array::uniform2(of("\\PC{1,60}")),
        ) {
            let [message_id, correlation_id, content_type, traceparent, tracestate, published_by] = texts;
            let properties =
                Properties { message_id, correlation_id, content_type, traceparent, tracestate, published_by };
            let [history, wait_reasons] = notes;
            let retry_state = RetryState {
                attempts, calls, ambiguous, first_seen: None, not_before, purge_at, is_dry_run, last_status, wait_reasons, history, request_id: None,
            };
            let incoming = Incoming { properties, ..Incoming::default() };
            let copy = Publication::waiting_copy(&incoming, "q".into(), &retry_state, first_seen);
            let (carried, read) = read(&write(&copy, "worker"), true);
            prop_assert_eq!(&carried, &incoming.properties);
            let seen = read.first_seen.unwrap();
            prop_assert!(seen <= first_seen && first_seen.duration_since(seen).as_millis() == 0);
            prop_assert_eq!(RetryState { first_seen: None, ..read }, retry_state);
        }
    }

    #[test]
    fn a_header_that_makes_no_sense_is_as_if_it_were_not_there() {
        let nothing = RetryState::default();
        assert_eq!(with_header(names::X_ATTEMPTS, AMQPValue::LongInt(-7)), nothing);
        assert_eq!(with_header(names::X_ATTEMPTS, AMQPValue::LongString("7".into())), nothing);
        assert_eq!(with_header(names::X_LAST_STATUS, AMQPValue::LongInt(70_000)), nothing);
        assert_eq!(with_header(names::X_FIRST_SEEN, AMQPValue::Timestamp(0)), nothing);
        assert_eq!(
            with_header(names::X_FIRST_SEEN, AMQPValue::LongString("x".repeat(2000).into())),
            nothing
        );
        assert_eq!(with_header(names::X_AMBIGUOUS, AMQPValue::LongInt(1)), nothing);
    }

    #[test]
    fn a_number_is_read_whatever_its_width() {
        use AMQPValue::{
            LongInt, LongLongInt, LongUInt, ShortInt, ShortShortInt, ShortShortUInt, ShortUInt,
        };
        for seven in [
            ShortShortInt(7),
            ShortShortUInt(7),
            ShortInt(7),
            ShortUInt(7),
            LongInt(7),
            LongUInt(7),
            LongLongInt(7),
        ] {
            assert_eq!(with_header(names::X_ATTEMPTS, seven).attempts, 7);
        }
        assert_eq!(with_header(names::X_ATTEMPTS, LongLongInt(i64::MAX)).attempts, u32::MAX);
    }
}
