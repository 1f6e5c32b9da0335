//! How long a command waits inside the worker at half load: from the broker's delivery to the call,
//! and from the answer to the acknowledgement. And how long one organisation's command waits behind
//! the backlog of another.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, interval, sleep};
use url::Url;

use crate::process::{Contestant, stop};
use crate::stub::{Calls, answer_all};
use crate::test_bed::{OutputFormat, TestBed};
use crate::wire::{Passed, between};
use testkit::rabbitmq::broker;

const LATENCY: Duration = Duration::from_millis(50);
const CONCURRENCY: usize = 64;
/// Half of 64 ÷ 50 ms.
const A_SECOND: u32 = 640;
const COMMANDS: usize = 6400;
const BACKLOG: usize = 5000;

/// Both measurements.
pub(crate) async fn measure() -> Value {
    let calls = Arc::new(Mutex::new(Calls::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bed = TestBed::new(0).await;
    bed.stub = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(answer_all(listener, LATENCY, 204, Arc::clone(&calls)));
    let passed = Arc::new(Mutex::new(Passed::default()));
    let direct = bed.url.clone();
    let (host, port) = broker().host_port();
    let proxy = between(format!("{host}:{port}"), Arc::clone(&passed)).await;
    let mut url = Url::parse(&direct).unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    bed.url = url.into();
    let worker = Contestant::worker().command(&bed, COMMANDS, CONCURRENCY).spawn().unwrap();
    warm_up(&bed).await;
    let half = half_load(&bed, &passed, &calls).await;
    let behind = behind_a_backlog(&bed, &calls).await;
    stop(worker);
    bed.end().await;
    json!({"half_load": half, "behind_a_backlog": behind})
}

async fn warm_up(bed: &TestBed) {
    for number in 0..500 {
        bed.publish("warm", number, OutputFormat::Contract { bytes: 0 }).await;
    }
    bed.each_has_one_end(500).await;
}

async fn half_load(bed: &TestBed, passed: &Mutex<Passed>, calls: &Mutex<Calls>) -> Value {
    let mut ticks = interval(Duration::from_secs(1) / A_SECOND);
    for number in 0..COMMANDS {
        ticks.tick().await;
        bed.publish("acme", number, OutputFormat::Contract { bytes: 0 }).await;
    }
    bed.each_has_one_end(COMMANDS).await;
    // The last acknowledgements come after their events.
    sleep(Duration::from_millis(200)).await;
    let (passed, calls) = (passed.lock().unwrap(), calls.lock().unwrap());
    assert_eq!(calls.number, calls.by_path.len(), "calls, and paths");
    let paths = || calls.by_path.iter().filter(|(path, _)| path.contains("/acme/"));
    let to_call = paths().map(|(path, call)| since(passed.delivered[path], call.came));
    let to_ack = paths().map(|(path, call)| since(call.answered, passed.acknowledged[path]));
    json!({"a_second": A_SECOND, "delivery_to_call_ms": quantiles(to_call.collect()), "answer_to_ack_ms": quantiles(to_ack.collect())})
}

/// All organisations share the queue: a command waits for all those before it.
async fn behind_a_backlog(bed: &TestBed, calls: &Mutex<Calls>) -> Value {
    for number in 0..BACKLOG {
        bed.publish("many", number, OutputFormat::Contract { bytes: 0 }).await;
    }
    let (given, path) = (SystemTime::now(), "/organizations/few/tasks/t0/delete");
    bed.publish("few", 0, OutputFormat::Contract { bytes: 0 }).await;
    let began = Instant::now();
    let came = loop {
        if let Some(call) = calls.lock().unwrap().by_path.get(path) {
            break call.came;
        }
        assert!(began.elapsed() < Duration::from_mins(1), "the one command is not called for");
        sleep(Duration::from_millis(5)).await;
    };
    bed.each_has_one_end(BACKLOG + 1).await;
    json!({"backlog": BACKLOG, "waited_ms": since(given, came)})
}

fn since(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
}

fn quantiles(mut all: Vec<f64>) -> Value {
    all.sort_by(f64::total_cmp);
    json!({"p50": all[all.len() / 2], "p99": all[all.len() * 99 / 100], "most": all[all.len() - 1]})
}

/// The report as text.
pub(crate) fn text(report: &Value) -> String {
    let half = &report["half_load"];
    let line = |what: &str, name: &str| {
        let of = |which: &str| half[name][which].as_f64().unwrap();
        format!(
            "{what}: p50 {:.2} ms, p99 {:.2} ms, most {:.1} ms",
            of("p50"),
            of("p99"),
            of("most")
        )
    };
    format!(
        "at half load ({A_SECOND} a second, API {} ms, concurrency {CONCURRENCY}):\n  {}\n  {}\none command behind {BACKLOG} of another organisation waited {:.0} ms",
        LATENCY.as_millis(),
        line("from delivery to the call", "delivery_to_call_ms"),
        line("from the answer to the acknowledgement", "answer_to_ack_ms"),
        report["behind_a_backlog"]["waited_ms"].as_f64().unwrap(),
    )
}
