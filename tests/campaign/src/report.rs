//! What a campaign has come to, for people and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::checker::Balance;
use crate::decisions;
use crate::ledgers::{Blow, Ledgers};

/// How many findings are printed.
const SHOWN: usize = 30;

/// Blows, by family.
pub(crate) fn by_family(journal: &[Blow]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for blow in journal {
        *counts.entry(blow.family).or_default() += 1;
    }
    counts
}

/// The report on standard output.
pub(crate) fn print(balance: &Balance, ledgers: &Ledgers, about: &Value) {
    println!("\nWhat befell them:");
    for (family, times) in by_family(&ledgers.journal) {
        println!("  {times:>6}  {family}");
    }
    println!("\nThe books:");
    for (word, number, meaning) in rows(balance, ledgers) {
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
            "The books balance."
        } else {
            "THE BOOKS DO NOT BALANCE."
        }
    );
    println!("{about}");
}

/// The same for machines.
pub(crate) fn json(balance: &Balance, ledgers: &Ledgers, about: &Value) -> Value {
    let books: BTreeMap<_, _> =
        rows(balance, ledgers).into_iter().map(|(word, n, _)| (word, n)).collect();
    let findings: Vec<_> = balance
        .findings
        .iter()
        .map(|f| json!({"kind": format!("{:?}", f.kind), "what": f.what}))
        .collect();
    let journal: Vec<_> = ledgers
        .journal
        .iter()
        .map(|b| {
            let (family, org, what) = (b.family, b.org, &b.what);
            json!({"from_ms": b.from_ms, "to_ms": b.to_ms, "family": family, "org": org, "what": what})
        })
        .collect();
    let families = by_family(&ledgers.journal);
    json!({"about": about, "books": books, "families": families, "findings": findings, "journal": journal})
}

fn rows(balance: &Balance, ledgers: &Ledgers) -> Vec<(&'static str, usize, &'static str)> {
    let mut rows = vec![
        ("attempted", balance.attempted, "commands that were sent"),
        ("acknowledged", balance.acknowledged, "confirmed by the broker to their producer"),
        ("ok", balance.ok, "confirmed, and come to the one end that they had to come to"),
        ("lost", balance.lost, "confirmed, and without an end"),
        ("unexpected", balance.unexpected, "ends of commands that nobody gave"),
        ("duplicated", balance.duplicated, "ends told more than once, with the same event id"),
        ("recovered", balance.recovered, "never confirmed, and come to an end all the same"),
        ("superseded", balance.superseded, "failures that a success superseded"),
        ("dead letters", ledgers.dead_letters.len(), "each for the command's own fault"),
        ("calls", ledgers.calls.len(), "that the API saw"),
        (
            "delay",
            balance.longest_delay_ms,
            "ms, the longest of an organisation that was healthy throughout",
        ),
    ];
    rows.extend(decisions::rows(ledgers));
    rows.push(("findings", balance.findings.len(), "must be none"));
    rows
}
