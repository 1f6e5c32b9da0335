//! Memory with a short and a long queue, with the largest bodies, and over time; and how long the
//! worker takes to its first call.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::field::{COMMANDS, EVENTS, Field, OutputFormat};
use crate::floor;
use crate::process::{Contestant, stop, usage};

/// A million commands then last for 15 minutes at concurrency 64.
const LATENCY_MS: u64 = 60;
const PATIENCE: Duration = Duration::from_mins(4);
const STARTS: usize = 7;
/// The contract's limit.
const LARGEST: usize = 64 * 1024;
/// As many unacknowledged as there can be, and some behind them.
const EACH: usize = 6;
/// Just over the limit, and up to the largest that RabbitMQ 4 takes.
const OVERSIZED: [usize; 3] = [LARGEST + 1, 1024 * 1024, 15 * 1024 * 1024];
const OVERSIZED_OF_EACH: usize = 60;
const DEAD: &str = "task.delete.dead";
/// For the first calls, the copies of all that is unacknowledged, and the first probes.
const ALL_FAIL: Duration = Duration::from_secs(8);

/// Resident memory while so many wait, looked at for so long.
async fn with_waiting(field: &Field, waiting: usize, looked_at: Duration) -> Value {
    field.fill("acme", 0..waiting, OutputFormat::Contract { bytes: 0 }).await;
    let child = Contestant::worker().command(field, waiting, 64).spawn().unwrap();
    let (began, mut seen) = (Instant::now(), Vec::new());
    while began.elapsed() < looked_at {
        sleep(Duration::from_millis(250)).await;
        seen.push(usage(&child).unwrap().resident_mib);
    }
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    field.each_is_done_or_waits(waiting).await;
    let fifth = seen.len() / 5;
    let (early, late) =
        (median(&mut seen[fifth..fifth * 2].to_vec()), median(&mut seen[fifth * 4..].to_vec()));
    json!({"waiting": waiting, "seconds": looked_at.as_secs(), "early_mib": early, "late_mib": late, "peak_mib": peak})
}

async fn with_largest_bodies(field: &Field, concurrency: usize) -> Value {
    let commands = concurrency * EACH;
    field.fill("acme", 0..commands, OutputFormat::Contract { bytes: LARGEST }).await;
    let child = Contestant::worker().command(field, commands, concurrency).spawn().unwrap();
    let began = Instant::now();
    while field.depth(EVENTS).await < commands {
        assert!(began.elapsed() < PATIENCE, "the largest bodies are not done");
        sleep(Duration::from_millis(20)).await;
    }
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    field.each_is_done_or_waits(commands).await;
    json!({"concurrency": concurrency, "peak_mib": peak})
}

/// The same where every call fails: all that is unacknowledged is copied to the delay queues at
/// once.
async fn with_largest_bodies_failing(concurrency: usize) -> Value {
    let field = Field::answering(503, LATENCY_MS).await;
    let commands = concurrency * EACH;
    field.fill("acme", 0..commands, OutputFormat::Contract { bytes: LARGEST }).await;
    let child = Contestant::worker().command(&field, commands, concurrency).spawn().unwrap();
    sleep(ALL_FAIL).await;
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    // Some: an organisation begins with a trial, and the breaker opens before all have had their
    // call.
    assert_ne!(field.calls().await["calls"], 0, "no call was made");
    field.each_waits(commands).await;
    field.end().await;
    json!({"concurrency": concurrency, "peak_mib": peak, "every_call": "503"})
}

/// Resident memory at the default concurrency while nothing but bodies comes that are too large for
/// a command, of several sizes.
async fn with_oversized_bodies(field: &Field) -> Value {
    for bytes in OVERSIZED {
        field.fill("acme", 0..OVERSIZED_OF_EACH, OutputFormat::Contract { bytes }).await;
    }
    let messages = OVERSIZED.len() * OVERSIZED_OF_EACH;
    let child = Contestant::worker().command(field, messages, 64).spawn().unwrap();
    let began = Instant::now();
    while field.depth(EVENTS).await < messages {
        assert!(began.elapsed() < PATIENCE, "the oversized bodies have no events");
        sleep(Duration::from_millis(250)).await;
    }
    let peak = usage(&child).unwrap().peak_mib;
    stop(child);
    field.becomes(DEAD, messages).await;
    for queue in [DEAD, EVENTS] {
        field.purge(queue).await;
        field.becomes(queue, 0).await;
    }
    json!({"messages": messages, "bytes": OVERSIZED, "peak_mib": peak})
}

async fn empty(field: &Field) {
    for queue in [COMMANDS, EVENTS] {
        field.purge(queue).await;
        field.becomes(queue, 0).await;
    }
    field.calls().await;
}

/// Memory: `waiting` commands against a thousand; bodies of 64 KiB at three concurrencies, and
/// where every call fails; larger ones; and `minutes` of work, where they are more than none.
pub(crate) async fn memory(waiting: usize, minutes: u64) -> Value {
    let field = Field::new(LATENCY_MS).await;
    let short = with_waiting(&field, 1000, Duration::from_secs(20)).await;
    let long = with_waiting(&field, waiting, Duration::from_secs(20)).await;
    let mut bodies = Vec::new();
    for concurrency in [64, 512, 1000] {
        bodies.push(with_largest_bodies(&field, concurrency).await);
    }
    bodies.push(with_largest_bodies_failing(512).await);
    let oversized = with_oversized_bodies(&field).await;
    let mut report =
        json!({"waiting": [short, long], "largest_bodies": bodies, "oversized_bodies": oversized});
    if minutes > 0 {
        report["over_time"] = with_waiting(&field, waiting, Duration::from_mins(minutes)).await;
    }
    field.end().await;
    report
}

/// Milliseconds from exec to the first call, beside what the broker takes to answer a program that
/// does nothing else.
pub(crate) async fn start() -> Value {
    let field = Field::new(0).await;
    let (mut worker, mut broker) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        field.fill("acme", number..number + 1, OutputFormat::Contract { bytes: 0 }).await;
        broker.push(floor::first_delivery_ms(&field.url).await);
        field.becomes(COMMANDS, 1).await;
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let child = Contestant::worker().command(&field, 1, 64).spawn().unwrap();
        field.becomes(EVENTS, 1).await;
        stop(child);
        worker.push((field.calls().await["first_at"].as_f64().unwrap() - began) * 1000.0);
        empty(&field).await;
    }
    field.end().await;
    let (worker, broker) = (median(&mut worker), median(&mut broker));
    json!({"exec_to_first_call_ms": worker, "broker_ms": broker, "beyond_ms": worker - broker})
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
