//! How close the worker comes to concurrency ÷ latency, and what more workers bring.

use std::process::Child;
use std::time::{Duration, Instant};

use comfy_table::Table;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::field::{EVENTS, Field, OutputFormat};
use crate::process::{Contestant, Usage, busy, stop, usage};
use crate::rounds::number;

const PATIENCE: Duration = Duration::from_mins(4);
/// Concurrency, and milliseconds that the API takes. The last one asks for no more calls a second
/// than a small machine has to give.
const CASES: [(u16, u16); 4] = [(64, 50), (256, 50), (1000, 50), (1000, 400)];
/// So long the API would be busy at least.
const SECONDS: usize = 8;
const MOST: usize = 60_000;

/// What several workers together have done.
struct Done {
    a_second: f64,
    workers: Usage,
    /// Cores that the whole machine had busy meanwhile.
    cores_busy: f64,
}

/// Starts workers on a full queue and waits until it is empty.
async fn work_off(field: &Field, workers: usize, commands: usize, concurrency: usize) -> Done {
    field.fill("acme", 0..commands, OutputFormat::Contract { bytes: 0 }).await;
    let (began, busy_before) = (Instant::now(), busy());
    let start = || Contestant::worker().command(field, commands, concurrency).spawn().unwrap();
    let children: Vec<Child> = (0..workers).map(|_| start()).collect();
    while field.depth(EVENTS).await < commands {
        assert!(began.elapsed() < PATIENCE, "{workers} workers are not done");
        sleep(Duration::from_millis(20)).await;
    }
    let cores_busy =
        busy().saturating_sub(busy_before).as_secs_f64() / began.elapsed().as_secs_f64();
    let used = children.iter().map(|child| usage(child).unwrap());
    let workers = used.fold(Usage::default(), |all, one| Usage {
        cpu_us: all.cpu_us + one.cpu_us,
        resident_mib: all.resident_mib.max(one.resident_mib),
        peak_mib: all.peak_mib.max(one.peak_mib),
    });
    children.into_iter().for_each(stop);
    let calls = field.calls().await;
    assert_eq!(
        (&calls["calls"], &calls["paths"]),
        (&commands.into(), &commands.into()),
        "calls, and paths"
    );
    field.each_has_one_end(commands).await;
    Done { a_second: calls["a_second"].as_f64().unwrap(), workers, cores_busy }
}

/// Calls a second with an API that takes its time, beside concurrency ÷ latency.
pub(crate) async fn calls() -> Value {
    let mut rows = Vec::new();
    for (concurrency, latency_ms) in CASES {
        let field = Field::new(latency_ms.into()).await;
        let limit = f64::from(concurrency) * 1000.0 / f64::from(latency_ms);
        let commands =
            (usize::from(concurrency) * 1000 / usize::from(latency_ms) * SECONDS).min(MOST);
        let done = work_off(&field, 1, commands, usize::from(concurrency)).await;
        rows.push(
            json!({"concurrency": concurrency, "latency_ms": latency_ms, "limit": limit, "a_second": done.a_second,
            "reached": done.a_second / limit, "cpu_us": done.workers.cpu_us / number(commands), "peak_mib": done.workers.peak_mib,
            "cores_busy": done.cores_busy}),
        );
        field.end().await;
    }
    rows.into()
}

/// For people.
pub(crate) fn table_of_calls(rows: &Value) -> String {
    let mut table = Table::new();
    table.set_header([
        "concurrency",
        "API ms",
        "concurrency ÷ latency",
        "calls a second",
        "reached",
        "CPU µs",
        "peak MiB",
        "cores busy",
    ]);
    for row in rows.as_array().unwrap() {
        let of = |name: &str| row[name].as_f64().unwrap();
        table.add_row([
            row["concurrency"].to_string(),
            row["latency_ms"].to_string(),
            format!("{:.0}", of("limit")),
            format!("{:.0}", of("a_second")),
            format!("{:.1} %", of("reached") * 100.0),
            format!("{:.0}", of("cpu_us")),
            format!("{:.0}", of("peak_mib")),
            format!("{:.2}", of("cores_busy")),
        ]);
    }
    table.to_string()
}

/// One, two and four workers on one queue, with an API that answers at once.
pub(crate) async fn workers(commands: usize) -> Value {
    let field = Field::new(0).await;
    let mut rows = Vec::new();
    for workers in [1_u8, 2, 4] {
        let done = work_off(&field, workers.into(), commands, 64).await;
        rows.push(json!({"workers": workers, "a_second": done.a_second, "cpu_us": done.workers.cpu_us / number(commands), "cores_busy": done.cores_busy}));
    }
    field.end().await;
    rows.into()
}

/// For people.
pub(crate) fn table_of_workers(rows: &Value) -> String {
    let mut table = Table::new();
    table.set_header(["workers", "commands a second", "CPU µs of all workers", "cores busy"]);
    for row in rows.as_array().unwrap() {
        let of = |name: &str| row[name].as_f64().unwrap();
        table.add_row([
            row["workers"].to_string(),
            format!("{:.0}", of("a_second")),
            format!("{:.0}", of("cpu_us")),
            format!("{:.2}", of("cores_busy")),
        ]);
    }
    table.to_string()
}
