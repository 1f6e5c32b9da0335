//! The start page: is anything wrong, and what was done lately.

use std::sync::Arc;

use axum::extract::State;
use jiff::Timestamp;
use maud::{Markup, html};

use super::Shared;
use super::dead::grouped;
use super::depths::{Depths, depth, depths};
use super::fields::Fields;
use super::lately::last;
use super::page::page;
use super::parts::{count, exact, groups, how, moment, said, said_or_dash, trouble};
use super::viewer::Viewer;
use super::watch::Following;
use crate::dead_letters::Selection;
use crate::kind::Kind;
use crate::messages::ledger::OrganisationState;
use crate::messages::names::UNROUTED_EVENTS;
use crate::policy::brakes::Pause;
use crate::policy::workers::Seen;

pub(super) async fn show(viewer: Viewer, State(shared): State<Arc<Shared>>) -> Markup {
    let depths = depths(&shared).await;
    let nothing = Fields::default();
    let found = grouped(&shared, shared.kinds(), &Selection::default());
    let body = html! {
        (trouble(shared.watched.connection().err().as_ref()))
        section aria-labelledby="brakes" { h2 #brakes { "Guard and pauses" } (brakes(&shared)) }
        section aria-labelledby="workers" { h2 #workers { "Workers" } (workers(&shared)) }
        section aria-labelledby="queues" { h2 #queues { "Queues" } (queues(&shared, &depths)) }
        section aria-labelledby="dead" {
            h2 #dead { "Dead letters" }
            @for (kind, seen) in &found.seen { (how(*kind, &seen.how, seen.dead_letters.len(), depth(&depths, &kind.dead_letter_queue()), "/")) }
            (groups(&found.groups, &nothing))
        }
        section aria-labelledby="last" { h2 #last { "The last ten actions" } (last(&shared)) }
    };
    page(&viewer, "/", "Overview", &body)
}

fn brakes(shared: &Shared) -> Markup {
    let ledger = shared.watched.ledger();
    let brakes = &ledger.state.brakes;
    let mut trips: Vec<_> = brakes.tripped().collect();
    trips.sort_by_key(|(scope, _)| *scope);
    let mut paused: Vec<_> = brakes.paused_organisations().collect();
    paused.sort_by_key(|(org, _)| *org);
    html! {
        @match &ledger.following {
            Following::Absent(why) => p.notice.bad role="status" { "The ledger cannot be read, so neither guard nor pauses are known: " (why) },
            Following::Reading => p.notice role="status" { "The ledger is still being read." },
            Following::Live => {},
        }
        ul.state {
            @if let Some(pause) = brakes.paused_all() { li.bad { strong { "All deletions are paused" } (paused_since(pause)) } }
            @for (org, pause) in &paused { li.bad { strong { "Organisation " (org) " is paused" } (paused_since(pause)) } }
            @for (scope, trip) in &trips {
                li.bad { strong { "The guard holds " code { (scope.kind) } " of organisation " (scope.org_id) } " since " (moment(Some(trip.since)))
                    ": more than " (count(trip.limit.max_deletes as usize)) " in " (trip.limit.window_s) " s" }
            }
            @if brakes.paused_all().is_none() && paused.is_empty() { li.good { "Nothing is paused." } }
            @if trips.is_empty() { li.good { "No guard has tripped." } }
        }
        p { a href="/guard" { "Guard and pauses" } }
    }
}

fn paused_since(pause: &Pause) -> Markup {
    html! { " since " (moment(Some(pause.since))) " by " (said(&pause.decision.by))
    @if let Some(why) = &pause.decision.reason { ": " (said(why)) } }
}

/// As they wrote of themselves to the ledger.
fn workers(shared: &Shared) -> Markup {
    let ledger = shared.watched.ledger();
    let workers = ledger.state.brakes.workers().alive(Timestamp::now());
    html! {
        @if workers.is_empty() { p.notice { "No worker has written to the ledger in the last five minutes." } }
        @for (name, Seen { at, state }) in &workers {
            h3 { (said(&state.host)) " " span.dim { (said(name)) ", version " (said(&state.version)) ", seen " (exact(Some(*at))) } }
            ul.state {
                @if state.not_ready.is_empty() { li.good { "It is ready." } }
                @for why in &state.not_ready { li.bad { strong { "Not ready: " } (said(why)) } }
                @if state.dry_run { li { "A dry run: nothing is deleted." } }
                @match &state.breaker_open_since {
                    None => li.good { "The breaker is closed." },
                    Some(since) => li.bad { "The breaker is open since " (moment(since.parse().ok())) "." },
                }
            }
            (organisations(&state.organisations))
        }
    }
}

fn organisations(organisations: &[OrganisationState]) -> Markup {
    html! {
        @if !organisations.is_empty() {
            div.wide tabindex="0" role="region" aria-label="Table of organisations" { table {
                caption { "Organisations that this worker does not call as usual; ten at most" }
                thead { tr { th scope="col" { "Organisation" } th scope="col" { "State" } th scope="col" { "Reason" } th scope="col" { "Since" }
                    th.number scope="col" { "Waiting" } } }
                tbody { @for one in organisations { tr {
                    th scope="row" { (said(&one.org_id)) }
                    td.bad[one.state == "suspended"] { (said(&one.state)) }
                    td { (said_or_dash(one.reason.as_deref())) }
                    td { (moment(one.since.as_deref().and_then(|since| since.parse().ok()))) }
                    td.number { (one.waiting) }
                } } }
            } }
        }
    }
}

fn queues(shared: &Shared, depths: &Depths) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of queues" { table {
            caption { "Ready messages; the waiting ones are in the delay queues. RabbitMQ does not report the age of the oldest message: for waiting commands the workers tell it, for dead letters and held commands it is known from the mirror and the ledger." }
            thead { tr { th scope="col" { "Kind" } th.number scope="col" { "To do" } th.number scope="col" { "Consumers" } th.number scope="col" { "Waiting" }
                th scope="col" { "Waiting since" } th.number scope="col" { "Undeliverable" } th.number scope="col" { "Held" } th scope="col" { "Held since" } th.number scope="col" { "Dead" } th scope="col" { "Oldest dead" } } }
            tbody { @for kind in shared.kinds() { (queues_of(shared, *kind, depths)) } }
        } }
        @if let Some(number) = depth(depths, UNROUTED_EVENTS) && number > 0 {
            p.notice { (count(number as usize)) @if number == 1 { " event" } @else { " events" } " went to no queue: see " code { (UNROUTED_EVENTS) } "." }
        }
    }
}

