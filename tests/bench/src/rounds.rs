//! The rounds: each fills the queue, starts a process, waits until all commands are done, and reads
//! the resources that the process has used.

use std::time::{Duration, Instant};

use comfy_table::Table;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::process::{Contestant, Usage, stop, usage};
use crate::test_bed::{COMMANDS, EVENTS, TestBed};
use testkit::rabbitmq::broker;

const PATIENCE: Duration = Duration::from_mins(5);
/// A peer in an interpreted language gets fewer commands, or it would take too long.
const FEWER: usize = 10;
/// A process that has used no CPU for this long has started.
const AT_REST: Duration = Duration::from_millis(500);

pub(crate) struct Plan {
    pub(crate) commands: usize,
    pub(crate) rounds: usize,
    pub(crate) concurrency: usize,
    pub(crate) latency_ms: u64,
    pub(crate) contestants: Vec<Contestant>,
}

#[derive(Clone)]
struct Figure {
    cpu_us: f64,
    a_second: f64,
    peak_mib: f64,
}

/// All figures, as JSON.
pub(crate) async fn measure(plan: &Plan) -> Value {
    let bed = TestBed::new(plan.latency_ms).await;
    let mut figures = vec![Vec::new(); plan.contestants.len()];
    for round in 1..=plan.rounds {
        for (contestant, figures) in plan.contestants.iter().zip(&mut figures) {
            let figure = one(contestant, plan, &bed).await;
            eprintln!("round {round}: {}: {:.1} µs a command", contestant.name(), figure.cpu_us);
            figures.push(figure);
        }
    }
    bed.end().await;
    let parts: Vec<Value> = plan
        .contestants
        .iter()
        .zip(&figures)
        .map(|(contestant, figures)| summary(&contestant.name(), figures))
        .collect();
    // One ratio per round, so that a slow period of the machine slows both sides.
    let of = |part: usize, n: usize| figures[part][n].cpu_us;
    let ratios = (0..plan.rounds).map(|n| of(2, n) / (of(0, n) + of(1, n)));
    let to_both = (0..plan.rounds).map(|n| of(2, n) / of(3, n));
    json!({"broker": broker().describe(), "machine": machine(), "commands": plan.commands, "rounds": plan.rounds,
        "concurrency": plan.concurrency, "latency_ms": plan.latency_ms, "parts": parts,
        "worker_to_floor": spread(ratios.collect()), "worker_to_both_in_one": spread(to_both.collect())})
}

/// Measures one process from its start until the last command is done. The start of a peer is left
/// out.
async fn one(contestant: &Contestant, plan: &Plan, bed: &TestBed) -> Figure {
    let is_peer = matches!(contestant, Contestant::Peer(_));
    let commands = if contestant.is_slow() { plan.commands / FEWER } else { plan.commands };
    let before = if is_peer { start_up(contestant, plan, bed).await } else { Usage::default() };
    if contestant.consumes() {
        bed.fill("acme", 0..commands, contestant.form()).await;
    }
    let began = Instant::now();
    let mut child = contestant.command(bed, commands, plan.concurrency).spawn().unwrap();
    let mut used = None;
    loop {
        let is_done = if contestant.is_floor() {
            child.try_wait().unwrap().is_some()
        } else {
            bed.depth(EVENTS).await >= commands
        };
        if is_done {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{} is not done", contestant.name());
        used = usage(&child).or(used);
        sleep(Duration::from_millis(10)).await;
    }
    let took = began.elapsed();
    let used = usage(&child).or(used).unwrap();
    stop(child);
    let a_second = nothing_lost_or_repeated(contestant, commands, bed).await;
    Figure {
        cpu_us: (used.cpu_us - before.cpu_us) / number(commands),
        a_second: a_second.unwrap_or(number(commands) / took.as_secs_f64()),
        peak_mib: used.peak_mib,
    }
}

pub(crate) fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// The resources that a peer uses before it has any command.
async fn start_up(peer: &Contestant, plan: &Plan, bed: &TestBed) -> Usage {
    let child = peer.command(bed, 0, plan.concurrency).spawn().unwrap();
    let (began, mut since, mut used) = (Instant::now(), Instant::now(), Usage::default());
    while bed.consumers(COMMANDS).await == 0 || since.elapsed() < AT_REST {
        assert!(began.elapsed() < PATIENCE, "{} does not consume", peer.name());
        let now = usage(&child).expect("a peer that ended before its work");
        if now.cpu_us > used.cpu_us {
            (used, since) = (now, Instant::now());
        }
        sleep(Duration::from_millis(10)).await;
    }
    stop(child);
    used
}

/// Returns the calls per second, if there were calls.
async fn nothing_lost_or_repeated(
    contestant: &Contestant,
    commands: usize,
    bed: &TestBed,
) -> Option<f64> {
    let calls = bed.calls().await;
    if contestant.calls() {
        let seen = (&calls["calls"], &calls["paths"]);
        assert_eq!(
            seen,
            (&commands.into(), &commands.into()),
            "{}: calls, and paths",
            contestant.name()
        );
    }
    if contestant.consumes() {
        bed.each_has_one_end(commands).await;
    }
    calls["a_second"].as_f64()
}

fn summary(part: &str, figures: &[Figure]) -> Value {
    let of = |pick: fn(&Figure) -> f64| spread(figures.iter().map(pick).collect());
    json!({"part": part, "cpu_us": of(|f| f.cpu_us), "a_second": of(|f| f.a_second), "peak_mib": of(|f| f.peak_mib)})
}

pub(crate) fn spread(mut all: Vec<f64>) -> Value {
    all.sort_by(f64::total_cmp);
    json!({"median": all[all.len() / 2], "least": all[0], "most": all[all.len() - 1]})
}

pub(crate) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |m| m.1);
    format!("{} × {model}", std::thread::available_parallelism().map_or(0, usize::from))
}

/// The report as a table.
pub(crate) fn table(report: &Value) -> String {
    let mut table = Table::new();
    table.set_header(["", "CPU µs a command", "spread", "a second", "peak MiB"]);
    for part in report["parts"].as_array().unwrap() {
        let figure = |name: &str, which: &str| part[name][which].as_f64().unwrap();
        table.add_row([
            part["part"].as_str().unwrap().to_owned(),
            format!("{:.1}", figure("cpu_us", "median")),
            format!("{:.1} – {:.1}", figure("cpu_us", "least"), figure("cpu_us", "most")),
            format!("{:.0}", figure("a_second", "median")),
            format!("{:.0}", figure("peak_mib", "most")),
        ]);
    }
    let ratio = |name: &str| {
        let of = |which: &str| report[name][which].as_f64().unwrap();
        format!("{:.2} ({:.2} – {:.2})", of("median"), of("least"), of("most"))
    };
    format!(
        "{table}\nworker ÷ floor (the sum of both, round by round): {}\nworker ÷ both in one program: {}\n{} commands, {} rounds, concurrency {}, API {} ms; {}; {}",
        ratio("worker_to_floor"),
        ratio("worker_to_both_in_one"),
        report["commands"],
        report["rounds"],
        report["concurrency"],
        report["latency_ms"],
        report["broker"].as_str().unwrap(),
        report["machine"].as_str().unwrap(),
    )
}
