//! How close the worker comes to concurrency ÷ latency, and how much more workers add.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use comfy_table::Table;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::process::{Contestant, Usage, busy, stop, usage};
use crate::rounds::number;
use crate::test_bed::{EVENTS, OutputFormat, TestBed};

const PATIENCE: Duration = Duration::from_mins(4);
/// Concurrency, and the latency of the API in milliseconds. The last pair needs no more calls per
/// second than a small machine can make.
const CASES: [(u16, u16); 5] = [(10, 50), (64, 50), (256, 50), (1000, 50), (1000, 400)];
/// How long the API would be busy at least.
const SECONDS: usize = 8;
const MOST: usize = 60_000;
/// With fewer, the worker's start would count.
const LEAST: usize = 4_000;

/// The work of several workers together.
pub(crate) struct Done {
    pub(crate) a_second: f64,
    pub(crate) workers: Usage,
    /// Cores that the whole machine had busy meanwhile.
    cores_busy: f64,
    pub(crate) handshakes: f64,
}

/// Starts workers on a full queue and waits until it is empty.
pub(crate) async fn work_off(
    bed: &TestBed,
    workers: usize,
    commands: usize,
    concurrency: usize,
) -> Done {
    bed.fill("acme", 0..commands, OutputFormat::Contract { bytes: 0 }).await;
    let worker = || Contestant::worker().command(bed, commands, concurrency);
    empty(bed, (0..workers).map(|_| worker()).collect(), commands).await
}

/// The same with these workers, and a queue that is full already.
pub(crate) async fn empty(bed: &TestBed, workers: Vec<Command>, commands: usize) -> Done {
    let (began, busy_before) = (Instant::now(), busy());
    let workers = workers.into_iter().map(|mut worker| worker.spawn().unwrap());
    let children: Vec<Child> = workers.collect();
    while bed.depth(EVENTS).await < commands {
        assert!(began.elapsed() < PATIENCE, "{} workers are not done", children.len());
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
    let calls = bed.calls().await;
    assert_eq!(
        (&calls["calls"], &calls["paths"]),
        (&commands.into(), &commands.into()),
        "calls, and paths"
    );
    bed.each_has_one_end(commands).await;
    let (a_second, handshakes) = (calls["a_second"].as_f64(), calls["handshakes"].as_f64());
    Done { a_second: a_second.unwrap(), workers, cores_busy, handshakes: handshakes.unwrap() }
}

/// Calls per second with a slow API, compared with concurrency ÷ latency.
pub(crate) async fn calls() -> Value {
    let mut rows = Vec::new();
    for (concurrency, latency_ms) in CASES {
        let bed = TestBed::new(latency_ms.into()).await;
        let limit = f64::from(concurrency) * 1000.0 / f64::from(latency_ms);
        let commands = (usize::from(concurrency) * 1000 / usize::from(latency_ms) * SECONDS)
            .clamp(LEAST, MOST);
        let done = work_off(&bed, 1, commands, usize::from(concurrency)).await;
        rows.push(
            json!({"concurrency": concurrency, "latency_ms": latency_ms, "limit": limit, "a_second": done.a_second,
            "reached": done.a_second / limit, "cpu_us": done.workers.cpu_us / number(commands), "peak_mib": done.workers.peak_mib,
            "cores_busy": done.cores_busy}),
        );
        bed.end().await;
    }
    rows.into()
}

/// The report as a table.
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
    let bed = TestBed::new(0).await;
    let mut rows = Vec::new();
    for workers in [1_u8, 2, 4] {
        let done = work_off(&bed, workers.into(), commands, 64).await;
        rows.push(json!({"workers": workers, "a_second": done.a_second, "cpu_us": done.workers.cpu_us / number(commands), "cores_busy": done.cores_busy}));
    }
    bed.end().await;
    rows.into()
}

/// The report as a table.
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
