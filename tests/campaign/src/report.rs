//! The results of a campaign, as text and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checker::Balance;
use crate::decisions;
use crate::records::{InjectedFault, Records};

/// How many findings are printed.
const SHOWN: usize = 30;

/// Injected faults, by family.
pub(crate) fn by_family(journal: &[InjectedFault]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for fault in journal {
        *counts.entry(fault.family).or_default() += 1;
    }
    counts
}

/// The report on standard output.
pub(crate) fn print(balance: &Balance, records: &Records, about: &Value) {
    println!("\nInjected faults:");
    for (family, times) in by_family(&records.journal) {
        println!("  {times:>6}  {family}");
    }
    println!("\nTotals:");
    for (word, number, meaning) in rows(balance, records) {
        println!("  {number:>6}  {word:<12}  {meaning}");
    }
    for finding in balance.findings.iter().take(SHOWN) {
        println!("  {:?}: {}", finding.kind, finding.what);
    }
    if balance.findings.len() > SHOWN {
        println!("  and {} more", balance.findings.len() - SHOWN);
    }
    println!(
        "\n{}",
        if balance.findings.is_empty() {
            "The records agree with the promise."
        } else {
            "THE RECORDS DO NOT AGREE WITH THE PROMISE."
        }
    );
    println!("{about}");
}

/// The report as JSON.
pub(crate) fn json(balance: &Balance, records: &Records, about: &Value) -> Value {
    let books: BTreeMap<_, _> =
        rows(balance, records).into_iter().map(|(word, n, _)| (word, n)).collect();
    let findings: Vec<_> = balance
        .findings
        .iter()
        .map(|f| json!({"kind": format!("{:?}", f.kind), "what": f.what}))
        .collect();
    let journal: Vec<_> = records
        .journal
        .iter()
        .map(|b| {
            let (family, org, what) = (b.family, b.org, &b.what);
            json!({"from_ms": b.from_ms, "to_ms": b.to_ms, "family": family, "org": org, "what": what})
        })
        .collect();
    let families = by_family(&records.journal);
    json!({"about": about, "books": books, "families": families, "findings": findings, "journal": journal})
}

fn rows(balance: &Balance, records: &Records) -> Vec<(&'static str, usize, &'static str)> {
    let mut rows = vec![
        ("attempted", balance.attempted, "commands that were sent"),
        ("acknowledged", balance.acknowledged, "confirmed by the broker to their producer"),
        ("ok", balance.ok, "confirmed, and ended as expected"),
        ("lost", balance.lost, "confirmed, and without an end"),
        ("unexpected", balance.unexpected, "ends of commands that nobody sent"),
        ("duplicated", balance.duplicated, "ends reported more than once, with the same event id"),
        ("recovered", balance.recovered, "never confirmed, but ended all the same"),
        ("superseded", balance.superseded, "failures that a success superseded"),
        (
            "dead letters",
            records.dead_letters.len(),
            "commands that failed for a reason of their own",
        ),
        ("calls", records.calls.len(), "requests that the API received"),
        (
            "delay",
            balance.longest_delay_ms,
            "ms, the longest for an organisation that was healthy throughout",
        ),
    ];
    rows.extend(decisions::rows(records));
    rows.push(("findings", balance.findings.len(), "must be none"));
    rows
}
