//! One action and its progress, and the table of all.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::actions::{Action, Ended};
use super::page::{page, refusal};
use super::parts::{count, moment, said};
use super::viewer::{Rights, Viewer};

/// Redirects to the page of the action that has begun, or says which other one is running.
pub(super) fn begun(viewer: &Viewer, started: Result<u64, Arc<Action>>) -> Response {
    match started {
        Ok(id) => Redirect::to(&format!("/actions/{id}")).into_response(),
        Err(other) => {
            let why = format!(
                "Another action is at work there: {} by {}. Wait until it has ended, or cancel it (action {}).",
                other.what, other.by, other.id
            );
            refusal(viewer, StatusCode::CONFLICT, &why)
        }
    }
}

/// # Progress survives a reload
///
/// The action runs on its own; each request shows its current progress. The page's script refreshes
/// it each second; without script the browser does.
pub(super) fn show(viewer: &Viewer, action: &Action) -> Markup {
    let is_running = action.ended().is_none();
    let body = html! {
        @if is_running { noscript { meta http-equiv="refresh" content="2"; } }
        dl.facts {
            dt { "Which" } dd { (said(&action.about)) }
            dt { "By" } dd { (said(&action.by)) }
            dt { "Begun" } dd { (moment(Some(action.began))) }
            @if let Some(rate) = action.rate { dt { "At most" } dd { (rate) " a second" } }
        }
        div #progress data-running=[is_running.then_some("")] aria-live="polite" { (progress(action)) }
        @if is_running && viewer.rights == Rights::Act {
            form #cancel method="post" action={ "/actions/" (action.id) "/cancel" } { button { "Cancel" } }
        }
        p { a href="/actions" { "All actions" } " · " a href="/dead" { "Dead letters" } }
    };
    page(viewer, "/actions", &action.what, &body)
}

fn progress(action: &Action) -> Markup {
    let done = action.progress.done();
    html! {
        @if let Some(number) = action.number {
            p { label for="bar" { (count(done)) " of " (count(number)) " done" } }
            progress #bar max=(number) value=(done) { (done) "/" (number) }
        }
        p { strong { (state(action)) } @if let Some((at, _)) = action.ended() { " " (moment(Some(at))) } }
        @if let Some((_, Ended::Failed(why))) = action.ended() { p.notice.bad role="alert" { (said(&why)) } }
        @if let (Some(number), Some((_, Ended::Done))) = (action.number, action.ended()) && done < number {
            p.notice { "Not all that were announced were there any more: others have them, or they have failed again since." }
        }
    }
}

fn state(action: &Action) -> &'static str {
    match action.ended() {
        None if action.stop.is_cancelled() => {
            "Cancelled: it ends after the one that it is busy with."
        }
        None => "At work.",
        Some((_, Ended::Done)) => "Done.",
        Some((_, Ended::Interrupted)) => "Cancelled. What was not done is as it was.",
        Some((_, Ended::Failed(_))) => "Failed. What was not done is as it was.",
    }
}

/// All actions, the latest first.
pub(super) fn table(actions: &[Arc<Action>]) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of actions" { table {
            caption { "The latest first" }
            thead { tr { th scope="col" { "What" } th scope="col" { "Who" } th scope="col" { "Begun" } th.number scope="col" { "Done" } th scope="col" { "State" } } }
            tbody {
                @for action in actions { tr {
                    th scope="row" { a href={ "/actions/" (action.id) } { (said(&action.what)) } }
                    td { (said(&action.by)) }
                    td { (moment(Some(action.began))) }
                    td.number { @match action.number { Some(number) => { (count(action.progress.done())) " of " (count(number)) }, None => span.dim { "–" } } }
                    td { (state(action)) }
                } }
                @if actions.is_empty() { tr { td colspan="5" { "None yet." } } }
            }
        } }
    }
}
