//! The overall status: breaker, organisations, guard, pauses, queues, workers; for people and for
//! machines.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::LedgerJobError;
use super::ledger_file::LedgerFile;
use crate::ledger_view::view;
use crate::messages::time;
use crate::rabbitmq::topology::depths;
use crate::table::{OutputFormat, age, printable, write};

pub(super) async fn print(
    ledger: &LedgerFile,
    queues: Vec<String>,
    form: OutputFormat,
) -> Result<(), LedgerJobError> {
    let found = depths(ledger.reading(), queues.clone()).await?;
    let depths = queues.into_iter().map(|queue| {
        let depth = found.get(&queue).copied().flatten();
        (queue, depth)
    });
    // This queue exists only if tasks are archived first.
    let depths =
        depths.filter(|(queue, depth)| depth.is_some() || queue.rsplit('.').next() != Some("undo"));
    let now = Timestamp::now();
    let mut status = view(ledger.brakes(), now);
    status["time"] = json!(time::text(now));
    let queues = depths.map(|(queue, depth)| match depth {
        Some(depth) => {
            json!({"queue": queue, "ready": depth.ready, "consumers": depth.consumers})
        }
        None => json!({"queue": queue, "missing": true}),
    });
    status["queues"] = queues.collect();
    add_workers_view(&mut status);
    let mut out = io::stdout().lock();
    match form {
        OutputFormat::Json => writeln!(out, "{status}"),
        OutputFormat::Text => table(&mut out, &status, now),
    }
    .map_err(LedgerJobError::Output)
}

/// Merges the workers' reports: the breaker, each organisation, the oldest command of each kind.
fn add_workers_view(status: &mut Value) {
    let workers = status["workers"].as_array().cloned().unwrap_or_default();
    let open: Vec<_> = workers.iter().filter_map(|w| w["breaker_open_since"].as_str()).collect();
    let state = match open.len() {
        _ if workers.is_empty() => "unknown",
        0 => "closed",
        _ => "open",
    };
    let breaker = json!({
        "state": state, "open_at": open.len(), "workers": workers.len(),
        "open_since": open.iter().min(),
    });
    let mut organisations = BTreeMap::<String, Value>::new();
    let mut oldest = BTreeMap::<String, String>::new();
    for worker in &workers {
        for told in worker["organisations"].as_array().into_iter().flatten() {
            let id = told["org_id"].as_str().unwrap_or_default().to_owned();
            let known = organisations.entry(id).or_insert_with(|| {
                let mut first = told.clone();
                (first["waiting"], first["workers"]) = (json!(0), json!(0));
                first
            });
            let sum = |member: &str, more: u64| json!(known[member].as_u64().unwrap_or(0) + more);
            let waiting = sum("waiting", told["waiting"].as_u64().unwrap_or(0));
            let workers = sum("workers", 1);
            (known["waiting"], known["workers"]) = (waiting, workers);
        }
        for (kind, since) in worker["oldest"].as_object().into_iter().flatten() {
            let since = since.as_str().unwrap_or_default().to_owned();
            let known = oldest.entry(kind.clone()).or_insert_with(|| since.clone());
            *known = since.min(known.clone());
        }
    }
    status["breaker"] = breaker;
    status["organisations"] = organisations.into_values().collect();
    status["oldest"] = json!(oldest);
}

fn table(out: &mut impl Write, status: &Value, now: Timestamp) -> io::Result<()> {
    let breaker = &status["breaker"];
    let (open, workers) = (&breaker["open_at"], &breaker["workers"]);
    writeln!(out, "breaker: {} ({open} of {workers} workers)", text(&breaker["state"]))?;
    let all = &status["paused"]["all"];
    if all.is_object() {
        let (by, why) = (text(&all["by"]), text(&all["reason"]));
        writeln!(out, "ALL PAUSED by {by} for {}: {why}", since(&all["since"], now))?;
    }
    organisations(out, status, now)?;
    queues(out, status, now)?;
    workers_seen(out, status, now)
}

fn text(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default())
}

fn since(value: &Value, now: Timestamp) -> String {
    age(value.as_str().and_then(|time| time.parse().ok()), now)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn organisations(out: &mut impl Write, status: &Value, now: Timestamp) -> io::Result<()> {
    let mut rows = vec![["ORGANISATION", "STATE", "WHY", "FOR", "WAITING"].map(str::to_owned)];
    let mut row = |one: &Value, state: String, why: String, waiting: String| {
        rows.push([text(&one["org_id"]), state, why, since(&one["since"], now), waiting]);
    };
    for one in list(&status["paused"]["organisations"]) {
        let why = format!("{}: {}", text(&one["by"]), text(&one["reason"]));
        row(one, "paused".to_owned(), why, String::new());
    }
    for one in list(&status["guard"]) {
        let state = format!("guard {}, {}", text(&one["state"]), text(&one["kind"]));
        let why = match one["left"].as_u64() {
            Some(left) => format!("{left} more may pass, by {}", text(&one["by"])),
            None => format!("more than {} in the window", one["max_deletes"]),
        };
        row(one, state, why, String::new());
    }
    for one in list(&status["organisations"]) {
        row(one, text(&one["state"]), text(&one["reason"]), one["waiting"].to_string());
    }
    if rows.len() == 1 {
        return writeln!(out, "every organisation is called as usual");
    }
    writeln!(out)?;
    write(out, &rows, &[3, 4])
}

fn queues(out: &mut impl Write, status: &Value, now: Timestamp) -> io::Result<()> {
    let mut rows = vec![["QUEUE", "READY", "CONSUMERS", "OLDEST WAITING"].map(str::to_owned)];
    for one in list(&status["queues"]) {
        let queue = text(&one["queue"]);
        let number = |member: &str| {
            one[member].as_u64().map_or_else(|| "missing".to_owned(), |number| number.to_string())
        };
        let waits = status["oldest"].get(&queue).map(|oldest| since(oldest, now));
        rows.push([queue.clone(), number("ready"), number("consumers"), waits.unwrap_or_default()]);
    }
    writeln!(out)?;
    write(out, &rows, &[1, 2, 3])
}

fn workers_seen(out: &mut impl Write, status: &Value, now: Timestamp) -> io::Result<()> {
    let mut rows =
        vec![["WORKER", "HOST", "VERSION", "SEEN", "BREAKER", "READY"].map(str::to_owned)];
    for one in list(&status["workers"]) {
        let is_open = one["breaker_open_since"].is_string();
        let [worker, host, version] = ["worker", "host", "version"].map(|name| text(&one[name]));
        let breaker = if is_open { "open" } else { "closed" }.to_owned();
        let why: Vec<_> = list(&one["not_ready"]).iter().map(text).collect();
        let ready =
            if why.is_empty() { "yes".to_owned() } else { format!("no: {}", why.join("; ")) };
        rows.push([worker, host, version, since(&one["seen"], now), breaker, ready]);
    }
    writeln!(out)?;
    if rows.len() == 1 {
        return writeln!(out, "no worker has written to the ledger in the last five minutes");
    }
    write(out, &rows, &[3])
}
