//! Dead letters for people and for machines; and back from an export.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::selection::Group;
use crate::kind::Kind;
use crate::messages::dead_letter::Exported;
use crate::messages::ids::EventIds;
use crate::messages::{DeadLetter, Properties, RetryState};
use crate::table::{age, printable, write};

const LONGEST_DETAIL: usize = 60;
const MAY_BE_DONE: &str =
    "it may have succeeded: an answer was lost, or it was delivered more than once";
/// The reader of dead letters accepts no longer text from a header; and all headers of a message
/// share one frame.
const LONGEST_HEADER: usize = 1024;
/// Right-aligned columns.
const NUMBERS: [usize; 4] = [2, 3, 4, 5];

/// A table whose column widths fit its content.
pub(super) fn groups(out: &mut impl Write, groups: &[Group], now: Timestamp) -> io::Result<()> {
    let mut rows = vec![
        ["REASON", "ORGANISATION", "COUNT", "AMBIGUOUS", "OLDEST", "NEWEST", "DETAIL"]
            .map(str::to_owned),
    ];
    rows.extend(groups.iter().map(|group| {
        [
            group.reason.clone(),
            group.org_id.as_deref().map_or_else(|| "-".to_owned(), printable),
            group.dead_letters.to_string(),
            group.ambiguous.to_string(),
            age(group.oldest, now),
            age(group.newest, now),
            printable(&group.detail).chars().take(LONGEST_DETAIL).collect(),
        ]
    }));
    write(out, &rows, &NUMBERS)
}

/// One dead letter as a paragraph.
pub(super) fn dead_letter(
    out: &mut impl Write,
    dead_letter: &DeadLetter,
    now: Timestamp,
) -> io::Result<()> {
    let (properties, retry_state) = (&dead_letter.properties, &dead_letter.retry_state);
    let EventIds { failure, success } = dead_letter.event_ids();
    let time = |time: Option<Timestamp>| {
        time.map(|time| format!("{time:.0} ({} ago)", age(Some(time), now)))
    };
    let lines = [
        ("reason", Some(dead_letter.reason.clone())),
        ("detail", Some(dead_letter.detail.clone())),
        ("failed", time(dead_letter.failed_at)),
        ("first seen", time(retry_state.first_seen)),
        ("command id", properties.message_id.clone()),
        ("organisation", dead_letter.org_id()),
        (dead_letter.kind.spec().object, dead_letter.object_id()),
        ("attempts", Some(retry_state.attempts.to_string())),
        ("last status", retry_state.last_status.map(|status| status.to_string())),
        ("ambiguous", Some(MAY_BE_DONE.to_owned()).filter(|_| dead_letter.may_be_done())),
        ("event id", Some(failure)),
        ("superseded by", Some(format!("{success}, if there is such an event"))),
        ("published by", properties.published_by.clone()),
        ("correlation id", properties.correlation_id.clone()),
        ("traceparent", properties.traceparent.clone()),
        ("history", retry_state.history.clone()),
        ("unreadable", dead_letter.fault.clone()),
        ("body", Some(String::from_utf8_lossy(&dead_letter.body).into_owned())),
    ];
    for (name, text) in lines {
        if let Some(text) = text {
            writeln!(out, "{name:>14}: {}", printable(&text))?;
        }
    }
    writeln!(out)
}

/// For a line of an export.
pub(super) fn exported(dead_letter: &DeadLetter) -> Exported {
    let (properties, retry_state) =
        (dead_letter.properties.clone(), dead_letter.retry_state.clone());
    let (body, body_base64) = match str::from_utf8(&dead_letter.body) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(&dead_letter.body))),
    };
    let EventIds { failure: event_id, success: superseded_by } = dead_letter.event_ids();
    Exported {
        event_id,
        superseded_by,
        kind: dead_letter.kind.as_str().to_owned(),
        reason: dead_letter.reason.clone(),
        detail: dead_letter.detail.clone(),
        failed_at: dead_letter.failed_at,
        first_seen: retry_state.first_seen,
        attempts: retry_state.attempts,
        ambiguous: retry_state.ambiguous,
        last_status: retry_state.last_status,
        message_id: properties.message_id,
        correlation_id: properties.correlation_id,
        content_type: properties.content_type,
        traceparent: properties.traceparent,
        tracestate: properties.tracestate,
        published_by: properties.published_by,
        history: retry_state.history,
        fault: dead_letter.fault.clone(),
        body,
        body_base64,
    }
}

