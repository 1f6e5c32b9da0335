//! What was done lately, and by whom. It comes from the mirrors and the ledger, so it includes the
//! command line's actions.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::Shared;
use super::actions::Action;
use super::parts::{moment, said, said_or_dash};
use super::watch::Following;
use crate::kind::Kind;
use crate::messages::ledger::{LedgerEntry, LedgerRecord};

const LAST: usize = 10;

/// One line of what was done.
struct Done {
    at: Option<Timestamp>,
    by: String,
    what: String,
    why: Option<String>,
}

/// The actions on record in the mirrors and the ledger, and this console's actions that are not
/// recorded there.
pub(super) fn last(shared: &Shared) -> Markup {
    let mut done = Vec::new();
    for kind in shared.kinds() {
        let Some(mirror) = shared.watched.mirror(*kind) else { continue };
        if matches!(mirror.following, Following::Absent(_)) {
            let own = shared.actions.all();
            let queue = Some(kind.dead_letter_queue());
            let own = own.iter().filter(|action| action.queue == queue && action.ended().is_some());
            done.extend(own.map(|action| of_action(action)));
        }
        done.extend(mirror.state.audits().filter_map(|event| of_audit(*kind, event)));
    }
    done.extend(shared.watched.ledger().state.decisions.iter().filter_map(of_record));
    done.sort_by_key(|done| std::cmp::Reverse(done.at));
    done.truncate(LAST);
    html! {
        div.wide tabindex="0" role="region" aria-label="Table of actions" { table {
            caption { "By the console and by the command line" }
            thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Why" } } }
            tbody {
                @for Done { at, by, what, why } in &done {
                    tr { td { (moment(*at)) } td { (said(by)) } td { (said(what)) } td.detail { (said_or_dash(why.as_deref())) } }
                }
                @if done.is_empty() { tr { td colspan="4" { "None yet." } } }
            }
        } }
        p { a href="/actions" { "What this console does and did" } }
    }
}

fn of_action(action: &Action) -> Done {
    let what = format!("{}: {} done", action.what, action.progress.done());
    Done { at: Some(action.began), by: action.by.clone(), what, why: None }
}

fn of_audit(kind: Kind, event: &Value) -> Option<Done> {
    let data = &event["data"];
    if data["phase"] != "ended" {
        return None;
    }
    let verb = event["type"].as_str()?.rsplit('.').next()?;
    let cut_short = if data["interrupted"] == true { ", cut short" } else { "" };
    let what = format!("{verb} {} of {kind}{cut_short}", data["letters"].as_u64()?);
    let at = event["time"].as_str().and_then(|time| time.parse().ok());
    let text = |name: &str| data[name].as_str().map(str::to_owned);
    Some(Done { at, by: text("by")?, what, why: text("why") })
}

fn of_record(record: &LedgerRecord) -> Option<Done> {
    let whose =
        |org: &Option<_>| org.as_ref().map_or_else(|| "all".to_owned(), ToString::to_string);
    let (what, decision) = match &record.entry {
        LedgerEntry::Granted { scope, permits, decision, .. } => {
            (format!("released up to {permits} {} of {}", scope.kind, scope.org_id), decision)
        }
        LedgerEntry::Rearmed { scope, decision } => {
            (format!("rejected what was held: {} of {}", scope.kind, scope.org_id), decision)
        }
        LedgerEntry::Paused { org_id, decision } => (format!("paused {}", whose(org_id)), decision),
        LedgerEntry::Resumed { org_id, decision } => {
            (format!("resumed {}", whose(org_id)), decision)
        }
        _ => return None,
    };
    let (by, why) = (decision.by.clone(), decision.reason.clone());
    Some(Done { at: Some(record.at), by, what, why })
}
