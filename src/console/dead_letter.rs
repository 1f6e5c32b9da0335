//! One dead letter: what it is about, its history, headers and body.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::Shared;
use super::fields::{Fields, PICKED};
use super::page::{page, refusal, wrong};
use super::parts::{exact, said};
use super::seen::seen;
use super::viewer::{Rights, Viewer};
use crate::messages::{DeadLetter, HeaderValue};

/// How much of a body is shown.
const MOST: usize = 64 * 1024;

pub(super) async fn show(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let fields = Fields::read(&query.unwrap_or_default());
    let kind = match fields.kind() {
        Ok(kind) => kind,
        Err(why) => return wrong(&viewer, &why),
    };
    let at = fields.get("at").unwrap_or_default();
    let found = seen(&shared, kind).dead_letters.into_iter().find(|(name, _)| name == at);
    let Some((_, dead_letter)) = found else {
        let why = "That dead letter is no longer there: it was replayed or discarded, or the last look did not see it.";
        return refusal(&viewer, StatusCode::NOT_FOUND, why);
    };
    let title = dead_letter
        .object_id()
        .map_or_else(|| "A dead letter".to_owned(), |id| format!("Dead letter of {id}"));
    let body = html! {
        p { a href={ "/dead?kind=" (kind) } { "All dead letters of " (kind) } }
        (facts(&dead_letter))
        section aria-labelledby="history" { h2 #history { "History" } (history(&dead_letter)) }
        section aria-labelledby="headers" { h2 #headers { "Headers" } (headers(&dead_letter)) }
        section aria-labelledby="body" { h2 #body { "Body" } (body(&dead_letter)) }
        (buttons(&viewer, &shared, &dead_letter))
    };
    page(&viewer, "/dead", &title, &body).into_response()
}

fn facts(dead_letter: &DeadLetter) -> Markup {
    let ids = dead_letter.event_ids();
    let properties = &dead_letter.properties;
    let trace = properties.traceparent.as_deref().and_then(trace_id);
    let rows = [
        ("Reason", Some(dead_letter.reason.clone())),
        ("Detail", Some(dead_letter.detail.clone())),
        ("Kind", Some(dead_letter.kind.to_string())),
        ("Organisation", dead_letter.org_id()),
        ("Object", dead_letter.object_id()),
        ("Command id", properties.message_id.clone()),
        ("Correlation id", properties.correlation_id.clone()),
        ("Published by", properties.published_by.clone()),
        ("Attempts", Some(dead_letter.retry_state.attempts.to_string())),
        ("Last status", dead_letter.retry_state.last_status.map(|status| status.to_string())),
        ("Trace id", trace.map(str::to_owned)),
        ("Failure event", Some(ids.failure)),
        ("Superseded by", Some(format!("{}, if there is such an event", ids.success))),
        ("Unreadable", dead_letter.fault.clone()),
    ];
    html! {
        @if dead_letter.may_be_done() {
            p.notice { "It may have succeeded: an answer was lost, or it was delivered more than once." }
        }
        dl.facts {
            @for (name, text) in &rows {
                @if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) { dt { (name) } dd { (said(text)) } }
            }
        }
    }
}

/// What happened to the command, in order.
fn history(dead_letter: &DeadLetter) -> Markup {
    let died = format!("died of {}: {}", dead_letter.reason, dead_letter.detail);
    html! {
        ol.history {
            @if let Some(first) = dead_letter.retry_state.first_seen { li { (exact(Some(first))) " " span { "first delivered to a worker" } } }
            @for event in dead_letter.retry_state.history.as_deref().into_iter().flat_map(events) { li { (said(event)) } }
            li.bad { (exact(dead_letter.failed_at)) " " (said(&died)) }
        }
    }
}

/// The events of an `x-history`. A detail may contain semicolons.
fn events(history: &str) -> Vec<&str> {
    let begins = |at: usize| {
        let rest = &history[at..];
        rest.starts_with("; died ") || rest.starts_with("; replayed ")
    };
    let mut events = Vec::new();
    let mut from = 0;
    for (at, _) in history.match_indices("; ").filter(|(at, _)| begins(*at)) {
        events.push(&history[from..at]);
        from = at + 2;
    }
    events.push(&history[from..]);
    events
}

/// The second part of a `traceparent`.
fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The headers that a copy would have.
fn headers(dead_letter: &DeadLetter) -> Markup {
    let copy = dead_letter.again();
    let text = |value: &HeaderValue| match value {
        HeaderValue::Text(text) => text.clone(),
        HeaderValue::Number(number) => number.to_string(),
        HeaderValue::Flag(flag) => flag.to_string(),
    };
    let properties = [
        ("message_id", &copy.message_id),
        ("correlation_id", &copy.correlation_id),
        ("content_type", &copy.content_type),
    ];
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of headers" { table {
            caption { "Properties and headers" }
            thead { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
            tbody {
                @for (name, value) in properties {
                    @if let Some(value) = value { tr { th scope="row" { code { (name) } } td.detail { (said(value)) } } }
                }
                @for (name, value) in &copy.headers { tr { th scope="row" { code { (name) } } td.detail { (said(&text(value))) } } }
            }
        } }
    }
}

fn body(dead_letter: &DeadLetter) -> Markup {
    let shown = &dead_letter.body[..dead_letter.body.len().min(MOST)];
    let text = String::from_utf8_lossy(shown);
    let is_text = str::from_utf8(&dead_letter.body).is_ok();
    let text: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    html! {
        p.dim {
            (dead_letter.body.len()) " bytes"
            @if !is_text { ", which are not UTF-8: invalid parts are shown as \u{fffd}. An export has every byte." }
            @if dead_letter.body.len() > MOST { ", of which the first " (MOST) " are shown." }
        }
        pre tabindex="0" role="region" aria-label="Text of the body" { (text) }
    }
}

fn buttons(viewer: &Viewer, shared: &Shared, dead_letter: &DeadLetter) -> Markup {
    html! {
        form.buttons method="post" {
            input type="hidden" name="kind" value=(dead_letter.kind);
            input type="hidden" name=(PICKED) value=(dead_letter.failure_event());
            @if viewer.rights == Rights::Act {
                button formaction="/preview/replay" { "Replay…" }
                @if shared.settings.discarded.is_some() { button formaction="/preview/discard" { "Discard…" } }
            }
            button formaction="/preview/export" { "Export…" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_told_event_by_event() {
        let history = "died 2026-11-23T10:00:00Z of rejected: HTTP 422; a; b; replayed 2026-11-23T11:00:00Z by ann; died 2026-11-23T12:00:00Z of forbidden: HTTP 403";
        let events = events(history);
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(events[0].ends_with("; a; b") && events[1].ends_with("by ann"));
    }

    #[test]
    fn a_trace_id_is_shown_only_if_it_is_one() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&format!("00-{id}-b7ad6b7169203331-01")), Some(id));
        assert_eq!(trace_id("00-<script>-x-01"), None);
        assert_eq!(trace_id(""), None);
    }
}