/// From a line of an export.
///
/// # Errors
/// What is wrong with it.
pub(super) fn imported(kind: Kind, line: &str) -> Result<DeadLetter, String> {
    let line: Exported = serde_json::from_str(line).map_err(|error| error.to_string())?;
    if line.kind != kind.as_str() {
        return Err(format!("it is of kind {}: use --kind {}", line.kind, line.kind));
    }
    let body = match (line.body, line.body_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(coded)) => {
            STANDARD.decode(coded).map_err(|error| format!("body_base64: {error}"))?
        }
        _ => return Err("it needs one of body and body_base64".to_owned()),
    };
    let longest =
        [&line.message_id, &line.correlation_id, &line.content_type].into_iter().flatten();
    if longest.map(String::len).any(|bytes| bytes > 255) {
        return Err("message_id, correlation_id and content_type have at most 255 bytes".to_owned());
    }
    let headers =
        [&line.history, &line.traceparent, &line.tracestate, &line.published_by, &line.fault];
    let headers = headers.into_iter().flatten().chain([&line.reason, &line.detail]);
    if headers.map(String::len).any(|bytes| bytes > LONGEST_HEADER) {
        return Err(format!("what goes into a header has at most {LONGEST_HEADER} bytes"));
    }
    let properties = Properties {
        message_id: line.message_id,
        correlation_id: line.correlation_id,
        content_type: line.content_type,
        traceparent: line.traceparent,
        tracestate: line.tracestate,
        published_by: line.published_by,
    };
    let retry_state = RetryState {
        attempts: line.attempts,
        ambiguous: line.ambiguous,
        first_seen: line.first_seen,
        last_status: line.last_status,
        history: line.history,
        ..RetryState::default()
    };
    let (reason, detail, failed_at) = (line.reason, line.detail, line.failed_at);
    Ok(DeadLetter {
        kind,
        body,
        properties,
        retry_state,
        reason,
        detail,
        failed_at,
        fault: line.fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::selection::Groups;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_fits_no_header_is_refused_before_anything_is_imported() {
        for (bytes, fits) in [(1024, true), (1025, false)] {
            let dead_letter = DeadLetter { detail: "x".repeat(bytes), ..DeadLetter::default() };
            let line = serde_json::to_string(&exported(&dead_letter)).unwrap();
            assert_eq!(imported(Kind::TaskDelete, &line).is_ok(), fits, "{bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn an_exported_dead_letter_is_imported_as_it_was(
            body in proptest::collection::vec(any::<u8>(), 0..64), texts in proptest::array::uniform8(".{0,20}"), attempts: u32,
        ) {
            let [reason, detail, id, correlation, kind, parent, by, history] = texts;
            let properties = Properties {
                message_id: Some(id), correlation_id: Some(correlation), content_type: Some(kind),
                traceparent: Some(parent), tracestate: None, published_by: Some(by),
            };
            let retry_state = RetryState { attempts, history: Some(history), ..RetryState::default() };
            let failed_at = "2026-11-24T10:00:00.5Z".parse().ok();
            let dead_letter = DeadLetter { kind: Kind::FileDelete, body, properties, retry_state, reason, detail, failed_at, fault: None };
            let line = serde_json::to_string(&exported(&dead_letter)).unwrap();
            prop_assert_eq!(imported(Kind::FileDelete, &line), Ok(dead_letter));
        }
    }

    #[test]
    fn a_line_of_another_kind_is_refused() {
        let dead_letter = DeadLetter { kind: Kind::TagDelete, ..DeadLetter::default() };
        let line = serde_json::to_string(&exported(&dead_letter)).unwrap();
        assert!(imported(Kind::TaskDelete, &line).unwrap_err().contains("--kind tag.delete"));
        assert!(imported(Kind::TagDelete, &line).is_ok());
    }

    #[test]
    fn the_times_of_a_line_sort_as_text() {
        let time: Option<Timestamp> = "2026-11-25T10:25:19.300Z".parse().ok();
        let retry_state = RetryState { first_seen: time, ..RetryState::default() };
        let dead_letter = DeadLetter { retry_state, failed_at: time, ..DeadLetter::default() };
        let mut groups = Groups::default();
        groups.add(&dead_letter);
        let [line, group] = [json!(exported(&dead_letter)), json!(groups.all()[0])];
        for text in [&line["first_seen"], &line["failed_at"], &group["oldest"], &group["newest"]] {
            assert_eq!(text, "2026-11-25T10:25:19.300Z");
        }
    }

    #[test]
    fn a_line_without_a_body_or_with_a_property_that_is_too_long_is_refused() {
        assert!(
            imported(Kind::TaskDelete, r#"{"reason":"expired"}"#).unwrap_err().contains("body")
        );
        assert!(
            imported(Kind::TaskDelete, r#"{"reason":"expired","body":"a","body_base64":"YQ=="}"#)
                .is_err()
        );
        assert!(
            imported(Kind::TaskDelete, r#"{"reason":"expired","body_base64":"?"}"#)
                .unwrap_err()
                .contains("base64")
        );
        let long =
            format!(r#"{{"reason":"expired","body":"a","message_id":"{}"}}"#, "x".repeat(256));
        assert!(imported(Kind::TaskDelete, &long).unwrap_err().contains("255"));
    }

    #[test]
    fn what_a_producer_wrote_does_not_steer_the_terminal() {
        let dead_letter_with =
            DeadLetter { detail: "\u{1b}[2J\nx".to_owned(), ..DeadLetter::default() };
        let mut out = Vec::new();
        dead_letter(&mut out, &dead_letter_with, Timestamp::now()).unwrap();
        assert!(!String::from_utf8(out).unwrap().contains('\u{1b}'));
    }
}
