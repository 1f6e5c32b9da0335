//! Properties and headers of a message: from the broker library's types to plain data, and back. Pure.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::messages::{HeaderValue, Progress, Properties, Publication, names};

const PERSISTENT: u8 = 2;

/// What we carry on of a message, and what our own headers say of earlier deliveries. Anybody may have written them: what
/// makes no sense is as if it were not there.
pub fn read(properties: &BasicProperties) -> (Properties, Progress) {
    let header = |name: &str| properties.headers().as_ref().and_then(|table| table.inner().get(name));
    let text = |name: &str| header(name).and_then(as_text);
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
        published_by: short(properties.user_id()).or_else(|| text(names::X_PUBLISHED_BY)),
    };
    let progress = Progress {
        attempts: header(names::X_ATTEMPTS)
            .and_then(as_number)
            .map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX)),
        ambiguous: matches!(header(names::X_AMBIGUOUS), Some(AMQPValue::Boolean(true))),
        first_seen: time(names::X_FIRST_SEEN),
        not_before: time(names::X_NOT_BEFORE),
        last_status: header(names::X_LAST_STATUS).and_then(as_number).and_then(|n| u16::try_from(n).ok()),
    };
    (carried, progress)
}

/// How often the broker has taken the message back from a worker, as a quorum queue counts it.
pub fn returns(properties: &BasicProperties) -> u32 {
    let header = properties.headers().as_ref().and_then(|table| table.inner().get("x-delivery-count"));
    header.and_then(as_number).map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
}

fn as_text(value: &AMQPValue) -> Option<String> {
    const LONGEST: usize = 1024;
    match value {
        AMQPValue::LongString(text) if text.len() <= LONGEST => {
            String::from_utf8(text.as_bytes().to_vec()).ok()
        }
        AMQPValue::ShortString(text) => Some(text.to_string()),
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

/// The properties and headers of a message to publish: persistent, and nothing but what the publication says.
pub fn write(publication: &Publication) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &publication.headers {
        headers.insert((*name).into(), amqp_value(value));
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
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
