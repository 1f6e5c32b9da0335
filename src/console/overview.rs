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
use super::parts::{count, groups, how, moment, said, said_or_dash, trouble};
use super::viewer::Viewer;
use super::watch::Following;
use super::workers::{Organisation, Worker};
use crate::dead_letters::Selection;
use crate::kind::Kind;
use crate::messages::names::UNROUTED_EVENTS;
use crate::policy::brakes::Pause;

pub(super) async fn show(viewer: Viewer, State(shared): State<Arc<Shared>>) -> Markup {
    let (depths, workers) = tokio::join!(depths(&shared), shared.workers.ask());
    let nothing = Fields::default();
    let found = grouped(&shared, shared.kinds(), &Selection::default()).await;
    let body = html! {
        (trouble(shared.watched.connection().err().as_ref()))
        section aria-labelledby="brakes" { h2 #brakes { "Guard and pauses" } (brakes(&shared)) }
        section aria-labelledby="workers" { h2 #workers { "Workers" } (workers_seen(&workers)) }
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

fn workers_seen(workers: &[Worker]) -> Markup {
    html! {
        @if workers.is_empty() {
            p.notice { "The state of the breaker and of the organisations is not known here: " code { "CONSOLE_WORKERS" } " names no worker." }
        }
        @for worker in workers {
            h3 { (worker.name) }
            ul.state {
                @match &worker.not_ready {
                    None => li.good { "It is ready." },
                    Some(why) => li.bad { strong { "Not ready: " } (said(why)) },
                }
                @match &worker.status {
                    Ok(status) => {
                        @if status.dry_run { li { "A dry run: nothing is deleted." } }
                        li.good[status.breaker.state == "closed"].bad[status.breaker.state != "closed"] {
                            "The breaker is " (said(&status.breaker.state))
                            @if let Some(since) = &status.breaker.open_since { " since " (said(since)) } "."
                        }
                    },
                    Err(why) => li { "Breaker and organisations are not known: " (said(why)) },
                }
            }
            @if let Ok(status) = &worker.status { (organisations(&status.organisations)) }
        }
    }
}

fn organisations(organisations: &[Organisation]) -> Markup {
    html! {
        @if !organisations.is_empty() {
            div.wide tabindex="0" role="region" aria-label="Table of organisations" { table {
                caption { "Organisations, as this worker sees them" }
                thead { tr { th scope="col" { "Organisation" } th scope="col" { "State" } th scope="col" { "Reason" } th scope="col" { "Since" }
                    th.number scope="col" { "Waiting" } th.number scope="col" { "In flight" } } }
                tbody { @for one in organisations { tr {
                    th scope="row" { (said(&one.org_id)) }
                    td.bad[one.state == "suspended"] { (said(&one.state)) }
                    td { (said_or_dash(one.reason.as_deref())) }
                    td { (moment(one.since.as_deref().and_then(|since| since.parse().ok()))) }
                    td.number { (one.waiting) } td.number { (one.in_flight) }
                } } }
            } }
        }
    }
}

fn queues(shared: &Shared, depths: &Depths) -> Markup {
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of queues" { table {
            caption { "Ready messages; the waiting ones are in the delay queues. RabbitMQ does not report the age of the oldest message; for dead letters and held commands it is known from the mirror and the ledger." }
            thead { tr { th scope="col" { "Kind" } th.number scope="col" { "To do" } th.number scope="col" { "Consumers" } th.number scope="col" { "Waiting" }
                th.number scope="col" { "Undeliverable" } th.number scope="col" { "Held" } th scope="col" { "Held since" } th.number scope="col" { "Dead" } th scope="col" { "Oldest dead" } } }
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
    let held_since = {
        let ledger = shared.watched.ledger();
        ledger
            .state
            .brakes
            .tripped()
            .filter(|(scope, _)| scope.kind == kind)
            .map(|(_, trip)| trip.since)
            .min()
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
        td.number { (ready(&kind.undeliverable_queue())) }
        td.number { (ready(&kind.held_queue())) } td { (time(held_since)) }
        td.number { (ready(&kind.dead_letter_queue())) } td { (time(oldest)) }
    } }
}
