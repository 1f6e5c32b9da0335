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

/// What is shown of a body.
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
    let found = seen(&shared, kind).await.letters.into_iter().find(|(name, _)| name == at);
    let Some((_, letter)) = found else {
        let why = "That dead letter is no longer there: it was replayed or discarded, or the last look did not see it.";
        return refusal(&viewer, StatusCode::NOT_FOUND, why);
    };
    let title = letter
        .object_id()
        .map_or_else(|| "A dead letter".to_owned(), |id| format!("Dead letter of {id}"));
    let body = html! {
        p { a href={ "/dead?kind=" (kind) } { "All dead letters of " (kind) } }
        (facts(&letter))
        section aria-labelledby="history" { h2 #history { "History" } (history(&letter)) }
        section aria-labelledby="headers" { h2 #headers { "Headers" } (headers(&letter)) }
        section aria-labelledby="body" { h2 #body { "Body" } (body(&letter)) }
        (buttons(&viewer, &shared, &letter))
    };
    page(&viewer, "/dead", &title, &body).into_response()
}

fn facts(letter: &DeadLetter) -> Markup {
    let ids = letter.event_ids();
    let properties = &letter.properties;
    let trace = properties.traceparent.as_deref().and_then(trace_id);
    let rows = [
        ("Reason", Some(letter.reason.clone())),
        ("Detail", Some(letter.detail.clone())),
        ("Kind", Some(letter.kind.to_string())),
        ("Organisation", letter.org_id()),
        ("Object", letter.object_id()),
        ("Command id", properties.message_id.clone()),
        ("Correlation id", properties.correlation_id.clone()),
        ("Published by", properties.published_by.clone()),
        ("Attempts", Some(letter.retry_state.attempts.to_string())),
        ("Last status", letter.retry_state.last_status.map(|status| status.to_string())),
        ("Trace id", trace.map(str::to_owned)),
        ("Failure event", Some(ids.failure)),
        ("Superseded by", Some(format!("{}, if there is such an event", ids.success))),
        ("Unreadable", letter.fault.clone()),
    ];
    html! {
        @if letter.may_be_done() {
            p.notice { "It may have succeeded: an answer was lost, or it was delivered more than once." }
        }
        dl.facts {
            @for (name, text) in &rows {
                @if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) { dt { (name) } dd { (said(text)) } }
            }
        }
    }
}

/// What became of the command, the first first.
fn history(letter: &DeadLetter) -> Markup {
    let died = format!("died of {}: {}", letter.reason, letter.detail);
    html! {
        ol.history {
            @if let Some(first) = letter.retry_state.first_seen { li { (exact(Some(first))) " " span { "first delivered to a worker" } } }
            @for event in letter.retry_state.history.as_deref().into_iter().flat_map(events) { li { (said(event)) } }
            li.bad { (exact(letter.failed_at)) " " (said(&died)) }
        }
    }
}

/// The events of an `x-history`. A detail may have semicolons of its own.
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

/// As a copy of it would have them.
fn headers(letter: &DeadLetter) -> Markup {
    let copy = letter.again();
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

fn body(letter: &DeadLetter) -> Markup {
    let shown = &letter.body[..letter.body.len().min(MOST)];
    let text = String::from_utf8_lossy(shown);
    let is_text = str::from_utf8(&letter.body).is_ok();
    let text: String = text
        .chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    html! {
        p.dim {
            (letter.body.len()) " bytes"
            @if !is_text { ", which are no UTF-8: what is none is shown as \u{fffd}. An export has every byte." }
            @if letter.body.len() > MOST { ", of which the first " (MOST) " are shown." }
        }
        pre tabindex="0" role="region" aria-label="Text of the body" { (text) }
    }
}

fn buttons(viewer: &Viewer, shared: &Shared, letter: &DeadLetter) -> Markup {
    html! {
        form.buttons method="post" {
            input type="hidden" name="kind" value=(letter.kind);
            input type="hidden" name=(PICKED) value=(letter.failure_event());
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