fn queues_of(shared: &Shared, kind: Kind, depths: &Depths) -> Markup {
    let ready = |queue: &str| html! { @match depth(depths, queue) { Some(number) => (count(number as usize)), None => span.dim { "–" } } };
    let delays = shared.settings.topology.delays.iter().map(|(delay, _)| kind.delay_queue(delay));
    let waiting: Option<u32> = delays.map(|queue| depth(depths, &queue)).sum();
    let consumers = depths.get(kind.queue()).copied().flatten().map(|depth| depth.consumers);
    let (held_since, waiting_since) = {
        let ledger = shared.watched.ledger();
        let brakes = &ledger.state.brakes;
        let trips = brakes.tripped().filter(|(scope, _)| scope.kind == kind);
        let workers = brakes.workers().alive(Timestamp::now()).into_iter();
        let oldest = workers.filter_map(|(_, seen)| seen.state.oldest.get(kind.as_str()));
        (trips.map(|(_, trip)| trip.since).min(), oldest.filter_map(|at| at.parse().ok()).min())
    };
    let oldest = shared.watched.mirror(kind).and_then(|mirror| {
        mirror.state.dead_letters().filter_map(|(_, dead_letter)| dead_letter.failed_at).min()
    });
    let time = |time: Option<Timestamp>| html! { @if time.is_some() { (moment(time)) } @else { span.dim { "–" } } };
    html! { tr {
        th scope="row" { code { (kind) } }
        td.number { (ready(kind.queue())) }
        td.number { @match consumers { Some(number) => (number), None => span.dim { "–" } } }
        td.number { @match waiting { Some(number) => (count(number as usize)), None => span.dim { "–" } } }
        td { (time(waiting_since)) }
        td.number { (ready(&kind.undeliverable_queue())) }
        td.number { (ready(&kind.held_queue())) } td { (time(held_since)) }
        td.number { (ready(&kind.dead_letter_queue())) } td { (time(oldest)) }
    } }
}
