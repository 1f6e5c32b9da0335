//! Replay, discard and export: first a page that names the number, then the action with its
//! progress.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Redirect, Response};
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::Shared;
use super::access::Actor;
use super::action_page;
use super::actions::{Action, Asked, Ended};
use super::dead::grouped;
use super::fields::{ALL, Fields, PICKED};
use super::page::{page, refusal, wrong};
use super::parts::{dead_letters, groups};
use super::seen::seen;
use super::viewer::Viewer;
use crate::consent::Consent;
use crate::dead_letters::{ActionResult, Agreed, Bulk, Change, Selection, carry_out, export_line};
use crate::kind::Kind;
use crate::messages::DeadLetter;
use crate::messages::deaths::Deaths;

const USUAL_RATE: u32 = 20;
/// A preview that is older than this is made again.
const PREVIEW_VALID_FOR: SignedDuration = SignedDuration::from_hours(1);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Replay,
    Discard,
    Export,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Replay => "Replay",
            Self::Discard => "Discard",
            Self::Export => "Export",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Replay => "/replay",
            Self::Discard => "/discard",
            Self::Export => "/export",
        }
    }
}

pub(super) async fn preview_replay(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    preview(&viewer, &shared, &form, Verb::Replay)
}

pub(super) async fn preview_discard(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    preview(&viewer, &shared, &form, Verb::Discard)
}

pub(super) async fn preview_export(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    preview(&viewer, &shared, &form, Verb::Export)
}

/// Which dead letters a form selects.
fn meant(shared: &Shared, fields: &Fields) -> Result<(Kind, Selection), String> {
    let kind = fields.kind()?;
    if !shared.kinds().contains(&kind) {
        return Err("This console does not serve that kind: see KINDS.".to_owned());
    }
    Ok((kind, fields.meant()?))
}

fn preview(viewer: &Viewer, shared: &Shared, form: &str, verb: Verb) -> Response {
    let (fields, seen_at) = (Fields::read(form), Timestamp::now());
    let (kind, selection) = match meant(shared, &fields) {
        Ok(meant) => meant,
        Err(why) => return wrong(viewer, &why),
    };
    let found = grouped(shared, &[kind], &selection);
    let number: usize = found.groups.iter().map(|(_, group)| group.dead_letters).sum();
    if number == 0 {
        return wrong(viewer, "No dead letter matches any more.");
    }
    let title = format!("{} {}", verb.word(), dead_letters(number));
    let body = html! {
        p { "Of kind " code { (kind) } ", " (about(&fields)) ". Commands that fail after this page was made are left alone." }
        (groups(&found.groups, &fields))
        form.confirm method="post" action=(verb.path()) {
            @for (name, value) in fields.filter() { input type="hidden" name=(name) value=(value); }
            @if fields.get(ALL).is_some() { input type="hidden" name=(ALL) value="1"; }
            @else { @for id in fields.picked() { input type="hidden" name=(PICKED) value=(id); } }
            input type="hidden" name="letters" value=(number);
            input type="hidden" name="seen_at" value=(seen_at);
            (questions(verb))
            div.buttons {
                button.primary { (title) }
                a href={ "/dead?" (fields.query_with("page", "")) } { "Cancel" }
            }
        }
    };
    page(viewer, "/dead", &title, &body).into_response()
}

