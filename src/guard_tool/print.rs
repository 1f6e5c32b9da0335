//! Prints what the guard holds, for people and for machines.

use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::json;

use super::held_look::{Group, Groups};
use crate::kind::Kind;
use crate::messages::ledger::Scope;
use crate::messages::time;
use crate::policy::brakes::Brakes;
use crate::table::{OutputFormat, age, printable, write};

/// Every organisation with held commands or a tripped guard.
pub(super) fn held(
    held: Vec<(Kind, Groups)>,
    brakes: &Brakes,
    form: OutputFormat,
) -> io::Result<()> {
    let all: Vec<_> = held
        .into_iter()
        .flat_map(|(kind, mut groups)| {
            for (scope, _) in brakes.tripped().filter(|(scope, _)| scope.kind == kind) {
                groups.entry(scope.org_id.clone()).or_default();
            }
            let scope = move |org_id| Scope { org_id, kind };
            groups.into_iter().map(move |(org_id, group)| (scope(org_id), group))
        })
        .collect();
    let (mut out, now) = (io::stdout().lock(), Timestamp::now());
    if form == OutputFormat::Json {
        for (scope, group) in &all {
            let trip = brakes.trip(scope);
            let line = json!({
                "org_id": scope.org_id.as_str(), "kind": scope.kind, "held": group.count,
                "tripped_at": trip.map(|trip| time::text(trip.since)),
                "oldest": group.oldest.map(time::text),
                "asked_by": group.asked_by, "samples": group.samples,
            });
            writeln!(out, "{line}")?;
        }
        return Ok(());
    }
    if all.is_empty() {
        return writeln!(out, "nothing is held");
    }
    let heading = ["ORGANISATION", "KIND", "HELD", "TRIPPED", "OLDEST", "ASKED BY", "FOR EXAMPLE"];
    let mut rows = vec![heading.map(str::to_owned)];
    for (scope, group) in &all {
        let Group { count, oldest, asked_by, samples } = group;
        let trip = brakes.trip(scope);
        let asked_by: Vec<_> = asked_by.iter().map(|by| printable(by)).collect();
        rows.push([
            scope.org_id.to_string(),
            scope.kind.to_string(),
            count.to_string(),
            age(trip.map(|trip| trip.since), now),
            age(*oldest, now),
            asked_by.join(", "),
            samples.join(" "),
        ]);
    }
    write(&mut out, &rows, &[2, 3, 4])
}
