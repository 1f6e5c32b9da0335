//! Memory with a short and a long queue, with the largest bodies, and over time; and the time until
//! the worker's first call.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::floor;
use crate::process::{Contestant, stop, usage};
use crate::rounds::number;
use crate::test_bed::{COMMANDS, EVENTS, OutputFormat, TestBed};

/// A million commands then take 15 minutes at concurrency 64.
const LATENCY_MS: u64 = 60;
const PATIENCE: Duration = Duration::from_mins(4);
const STARTS: usize = 7;
/// The documented limit.
const LARGEST: usize = 64 * 1024;
/// The largest number of unacknowledged messages, and some more behind them.
const EACH: usize = 6;
/// How many messages of how many bytes: just over the limit, and up to the largest that RabbitMQ 4
/// takes. 10,000 in all.
const OVERSIZED: [(usize, usize); 3] =
    [(9_440, LARGEST + 1), (500, 1024 * 1024), (60, 15 * 1024 * 1024)];
const DEAD: &str = "task.delete.dead";
/// Time for the first calls, for the copies of all unacknowledged messages, and for the first
/// probes.
const ALL_FAIL: Duration = Duration::from_secs(8);

/// Resident memory while this many commands wait, measured for this long.
async fn with_waiting(bed: &TestBed, waiting: usize, looked_at: Duration) -> Value {
    bed.fill("acme", 0..waiting, OutputFormat::Contract { bytes: 0 }).await;
    let child = Contestant::worker().command(bed, waiting, 64).spawn().unwrap();
    let (began, mut seen) = (Instant::now(), Vec::new());
    while began.elapsed() < looked_at {
        sleep(Duration::from_millis(250)).await;
        seen.push(usage(&child).unwrap().resident_mib);
    }
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    bed.each_is_done_or_waits(waiting).await;
    let fifth = seen.len() / 5;
    let (early, late) =
        (median(&mut seen[fifth..fifth * 2].to_vec()), median(&mut seen[fifth * 4..].to_vec()));
    json!({"waiting": waiting, "seconds": looked_at.as_secs(), "early_mib": early, "late_mib": late, "peak_mib": peak})
}

async fn with_largest_bodies(bed: &TestBed, concurrency: usize) -> Value {
    let commands = concurrency * EACH;
    bed.fill("acme", 0..commands, OutputFormat::Contract { bytes: LARGEST }).await;
    let child = Contestant::worker().command(bed, commands, concurrency).spawn().unwrap();
    let began = Instant::now();
    while bed.depth(EVENTS).await < commands {
        assert!(began.elapsed() < PATIENCE, "the largest bodies are not done");
        sleep(Duration::from_millis(20)).await;
    }
    let used = usage(&child).unwrap();
    stop(child);
    bed.each_is_done_or_waits(commands).await;
    json!({"concurrency": concurrency, "peak_mib": used.peak_mib, "cpu_us": used.cpu_us / number(commands)})
}

/// The same if every call fails: all unacknowledged messages are copied to the delay queues at
/// once.
async fn with_largest_bodies_failing(concurrency: usize) -> Value {
    let bed = TestBed::answering(503, LATENCY_MS).await;
    let commands = concurrency * EACH;
    bed.fill("acme", 0..commands, OutputFormat::Contract { bytes: LARGEST }).await;
    let child = Contestant::worker().command(&bed, commands, concurrency).spawn().unwrap();
    sleep(ALL_FAIL).await;
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    // At least one: an organisation starts slowly, and the breaker opens before all have had their
    // call.
    assert_ne!(bed.calls().await["calls"], 0, "no call was made");
    bed.each_waits(commands).await;
    bed.end().await;
    json!({"concurrency": concurrency, "peak_mib": peak, "every_call": "503"})
}

/// Resident memory at the default concurrency while only bodies arrive that are too large for a
/// command, of several sizes.
async fn with_oversized_bodies(bed: &TestBed) -> Value {
    for (number, bytes) in OVERSIZED {
        bed.fill("acme", 0..number, OutputFormat::Contract { bytes }).await;
    }
    let messages = OVERSIZED.iter().map(|(number, _)| number).sum();
    let child = Contestant::worker().command(bed, messages, 64).spawn().unwrap();
    let began = Instant::now();
    while bed.depth(EVENTS).await < messages {
        assert!(began.elapsed() < PATIENCE, "the oversized bodies have no events");
        sleep(Duration::from_millis(250)).await;
    }
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    bed.becomes(DEAD, messages).await;
    for queue in [DEAD, EVENTS] {
        bed.purge(queue).await;
        bed.becomes(queue, 0).await;
    }
    json!({"messages": messages, "number_and_bytes": OVERSIZED, "peak_mib": peak})
}

async fn empty(bed: &TestBed) {
    for queue in [COMMANDS, EVENTS] {
        bed.purge(queue).await;
        bed.becomes(queue, 0).await;
    }
    bed.calls().await;
}

/// Memory with `waiting` commands and with a thousand; with bodies of 64 KiB at three
/// concurrencies, and if every call fails; with larger bodies; and over `minutes` of work, unless
/// they are 0.
pub(crate) async fn memory(waiting: usize, minutes: u64) -> Value {
    let bed = TestBed::new(LATENCY_MS).await;
    let short = with_waiting(&bed, 1000, Duration::from_secs(20)).await;
    let long = with_waiting(&bed, waiting, Duration::from_secs(20)).await;
    let mut bodies = Vec::new();
    for concurrency in [64, 512, 1000] {
        bodies.push(with_largest_bodies(&bed, concurrency).await);
    }
    bodies.push(with_largest_bodies_failing(512).await);
    let oversized = with_oversized_bodies(&bed).await;
    let mut report =
        json!({"waiting": [short, long], "largest_bodies": bodies, "oversized_bodies": oversized});
    if minutes > 0 {
        report["over_time"] = with_waiting(&bed, waiting, Duration::from_mins(minutes)).await;
    }
    bed.end().await;
    report
}

/// Milliseconds from exec to the first call, and the share of them that the broker takes to answer
/// any program.
pub(crate) async fn start() -> Value {
    let bed = TestBed::new(0).await;
    let (mut worker, mut broker) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        bed.fill("acme", number..number + 1, OutputFormat::Contract { bytes: 0 }).await;
        broker.push(floor::first_delivery_ms(&bed.url).await);
        bed.becomes(COMMANDS, 1).await;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let child = Contestant::worker().command(&bed, 1, 64).spawn().unwrap();
        bed.becomes(EVENTS, 1).await;
        stop(child);
        worker.push((bed.calls().await["first_at"].as_f64().unwrap() - began) * 1000.0);
        empty(&bed).await;
    }
    bed.end().await;
    let (worker, broker) = (median(&mut worker), median(&mut broker));
    json!({"exec_to_first_call_ms": worker, "broker_ms": broker, "beyond_ms": worker - broker})
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
