//! The dead letters: groups, and the dead letters of a group with their actions.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Redirect, Response};
use jiff::Timestamp;
use maud::{Markup, html};

use super::Shared;
use super::depths::{depth, depths};
use super::fields::{ALL, Fields, PICKED};
use super::page::{page, refusal, wrong};
use super::parts::{count, dead_letters, filter, groups, how, moment, said, said_or_dash, trouble};
use super::seen::{Seen, look_again, seen};
use super::viewer::{Rights, Viewer};
use crate::dead_letters::{Group, Groups, Selection};
use crate::kind::Kind;
use crate::messages::DeadLetter;

/// Dead letters of one page.
const A_PAGE: usize = 100;

/// What was found of each kind.
pub(super) struct Found {
    pub(super) seen: Vec<(Kind, Seen)>,
    pub(super) groups: Vec<(Kind, Group)>,
}

/// The selected dead letters in groups.
pub(super) fn grouped(shared: &Shared, kinds: &[Kind], selection: &Selection) -> Found {
    let now = Timestamp::now();
    let mut found = Found { seen: Vec::new(), groups: Vec::new() };
    for kind in kinds {
        let seen = seen(shared, *kind);
        let mut groups = Groups::default();
        // The oldest first, so that each group shows the detail of the latest.
        let selected = seen
            .dead_letters
            .iter()
            .rev()
            .filter(|(_, dead_letter)| selection.takes(dead_letter, now));
        selected.for_each(|(_, dead_letter)| groups.add(dead_letter));
        found.groups.extend(groups.all().into_iter().map(|group| (*kind, group)));
        found.seen.push((*kind, seen));
    }
    found
}

pub(super) async fn show(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Response {
    let fields = Fields::read(&query.unwrap_or_default());
    let selection = match fields.selection() {
        Ok(selection) => selection,
        Err(why) => return wrong(&viewer, &why),
    };
    let one = match fields.get("kind").map(|_| fields.kind()) {
        None => None,
        Some(Ok(kind)) if shared.kinds().contains(&kind) => Some(kind),
        Some(_) => return wrong(&viewer, "This console does not serve that kind: see KINDS."),
    };
    let kinds = one.map_or_else(|| shared.kinds().to_vec(), |kind| vec![kind]);
    let depths = depths(&shared).await;
    let found = grouped(&shared, &kinds, &selection);
    let back = format!("/dead?{}", fields.query_with("page", ""));
    let body = html! {
        (trouble(shared.watched.connection().err().as_ref()))
        (filter(&fields, shared.kinds()))
        @for (kind, seen) in &found.seen { (how(*kind, &seen.how, seen.dead_letters.len(), depth(&depths, &kind.dead_letter_queue()), &back)) }
        (groups(&found.groups, &fields))
        @if let (Some(kind), [(_, seen)]) = (one, &found.seen[..]) {
            (list(&viewer, &shared, kind, seen, &fields, &selection))
        } @else if !found.groups.is_empty() {
            p { "Choose a group, or one kind, to see its dead letters." }
        }
    };
    page(&viewer, "/dead", "Dead letters", &body).into_response()
}

pub(super) async fn look(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let kind = match fields.kind() {
        Ok(kind) if shared.kinds().contains(&kind) => kind,
        _ => return wrong(&viewer, "Choose one kind."),
    };
    if let Err(error) = look_again(&shared, kind).await {
        return refusal(&viewer, axum::http::StatusCode::BAD_GATEWAY, &error);
    }
    // Only to one of our own pages.
    let back = fields.get("back").filter(|back| back.starts_with("/dead?")).unwrap_or("/");
    Redirect::to(back).into_response()
}

fn list(
    viewer: &Viewer,
    shared: &Shared,
    kind: Kind,
    seen: &Seen,
    fields: &Fields,
    selection: &Selection,
) -> Markup {
    let now = Timestamp::now();
    let all = seen.dead_letters.iter().filter(|(_, dead_letter)| selection.takes(dead_letter, now));
    let all: Vec<_> = all.collect();
    let pages = all.len().div_ceil(A_PAGE).max(1);
    let at = fields.get("page").and_then(|page| page.parse::<usize>().ok()).unwrap_or(1);
    let at = at.clamp(1, pages);
    let shown = all.iter().skip((at - 1) * A_PAGE).take(A_PAGE);
    html! {
        section aria-labelledby="letters" {
            h2 #letters { (dead_letters(all.len())) " of " code { (kind) } }
            @if !all.is_empty() {
                form method="post" {
                    @for (name, value) in fields.filter() { input type="hidden" name=(name) value=(value); }
                    div.wide tabindex="0" role="region" aria-label="Table of dead letters" { table.letters {
                        caption { "The latest first" @if pages > 1 { "; page " (at) " of " (pages) } }
                        thead { tr {
                            th scope="col" { span.hidden { "Pick" } }
                            th scope="col" { "Died" } th scope="col" { "Object" } th scope="col" { "Organisation" } th scope="col" { "Reason" } th scope="col" { "Detail" }
                        } }
                        tbody { @for (name, dead_letter) in shown { (row(kind, name, dead_letter)) } }
                    } }
                    (pager(fields, at, pages))
                    (buttons(viewer, shared, all.len()))
                }
            }
        }
    }
}

fn row(kind: Kind, name: &str, dead_letter: &DeadLetter) -> Markup {
    let id = dead_letter.object_id();
    let label = id.clone().unwrap_or_else(|| "without an id".to_owned());
    html! {
        tr {
            td { input type="checkbox" name=(PICKED) value=(dead_letter.failure_event()) aria-label={ "Pick " (label) }; }
            td { (moment(dead_letter.failed_at)) }
            th scope="row" { a href={ "/letter?kind=" (kind) "&at=" (name) } { @match &id { Some(id) => (said(id)), None => "(no id)" } } }
            td { (said_or_dash(dead_letter.org_id().as_deref())) }
            td { (said(&dead_letter.reason)) @if dead_letter.may_be_done() { " " span.tag { "may have succeeded" } } }
            td.detail { (said(&dead_letter.detail)) }
        }
    }
}

fn pager(fields: &Fields, at: usize, pages: usize) -> Markup {
    let to =
        |page: usize| format!("/dead?{}#letters", fields.query_with("page", &page.to_string()));
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages of dead letters" {
                @if at > 1 { a href=(to(at - 1)) rel="prev" { "Later" } }
                span { "Page " (at) " of " (pages) }
                @if at < pages { a href=(to(at + 1)) rel="next" { "Earlier" } }
            }
        }
    }
}

/// Each button leads to a page that names the number first.
fn buttons(viewer: &Viewer, shared: &Shared, all: usize) -> Markup {
    let may_discard = shared.settings.discarded.is_some();
    let three = |of: &str, is_all: bool| {
        html! {
            div.buttons role="group" aria-label=(of) {
                span { (of) }
                @if viewer.rights == Rights::Act {
                    button formaction="/preview/replay" name=[is_all.then_some(ALL)] value="1" { "Replay…" }
                    @if may_discard { button formaction="/preview/discard" name=[is_all.then_some(ALL)] value="1" { "Discard…" } }
                }
                button formaction="/preview/export" name=[is_all.then_some(ALL)] value="1" { "Export…" }
            }
        }
    };
    html! {
        (three("The picked ones:", false))
        (three(&format!("All {} that match the filter:", count(all)), true))
        @if viewer.rights == Rights::Act && !may_discard {
            p.dim { "None can be discarded here, because no file is named for them (" code { "CONSOLE_DISCARDED" } ")." }
        }
    }
}
