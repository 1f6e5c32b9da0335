//! What the mass-deletion guard holds, and the pauses.

use std::sync::Arc;

use axum::extract::State;
use maud::{Markup, html};

use super::Shared;
use super::depths::{Depths, depth, depths};
use super::page::page;
use super::parts::{count, moment, said, said_or_dash, trouble};
use super::viewer::{Rights, Viewer};
use super::watch::Following;
use crate::guard_tool::Group;
use crate::kind::Kind;
use crate::messages::OrgId;
use crate::messages::ledger::Scope;
use crate::policy::guard::Trip;

pub(super) async fn show(viewer: Viewer, State(shared): State<Arc<Shared>>) -> Markup {
    let depths = depths(&shared).await;
    let held =
        html! { @for kind in shared.kinds() { (of_kind(&viewer, &shared, *kind, &depths)) } };
    let body = html! {
        (trouble(shared.watched.connection().err().as_ref()))
        @if let Following::Absent(why) = &shared.watched.ledger().following {
            p.notice.bad role="status" { "The ledger cannot be read, so neither guard nor pauses are known: " (why) }
        }
        section aria-labelledby="pauses" { h2 #pauses { "Pauses" } (pauses(&viewer, &shared)) }
        section aria-labelledby="held" { h2 #held { "Held by the guard" } (held) }
    };
    page(&viewer, "/guard", "Guard and pauses", &body)
}

fn pauses(viewer: &Viewer, shared: &Shared) -> Markup {
    let ledger = shared.watched.ledger();
    let brakes = &ledger.state.brakes;
    let mut paused: Vec<_> = brakes.paused_organisations().collect();
    paused.sort_by_key(|(org, _)| *org);
    let all = brakes.paused_all().map(|pause| (None, pause));
    let rows: Vec<_> =
        all.into_iter().chain(paused.into_iter().map(|(org, pause)| (Some(org), pause))).collect();
    let may_act = viewer.rights == Rights::Act;
    html! {
        @if rows.is_empty() { p { "Nothing is paused." } }
        @for (number, (org, pause)) in rows.iter().enumerate() {
            div.card {
                h3 { @match org { Some(org) => { "Organisation " (said(org.as_str())) }, None => "All organisations" } }
                p { "Paused since " (moment(Some(pause.since))) " by " (said(&pause.decision.by)) ": " (said_or_dash(pause.decision.reason.as_deref())) }
                @if may_act {
                    form.inline method="post" action="/resume" {
                        @if let Some(org) = org { input type="hidden" name="org" value=(org); }
                        @else { input type="hidden" name="everybody" value="1"; }
                        (reason(&format!("resume{number}")))
                        button { "Resume" }
                    }
                }
            }
        }
        @if may_act {
            form.inline method="post" action="/pause" aria-label="Pause" {
                div { label for="pause-org" { "Organisation" } input #pause-org name="org" autocomplete="off" spellcheck="false"; }
                div.check { input #pause-all type="checkbox" name="everybody" value="1"; label for="pause-all" { "all organisations" } }
                (reason("pause"))
                button { "Pause" }
            }
        }
    }
}

fn reason(id: &str) -> Markup {
    html! { div { label for={ (id) "-reason" } { "Reason" } input id={ (id) "-reason" } name="reason" required autocomplete="off"; } }
}

fn of_kind(viewer: &Viewer, shared: &Shared, kind: Kind, depths: &Depths) -> Markup {
    let looks = shared.held_looks.last();
    let look = looks.get(&kind);
    let ledger = shared.watched.ledger();
    let trips = ledger.state.brakes.tripped().filter(|(scope, _)| scope.kind == kind);
    let mut orgs: Vec<OrgId> = trips.map(|(scope, _)| scope.org_id.clone()).collect();
    orgs.extend(look.into_iter().flat_map(|(_, groups)| groups.keys().cloned()));
    orgs.sort();
    orgs.dedup();
    let number = depth(depths, &kind.held_queue());
    html! {
        h3 { code { (kind) } }
        p { @match number {
            Some(number) => { (count(number as usize)) " commands lie ready in " code { (kind.held_queue()) } "." },
            None => { "How many lie in " code { (kind.held_queue()) } " is not known." },
        } }
        form.inline method="post" action="/guard/look" {
            input type="hidden" name="kind" value=(kind);
            button { "Look into the queue" }
            @match look {
                Some((at, _)) => span.dim { "Last look: " (moment(Some(*at))) },
                None => span.dim { "A look shows who asked for them." },
            }
        }
        @for org in &orgs {
            @let scope = Scope { org_id: org.clone(), kind };
            (of_org(viewer, &scope, ledger.state.brakes.trip(&scope), look.and_then(|(_, groups)| groups.get(org))))
        }
    }
}

fn of_org(viewer: &Viewer, scope: &Scope, trip: Option<&Trip>, group: Option<&Group>) -> Markup {
    let org = scope.org_id.as_str();
    html! {
        div.card {
            h4 { "Organisation " (said(org)) }
            dl.facts {
                dt { "Guard" } dd { @match trip {
                    Some(trip) => { "tripped " (moment(Some(trip.since))) ": more than " (count(trip.limit.max_deletes as usize)) " in " (trip.limit.window_s) " s" },
                    None => "not tripped",
                } }
                @if let Some(group) = group {
                    dt { "Held" } dd { (count(group.count)) }
                    dt { "Oldest" } dd { (moment(group.oldest)) }
                    dt { "Asked by" } dd { (said(&group.asked_by.iter().cloned().collect::<Vec<_>>().join(", "))) }
                    dt { "For example" } dd { (said(&group.samples.join(" "))) }
                }
            }
            @if viewer.rights == Rights::Act { (decide(scope)) }
        }
    }
}

fn decide(scope: &Scope) -> Markup {
    let (org, kind) = (scope.org_id.as_str(), scope.kind);
    let id = |name: &str| format!("{name}-{kind}-{org}");
    let hidden = html! { input type="hidden" name="kind" value=(kind); input type="hidden" name="org" value=(org); };
    let confirm = |what: &str| {
        html! { div {
            label for=(id(&format!("{what}-confirm"))) { "Type the organisation's id" }
            input id=(id(&format!("{what}-confirm"))) name="confirm" required autocomplete="off" spellcheck="false";
        } }
    };
    html! {
        details { summary { "Release: let so many more pass" }
            form.inline method="post" action="/guard/release" {
                (hidden)
                div { label for=(id("max")) { "How many" } input id=(id("max")) name="max" type="number" min="1" max="1000000" required; }
                div { label for=(id("for")) { "For how long" } input id=(id("for")) name="for" value="4h" required; }
                (reason(&id("release"))) (confirm("release"))
                button { "Release" }
            }
        }
        details { summary { "Reject: dead-letter the held commands" }
            form.inline method="post" action="/guard/reject" {
                (hidden)
                div { label for=(id("requested_by")) { "Only what this name requested" } input id=(id("requested_by")) name="requested_by" autocomplete="off"; }
                (reason(&id("reject"))) (confirm("reject"))
                button { "Reject" }
            }
        }
    }
}