fn questions(verb: Verb) -> Markup {
    html! {
        @if verb != Verb::Export {
            div { label for="rate" { "How many a second at most" }
                input #rate name="rate" type="number" min="1" max="1000000" value=(USUAL_RATE) required; }
        }
        @match verb {
            Verb::Replay => p.dim { "They go back to the work queue; attempts and age start again." },
            Verb::Discard => {
                div { label for="why" { "Why they may go" } input #why name="why" required autocomplete="off"; }
                p.dim { "Each is written to the console's file first, and removed when that is on the disk." }
            },
            Verb::Export => p.dim { "As JSON, one a line, for " code { "dead import" } "; all stay. Those that could not be read whole (too large, say) are left out: " code { "dead export" } " has them." },
        }
    }
}

/// Which ones, in words.
fn about(fields: &Fields) -> String {
    let filter = fields.filter().into_iter().filter(|(name, _)| *name != "kind");
    let filter = filter.map(|(name, value)| format!("{} {value}", name.replace('_', " ")));
    let filter = filter.collect::<Vec<_>>().join(", ");
    match (fields.get(ALL).is_some(), filter.is_empty()) {
        (true, true) => "all of them".to_owned(),
        (true, false) => format!("all with {filter}"),
        (false, _) => "those that were picked".to_owned(),
    }
}

pub(super) async fn replay(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let change = |_: &Fields| Ok(Change::Replay);
    begin(&viewer, &shared, &form, (Verb::Replay, change))
}

pub(super) async fn discard(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let file = shared.settings.discarded.clone();
    let change = |fields: &Fields| {
        let file = file.ok_or("No file is named for discarded dead letters: CONSOLE_DISCARDED.")?;
        Ok(Change::Discard(file, fields.required("why", "The reason")?))
    };
    begin(&viewer, &shared, &form, (Verb::Discard, change))
}

/// What the user agreed to on the previous page.
fn agreed(
    shared: &Shared,
    fields: &Fields,
    change: impl FnOnce(&Fields) -> Result<Change, String>,
) -> Result<Agreed, String> {
    let (kind, selection) = meant(shared, fields)?;
    let number = fields.get("letters").and_then(|number| number.parse().ok());
    let now = Timestamp::now();
    let is_fresh = |at: &Timestamp| *at <= now && now.duration_since(*at) <= PREVIEW_VALID_FOR;
    let seen_at = fields.time("seen_at").filter(is_fresh);
    match (number, seen_at) {
        (Some(dead_letters), Some(seen_at)) => {
            let change = change(fields)?;
            let all = seen(shared, kind).dead_letters;
            let is_meant = |dead_letter: &&DeadLetter| selection.takes(dead_letter, seen_at);
            let seen =
                Deaths::of(all.iter().map(|(_, dead_letter)| &**dead_letter).filter(is_meant));
            Ok(Agreed { kind, selection, dead_letters, seen_at, seen, change })
        }
        _ => Err("That page is too old: go back, and look again.".to_owned()),
    }
}

fn begin(
    viewer: &Viewer,
    shared: &Arc<Shared>,
    form: &str,
    (verb, change): (Verb, impl FnOnce(&Fields) -> Result<Change, String>),
) -> Response {
    let fields = Fields::read(form);
    let rate = fields.number("rate", "The rate");
    let (agreed, rate) = match agreed(shared, &fields, change).and_then(|it| Ok((it, rate?))) {
        Ok(agreed) => agreed,
        Err(why) => return wrong(viewer, &why),
    };
    let by = viewer.by.clone();
    let asked = Asked {
        by: by.clone(),
        what: format!("{} {} of {}", verb.word(), dead_letters(agreed.dead_letters), agreed.kind),
        about: about(&fields),
        queue: Some(agreed.kind.dead_letter_queue()),
        number: Some(agreed.dead_letters),
        rate,
    };
    let bulk = Bulk { limit: Some(agreed.dead_letters), rate, consent: Consent::Given, by };
    let work_with = Arc::clone(shared);
    let started = shared.actions.start(asked, async move |action: Arc<Action>| {
        // Its dead letters will be gone.
        work_with.looks.last().remove(&agreed.kind);
        let (stop, progress) = (action.stop.clone(), action.progress.clone());
        match carry_out(&agreed, &bulk, work_with.broker(), stop, progress).await {
            Ok(ActionResult::Completed) => Ended::Done,
            Ok(ActionResult::Interrupted) => Ended::Interrupted,
            Err(error) => Ended::Failed(error.to_string()),
        }
    });
    action_page::begun(viewer, started)
}

/// Everything that matches, as the console sees it; nothing changes.
pub(super) async fn export(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    form: String,
) -> Response {
    let fields = Fields::read(&form);
    let (kind, selection) = match meant(&shared, &fields) {
        Ok(meant) => meant,
        Err(why) => return wrong(&viewer, &why),
    };
    let now = fields.time("seen_at").unwrap_or_else(Timestamp::now);
    let found = seen(&shared, kind).dead_letters.into_iter().rev();
    // A dead letter that the mirror has only in part would be imported without the rest.
    let is_whole = |dead_letter: &DeadLetter| dead_letter.fault.is_none();
    let is_later = |dead_letter: &DeadLetter| dead_letter.failed_at.is_some_and(|at| at > now);
    let is_meant = |dead_letter: &DeadLetter| {
        selection.takes(dead_letter, now) && is_whole(dead_letter) && !is_later(dead_letter)
    };
    let selected: Vec<_> = found.filter(|(_, dead_letter)| is_meant(dead_letter)).collect();
    let lines =
        selected.into_iter().map(|(_, dead_letter)| Ok::<_, String>(export_line(&dead_letter)));
    let name = format!("attachment; filename=\"{kind}.dead.jsonl\"");
    let head = [(CONTENT_TYPE, "application/x-ndjson".to_owned()), (CONTENT_DISPOSITION, name)];
    (head, Body::from_stream(stream::iter(lines))).into_response()
}

pub(super) async fn list(viewer: Viewer, State(shared): State<Arc<Shared>>) -> Markup {
    let all = shared.actions.all();
    let body = html! {
        p { "Actions of this console since it started. The overview has the last ten of everyone." }
        (action_page::table(&all))
    };
    page(&viewer, "/actions", "Actions", &body)
}

pub(super) async fn show(
    viewer: Viewer,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<u64>,
) -> Response {
    match shared.actions.get(id) {
        Some(action) => action_page::show(&viewer, &action).into_response(),
        None => unknown(&viewer),
    }
}

pub(super) async fn cancel(
    Actor(viewer): Actor,
    State(shared): State<Arc<Shared>>,
    Path(id): Path<u64>,
) -> Response {
    let Some(action) = shared.actions.get(id) else { return unknown(&viewer) };
    tracing::info!(by = viewer.by, what = action.what, "console: cancelled");
    action.stop.cancel();
    Redirect::to(&format!("/actions/{id}")).into_response()
}

fn unknown(viewer: &Viewer) -> Response {
    let why =
        "There is no such action. A restart of the console clears the list; the audit events stay.";
    refusal(viewer, StatusCode::NOT_FOUND, why)
}
