//! Determines why a message is among the dead letters. Pure.
//!
//! # A dead letter that RabbitMQ moved cannot give a false reason
//!
//! A producer may put any header into its command, even those of a dead letter. But the first entry
//! of `x-death` is RabbitMQ's own: 3 puts its entry before the producer's, or continues one of them
//! that has the same queue and reason, and 4 discards the producer's. So if that entry names the
//! work queue, or the queue of undeliverable commands behind it, RabbitMQ moved the message
//! unchanged, and no worker wrote its headers. In the second case the reason is in an entry of the
//! work queue: in the second one, but in the last one with versions up to 3.12, which reverse the
//! entries that there are before they add one. If both name the work queue and different reasons,
//! the reason is unknown.

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use super::envelope::text;
use crate::kind::Kind;
use crate::messages::{Cause, names};

/// Why a message is among the dead letters of a kind, or on its way there.
pub(super) fn read(kind: Kind, properties: &BasicProperties) -> Cause {
    let is_of = |death: &FieldTable, queue: &str| value(death, "queue") == Some(queue);
    let is_work = |death: &&FieldTable| is_of(death, kind.queue());
    let latest = deaths(properties).next();
    let moved = latest.filter(is_work).or_else(|| {
        let latest = latest.filter(|death| is_of(death, &kind.undeliverable_queue()))?;
        deaths(properties).find(is_work).or(Some(latest))
    });
    if let Some(death) = moved {
        let reason = value(death, "reason");
        let is_first = latest.is_some_and(|latest| is_work(&latest));
        let mut others = deaths(properties).filter(is_work);
        let is_known = is_first || others.all(|other| value(other, "reason") == reason);
        return Cause::Moved(reason.filter(|_| is_known).unwrap_or("unknown").to_owned());
    }
    match text(properties, names::X_FAILURE_REASON) {
        Some(reason) => Cause::Written {
            reason,
            detail: text(properties, names::X_FAILURE_DETAIL).unwrap_or_default(),
            failed_at: text(properties, names::X_FAILED_AT).and_then(|time| time.parse().ok()),
        },
        None => Cause::Unknown,
    }
}

/// When RabbitMQ moved it, in whole seconds.
pub(super) fn moved_at(properties: &BasicProperties) -> Option<Timestamp> {
    let death = deaths(properties).next()?;
    let AMQPValue::Timestamp(seconds) = death.inner().get("time")? else { return None };
    Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()
}

/// The latest first.
fn deaths(properties: &BasicProperties) -> impl Iterator<Item = &FieldTable> {
    let header = properties.headers().as_ref().and_then(|table| table.inner().get(names::X_DEATH));
    let deaths = match header {
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice(),
        _ => &[],
    };
    deaths.iter().filter_map(|death| match death {
        AMQPValue::FieldTable(death) => Some(death),
        _ => None,
    })
}

fn value<'a>(death: &'a FieldTable, name: &str) -> Option<&'a str> {
    match death.inner().get(name)? {
        AMQPValue::LongString(text) => str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use lapin::types::FieldArray;

    /// The properties of a message that went this way, by queue and reason, the latest first.
    pub(crate) fn moved(deaths: &[(&str, &str)], headers: &[(&str, &str)]) -> BasicProperties {
        let long = |text: &str| AMQPValue::LongString(text.into());
        let death = |(queue, reason): &(&str, &str)| {
            let mut death = FieldTable::default();
            death.insert("queue".into(), long(queue));
            death.insert("reason".into(), long(reason));
            death.insert("time".into(), AMQPValue::Timestamp(1_800_000_000));
            AMQPValue::FieldTable(death)
        };
        let mut table = FieldTable::default();
        if !deaths.is_empty() {
            let deaths = FieldArray::from(deaths.iter().map(death).collect::<Vec<_>>());
            table.insert(names::X_DEATH.into(), AMQPValue::FieldArray(deaths));
        }
        for (name, text) in headers {
            table.insert((*name).into(), long(text));
        }
        BasicProperties::default().with_headers(table)
    }
}

#[cfg(test)]
mod tests {
    use super::samples::moved;
    use super::*;

    const FORGED: [(&str, &str); 2] =
        [("x-failure-reason", "forbidden"), ("x-failed-at", "2099-01-01T00:00:00Z")];

    fn cause(deaths: &[(&str, &str)]) -> Cause {
        read(Kind::TaskDelete, &moved(deaths, &FORGED))
    }

    #[test]
    fn a_dead_letter_that_rabbitmq_moved_cannot_give_a_false_reason() {
        let expired = Cause::Moved("expired".to_owned());
        let (work, undeliverable) = (("task.delete", "expired"), "task.delete.undeliverable");
        assert_eq!(cause(&[work]), expired);
        assert_eq!(cause(&[(undeliverable, "rejected"), work]), expired, "of the command");
        assert_eq!(cause(&[work, ("task.delete.wait.5s", "expired")]), expired);
        let forged = ("task.delete", "delivery_limit");
        assert_eq!(cause(&[work, forged]), expired);
        let unknown = Cause::Moved("unknown".to_owned());
        for deaths in [[forged, work], [work, forged]] {
            assert_eq!(cause(&[&[(undeliverable, "rejected")][..], &deaths].concat()), unknown);
        }
        assert_eq!(cause(&[(undeliverable, "rejected"), ("other", "maxlen"), work]), expired);
        let poison = [(undeliverable, "delivery_limit")];
        assert_eq!(cause(&poison), Cause::Moved("delivery_limit".to_owned()));
    }

    #[test]
    fn what_rabbitmq_did_not_move_is_as_its_writer_says() {
        for others in [&[][..], &[("task.archive", "expired")], &[("elsewhere", "rejected")]] {
            let cause = cause(others);
            assert_eq!(cause.failure(None).reason.as_str(), "forbidden", "{others:?}");
            assert!(cause.failed_at().is_some());
        }
        assert_eq!(read(Kind::TaskDelete, &BasicProperties::default()), Cause::Unknown);
        let no_list = moved(&[], &[("x-death", "forged")]);
        assert_eq!(read(Kind::TaskDelete, &no_list), Cause::Unknown);
    }
}
